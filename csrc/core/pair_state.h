/* What is known about two rows of logits over one vocabulary, a policy's x and a reference's y, after some part of it
 * was read: their softmaxes p and r, the two divergences, and log-sums of the perturbed logits x +- eps (x - y).
 * x and y are already divided by the temperature.  Parts merge as row states do (prefopt.h). */
#ifndef PFO_PAIR_STATE_H
#define PFO_PAIR_STATE_H

#include "core.h"

/* The four softmaxes of a pair of rows. */
enum pfo_pair_row {
    PFO_PAIR_POLICY,
    PFO_PAIR_REF,
    PFO_PAIR_PLUS,  /* (1 + eps) x - eps y */
    PFO_PAIR_MINUS, /* (1 - eps) x + eps y */
    PFO_PAIR_ROWS
};

/* With dx = x - max[POLICY], dy = y - max[REF]: */
typedef struct pfo_pair_state {
    double max[PFO_PAIR_ROWS]; /* -inf for an empty part */
    double sum_exp[PFO_PAIR_ROWS];
    double ref_cross;    /* sum exp(dy) (dy - dx), 0 where exp(dy) is 0 */
    double policy_cross; /* sum exp(dx) (dx - dy), 0 where exp(dx) is 0 */
} pfo_pair_state;

typedef struct pfo_pair_stats {
    double log_sum[PFO_PAIR_ROWS]; /* of exp relative to the maximum; NaN where a row is no distribution */
    double lse[PFO_PAIR_ROWS];     /* max + log_sum; -inf or +inf where that is the maximum */
    double ref_policy_kl;          /* KL(r || p) = sum r (log r - log p) */
    double policy_ref_kl;          /* KL(p || r) */
} pfo_pair_stats;

void pfo_pair_state_init(pfo_pair_state *state);
/* The same state with its sums relative to other maxima. */
void pfo_pair_state_rebase(pfo_pair_state *state, const double max[PFO_PAIR_ROWS]);
void pfo_pair_state_merge(pfo_pair_state *into, const pfo_pair_state *from);
/* A divergence is never negative: rounding below 0 becomes 0; a row that is no distribution gives NaN. */
void pfo_pair_state_finish(const pfo_pair_state *state, pfo_pair_stats *stats);

#endif
