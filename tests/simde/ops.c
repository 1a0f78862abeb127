/* Every AVX-512 operation that csrc/simd/vec_avx512.h uses, against plain C, lane by lane.
 *
 * Built twice: with -DPFO_SIMDE on AVX2 (does the emulation do what plain C does?) and with real AVX-512 flags
 * (does the hardware do what plain C does?).  tests/test_lint.py fails when the row uses an operation that is not named
 * here. */
#if defined(PFO_SIMDE)
#include "pfo_simde.h"
#else
#include <immintrin.h>
#endif

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "ops.h"

typedef struct tally {
    long lanes, failures;
} tally;

/* Equal as bits; any NaN equals any NaN where payloads are not specified (arithmetic). */
static void compare_f32(tally *t, const char *name, const float *got, const float *want)
{
    for (int i = 0; i < 16; i++) {
        t->lanes++;
        if ((isnan(got[i]) && isnan(want[i])) || memcmp(&got[i], &want[i], 4) == 0) continue;
        if (t->failures++ < 20) printf("%s lane %d: got %a, expected %a\n", name, i, (double)got[i], (double)want[i]);
    }
}

static void compare_f64(tally *t, const char *name, const double *got, const double *want)
{
    for (int i = 0; i < 8; i++) {
        t->lanes++;
        if ((isnan(got[i]) && isnan(want[i])) || memcmp(&got[i], &want[i], 8) == 0) continue;
        if (t->failures++ < 20) printf("%s lane %d: got %a, expected %a\n", name, i, got[i], want[i]);
    }
}

static void compare_bits(tally *t, const char *name, const void *got, const void *want, size_t size, int count)
{
    for (int i = 0; i < count; i++) {
        t->lanes++;
        if (memcmp((const char *)got + (size_t)i * size, (const char *)want + (size_t)i * size, size) == 0) continue;
        if (t->failures++ < 20) printf("%s lane %d: bits differ\n", name, i);
    }
}

static const float F32_SPECIAL[] = {0.0f,       -0.0f,      1.0f,       -1.0f,    INFINITY, -INFINITY, NAN,      -NAN,
                                    0x1p-149f,  0x1p-126f,  65504.0f,   65519.9f, 65520.0f, 0x1p-24f,  0x1p-25f, 3.0f,
                                    0x1.8p-24f, 0x1.002p0f, 0x1.006p0f, 3.4e38f,  -3.4e38f, 1e-30f};
#define F32_SPECIALS ((int)(sizeof F32_SPECIAL / sizeof F32_SPECIAL[0]))

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

/* Round 0 .. 31: specials against specials; then random bit patterns, then random values near one. */
static void fill_f32(float *lanes, int round, int operand, uint64_t *state)
{
    for (int i = 0; i < 16; i++) {
        const uint32_t bits = next_random(state);
        if (round < 32)
            lanes[i] = F32_SPECIAL[(i * (operand + 1) + round * (operand * 2 + 1)) % F32_SPECIALS];
        else if (round % 2)
            memcpy(&lanes[i], &bits, 4);
        else
            lanes[i] = ((float)(bits >> 8) * 0x1p-24f - 0.5f) * 40.0f;
    }
}

static void fill_f64(double *lanes, int round, int operand, uint64_t *state)
{
    for (int i = 0; i < 8; i++) {
        const uint64_t bits = (uint64_t)next_random(state) << 32 | next_random(state);
        if (round < 32)
            lanes[i] = (double)F32_SPECIAL[(i * (operand + 1) + round * (operand * 2 + 1)) % F32_SPECIALS];
        else if (round % 2)
            memcpy(&lanes[i], &bits, 8);
        else
            lanes[i] = ((double)(bits >> 12) * 0x1p-52 - 0.5) * 40.0;
    }
}

#define LANE_CHECK(compare, type, count, name, intrinsic, store, plain) \
    do {                                                                \
        type got[count], want[count];                                   \
        store(got, intrinsic);                                          \
        for (int i = 0; i < (count); i++) want[i] = (plain);            \
        compare(t, name, got, want);                                    \
    } while (0)
#define F32_CHECK(name, intrinsic, plain) LANE_CHECK(compare_f32, float, 16, name, intrinsic, _mm512_storeu_ps, plain)
#define F64_CHECK(name, intrinsic, plain) LANE_CHECK(compare_f64, double, 8, name, intrinsic, _mm512_storeu_pd, plain)

static void check_f32(tally *t, const float *a, const float *b, const float *c)
{
    const __m512 va = _mm512_loadu_ps(a), vb = _mm512_loadu_ps(b), vc = _mm512_loadu_ps(c);
    F32_CHECK("loadu_ps", va, a[i]);
    F32_CHECK("set1_ps", _mm512_set1_ps(a[3]), a[3]);
    F32_CHECK("add_ps", _mm512_add_ps(va, vb), a[i] + b[i]);
    F32_CHECK("sub_ps", _mm512_sub_ps(va, vb), a[i] - b[i]);
    F32_CHECK("mul_ps", _mm512_mul_ps(va, vb), a[i] * b[i]);
    F32_CHECK("div_ps", _mm512_div_ps(va, vb), a[i] / b[i]);
    F32_CHECK("fmadd_ps", _mm512_fmadd_ps(va, vb, vc), fmaf(a[i], b[i], c[i]));
    F32_CHECK("max_ps", _mm512_max_ps(va, vb), a[i] > b[i] ? a[i] : b[i]);
    F32_CHECK("min_ps", _mm512_min_ps(va, vb), a[i] < b[i] ? a[i] : b[i]);

    float low[8], want_low[8];
    _mm256_storeu_ps(low, _mm512_castps512_ps256(va));
    memcpy(want_low, a, sizeof want_low);
    compare_bits(t, "castps512_ps256", low, want_low, 4, 8);
    _mm256_storeu_ps(low, _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(va), 1)));
    memcpy(want_low, a + 8, sizeof want_low);
    compare_bits(t, "extractf64x4_pd, castps_pd", low, want_low, 4, 8);

    const __m512d lower = _mm512_castpd256_pd512(_mm256_castps_pd(_mm256_loadu_ps(a)));
    const __m512 twice = _mm512_castpd_ps(_mm512_insertf64x4(lower, _mm256_castps_pd(_mm256_loadu_ps(a)), 1));
    F32_CHECK("castpd256_pd512, insertf64x4, castpd_ps", twice, a[i % 8]);
    uint32_t index[16];
    memcpy(index, b, sizeof index);
    F32_CHECK("permutexvar_ps", _mm512_permutexvar_ps(_mm512_castps_si512(vb), va), a[index[i] & 15u]);
}

static void check_f64(tally *t, const double *a, const double *b, const double *c)
{
    const __m512d va = _mm512_loadu_pd(a), vb = _mm512_loadu_pd(b), vc = _mm512_loadu_pd(c);
    F64_CHECK("loadu_pd", va, a[i]);
    F64_CHECK("set1_pd", _mm512_set1_pd(a[3]), a[3]);
    F64_CHECK("add_pd", _mm512_add_pd(va, vb), a[i] + b[i]);
    F64_CHECK("sub_pd", _mm512_sub_pd(va, vb), a[i] - b[i]);
    F64_CHECK("mul_pd", _mm512_mul_pd(va, vb), a[i] * b[i]);
    F64_CHECK("div_pd", _mm512_div_pd(va, vb), a[i] / b[i]);
    F64_CHECK("fmadd_pd", _mm512_fmadd_pd(va, vb, vc), fma(a[i], b[i], c[i]));
    F64_CHECK("max_pd", _mm512_max_pd(va, vb), a[i] > b[i] ? a[i] : b[i]);
    F64_CHECK("min_pd", _mm512_min_pd(va, vb), a[i] < b[i] ? a[i] : b[i]);

    double half[4];
    _mm256_storeu_pd(half, _mm512_castpd512_pd256(va));
    compare_bits(t, "castpd512_pd256", half, a, 8, 4);
    _mm256_storeu_pd(half, _mm512_extractf64x4_pd(va, 1));
    compare_bits(t, "extractf64x4_pd", half, a + 4, 8, 4);

    uint64_t bits[8], want[8];
    memcpy(bits, a, sizeof bits);
    for (int i = 0; i < 8; i++) want[i] = bits[i] << 52;
    double got[8];
    _mm512_storeu_pd(got, _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(va), 52)));
    compare_bits(t, "slli_epi64, castpd_si512, castsi512_pd", got, want, 8, 8);
}

#define INTEGER_CHECK(name, intrinsic, plain)                  \
    do {                                                       \
        uint32_t want[16];                                     \
        float got[16];                                         \
        for (int i = 0; i < 16; i++) want[i] = (plain);        \
        _mm512_storeu_ps(got, _mm512_castsi512_ps(intrinsic)); \
        compare_bits(t, name, got, want, 4, 16);               \
    } while (0)

static void check_integer(tally *t, const float *a, const float *b)
{
    uint32_t x[16], y[16];
    memcpy(x, a, sizeof x);
    memcpy(y, b, sizeof y);
    const __m512i vx = _mm512_castps_si512(_mm512_loadu_ps(a)), vy = _mm512_castps_si512(_mm512_loadu_ps(b));
    INTEGER_CHECK("castps_si512, castsi512_ps", vx, x[i]);
    INTEGER_CHECK("set1_epi32", _mm512_set1_epi32(0x7fff), 0x7fffu);
    INTEGER_CHECK("slli_epi32", _mm512_slli_epi32(vx, 23), x[i] << 23);
    INTEGER_CHECK("srli_epi32", _mm512_srli_epi32(vx, 16), x[i] >> 16);
    INTEGER_CHECK("add_epi32", _mm512_add_epi32(vx, vy), x[i] + y[i]);
    INTEGER_CHECK("and_si512", _mm512_and_si512(vx, vy), x[i] & y[i]);
    INTEGER_CHECK("or_si512", _mm512_or_si512(vx, vy), x[i] | y[i]);
    const __mmask16 unordered = _mm512_cmp_ps_mask(_mm512_castsi512_ps(vx), _mm512_castsi512_ps(vy), _CMP_UNORD_Q);
    INTEGER_CHECK("cmp_ps_mask, mask_blend_epi32", _mm512_mask_blend_epi32(unordered, vx, vy),
                  isnan(a[i]) || isnan(b[i]) ? y[i] : x[i]);
}

/* ---- 16-bit loads, stores and converts: by arithmetic, so that no bit trick is shared with the emulation -------- */

static double half_value(uint16_t bits)
{
    const int exponent = (bits >> 10) & 31, mantissa = bits & 0x3ff;
    const double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (exponent == 31) return mantissa ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0) return sign * ldexp(mantissa, -24);
    return sign * ldexp(1024 + mantissa, exponent - 25);
}

/* The half nearest to value, ties to even; NaN is left to the caller. */
static uint16_t nearest_half(float value)
{
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    const double magnitude = fabs((double)value);
    if (magnitude >= 65520.0) return (uint16_t)(sign | 0x7c00);
    int exponent = -14;
    while (magnitude >= ldexp(1.0, exponent + 1)) exponent++;
    const double units = nearbyint(ldexp(magnitude, 10 - exponent)); /* in [0, 2048]; a carry runs on by itself */
    return (uint16_t)(sign | (uint32_t)((exponent + 14) * 1024 + (int)units));
}

static void check_halves(tally *t, uint32_t first)
{
    uint16_t halves[16], back[16];
    float got[16], want[16];
    for (uint32_t i = 0; i < 16; i++) halves[i] = (uint16_t)(first + i);
    const __m256i packed = _mm256_loadu_si256((const __m256i *)(const void *)halves);
    _mm512_storeu_ps(got, _mm512_cvtph_ps(packed));
    for (int i = 0; i < 16; i++) want[i] = (float)half_value(halves[i]);
    compare_f32(t, "cvtph_ps", got, want);

    uint32_t wide[16];
    for (int i = 0; i < 16; i++) wide[i] = halves[i];
    _mm512_storeu_ps(got, _mm512_castsi512_ps(_mm512_cvtepu16_epi32(packed)));
    compare_bits(t, "cvtepu16_epi32", got, wide, 4, 16);
    _mm256_storeu_si256((__m256i *)(void *)back, _mm512_cvtepi32_epi16(_mm512_cvtepu16_epi32(packed)));
    compare_bits(t, "cvtepi32_epi16", back, halves, 2, 16);
}

static void check_narrowing(tally *t, const float *a)
{
    uint16_t got[16];
    _mm256_storeu_si256((__m256i *)(void *)got,
                        _mm512_cvtps_ph(_mm512_loadu_ps(a), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    for (int i = 0; i < 16; i++) {
        t->lanes++;
        const int is_nan = (got[i] & 0x7c00) == 0x7c00 && (got[i] & 0x3ff) != 0;
        if (isnan(a[i]) ? is_nan && (got[i] & 0x200) : got[i] == nearest_half(a[i])) continue;
        if (t->failures++ < 20) printf("cvtps_ph of %a: got 0x%04x\n", (double)a[i], (unsigned)got[i]);
    }
    uint32_t bits[16];
    uint16_t low[16];
    memcpy(bits, a, sizeof bits);
    for (int i = 0; i < 16; i++) low[i] = (uint16_t)(bits[i] & 0xffffu);
    _mm256_storeu_si256((__m256i *)(void *)got, _mm512_cvtepi32_epi16(_mm512_castps_si512(_mm512_loadu_ps(a))));
    compare_bits(t, "cvtepi32_epi16", got, low, 2, 16);
}

long check_avx512_operations(long *lanes)
{
    tally t = {0, 0};
    uint64_t state = 20240429;
    for (int round = 0; round < 2000; round++) {
        float a[16], b[16], c[16];
        double da[8], db[8], dc[8];
        fill_f32(a, round, 0, &state);
        fill_f32(b, round, 1, &state);
        fill_f32(c, round, 2, &state);
        fill_f64(da, round, 0, &state);
        fill_f64(db, round, 1, &state);
        fill_f64(dc, round, 2, &state);
        check_f32(&t, a, b, c);
        check_f64(&t, da, db, dc);
        check_integer(&t, a, b);
        check_narrowing(&t, a);
    }
    for (uint32_t first = 0; first < 0x10000u; first += 16) check_halves(&t, first);
    *lanes = t.lanes;
    return t.failures;
}
