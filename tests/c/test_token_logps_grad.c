/* pfo_token_logps_grad against the long double formula, rows against the scalar row, in place against out of place.
 *
 * The formula takes the lse and entropy that the library is handed, so only the gradient's own error is measured:
 * half a spacing of the stored dtype, plus the rounding of p = exp(x - lse) (relative, grows with |x - lse|). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"
#include "check.h"
#include "oracle.h"

#define ROWS (ROW_KINDS + 1) /* the last one is ignored */

typedef struct grad_batch {
    int32_t dtype, result_dtype;
    int64_t vocab;
    double temperature;
    int64_t row_bytes;
    char *logits, *out;
    int64_t labels[ROWS];
    double lse[ROWS], entropy[ROWS], grads[3][ROWS]; /* logp, entropy, lse; exact in float32 */
    int used;                                        /* bits: which of grads are given */
} grad_batch;

static const char *row_at(const grad_batch *b, const char *base, int row) { return base + row * b->row_bytes; }

static void fill_statistics(grad_batch *b)
{
    double *values = malloc((size_t)b->vocab * sizeof *values);
    if (!values) abort();
    for (int row = 0; row < ROW_KINDS; row++) {
        for (int64_t v = 0; v < b->vocab; v++) values[v] = decode(row_at(b, b->logits, row), v, b->dtype);
        const oracle_row stats = oracle_token_logps(values, b->vocab, b->labels[row], b->temperature);
        /* Rounded to what the library itself would have returned. */
        b->lse[row] = b->result_dtype == PFO_F32 ? (double)(float)stats.lse : (double)stats.lse;
        b->entropy[row] = b->result_dtype == PFO_F32 ? (double)(float)stats.entropy : (double)stats.entropy;
    }
    b->lse[ROWS - 1] = b->entropy[ROWS - 1] = 0.0;
    free(values);
}

static grad_batch make_batch(int32_t dtype, int64_t vocab, double temperature, int used, random_state *random)
{
    grad_batch b = {.dtype = dtype, .result_dtype = dtype == PFO_F64 ? PFO_F64 : PFO_F32};
    b.vocab = vocab;
    b.temperature = temperature;
    b.used = used;
    b.row_bytes = vocab * pfo_dtype_size(dtype);
    b.logits = malloc((size_t)(ROWS * b.row_bytes));
    b.out = malloc((size_t)(ROWS * b.row_bytes));
    if (!b.logits || !b.out) abort();
    for (int row = 0; row < ROWS; row++) {
        b.labels[row] = (int64_t)(random_bits(random) % (uint64_t)vocab);
        fill_row(b.logits + row * b.row_bytes, dtype, vocab, b.labels[row], (row_kind)(row % ROW_KINDS), random);
        for (int i = 0; i < 3; i++) b.grads[i][row] = (double)(float)random_normal(random);
    }
    b.labels[ROWS - 1] = -100;
    fill_statistics(&b);
    return b;
}

static void free_batch(grad_batch *b)
{
    free(b->logits);
    free(b->out);
}

/* Runs into `out`, which may be the logits themselves. */
static void run_batch(grad_batch *b, char *logits, char *out)
{
    pfo_token_logps_grad_args args = pfo_token_logps_grad_args_default();
    args.logits = pfo_view_2d(logits, (pfo_dtype)b->dtype, ROWS, b->vocab);
    args.out = pfo_view_2d(out, (pfo_dtype)b->dtype, ROWS, b->vocab);
    args.labels = pfo_view_1d(b->labels, PFO_I64, ROWS);
    args.lse = pfo_view_1d(b->lse, PFO_F64, ROWS);
    args.temperature = b->temperature;
    if (b->used & 1) args.grad_logps = pfo_view_1d(b->grads[0], PFO_F64, ROWS);
    if (b->used & 2) {
        args.grad_entropy = pfo_view_1d(b->grads[1], PFO_F64, ROWS);
        args.entropy = pfo_view_1d(b->entropy, PFO_F64, ROWS);
    }
    if (b->used & 4) args.grad_lse = pfo_view_1d(b->grads[2], PFO_F64, ROWS);
    pfo_error error;
    const pfo_status status = pfo_token_logps_grad(&args, &error);
    CHECK(status == PFO_OK, "status %d: %s", status, error.message);
}

static long double budget(const grad_batch *b, int row, double x, long double share)
{
    const long double unit = spacing(b->result_dtype, 1.0L);
    const long double log_share = (long double)x / (long double)b->temperature - (long double)b->lse[row];
    long double size = 0.0L;
    if (share <= 0.0L) return 0.0L; /* and log_share is -inf */
    for (int i = 0; i < 3; i++)
        if (b->used >> i & 1) size += fabsl((long double)b->grads[i][row]);
    if (b->used & 2) size *= 1.0L + fabsl(log_share) + fabsl((long double)b->entropy[row]);
    /* x and lse are rounded at their own magnitude before they are subtracted. */
    const long double relative = (4.0L + fabsl(log_share) + fabsl((long double)b->lse[row])) * unit;
    return size * share * relative / (long double)b->temperature;
}

static void check_element(const grad_batch *b, int row, int64_t v, double got, const char *isa)
{
    const double x = decode(row_at(b, b->logits, row), v, b->dtype);
    const int is_label = v == b->labels[row];
    const long double lse = (long double)b->lse[row];
    const long double g[3] = {b->used & 1 ? (long double)b->grads[0][row] : 0.0L,
                              b->used & 2 ? (long double)b->grads[1][row] : 0.0L,
                              b->used & 4 ? (long double)b->grads[2][row] : 0.0L};
    long double want = oracle_grad(x, is_label, b->temperature, lse, (long double)b->entropy[row], g[0], g[1], g[2]);
    if (!isfinite(b->lse[row])) want = (long double)NAN;
    if (isnan(want)) {
        CHECK(isnan(got), "%s %s row kind %d: got %g, expected NaN", isa, pfo_dtype_name(b->dtype), row, got);
        return;
    }
    const long double share = expl((long double)x / (long double)b->temperature - lse);
    /* exp is 0 below 2^-125 in float; smallest normal share is far below any gradient's spacing that matters. */
    const long double at_label = is_label ? 2.0L * spacing(b->result_dtype, g[0] / (long double)b->temperature) : 0.0L;
    const long double allowed =
        at_label + 0.51L * spacing(b->dtype, want) + budget(b, row, x, share) + 8.0L * (long double)0x1p-125;
    CHECK(fabsl((long double)got - want) <= allowed,
          "%s %s vocab %lld kind %d v %lld T %g used %d: got %.9g, expected %.9Lg", isa, pfo_dtype_name(b->dtype),
          (long long)b->vocab, row, (long long)v, b->temperature, b->used, got, want);
}

static void check_against_oracle(const grad_batch *b, const char *isa)
{
    for (int row = 0; row < ROW_KINDS; row++)
        for (int64_t v = 0; v < b->vocab; v++)
            check_element(b, row, v, decode(row_at(b, b->out, row), v, b->dtype), isa);
    int zeros = 1;
    for (int64_t v = 0; v < b->vocab; v++) zeros = zeros && decode(row_at(b, b->out, ROWS - 1), v, b->dtype) == 0.0;
    CHECK(zeros, "%s %s: the ignored row is not zero", isa, pfo_dtype_name(b->dtype));
}

/* Equal bits, NaN equal to NaN. */
static int64_t first_difference(const grad_batch *b, const char *left, const char *right)
{
    for (int64_t i = 0; i < ROWS * b->vocab; i++)
        if (!same_double(decode(left, i, b->dtype), decode(right, i, b->dtype))) return i;
    return -1;
}

static void test_batch(int32_t dtype, int64_t vocab, double temperature, int used, random_state *random)
{
    const char *names[MAX_ROWS];
    const int rows = usable_rows(names);
    grad_batch b = make_batch(dtype, vocab, temperature, used, random);
    char *scalar = malloc((size_t)(ROWS * b.row_bytes));
    char *in_place = malloc((size_t)(ROWS * b.row_bytes));
    if (!scalar || !in_place) abort();
    for (int row = 0; row < rows; row++) {
        CHECK(pfo_set_isa(names[row], NULL) == PFO_OK, "cannot choose row %s", names[row]);
        run_batch(&b, b.logits, b.out);
        if (row == 0) {
            check_against_oracle(&b, names[row]);
            memcpy(scalar, b.out, (size_t)(ROWS * b.row_bytes));
        }
        const int64_t apart = first_difference(&b, b.out, scalar);
        CHECK(apart < 0, "%s %s vocab %lld: bits differ from the scalar row at %lld", names[row], pfo_dtype_name(dtype),
              (long long)vocab, (long long)apart);
        memcpy(in_place, b.logits, (size_t)(ROWS * b.row_bytes));
        run_batch(&b, in_place, in_place);
        CHECK(first_difference(&b, in_place, b.out) < 0, "%s %s vocab %lld: in place differs", names[row],
              pfo_dtype_name(dtype), (long long)vocab);
    }
    pfo_set_isa(NULL, NULL);
    free(scalar);
    free(in_place);
    free_batch(&b);
}

void test_token_logps_grad(void)
{
    static const int64_t sizes[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 100, 1000, 4097, 33001};
    static const double temperatures[] = {1.0, 0.7, 3.0};
    random_state random = {2};
    for (size_t size = 0; size < sizeof sizes / sizeof sizes[0]; size++) {
        if (sizes[size] > size_limit()) continue;
        for (int dtype = 0; dtype < FLOAT_DTYPE_COUNT; dtype++)
            test_batch(FLOAT_DTYPES[dtype], sizes[size], temperatures[size % 3], 1 + (int)(size % 7), &random);
    }
    for (int used = 1; used < 8; used++)
        for (int dtype = 0; dtype < FLOAT_DTYPE_COUNT; dtype++)
            test_batch(FLOAT_DTYPES[dtype], 137, temperatures[used % 3], used, &random);
}
