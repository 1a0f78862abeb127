/* The fused linear op's pieces: spans put in hand, tiles of logits, products cut over threads. */
#include <string.h>

#include "../core/dtype.h"
#include "linear.h"

/* ---- spans ------------------------------------------------------------------------------------------------------ */

static void hidden_rows_body(void *context, int64_t begin, int64_t end)
{
    const pfo_linear *l = (const pfo_linear *)context;
    const int index = pfo_logit_index_of(l->hidden_dtype);
    for (int64_t i = begin; i < end; i++)
        l->kernels->widen_row[index](pfo_walk_at(&l->hidden, l->rows[l->token_first + i]),
                                     pfo_linear_at(l, l->hidden_pack, i * l->hidden_size), l->hidden_size);
}

void pfo_linear_take_tokens(pfo_linear *l, int64_t first, int64_t count)
{
    l->token_first = first;
    l->token_count = count;
    if (l->hidden_pack) {
        pfo_parallel_for(count, 64, (double)count * (double)l->hidden_size, hidden_rows_body, l);
        l->hidden_now = (const char *)l->hidden_pack;
        l->hidden_stride = l->hidden_size;
    } else {
        const int64_t stride = l->hidden.ndim ? l->hidden.strides_bytes[0] : l->hidden_size * l->real_size;
        l->hidden_now = l->hidden.base + first * stride;
        l->hidden_stride = stride / l->real_size;
    }
    const pfo_gemm lora = {.trans_b = 1,
                           .m = count,
                           .n = l->rank,
                           .k = l->hidden_size,
                           .alpha = 1.0,
                           .a = l->hidden_now,
                           .b = l->lora_a_pack,
                           .c = l->lora_hidden,
                           .lda = l->hidden_stride,
                           .ldb = l->hidden_size,
                           .ldc = l->rank};
    pfo_linear_accumulate(l, &lora);
}

/* Rows [first + begin, first + end) of a [V, width] input into a pack. */
static void widen_rows(const pfo_linear *l, const pfo_view *view, int64_t first, int64_t begin, int64_t end,
                       int64_t width, void *pack)
{
    const int index = pfo_logit_index_of(view->dtype);
    for (int64_t i = begin; i < end; i++)
        l->kernels->widen_row[index]((const char *)view->data + (first + i) * view->strides_bytes[0],
                                     pfo_linear_at(l, pack, i * width), width);
}

static void vocab_rows_body(void *context, int64_t begin, int64_t end)
{
    const pfo_linear *l = (const pfo_linear *)context;
    if (l->weight_pack) widen_rows(l, l->weight, l->vocab_first, begin, end, l->hidden_size, l->weight_pack);
    if (l->lora_b_pack) widen_rows(l, l->lora_b, l->vocab_first, begin, end, l->rank, l->lora_b_pack);
}

void pfo_linear_take_vocab(pfo_linear *l, int64_t first, int64_t count)
{
    l->vocab_first = first;
    l->vocab_count = count;
    if (l->weight_pack || l->lora_b_pack)
        pfo_parallel_for(count, 64, (double)count * (double)l->hidden_size, vocab_rows_body, l);
    if (l->bias_pack) {
        const char *bias = (const char *)l->bias->data + first * pfo_dtype_size(l->bias->dtype);
        l->kernels->widen_row[pfo_logit_index_of(l->bias->dtype)](bias, l->bias_pack, count);
    }
    l->weight_now = l->weight_pack ? (const char *)l->weight_pack
                                   : (const char *)l->weight->data + first * l->weight->strides_bytes[0];
    l->weight_stride = l->weight_pack || l->vocab == 1 ? l->hidden_size : l->weight->strides_bytes[0] / l->real_size;
}

/* ---- products --------------------------------------------------------------------------------------------------- */

void pfo_linear_product(const pfo_linear *l, const pfo_gemm *product)
{
    if (product->m <= 0 || product->n <= 0) return;
    if (!pfo_blas_gemm(product, l->wide)) l->kernels->gemm[l->wide](product);
}

typedef struct cut_product {
    const pfo_linear *l;
    const pfo_gemm *whole;
    int64_t rows, columns, across; /* of a piece; pieces across */
} cut_product;

static void product_body(void *context, int64_t begin, int64_t end)
{
    const cut_product *cut = (const cut_product *)context;
    for (int64_t piece = begin; piece < end; piece++) {
        pfo_gemm part = *cut->whole;
        const int64_t row = piece / cut->across * cut->rows, column = piece % cut->across * cut->columns;
        part.m = part.m - row < cut->rows ? part.m - row : cut->rows;
        part.n = part.n - column < cut->columns ? part.n - column : cut->columns;
        part.a = pfo_linear_at(cut->l, part.a, part.trans_a ? row : row * part.lda);
        part.b = pfo_linear_at(cut->l, part.b, part.trans_b ? column * part.ldb : column);
        part.c = pfo_linear_at(cut->l, part.c, row * part.ldc + column);
        pfo_linear_product(cut->l, &part);
    }
}

void pfo_linear_accumulate(const pfo_linear *l, const pfo_gemm *product)
{
    if (product->m <= 0 || product->n <= 0) return;
    cut_product cut = {.l = l, .whole = product, .rows = 512, .columns = product->n};
    /* Eight pieces or more where the sizes allow, by rows first: a's packing is then done once. */
    if (product->m < 8 * cut.rows) cut.rows = 256;
    const int64_t down = pfo_tiles_in(product->m, cut.rows);
    if (down < 8 && product->n >= 256) {
        const int64_t across = pfo_tiles_in(8, down), limit = product->n / 128;
        const int64_t pieces = across < limit ? across : limit;
        cut.columns = (pfo_tiles_in(product->n, pieces) + 15) / 16 * 16;
    }
    cut.across = pfo_tiles_in(product->n, cut.columns);
    pfo_parallel_for(down * cut.across, 1, (double)product->m * (double)product->n * (double)(product->k + 1),
                     product_body, &cut);
}

void pfo_linear_tile(const pfo_linear *l, int64_t row, int64_t rows, int64_t column, int64_t columns, void *out,
                     int64_t ld)
{
    pfo_gemm product = {.trans_b = 1,
                        .m = rows,
                        .n = columns,
                        .k = l->hidden_size,
                        .alpha = 1.0,
                        .a = pfo_linear_at(l, l->hidden_now, row * l->hidden_stride),
                        .b = pfo_linear_at(l, l->weight_now, column * l->weight_stride),
                        .c = out,
                        .lda = l->hidden_stride,
                        .ldb = l->weight_stride,
                        .ldc = ld};
    pfo_linear_product(l, &product);
    if (l->rank > 0) {
        product.k = product.lda = product.ldb = l->rank;
        product.beta = 1.0;
        product.a = pfo_linear_at(l, l->lora_hidden, row * l->rank);
        product.b = pfo_linear_at(l, l->lora_b_pack, column * l->rank);
        pfo_linear_product(l, &product);
    }
    if (!l->has_transform) return;
    const void *bias = l->bias_pack ? pfo_linear_at(l, l->bias_pack, column) : NULL;
    for (int64_t i = 0; i < rows; i++)
        l->kernels->transform_row[l->wide](pfo_linear_at(l, out, i * ld), bias, columns, &l->scale);
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

void pfo_linear_spread_rows(const pfo_linear *l, void *base, int64_t width)
{
    const size_t bytes = (size_t)(width * l->real_size);
    int64_t next = l->tokens; /* places from here on are done */
    for (int64_t i = l->live - 1; i >= 0; i--) {
        const int64_t place = l->rows[i];
        if (place != i) memcpy(pfo_linear_at(l, base, place * width), pfo_linear_at(l, base, i * width), bytes);
        for (int64_t empty = place + 1; empty < next; empty++) memset(pfo_linear_at(l, base, empty * width), 0, bytes);
        next = place;
    }
    for (int64_t empty = 0; empty < next; empty++) memset(pfo_linear_at(l, base, empty * width), 0, bytes);
}
