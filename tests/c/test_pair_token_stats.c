/* pfo_pair_token_stats and its gradient against long double, and every row against the scalar row bit for bit. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"
#include "check.h"

#define OUTPUTS 8
static const char *const OUTPUT_NAMES[OUTPUTS] = {"policy_logps",  "ref_logps",     "policy_lse", "ref_lse",
                                                  "ref_policy_kl", "policy_ref_kl", "plus_logps", "minus_logps"};
#define EPS 0.25
/* Finite rows as the oracle has them; the others (from OTHER_KINDS on) are compared between ISA rows alone. */
static const row_kind KINDS[] = {ROW_RANDOM,   ROW_PEAKED,        ROW_CONSTANT,   ROW_LARGE,
                                 ROW_DENORMAL, ROW_RISING,        ROW_ALL_MASKED, ROW_MASKED,
                                 ROW_SINGLE,   ROW_TARGET_MASKED, ROW_NAN,        ROW_POSITIVE_INFINITY};
#define OTHER_KINDS 6
#define ROWS 12

typedef struct pair_batch {
    int32_t dtype, result_dtype;
    int64_t vocab, row_bytes;
    double temperature;
    char *policy, *ref, *grad;
    int64_t labels[ROWS];
    double results[OUTPUTS][ROWS];
} pair_batch;

static pair_batch make_batch(int32_t dtype, int64_t vocab, double temperature, random_state *random)
{
    pair_batch b = {.dtype = dtype, .result_dtype = dtype == PFO_F64 ? PFO_F64 : PFO_F32};
    b.vocab = vocab;
    b.row_bytes = vocab * pfo_dtype_size(dtype);
    b.temperature = temperature;
    b.policy = malloc((size_t)(ROWS * b.row_bytes));
    b.ref = malloc((size_t)(ROWS * b.row_bytes));
    b.grad = malloc((size_t)(ROWS * b.row_bytes));
    if (!b.policy || !b.ref || !b.grad) abort();
    for (int row = 0; row < ROWS; row++) {
        b.labels[row] = (int64_t)(random_bits(random) % (uint64_t)vocab);
        fill_row(b.policy + row * b.row_bytes, dtype, vocab, b.labels[row], KINDS[row], random);
        fill_row(b.ref + row * b.row_bytes, dtype, vocab, b.labels[row], ROW_RANDOM, random);
    }
    return b;
}

static void run_batch(pair_batch *b)
{
    double wide[OUTPUTS][ROWS];
    float single[OUTPUTS][ROWS];
    pfo_pair_token_stats_args args = pfo_pair_token_stats_args_default();
    pfo_view *outputs[OUTPUTS] = {&args.policy_logps,  &args.ref_logps,     &args.policy_lse, &args.ref_lse,
                                  &args.ref_policy_kl, &args.policy_ref_kl, &args.plus_logps, &args.minus_logps};
    const int is_wide = b->result_dtype == PFO_F64;
    for (int i = 0; i < OUTPUTS; i++)
        *outputs[i] = pfo_view_1d(is_wide ? (void *)wide[i] : (void *)single[i], (pfo_dtype)b->result_dtype, ROWS);
    args.policy_logits = pfo_view_2d(b->policy, (pfo_dtype)b->dtype, ROWS, b->vocab);
    args.ref_logits = pfo_view_2d(b->ref, (pfo_dtype)b->dtype, ROWS, b->vocab);
    args.labels = pfo_view_1d(b->labels, PFO_I64, ROWS);
    args.temperature = b->temperature;
    args.perturbation = EPS;
    pfo_error error;
    pfo_status status = pfo_pair_token_stats(&args, &error);
    CHECK(status == PFO_OK, "status %d: %s", status, error.message);
    for (int i = 0; i < OUTPUTS; i++)
        for (int row = 0; row < ROWS; row++) b->results[i][row] = is_wide ? wide[i][row] : (double)single[i][row];
    double ones[ROWS], twos[ROWS];
    for (int row = 0; row < ROWS; row++) ones[row] = 1.0, twos[row] = 2.0;
    pfo_pair_token_stats_grad_args grad = pfo_pair_token_stats_grad_args_default();
    grad.policy_logits = args.policy_logits;
    grad.ref_logits = args.ref_logits;
    grad.labels = args.labels;
    grad.policy_lse = args.policy_lse;
    grad.ref_lse = args.ref_lse;
    grad.policy_ref_kl = args.policy_ref_kl;
    grad.grad_policy_logps = grad.grad_ref_policy_kl = pfo_view_1d(ones, PFO_F64, ROWS);
    grad.grad_policy_ref_kl = pfo_view_1d(twos, PFO_F64, ROWS);
    grad.temperature = b->temperature;
    grad.out = pfo_view_2d(b->grad, (pfo_dtype)b->dtype, ROWS, b->vocab);
    status = pfo_pair_token_stats_grad(&grad, &error);
    CHECK(status == PFO_OK, "gradient: status %d: %s", status, error.message);
}

/* log softmax at `label` and, into log_p [vocab], everywhere; returns the lse. */
static long double log_softmax(const long double *x, int64_t vocab, long double *log_p)
{
    long double max = -(long double)INFINITY, sum = 0.0L;
    for (int64_t v = 0; v < vocab; v++) max = x[v] > max ? x[v] : max;
    for (int64_t v = 0; v < vocab; v++) sum += expl(x[v] - max);
    for (int64_t v = 0; v < vocab; v++) log_p[v] = (x[v] - max) - logl(sum);
    return max + logl(sum);
}

static long double divergence(const long double *log_a, const long double *log_b, int64_t vocab)
{
    long double sum = 0.0L;
    for (int64_t v = 0; v < vocab; v++) sum += expl(log_a[v]) == 0.0L ? 0.0L : expl(log_a[v]) * (log_a[v] - log_b[v]);
    return sum;
}

static void check_row(const pair_batch *b, int row, const char *isa, long double *scratch)
{
    const int64_t vocab = b->vocab, label = b->labels[row];
    long double *x = scratch, *y = x + vocab, *log_p = y + vocab, *log_r = log_p + vocab, *moved = log_r + vocab;
    long double largest = 0.0L, want[OUTPUTS];
    for (int64_t v = 0; v < vocab; v++) {
        x[v] = (long double)decode(b->policy + row * b->row_bytes, v, b->dtype) / (long double)b->temperature;
        y[v] = (long double)decode(b->ref + row * b->row_bytes, v, b->dtype) / (long double)b->temperature;
        largest = fabsl(x[v]) > largest ? fabsl(x[v]) : largest;
        largest = fabsl(y[v]) > largest ? fabsl(y[v]) : largest;
    }
    want[2] = log_softmax(x, vocab, log_p);
    want[3] = log_softmax(y, vocab, log_r);
    want[0] = log_p[label];
    want[1] = log_r[label];
    want[4] = divergence(log_r, log_p, vocab);
    want[5] = divergence(log_p, log_r, vocab);
    for (int i = 0; i < 2; i++) {
        for (int64_t v = 0; v < vocab; v++) moved[v] = x[v] + (i == 0 ? EPS : -EPS) * (x[v] - y[v]);
        log_softmax(moved, vocab, moved);
        want[6 + i] = moved[label];
    }
    /* 8.8 halves of a rounding at the scale of the largest logit: see tests/test_pair_token_stats.py. */
    const long double allowed = 4.4L * spacing(b->result_dtype, 1.0L) * (1.0L + largest * (1.0L + EPS));
    for (int i = 0; i < OUTPUTS; i++)
        CHECK(fabsl((long double)b->results[i][row] - want[i]) <= allowed + 2.0L * spacing(b->result_dtype, want[i]),
              "%s %s vocab %lld kind %d T %g %s: got %.9g, expected %.12Lg", isa, pfo_dtype_name(b->dtype),
              (long long)vocab, (int)KINDS[row], b->temperature, OUTPUT_NAMES[i], b->results[i][row], want[i]);
    for (int64_t v = 0; v < vocab; v++) {
        const long double p = expl(log_p[v]), r = expl(log_r[v]), gap = log_p[v] - log_r[v];
        const long double slope = (v == label ? 1.0L : 0.0L) - r + 2.0L * p * (gap - want[5]);
        const long double got = (long double)decode(b->grad + row * b->row_bytes, v, b->dtype);
        const long double expected = slope / (long double)b->temperature;
        const long double size = p * (2.0L + 2.0L * fabsl(gap) + 2.0L * want[5]) + r;
        const long double room = spacing(b->dtype, expected) + 3.0L * allowed * size / (long double)b->temperature;
        CHECK(fabsl(got - expected) <= room, "%s %s vocab %lld kind %d grad[%lld]: got %.9Lg, expected %.12Lg", isa,
              pfo_dtype_name(b->dtype), (long long)vocab, (int)KINDS[row], (long long)v, got, expected);
    }
}

static void check_same_bits(const pair_batch *b, const pair_batch *reference, const char *isa)
{
    for (int row = 0; row < ROWS; row++) {
        for (int i = 0; i < OUTPUTS; i++)
            CHECK(same_double(b->results[i][row], reference->results[i][row]), "%s %s vocab %lld kind %d %s differs",
                  isa, pfo_dtype_name(b->dtype), (long long)b->vocab, (int)KINDS[row], OUTPUT_NAMES[i]);
        for (int64_t v = 0; v < b->vocab; v++)
            CHECK(same_double(decode(b->grad + row * b->row_bytes, v, b->dtype),
                              decode(reference->grad + row * b->row_bytes, v, b->dtype)),
                  "%s %s vocab %lld kind %d grad[%lld] differs", isa, pfo_dtype_name(b->dtype), (long long)b->vocab,
                  (int)KINDS[row], (long long)v);
    }
}

static void test_batch(int32_t dtype, int64_t vocab, double temperature, random_state *random)
{
    const char *names[MAX_ROWS];
    const int rows = usable_rows(names);
    pair_batch reference = make_batch(dtype, vocab, temperature, random);
    long double *scratch = malloc((size_t)vocab * 5 * sizeof *scratch);
    char *own_grad = malloc((size_t)(ROWS * reference.row_bytes));
    if (!scratch || !own_grad) abort();
    for (int isa = 0; isa < rows; isa++) {
        pair_batch b = reference;
        if (isa > 0) b.grad = own_grad;
        CHECK(pfo_set_isa(names[isa], NULL) == PFO_OK, "cannot choose row %s", names[isa]);
        run_batch(&b);
        if (isa > 0) {
            check_same_bits(&b, &reference, names[isa]);
            continue;
        }
        reference = b;
        for (int row = 0; row < OTHER_KINDS; row++) check_row(&b, row, names[isa], scratch);
    }
    pfo_set_isa(NULL, NULL);
    free(scratch);
    free(own_grad);
    free(reference.policy);
    free(reference.ref);
    free(reference.grad);
}

void test_pair_token_stats(void)
{
    static const int64_t sizes[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 1000, 2047, 2048, 2049, 5003};
    static const double temperatures[] = {1.0, 0.7, 3.0};
    random_state random = {11};
    for (size_t size = 0; size < sizeof sizes / sizeof sizes[0]; size++) {
        if (sizes[size] > size_limit()) continue;
        for (int dtype = 0; dtype < FLOAT_DTYPE_COUNT; dtype++)
            test_batch(FLOAT_DTYPES[dtype], sizes[size], temperatures[size % 3], &random);
    }
}
