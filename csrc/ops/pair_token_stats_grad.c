/* pair_token_stats_grad: d loss / d policy logits from the gradients of logps and the two divergences, row by row. */
#include <math.h>
#include <string.h>

#include "../core/row_state.h"
#include "../isa/isa_list.h"
#include "views.h"

/* The [...] inputs in the order of the arguments. */
enum {
    POLICY_LSE,
    REF_LSE,
    POLICY_REF_KL,
    GRAD_POLICY_LOGPS,
    GRAD_REF_POLICY_KL,
    GRAD_POLICY_REF_KL,
    VECTOR_COUNT
};
static const char *const vector_names[VECTOR_COUNT] = {
    "policy_lse", "ref_lse", "policy_ref_kl", "grad_policy_logps", "grad_ref_policy_kl", "grad_policy_ref_kl"};

typedef struct job {
    pfo_walk policy, ref, labels, out, vectors[VECTOR_COUNT];
    int32_t vector_dtypes[VECTOR_COUNT]; /* PFO_NONE: absent, reads as 0 */
    int32_t logits_dtype, label_dtype;
    int logit_index;
    int64_t vocab, ignore_index, element_size;
    double temperature;
    const pfo_kernels *kernels;
} job;

pfo_pair_token_stats_grad_args pfo_pair_token_stats_grad_args_default(void)
{
    pfo_pair_token_stats_grad_args args;
    memset(&args, 0, sizeof args);
    args.ignore_index = -100;
    args.temperature = 1.0;
    return args;
}

static double vector_at(const job *j, int which, int64_t row)
{
    if (j->vector_dtypes[which] == PFO_NONE) return 0.0;
    return pfo_read_float(pfo_walk_at(&j->vectors[which], row), j->vector_dtypes[which]);
}

static void grad_one(const job *j, int64_t row, int64_t label)
{
    const char *policy = pfo_walk_at(&j->policy, row), *ref = pfo_walk_at(&j->ref, row);
    char *out = pfo_walk_at(&j->out, row);
    const double grad_logps = vector_at(j, GRAD_POLICY_LOGPS, row);
    const double grad_ref_kl = vector_at(j, GRAD_REF_POLICY_KL, row);
    const double grad_policy_kl = vector_at(j, GRAD_POLICY_REF_KL, row);
    pfo_grad_pair g = {.policy_lse = vector_at(j, POLICY_LSE, row), .ref_lse = vector_at(j, REF_LSE, row)};
    if (!isfinite(g.policy_lse) || !isfinite(g.ref_lse)) {
        for (int64_t v = 0; v < j->vocab; v++) pfo_write_float(out + v * j->element_size, j->logits_dtype, (double)NAN);
        return;
    }
    /* In place, the label's logits are gone after the kernel: read them first. */
    const double log_p =
        pfo_read_float(policy + label * j->element_size, j->logits_dtype) / j->temperature - g.policy_lse;
    const double log_r = pfo_read_float(ref + label * j->element_size, j->logits_dtype) / j->temperature - g.ref_lse;
    /* A divergence of inf must not poison a row whose gradient for it is 0. */
    const double kl_term = grad_policy_kl == 0.0 ? 0.0 : grad_policy_kl * vector_at(j, POLICY_REF_KL, row);
    g.temperature = j->temperature;
    g.a = (grad_ref_kl - grad_logps - kl_term) / j->temperature;
    g.b = -grad_ref_kl / j->temperature;
    g.c = grad_policy_kl / j->temperature;
    j->kernels->grad_pair[j->logit_index](policy, ref, out, j->vocab, &g);
    /* The label's entry again in double, as its terms cancel where p is near 1. */
    const double p = pfo_exp_f64(log_p);
    const double slope = p == 0.0 ? 0.0 : p * (g.a + (g.c == 0.0 ? 0.0 : g.c * (log_p - log_r)));
    pfo_write_float(out + label * j->element_size, j->logits_dtype,
                    slope + g.b * pfo_exp_f64(log_r) + grad_logps / j->temperature);
}

static void rows_body(void *context, int64_t begin, int64_t end)
{
    const job *j = (const job *)context;
    for (int64_t row = begin; row < end; row++) {
        int fits;
        const int64_t label = pfo_read_int(pfo_walk_at(&j->labels, row), j->label_dtype, &fits);
        if (label == j->ignore_index)
            memset(pfo_walk_at(&j->out, row), 0, (size_t)(j->vocab * j->element_size));
        else
            grad_one(j, row, label);
    }
}

static pfo_status check_vectors(const pfo_pair_token_stats_grad_args *args, const pfo_view *vectors[], pfo_error *error)
{
    pfo_status status = PFO_OK;
    for (int k = 0; status == PFO_OK && k < VECTOR_COUNT; k++) {
        if (!pfo_present(vectors[k]) && k != POLICY_LSE && k != REF_LSE) continue;
        status = pfo_check_array(vectors[k], vector_names[k], PFO_SET_FLOAT, error);
        if (status == PFO_OK)
            status = pfo_check_leading(vectors[k], vector_names[k], &args->policy_logits, 1, "policy_logits", error);
    }
    if (status != PFO_OK) return status;
    if (!pfo_present(&args->grad_policy_logps) && !pfo_present(&args->grad_ref_policy_kl) &&
        !pfo_present(&args->grad_policy_ref_kl))
        return pfo_fail(
            error, PFO_ERROR_MISSING, "grad_policy_logps", -1,
            "expected at least one of grad_policy_logps, grad_ref_policy_kl and grad_policy_ref_kl, got none");
    if (pfo_present(&args->grad_policy_ref_kl) && !pfo_present(&args->policy_ref_kl))
        return pfo_fail(error, PFO_ERROR_MISSING, "policy_ref_kl", -1,
                        "expected the forward's policy_ref_kl with grad_policy_ref_kl, got none");
    return PFO_OK;
}

static pfo_status check_out(const pfo_pair_token_stats_grad_args *args, const pfo_view *vectors[], pfo_error *error)
{
    const pfo_view *out = &args->out, *policy = &args->policy_logits, *ref = &args->ref_logits;
    pfo_status status = pfo_check_logits(out, "out", error);
    if (status == PFO_OK) status = pfo_check_dtype_is(out, "out", policy->dtype, error);
    if (status == PFO_OK) status = pfo_check_leading(out, "out", policy, 0, "policy_logits", error);
    if (status == PFO_OK) status = pfo_check_writable_strides(out, "out", error);
    if (status == PFO_OK && !pfo_same_view(out, policy))
        status = pfo_check_disjoint(out, "out", policy, "policy_logits", error);
    if (status == PFO_OK && !pfo_same_view(out, ref)) status = pfo_check_disjoint(out, "out", ref, "ref_logits", error);
    if (status == PFO_OK) status = pfo_check_disjoint(out, "out", &args->labels, "labels", error);
    for (int k = 0; status == PFO_OK && k < VECTOR_COUNT; k++)
        status = pfo_check_disjoint(out, "out", vectors[k], vector_names[k], error);
    return status;
}

pfo_status pfo_pair_token_stats_grad(const pfo_pair_token_stats_grad_args *args, pfo_error *error)
{
    pfo_clear(error);
    const pfo_view *vectors[VECTOR_COUNT] = {&args->policy_lse,         &args->ref_lse,
                                             &args->policy_ref_kl,      &args->grad_policy_logps,
                                             &args->grad_ref_policy_kl, &args->grad_policy_ref_kl};
    int64_t live;
    pfo_status status = pfo_check_temperature(args->temperature, error);
    if (status == PFO_OK)
        status = pfo_check_pair_logits(&args->policy_logits, &args->ref_logits, &args->labels, args->ignore_index,
                                       &live, error);
    if (status == PFO_OK) status = check_vectors(args, vectors, error);
    if (status == PFO_OK) status = check_out(args, vectors, error);
    if (status != PFO_OK) return status;
    job j;
    j.kernels = pfo_kernels_now(error);
    if (!j.kernels) return PFO_ERROR_ISA;
    j.policy = pfo_walk_leading(&args->policy_logits, 1);
    j.ref = pfo_walk_leading(&args->ref_logits, 1);
    j.labels = pfo_walk_leading(&args->labels, 0);
    j.out = pfo_walk_leading(&args->out, 1);
    for (int k = 0; k < VECTOR_COUNT; k++) {
        j.vector_dtypes[k] = vectors[k]->dtype;
        if (pfo_present(vectors[k])) j.vectors[k] = pfo_walk_leading(vectors[k], 0);
    }
    j.logits_dtype = args->policy_logits.dtype;
    j.label_dtype = args->labels.dtype;
    j.logit_index = pfo_logit_index_of(j.logits_dtype);
    j.vocab = args->policy_logits.shape[args->policy_logits.ndim - 1];
    j.ignore_index = args->ignore_index;
    j.element_size = pfo_dtype_size(j.logits_dtype);
    j.temperature = args->temperature;
    const int64_t rows = pfo_leading_size(&args->labels, 0), grain = 32768 / j.vocab;
    pfo_parallel_for(rows, grain < 1 ? 1 : grain, 2.0 * (double)rows * (double)j.vocab, rows_body, &j);
    return PFO_OK;
}
