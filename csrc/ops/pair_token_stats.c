/* pair_token_stats: checks, splits rows over threads, folds two rows together, writes their statistics. */
#include <math.h>
#include <string.h>

#include "../isa/isa_list.h"
#include "checks.h"

typedef struct job {
    pfo_walk policy, ref, labels, outputs[PFO_PAIR_OUTPUTS];
    int32_t output_dtypes[PFO_PAIR_OUTPUTS]; /* PFO_NONE: not wanted */
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

static void write_outputs(const job *j, int64_t row, const double values[PFO_PAIR_OUTPUTS])
{
    for (int k = 0; k < PFO_PAIR_OUTPUTS; k++) {
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
    const double values[PFO_PAIR_OUTPUTS] = {
        [PFO_PAIR_POLICY_LOGPS] = logps[PFO_PAIR_POLICY],   [PFO_PAIR_REF_LOGPS] = logps[PFO_PAIR_REF],
        [PFO_PAIR_POLICY_LSE] = stats.lse[PFO_PAIR_POLICY], [PFO_PAIR_REF_LSE] = stats.lse[PFO_PAIR_REF],
        [PFO_PAIR_REF_POLICY_KL] = stats.ref_policy_kl,     [PFO_PAIR_POLICY_REF_KL] = stats.policy_ref_kl,
        [PFO_PAIR_PLUS_LOGPS] = logps[PFO_PAIR_PLUS],       [PFO_PAIR_MINUS_LOGPS] = logps[PFO_PAIR_MINUS],
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

pfo_status pfo_pair_token_stats(const pfo_pair_token_stats_args *args, pfo_error *error)
{
    pfo_clear(error);
    const int64_t vocab = args->policy_logits.ndim > 0 ? args->policy_logits.shape[args->policy_logits.ndim - 1] : 0;
    const pfo_view *outputs[PFO_PAIR_OUTPUTS];
    int64_t live;
    pfo_status status = pfo_check_pair_token_stats(args, error);
    if (status == PFO_OK) status = pfo_check_label_values(&args->labels, vocab, args->ignore_index, &live, error);
    if (status != PFO_OK) return status;
    pfo_pair_outputs(args, outputs);
    job j;
    j.kernels = pfo_kernels_now(error);
    if (!j.kernels) return PFO_ERROR_ISA;
    j.policy = pfo_walk_leading(&args->policy_logits, 1);
    j.ref = pfo_walk_leading(&args->ref_logits, 1);
    j.labels = pfo_walk_leading(&args->labels, 0);
    j.logits_dtype = args->policy_logits.dtype;
    j.label_dtype = args->labels.dtype;
    j.logit_index = pfo_logit_index_of(j.logits_dtype);
    j.vocab = vocab;
    j.ignore_index = args->ignore_index;
    j.element_size = pfo_dtype_size(j.logits_dtype);
    const pfo_fpenv saved = pfo_fpenv_enter();
    j.inv_temperature = 1.0 / args->temperature;
    pfo_fpenv_leave(saved);
    j.perturbation = pfo_present(&args->plus_logps) || pfo_present(&args->minus_logps) ? args->perturbation : 0.0;
    for (int k = 0; k < PFO_PAIR_OUTPUTS; k++) {
        j.output_dtypes[k] = outputs[k]->dtype;
        if (pfo_present(outputs[k])) j.outputs[k] = pfo_walk_leading(outputs[k], 0);
    }
    const int64_t grain = 32768 / j.vocab;
    pfo_parallel_for(pfo_leading_size(&args->labels, 0), grain < 1 ? 1 : grain, 2.0 * (double)live * (double)j.vocab,
                     rows_body, &j);
    return PFO_OK;
}
