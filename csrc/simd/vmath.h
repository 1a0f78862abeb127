/* exp on vectors of the row, log of one double.  Included inside an ISA region, after vec_<isa>.h.
 *
 * exp(x) = 2^n e^r,  n = round(x / ln 2),  r = x - n ln 2 in two fma steps,  e^r by a minimax polynomial on
 * |r| <= ln(2)/2 with constant and linear term 1 (relative error 2^-28.3 of degree 6 in float, 2^-57.9 of degree 11 in
 * double, before rounding of the coefficients).
 *
 * Two tricks save instructions in a loop that is bound by them:
 *   - x / ln 2 + MAGIC leaves n in the low mantissa bits (round to nearest even); MAGIC also holds bias - 1, so the
 *   same
 *     bits shifted into the exponent field are the float 2^(n-1) itself.  The coefficients are doubled to make up for
 *     it.
 *   - At n = -126 (-1022) that field is 0, the factor is exactly 0: clamping x from below at a point with that n turns
 *     everything smaller, -inf included, into exact zero with no mask.
 * NaN stays NaN: it goes through the multiplication, not through integer arithmetic.
 *
 * Worst error over all float inputs, against float64: 0.90 ulp for float exp wherever the true value is at least
 * 2^-125.5; smaller values become 0.  From 88.7228394 on the result is +inf, as it should be.  Double exp 0.90 ulp and
 * log 0.84 ulp (pfo_log_f64), worst of 4 million samples each.  benchmarks/vmath.py sweeps, tests/test_vmath.py holds
 * the bounds. */
#define PFO_EXP_F32_LOW (-87.3f) /* n = -126 */
#define PFO_EXP_F32_HIGH 89.0f   /* n = 128: 2 * polynomial * 2^127 overflows as it should */
#define PFO_EXP_F64_LOW (-708.4) /* n = -1022 */
#define PFO_EXP_F64_HIGH 710.0   /* n = 1024 */

/* x must lie in [PFO_EXP_F32_LOW, PFO_EXP_F32_HIGH] or be NaN. */
PFO_INLINE vf vf_exp_in_range(vf x)
{
    const vf magic = vf_set1(0x1.8p23f + 126.0f);
    vf t = vf_fma(x, vf_set1(0x1.715476p+0f), magic);
    vf n = vf_sub(t, magic);
    vf r = vf_fma(n, vf_set1(-0x1.62e43p-1f), x);
    r = vf_fma(n, vf_set1(0x1.05c61p-29f), r);
    vf p = vf_set1(0x1.6a2434p-9f);
    p = vf_fma(p, r, vf_set1(0x1.1239e2p-6f));
    p = vf_fma(p, r, vf_set1(0x1.5558f2p-4f));
    p = vf_fma(p, r, vf_set1(0x1.555492p-2f));
    p = vf_fma(p, r, vf_set1(0x1.fffffcp-1f));
    p = vf_fma(p, r, vf_set1(2.0f));
    p = vf_fma(p, r, vf_set1(2.0f));
    return vf_mul(p, vf_pow2_bits(t));
}

PFO_INLINE vd vd_exp_in_range(vd x)
{
    const vd magic = vd_set1(0x1.8p52 + 1022.0);
    vd t = vd_fma(x, vd_set1(0x1.71547652b82fep+0), magic);
    vd n = vd_sub(t, magic);
    vd r = vd_fma(n, vd_set1(-0x1.62e42fefa39efp-1), x);
    r = vd_fma(n, vd_set1(-0x1.abc9e3b39803fp-56), r);
    vd p = vd_set1(0x1.ad7f6f0e24922p-25);
    p = vd_fma(p, r, vd_set1(0x1.28ad72cd4ab37p-21));
    p = vd_fma(p, r, vd_set1(0x1.71df255235e0bp-18));
    p = vd_fma(p, r, vd_set1(0x1.a0199a0c66195p-15));
    p = vd_fma(p, r, vd_set1(0x1.a01a012a57b5ep-12));
    p = vd_fma(p, r, vd_set1(0x1.6c16c1842a126p-9));
    p = vd_fma(p, r, vd_set1(0x1.1111111127be5p-6));
    p = vd_fma(p, r, vd_set1(0x1.555555555087cp-4));
    p = vd_fma(p, r, vd_set1(0x1.55555555554fap-2));
    p = vd_fma(p, r, vd_set1(0x1.000000000000ap+0));
    p = vd_fma(p, r, vd_set1(2.0));
    p = vd_fma(p, r, vd_set1(2.0));
    return vd_mul(p, vd_pow2_bits(t));
}

/* For x <= PFO_EXP_*_HIGH: a difference from a maximum, a log-probability. */
PFO_INLINE vf vf_exp_nonpositive(vf x) { return vf_exp_in_range(vf_max(vf_set1(PFO_EXP_F32_LOW), x)); }
PFO_INLINE vd vd_exp_nonpositive(vd x) { return vd_exp_in_range(vd_max(vd_set1(PFO_EXP_F64_LOW), x)); }

/* For any x. */
PFO_INLINE vf vf_exp(vf x) { return vf_exp_nonpositive(vf_min(vf_set1(PFO_EXP_F32_HIGH), x)); }
PFO_INLINE vd vd_exp(vd x) { return vd_exp_nonpositive(vd_min(vd_set1(PFO_EXP_F64_HIGH), x)); }
