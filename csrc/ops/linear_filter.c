/* Products over the tiles of the gradient that grad_filter leaves: see linear_filter.h. */
#include "linear_filter.h"

typedef struct job {
    const pfo_linear *l;
    const pfo_linear_filter *filter;
    const pfo_gemm *product;
    int64_t across; /* column tiles */
} job;

/* out [width] += factor row. */
static void add_scaled(const pfo_linear *l, char *out, const char *row, int64_t width, double factor)
{
    for (int64_t h = 0; h < width; h++)
        pfo_linear_write(l, out, h, pfo_linear_read(l, out, h) + factor * pfo_linear_read(l, row, h));
}

/* The label of a row of the span as a column of the vocabulary span, -1 if it stands elsewhere. */
static int64_t label_column(const pfo_linear *l, int64_t row)
{
    const int64_t column = l->labels[l->token_first + row] - l->vocab_start - l->vocab_first;
    return column >= 0 && column < l->vocab_count ? column : -1;
}

/* One row tile: runs of column tiles that count, in order, then the labels of the others. */
static void rows_body(void *context, int64_t begin, int64_t end)
{
    const job *j = (const job *)context;
    const pfo_linear *l = j->l;
    for (int64_t down = begin; down < end; down++) {
        const unsigned char *skipped = j->filter->skipped + down * j->across;
        const int64_t row = down * l->tile_rows;
        pfo_gemm part = *j->product;
        part.m = l->token_count - row < l->tile_rows ? l->token_count - row : l->tile_rows;
        part.c = pfo_linear_at(l, part.c, row * part.ldc);
        for (int64_t tile = 0; tile < j->across; tile++) {
            if (skipped[tile]) continue;
            int64_t last = tile;
            while (last + 1 < j->across && !skipped[last + 1]) last++;
            const int64_t column = tile * l->tile_columns, end_column = (last + 1) * l->tile_columns;
            part.k = (end_column < l->vocab_count ? end_column : l->vocab_count) - column;
            part.a = pfo_linear_at(l, j->product->a, row * part.lda + column);
            part.b = pfo_linear_at(l, j->product->b, column * part.ldb);
            pfo_linear_product(l, &part);
            tile = last;
        }
        for (int64_t i = 0; i < part.m; i++) {
            const int64_t column = label_column(l, row + i);
            if (column < 0 || !skipped[column / l->tile_columns]) continue;
            add_scaled(l, pfo_linear_at(l, part.c, i * part.ldc), pfo_linear_at(l, j->product->b, column * part.ldb),
                       part.n, pfo_linear_read(l, j->product->a, (row + i) * part.lda + column));
        }
    }
}

void pfo_linear_filter_rows(const pfo_linear *l, const pfo_linear_filter *filter, const pfo_gemm *product)
{
    job j = {l, filter, product, pfo_tiles_in(l->vocab_count, l->tile_columns)};
    if (product->n > 0)
        pfo_parallel_for(pfo_tiles_in(l->token_count, l->tile_rows), 1, pfo_linear_work(l), rows_body, &j);
}

static void columns_body(void *context, int64_t begin, int64_t end)
{
    const job *j = (const job *)context;
    const pfo_linear *l = j->l;
    for (int64_t tile = begin; tile < end; tile++) {
        const int64_t column = tile * l->tile_columns;
        pfo_gemm part = *j->product;
        part.m = l->vocab_count - column < l->tile_columns ? l->vocab_count - column : l->tile_columns;
        part.c = pfo_linear_at(l, part.c, column * part.ldc);
        for (int64_t row = 0; row < l->token_count; row += l->tile_rows) {
            if (j->filter->skipped[row / l->tile_rows * j->across + tile]) continue;
            part.k = l->token_count - row < l->tile_rows ? l->token_count - row : l->tile_rows;
            part.a = pfo_linear_at(l, j->product->a, row * part.lda + column);
            part.b = pfo_linear_at(l, j->product->b, row * part.ldb);
            pfo_linear_product(l, &part);
        }
        for (int64_t row = 0; row < l->token_count; row++) {
            const int64_t at = label_column(l, row);
            if (at < column || at >= column + part.m) continue;
            if (!j->filter->skipped[row / l->tile_rows * j->across + tile]) continue;
            add_scaled(l, pfo_linear_at(l, part.c, (at - column) * part.ldc),
                       pfo_linear_at(l, j->product->b, row * part.ldb), part.n,
                       pfo_linear_read(l, j->product->a, row * part.lda + at));
        }
    }
}

void pfo_linear_filter_columns(const pfo_linear *l, const pfo_linear_filter *filter, const pfo_gemm *product)
{
    job j = {l, filter, product, pfo_tiles_in(l->vocab_count, l->tile_columns)};
    if (product->n > 0) pfo_parallel_for(j.across, 1, pfo_linear_work(l), columns_body, &j);
}

void pfo_linear_filter_count(const pfo_linear_filter *filter, int64_t items, int64_t *made, int64_t *left_out)
{
    int64_t skipped = 0;
    for (int64_t item = 0; filter->skipped && item < items; item++) skipped += filter->skipped[item];
    if (made) *made += items - skipped;
    if (left_out) *left_out += skipped;
}
