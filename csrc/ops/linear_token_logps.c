/* linear_token_logps: token log-probabilities from hidden states, and in the same sweep their gradients by hidden.
 *
 * For each span of tokens, for each span of the vocabulary:
 *   tiles       x = hidden weight^T of every tile, folded into a row state each; tiles side by side on threads
 *   rows        the states of a row merged, in order; its k largest; e = exp(x - m) in place of x for gradients
 *   products    sums [tokens, H] += e weight (and (e (x - m)) weight): flash attention over the vocabulary, with
 *               sums rescaled when a row's maximum m rises
 * Without gradients, top-k or kept logits a tile lives in a thread's scratch memory and is dropped after its fold. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../core/dtype.h"
#include "linear_sums.h"

enum {
    LOGPS,
    LSE,
    ENTROPY,
    CORRECT,
    MEAN_LOGIT,
    MAX_LOGIT,
    LSE2,
    STAT_COUNT
};
static const char *const stat_names[STAT_COUNT] = {"logps",      "lse",       "entropy", "correct",
                                                   "mean_logit", "max_logit", "lse2"};

/* One row while its vocabulary goes by. */
typedef struct running {
    pfo_row_state state;
    double reference; /* m of the sums, -inf before the first finite logit */
    int64_t held;     /* of the k largest */
} running;

typedef struct job {
    pfo_linear l;
    const pfo_linear_token_logps_args *args;
    pfo_walk stats[STAT_COUNT];
    const pfo_view *stat_views[STAT_COUNT];
    int level;
    int64_t topk, tiles_across; /* tiles of the vocabulary span in hand */
    running *rows;              /* [token_span] */
    void *top_values;           /* [token_span, k] */
    pfo_linear_sums sums;
} job;

pfo_linear_token_logps_args pfo_linear_token_logps_args_default(void)
{
    pfo_linear_token_logps_args args;
    memset(&args, 0, sizeof args);
    args.in.ignore_index = -100;
    args.in.logit_scale = args.in.temperature = 1.0;
    return args;
}

static int wants_gradients(const job *j) { return j->sums.weight_sums != NULL; }

/* ---- tiles ------------------------------------------------------------------------------------------------------ */

/* Where a tile's rows stand, and their step. */
static char *tile_memory(const job *j, int64_t row, int64_t column, int worker, int64_t *ld)
{
    const pfo_linear *l = &j->l;
    if (pfo_present(&j->args->kept)) {
        *ld = l->vocab;
        return pfo_linear_at(l, j->args->kept.data, (l->token_first + row) * l->vocab + l->vocab_first + column);
    }
    if (wants_gradients(j) || j->topk) {
        *ld = l->vocab_span;
        return pfo_linear_at(l, l->tiles, row * l->vocab_span + column);
    }
    *ld = l->tile_columns;
    return pfo_linear_at(l, l->tiles, worker * l->tile_rows * l->tile_columns);
}

static void fold_tile_row(const job *j, const void *x, int64_t row, int64_t column, int64_t columns,
                          pfo_row_state *state)
{
    const pfo_linear *l = &j->l;
    const int64_t first = l->vocab_start + l->vocab_first + column;
    const int64_t at = l->labels[l->token_first + row] - first;
    l->kernels->fold_row[l->wide ? PFO_LOGIT_f64 : PFO_LOGIT_f32](x, columns, j->level, 1.0, state);
    if (state->best >= 0) state->best += first;
    if (at >= 0 && at < columns) {
        state->target = pfo_linear_read(l, x, at);
        state->has_target = 1;
    }
}

static void tiles_body(void *context, int64_t begin, int64_t end, int worker)
{
    const job *j = (const job *)context;
    const pfo_linear *l = &j->l;
    for (int64_t item = begin; item < end; item++) {
        const int64_t row = item / j->tiles_across * l->tile_rows, tile = item % j->tiles_across;
        const int64_t column = tile * l->tile_columns;
        const int64_t rows = l->token_count - row < l->tile_rows ? l->token_count - row : l->tile_rows;
        const int64_t columns = l->vocab_count - column < l->tile_columns ? l->vocab_count - column : l->tile_columns;
        int64_t ld;
        char *memory = tile_memory(j, row, column, worker, &ld);
        pfo_linear_tile(l, row, rows, column, columns, memory, ld);
        for (int64_t i = 0; i < rows; i++)
            fold_tile_row(j, pfo_linear_at(l, memory, i * ld), row + i, column, columns,
                          &l->states[(row + i) * j->tiles_across + tile]);
    }
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

static void weigh_one(const job *j, int64_t row, running *run)
{
    const pfo_linear *l = &j->l;
    char *x = pfo_linear_at(l, l->tiles, row * l->vocab_span);
    char *moments = l->moments ? pfo_linear_at(l, l->moments, row * l->vocab_span) : NULL;
    if (run->state.max > run->reference) {
        pfo_linear_sums_move(l, &j->sums, row, run->reference, run->state.max);
        run->reference = run->state.max;
    }
    if (isinf(run->reference)) { /* no distribution, or none yet: nothing to add */
        memset(x, 0, (size_t)(l->vocab_count * l->real_size));
        if (moments) memset(moments, 0, (size_t)(l->vocab_count * l->real_size));
        return;
    }
    l->kernels->weigh_row[l->wide](x, x, moments, l->vocab_count, run->reference, &l->scale);
}

static void rows_body(void *context, int64_t begin, int64_t end)
{
    const job *j = (const job *)context;
    const pfo_linear *l = &j->l;
    for (int64_t row = begin; row < end; row++) {
        running *run = &j->rows[row];
        for (int64_t tile = 0; tile < j->tiles_across; tile++)
            pfo_row_state_merge(&run->state, &l->states[row * j->tiles_across + tile]);
        if (j->topk) {
            int64_t ld;
            const char *x = tile_memory(j, row, 0, 0, &ld);
            int64_t *ids = (int64_t *)j->args->topk_ids.data + l->rows[l->token_first + row] * j->topk;
            l->kernels->topk_row[l->wide](x, l->vocab_count, l->vocab_start + l->vocab_first, j->topk,
                                          pfo_linear_at(l, j->top_values, row * j->topk), ids, &run->held);
        }
        if (wants_gradients(j)) weigh_one(j, row, run);
    }
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

static void write_stats(const job *j, int64_t place, const pfo_row_stats *stats, int64_t label)
{
    const double values[STAT_COUNT] = {stats->logp,       stats->lse,       stats->entropy, 0.0,
                                       stats->mean_logit, stats->max_logit, stats->lse2};
    for (int k = 0; k < STAT_COUNT; k++) {
        if (!j->stat_views[k]) continue;
        char *address = pfo_walk_at(&j->stats[k], place);
        if (k == CORRECT)
            *(uint8_t *)address = stats->best == label;
        else
            pfo_write_float(address, j->stat_views[k]->dtype, values[k]);
    }
}

static void write_topk(const job *j, int64_t row, int64_t place, const pfo_row_stats *stats)
{
    const pfo_linear *l = &j->l;
    int64_t *ids = (int64_t *)j->args->topk_ids.data + place * j->topk;
    char *logps = pfo_linear_at(l, j->args->topk_logps.data, place * j->topk);
    for (int64_t k = 0; k < j->topk; k++) {
        const int known = k < j->rows[row].held && !isnan(stats->lse);
        const double value =
            known ? pfo_linear_read(l, j->top_values, row * j->topk + k) - stats->max_logit : (double)NAN;
        if (!known) ids[k] = -1;
        pfo_write_float(logps + k * l->real_size, j->args->topk_logps.dtype, value - (stats->lse - stats->max_logit));
    }
}

static void finish_body(void *context, int64_t begin, int64_t end)
{
    const job *j = (const job *)context;
    const pfo_linear *l = &j->l;
    for (int64_t row = begin; row < end; row++) {
        const int64_t place = l->rows[l->token_first + row];
        const pfo_row_state *state = &j->rows[row].state;
        pfo_row_stats stats;
        pfo_row_state_finish(state, &stats);
        write_stats(j, place, &stats, l->labels[l->token_first + row]);
        if (pfo_present(&j->args->states)) {
            double *out = (double *)j->args->states.data + place * PFO_ROW_STATE_FIELDS;
            pfo_row_state_store(state, out);
        }
        if (j->topk) write_topk(j, row, place, &stats);
        if (wants_gradients(j))
            pfo_linear_sums_finish(l, &j->sums, row, state, &stats, &j->args->grad_hidden_logps,
                                   &j->args->grad_hidden_lse);
    }
}

/* ---- the call --------------------------------------------------------------------------------------------------- */

static pfo_status check_results(const pfo_linear_token_logps_args *args, const pfo_view *stats[], int32_t real,
                                pfo_error *error)
{
    const pfo_linear_inputs *in = &args->in;
    pfo_status status = PFO_OK;
    for (int k = 0; status == PFO_OK && k < STAT_COUNT; k++) {
        if (!pfo_present(stats[k])) continue;
        const int32_t dtype = k == CORRECT ? PFO_BOOL : k == LSE && stats[k]->dtype == PFO_F64 ? PFO_F64 : real;
        status = pfo_linear_check_rows_out(in, stats[k], stat_names[k], -1, dtype, error);
    }
    const pfo_view *gradients[] = {&args->grad_hidden_logps, &args->grad_hidden_lse, &args->grad_hidden_entropy};
    static const char *const names[] = {"grad_hidden_logps", "grad_hidden_lse", "grad_hidden_entropy"};
    for (int k = 0; status == PFO_OK && k < 3; k++)
        if (pfo_present(gradients[k]))
            status = pfo_linear_check_rows_out(in, gradients[k], names[k], in->hidden.shape[in->hidden.ndim - 1], real,
                                               error);
    if (status == PFO_OK && pfo_present(&args->states))
        status = pfo_linear_check_rows_out(in, &args->states, "states", PFO_ROW_STATE_FIELDS, PFO_F64, error);
    return status;
}

static pfo_status check_topk(const pfo_linear_token_logps_args *args, const pfo_linear *l, int32_t real,
                             pfo_error *error)
{
    const pfo_view *ids = &args->topk_ids, *logps = &args->topk_logps;
    if (pfo_present(ids) != pfo_present(logps))
        return pfo_fail(error, PFO_ERROR_MISSING, pfo_present(ids) ? "topk_logps" : "topk_ids", -1,
                        "expected topk_ids and topk_logps, or neither");
    if (!pfo_present(ids)) return PFO_OK;
    const int64_t k = ids->ndim > 0 ? ids->shape[ids->ndim - 1] : 0;
    if (k < 1 || k > l->vocab)
        return pfo_fail(error, PFO_ERROR_VALUE, "topk", -1, "expected 1 <= topk <= %lld, the vocabulary, got %lld",
                        (long long)l->vocab, (long long)k);
    pfo_status status = pfo_linear_check_rows_out(&args->in, ids, "topk_ids", k, PFO_I64, error);
    if (status == PFO_OK) status = pfo_linear_check_rows_out(&args->in, logps, "topk_logps", k, real, error);
    return status;
}

static pfo_status check_combination(const pfo_linear_token_logps_args *args, const pfo_linear *l, int32_t real,
                                    pfo_error *error)
{
    const int gradients = pfo_present(&args->grad_hidden_logps) || pfo_present(&args->grad_hidden_lse);
    if (pfo_present(&args->grad_hidden_entropy) && !gradients)
        return pfo_fail(error, PFO_ERROR_MISSING, "grad_hidden_logps", -1,
                        "expected grad_hidden_logps or grad_hidden_lse with grad_hidden_entropy, got neither");
    if (l->vocab_total != l->vocab && pfo_present(&args->grad_hidden_logps))
        return pfo_fail(error, PFO_ERROR_VALUE, "grad_hidden_logps", -1,
                        "expected none with a split vocabulary, whose labels stand elsewhere");
    if (!pfo_present(&args->kept)) return PFO_OK;
    if (gradients) return pfo_fail(error, PFO_ERROR_VALUE, "kept", -1, "expected none beside gradients by hidden");
    const int64_t shape[2] = {l->live, l->vocab};
    return pfo_linear_check_out(&args->in, &args->kept, "kept", 2, shape, real, error);
}

static pfo_status check_apart(const pfo_linear_token_logps_args *args, pfo_error *error)
{
    const pfo_view *outputs[] = {&args->logps,
                                 &args->lse,
                                 &args->entropy,
                                 &args->correct,
                                 &args->mean_logit,
                                 &args->max_logit,
                                 &args->lse2,
                                 &args->topk_ids,
                                 &args->topk_logps,
                                 &args->grad_hidden_logps,
                                 &args->grad_hidden_lse,
                                 &args->grad_hidden_entropy,
                                 &args->states,
                                 &args->kept};
    for (int k = 0; k < 14; k++)
        for (int other = 0; pfo_present(outputs[k]) && other < k; other++) {
            pfo_status status = pfo_check_disjoint(outputs[k], "out", outputs[other], "another output", error);
            if (status != PFO_OK) return status;
        }
    return PFO_OK;
}

static void run_span(job *j, int64_t first, int64_t count)
{
    pfo_linear *l = &j->l;
    pfo_linear_take_tokens(l, first, count);
    for (int64_t row = 0; row < count; row++) {
        pfo_row_state_init(&j->rows[row].state);
        j->rows[row].reference = -(double)INFINITY;
        j->rows[row].held = 0;
    }
    for (int64_t v = 0; v < l->vocab; v += l->vocab_span) {
        pfo_linear_take_vocab(l, v, l->vocab - v < l->vocab_span ? l->vocab - v : l->vocab_span);
        j->tiles_across = pfo_tiles_in(l->vocab_count, l->tile_columns);
        const int64_t items = pfo_tiles_in(count, l->tile_rows) * j->tiles_across;
        int workers = pfo_parallel_workers(items, pfo_linear_work(l));
        if (l->scratch_workers && workers > l->scratch_workers) workers = l->scratch_workers;
        pfo_parallel_for_workers(items, 1, workers, tiles_body, j);
        pfo_parallel_for(count, 8, (double)count * (double)l->vocab_count, rows_body, j);
        if (wants_gradients(j)) pfo_linear_sums_add(l, &j->sums);
    }
    if (wants_gradients(j)) pfo_linear_sums_add_lora(l, &j->sums);
    pfo_parallel_for(count, 8, (double)count * (double)(l->hidden_size + 64), finish_body, j);
}

static void write_ignored(const job *j)
{
    const pfo_linear *l = &j->l;
    int64_t next = 0;
    for (int64_t place = 0; place < l->tokens; place++) {
        if (next < l->live && l->rows[next] == place) {
            next++;
            continue;
        }
        for (int k = 0; k < STAT_COUNT; k++)
            if (j->stat_views[k])
                memset(pfo_walk_at(&j->stats[k], place), 0, (size_t)pfo_dtype_size(j->stat_views[k]->dtype));
        if (pfo_present(&j->args->states)) {
            pfo_row_state empty;
            pfo_row_state_init(&empty);
            pfo_row_state_store(&empty, (double *)j->args->states.data + place * PFO_ROW_STATE_FIELDS);
        }
        for (int64_t k = 0; k < j->topk; k++) {
            ((int64_t *)j->args->topk_ids.data)[place * j->topk + k] = -1;
            pfo_write_float(pfo_linear_at(l, j->args->topk_logps.data, place * j->topk + k), j->args->topk_logps.dtype,
                            0.0);
        }
    }
    const pfo_view *gradients[] = {&j->args->grad_hidden_logps, &j->args->grad_hidden_lse,
                                   &j->args->grad_hidden_entropy};
    for (int k = 0; k < 3; k++)
        if (pfo_present(gradients[k])) pfo_linear_spread_rows(l, gradients[k]->data, l->hidden_size);
}

static pfo_status run(job *j, pfo_error *error)
{
    pfo_linear *l = &j->l;
    const pfo_linear_token_logps_args *args = j->args;
    const int moments = pfo_present(&args->grad_hidden_entropy), kept = pfo_present(&args->kept);
    const int gradients = pfo_present(&args->grad_hidden_logps) || pfo_present(&args->grad_hidden_lse);
    const pfo_linear_needs needs = {
        .buffers = gradients ? 1 + moments : j->topk && !kept, .scratch = !gradients && !j->topk && !kept, .states = 1};
    pfo_status status = pfo_linear_open(l, &args->in, needs, error);
    if (status != PFO_OK) return status;
    if (gradients) {
        const pfo_view *sums = pfo_present(&args->grad_hidden_lse) ? &args->grad_hidden_lse : &args->grad_hidden_logps;
        j->sums.weight_sums = (char *)sums->data;
        if (moments) j->sums.moment_sums = (char *)args->grad_hidden_entropy.data;
    }
    const size_t lora = (size_t)(l->token_span * l->rank * l->real_size);
    j->rows = malloc((size_t)l->token_span * sizeof *j->rows);
    j->top_values = malloc((size_t)(l->token_span * j->topk * l->real_size) + 1);
    j->sums.lora_weight_sums = malloc(lora + 1);
    j->sums.lora_moment_sums = malloc(lora + 1);
    if (!j->rows || !j->top_values || !j->sums.lora_weight_sums || !j->sums.lora_moment_sums)
        return pfo_fail(error, PFO_ERROR_MEMORY, "memory_limit", -1, "no memory for %lld rows",
                        (long long)l->token_span);
    for (int64_t first = 0; first < l->live; first += l->token_span)
        run_span(j, first, l->live - first < l->token_span ? l->live - first : l->token_span);
    write_ignored(j);
    return PFO_OK;
}

pfo_status pfo_linear_token_logps(const pfo_linear_token_logps_args *args, pfo_error *error)
{
    pfo_clear(error);
    job j;
    memset(&j, 0, sizeof j);
    j.args = args;
    const pfo_view *stats[STAT_COUNT] = {&args->logps,      &args->lse,       &args->entropy, &args->correct,
                                         &args->mean_logit, &args->max_logit, &args->lse2};
    pfo_status status = pfo_linear_check(&j.l, &args->in, error);
    if (status != PFO_OK) return status;
    const int32_t real = j.l.wide ? PFO_F64 : PFO_F32;
    status = check_results(args, stats, real, error);
    if (status == PFO_OK) status = check_topk(args, &j.l, real, error);
    if (status == PFO_OK) status = check_combination(args, &j.l, real, error);
    if (status == PFO_OK) status = check_apart(args, error);
    if (status != PFO_OK) return status;
    for (int k = 0; k < STAT_COUNT; k++) {
        j.stat_views[k] = pfo_present(stats[k]) ? stats[k] : NULL;
        if (j.stat_views[k]) j.stats[k] = pfo_walk_leading(stats[k], 0);
    }
    j.topk = pfo_present(&args->topk_ids) ? args->topk_ids.shape[args->topk_ids.ndim - 1] : 0;
    j.level = pfo_present(&args->states) || pfo_present(&args->lse2) || pfo_present(&args->mean_logit) ? PFO_FOLD_ALL
              : pfo_present(&args->entropy) || pfo_present(&args->grad_hidden_entropy) ? PFO_FOLD_ENTROPY
                                                                                       : PFO_FOLD_LSE;
    status = run(&j, error);
    pfo_linear_close(&j.l);
    free(j.rows);
    free(j.top_values);
    free(j.sums.lora_weight_sums);
    free(j.sums.lora_moment_sums);
    return status;
}
