/* What the forward and the backward of the fused linear op share: one checked call, its workspace, its tiles.
 *
 * Unmasked tokens are counted through (compact rows) and worked on in spans of `token_span`, the vocabulary in spans of
 * `vocab_span`; a span pair is cut into tiles of at most tile_rows x tile_columns.  All cuts follow from sizes and from
 * memory_limit alone, never from the number of threads. */
#ifndef PFO_LINEAR_H
#define PFO_LINEAR_H

#include "../isa/isa_list.h"
#include "views.h"

typedef struct pfo_linear {
    const pfo_kernels *kernels;
    int wide; /* arithmetic in float (0) or double (1) */
    int64_t real_size;
    int64_t tokens, live, hidden_size, vocab, rank, vocab_start, vocab_total;
    pfo_linear_scale scale;
    int has_transform; /* x is not simply the product */

    pfo_walk hidden;
    int32_t hidden_dtype;
    const pfo_view *weight, *bias, *lora_a, *lora_b; /* NULL for absent */

    int64_t token_span, vocab_span, tile_rows, tile_columns;
    int scratch_workers; /* threads that the limit allows scratch tiles for */

    /* Workspace, [..] of the arithmetic type unless said. */
    int64_t *rows, *labels; /* [live] position among all tokens, label */
    void *hidden_pack;      /* [token_span, H], or NULL: read in place */
    void *weight_pack;      /* [vocab_span, H], or NULL */
    void *bias_pack;        /* [vocab_span] or NULL */
    void *lora_a_pack;      /* [r, H] or NULL without LoRA */
    void *lora_b_pack;      /* [vocab_span, r] */
    void *lora_hidden;      /* [token_span, r] hidden lora_a^T */
    void *tiles;            /* [token_span, vocab_span] x, then what is made of it; or [scratch_workers] tiles */
    void *moments;          /* the same for the entropy's gradient, or NULL */
    pfo_row_state *states;  /* [token_span, tiles of a span] */

    /* The spans in hand. */
    int64_t token_first, token_count, vocab_first, vocab_count;
    const char *hidden_now, *weight_now;  /* rows of the arithmetic type */
    int64_t hidden_stride, weight_stride; /* elements */
} pfo_linear;

/* What a call needs beside its inputs. */
typedef struct pfo_linear_needs {
    int buffers; /* of [token_span, vocab_span]: 0 to 2 */
    int scratch; /* without buffers: a tile for each thread */
    int states;
    int filter; /* linear_filter.h's memory */
} pfo_linear_needs;

/* Refuses bad inputs; fills what does not need memory. */
pfo_status pfo_linear_check(pfo_linear *l, const pfo_linear_inputs *in, pfo_error *error);
/* Workspace within the limit; pfo_linear_close frees it, also after a failure. */
pfo_status pfo_linear_open(pfo_linear *l, const pfo_linear_inputs *in, pfo_linear_needs needs, pfo_error *error);
void pfo_linear_close(pfo_linear *l);

/* Puts compact rows [first, first + count) or vocabulary entries in hand: converted and gathered where needed. */
void pfo_linear_take_tokens(pfo_linear *l, int64_t first, int64_t count);
void pfo_linear_take_vocab(pfo_linear *l, int64_t first, int64_t count);

/* x of one tile of the spans in hand into out (row stride ld elements). */
void pfo_linear_tile(const pfo_linear *l, int64_t row, int64_t rows, int64_t column, int64_t columns, void *out,
                     int64_t ld);
/* A product through the BLAS, or the plain kernel; nothing where a size is 0. */
void pfo_linear_product(const pfo_linear *l, const pfo_gemm *product);
/* c [count, width] += a [count, depth] b [depth, width], cut over threads by rows and columns. */
void pfo_linear_accumulate(const pfo_linear *l, const pfo_gemm *product);

/* Rows [live, width] at the beginning of an array [tokens, width] go to their places; the others become 0. */
void pfo_linear_spread_rows(const pfo_linear *l, void *base, int64_t width);

PFO_INLINE int64_t pfo_tiles_in(int64_t count, int64_t size) { return (count + size - 1) / size; }
/* Address of element (row, column). */
PFO_INLINE char *pfo_linear_at(const pfo_linear *l, const void *base, int64_t index)
{
    return (char *)(uintptr_t)base + index * l->real_size;
}
PFO_INLINE double pfo_linear_read(const pfo_linear *l, const void *base, int64_t index)
{
    return l->wide ? ((const double *)base)[index] : (double)((const float *)base)[index];
}
PFO_INLINE void pfo_linear_write(const pfo_linear *l, void *base, int64_t index, double value)
{
    if (l->wide)
        ((double *)base)[index] = value;
    else
        ((float *)base)[index] = (float)value;
}
PFO_INLINE double pfo_linear_work(const pfo_linear *l)
{
    return (double)l->token_count * (double)l->vocab_count * (double)(l->hidden_size + 1);
}

#endif
