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
#include "checks.h"
#include "linear_filter.h"

/* One row's coefficients. */
typedef struct row_grad {
    pfo_grad_row slope;
    double at_label; /* grad_logps chain */
    int valid;       /* lse is finite */
} row_grad;

typedef struct job {
    pfo_linear l;
    const pfo_linear_token_logps_grad_args *args;
    pfo_walk vectors[PFO_LINEAR_VECTORS];
    int32_t vector_dtypes[PFO_LINEAR_VECTORS]; /* PFO_NONE: absent, reads as 0 */
    row_grad *rows;                            /* [token_span] */
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
        const double by_logps = vector_at(j, PFO_LINEAR_OF_LOGPS, place),
                     by_entropy = vector_at(j, PFO_LINEAR_OF_ENTROPY, place);
        /* An entropy of NaN must not poison a row whose gradient for it is 0. */
        const double entropy_term = by_entropy == 0.0 ? 0.0 : by_entropy * vector_at(j, PFO_LINEAR_BY_ENTROPY, place);
        row_grad *g = &j->rows[row];
        memset(g, 0, sizeof *g);
        g->slope.lse = vector_at(j, PFO_LINEAR_BY_LSE, place);
        g->slope.temperature = 1.0;
        g->slope.a = (vector_at(j, PFO_LINEAR_OF_LSE, place) - by_logps - entropy_term) * chain;
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

/* x [columns] of one row to g, in place. */
static void grad_tile_row(const job *j, char *x, int64_t row, int64_t column, int64_t columns)
{
    const pfo_linear *l = &j->l;
    const row_grad *g = &j->rows[row];
    const int64_t at = l->labels[l->token_first + row] - l->vocab_start - l->vocab_first - column;
    const int has_label = at >= 0 && at < columns;
    if (j->filter.keeps) pfo_linear_filter_mark(&j->filter, l, x, column, columns, g->slope.lse, has_label ? at : -1);
    if (!g->valid) {
        for (int64_t v = 0; v < columns; v++) pfo_linear_write(l, x, v, (double)NAN);
        return;
    }
    const double target = has_label ? pfo_linear_read(l, x, at) : 0.0;
    l->kernels->linear_grad_row[l->wide](x, columns, &g->slope, &l->scale);
    if (!has_label) return;
    /* The label's entry again in double: p (a + b log p) + grad_logps chain cancels where p is near 1. */
    const double log_p = target - g->slope.lse, p = pfo_exp_f64(log_p);
    const double capped = l->scale.softcap > 0.0 ? target * l->scale.temperature / l->scale.softcap : 0.0;
    const double slope = p == 0.0 ? 0.0 : p * (g->slope.a + g->slope.b * log_p);
    pfo_linear_write(l, x, at, (slope + g->at_label) * (1.0 - capped * capped));
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
        if (j->filter.keeps) memset(j->filter.keeps + column, 0, (size_t)columns);
        for (int64_t i = 0; i < rows; i++) grad_tile_row(j, pfo_linear_at(l, memory, i * ld), row + i, column, columns);
    }
}

/* ---- products --------------------------------------------------------------------------------------------------- */

/* Columns of g that are left. */
static int64_t entries_of(const job *j) { return j->filter.keeps ? j->filter.count : j->l.vocab_count; }

/* out [token_count, width] += g head [entries, width], for weight and lora_b alike. */
static void add_rows_product(const job *j, const void *head, int64_t head_stride, int64_t width, void *out)
{
    const pfo_linear *l = &j->l;
    int64_t ld;
    const char *g = grad_memory(j, 0, 0, &ld);
    const pfo_gemm product = {.m = l->token_count,
                              .n = width,
                              .k = entries_of(j),
                              .alpha = 1.0,
                              .beta = l->vocab_first > 0 || j->filter.keeps,
                              .a = g,
                              .b = head,
                              .c = out,
                              .lda = ld,
                              .ldb = head_stride,
                              .ldc = width};
    if (product.k > 0) pfo_linear_accumulate(l, &product);
}

/* out [entries, width] += g^T values [token_count, width], for hidden and its LoRA product alike. */
static void add_columns_product(const job *j, const void *values, int64_t stride, int64_t width, const pfo_view *out)
{
    const pfo_linear *l = &j->l;
    if (!pfo_present(out)) return;
    int64_t ld;
    const char *g = grad_memory(j, 0, 0, &ld);
    char *rows = pfo_linear_at(l, out->data, l->vocab_first * width);
    const pfo_gemm product = {.trans_a = 1,
                              .m = entries_of(j),
                              .n = width,
                              .k = l->token_count,
                              .alpha = 1.0,
                              .beta = l->token_first > 0 && !j->filter.keeps,
                              .a = g,
                              .b = values,
                              .c = j->filter.keeps ? j->filter.sums : rows,
                              .lda = ld,
                              .ldb = stride,
                              .ldc = width};
    pfo_linear_accumulate(l, &product);
    if (j->filter.keeps) pfo_linear_filter_scatter(&j->filter, l, rows, width);
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

static void add_spans(job *j)
{
    const pfo_linear *l = &j->l;
    const pfo_linear_token_logps_grad_args *args = j->args;
    const int wants_hidden = pfo_present(&args->grad_hidden);
    if (pfo_present(&args->grad_bias)) /* of every entry: it comes before the filter moves them */
        pfo_parallel_for(pfo_tiles_in(l->vocab_count, l->tile_columns), 1,
                         (double)l->vocab_count * (double)l->token_count, bias_body, j);
    const void *head = l->weight_now;
    int64_t head_stride = l->weight_stride;
    if (j->filter.keeps) {
        int64_t ld;
        char *g = grad_memory(j, 0, 0, &ld);
        pfo_linear_filter_gather(&j->filter, l, g, ld);
        head = j->filter.weight_rows;
        head_stride = l->hidden_size;
    }
    if (args->entries_made) *args->entries_made += entries_of(j);
    if (args->entries_left_out) *args->entries_left_out += l->vocab_count - entries_of(j);
    if (wants_hidden) add_rows_product(j, head, head_stride, l->hidden_size, hidden_grad(j));
    if (l->rank > 0 && (wants_hidden || pfo_present(&args->grad_lora_a)))
        add_rows_product(j, l->lora_b_pack, l->rank, l->rank, j->lora_hidden_grad);
    add_columns_product(j, l->hidden_now, l->hidden_stride, l->hidden_size, &args->grad_weight);
    if (l->rank > 0) add_columns_product(j, l->lora_hidden, l->rank, l->rank, &args->grad_lora_b);
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

static void run_span(job *j, int64_t first, int64_t count)
{
    pfo_linear *l = &j->l;
    pfo_linear_take_tokens(l, first, count);
    prepare_rows(j);
    if (j->filter.keeps) {
        if (pfo_present(&j->args->grad_hidden))
            memset(hidden_grad(j), 0, (size_t)(count * l->hidden_size * l->real_size));
        memset(j->lora_hidden_grad, 0, (size_t)(count * l->rank * l->real_size));
    }
    for (int64_t v = 0; v < l->vocab; v += l->vocab_span) {
        pfo_linear_take_vocab(l, v, l->vocab - v < l->vocab_span ? l->vocab - v : l->vocab_span);
        const int64_t across = pfo_tiles_in(l->vocab_count, l->tile_columns);
        const int64_t items = pfo_tiles_in(count, l->tile_rows) * across;
        pfo_parallel_for(items, 1, pfo_linear_work(l), tiles_body, j);
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
    if (l->live > 0 && !j->filter.keeps) return;
    for (int k = 0; k < 4; k++)
        if (pfo_present(outputs[k])) memset(outputs[k]->data, 0, (size_t)(sizes[k] * l->real_size));
}

static pfo_status run(job *j, pfo_error *error)
{
    pfo_linear *l = &j->l;
    const pfo_linear_needs needs = {.buffers = !pfo_present(&j->args->kept), .filter = j->args->grad_filter > 0.0};
    pfo_status status = pfo_linear_open(l, &j->args->in, needs, error);
    if (status != PFO_OK) return status;
    j->rows = malloc((size_t)l->token_span * sizeof *j->rows);
    j->lora_hidden_grad = malloc((size_t)(l->token_span * l->rank * l->real_size) + 1);
    const int has_filter = !needs.filter || pfo_linear_filter_open(&j->filter, l, j->args->grad_filter);
    if (!j->rows || !j->lora_hidden_grad || !has_filter)
        return pfo_fail(error, PFO_ERROR_MEMORY, "memory_limit", -1, "no memory for %lld rows",
                        (long long)l->token_span);
    if (j->args->entries_made) *j->args->entries_made = 0;
    if (j->args->entries_left_out) *j->args->entries_left_out = 0;
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
    pfo_status status = pfo_linear_check(&j.l, &args->in, error);
    if (status == PFO_OK) status = pfo_check_linear_token_logps_grad(args, j.l.live, 0, error);
    if (status != PFO_OK) return status;
    const pfo_view *vectors[PFO_LINEAR_VECTORS];
    pfo_linear_vectors(args, vectors);
    for (int k = 0; k < PFO_LINEAR_VECTORS; k++) {
        j.vector_dtypes[k] = vectors[k]->dtype;
        if (pfo_present(vectors[k])) j.vectors[k] = pfo_walk_leading(vectors[k], 0);
    }
    const pfo_fpenv saved = pfo_fpenv_enter(); /* prepare_rows works on this thread */
    status = run(&j, error);
    pfo_fpenv_leave(saved);
    pfo_linear_close(&j.l);
    free(j.rows);
    free(j.lora_hidden_grad);
    pfo_linear_filter_close(&j.filter);
    return status;
}
