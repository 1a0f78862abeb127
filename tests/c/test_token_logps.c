/* pfo_token_logps against the long double oracle, and every row against the scalar row bit for bit.
 *
 * Budget: the result's own rounding (half a spacing) plus ARITHMETIC spacings of the float numbers that made it.
 * x = logits / temperature, so with a temperature the rounding of x enters too. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"
#include "check.h"
#include "oracle.h"

#define OUTPUTS 6
static const char *const OUTPUT_NAMES[OUTPUTS] = {"logps", "lse", "entropy", "mean_logit", "max_logit", "lse2"};

/* One call: ROW_KINDS rows, with a row stride that leaves a gap of `pad` elements. */
typedef struct batch {
    int32_t dtype, result_dtype;
    int64_t vocab, pad;
    double temperature;
    char *logits;
    int64_t labels[ROW_KINDS + 1];
    double results[OUTPUTS][ROW_KINDS + 1]; /* as double, whatever the dtype */
    unsigned char correct[ROW_KINDS + 1];
} batch;

#define ROWS (ROW_KINDS + 1) /* the last one is ignored */

static batch make_batch(int32_t dtype, int64_t vocab, int64_t pad, double temperature, random_state *random)
{
    batch b = {.dtype = dtype, .result_dtype = dtype == PFO_F64 ? PFO_F64 : PFO_F32};
    b.vocab = vocab;
    b.pad = pad;
    b.temperature = temperature;
    const int64_t row_bytes = (vocab + pad) * pfo_dtype_size(dtype);
    b.logits = calloc((size_t)ROWS, (size_t)row_bytes);
    if (!b.logits) abort();
    for (int kind = 0; kind < ROWS; kind++) {
        char *row = b.logits + kind * row_bytes;
        b.labels[kind] = (int64_t)(random_bits(random) % (uint64_t)vocab);
        fill_row(row, dtype, vocab, b.labels[kind], (row_kind)(kind % ROW_KINDS), random);
        /* The gap must not be read: NaN there would show. */
        for (int64_t v = vocab; v < vocab + pad; v++) encode(row, v, dtype, (double)NAN);
    }
    b.labels[ROWS - 1] = -100;
    return b;
}

static void run_batch(batch *b)
{
    float single[OUTPUTS][ROWS];
    double wide[OUTPUTS][ROWS];
    pfo_view outputs[OUTPUTS];
    for (int i = 0; i < OUTPUTS; i++) {
        void *memory = b->result_dtype == PFO_F64 ? (void *)wide[i] : (void *)single[i];
        outputs[i] = pfo_view_1d(memory, (pfo_dtype)b->result_dtype, ROWS);
    }
    pfo_token_logps_args args = pfo_token_logps_args_default();
    args.logits = pfo_view_2d(b->logits, (pfo_dtype)b->dtype, ROWS, b->vocab);
    args.logits.strides_bytes[0] = (b->vocab + b->pad) * pfo_dtype_size(b->dtype);
    args.labels = pfo_view_1d(b->labels, PFO_I64, ROWS);
    args.temperature = b->temperature;
    args.logps = outputs[0];
    args.lse = outputs[1];
    args.entropy = outputs[2];
    args.mean_logit = outputs[3];
    args.max_logit = outputs[4];
    args.lse2 = outputs[5];
    args.correct = pfo_view_1d(b->correct, PFO_BOOL, ROWS);
    pfo_error error;
    const pfo_status status = pfo_token_logps(&args, &error);
    CHECK(status == PFO_OK, "status %d: %s", status, error.message);
    for (int i = 0; i < OUTPUTS; i++)
        for (int row = 0; row < ROWS; row++)
            b->results[i][row] = b->result_dtype == PFO_F64 ? wide[i][row] : (double)single[i][row];
}

/* Allowed: the rounding of the result, and four roundings at `size`, the largest magnitude that enters its sum. */
static int close_enough(const batch *b, double got, long double want, long double size)
{
    if (isnan(want)) return isnan(got);
    if (isinf(want)) return (long double)got == want;
    const long double rounding = 0.51L * spacing(b->result_dtype, want);
    return fabsl((long double)got - want) <= rounding + 4.0L * spacing(b->result_dtype, 1.0L) * (1.0L + size);
}

/* The magnitude that enters an output: the logits for the mean, and for all others where they are divided by a
 * temperature or are as wide as the result; elsewhere x - max is exact and only terms up to 1 are summed. */
static long double size_of_terms(const batch *b, int output, const double *values)
{
    long double largest = 0.0L;
    if (b->temperature == 1.0 && b->dtype != PFO_F64 && output != 3) return 0.0L;
    for (int64_t v = 0; v < b->vocab; v++)
        if (isfinite(values[v]) && fabs(values[v]) > (double)largest) largest = (long double)fabs(values[v]);
    return largest / (long double)b->temperature;
}

static void check_against_oracle(const batch *b, const char *isa)
{
    double *values = malloc((size_t)b->vocab * sizeof *values);
    if (!values) abort();
    for (int row = 0; row < ROW_KINDS; row++) {
        const char *base = b->logits + row * (b->vocab + b->pad) * pfo_dtype_size(b->dtype);
        for (int64_t v = 0; v < b->vocab; v++) values[v] = decode(base, v, b->dtype);
        const oracle_row want = oracle_token_logps(values, b->vocab, b->labels[row], b->temperature);
        const long double wanted[OUTPUTS] = {want.logp, want.lse, want.entropy, want.mean, want.max, want.lse2};
        for (int i = 0; i < OUTPUTS; i++)
            CHECK(close_enough(b, b->results[i][row], wanted[i], size_of_terms(b, i, values)),
                  "%s %s vocab %lld kind %d T %g %s: got %.9g, expected %.12Lg", isa, pfo_dtype_name(b->dtype),
                  (long long)b->vocab, row, b->temperature, OUTPUT_NAMES[i], b->results[i][row], wanted[i]);
        const int correct = want.best == b->labels[row] && !want.all_negative_infinity;
        CHECK(b->correct[row] == correct, "%s %s vocab %lld kind %d: correct is %d", isa, pfo_dtype_name(b->dtype),
              (long long)b->vocab, row, b->correct[row]);
    }
    for (int i = 0; i < OUTPUTS; i++)
        CHECK(b->results[i][ROWS - 1] == 0.0, "%s: ignored row has %s %g", isa, OUTPUT_NAMES[i],
              b->results[i][ROWS - 1]);
    CHECK(b->correct[ROWS - 1] == 0, "%s: ignored row is correct", isa);
    free(values);
}

static void check_same_bits(const batch *b, const batch *reference, const char *isa)
{
    for (int row = 0; row < ROWS; row++) {
        for (int i = 0; i < OUTPUTS; i++)
            CHECK(same_double(b->results[i][row], reference->results[i][row]),
                  "%s %s vocab %lld kind %d %s: %a, scalar row %a", isa, pfo_dtype_name(b->dtype), (long long)b->vocab,
                  row, OUTPUT_NAMES[i], b->results[i][row], reference->results[i][row]);
        CHECK(b->correct[row] == reference->correct[row], "%s: correct differs in row %d", isa, row);
    }
}

static void test_batch(int32_t dtype, int64_t vocab, int64_t pad, double temperature, random_state *random)
{
    const char *names[MAX_ROWS];
    const int rows = usable_rows(names);
    batch reference = make_batch(dtype, vocab, pad, temperature, random);
    for (int row = 0; row < rows; row++) {
        batch b = reference;
        CHECK(pfo_set_isa(names[row], NULL) == PFO_OK, "cannot choose row %s", names[row]);
        run_batch(&b);
        if (row == 0) {
            reference = b;
            check_against_oracle(&b, names[row]);
        } else {
            check_same_bits(&b, &reference, names[row]);
        }
    }
    pfo_set_isa(NULL, NULL);
    free(reference.logits);
}

static void test_thread_counts(random_state *random)
{
    const int64_t counts_tested[] = {1, 2, 3, 7};
    const int before = pfo_get_num_threads();
    batch reference = make_batch(PFO_F32, small_run ? 5003 : 70001, 0, 1.0, random);
    for (int i = 0; i < 4; i++) {
        batch b = reference;
        CHECK(pfo_set_num_threads(counts_tested[i], NULL) == PFO_OK, "set_num_threads");
        run_batch(&b);
        if (i == 0)
            reference = b;
        else
            check_same_bits(&b, &reference, "threads");
    }
    pfo_set_num_threads(before, NULL);
    free(reference.logits);
}

void test_token_logps(void)
{
    static const int64_t sizes[] = CASE_SIZES;
    static const double temperatures[] = {1.0, 0.7, 3.0};
    random_state random = {1};
    for (size_t size = 0; size < sizeof sizes / sizeof sizes[0]; size++) {
        if (sizes[size] > size_limit()) continue;
        for (int dtype = 0; dtype < FLOAT_DTYPE_COUNT; dtype++)
            test_batch(FLOAT_DTYPES[dtype], sizes[size], (int64_t)(size % 3), temperatures[size % 3], &random);
    }
    /* Every temperature at one size with a tail, every dtype; sizes above pair with one temperature each. */
    for (int dtype = 0; dtype < FLOAT_DTYPE_COUNT; dtype++)
        for (int t = 0; t < 3; t++) test_batch(FLOAT_DTYPES[dtype], 1003, 5, temperatures[t], &random);
    test_thread_counts(&random);
}
