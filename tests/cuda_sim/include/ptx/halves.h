/* Instructions on f16, bf16 and pairs of them, by name as in integers.h. Conversions are NVIDIA's own, for the host. */
#ifndef CUDA_SIM_PTX_HALVES_H
#define CUDA_SIM_PTX_HALVES_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "floats.h"

namespace ptx
{

/* One 16-bit format: exact to double, and from double in one rounding. */
struct f16 {
    static f64 widen(u16 bits) { return f64(__half2float(bit_cast<__half>(bits))); }
    static u16 round(f64 value) { return bit_cast<u16>(__double2half(value)); }
    static constexpr u16 nan = 0x7fff;
};
struct bf16 {
    static f64 widen(u16 bits) { return f64(__bfloat162float(bit_cast<__nv_bfloat16>(bits))); }
    static u16 round(f64 value) { return bit_cast<u16>(__double2bfloat16(value)); }
    static constexpr u16 nan = 0x7fff;
};

/* a * b + c in one rounding: the product is exact in double; the sum is rounded to odd there (an inexact one ends in a
 * 1 bit), so that the second rounding, to far fewer bits, cannot meet a tie that was none. */
template <typename H> u16 fused(u16 a, u16 b, u16 c)
{
    const f64 product = H::widen(a) * H::widen(b), addend = H::widen(c), sum = product + addend;
    if (sum != sum) return H::nan;
    const f64 part = sum - product, error = (product - (sum - part)) + (addend - part);
    u64 bits = bit_cast<u64>(sum);
    if (error != 0 && error == error && !(bits & 1)) bits += (error > 0) == (sum > 0) ? 1 : u64(-1);
    return H::round(bit_cast<f64>(bits));
}
template <typename H> u16 sum(u16 a, u16 b)
{
    const f64 result = H::widen(a) + H::widen(b); /* exact, or far below a tie */
    return result != result ? H::nan : H::round(result);
}
template <typename H> u16 product(u16 a, u16 b)
{
    const f64 result = H::widen(a) * H::widen(b);
    return result != result ? H::nan : H::round(result);
}
/* Which of the two, by their bits, so that a -0 stays one. */
template <typename H> u16 lesser(u16 a, u16 b)
{
    const f64 x = H::widen(a), y = H::widen(b);
    if (x != x) return y != y ? H::nan : b;
    if (y != y) return a;
    return x < y || (x == y && std::signbit(x)) ? a : b;
}
template <typename H> u16 greater(u16 a, u16 b)
{
    const f64 x = H::widen(a), y = H::widen(b);
    if (x != x) return y != y ? H::nan : b;
    if (y != y) return a;
    return x > y || (x == y && !std::signbit(x)) ? a : b;
}
template <typename H> bool is_nan(u16 a) { return H::widen(a) != H::widen(a); }

inline u16 set_nan_f16_f16(u16 a, u16 b) { return is_nan<f16>(a) || is_nan<f16>(b) ? 0x3c00 : 0; } /* 1.0 */

inline u16 low(u32 pair) { return u16(pair); }
inline u16 high(u32 pair) { return u16(pair >> 16); }
inline u32 pair_of(u16 low_half, u16 high_half) { return u32(high_half) << 16 | low_half; }

#define CUDA_SIM_PTX_HALF(H)                                                                                  \
    inline f32 cvt_f32_##H(u16 a) { return f32(H::widen(a)); }                                                \
    inline u16 cvt_rn_##H##_f32(f32 a) { return H::round(f64(a)); }                                           \
    inline u32 cvt_rn_##H##x2_f32(f32 a, f32 b) { return pair_of(cvt_rn_##H##_f32(b), cvt_rn_##H##_f32(a)); } \
    inline u16 add_##H(u16 a, u16 b) { return sum<H>(a, b); }                                                 \
    inline u16 mul_##H(u16 a, u16 b) { return product<H>(a, b); }                                             \
    inline u16 neg_##H(u16 a) { return u16(a ^ 0x8000); }                                                     \
    inline u16 sub_##H(u16 a, u16 b) { return sum<H>(a, is_nan<H>(b) ? b : neg_##H(b)); }                     \
    inline u16 min_##H(u16 a, u16 b) { return lesser<H>(a, b); }                                              \
    inline u16 max_##H(u16 a, u16 b) { return greater<H>(a, b); }                                             \
    inline u16 max_NaN_##H(u16 a, u16 b) { return is_nan<H>(a) || is_nan<H>(b) ? H::nan : greater<H>(a, b); } \
    CUDA_SIM_PTX_PAIRED(add_##H)                                                                              \
    CUDA_SIM_PTX_PAIRED(sub_##H)                                                                              \
    CUDA_SIM_PTX_PAIRED(mul_##H)                                                                              \
    CUDA_SIM_PTX_PAIRED(min_##H)                                                                              \
    CUDA_SIM_PTX_PAIRED(max_##H)                                                                              \
    CUDA_SIM_PTX_PAIRED(max_NaN_##H)                                                                          \
    inline u32 neg_##H##x2(u32 a) { return a ^ 0x80008000u; }                                                 \
    inline u32 abs_##H##x2(u32 a) { return a & 0x7fff7fffu; }
#define CUDA_SIM_PTX_PAIRED(name) \
    inline u32 name##x2(u32 a, u32 b) { return pair_of(name(low(a), low(b)), name(high(a), high(b))); }
CUDA_SIM_PTX_HALF(f16)
CUDA_SIM_PTX_HALF(bf16)
#undef CUDA_SIM_PTX_HALF
#undef CUDA_SIM_PTX_PAIRED

/* sm_80 adds and multiplies bfloat16 pairs by this. */
inline u32 fma_rn_bf16x2(u32 a, u32 b, u32 c)
{
    return pair_of(fused<bf16>(low(a), low(b), low(c)), fused<bf16>(high(a), high(b), high(c)));
}

} // namespace ptx

#endif
