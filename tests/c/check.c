/* Counting, random numbers and dtypes of the test program. */
#include "check.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PRINTED 20

test_counts counts;
int small_run;

void check_report(int passed, const char *file, int line, const char *format, ...)
{
    counts.checks++;
    if (passed) return;
    counts.failures++;
    if (counts.failures > MAX_PRINTED) return;
    va_list arguments;
    va_start(arguments, format);
    printf("%s:%d: ", file, line);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
}

uint64_t random_bits(random_state *state)
{
    /* SplitMix64 (Steele, Lea, Flood 2014). */
    uint64_t z = (state->counter += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double random_uniform(random_state *state) { return (double)(random_bits(state) >> 11) * 0x1p-53; }

double random_normal(random_state *state)
{
    /* Sum of 12 uniforms: variance 1, and no libm, so that inputs are the same bits on every machine. */
    double sum = -6.0;
    for (int i = 0; i < 12; i++) sum += random_uniform(state);
    return sum;
}

int usable_rows(const char *names[MAX_ROWS])
{
    const char *wanted = getenv("PREFOPT_TEST_ISA");
    int found = 0;
    names[found++] = "scalar";
    for (int row = 0; row < pfo_isa_count() && found < MAX_ROWS; row++) {
        const char *name = pfo_isa_name(row);
        if (!pfo_isa_usable(row) || strcmp(name, "scalar") == 0) continue;
        if (wanted && strcmp(name, wanted) != 0) continue;
        names[found++] = name;
    }
    return found;
}

/* ---- dtypes ---------------------------------------------------------------------------------------------------- */

typedef struct half_format {
    int mantissa_bits;
    int smallest_exponent; /* of normal numbers */
    int largest_exponent;
} half_format;

static half_format format_of(int32_t dtype)
{
    switch (dtype) {
    case PFO_F16: return (half_format){10, -14, 15};
    case PFO_BF16: return (half_format){7, -126, 127};
    case PFO_F32: return (half_format){23, -126, 127};
    default: return (half_format){52, -1022, 1023};
    }
}

long double spacing(int32_t dtype, long double value)
{
    const half_format format = format_of(dtype);
    int exponent;
    if (value == 0.0L || !isfinite(value)) return ldexpl(1.0L, format.smallest_exponent - format.mantissa_bits);
    frexpl(value, &exponent); /* value = f 2^exponent, f in [1/2, 1) */
    exponent--;
    if (exponent < format.smallest_exponent) exponent = format.smallest_exponent;
    return ldexpl(1.0L, exponent - format.mantissa_bits);
}

static uint16_t encode_half(half_format format, double value)
{
    const int bias = format.largest_exponent;
    const int sign_shift = 15;
    const uint32_t sign = signbit(value) ? 1u << sign_shift : 0u;
    const uint32_t infinity = (uint32_t)(2 * bias + 1) << format.mantissa_bits;
    if (isnan(value)) return (uint16_t)(sign | infinity | (1u << (format.mantissa_bits - 1)));
    const double magnitude = fabs(value);
    if (magnitude == 0.0) return (uint16_t)sign;
    if (isinf(value)) return (uint16_t)(sign | infinity);
    int exponent;
    frexp(magnitude, &exponent);
    exponent--;
    if (exponent < format.smallest_exponent) exponent = format.smallest_exponent;
    /* nearbyint rounds to even; a carry out of the mantissa runs into the exponent, as it should. */
    const double units = nearbyint(ldexp(magnitude, format.mantissa_bits - exponent));
    uint32_t bits = (uint32_t)units + ((uint32_t)(exponent - format.smallest_exponent) << format.mantissa_bits);
    if (bits > infinity) bits = infinity;
    return (uint16_t)(sign | bits);
}

static double decode_half(half_format format, uint16_t bits)
{
    const uint32_t mantissa_mask = (1u << format.mantissa_bits) - 1u;
    const int biased = (bits & 0x7fff) >> format.mantissa_bits;
    const double mantissa = (double)(bits & mantissa_mask);
    const double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (biased == 2 * format.largest_exponent + 1) return mantissa != 0.0 ? (double)NAN : sign * (double)INFINITY;
    if (biased == 0) return sign * ldexp(mantissa, format.smallest_exponent - format.mantissa_bits);
    return sign *
           ldexp(mantissa + (double)(mantissa_mask + 1u), biased - format.largest_exponent - format.mantissa_bits);
}

void encode(void *base, int64_t index, int32_t dtype, double value)
{
    if (dtype == PFO_F32)
        ((float *)base)[index] = (float)value;
    else if (dtype == PFO_F64)
        ((double *)base)[index] = value;
    else
        ((uint16_t *)base)[index] = encode_half(format_of(dtype), value);
}

double decode(const void *base, int64_t index, int32_t dtype)
{
    if (dtype == PFO_F32) return (double)((const float *)base)[index];
    if (dtype == PFO_F64) return ((const double *)base)[index];
    return decode_half(format_of(dtype), ((const uint16_t *)base)[index]);
}

int same_float(float a, float b) { return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0; }

int same_double(double a, double b) { return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0; }
