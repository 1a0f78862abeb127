/* pair_token_stats_grad: d loss / d policy logits from the gradients of logps and the two divergences, row by row. */
#include <math.h>
#include <string.h>

#include "../core/row_state.h"
#include "../isa/isa_list.h"
#include "checks.h"

typedef struct job {
    pfo_walk policy, ref, labels, out, vectors[PFO_PAIR_GRAD_VECTORS];
    int32_t vector_dtypes[PFO_PAIR_GRAD_VECTORS]; /* PFO_NONE: absent, reads as 0 */
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
    const double grad_logps = vector_at(j, PFO_PAIR_GRAD_OF_POLICY_LOGPS, row);
    const double grad_ref_kl = vector_at(j, PFO_PAIR_GRAD_OF_REF_POLICY_KL, row);
    const double grad_policy_kl = vector_at(j, PFO_PAIR_GRAD_OF_POLICY_REF_KL, row);
    pfo_grad_pair g = {.policy_lse = vector_at(j, PFO_PAIR_GRAD_BY_POLICY_LSE, row),
                       .ref_lse = vector_at(j, PFO_PAIR_GRAD_BY_REF_LSE, row)};
    if (!isfinite(g.policy_lse) || !isfinite(g.ref_lse)) {
        for (int64_t v = 0; v < j->vocab; v++) pfo_write_float(out + v * j->element_size, j->logits_dtype, (double)NAN);
        return;
    }
    /* In place, the label's logits are gone after the kernel: read them first. */
    const double log_p =
        pfo_read_float(policy + label * j->element_size, j->logits_dtype) / j->temperature - g.policy_lse;
    const double log_r = pfo_read_float(ref + label * j->element_size, j->logits_dtype) / j->temperature - g.ref_lse;
    /* A divergence of inf must not poison a row whose gradient for it is 0. */
    const double kl_term =
        grad_policy_kl == 0.0 ? 0.0 : grad_policy_kl * vector_at(j, PFO_PAIR_GRAD_BY_POLICY_REF_KL, row);
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

pfo_status pfo_pair_token_stats_grad(const pfo_pair_token_stats_grad_args *args, pfo_error *error)
{
    pfo_clear(error);
    const int64_t vocab = args->policy_logits.ndim > 0 ? args->policy_logits.shape[args->policy_logits.ndim - 1] : 0;
    const pfo_view *vectors[PFO_PAIR_GRAD_VECTORS];
    int64_t live;
    pfo_status status = pfo_check_pair_token_stats_grad(args, error);
    if (status == PFO_OK) status = pfo_check_label_values(&args->labels, vocab, args->ignore_index, &live, error);
    if (status != PFO_OK) return status;
    pfo_pair_grad_vectors(args, vectors);
    job j;
    j.kernels = pfo_kernels_now(error);
    if (!j.kernels) return PFO_ERROR_ISA;
    j.policy = pfo_walk_leading(&args->policy_logits, 1);
    j.ref = pfo_walk_leading(&args->ref_logits, 1);
    j.labels = pfo_walk_leading(&args->labels, 0);
    j.out = pfo_walk_leading(&args->out, 1);
    for (int k = 0; k < PFO_PAIR_GRAD_VECTORS; k++) {
        j.vector_dtypes[k] = vectors[k]->dtype;
        if (pfo_present(vectors[k])) j.vectors[k] = pfo_walk_leading(vectors[k], 0);
    }
    j.logits_dtype = args->policy_logits.dtype;
    j.label_dtype = args->labels.dtype;
    j.logit_index = pfo_logit_index_of(j.logits_dtype);
    j.vocab = vocab;
    j.ignore_index = args->ignore_index;
    j.element_size = pfo_dtype_size(j.logits_dtype);
    j.temperature = args->temperature;
    const int64_t rows = pfo_leading_size(&args->labels, 0), grain = 32768 / j.vocab;
    pfo_parallel_for(rows, grain < 1 ? 1 : grain, 2.0 * (double)rows * (double)j.vocab, rows_body, &j);
    return PFO_OK;
}
