/* Sums over the vocabulary that become gradients by hidden: see linear_sums.h. */
#include "linear_sums.h"

#include <math.h>

#include "../core/dtype.h"

/* moments += shift sums, then both times factor. */
static void move_part(const pfo_linear *l, void *sums, void *moments, int64_t width, double shift, double factor)
{
    for (int64_t h = 0; moments && factor != 0.0 && h < width; h++)
        pfo_linear_write(l, moments, h, pfo_linear_read(l, moments, h) + shift * pfo_linear_read(l, sums, h));
    l->kernels->scale_row[l->wide](sums, width, factor);
    if (moments) l->kernels->scale_row[l->wide](moments, width, factor);
}

void pfo_linear_sums_move(const pfo_linear *l, const pfo_linear_sums *s, int64_t row, double from, double to)
{
    /* e^(x - m) and e^(x - m) (x - m), m the new maximum: shift is m's step down in x - m. */
    const double shift = from - to, factor = isinf(from) ? 0.0 : pfo_exp_f64(shift);
    const int64_t start = (l->token_first + row) * l->hidden_size;
    move_part(l, pfo_linear_at(l, s->weight_sums, start),
              s->moment_sums ? pfo_linear_at(l, s->moment_sums, start) : NULL, l->hidden_size, shift, factor);
    if (l->rank == 0) return;
    move_part(l, pfo_linear_at(l, s->lora_weight_sums, row * l->rank),
              s->moment_sums ? pfo_linear_at(l, s->lora_moment_sums, row * l->rank) : NULL, l->rank, shift, factor);
}

/* sums += weights [tokens, vocab span] weight, and its LoRA part. */
static void add_products(const pfo_linear *l, const void *weights, char *sums, void *lora_sums)
{
    pfo_gemm product = {.m = l->token_count,
                        .n = l->hidden_size,
                        .k = l->vocab_count,
                        .alpha = 1.0,
                        .beta = 1.0,
                        .a = weights,
                        .b = l->weight_now,
                        .c = pfo_linear_at(l, sums, l->token_first * l->hidden_size),
                        .lda = l->vocab_span,
                        .ldb = l->weight_stride,
                        .ldc = l->hidden_size};
    pfo_linear_accumulate(l, &product);
    product.n = product.ldb = product.ldc = l->rank;
    product.b = l->lora_b_pack;
    product.c = lora_sums;
    pfo_linear_accumulate(l, &product);
}

void pfo_linear_sums_add(const pfo_linear *l, const pfo_linear_sums *s)
{
    add_products(l, l->tiles, s->weight_sums, s->lora_weight_sums);
    if (s->moment_sums) add_products(l, l->moments, s->moment_sums, s->lora_moment_sums);
}

static void add_lora(const pfo_linear *l, char *sums, const void *lora_sums)
{
    const pfo_gemm product = {.m = l->token_count,
                              .n = l->hidden_size,
                              .k = l->rank,
                              .alpha = 1.0,
                              .beta = 1.0,
                              .a = lora_sums,
                              .b = l->lora_a_pack,
                              .c = pfo_linear_at(l, sums, l->token_first * l->hidden_size),
                              .lda = l->rank,
                              .ldb = l->hidden_size,
                              .ldc = l->hidden_size};
    pfo_linear_accumulate(l, &product);
}

void pfo_linear_sums_add_lora(const pfo_linear *l, const pfo_linear_sums *s)
{
    if (l->rank == 0) return;
    add_lora(l, s->weight_sums, s->lora_weight_sums);
    if (s->moment_sums) add_lora(l, s->moment_sums, s->lora_moment_sums);
}

#define CHUNK 256

/* Entries [first, first + count) of the label's row of the whole head, weight[y] + lora_b[y] lora_a. */
static void label_weights(const pfo_linear *l, int64_t label, int64_t first, int64_t count, double *out)
{
    double memory[CHUNK]; /* of the arithmetic type */
    const char *row = (const char *)l->weight->data + label * l->weight->strides_bytes[0];
    l->kernels->widen_row[pfo_logit_index_of(l->weight->dtype)](row + first * pfo_dtype_size(l->weight->dtype), memory,
                                                                count);
    for (int64_t h = 0; h < count; h++) out[h] = pfo_linear_read(l, memory, h);
    for (int64_t r = 0; r < l->rank; r++) {
        const char *b = (const char *)l->lora_b->data + label * l->lora_b->strides_bytes[0];
        const double factor = pfo_read_float(b + r * pfo_dtype_size(l->lora_b->dtype), l->lora_b->dtype);
        for (int64_t h = 0; h < count; h++)
            out[h] += factor * pfo_linear_read(l, l->lora_a_pack, r * l->hidden_size + first + h);
    }
}

/* The sums of one row to gradients: d lse = chain sums / S, d logp = chain cap'_y w_y - d lse, and the entropy's
 * -chain (moments / S - (sum_x_exp / S) sums / S), w_y the label's row of the whole head, chain = logit_scale / T. */
void pfo_linear_sums_finish(const pfo_linear *l, const pfo_linear_sums *s, int64_t row, const pfo_row_state *state,
                            const pfo_row_stats *stats, const pfo_view *logps_out, const pfo_view *lse_out)
{
    const int64_t width = l->hidden_size, start = (l->token_first + row) * width;
    const double chain = isfinite(stats->lse) ? l->scale.logit_scale / l->scale.temperature : (double)NAN;
    const double share = chain / state->sum_exp, mean = state->sum_x_exp / state->sum_exp;
    const double capped = l->scale.softcap > 0.0 ? state->target * l->scale.temperature / l->scale.softcap : 0.0;
    const double at_label = chain * (1.0 - capped * capped);
    const char *sums = pfo_linear_at(l, s->weight_sums, start);
    char *by_logps = pfo_present(logps_out) ? pfo_linear_at(l, logps_out->data, start) : NULL;
    char *by_lse = pfo_present(lse_out) ? pfo_linear_at(l, lse_out->data, start) : NULL;
    char *by_entropy = s->moment_sums ? pfo_linear_at(l, s->moment_sums, start) : NULL;
    for (int64_t first = 0; first < width; first += CHUNK) {
        const int64_t count = width - first < CHUNK ? width - first : CHUNK;
        double target[CHUNK];
        if (by_logps) label_weights(l, l->labels[l->token_first + row], first, count, target);
        for (int64_t h = 0; h < count; h++) {
            const double sum = pfo_linear_read(l, sums, first + h);
            if (by_entropy)
                pfo_linear_write(l, by_entropy, first + h,
                                 -share * (pfo_linear_read(l, by_entropy, first + h) - mean * sum));
            if (by_lse) pfo_linear_write(l, by_lse, first + h, share * sum);
            if (by_logps) pfo_linear_write(l, by_logps, first + h, at_label * target[h] - share * sum);
        }
    }
}
