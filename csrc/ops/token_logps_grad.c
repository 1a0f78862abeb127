/* token_logps_grad: d loss / d logits from the gradients of logps, entropy and lse, row by row. */
#include <math.h>
#include <string.h>

#include "../core/dtype.h"
#include "../core/row_state.h"
#include "../isa/isa_list.h"
#include "views.h"

/* The [...] inputs, in the order of the arguments below. */
enum {
    LSE,
    LOGPS,
    ENTROPY,
    GRAD_LOGPS,
    GRAD_ENTROPY,
    GRAD_LSE,
    VECTOR_COUNT
};
static const char *const vector_names[VECTOR_COUNT] = {"lse",        "logps",        "entropy",
                                                       "grad_logps", "grad_entropy", "grad_lse"};

typedef struct job {
    pfo_walk logits, labels, out, vectors[VECTOR_COUNT];
    int32_t vector_dtypes[VECTOR_COUNT]; /* PFO_NONE: absent, reads as 0 */
    int32_t logits_dtype, label_dtype;
    int logit_index;
    int64_t vocab, ignore_index, element_size;
    double temperature;
    const pfo_kernels *kernels;
} job;

pfo_token_logps_grad_args pfo_token_logps_grad_args_default(void)
{
    pfo_token_logps_grad_args args;
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

/* lse of the row as a sum of two doubles, and the label's log p.  logits[label] / temperature - logps is the same
 * number and taken where it is more exact (see prefopt.h); for float64 logits its last bits go into the rest. */
static double best_lse(const job *j, int64_t row, double logit, pfo_grad_row *coefficients)
{
    const double target = logit / j->temperature;
    const double lse = vector_at(j, LSE, row), logp = vector_at(j, LOGPS, row);
    const int wide_lse = j->vector_dtypes[LSE] == PFO_F64 && j->logits_dtype != PFO_F64;
    coefficients->lse = lse;
    coefficients->lse_rest = 0.0;
    if (j->vector_dtypes[LOGPS] == PFO_NONE || wide_lse || !(fabs(logp) < fabs(lse)) || !isfinite(target))
        return target - lse;
    /* The quotient's and the difference's rounding errors, exact: Dekker's and Knuth's two-term forms. */
    const double target_rest = fma(-target, j->temperature, logit) / j->temperature;
    const double sum = target - logp, back = sum - target;
    coefficients->lse = sum;
    coefficients->lse_rest = (target - (sum - back)) - (logp + back) + target_rest;
    return logp;
}

static void fill_nan(const job *j, char *out)
{
    for (int64_t v = 0; v < j->vocab; v++) pfo_write_float(out + v * j->element_size, j->logits_dtype, (double)NAN);
}

static void grad_one(const job *j, int64_t row, int64_t label)
{
    const char *logits = pfo_walk_at(&j->logits, row);
    char *out = pfo_walk_at(&j->out, row);
    /* In place, the target's logit is gone after the kernel: read it first. */
    const double logit = pfo_read_float(logits + label * j->element_size, j->logits_dtype);
    pfo_grad_row row_coefficients;
    const double log_p = best_lse(j, row, logit, &row_coefficients);
    const double grad_logps = vector_at(j, GRAD_LOGPS, row), grad_entropy = vector_at(j, GRAD_ENTROPY, row);
    if (!isfinite(row_coefficients.lse)) {
        fill_nan(j, out);
        return;
    }
    row_coefficients.temperature = j->temperature;
    /* The entropy term only where it is asked for: an entropy of NaN must not poison a row whose grad_entropy is 0. */
    double entropy_term = grad_entropy == 0.0 ? 0.0 : grad_entropy * vector_at(j, ENTROPY, row);
    row_coefficients.a = (vector_at(j, GRAD_LSE, row) - grad_logps - entropy_term) / j->temperature;
    row_coefficients.b = -grad_entropy / j->temperature;
    j->kernels->grad_row[j->logit_index](logits, out, j->vocab, &row_coefficients);
    /* The label's entry again in double: p (a + b log p) + grad_logps / T cancels where p is near 1. */
    double p = pfo_exp_f64(log_p);
    double slope = p == 0.0 ? 0.0 : p * (row_coefficients.a + row_coefficients.b * log_p);
    pfo_write_float(out + label * j->element_size, j->logits_dtype, slope + grad_logps / j->temperature);
}

static void rows_body(void *context, int64_t begin, int64_t end)
{
    const job *j = (const job *)context;
    for (int64_t row = begin; row < end; row++) {
        int fits;
        int64_t label = pfo_read_int(pfo_walk_at(&j->labels, row), j->label_dtype, &fits);
        if (label == j->ignore_index)
            memset(pfo_walk_at(&j->out, row), 0, (size_t)(j->vocab * j->element_size));
        else
            grad_one(j, row, label);
    }
}

static pfo_status check_out(const pfo_token_logps_grad_args *args, const pfo_view *vectors[], pfo_error *error)
{
    const pfo_view *out = &args->out, *logits = &args->logits;
    pfo_status status = pfo_check_logits(out, "out", error);
    if (status == PFO_OK) status = pfo_check_dtype_is(out, "out", logits->dtype, error);
    if (status == PFO_OK) status = pfo_check_leading(out, "out", logits, 0, "logits", error);
    if (status == PFO_OK) status = pfo_check_writable_strides(out, "out", error);
    if (status == PFO_OK && !pfo_same_view(out, logits))
        status = pfo_check_disjoint(out, "out", logits, "logits", error);
    if (status == PFO_OK) status = pfo_check_disjoint(out, "out", &args->labels, "labels", error);
    for (int k = 0; status == PFO_OK && k < VECTOR_COUNT; k++)
        status = pfo_check_disjoint(out, "out", vectors[k], vector_names[k], error);
    return status;
}

static pfo_status check_vectors(const pfo_token_logps_grad_args *args, const pfo_view *vectors[], pfo_error *error)
{
    pfo_status status = PFO_OK;
    for (int k = 0; status == PFO_OK && k < VECTOR_COUNT; k++) {
        if (!pfo_present(vectors[k]) && k != LSE) continue;
        status = pfo_check_array(vectors[k], vector_names[k], PFO_SET_FLOAT, error);
        if (status == PFO_OK)
            status = pfo_check_leading(vectors[k], vector_names[k], &args->logits, 1, "logits", error);
    }
    if (status != PFO_OK) return status;
    if (!pfo_present(&args->grad_logps) && !pfo_present(&args->grad_entropy) && !pfo_present(&args->grad_lse))
        return pfo_fail(error, PFO_ERROR_MISSING, "grad_logps", -1,
                        "expected at least one of grad_logps, grad_entropy and grad_lse, got none");
    if (pfo_present(&args->grad_entropy) && !pfo_present(&args->entropy))
        return pfo_fail(error, PFO_ERROR_MISSING, "entropy", -1,
                        "expected the forward's entropy with grad_entropy, got none");
    return PFO_OK;
}

pfo_status pfo_token_logps_grad(const pfo_token_logps_grad_args *args, pfo_error *error)
{
    pfo_clear(error);
    const pfo_view *vectors[VECTOR_COUNT] = {&args->lse,        &args->logps,        &args->entropy,
                                             &args->grad_logps, &args->grad_entropy, &args->grad_lse};
    int64_t live;
    pfo_status status = pfo_check_temperature(args->temperature, error);
    if (status == PFO_OK) status = pfo_check_logits(&args->logits, "logits", error);
    if (status == PFO_OK)
        status = pfo_check_labels(&args->labels, &args->logits, "logits", args->ignore_index, &live, error);
    if (status == PFO_OK) status = check_vectors(args, vectors, error);
    if (status == PFO_OK) status = check_out(args, vectors, error);
    if (status != PFO_OK) return status;

    job j;
    j.kernels = pfo_kernels_now(error);
    if (!j.kernels) return PFO_ERROR_ISA;
    j.logits = pfo_walk_leading(&args->logits, 1);
    j.labels = pfo_walk_leading(&args->labels, 0);
    j.out = pfo_walk_leading(&args->out, 1);
    for (int k = 0; k < VECTOR_COUNT; k++) {
        j.vector_dtypes[k] = vectors[k]->dtype;
        if (pfo_present(vectors[k])) j.vectors[k] = pfo_walk_leading(vectors[k], 0);
    }
    j.logits_dtype = args->logits.dtype;
    j.label_dtype = args->labels.dtype;
    j.logit_index = pfo_logit_index_of(args->logits.dtype);
    j.vocab = args->logits.shape[args->logits.ndim - 1];
    j.element_size = pfo_dtype_size(args->logits.dtype);
    j.ignore_index = args->ignore_index;
    j.temperature = args->temperature;
    const int64_t rows = pfo_leading_size(&args->labels, 0);
    const int64_t grain = 65536 / j.vocab;
    pfo_parallel_for(rows, grain < 1 ? 1 : grain, (double)rows * (double)j.vocab, rows_body, &j);
    return PFO_OK;
}
