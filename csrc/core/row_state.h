/* Scalar double exp and log that give the same bits on every machine, for merging and finishing row states. */
#ifndef PFO_ROW_STATE_H
#define PFO_ROW_STATE_H

#include "core.h"

double pfo_exp_f64(double x); /* as vd_exp in simd/vmath.h: 0.90 ulp, 0 below 2^-1021.5 */
double pfo_log_f64(double x); /* 0.84 ulp; log(0) = -inf, log(negative) = NaN */

/* The same state with its sums relative to max, which replaces state->max.  No-op if it is the same; an empty state
 * (max -inf, sums 0 or NaN) takes any. */
void pfo_row_state_rebase(pfo_row_state *state, double max);

/* A state as doubles, in the order of the struct's fields: how states travel between processes. */
#define PFO_ROW_STATE_FIELDS 9
void pfo_row_state_store(const pfo_row_state *state, double *out);
void pfo_row_state_load(pfo_row_state *state, const double *in);

#endif
