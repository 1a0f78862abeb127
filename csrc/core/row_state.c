/* The row state in C: merge, finish, and how it travels. */
#include "row_state.h"

#include <math.h>
#include <string.h>

#define PFO_HD static
#define PFO_FN(name) local_##name
#include "row_state.inc"

double pfo_exp_f64(double x) { return local_exp_f64(x); }
double pfo_log_f64(double x) { return local_log_f64(x); }
void pfo_row_state_init(pfo_row_state *state) { local_row_state_init(state); }
void pfo_row_state_rebase(pfo_row_state *state, double max) { local_row_state_rebase(state, max); }

void pfo_row_state_merge(pfo_row_state *into, const pfo_row_state *from)
{
    pfo_fpenv saved = pfo_fpenv_enter();
    local_row_state_merge(into, from);
    pfo_fpenv_leave(saved);
}

void pfo_row_state_finish(const pfo_row_state *state, pfo_row_stats *stats)
{
    pfo_fpenv saved = pfo_fpenv_enter();
    local_row_state_finish(state, stats);
    pfo_fpenv_leave(saved);
}

void pfo_row_state_store(const pfo_row_state *state, double *out)
{
    const double fields[PFO_ROW_STATE_FIELDS] = {state->max,          state->sum_exp,       state->sum_x_exp,
                                                 state->sum_exp2,     state->sum_x,         state->target,
                                                 (double)state->best, (double)state->count, (double)state->has_target};
    memcpy(out, fields, sizeof fields);
}

void pfo_row_state_load(pfo_row_state *state, const double *in)
{
    state->max = in[0];
    state->sum_exp = in[1];
    state->sum_x_exp = in[2];
    state->sum_exp2 = in[3];
    state->sum_x = in[4];
    state->target = in[5];
    state->best = (int64_t)in[6];
    state->count = (int64_t)in[7];
    state->has_target = (int64_t)in[8];
}
