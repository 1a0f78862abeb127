/* token_logps: checks, splits rows over threads, folds each row, writes its statistics.
 *
 * Two ways to split, same bits: rows over threads; or, for a few long rows, segments of rows over threads, whose states
 * are merged afterwards in the order in which fold_row merges them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../isa/isa_list.h"
#include "views.h"

enum {
    OUTPUT_COUNT = 7
};

typedef struct job {
    pfo_walk logits, labels, outputs[OUTPUT_COUNT];
    const pfo_view *views[OUTPUT_COUNT]; /* logps lse entropy correct mean_logit max_logit lse2; NULL if not wanted */
    int32_t logits_dtype, label_dtype;
    int logit_index, level;
    int64_t vocab, segments, ignore_index, element_size;
    double inv_temperature;
    const pfo_kernels *kernels;
    pfo_row_state *states; /* [rows, segments], segment split only */
} job;

static const char *const output_names[OUTPUT_COUNT] = {"logps",      "lse",       "entropy", "correct",
                                                       "mean_logit", "max_logit", "lse2"};

pfo_token_logps_args pfo_token_logps_args_default(void)
{
    pfo_token_logps_args args;
    memset(&args, 0, sizeof args);
    args.ignore_index = -100;
    args.temperature = 1.0;
    return args;
}

static void write_row(const job *j, int64_t row, const pfo_row_stats *stats, int64_t label)
{
    const double values[OUTPUT_COUNT] = {stats->logp,       stats->lse,       stats->entropy, 0.0,
                                         stats->mean_logit, stats->max_logit, stats->lse2};
    for (int k = 0; k < OUTPUT_COUNT; k++) {
        if (!j->views[k]) continue;
        char *address = pfo_walk_at(&j->outputs[k], row);
        if (j->views[k]->dtype == PFO_BOOL)
            *(uint8_t *)address = stats->best == label;
        else
            pfo_write_float(address, j->views[k]->dtype, values[k]);
    }
}

static void write_ignored(const job *j, int64_t row)
{
    for (int k = 0; k < OUTPUT_COUNT; k++)
        if (j->views[k]) memset(pfo_walk_at(&j->outputs[k], row), 0, (size_t)pfo_dtype_size(j->views[k]->dtype));
}

/* Adds the target, which fold_row does not look for, and finishes the row. */
static void finish_row(const job *j, int64_t row, int64_t label, pfo_row_state *state)
{
    const char *logits = pfo_walk_at(&j->logits, row);
    const double logit = pfo_read_float(logits + label * j->element_size, j->logits_dtype);
    pfo_row_stats stats;
    state->target = logit * j->inv_temperature;
    state->has_target = 1;
    pfo_row_state_finish(state, &stats);
    /* logit / temperature and max / temperature were rounded apart; float64 results show it (1e-12 at 1e4). */
    if (j->logits_dtype == PFO_F64 && j->inv_temperature != 1.0 && isfinite(stats.logp)) {
        const double top = pfo_read_float(logits + stats.best * j->element_size, j->logits_dtype);
        stats.logp += (logit - top) * j->inv_temperature - (state->target - state->max);
    }
    write_row(j, row, &stats, label);
}

static int64_t label_of(const job *j, int64_t row)
{
    int fits;
    return pfo_read_int(pfo_walk_at(&j->labels, row), j->label_dtype, &fits);
}

static void rows_body(void *context, int64_t begin, int64_t end)
{
    const job *j = (const job *)context;
    for (int64_t row = begin; row < end; row++) {
        int64_t label = label_of(j, row);
        if (label == j->ignore_index) {
            write_ignored(j, row);
            continue;
        }
        pfo_row_state state;
        j->kernels->fold_row[j->logit_index](pfo_walk_at(&j->logits, row), j->vocab, j->level, j->inv_temperature,
                                             &state);
        finish_row(j, row, label, &state);
    }
}

static void segments_body(void *context, int64_t begin, int64_t end)
{
    const job *j = (const job *)context;
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t row = piece / j->segments, first = (piece % j->segments) * PFO_SEGMENT;
        if (label_of(j, row) == j->ignore_index) continue;
        int64_t count = j->vocab - first < PFO_SEGMENT ? j->vocab - first : PFO_SEGMENT;
        pfo_row_state *state = &j->states[piece];
        j->kernels->fold_row[j->logit_index](pfo_walk_at(&j->logits, row) + first * j->element_size, count, j->level,
                                             j->inv_temperature, state);
        if (state->best >= 0) state->best += first;
    }
}

static void merge_segments(const job *j, int64_t rows)
{
    for (int64_t row = 0; row < rows; row++) {
        int64_t label = label_of(j, row);
        if (label == j->ignore_index) {
            write_ignored(j, row);
            continue;
        }
        pfo_row_state state;
        pfo_row_state_init(&state);
        for (int64_t k = 0; k < j->segments; k++) pfo_row_state_merge(&state, &j->states[row * j->segments + k]);
        finish_row(j, row, label, &state);
    }
}

static pfo_status check_outputs(const pfo_token_logps_args *args, const pfo_view *outputs[], pfo_error *error)
{
    const int32_t result = args->logits.dtype == PFO_F64 ? PFO_F64 : PFO_F32;
    for (int k = 0; k < OUTPUT_COUNT; k++) {
        if (!pfo_present(outputs[k])) continue;
        const char *name = output_names[k];
        int is_correct = outputs[k] == &args->correct;
        pfo_status status = pfo_check_array(outputs[k], name, is_correct ? PFO_SET_BOOL : PFO_SET_FLOAT, error);
        /* lse may be asked for in double: a gradient from it is exact to the last bit of p (see token_logps_grad). */
        if (status == PFO_OK && !is_correct && !(outputs[k] == &args->lse && outputs[k]->dtype == PFO_F64))
            status = pfo_check_dtype_is(outputs[k], name, result, error);
        if (status == PFO_OK) status = pfo_check_leading(outputs[k], name, &args->logits, 1, "logits", error);
        if (status == PFO_OK) status = pfo_check_writable_strides(outputs[k], name, error);
        if (status == PFO_OK) status = pfo_check_disjoint(outputs[k], name, &args->logits, "logits", error);
        if (status == PFO_OK) status = pfo_check_disjoint(outputs[k], name, &args->labels, "labels", error);
        for (int other = 0; status == PFO_OK && other < k; other++)
            status = pfo_check_disjoint(outputs[k], name, outputs[other], output_names[other], error);
        if (status != PFO_OK) return status;
    }
    return PFO_OK;
}

/* Runs with the control word at its default: merge_segments works on this thread. */
static pfo_status run(job *j, int64_t rows, int64_t live, pfo_error *error)
{
    const double work = (double)live * (double)j->vocab;
    j->segments = (j->vocab - 1) / PFO_SEGMENT + 1;
    if (live == 0) {
        for (int64_t row = 0; row < rows; row++) write_ignored(j, row);
        return PFO_OK;
    }
    if (j->segments > 1 && live < 4 * (int64_t)pfo_get_num_threads() && rows <= 4096 && pfo_get_num_threads() > 1) {
        j->states = (pfo_row_state *)malloc((size_t)(rows * j->segments) * sizeof *j->states);
        if (!j->states) return pfo_fail(error, PFO_ERROR_MEMORY, "logits", -1, "no memory for partial row states");
        pfo_parallel_for(rows * j->segments, 1, work, segments_body, j);
        merge_segments(j, rows);
        free(j->states);
        return PFO_OK;
    }
    int64_t grain = 65536 / j->vocab;
    pfo_parallel_for(rows, grain < 1 ? 1 : grain, work, rows_body, j);
    return PFO_OK;
}

pfo_status pfo_token_logps(const pfo_token_logps_args *args, pfo_error *error)
{
    pfo_clear(error);
    const pfo_view *outputs[OUTPUT_COUNT] = {&args->logps,      &args->lse,       &args->entropy, &args->correct,
                                             &args->mean_logit, &args->max_logit, &args->lse2};
    int64_t live;
    pfo_status status = pfo_check_temperature(args->temperature, error);
    if (status == PFO_OK) status = pfo_check_logits(&args->logits, "logits", error);
    if (status == PFO_OK)
        status = pfo_check_labels(&args->labels, &args->logits, "logits", args->ignore_index, &live, error);
    if (status == PFO_OK) status = check_outputs(args, outputs, error);
    if (status != PFO_OK) return status;

    job j;
    j.kernels = pfo_kernels_now(error);
    if (!j.kernels) return PFO_ERROR_ISA;
    j.logits = pfo_walk_leading(&args->logits, 1);
    j.labels = pfo_walk_leading(&args->labels, 0);
    j.logits_dtype = args->logits.dtype;
    j.label_dtype = args->labels.dtype;
    j.logit_index = pfo_logit_index_of(args->logits.dtype);
    j.vocab = args->logits.shape[args->logits.ndim - 1];
    j.element_size = pfo_dtype_size(args->logits.dtype);
    j.ignore_index = args->ignore_index;
    j.states = NULL;
    j.level = pfo_present(&args->lse2) || pfo_present(&args->mean_logit) ? PFO_FOLD_ALL
              : pfo_present(&args->entropy)                              ? PFO_FOLD_ENTROPY
                                                                         : PFO_FOLD_LSE;
    for (int k = 0; k < OUTPUT_COUNT; k++) {
        j.views[k] = pfo_present(outputs[k]) ? outputs[k] : NULL;
        if (j.views[k]) j.outputs[k] = pfo_walk_leading(outputs[k], 0);
    }
    pfo_fpenv saved = pfo_fpenv_enter();
    j.inv_temperature = 1.0 / args->temperature;
    status = run(&j, pfo_leading_size(&args->labels, 0), live, error);
    pfo_fpenv_leave(saved);
    return status;
}

pfo_status pfo_row_state_read(pfo_row_state *state, const pfo_view *logits, int64_t first_vocab, int64_t label,
                              double temperature, pfo_error *error)
{
    pfo_clear(error);
    pfo_status status = pfo_check_temperature(temperature, error);
    if (status == PFO_OK) status = pfo_check_logits(logits, "logits", error);
    if (status != PFO_OK) return status;
    if (logits->ndim != 1)
        return pfo_fail(error, PFO_ERROR_SHAPE, "logits", -1, "expected one row [vocab], got %d axes",
                        (int)logits->ndim);
    const int64_t count = logits->shape[0];
    if (first_vocab < 0 || first_vocab > INT64_MAX - count)
        return pfo_fail(error, PFO_ERROR_VALUE, "first_vocab", -1, "expected a vocabulary index >= 0, got %lld",
                        (long long)first_vocab);
    const pfo_kernels *kernels = pfo_kernels_now(error);
    if (!kernels) return PFO_ERROR_ISA;
    pfo_row_state part;
    pfo_fpenv saved = pfo_fpenv_enter();
    kernels->fold_row[pfo_logit_index_of(logits->dtype)](logits->data, count, PFO_FOLD_ALL, 1.0 / temperature, &part);
    if (part.best >= 0) part.best += first_vocab;
    if (label >= first_vocab && label - first_vocab < count) {
        const char *address = (const char *)logits->data + (label - first_vocab) * pfo_dtype_size(logits->dtype);
        part.target = pfo_read_float(address, logits->dtype) / temperature;
        part.has_target = 1;
    }
    pfo_row_state_merge(state, &part);
    pfo_fpenv_leave(saved);
    return PFO_OK;
}
