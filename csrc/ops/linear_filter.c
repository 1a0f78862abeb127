/* The vocabulary entries that grad_filter leaves, moved together: see linear_filter.h. */
#include "linear_filter.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int pfo_linear_filter_open(pfo_linear_filter *filter, const pfo_linear *l, double grad_filter)
{
    const int64_t span = l->vocab_span, width = l->hidden_size > l->rank ? l->hidden_size : l->rank;
    filter->threshold = log(grad_filter);
    filter->keeps = malloc((size_t)span);
    filter->columns = malloc((size_t)span * sizeof *filter->columns);
    filter->weight_rows = malloc((size_t)(span * l->hidden_size * l->real_size));
    filter->sums = malloc((size_t)(span * width * l->real_size));
    return filter->keeps && filter->columns && filter->weight_rows && filter->sums;
}

void pfo_linear_filter_close(pfo_linear_filter *filter)
{
    free(filter->keeps);
    free(filter->columns);
    free(filter->weight_rows);
    free(filter->sums);
}

/* ---- what counts ------------------------------------------------------------------------------------------------ */

void pfo_linear_filter_mark(const pfo_linear_filter *filter, const pfo_linear *l, const void *x, int64_t column,
                            int64_t columns, double lse, int64_t label)
{
    unsigned char *keeps = filter->keeps + column;
    const double least = lse + filter->threshold;
    if (!isfinite(lse)) { /* NaN, which is to be seen */
        memset(keeps, 1, (size_t)columns);
    } else if (l->wide) {
        const double *values = (const double *)x;
        for (int64_t v = 0; v < columns; v++) keeps[v] |= values[v] >= least;
    } else {
        const float *values = (const float *)x, narrow = (float)least;
        for (int64_t v = 0; v < columns; v++) keeps[v] |= values[v] >= narrow;
    }
    if (label >= 0) keeps[label] = 1;
}

/* ---- moving it -------------------------------------------------------------------------------------------------- */

typedef struct move {
    const pfo_linear_filter *filter;
    const pfo_linear *l;
    char *memory;
    int64_t width; /* of a row */
} move;

/* Columns of g to the beginning of their rows: none moves to the right. */
static void columns_body(void *context, int64_t begin, int64_t end)
{
    const move *m = (const move *)context;
    const int64_t count = m->filter->count, *columns = m->filter->columns;
    for (int64_t i = begin; i < end; i++) {
        void *row = pfo_linear_at(m->l, m->memory, i * m->width);
        if (m->l->wide)
            for (int64_t k = 0; k < count; k++) ((double *)row)[k] = ((double *)row)[columns[k]];
        else
            for (int64_t k = 0; k < count; k++) ((float *)row)[k] = ((float *)row)[columns[k]];
    }
}

static void weight_rows_body(void *context, int64_t begin, int64_t end)
{
    const move *m = (const move *)context;
    const pfo_linear *l = m->l;
    const size_t bytes = (size_t)(l->hidden_size * l->real_size);
    for (int64_t k = begin; k < end; k++)
        memcpy(pfo_linear_at(l, m->filter->weight_rows, k * l->hidden_size),
               pfo_linear_at(l, l->weight_now, m->filter->columns[k] * l->weight_stride), bytes);
}

void pfo_linear_filter_gather(pfo_linear_filter *filter, const pfo_linear *l, char *g, int64_t ld)
{
    filter->count = 0;
    for (int64_t v = 0; v < l->vocab_count; v++)
        if (filter->keeps[v]) filter->columns[filter->count++] = v;
    move m = {filter, l, g, ld};
    pfo_parallel_for(l->token_count, 8, (double)l->token_count * (double)filter->count, columns_body, &m);
    pfo_parallel_for(filter->count, 64, (double)filter->count * (double)l->hidden_size, weight_rows_body, &m);
    for (int64_t k = 0; l->rank > 0 && k < filter->count; k++)
        memmove(pfo_linear_at(l, l->lora_b_pack, k * l->rank),
                pfo_linear_at(l, l->lora_b_pack, filter->columns[k] * l->rank), (size_t)(l->rank * l->real_size));
}

static void scatter_body(void *context, int64_t begin, int64_t end)
{
    const move *m = (const move *)context;
    const pfo_linear *l = m->l;
    for (int64_t k = begin; k < end; k++)
        l->kernels->add_row[l->wide](pfo_linear_at(l, m->memory, m->filter->columns[k] * m->width),
                                     pfo_linear_at(l, m->filter->sums, k * m->width), m->width);
}

void pfo_linear_filter_scatter(const pfo_linear_filter *filter, const pfo_linear *l, char *out, int64_t width)
{
    move m = {filter, l, out, width};
    pfo_parallel_for(filter->count, 64, (double)filter->count * (double)width, scatter_body, &m);
}
