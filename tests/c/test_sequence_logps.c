/* pfo_sequence_logps and its transpose: padded and packed, masks and weights, averages, strides, special values. */
#include <math.h>
#include <string.h>

#include "check.h"

#define BATCH 5
#define TOKENS 37

typedef struct sequence_case {
    double logps[BATCH * TOKENS], weights[BATCH * TOKENS];
    unsigned char mask[BATCH * TOKENS];
    double normalizer[BATCH];
} sequence_case;

static void fill_case(sequence_case *c, random_state *random)
{
    for (int i = 0; i < BATCH * TOKENS; i++) {
        c->mask[i] = random_uniform(random) < 0.6;
        c->weights[i] = c->mask[i] ? random_uniform(random) : 0.0;
        /* Where the mask is 0 anything may stand. */
        c->logps[i] = c->mask[i] ? -5.0 * random_uniform(random) : i % 2 ? (double)NAN : -(double)INFINITY;
    }
    for (int i = 0; i < TOKENS; i++) c->mask[2 * TOKENS + i] = 0, c->weights[2 * TOKENS + i] = 0.0; /* empty */
    for (int b = 0; b < BATCH; b++) c->normalizer[b] = 3.0 + b;
}

static double weight_of(const sequence_case *c, int use, int i)
{
    return use == 0 ? (double)c->mask[i] : c->weights[i];
}

/* use: 0 bool mask, 1 float64 weights; average: 0 sum, 1 by the mask, 2 by normalizer. */
static double expected(const sequence_case *c, int use, int average, int b, double *divisor)
{
    long double sum = 0.0L, total = 0.0L;
    for (int t = 0; t < TOKENS; t++) {
        const int i = b * TOKENS + t;
        const double weight = weight_of(c, use, i);
        if (weight != 0.0) sum += (long double)weight * (long double)c->logps[i];
        total += (long double)weight;
    }
    *divisor = average == 0 ? 1.0 : average == 2 ? c->normalizer[b] : (double)total;
    return *divisor == 0.0 ? 0.0 : (double)(sum / (long double)*divisor);
}

static pfo_sequence_logps_args make_args(sequence_case *c, int use, int average, double *out)
{
    pfo_sequence_logps_args args;
    memset(&args, 0, sizeof args);
    args.logps = pfo_view_2d(c->logps, PFO_F64, BATCH, TOKENS);
    args.mask =
        use == 0 ? pfo_view_2d(c->mask, PFO_BOOL, BATCH, TOKENS) : pfo_view_2d(c->weights, PFO_F64, BATCH, TOKENS);
    args.average = average != 0;
    if (average == 2) args.normalizer = pfo_view_1d(c->normalizer, PFO_F64, BATCH);
    args.out = pfo_view_1d(out, PFO_F64, BATCH);
    return args;
}

static void test_padded(sequence_case *c, int use, int average)
{
    double out[BATCH], grad_out[BATCH], grad[BATCH * TOKENS];
    pfo_error error;
    pfo_sequence_logps_args args = make_args(c, use, average, out);
    const pfo_status status = pfo_sequence_logps(&args, &error);
    CHECK(status == PFO_OK, "sequence_logps: %s", error.message);
    for (int b = 0; b < BATCH; b++) grad_out[b] = 1.0 + b;
    args.out = pfo_view_1d(grad_out, PFO_F64, BATCH);
    args.logps = pfo_view_2d(grad, PFO_F64, BATCH, TOKENS);
    CHECK(pfo_sequence_logps_grad(&args, &error) == PFO_OK, "sequence_logps_grad: %s", error.message);
    for (int b = 0; b < BATCH; b++) {
        double divisor;
        const double want = expected(c, use, average, b, &divisor);
        CHECK(fabs(out[b] - want) <= 1e-13 * (1.0 + fabs(want)),
              "use %d average %d sequence %d: got %.17g, expected %.17g", use, average, b, out[b], want);
        for (int t = 0; t < TOKENS; t++) {
            const double weight = weight_of(c, use, b * TOKENS + t);
            const double share = divisor == 0.0 ? 0.0 : (1.0 + b) * weight / divisor;
            CHECK(fabs(grad[b * TOKENS + t] - share) <= 1e-15 * (1.0 + fabs(share)), "gradient %d %d", b, t);
        }
    }
}

/* The same numbers packed: cu_seqlens cuts one flat array. */
static void test_packed(sequence_case *c)
{
    double out[BATCH], padded[BATCH];
    int64_t ends[BATCH + 1];
    int32_t narrow_ends[BATCH + 1];
    for (int b = 0; b <= BATCH; b++) ends[b] = b * TOKENS, narrow_ends[b] = b * TOKENS;
    pfo_error error;
    pfo_sequence_logps_args args = make_args(c, 0, 1, padded);
    CHECK(pfo_sequence_logps(&args, &error) == PFO_OK, "padded: %s", error.message);
    args.logps = pfo_view_1d(c->logps, PFO_F64, BATCH * TOKENS);
    args.mask = pfo_view_1d(c->mask, PFO_BOOL, BATCH * TOKENS);
    args.out = pfo_view_1d(out, PFO_F64, BATCH);
    for (int narrow = 0; narrow < 2; narrow++) {
        args.cu_seqlens = narrow ? pfo_view_1d(narrow_ends, PFO_I32, BATCH + 1) : pfo_view_1d(ends, PFO_I64, BATCH + 1);
        CHECK(pfo_sequence_logps(&args, &error) == PFO_OK, "packed: %s", error.message);
        for (int b = 0; b < BATCH; b++) CHECK(same_double(out[b], padded[b]), "packed sequence %d differs", b);
    }
    ends[2] = ends[3] + 1;
    args.cu_seqlens = pfo_view_1d(ends, PFO_I64, BATCH + 1);
    CHECK(pfo_sequence_logps(&args, &error) != PFO_OK, "decreasing cu_seqlens was taken");
}

/* Every second token of a wider array, last token first. */
static void test_strides(sequence_case *c)
{
    double wide[BATCH * TOKENS * 2], out[BATCH], straight[BATCH];
    for (int i = 0; i < BATCH * TOKENS; i++) wide[2 * i] = c->logps[i], wide[2 * i + 1] = 1e300;
    pfo_error error;
    pfo_sequence_logps_args args = make_args(c, 0, 0, straight);
    CHECK(pfo_sequence_logps(&args, &error) == PFO_OK, "straight: %s", error.message);
    args.out = pfo_view_1d(out, PFO_F64, BATCH);
    args.logps = pfo_view_2d(wide + 2 * (TOKENS - 1), PFO_F64, BATCH, TOKENS);
    args.logps.strides_bytes[0] = TOKENS * 16;
    args.logps.strides_bytes[1] = -16;
    args.mask = pfo_view_2d(c->mask + TOKENS - 1, PFO_BOOL, BATCH, TOKENS);
    args.mask.strides_bytes[0] = TOKENS;
    args.mask.strides_bytes[1] = -1;
    CHECK(pfo_sequence_logps(&args, &error) == PFO_OK, "reversed: %s", error.message);
    for (int b = 0; b < BATCH; b++)
        CHECK(fabs(out[b] - straight[b]) <= 1e-13 * fabs(straight[b]), "reversed sequence %d differs", b);
}

void test_sequence_logps(void)
{
    random_state random = {4};
    sequence_case c;
    fill_case(&c, &random);
    for (int use = 0; use < 2; use++)
        for (int average = 0; average < 3; average++) test_padded(&c, use, average);
    test_packed(&c);
    test_strides(&c);
}
