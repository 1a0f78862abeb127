/* The pair state: rebase, merge, finish. */
#include "pair_state.h"

#include <math.h>
#include <string.h>

#include "row_state.h"

void pfo_pair_state_init(pfo_pair_state *state)
{
    memset(state, 0, sizeof *state);
    for (int row = 0; row < PFO_PAIR_ROWS; row++) state->max[row] = -(double)INFINITY;
}

/* scale * (cross + sum * (shift - other_shift)), with 0 where the scale or the sum is: shifts may be infinite there. */
static double moved(double cross, double sum, double scale, double shift, double other_shift)
{
    if (scale == 0.0 || sum == 0.0) return isnan(cross) ? cross : 0.0;
    const double difference = shift - other_shift;
    return scale * (difference == 0.0 ? cross : fma(sum, difference, cross));
}

void pfo_pair_state_rebase(pfo_pair_state *state, const double max[PFO_PAIR_ROWS])
{
    double shift[PFO_PAIR_ROWS], scale[PFO_PAIR_ROWS];
    int moves = 0;
    for (int row = 0; row < PFO_PAIR_ROWS; row++) {
        shift[row] = state->max[row] == max[row] ? 0.0 : state->max[row] - max[row];
        scale[row] = shift[row] == 0.0 ? 1.0 : pfo_exp_f64(shift[row]);
        moves |= shift[row] != 0.0;
    }
    if (!moves) return;
    /* exp(dy) (dy - dx) with dy' = dy + shift[REF], dx' = dx + shift[POLICY] */
    state->ref_cross = moved(state->ref_cross, state->sum_exp[PFO_PAIR_REF], scale[PFO_PAIR_REF], shift[PFO_PAIR_REF],
                             shift[PFO_PAIR_POLICY]);
    state->policy_cross = moved(state->policy_cross, state->sum_exp[PFO_PAIR_POLICY], scale[PFO_PAIR_POLICY],
                                shift[PFO_PAIR_POLICY], shift[PFO_PAIR_REF]);
    for (int row = 0; row < PFO_PAIR_ROWS; row++) {
        state->sum_exp[row] *= scale[row];
        state->max[row] = max[row];
    }
}

void pfo_pair_state_merge(pfo_pair_state *into, const pfo_pair_state *from)
{
    pfo_pair_state part = *from;
    double max[PFO_PAIR_ROWS];
    for (int row = 0; row < PFO_PAIR_ROWS; row++)
        max[row] = from->max[row] > into->max[row] ? from->max[row] : into->max[row];
    pfo_pair_state_rebase(into, max);
    pfo_pair_state_rebase(&part, max);
    for (int row = 0; row < PFO_PAIR_ROWS; row++) into->sum_exp[row] += part.sum_exp[row];
    into->ref_cross += part.ref_cross;
    into->policy_cross += part.policy_cross;
}

/* KL of a row whose cross sum is over exp relative to its maximum, against the other row. */
static double divergence(double cross, double sum, double log_sum, double other_log_sum)
{
    const double value = cross / sum - log_sum + other_log_sum;
    return value < 0.0 ? 0.0 : value;
}

void pfo_pair_state_finish(const pfo_pair_state *state, pfo_pair_stats *stats)
{
    for (int row = 0; row < PFO_PAIR_ROWS; row++) {
        const int is_infinite = isinf(state->max[row]) && !isnan(state->sum_exp[row]);
        stats->log_sum[row] = is_infinite ? (double)NAN : pfo_log_f64(state->sum_exp[row]);
        stats->lse[row] = is_infinite ? state->max[row] : state->max[row] + stats->log_sum[row];
    }
    const int is_distribution = !isnan(stats->log_sum[PFO_PAIR_POLICY]) && !isnan(stats->log_sum[PFO_PAIR_REF]);
    stats->ref_policy_kl = stats->policy_ref_kl = (double)NAN;
    if (!is_distribution) return;
    const double policy = stats->log_sum[PFO_PAIR_POLICY], ref = stats->log_sum[PFO_PAIR_REF];
    stats->ref_policy_kl = divergence(state->ref_cross, state->sum_exp[PFO_PAIR_REF], ref, policy);
    stats->policy_ref_kl = divergence(state->policy_cross, state->sum_exp[PFO_PAIR_POLICY], policy, ref);
}
