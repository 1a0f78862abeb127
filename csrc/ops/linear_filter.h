/* grad_filter: tiles of the gradient in which every probability is small are left out of the products.
 *
 * What is lost of a row is at most the sum of its left-out p times |a + b log p| times |weight|.  A label's own entry,
 * which is not small (about -grad_logps where p is), is added by itself. */
#ifndef PFO_LINEAR_FILTER_H
#define PFO_LINEAR_FILTER_H

#include "linear.h"

typedef struct pfo_linear_filter {
    unsigned char *skipped; /* [row tiles, column tiles] of the spans in hand; NULL: no filter */
} pfo_linear_filter;

/* c [tokens, width] += g b [vocab span, width] over the tiles that count. */
void pfo_linear_filter_rows(const pfo_linear *l, const pfo_linear_filter *filter, const pfo_gemm *product);
/* c [vocab span, width] += g^T b [tokens, width] likewise. */
void pfo_linear_filter_columns(const pfo_linear *l, const pfo_linear_filter *filter, const pfo_gemm *product);
/* Adds `items` tiles to the caller's counts, which may be NULL. */
void pfo_linear_filter_count(const pfo_linear_filter *filter, int64_t items, int64_t *made, int64_t *left_out);

#endif
