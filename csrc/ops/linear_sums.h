/* Sums over the vocabulary that become gradients by hidden, made while the tiles go by.
 *
 *     weight_sums [t] = sum_v e_v cap'_v w_v,  moment_sums [t] = sum_v e_v (x_v - m) cap'_v w_v,  e_v = exp(x_v - m)
 *
 * w_v is entry v's row of the whole head, weight[v] + lora_b[v] lora_a.  Rows are compact and stand in the gradients'
 * own memory until the end. */
#ifndef PFO_LINEAR_SUMS_H
#define PFO_LINEAR_SUMS_H

#include "linear.h"

typedef struct pfo_linear_sums {
    char *weight_sums, *moment_sums;           /* [live, H]; moments NULL without the entropy's gradient */
    void *lora_weight_sums, *lora_moment_sums; /* [token_span, r]: the same of lora_b, times lora_a at the end */
} pfo_linear_sums;

/* Row `row` of the token span moves from one maximum to a higher one. */
void pfo_linear_sums_move(const pfo_linear *l, const pfo_linear_sums *s, int64_t row, double from, double to);
/* Adds the spans in hand: l->tiles holds e cap', l->moments e (x - m) cap'. */
void pfo_linear_sums_add(const pfo_linear *l, const pfo_linear_sums *s);
void pfo_linear_sums_add_lora(const pfo_linear *l, const pfo_linear_sums *s);
/* Gradients of one row, from its complete state. */
void pfo_linear_sums_finish(const pfo_linear *l, const pfo_linear_sums *s, int64_t row, const pfo_row_state *state,
                            const pfo_row_stats *stats, const pfo_view *logps_out, const pfo_view *lse_out);

#endif
