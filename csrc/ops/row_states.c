/* row_states_finish: the states of a vocabulary's parts, merged in order, to statistics. */
#include <math.h>
#include <string.h>

#include "../core/dtype.h"
#include "../core/row_state.h"
#include "checks.h"

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
    const pfo_status status = pfo_check_row_states(args, error);
    if (status != PFO_OK) return status;
    const pfo_view *views[PFO_TOKEN_OUTPUTS];
    pfo_row_states_outputs(args, views);
    const pfo_walk labels = pfo_walk_leading(&args->labels, 0);
    const int64_t rows = pfo_leading_size(&args->labels, 0);
    pfo_walk walks[PFO_TOKEN_OUTPUTS];
    for (int k = 0; k < PFO_TOKEN_OUTPUTS; k++)
        if (pfo_present(views[k])) walks[k] = pfo_walk_leading(views[k], 0);
    const pfo_fpenv saved = pfo_fpenv_enter();
    for (int64_t row = 0; row < rows; row++) {
        int fits;
        const int64_t label = pfo_read_int(pfo_walk_at(&labels, row), args->labels.dtype, &fits);
        pfo_row_stats stats;
        memset(&stats, 0, sizeof stats);
        const int ignored = fits && label == args->ignore_index;
        if (!ignored) finish_row(args, row, rows, &stats);
        const double values[PFO_TOKEN_OUTPUTS] = {stats.logp,       stats.lse,       stats.entropy, 0.0,
                                                  stats.mean_logit, stats.max_logit, stats.lse2};
        for (int k = 0; k < PFO_TOKEN_OUTPUTS; k++) {
            if (!pfo_present(views[k])) continue;
            char *address = pfo_walk_at(&walks[k], row);
            if (k == PFO_TOKEN_CORRECT)
                *(uint8_t *)address = !ignored && stats.best == label;
            else
                pfo_write_float(address, views[k]->dtype, values[k]);
        }
    }
    pfo_fpenv_leave(saved);
    return PFO_OK;
}
