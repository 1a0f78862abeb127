/* row_states_finish: the states of a vocabulary's parts, merged in order, to statistics. */
#include <math.h>
#include <string.h>

#include "../core/dtype.h"
#include "../core/row_state.h"
#include "views.h"

enum {
    STAT_COUNT = 7,
    CORRECT = 3
};
static const char *const stat_names[STAT_COUNT] = {"logps",      "lse",       "entropy", "correct",
                                                   "mean_logit", "max_logit", "lse2"};

static pfo_status check(const pfo_row_states_args *args, const pfo_view *stats[], pfo_error *error)
{
    const pfo_view *states = &args->states, *labels = &args->labels;
    pfo_status status = pfo_check_array(labels, "labels", PFO_SET_INTEGER, error);
    if (status == PFO_OK) status = pfo_check_array(states, "states", PFO_SET_FLOAT, error);
    if (status == PFO_OK) status = pfo_check_dtype_is(states, "states", PFO_F64, error);
    if (status != PFO_OK) return status;
    int fits = states->ndim == labels->ndim + 2 && states->shape[states->ndim - 1] == PFO_ROW_STATE_FIELDS;
    for (int32_t axis = 0; fits && axis < labels->ndim; axis++) fits = states->shape[axis + 1] == labels->shape[axis];
    if (!fits)
        return pfo_fail(error, PFO_ERROR_SHAPE, "states", -1, "expected [parts, *labels, %d]", PFO_ROW_STATE_FIELDS);
    status = pfo_check_contiguous(states, "states", error);
    if (status != PFO_OK) return status;
    for (int k = 0; k < STAT_COUNT; k++) {
        if (!pfo_present(stats[k])) continue;
        status = pfo_check_array(stats[k], stat_names[k], k == CORRECT ? PFO_SET_BOOL : PFO_SET_FLOAT, error);
        if (status == PFO_OK) status = pfo_check_leading(stats[k], stat_names[k], labels, 0, "labels", error);
        if (status == PFO_OK) status = pfo_check_writable_strides(stats[k], stat_names[k], error);
        if (status == PFO_OK) status = pfo_check_disjoint(stats[k], stat_names[k], states, "states", error);
        if (status == PFO_OK) status = pfo_check_disjoint(stats[k], stat_names[k], labels, "labels", error);
        for (int other = 0; status == PFO_OK && other < k; other++)
            status = pfo_check_disjoint(stats[k], stat_names[k], stats[other], stat_names[other], error);
        if (status != PFO_OK) return status;
    }
    return PFO_OK;
}

static void finish_row(const pfo_row_states_args *args, int64_t row, int64_t rows, pfo_row_stats *stats)
{
    pfo_row_state whole, part;
    pfo_row_state_init(&whole);
    for (int64_t k = 0; k < args->states.shape[0]; k++) {
        pfo_row_state_load(&part, (const double *)args->states.data + (k * rows + row) * PFO_ROW_STATE_FIELDS);
        pfo_row_state_merge(&whole, &part);
    }
    pfo_row_state_finish(&whole, stats);
}

pfo_status pfo_row_states_finish(const pfo_row_states_args *args, pfo_error *error)
{
    pfo_clear(error);
    const pfo_view *views[STAT_COUNT] = {&args->logps,      &args->lse,       &args->entropy, &args->correct,
                                         &args->mean_logit, &args->max_logit, &args->lse2};
    pfo_status status = check(args, views, error);
    if (status != PFO_OK) return status;
    const pfo_walk labels = pfo_walk_leading(&args->labels, 0);
    const int64_t rows = pfo_leading_size(&args->labels, 0);
    pfo_walk walks[STAT_COUNT];
    for (int k = 0; k < STAT_COUNT; k++)
        if (pfo_present(views[k])) walks[k] = pfo_walk_leading(views[k], 0);
    const pfo_fpenv saved = pfo_fpenv_enter();
    for (int64_t row = 0; row < rows; row++) {
        int fits;
        const int64_t label = pfo_read_int(pfo_walk_at(&labels, row), args->labels.dtype, &fits);
        pfo_row_stats stats;
        memset(&stats, 0, sizeof stats);
        const int ignored = fits && label == args->ignore_index;
        if (!ignored) finish_row(args, row, rows, &stats);
        const double values[STAT_COUNT] = {stats.logp,       stats.lse,       stats.entropy, 0.0,
                                           stats.mean_logit, stats.max_logit, stats.lse2};
        for (int k = 0; k < STAT_COUNT; k++) {
            if (!pfo_present(views[k])) continue;
            char *address = pfo_walk_at(&walks[k], row);
            if (k == CORRECT)
                *(uint8_t *)address = !ignored && stats.best == label;
            else
                pfo_write_float(address, views[k]->dtype, values[k]);
        }
    }
    pfo_fpenv_leave(saved);
    return PFO_OK;
}
