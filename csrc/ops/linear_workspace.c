/* The fused linear op's workspace: what a call is about, how tokens and vocabulary are cut so that it fits the limit,
 * and its memory. */
#include <stdlib.h>
#include <string.h>

#include "../core/dtype.h"
#include "checks.h"
#include "linear.h"
#include "linear_filter.h"

#define DEFAULT_LIMIT ((int64_t)64 << 20)
#define MOST_TOKENS 4096 /* a span: more would leave too few columns to a tile buffer */
#define FEWEST_COLUMNS 64
#define ENOUGH_BUFFER ((int64_t)16 << 20) /* bytes of a [tokens, columns] buffer: fresh pages cost more than spans */
#define WHOLE_TILE 512  /* OpenBLAS is within 2 % of its best at 512 x 512 (Zen 1, 2026-11-27), 6 % below at 256 */
#define ENOUGH_TILES 16 /* work for this many threads before tiles are made larger */

/* ---- the call --------------------------------------------------------------------------------------------------- */

pfo_status pfo_linear_check(pfo_linear *l, const pfo_linear_inputs *in, pfo_error *error)
{
    memset(l, 0, sizeof *l);
    pfo_status status = pfo_check_linear_inputs(in, error);
    if (status != PFO_OK) return status;
    l->vocab = in->weight.shape[0];
    l->vocab_start = in->vocab_start;
    l->vocab_total = in->vocab_total ? in->vocab_total : l->vocab;
    status = pfo_check_label_values(&in->labels, l->vocab_total, in->ignore_index, &l->live, error);
    if (status != PFO_OK) return status;
    l->kernels = pfo_kernels_now(error);
    if (!l->kernels) return PFO_ERROR_ISA;
    l->wide = in->hidden.dtype == PFO_F64;
    l->real_size = l->wide ? 8 : 4;
    l->tokens = pfo_leading_size(&in->labels, 0);
    l->hidden_size = in->hidden.shape[in->hidden.ndim - 1];
    l->rank = pfo_present(&in->lora_a) ? in->lora_a.shape[0] : 0;
    l->scale = (pfo_linear_scale){in->logit_scale, in->softcap, in->temperature};
    l->has_transform = pfo_present(&in->bias) || in->logit_scale != 1.0 || in->softcap > 0.0 || in->temperature != 1.0;
    l->hidden = pfo_walk_leading(&in->hidden, 1);
    l->hidden_dtype = in->hidden.dtype;
    l->weight = &in->weight;
    l->bias = pfo_present(&in->bias) ? &in->bias : NULL;
    l->lora_a = l->rank > 0 ? &in->lora_a : NULL;
    l->lora_b = l->rank > 0 ? &in->lora_b : NULL;
    return PFO_OK;
}

pfo_status pfo_linear_live(const pfo_linear_inputs *in, int64_t *live, pfo_error *error)
{
    pfo_linear l;
    pfo_clear(error);
    const pfo_status status = pfo_linear_check(&l, in, error);
    if (status == PFO_OK) *live = l.live;
    return status;
}

/* ---- the cuts --------------------------------------------------------------------------------------------------- */

/* Bytes that a workspace of these spans takes. */
typedef struct cost {
    int64_t fixed, per_token, per_column, per_pair; /* per_pair: buffers of [tokens, columns] */
    int64_t state_bytes;                            /* a token and tile */
} cost;

static int64_t round_down(int64_t value, int64_t unit) { return value >= unit ? value / unit * unit : value; }

static int reads_in_place(const pfo_linear *l, int32_t dtype, int64_t stride_bytes, int64_t rows)
{
    const int32_t real = l->wide ? PFO_F64 : PFO_F32;
    if (dtype != real) return 0;
    return rows <= 1 || (stride_bytes >= l->hidden_size * l->real_size && stride_bytes % l->real_size == 0);
}

static int hidden_in_place(const pfo_linear *l)
{
    if (l->live != l->tokens || l->hidden.ndim > 1) return 0;
    return reads_in_place(l, l->hidden_dtype, l->hidden.ndim ? l->hidden.strides_bytes[0] : 0, l->live);
}

static int weight_in_place(const pfo_linear *l)
{
    return reads_in_place(l, l->weight->dtype, l->weight->strides_bytes[0], l->vocab);
}

static cost cost_of(const pfo_linear *l, pfo_linear_needs needs)
{
    const int64_t row = l->hidden_size * l->real_size, lora = l->rank * l->real_size;
    cost c = {0};
    c.fixed = l->live * 2 * (int64_t)sizeof(int64_t) + l->rank * row;
    c.per_token = (hidden_in_place(l) ? 0 : row) + lora;
    c.per_column = (weight_in_place(l) ? 0 : row) + lora + (l->bias ? l->real_size : 0);
    if (needs.filter) c.per_column += row + (row > lora ? row : lora) + (int64_t)sizeof(int64_t) + 1;
    c.per_pair = needs.buffers * l->real_size;
    c.state_bytes = needs.states ? (int64_t)sizeof(pfo_row_state) : 0;
    return c;
}

static void cut_tiles(pfo_linear *l)
{
    l->tile_rows = l->token_span >= 2 * WHOLE_TILE ? WHOLE_TILE : WHOLE_TILE / 2;
    if (l->tile_rows > l->token_span) l->tile_rows = l->token_span;
    l->tile_columns = WHOLE_TILE;
    while (l->tile_columns > 128 &&
           pfo_tiles_in(l->token_span, l->tile_rows) * pfo_tiles_in(l->vocab_span, l->tile_columns) < ENOUGH_TILES)
        l->tile_columns /= 2;
    if (l->tile_columns > l->vocab_span) l->tile_columns = l->vocab_span;
}

/* Columns that fit beside `tokens` tokens. */
static int64_t columns_for(const pfo_linear *l, const cost *c, int64_t tokens, int64_t limit)
{
    const int64_t rest = limit - c->fixed - tokens * (c->per_token + c->state_bytes);
    /* States are counted for tiles of 128 columns, the narrowest. */
    const int64_t each = c->per_column + tokens * c->per_pair + tokens * c->state_bytes / 128 + 1;
    int64_t columns = rest > 0 ? rest / each : 0;
    if (c->per_pair > 0 && columns > ENOUGH_BUFFER / (tokens * c->per_pair)) {
        const int64_t enough = ENOUGH_BUFFER / (tokens * c->per_pair);
        columns = enough > WHOLE_TILE ? enough : columns < WHOLE_TILE ? columns : WHOLE_TILE;
    }
    if (columns >= l->vocab) return l->vocab;
    return round_down(columns, columns >= WHOLE_TILE ? WHOLE_TILE : FEWEST_COLUMNS);
}

static pfo_status cut_spans(pfo_linear *l, const pfo_linear_inputs *in, pfo_linear_needs needs, pfo_error *error)
{
    const int64_t limit = in->memory_limit ? in->memory_limit : DEFAULT_LIMIT;
    /* Without a buffer of its own a thread makes one tile at a time: a quarter of the limit is set aside for those. */
    const int64_t tile_bytes = WHOLE_TILE * WHOLE_TILE * l->real_size;
    int64_t workers = needs.scratch ? limit / 4 / tile_bytes : 0;
    if (needs.scratch && workers < 1) workers = 1;
    const int64_t room = limit - workers * tile_bytes;
    const cost c = cost_of(l, needs);
    const int64_t fewest = l->vocab < FEWEST_COLUMNS ? l->vocab : FEWEST_COLUMNS;
    const int64_t most = needs.filter ? PFO_FILTER_TOKENS : MOST_TOKENS;
    int64_t tokens = l->live < most ? l->live : most;
    if (c.per_token > 0 && tokens > limit / 4 / c.per_token)
        tokens = round_down(limit / 4 / c.per_token, WHOLE_TILE / 2);
    if (tokens < 1) tokens = 1;
    while (tokens > 1 && columns_for(l, &c, tokens, room) < (l->vocab < WHOLE_TILE ? l->vocab : WHOLE_TILE))
        tokens = tokens > 64 ? tokens / 2 : tokens - 1;
    const int64_t columns = columns_for(l, &c, tokens, room);
    if (columns < fewest) {
        const int64_t least = c.fixed + c.per_token + 2 * c.state_bytes + fewest * (c.per_column + c.per_pair + 1) +
                              (needs.scratch ? tile_bytes : 0);
        return pfo_fail(error, PFO_ERROR_VALUE, "memory_limit", -1,
                        "expected at least %lld bytes for this call, got %lld", (long long)least, (long long)limit);
    }
    l->token_span = tokens;
    l->vocab_span = columns;
    l->scratch_workers = (int)(workers < 4096 ? workers : 4096);
    cut_tiles(l);
    return PFO_OK;
}

/* A block of workspace: huge pages are asked for, as its first touch is in the timing of every call. */
static void *allocate(int64_t bytes)
{
    void *memory = malloc((size_t)(bytes > 0 ? bytes : 1));
    if (memory && bytes >= (int64_t)8 << 20) pfo_advise_huge_pages(memory, bytes);
    return memory;
}

static void collect_tokens(pfo_linear *l, const pfo_linear_inputs *in)
{
    const pfo_walk walk = pfo_walk_leading(&in->labels, 0);
    int64_t live = 0;
    for (int64_t row = 0; row < l->tokens; row++) {
        int fits;
        const int64_t label = pfo_read_int(pfo_walk_at(&walk, row), in->labels.dtype, &fits);
        if (label == in->ignore_index) continue;
        l->rows[live] = row;
        l->labels[live++] = label;
    }
}

pfo_status pfo_linear_open(pfo_linear *l, const pfo_linear_inputs *in, pfo_linear_needs needs, pfo_error *error)
{
    pfo_status status = cut_spans(l, in, needs, error);
    if (status != PFO_OK) return status;
    const int64_t row = l->hidden_size * l->real_size, lora = l->rank * l->real_size;
    const int64_t buffer = needs.buffers ? l->token_span * l->vocab_span * l->real_size
                                         : l->scratch_workers * l->tile_rows * l->tile_columns * l->real_size;
    const int64_t tiles = pfo_tiles_in(l->vocab_span, l->tile_columns);
    struct {
        void **at;
        int64_t bytes;
        int wanted;
    } blocks[] = {
        {(void **)&l->rows, l->live * (int64_t)sizeof(int64_t), 1},
        {(void **)&l->labels, l->live * (int64_t)sizeof(int64_t), 1},
        {&l->hidden_pack, l->token_span * row, !hidden_in_place(l)},
        {&l->weight_pack, l->vocab_span * row, !weight_in_place(l)},
        {&l->bias_pack, l->vocab_span * l->real_size, l->bias != NULL},
        {&l->lora_a_pack, l->rank * row, l->rank > 0},
        {&l->lora_b_pack, l->vocab_span * lora, l->rank > 0},
        {&l->lora_hidden, l->token_span * lora, l->rank > 0},
        {&l->tiles, buffer, needs.buffers > 0 || needs.scratch},
        {&l->moments, buffer, needs.buffers > 1},
        {(void **)&l->states, l->token_span * tiles * (int64_t)sizeof(pfo_row_state), needs.states},
    };
    for (size_t k = 0; k < sizeof blocks / sizeof blocks[0]; k++) {
        if (!blocks[k].wanted) continue;
        *blocks[k].at = allocate(blocks[k].bytes);
        if (!*blocks[k].at)
            return pfo_fail(error, PFO_ERROR_MEMORY, "memory_limit", -1, "no memory for a workspace of %lld bytes",
                            (long long)blocks[k].bytes);
    }
    collect_tokens(l, in);
    const int index = l->lora_a ? pfo_logit_index_of(l->lora_a->dtype) : 0;
    for (int64_t r = 0; r < l->rank; r++)
        l->kernels->widen_row[index]((const char *)l->lora_a->data + r * l->lora_a->strides_bytes[0],
                                     pfo_linear_at(l, l->lora_a_pack, r * l->hidden_size), l->hidden_size);
    return PFO_OK;
}

void pfo_linear_close(pfo_linear *l)
{
    void *blocks[] = {l->rows,        l->labels,      l->hidden_pack, l->weight_pack, l->bias_pack, l->lora_a_pack,
                      l->lora_b_pack, l->lora_hidden, l->tiles,       l->moments,     l->states};
    for (size_t k = 0; k < sizeof blocks / sizeof blocks[0]; k++) free(blocks[k]);
}
