/* exp on vectors of the row.  Included inside an ISA region, after vec_<isa>.h.  (log of one double: core/row_state.c.)
 *
 * float   exp(x) = 2^k 2^(j/8) e^r,  8 k + j = round(8 x / ln 2),  r = x - (8 k + j) ln(2)/8,  |r| <= ln(2)/16,
 *         e^r by a cubic with constant and linear term 1: relative error 2.6e-8, under half an ulp
 * double  exp(x) = 2^k e^r,  |r| <= ln(2)/2,  degree 11, relative error 2^-57.9, r in two fma steps
 *
 * What saves instructions in a loop that is bound by them:
 *   - 8 x / ln 2 + MAGIC leaves the integer in the low mantissa bits (round to nearest even).  MAGIC also holds the
 *     exponent's bias less one (the polynomial's coefficients are doubled to make up for it), so the same bits, shifted
 *     so that k meets the exponent field, are the float 2^(k-1) (1 + j/8): the factor is made by one shift.  The table
 *     holds 2^(j/8) / (1 + j/8), and one permute looks it up.  Against a degree 6 polynomial without a table the
 *     forward kernel took 12 % less time on AVX2 and 21 % less on AVX-512 (one thread, entropy, cached; 2026-11-23).
 *   - ln 2 / 8 as one float is off by 1.9e-9 relative: that moves x by a twentieth of the half-ulp that
 *     x = logit - reference has been rounded by already.  A second fma step cost 9 %.
 *   - Where the integer is 0, at the bottom, the factor is exactly 0: clamping x from below there turns everything
 *     smaller, -inf included, into exact zero with no mask.
 * NaN stays NaN: it goes through the multiplication, not through integer arithmetic.
 *
 * Worst error over all float inputs, against float64: 5.60 ulp for float exp wherever the true value is at least 2^-125
 * (2.56 ulp for |x| <= 16); below that the result lies between 0 and about the true value (5 units of 2^-149).  From
 * 88.7228394 on it is +inf, as it should be.  Double exp 0.90 ulp and log 0.84 ulp (pfo_log_f64), worst of 4 million
 * samples each.  tests/test_vmath.py holds the bounds; its nightly case takes every float. */

#define PFO_EXP_F32_LOW (-87.34f) /* 8 k + j = -1008: factor 0 */
#define PFO_EXP_F32_HIGH 89.0f    /* 2 * polynomial * 2^127 overflows as it should */
#define PFO_EXP_F64_LOW (-708.4)  /* k = -1022: factor 0 */
#define PFO_EXP_F64_HIGH 710.0    /* k = 1024 */

/* 2^(j/8) / (1 + j/8) */
static const float exp_table[8] = {0x1.0p+0f,      0x1.f04d5cp-1f, 0x1.e71968p-1f, 0x1.e2e55ap-1f,
                                   0x1.e2b7dep-1f, 0x1.e5ea4p-1f,  0x1.ec0b66p-1f, 0x1.f4ce76p-1f};

/* x must lie in [PFO_EXP_F32_LOW, PFO_EXP_F32_HIGH] or be NaN. */
PFO_INLINE vf vf_exp_in_range(vf x)
{
    const vf magic = vf_set1(0x1.8p23f + 8 * 126.0f);
    vf t = vf_fma(x, vf_set1(0x1.715476p+3f), magic);
    vf n = vf_sub(t, magic);
    vf r = vf_fma(n, vf_set1(-0x1.62e43p-4f), x);
    vf factor = vf_mul(vf_lookup8(exp_table, t), vf_pow2_bits(t));
    vf p = vf_fma(vf_set1(0x1.555656p-2f), r, vf_set1(0x1.000876p+0f));
    p = vf_fma(p, r, vf_set1(2.0f));
    p = vf_fma(p, r, vf_set1(2.0f));
    return vf_mul(p, factor);
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
