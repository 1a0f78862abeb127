/* grad_filter: entries of the vocabulary that every token of a span finds improbable are left out of the products.
 *
 * What is lost of a row is at most the sum of its left-out p times |a + b log p| times |weight|.  A label's entry,
 * which is not small (about -grad_logps where p is), always counts.  What counts is moved together: columns of g in
 * place, the head's rows into a pack, so that each product is one of fewer entries. */
#ifndef PFO_LINEAR_FILTER_H
#define PFO_LINEAR_FILTER_H

#include "linear.h"

#define PFO_FILTER_TOKENS 256 /* a span, one tile of rows: the more tokens, the more entries count */

typedef struct pfo_linear_filter {
    double threshold;     /* log of grad_filter */
    unsigned char *keeps; /* [vocab span] 1 where an entry counts for a row of the span; NULL: no filter */
    int64_t *columns;     /* [vocab span] those that count, ascending */
    int64_t count;
    void *weight_rows; /* [vocab span, H] their rows of the head */
    void *sums;        /* [vocab span, max(H, r)] a product that goes to those rows */
} pfo_linear_filter;

/* Memory for the spans of l; 0 where there is none. */
int pfo_linear_filter_open(pfo_linear_filter *filter, const pfo_linear *l, double grad_filter);
void pfo_linear_filter_close(pfo_linear_filter *filter);

/* For each row of a tile, whose keeps are 0 at first, before its x becomes g; label: its column of the tile, or -1. */
void pfo_linear_filter_mark(const pfo_linear_filter *filter, const pfo_linear *l, const void *x, int64_t column,
                            int64_t columns, double lse, int64_t label);

/* Lists what counts, and moves it together: g [tokens, ld] in place, weight_rows, and l's pack of lora_b. */
void pfo_linear_filter_gather(pfo_linear_filter *filter, const pfo_linear *l, char *g, int64_t ld);
/* out [vocab span, width] += sums [count, width] in the rows that count. */
void pfo_linear_filter_scatter(const pfo_linear_filter *filter, const pfo_linear *l, char *out, int64_t width);

#endif
