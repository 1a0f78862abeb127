/* linear_token_logps_grad: the gradients of hidden, head and LoRA from those of logps, entropy and lse.
 *
 * For each span of tokens, for each span of the vocabulary:
 *   tiles      x again (or as the forward kept it), and in its place g = d loss / d z before logit_scale's rounding:
 *              p (a + b log p) cap' + grad_logps chain cap' [v == label], chain = logit_scale / temperature
 *   products   grad_hidden [tokens, H] += g weight;  grad_weight [vocab span, H] += g^T hidden;  and the small ones
 * Each product writes rows of its own, so threads never add to one place and sums have one order. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../core/dtype.h"
#include "linear_filter.h"

/* The [...] inputs in the order of the arguments. */
enum {
    LSE,
    ENTROPY,
    GRAD_LOGPS,
    GRAD_ENTROPY,
    GRAD_LSE,
    VECTOR_COUNT
};
static const char *const vector_names[VECTOR_COUNT] = {"lse", "entropy", "grad_logps", "grad_entropy", "grad_lse"};

/* One row's coefficients. */
typedef struct row_grad {
    pfo_grad_row slope;
    double at_label; /* grad_logps chain */
    int valid;       /* lse is finite */
} row_grad;

typedef struct job {
    pfo_linear l;
    const pfo_linear_token_logps_grad_args *args;
    pfo_walk vectors[VECTOR_COUNT];
    int32_t vector_dtypes[VECTOR_COUNT]; /* PFO_NONE: absent, reads as 0 */
    row_grad *rows;                      /* [token_span] */
    pfo_linear_filter filter;
    void *lora_hidden_grad; /* [token_span, r] */
} job;

pfo_linear_token_logps_grad_args pfo_linear_token_logps_grad_args_default(void)
{
    pfo_linear_token_logps_grad_args args;
    memset(&args, 0, sizeof args);
    args.in.ignore_index = -100;
    args.in.logit_scale = args.in.temperature = 1.0;
    return args;
}

static double vector_at(const job *j, int which, int64_t place)
{
    if (j->vector_dtypes[which] == PFO_NONE) return 0.0;
    return pfo_read_float(pfo_walk_at(&j->vectors[which], place), j->vector_dtypes[which]);
}

static void prepare_rows(job *j)
{
    const pfo_linear *l = &j->l;
    const double chain = l->scale.logit_scale / l->scale.temperature;
    for (int64_t row = 0; row < l->token_count; row++) {
        const int64_t place = l->rows[l->token_first + row];
        const double by_logps = vector_at(j, GRAD_LOGPS, place), by_entropy = vector_at(j, GRAD_ENTROPY, place);
        /* An entropy of NaN must not poison a row whose gradient for it is 0. */
        const double entropy_term = by_entropy == 0.0 ? 0.0 : by_entropy * vector_at(j, ENTROPY, place);
        row_grad *g = &j->rows[row];
        memset(g, 0, sizeof *g);
        g->slope.lse = vector_at(j, LSE, place);
        g->slope.temperature = 1.0;
        g->slope.a = (vector_at(j, GRAD_LSE, place) - by_logps - entropy_term) * chain;
        g->slope.b = -by_entropy * chain;
        g->at_label = by_logps * chain;
        g->valid = isfinite(g->slope.lse);
    }
}

/* ---- tiles ------------------------------------------------------------------------------------------------------ */

/* Element (row, column) of the spans in hand, and the step between rows. */
static char *grad_memory(const job *j, int64_t row, int64_t column, int64_t *ld)
{
    const pfo_linear *l = &j->l;
    if (pfo_present(&j->args->kept)) {
        *ld = l->vocab;
        return pfo_linear_at(l, j->args->kept.data, (l->token_first + row) * l->vocab + l->vocab_first + column);
    }
    *ld = l->vocab_span;
    return pfo_linear_at(l, l->tiles, row * l->vocab_span + column);
}

/* x [columns] of one row to g, in place; returns its largest p. */
static double grad_tile_row(const job *j, char *x, int64_t row, int64_t column, int64_t columns)
{
    const pfo_linear *l = &j->l;
    const row_grad *g = &j->rows[row];
    if (!g->valid) {
        for (int64_t v = 0; v < columns; v++) pfo_linear_write(l, x, v, (double)NAN);
        return 1.0;
    }
    const int64_t at = l->labels[l->token_first + row] - l->vocab_start - l->vocab_first - column;
    const int has_label = at >= 0 && at < columns;
    const double target = has_label ? pfo_linear_read(l, x, at) : 0.0;
    double largest;
    l->kernels->linear_grad_row[l->wide](x, columns, &g->slope, &l->scale, &largest);
    if (!has_label) return largest;
    /* The label's entry again in double: p (a + b log p) + grad_logps chain cancels where p is near 1. */
    const double log_p = target - g->slope.lse, p = pfo_exp_f64(log_p);
    const double capped = l->scale.softcap > 0.0 ? target * l->scale.temperature / l->scale.softcap : 0.0;
    const double slope = p == 0.0 ? 0.0 : p * (g->slope.a + g->slope.b * log_p);
    pfo_linear_write(l, x, at, (slope + g->at_label) * (1.0 - capped * capped));
    return largest;
}

static void tiles_body(void *context, int64_t begin, int64_t end)
{
    const job *j = (const job *)context;
    const pfo_linear *l = &j->l;
    const int64_t across = pfo_tiles_in(l->vocab_count, l->tile_columns);
    for (int64_t item = begin; item < end; item++) {
        const int64_t row = item / across * l->tile_rows, column = item % across * l->tile_columns;
        const int64_t rows = l->token_count - row < l->tile_rows ? l->token_count - row : l->tile_rows;
        const int64_t columns = l->vocab_count - column < l->tile_columns ? l->vocab_count - column : l->tile_columns;
        int64_t ld;
        char *memory = grad_memory(j, row, column, &ld);
        if (!pfo_present(&j->args->kept)) pfo_linear_tile(l, row, rows, column, columns, memory, ld);
        double largest = 0.0;
        for (int64_t i = 0; i < rows; i++) {
            const double p = grad_tile_row(j, pfo_linear_at(l, memory, i * ld), row + i, column, columns);
            if (p > largest) largest = p;
        }
        if (j->filter.skipped) j->filter.skipped[item] = largest < j->args->grad_filter;
    }
}

/* ---- products --------------------------------------------------------------------------------------------------- */

/* out [token_count, width] += g head [vocab span, width], for weight and lora_b alike. */
static void add_rows_product(const job *j, const void *head, int64_t head_stride, int64_t width, void *out)
{
    const pfo_linear *l = &j->l;
    int64_t ld;
    const char *g = grad_memory(j, 0, 0, &ld);
    const pfo_gemm product = {.m = l->token_count,
                              .n = width,
                              .k = l->vocab_count,
                              .alpha = 1.0,
                              .beta = l->vocab_first > 0 || j->filter.skipped,
                              .a = g,
                              .b = head,
                              .c = out,
                              .lda = ld,
                              .ldb = head_stride,
                              .ldc = width};
    if (j->filter.skipped)
        pfo_linear_filter_rows(l, &j->filter, &product);
    else
        pfo_linear_accumulate(l, &product);
}

/* out [vocab span, width] += g^T values [token_count, width], for hidden and its LoRA product alike. */
static void add_columns_product(const job *j, const void *values, int64_t stride, int64_t width, const pfo_view *out)
{
    const pfo_linear *l = &j->l;
    if (!pfo_present(out)) return;
    int64_t ld;
    const char *g = grad_memory(j, 0, 0, &ld);
    const pfo_gemm product = {.trans_a = 1,
                              .m = l->vocab_count,
                              .n = width,
                              .k = l->token_count,
                              .alpha = 1.0,
                              .beta = l->token_first > 0 || j->filter.skipped,
                              .a = g,
                              .b = values,
                              .c = pfo_linear_at(l, out->data, l->vocab_first * width),
                              .lda = ld,
                              .ldb = stride,
                              .ldc = width};
    if (j->filter.skipped)
        pfo_linear_filter_columns(l, &j->filter, &product);
    else
        pfo_linear_accumulate(l, &product);
}

static void bias_body(void *context, int64_t begin, int64_t end)
{
    const job *j = (const job *)context;
    const pfo_linear *l = &j->l;
    for (int64_t tile = begin; tile < end; tile++) {
        const int64_t column = tile * l->tile_columns;
        const int64_t columns = l->vocab_count - column < l->tile_columns ? l->vocab_count - column : l->tile_columns;
        char *out = pfo_linear_at(l, j->args->grad_bias.data, l->vocab_first + column);
        if (l->token_first == 0) memset(out, 0, (size_t)(columns * l->real_size));
        for (int64_t row = 0; row < l->token_count; row++) {
            int64_t ld;
            l->kernels->add_row[l->wide](out, grad_memory(j, row, column, &ld), columns);
        }
    }
}

static char *hidden_grad(const job *j)
{
    const pfo_linear *l = &j->l;
    return pfo_linear_at(l, j->args->grad_hidden.data, l->token_first * l->hidden_size);
}

static void add_spans(const job *j)
{
    const pfo_linear *l = &j->l;
    const pfo_linear_token_logps_grad_args *args = j->args;
    const int wants_hidden = pfo_present(&args->grad_hidden);
    if (wants_hidden) add_rows_product(j, l->weight_now, l->weight_stride, l->hidden_size, hidden_grad(j));
    if (l->rank > 0 && (wants_hidden || pfo_present(&args->grad_lora_a)))
        add_rows_product(j, l->lora_b_pack, l->rank, l->rank, j->lora_hidden_grad);
    add_columns_product(j, l->hidden_now, l->hidden_stride, l->hidden_size, &args->grad_weight);
    if (l->rank > 0) add_columns_product(j, l->lora_hidden, l->rank, l->rank, &args->grad_lora_b);
    if (pfo_present(&args->grad_bias))
        pfo_parallel_for(pfo_tiles_in(l->vocab_count, l->tile_columns), 1,
                         (double)l->vocab_count * (double)l->token_count, bias_body, (void *)(uintptr_t)j);
}

/* What goes through hidden lora_a^T: its share of grad_hidden, and grad_lora_a. */
static void add_lora(const job *j)
{
    const pfo_linear *l = &j->l;
    if (l->rank == 0) return;
    pfo_gemm product = {.m = l->token_count,
                        .n = l->hidden_size,
                        .k = l->rank,
                        .alpha = 1.0,
                        .beta = 1.0,
                        .a = j->lora_hidden_grad,
                        .b = l->lora_a_pack,
                        .lda = l->rank,
                        .ldb = l->hidden_size,
                        .ldc = l->hidden_size};
    if (pfo_present(&j->args->grad_hidden)) {
        product.c = hidden_grad(j);
        pfo_linear_accumulate(l, &product);
    }
    if (!pfo_present(&j->args->grad_lora_a)) return;
    product.trans_a = 1;
    product.m = l->rank;
    product.k = l->token_count;
    product.beta = l->token_first > 0;
    product.b = l->hidden_now;
    product.c = j->args->grad_lora_a.data;
    product.ldb = l->hidden_stride;
    pfo_linear_accumulate(l, &product);
}

/* ---- the call --------------------------------------------------------------------------------------------------- */

static pfo_status check_vectors(const pfo_linear_token_logps_grad_args *args, const pfo_view *vectors[],
                                pfo_error *error)
{
    pfo_status status = PFO_OK;
    for (int k = 0; status == PFO_OK && k < VECTOR_COUNT; k++) {
        if (!pfo_present(vectors[k]) && k != LSE) continue;
        status = pfo_check_array(vectors[k], vector_names[k], PFO_SET_FLOAT, error);
        if (status == PFO_OK)
            status = pfo_check_leading(vectors[k], vector_names[k], &args->in.labels, 0, "labels", error);
    }
    if (status != PFO_OK) return status;
    if (!pfo_present(&args->grad_logps) && !pfo_present(&args->grad_entropy) && !pfo_present(&args->grad_lse))
        return pfo_fail(error, PFO_ERROR_MISSING, "grad_logps", -1,
                        "expected at least one of grad_logps, grad_entropy and grad_lse, got none");
    if (pfo_present(&args->grad_entropy) && !pfo_present(&args->entropy))
        return pfo_fail(error, PFO_ERROR_MISSING, "entropy", -1,
                        "expected the forward's entropy with grad_entropy, got none");
    if (!(args->grad_filter >= 0.0 && args->grad_filter < 1.0)) /* false for NaN */
        return pfo_fail(error, PFO_ERROR_VALUE, "grad_filter", -1, "expected a number in [0, 1), got %g",
                        args->grad_filter);
    return PFO_OK;
}

static pfo_status check_outputs(const pfo_linear_token_logps_grad_args *args, const pfo_linear *l,
                                const pfo_view *vectors[], pfo_error *error)
{
    enum {
        OUTPUT_COUNT = 5
    };
    const pfo_view *outputs[OUTPUT_COUNT] = {&args->grad_weight, &args->grad_bias, &args->grad_lora_a,
                                             &args->grad_lora_b, &args->grad_hidden};
    static const char *const names[OUTPUT_COUNT] = {"grad_weight", "grad_bias", "grad_lora_a", "grad_lora_b",
                                                    "grad_hidden"};
    const int64_t shapes[4][2] = {
        {l->vocab, l->hidden_size}, {l->vocab, 0}, {l->rank, l->hidden_size}, {l->vocab, l->rank}};
    const int32_t real = l->wide ? PFO_F64 : PFO_F32;
    int present = 0;
    for (int k = 0; k < OUTPUT_COUNT; k++) {
        if (!pfo_present(outputs[k])) continue;
        present = 1;
        if ((k == 1 && !l->bias) || ((k == 2 || k == 3) && l->rank == 0))
            return pfo_fail(error, PFO_ERROR_VALUE, names[k], -1, "expected none: the call has no such input");
        pfo_status status =
            k < 4 ? pfo_linear_check_out(&args->in, outputs[k], names[k], k == 1 ? 1 : 2, shapes[k], real, error)
                  : pfo_linear_check_rows_out(&args->in, outputs[k], names[k], l->hidden_size, real, error);
        for (int v = 0; status == PFO_OK && v < VECTOR_COUNT; v++)
            status = pfo_check_disjoint(outputs[k], names[k], vectors[v], vector_names[v], error);
        for (int other = 0; status == PFO_OK && other < k; other++)
            if (pfo_present(outputs[other]))
                status = pfo_check_disjoint(outputs[k], names[k], outputs[other], names[other], error);
        if (status == PFO_OK) status = pfo_check_disjoint(outputs[k], names[k], &args->kept, "kept", error);
        if (status != PFO_OK) return status;
    }
    if (!present) return pfo_fail(error, PFO_ERROR_MISSING, "grad_hidden", -1, "expected at least one gradient");
    if (!pfo_present(&args->kept)) return PFO_OK;
    const int64_t shape[2] = {l->live, l->vocab};
    return pfo_linear_check_out(&args->in, &args->kept, "kept", 2, shape, real, error);
}

static void run_span(job *j, int64_t first, int64_t count)
{
    pfo_linear *l = &j->l;
    pfo_linear_take_tokens(l, first, count);
    prepare_rows(j);
    if (j->filter.skipped) {
        if (pfo_present(&j->args->grad_hidden))
            memset(hidden_grad(j), 0, (size_t)(count * l->hidden_size * l->real_size));
        memset(j->lora_hidden_grad, 0, (size_t)(count * l->rank * l->real_size));
    }
    for (int64_t v = 0; v < l->vocab; v += l->vocab_span) {
        pfo_linear_take_vocab(l, v, l->vocab - v < l->vocab_span ? l->vocab - v : l->vocab_span);
        const int64_t across = pfo_tiles_in(l->vocab_count, l->tile_columns);
        const int64_t items = pfo_tiles_in(count, l->tile_rows) * across;
        pfo_parallel_for(items, 1, pfo_linear_work(l), tiles_body, j);
        pfo_linear_filter_count(&j->filter, items, j->args->tiles_made, j->args->tiles_left_out);
        add_spans(j);
    }
    add_lora(j);
}

/* Outputs that no span writes as a whole start from 0. */
static void clear_outputs(const job *j)
{
    const pfo_linear *l = &j->l;
    const pfo_view *outputs[] = {&j->args->grad_weight, &j->args->grad_bias, &j->args->grad_lora_a,
                                 &j->args->grad_lora_b};
    const int64_t sizes[] = {l->vocab * l->hidden_size, l->vocab, l->rank * l->hidden_size, l->vocab * l->rank};
    if (l->live > 0 && !j->filter.skipped) return;
    for (int k = 0; k < 4; k++)
        if (pfo_present(outputs[k])) memset(outputs[k]->data, 0, (size_t)(sizes[k] * l->real_size));
}

static pfo_status run(job *j, pfo_error *error)
{
    pfo_linear *l = &j->l;
    const pfo_linear_needs needs = {.buffers = !pfo_present(&j->args->kept)};
    pfo_status status = pfo_linear_open(l, &j->args->in, needs, error);
    if (status != PFO_OK) return status;
    j->rows = malloc((size_t)l->token_span * sizeof *j->rows);
    j->lora_hidden_grad = malloc((size_t)(l->token_span * l->rank * l->real_size) + 1);
    if (j->args->grad_filter > 0.0)
        j->filter.skipped =
            malloc((size_t)(pfo_tiles_in(l->token_span, l->tile_rows) * pfo_tiles_in(l->vocab_span, l->tile_columns)));
    if (!j->rows || !j->lora_hidden_grad || (j->args->grad_filter > 0.0 && !j->filter.skipped))
        return pfo_fail(error, PFO_ERROR_MEMORY, "memory_limit", -1, "no memory for %lld rows",
                        (long long)l->token_span);
    if (j->args->tiles_made) *j->args->tiles_made = 0;
    if (j->args->tiles_left_out) *j->args->tiles_left_out = 0;
    clear_outputs(j);
    for (int64_t first = 0; first < l->live; first += l->token_span)
        run_span(j, first, l->live - first < l->token_span ? l->live - first : l->token_span);
    if (pfo_present(&j->args->grad_hidden)) pfo_linear_spread_rows(l, j->args->grad_hidden.data, l->hidden_size);
    return PFO_OK;
}

pfo_status pfo_linear_token_logps_grad(const pfo_linear_token_logps_grad_args *args, pfo_error *error)
{
    pfo_clear(error);
    job j;
    memset(&j, 0, sizeof j);
    j.args = args;
    const pfo_view *vectors[VECTOR_COUNT] = {&args->lse, &args->entropy, &args->grad_logps, &args->grad_entropy,
                                             &args->grad_lse};
    pfo_status status = pfo_linear_check(&j.l, &args->in, error);
    if (status == PFO_OK) status = check_vectors(args, vectors, error);
    if (status == PFO_OK) status = check_outputs(args, &j.l, vectors, error);
    if (status != PFO_OK) return status;
    for (int k = 0; k < VECTOR_COUNT; k++) {
        j.vector_dtypes[k] = vectors[k]->dtype;
        if (pfo_present(vectors[k])) j.vectors[k] = pfo_walk_leading(vectors[k], 0);
    }
    const pfo_fpenv saved = pfo_fpenv_enter(); /* prepare_rows works on this thread */
    status = run(&j, error);
    pfo_fpenv_leave(saved);
    pfo_linear_close(&j.l);
    free(j.rows);
    free(j.lora_hidden_grad);
    free(j.filter.skipped);
    return status;
}
