/* Every vector operation of every usable row, lane by lane, against plain C.
 *
 * max and min are a > b ? a : b and a < b ? a : b: b where either is NaN, and max(+0, -0) = -0.  Horizontal sums go
 * by halves: lane i + lane i + n/2, and so on.  exp: within 1.02 ulp where the result is at least 2^-125, 0 below. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "vocabulary.h"

static const double SPECIAL[] = {0.0,
                                 -0.0,
                                 1.0,
                                 -1.0,
                                 (double)INFINITY,
                                 -(double)INFINITY,
                                 (double)NAN,
                                 65504.0,
                                 65519.0,
                                 65520.0,
                                 0x1p-24,
                                 0x1p-25,
                                 3e38,
                                 -3e38,
                                 0x1.002p0,
                                 0x1.006p0,
                                 0x1.01p0,
                                 0x1.03p0,
                                 88.7,
                                 88.8,
                                 -87.2,
                                 -87.4,
                                 -1e30,
                                 0x1p-149,
                                 0x1p-126,
                                 709.7,
                                 709.9,
                                 -708.3,
                                 -708.5,
                                 -745.0};
#define SPECIALS ((int)(sizeof SPECIAL / sizeof SPECIAL[0]))

static double operand(int round, int lane, int which, random_state *random)
{
    const double normal = random_normal(random);
    if (round < 2 * SPECIALS) return SPECIAL[(lane * (which + 1) + round * (2 * which + 1)) % SPECIALS];
    return round % 2 ? normal * 40.0 : ldexp(normal, (int)(random_bits(random) % 200) - 100);
}

static void check_lanes_f32(const char *row, const char *name, const float *got, const float *want)
{
    for (int i = 0; i < F32_LANES; i++)
        CHECK(same_float(got[i], want[i]), "%s vf_%s lane %d: got %a, expected %a", row, name, i, (double)got[i],
              (double)want[i]);
}

static void check_lanes_f64(const char *row, const char *name, const double *got, const double *want)
{
    for (int i = 0; i < F64_LANES; i++)
        CHECK(same_double(got[i], want[i]), "%s vd_%s lane %d: got %a, expected %a", row, name, i, got[i], want[i]);
}

static void check_exp(const char *row, int32_t dtype, double x, double got)
{
    const long double want = expl((long double)x);
    const long double smallest = dtype == PFO_F32 ? (long double)0x1p-125 : (long double)0x1p-1021;
    const long double largest = dtype == PFO_F32 ? (long double)0x1.fffffep127 : (long double)0x1.fffffffffffffp1023;
    if (isnan(x))
        CHECK(isnan(got), "%s exp(NaN) = %a", row, got);
    else if (want > largest)
        CHECK(isinf(got) && got > 0.0, "%s exp(%a) = %a, expected inf", row, x, got);
    else if (want < smallest)
        CHECK(got >= 0.0 && (long double)got <= 2.0L * smallest, "%s exp(%a) = %a, expected 0", row, x, got);
    else
        CHECK(fabsl((long double)got - want) <= (dtype == PFO_F32 ? 5.6L : 0.9L) * spacing(dtype, want),
              "%s exp(%a) = %a, expected %La", row, x, got, want);
}

#define WANT_F32(operation, expression)                              \
    do {                                                             \
        float want[F32_LANES];                                       \
        for (int i = 0; i < F32_LANES; i++) want[i] = (expression);  \
        check_lanes_f32(row->name, #operation, got.operation, want); \
    } while (0)
#define WANT_F64(operation, expression)                              \
    do {                                                             \
        double want[F64_LANES];                                      \
        for (int i = 0; i < F64_LANES; i++) want[i] = (expression);  \
        check_lanes_f64(row->name, #operation, got.operation, want); \
    } while (0)

static float tree_sum_f32(const float *lanes)
{
    float sums[F32_LANES];
    memcpy(sums, lanes, sizeof sums);
    for (int half = F32_LANES / 2; half >= 1; half /= 2)
        for (int i = 0; i < half; i++) sums[i] = sums[i] + sums[i + half];
    return sums[0];
}

static double tree_sum_f64(const double *lanes)
{
    double sums[F64_LANES];
    memcpy(sums, lanes, sizeof sums);
    for (int half = F64_LANES / 2; half >= 1; half /= 2)
        for (int i = 0; i < half; i++) sums[i] = sums[i] + sums[i + half];
    return sums[0];
}

static float shifted_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits <<= 20;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

static float looked_up(const float *table, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return table[bits & 7u];
}

static double shifted_f64(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits <<= 52;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

static int same_half(uint16_t got, float value, int32_t dtype)
{
    uint16_t want;
    encode(&want, 0, dtype, (double)value);
    return isnan(value) ? isnan(decode(&got, 0, dtype)) : got == want;
}

static void check_f32(const vocabulary_row *row, const float *a, const float *b, const float *c, const uint16_t *halves)
{
    vocabulary_f32 got;
    row->f32(a, b, c, halves, &got);
    WANT_F32(loaded, a[i]);
    WANT_F32(set1, a[0]);
    WANT_F32(add, a[i] + b[i]);
    WANT_F32(sub, a[i] - b[i]);
    WANT_F32(mul, a[i] * b[i]);
    WANT_F32(div, a[i] / b[i]);
    WANT_F32(fma, fmaf(a[i], b[i], c[i]));
    WANT_F32(max, a[i] > b[i] ? a[i] : b[i]);
    WANT_F32(min, a[i] < b[i] ? a[i] : b[i]);
    WANT_F32(pow2_bits, shifted_f32(a[i]));
    WANT_F32(lookup8, looked_up(b, a[i]));
    WANT_F32(from_f16, (float)decode(halves, i, PFO_F16));
    WANT_F32(from_bf16, (float)decode(halves, i, PFO_BF16));
    int has_nan = 0;
    float greatest = a[0];
    for (int i = 0; i < F32_LANES; i++) {
        check_exp(row->name, PFO_F32, (double)a[i], (double)got.exp[i]);
        CHECK(same_half(got.to_f16[i], a[i], PFO_F16), "%s f16 of %a: 0x%04x", row->name, (double)a[i], got.to_f16[i]);
        CHECK(same_half(got.to_bf16[i], a[i], PFO_BF16), "%s bf16 of %a: 0x%04x", row->name, (double)a[i],
              got.to_bf16[i]);
        has_nan = has_nan || isnan(a[i]);
        if (a[i] > greatest) greatest = a[i];
    }
    CHECK(same_float(got.hadd, tree_sum_f32(a)), "%s hadd: got %a, expected %a", row->name, (double)got.hadd,
          (double)tree_sum_f32(a));
    if (!has_nan) CHECK(got.hmax >= greatest && got.hmax <= greatest, "%s hmax: got %a", row->name, (double)got.hmax);
}

static void check_f64(const vocabulary_row *row, const double *a, const double *b, const double *c)
{
    vocabulary_f64 got;
    row->f64(a, b, c, &got);
    WANT_F64(loaded, a[i]);
    WANT_F64(set1, a[0]);
    WANT_F64(add, a[i] + b[i]);
    WANT_F64(sub, a[i] - b[i]);
    WANT_F64(mul, a[i] * b[i]);
    WANT_F64(div, a[i] / b[i]);
    WANT_F64(fma, fma(a[i], b[i], c[i]));
    WANT_F64(max, a[i] > b[i] ? a[i] : b[i]);
    WANT_F64(min, a[i] < b[i] ? a[i] : b[i]);
    WANT_F64(pow2_bits, shifted_f64(a[i]));
    int has_nan = 0;
    double greatest = a[0];
    for (int i = 0; i < F64_LANES; i++) {
        check_exp(row->name, PFO_F64, a[i], got.exp[i]);
        has_nan = has_nan || isnan(a[i]);
        if (a[i] > greatest) greatest = a[i];
    }
    CHECK(same_double(got.hadd, tree_sum_f64(a)), "%s hadd: got %a, expected %a", row->name, got.hadd, tree_sum_f64(a));
    if (!has_nan) CHECK(got.hmax >= greatest && got.hmax <= greatest, "%s hmax: got %a", row->name, got.hmax);
}

static void test_row(const vocabulary_row *row)
{
    random_state random = {7};
    for (int round = 0; round < 400; round++) {
        float a[F32_LANES], b[F32_LANES], c[F32_LANES];
        double wide_a[F64_LANES], wide_b[F64_LANES], wide_c[F64_LANES];
        uint16_t halves[F32_LANES + 1];
        for (int i = 0; i < F32_LANES; i++) {
            a[i] = (float)operand(round, i, 0, &random);
            b[i] = (float)operand(round, i, 1, &random);
            c[i] = (float)operand(round, i, 2, &random);
            halves[i] = (uint16_t)(random_bits(&random) & 0xffffu);
        }
        for (int i = 0; i < F64_LANES; i++) {
            wide_a[i] = operand(round, i, 0, &random);
            wide_b[i] = operand(round, i, 1, &random);
            wide_c[i] = operand(round, i, 2, &random);
        }
        check_f32(row, a, b, c, halves);
        check_f64(row, wide_a, wide_b, wide_c);
    }
}

/* All 65,536 patterns of both half types. */
static void test_every_half(const vocabulary_row *row)
{
    const float zero[F32_LANES] = {0};
    for (uint32_t first = 0; first < 0x10000u; first += F32_LANES) {
        uint16_t halves[F32_LANES];
        vocabulary_f32 got;
        for (uint32_t i = 0; i < F32_LANES; i++) halves[i] = (uint16_t)(first + i);
        row->f32(zero, zero, zero, halves, &got);
        WANT_F32(from_f16, (float)decode(halves, i, PFO_F16));
        WANT_F32(from_bf16, (float)decode(halves, i, PFO_BF16));
    }
}

void test_vocabulary(void)
{
    const vocabulary_row *known[] = {&vocabulary_scalar, &vocabulary_avx2, &vocabulary_avx512, &vocabulary_neon};
    const char *names[MAX_ROWS];
    const int rows = usable_rows(names);
    for (int row = 0; row < rows; row++) {
        const vocabulary_row *found = NULL;
        for (int i = 0; i < 4; i++)
            if (strcmp(known[i]->name, names[row]) == 0) found = known[i];
        CHECK(found != NULL && found->f32 != NULL, "row %s has no vocabulary unit", names[row]);
        if (!found || !found->f32) continue;
        test_row(found);
        test_every_half(found);
    }
}
