/* The row state: merge and finish.
 *
 * libm's exp and log differ between C libraries in the last bit; results here must not, so this file has its own (fma
 * is exact everywhere).  exp is the double polynomial of simd/vmath.h.  log is the method of fdlibm's e_log.c: with
 * x = 2^k (1 + f), s = f / (2 + f):  log(1 + f) = f - f^2/2 + s (f^2/2 + R(s^2)). */
#include "row_state.h"

#include <math.h>
#include <string.h>

double pfo_exp_f64(double x)
{
    static const double coefficients[] = {
        0x1.ad7f6f0e24922p-25,
        0x1.28ad72cd4ab37p-21,
        0x1.71df255235e0bp-18,
        0x1.a0199a0c66195p-15,
        0x1.a01a012a57b5ep-12,
        0x1.6c16c1842a126p-9,
        0x1.1111111127be5p-6,
        0x1.555555555087cp-4,
        0x1.55555555554fap-2,
        0x1.000000000000ap+0,
        2.0,
        2.0,
    };
    const double magic = 0x1.8p52 + 1022.0;
    if (x < -708.4) x = -708.4;
    if (x > 710.0) x = 710.0;
    double t = fma(x, 0x1.71547652b82fep+0, magic);
    double n = t - magic;
    double r = fma(n, -0x1.62e42fefa39efp-1, x);
    r = fma(n, -0x1.abc9e3b39803fp-56, r);
    double p = coefficients[0];
    for (int i = 1; i < 12; i++) p = fma(p, r, coefficients[i]);
    uint64_t bits;
    memcpy(&bits, &t, sizeof bits);
    bits <<= 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

double pfo_log_f64(double x)
{
    if (!(x > 0.0)) return x == 0.0 ? -(double)INFINITY : (double)NAN;
    if (x == (double)INFINITY) return x;
    int64_t k = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        k = -54;
    }
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    /* Moves the mantissa into [sqrt(1/2), sqrt(2)): 0x95f62... is the distance of sqrt(2)'s fraction to 2. */
    bits += (uint64_t)(0x3ff00000 - 0x3fe6a09e) << 32;
    k += (int64_t)(bits >> 52) - 1023;
    bits = (bits & 0x000fffffffffffffULL) + ((uint64_t)0x3fe6a09e << 32);
    double m;
    memcpy(&m, &bits, sizeof m);
    double f = m - 1.0;
    double s = f / (2.0 + f);
    double z = s * s;
    double w = z * z;
    double odd = w * fma(w, fma(w, 1.531383769920937332e-01, 2.222219843214978396e-01), 3.999999999940941908e-01);
    double even =
        z * fma(w, fma(w, fma(w, 1.479819860511658591e-01, 1.818357216161805012e-01), 2.857142874366239149e-01),
                6.666666666666735130e-01);
    double half_square = 0.5 * f * f;
    double correction = fma(s, half_square + (odd + even), (double)k * 1.90821492927058770002e-10);
    return (double)k * 6.93147180369123816490e-01 - ((half_square - correction) - f);
}

void pfo_row_state_init(pfo_row_state *state)
{
    memset(state, 0, sizeof *state);
    state->max = -(double)INFINITY;
    state->target = -(double)INFINITY;
    state->best = -1;
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

/* Sums of `part` relative to `max` >= part->max instead of part->max. */
static void rescale(const pfo_row_state *part, double max, double *sum_exp, double *sum_x_exp, double *sum_exp2)
{
    *sum_exp = part->sum_exp;
    *sum_x_exp = part->sum_x_exp;
    *sum_exp2 = part->sum_exp2;
    if (part->max == max) return; /* also where both are infinite */
    double shift = part->max - max;
    double scale = pfo_exp_f64(shift);
    *sum_exp *= scale;
    *sum_exp2 *= scale * scale;
    /* shift may be -inf where scale is 0; the product's limit is 0.  A NaN sum stays NaN. */
    *sum_x_exp = scale == 0.0 ? *sum_exp : scale * fma(shift, part->sum_exp, part->sum_x_exp);
}

void pfo_row_state_rebase(pfo_row_state *state, double max)
{
    const pfo_row_state before = *state; /* rescale reads its input after it has written */
    rescale(&before, max, &state->sum_exp, &state->sum_x_exp, &state->sum_exp2);
    state->max = max;
}

static void merge(pfo_row_state *into, const pfo_row_state *from)
{
    if (from->has_target) {
        into->target = from->target;
        into->has_target = 1;
    }
    if (from->count == 0) return;
    if (into->count == 0) {
        pfo_row_state whole = *from;
        whole.target = into->target;
        whole.has_target = into->has_target;
        *into = whole;
        return;
    }
    double max = from->max > into->max ? from->max : into->max;
    double sums[3], added[3];
    rescale(into, max, &sums[0], &sums[1], &sums[2]);
    rescale(from, max, &added[0], &added[1], &added[2]);
    into->sum_exp = sums[0] + added[0];
    into->sum_x_exp = sums[1] + added[1];
    into->sum_exp2 = sums[2] + added[2];
    into->sum_x += from->sum_x;
    if (from->max > into->max) into->best = from->best;
    into->max = max;
    into->count += from->count;
}

void pfo_row_state_merge(pfo_row_state *into, const pfo_row_state *from)
{
    pfo_fpenv saved = pfo_fpenv_enter();
    merge(into, from);
    pfo_fpenv_leave(saved);
}

static void finish(const pfo_row_state *state, pfo_row_stats *stats)
{
    const double inf = (double)INFINITY;
    stats->best = state->best;
    stats->logp = stats->entropy = (double)NAN;
    stats->lse = stats->lse2 = stats->max_logit = stats->mean_logit = (double)NAN;
    if (isnan(state->sum_exp)) {
        stats->best = -1;
        return;
    }
    stats->max_logit = state->max;
    stats->mean_logit = state->count ? state->sum_x / (double)state->count : -inf;
    if (isinf(state->max)) {
        stats->lse = stats->lse2 = state->max;
        return;
    }
    double log_sum = pfo_log_f64(state->sum_exp);
    stats->lse = state->max + log_sum;
    stats->lse2 = 2.0 * state->max + pfo_log_f64(state->sum_exp2);
    double entropy = log_sum - state->sum_x_exp / state->sum_exp;
    stats->entropy = entropy > 0.0 ? entropy : 0.0; /* rounding can leave -1e-8 in a peaked row */
    if (state->has_target) stats->logp = (state->target - state->max) - log_sum;
}

void pfo_row_state_finish(const pfo_row_state *state, pfo_row_stats *stats)
{
    pfo_fpenv saved = pfo_fpenv_enter();
    finish(state, stats);
    pfo_fpenv_leave(saved);
}
