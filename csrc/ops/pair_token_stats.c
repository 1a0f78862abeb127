/* pair_token_stats: checks, splits rows over threads, folds two rows together, writes their statistics. */
#include <math.h>
#include <string.h>

#include "../isa/isa_list.h"
#include "views.h"

/* The outputs in the order of the arguments. */
enum {
    POLICY_LOGPS,
    REF_LOGPS,
    POLICY_LSE,
    REF_LSE,
    REF_POLICY_KL,
    POLICY_REF_KL,
    PLUS_LOGPS,
    MINUS_LOGPS,
    OUTPUT_COUNT
};
static const char *const output_names[OUTPUT_COUNT] = {"policy_logps",  "ref_logps",     "policy_lse", "ref_lse",
                                                       "ref_policy_kl", "policy_ref_kl", "plus_logps", "minus_logps"};

typedef struct job {
    pfo_walk policy, ref, labels, outputs[OUTPUT_COUNT];
    int32_t output_dtypes[OUTPUT_COUNT]; /* PFO_NONE: not wanted */
    int32_t logits_dtype, label_dtype;
    int logit_index;
    int64_t vocab, ignore_index, element_size;
    double inv_temperature, perturbation; /* perturbation 0: no perturbed rows */
    const pfo_kernels *kernels;
} job;

pfo_pair_token_stats_args pfo_pair_token_stats_args_default(void)
{
    pfo_pair_token_stats_args args;
    memset(&args, 0, sizeof args);
    args.ignore_index = -100;
    args.temperature = 1.0;
    args.perturbation = 0.01;
    return args;
}

static void write_outputs(const job *j, int64_t row, const double values[OUTPUT_COUNT])
{
    for (int k = 0; k < OUTPUT_COUNT; k++) {
        if (j->output_dtypes[k] == PFO_NONE) continue;
        pfo_write_float(pfo_walk_at(&j->outputs[k], row), j->output_dtypes[k], values ? values[k] : 0.0);
    }
}

/* x + eps (x - y) with the kernel's rounding, so that the label's entry is the one that the sums hold. */
static double perturbed_logit(const job *j, double x, double y, double eps)
{
    if (isinf(x) && x < 0) return x;
    if (j->logits_dtype == PFO_F64) return fma(eps, x - y, x);
    return (double)fmaf((float)eps, (float)x - (float)y, (float)x);
}

static void one_row(const job *j, int64_t row, int64_t label)
{
    const char *policy = pfo_walk_at(&j->policy, row), *ref = pfo_walk_at(&j->ref, row);
    pfo_pair_state state;
    pfo_pair_stats stats;
    j->kernels->fold_pair[j->logit_index](policy, ref, j->vocab, j->inv_temperature, j->perturbation, &state);
    pfo_pair_state_finish(&state, &stats);
    const double x = pfo_read_float(policy + label * j->element_size, j->logits_dtype);
    const double y = pfo_read_float(ref + label * j->element_size, j->logits_dtype);
    const double target[PFO_PAIR_ROWS] = {x, y, perturbed_logit(j, x, y, j->perturbation),
                                          perturbed_logit(j, x, y, -j->perturbation)};
    double logps[PFO_PAIR_ROWS];
    for (int k = 0; k < PFO_PAIR_ROWS; k++)
        logps[k] = (target[k] * j->inv_temperature - state.max[k]) - stats.log_sum[k];
    const double values[OUTPUT_COUNT] = {
        [POLICY_LOGPS] = logps[PFO_PAIR_POLICY],   [REF_LOGPS] = logps[PFO_PAIR_REF],
        [POLICY_LSE] = stats.lse[PFO_PAIR_POLICY], [REF_LSE] = stats.lse[PFO_PAIR_REF],
        [REF_POLICY_KL] = stats.ref_policy_kl,     [POLICY_REF_KL] = stats.policy_ref_kl,
        [PLUS_LOGPS] = logps[PFO_PAIR_PLUS],       [MINUS_LOGPS] = logps[PFO_PAIR_MINUS],
    };
    write_outputs(j, row, values);
}

static void rows_body(void *context, int64_t begin, int64_t end)
{
    const job *j = (const job *)context;
    for (int64_t row = begin; row < end; row++) {
        int fits;
        const int64_t label = pfo_read_int(pfo_walk_at(&j->labels, row), j->label_dtype, &fits);
        if (label == j->ignore_index)
            write_outputs(j, row, NULL);
        else
            one_row(j, row, label);
    }
}

static pfo_status check_outputs(const pfo_pair_token_stats_args *args, const pfo_view *outputs[], pfo_error *error)
{
    const int32_t result = args->policy_logits.dtype == PFO_F64 ? PFO_F64 : PFO_F32;
    const pfo_view *inputs[] = {&args->policy_logits, &args->ref_logits, &args->labels};
    static const char *const input_names[] = {"policy_logits", "ref_logits", "labels"};
    for (int k = 0; k < OUTPUT_COUNT; k++) {
        if (!pfo_present(outputs[k])) continue;
        const char *name = output_names[k];
        pfo_status status = pfo_check_array(outputs[k], name, PFO_SET_FLOAT, error);
        const int wide_lse = (k == POLICY_LSE || k == REF_LSE) && outputs[k]->dtype == PFO_F64;
        if (status == PFO_OK && !wide_lse) status = pfo_check_dtype_is(outputs[k], name, result, error);
        if (status == PFO_OK)
            status = pfo_check_leading(outputs[k], name, &args->policy_logits, 1, "policy_logits", error);
        if (status == PFO_OK) status = pfo_check_writable_strides(outputs[k], name, error);
        for (int other = 0; status == PFO_OK && other < 3; other++)
            status = pfo_check_disjoint(outputs[k], name, inputs[other], input_names[other], error);
        for (int other = 0; status == PFO_OK && other < k; other++)
            status = pfo_check_disjoint(outputs[k], name, outputs[other], output_names[other], error);
        if (status != PFO_OK) return status;
    }
    return PFO_OK;
}

pfo_status pfo_check_pair_logits(const pfo_view *policy, const pfo_view *ref, const pfo_view *labels,
                                 int64_t ignore_index, int64_t *live, pfo_error *error)
{
    pfo_status status = pfo_check_logits(policy, "policy_logits", error);
    if (status == PFO_OK) status = pfo_check_logits(ref, "ref_logits", error);
    if (status == PFO_OK) status = pfo_check_dtype_is(ref, "ref_logits", policy->dtype, error);
    if (status == PFO_OK) status = pfo_check_leading(ref, "ref_logits", policy, 0, "policy_logits", error);
    if (status == PFO_OK) status = pfo_check_labels(labels, policy, "policy_logits", ignore_index, live, error);
    return status;
}

static pfo_status check(const pfo_pair_token_stats_args *args, const pfo_view *outputs[], int64_t *live,
                        pfo_error *error)
{
    pfo_status status = pfo_check_temperature(args->temperature, error);
    if (status == PFO_OK && !(args->perturbation > 0.0 && args->perturbation < 1.0)) /* false for NaN */
        status = pfo_fail(error, PFO_ERROR_VALUE, "perturbation", -1, "expected a number in (0, 1), got %g",
                          args->perturbation);
    if (status == PFO_OK)
        status = pfo_check_pair_logits(&args->policy_logits, &args->ref_logits, &args->labels, args->ignore_index, live,
                                       error);
    if (status == PFO_OK) status = check_outputs(args, outputs, error);
    return status;
}

pfo_status pfo_pair_token_stats(const pfo_pair_token_stats_args *args, pfo_error *error)
{
    pfo_clear(error);
    const pfo_view *outputs[OUTPUT_COUNT] = {&args->policy_logps, &args->ref_logps,     &args->policy_lse,
                                             &args->ref_lse,      &args->ref_policy_kl, &args->policy_ref_kl,
                                             &args->plus_logps,   &args->minus_logps};
    int64_t live;
    pfo_status status = check(args, outputs, &live, error);
    if (status != PFO_OK) return status;
    job j;
    j.kernels = pfo_kernels_now(error);
    if (!j.kernels) return PFO_ERROR_ISA;
    j.policy = pfo_walk_leading(&args->policy_logits, 1);
    j.ref = pfo_walk_leading(&args->ref_logits, 1);
    j.labels = pfo_walk_leading(&args->labels, 0);
    j.logits_dtype = args->policy_logits.dtype;
    j.label_dtype = args->labels.dtype;
    j.logit_index = pfo_logit_index_of(j.logits_dtype);
    j.vocab = args->policy_logits.shape[args->policy_logits.ndim - 1];
    j.ignore_index = args->ignore_index;
    j.element_size = pfo_dtype_size(j.logits_dtype);
    const pfo_fpenv saved = pfo_fpenv_enter();
    j.inv_temperature = 1.0 / args->temperature;
    pfo_fpenv_leave(saved);
    j.perturbation = pfo_present(&args->plus_logps) || pfo_present(&args->minus_logps) ? args->perturbation : 0.0;
    for (int k = 0; k < OUTPUT_COUNT; k++) {
        j.output_dtypes[k] = outputs[k]->dtype;
        if (pfo_present(outputs[k])) j.outputs[k] = pfo_walk_leading(outputs[k], 0);
    }
    const int64_t grain = 32768 / j.vocab;
    pfo_parallel_for(pfo_leading_size(&args->labels, 0), grain < 1 ? 1 : grain, 2.0 * (double)live * (double)j.vocab,
                     rows_body, &j);
    return PFO_OK;
}
