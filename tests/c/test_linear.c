/* pfo_linear_token_logps and its gradient against long double, and every ISA row against the scalar row bit for bit.
 *
 * The plain C product is what runs here: no BLAS is loaded.  x is a sum of H products: budgets are in roundings at the
 * size of its terms. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"
#include "check.h"

enum {
    TOKENS = 9,
    HIDDEN = 7,
    MOST_VOCAB = 1100,
    RANK = 2
};

/* One call's arrays as doubles, exact in the dtype, and as the dtype. */
typedef struct linear_case {
    int wide;
    int64_t vocab;
    double softcap, logit_scale, temperature;
    double hidden[TOKENS * HIDDEN], weight[MOST_VOCAB * HIDDEN], bias[MOST_VOCAB];
    double lora_a[RANK * HIDDEN], lora_b[MOST_VOCAB * RANK];
    int64_t labels[TOKENS];
    double upstream[3][TOKENS]; /* by logps, entropy, lse */
} linear_case;

typedef struct linear_results {
    double stats[3][TOKENS]; /* logps, lse, entropy */
    double sweep[TOKENS * HIDDEN];
    double grad_hidden[TOKENS * HIDDEN], grad_weight[MOST_VOCAB * HIDDEN], grad_bias[MOST_VOCAB];
    double grad_lora_a[RANK * HIDDEN], grad_lora_b[MOST_VOCAB * RANK];
} linear_results;

static void fill(double *values, int64_t count, double scale, random_state *random)
{
    for (int64_t i = 0; i < count; i++) values[i] = (double)(float)(scale * random_normal(random));
}

static void make_case(linear_case *c, int64_t vocab, int wide, double softcap, random_state *random)
{
    memset(c, 0, sizeof *c);
    c->wide = wide;
    c->vocab = vocab;
    c->softcap = softcap;
    c->logit_scale = 1.25;
    c->temperature = 0.8;
    fill(c->hidden, TOKENS * HIDDEN, 1.0, random);
    fill(c->weight, vocab * HIDDEN, 0.5, random);
    fill(c->bias, vocab, 1.0, random);
    fill(c->lora_a, RANK * HIDDEN, 0.5, random);
    fill(c->lora_b, vocab * RANK, 0.5, random);
    for (int i = 0; i < 3; i++) fill(c->upstream[i], TOKENS, 1.0, random);
    for (int t = 0; t < TOKENS; t++) c->labels[t] = (int64_t)(random_bits(random) % (uint64_t)vocab);
    c->labels[2] = c->labels[5] = -100;
}

/* Arrays of the call's dtype: doubles as they are, or narrowed into memory of their own. */
typedef struct arena {
    float floats[2 * (TOKENS * HIDDEN + MOST_VOCAB * (HIDDEN + 1 + RANK) + RANK * HIDDEN) + 12 * TOKENS];
    int64_t used;
} arena;

static void *place(arena *a, int wide, double *values, int64_t count)
{
    if (wide) return values;
    float *at = a->floats + a->used;
    a->used += count;
    for (int64_t i = 0; i < count; i++) at[i] = (float)values[i];
    return at;
}

static void take_back(int wide, const void *from, double *values, int64_t count)
{
    for (int64_t i = 0; !wide && i < count; i++) values[i] = (double)((const float *)from)[i];
}

/* How the gradient comes to the logits: made again, kept, or made again and filtered of nothing. */
enum {
    AGAIN,
    KEPT,
    FILTERED,
    WAYS
};

static void run_case(linear_case *c, linear_results *r, int way)
{
    static arena memory;
    const int wide = c->wide;
    const pfo_dtype dtype = wide ? PFO_F64 : PFO_F32;
    pfo_error error;
    memory.used = 0;
    memset(r, 0, sizeof *r);
    pfo_linear_token_logps_args f = pfo_linear_token_logps_args_default();
    f.in.hidden = pfo_view_2d(place(&memory, wide, c->hidden, TOKENS * HIDDEN), dtype, TOKENS, HIDDEN);
    f.in.weight = pfo_view_2d(place(&memory, wide, c->weight, c->vocab * HIDDEN), dtype, c->vocab, HIDDEN);
    f.in.bias = pfo_view_1d(place(&memory, wide, c->bias, c->vocab), dtype, c->vocab);
    f.in.lora_a = pfo_view_2d(place(&memory, wide, c->lora_a, RANK * HIDDEN), dtype, RANK, HIDDEN);
    f.in.lora_b = pfo_view_2d(place(&memory, wide, c->lora_b, c->vocab * RANK), dtype, c->vocab, RANK);
    f.in.labels = pfo_view_1d(c->labels, PFO_I64, TOKENS);
    f.in.softcap = c->softcap;
    f.in.logit_scale = c->logit_scale;
    f.in.temperature = c->temperature;
    pfo_view *stats[3] = {&f.logps, &f.lse, &f.entropy};
    for (int i = 0; i < 3; i++) *stats[i] = pfo_view_1d(place(&memory, wide, r->stats[i], TOKENS), dtype, TOKENS);
    double *logits = malloc((size_t)(TOKENS * c->vocab) * sizeof *logits);
    if (!logits) abort();
    if (way == KEPT)
        f.kept = pfo_view_2d(logits, dtype, TOKENS - 2, c->vocab);
    else
        f.grad_hidden_logps = pfo_view_2d(place(&memory, wide, r->sweep, TOKENS * HIDDEN), dtype, TOKENS, HIDDEN);
    pfo_status status = pfo_linear_token_logps(&f, &error);
    CHECK(status == PFO_OK, "status %d: %s", status, error.message);
    pfo_linear_token_logps_grad_args g = pfo_linear_token_logps_grad_args_default();
    g.in = f.in;
    g.lse = f.lse;
    g.entropy = f.entropy;
    g.kept = f.kept;
    g.grad_filter = way == FILTERED ? 1e-250 : 0.0;
    pfo_view *upstream[3] = {&g.grad_logps, &g.grad_entropy, &g.grad_lse};
    for (int i = 0; i < 3; i++) *upstream[i] = pfo_view_1d(c->upstream[i], PFO_F64, TOKENS);
    double *outputs[5] = {r->grad_hidden, r->grad_weight, r->grad_bias, r->grad_lora_a, r->grad_lora_b};
    const int64_t rows[5] = {TOKENS, c->vocab, c->vocab, RANK, c->vocab},
                  columns[5] = {HIDDEN, HIDDEN, 0, HIDDEN, RANK};
    pfo_view *views[5] = {&g.grad_hidden, &g.grad_weight, &g.grad_bias, &g.grad_lora_a, &g.grad_lora_b};
    for (int i = 0; i < 5; i++) {
        void *at = place(&memory, wide, outputs[i], rows[i] * (columns[i] ? columns[i] : 1));
        *views[i] = columns[i] ? pfo_view_2d(at, dtype, rows[i], columns[i]) : pfo_view_1d(at, dtype, rows[i]);
    }
    status = pfo_linear_token_logps_grad(&g, &error);
    CHECK(status == PFO_OK, "gradient: status %d: %s", status, error.message);
    for (int i = 0; i < 3; i++) take_back(wide, stats[i]->data, r->stats[i], TOKENS);
    if (way != KEPT) take_back(wide, f.grad_hidden_logps.data, r->sweep, TOKENS * HIDDEN);
    for (int i = 0; i < 5; i++) take_back(wide, views[i]->data, outputs[i], rows[i] * (columns[i] ? columns[i] : 1));
    free(logits);
}

/* What the definitions give, one token after another. */
typedef struct linear_truth {
    long double stats[3][TOKENS], grad_hidden[TOKENS * HIDDEN], sweep[TOKENS * HIDDEN];
    long double grad_weight[MOST_VOCAB * HIDDEN], grad_bias[MOST_VOCAB];
    long double grad_lora_a[RANK * HIDDEN], grad_lora_b[MOST_VOCAB * RANK];
} linear_truth;

static void truth_of_token(const linear_case *c, int t, linear_truth *truth)
{
    static long double x[MOST_VOCAB], slope[MOST_VOCAB];
    long double low[RANK] = {0}, low_grad[RANK] = {0}, max = -(long double)INFINITY, sum = 0.0L, entropy = 0.0L;
    for (int r = 0; r < RANK; r++)
        for (int h = 0; h < HIDDEN; h++) low[r] += (long double)c->lora_a[r * HIDDEN + h] * c->hidden[t * HIDDEN + h];
    for (int64_t v = 0; v < c->vocab; v++) {
        long double z = c->bias[v];
        for (int h = 0; h < HIDDEN; h++) z += (long double)c->weight[v * HIDDEN + h] * c->hidden[t * HIDDEN + h];
        for (int r = 0; r < RANK; r++) z += low[r] * c->lora_b[v * RANK + r];
        const long double u = z * c->logit_scale, capped = c->softcap > 0.0 ? tanhl(u / c->softcap) : 0.0L;
        x[v] = (c->softcap > 0.0 ? c->softcap * capped : u) / c->temperature;
        slope[v] = (1.0L - capped * capped) * c->logit_scale / c->temperature;
        max = x[v] > max ? x[v] : max;
    }
    for (int64_t v = 0; v < c->vocab; v++) sum += expl(x[v] - max);
    const long double lse = max + logl(sum);
    for (int64_t v = 0; v < c->vocab; v++) entropy -= expl(x[v] - lse) * (x[v] - lse);
    truth->stats[0][t] = x[c->labels[t]] - lse;
    truth->stats[1][t] = lse;
    truth->stats[2][t] = entropy;
    for (int64_t v = 0; v < c->vocab; v++) {
        const long double log_p = x[v] - lse, p = expl(log_p), hit = v == c->labels[t];
        const long double g = slope[v] * (c->upstream[0][t] * (hit - p) - c->upstream[1][t] * p * (log_p + entropy) +
                                          c->upstream[2][t] * p);
        truth->grad_bias[v] += g;
        for (int r = 0; r < RANK; r++) {
            low_grad[r] += g * c->lora_b[v * RANK + r];
            truth->grad_lora_b[v * RANK + r] += g * low[r];
        }
        for (int h = 0; h < HIDDEN; h++) {
            long double whole = c->weight[v * HIDDEN + h];
            for (int r = 0; r < RANK; r++) whole += (long double)c->lora_b[v * RANK + r] * c->lora_a[r * HIDDEN + h];
            truth->grad_hidden[t * HIDDEN + h] += g * whole;
            truth->sweep[t * HIDDEN + h] += slope[v] * (hit - p) * whole;
            truth->grad_weight[v * HIDDEN + h] += g * c->hidden[t * HIDDEN + h];
        }
    }
    for (int r = 0; r < RANK; r++)
        for (int h = 0; h < HIDDEN; h++) truth->grad_lora_a[r * HIDDEN + h] += low_grad[r] * c->hidden[t * HIDDEN + h];
}

static void check_array(const char *name, const linear_case *c, const double *got, const long double *want,
                        int64_t count, long double roundings)
{
    long double size = 0.1L;
    for (int64_t i = 0; i < count; i++) size = fabsl(want[i]) > size ? fabsl(want[i]) : size;
    const long double allowed = roundings * size * spacing(c->wide ? PFO_F64 : PFO_F32, 1.0L);
    for (int64_t i = 0; i < count; i++)
        CHECK(fabsl((long double)got[i] - want[i]) <= allowed,
              "%s vocab %lld softcap %g [%lld]: got %.9g, expected %.12Lg", name, (long long)c->vocab, c->softcap,
              (long long)i, got[i], want[i]);
}

static void check_against_truth(const linear_case *c, const linear_results *r, int kept)
{
    static linear_truth truth;
    memset(&truth, 0, sizeof truth);
    for (int t = 0; t < TOKENS; t++)
        if (c->labels[t] >= 0) truth_of_token(c, t, &truth);
    for (int i = 0; i < 3; i++) check_array("statistic", c, r->stats[i], truth.stats[i], TOKENS, 8.0L);
    if (!kept) check_array("sweep", c, r->sweep, truth.sweep, TOKENS * HIDDEN, 24.0L);
    check_array("grad_hidden", c, r->grad_hidden, truth.grad_hidden, TOKENS * HIDDEN, 24.0L);
    check_array("grad_weight", c, r->grad_weight, truth.grad_weight, c->vocab * HIDDEN, 24.0L);
    check_array("grad_bias", c, r->grad_bias, truth.grad_bias, c->vocab, 24.0L);
    check_array("grad_lora_a", c, r->grad_lora_a, truth.grad_lora_a, RANK * HIDDEN, 24.0L);
    check_array("grad_lora_b", c, r->grad_lora_b, truth.grad_lora_b, c->vocab * RANK, 24.0L);
}

static void test_one(int64_t vocab, int wide, double softcap, random_state *random)
{
    static linear_case c;
    static linear_results reference, other;
    const char *names[MAX_ROWS];
    const int rows = usable_rows(names);
    make_case(&c, vocab, wide, softcap, random);
    for (int isa = 0; isa < rows; isa++) {
        CHECK(pfo_set_isa(names[isa], NULL) == PFO_OK, "cannot choose row %s", names[isa]);
        for (int way = AGAIN; way < WAYS; way++) {
            linear_results *r = isa || way ? &other : &reference;
            run_case(&c, r, way);
            if (isa == 0) check_against_truth(&c, r, way == KEPT);
            if (way == KEPT) memcpy(r->sweep, reference.sweep, sizeof r->sweep);
            CHECK(memcmp(r, &reference, sizeof *r) == 0, "%s vocab %lld way %d: other bits than the scalar row",
                  names[isa], (long long)vocab, way);
        }
    }
    pfo_set_isa(NULL, NULL);
}

void test_linear(void)
{
    static const int64_t sizes[] = {1, 2, 15, 16, 17, 127, 128, 129, 513, 1100};
    random_state random = {21};
    CHECK(pfo_blas_name()[0] == '\0', "a BLAS is loaded: %s", pfo_blas_name());
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i] > size_limit()) continue;
        for (int wide = 0; wide < 2; wide++) test_one(sizes[i], wide, i % 2 ? 3.0 : 0.0, &random);
    }
    pfo_error error;
    CHECK(pfo_blas_load("/no/such/library", &error) == PFO_ERROR_VALUE, "loaded a library that is not there");
    CHECK(strcmp(error.argument, "path") == 0, "argument is %s", error.argument);
}
