/* Test only: AVX-512 intrinsics on a machine without AVX-512, so that csrc/simd/vec_avx512.h runs in any CI.
 *
 * With -DPFO_SIMDE the AVX-512 unit includes this in place of <immintrin.h>.  SIMDe 0.7.4 gives most operations; those
 * that it lacks and the row uses are loops over lanes here, from Intel's pseudo-code.  tests/simde/ops.c checks every
 * operation that the row uses, these and SIMDe's, against plain C, and the same file built with real AVX-512 flags
 * checks that plain C against the hardware.  Build with -mavx2 -mfma -mf16c: SIMDe's fma is one rounding only then. */
#ifndef PREFOPT_TEST_SIMDE_H
#define PREFOPT_TEST_SIMDE_H

#if !defined(__AVX2__) || !defined(__FMA__)
#error "build the emulation with -mavx2 -mfma -mf16c: without FMA, SIMDe rounds a fused multiply-add twice"
#endif
#if defined(__AVX512F__)
#error "build the emulation without AVX-512, or SIMDe uses the real instructions"
#endif

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include <stdint.h>
#include <string.h>

/* Lanes of a 512- or 256-bit value as an array, and back. */
#define PFO_SIMDE_LANES(type, count, array, value) \
    type array[count];                             \
    memcpy(array, &(value), sizeof array)

/* VPMOVZXWD: 16 x u16 -> 16 x u32. */
static inline simde__m512i pfo_simde_cvtepu16_epi32(simde__m256i a)
{
    PFO_SIMDE_LANES(uint16_t, 16, narrow, a);
    uint32_t wide[16];
    simde__m512i result;
    for (int i = 0; i < 16; i++) wide[i] = narrow[i];
    memcpy(&result, wide, sizeof wide);
    return result;
}
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32(a) pfo_simde_cvtepu16_epi32(a)

/* VPMOVDW: the low 16 bits of each lane. */
static inline simde__m256i pfo_simde_cvtepi32_epi16(simde__m512i a)
{
    PFO_SIMDE_LANES(uint32_t, 16, wide, a);
    uint16_t narrow[16];
    simde__m256i result;
    for (int i = 0; i < 16; i++) narrow[i] = (uint16_t)(wide[i] & 0xffffu);
    memcpy(&result, narrow, sizeof narrow);
    return result;
}
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16(a) pfo_simde_cvtepi32_epi16(a)

/* One IEEE half to float: exact; a signalling NaN becomes quiet, its payload is kept. */
static inline uint32_t pfo_simde_half_to_float(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 31u;
    uint32_t mantissa = half & 0x3ffu;
    if (exponent == 31u) return sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0u);
    if (exponent != 0u) return sign | ((exponent + 112u) << 23) | (mantissa << 13);
    if (mantissa == 0u) return sign;
    uint32_t shifted = 113u;
    while (!(mantissa & 0x400u)) {
        mantissa <<= 1;
        shifted--;
    }
    return sign | (shifted << 23) | ((mantissa & 0x3ffu) << 13);
}

/* VCVTPH2PS */
static inline simde__m512 pfo_simde_cvtph_ps(simde__m256i a)
{
    PFO_SIMDE_LANES(uint16_t, 16, halves, a);
    uint32_t floats[16];
    simde__m512 result;
    for (int i = 0; i < 16; i++) floats[i] = pfo_simde_half_to_float(halves[i]);
    memcpy(&result, floats, sizeof floats);
    return result;
}
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps(a) pfo_simde_cvtph_ps(a)

/* One float to IEEE half, to nearest even; denormal halves are made, a NaN becomes quiet with its upper payload. */
static inline uint16_t pfo_simde_float_to_half(uint32_t bits)
{
    const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); /* 2^16 and above; below it the carry does it */
    uint32_t mantissa, shift;
    uint32_t exponent = magnitude >> 23;
    if (exponent >= 113u) { /* normal: 10 bits of mantissa are left */
        mantissa = magnitude - (112u << 23);
        shift = 13u;
    } else { /* denormal: the leading one goes into the field */
        if (exponent < 102u) return sign;
        mantissa = (magnitude & 0x7fffffu) | 0x800000u;
        shift = 126u - exponent;
    }
    const uint32_t kept = mantissa >> shift;
    const uint32_t rest = mantissa & ((1u << shift) - 1u);
    const uint32_t halfway = 1u << (shift - 1u);
    return (uint16_t)(sign | (kept + (rest > halfway || (rest == halfway && (kept & 1u)))));
}

/* VCVTPS2PH with rounding to nearest even, the one mode that the row asks for. */
static inline simde__m256i pfo_simde_cvtps_ph(simde__m512 a)
{
    PFO_SIMDE_LANES(uint32_t, 16, floats, a);
    uint16_t halves[16];
    simde__m256i result;
    for (int i = 0; i < 16; i++) halves[i] = pfo_simde_float_to_half(floats[i]);
    memcpy(&result, halves, sizeof halves);
    return result;
}
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph(a, rounding) pfo_simde_cvtps_ph(a)

#endif
