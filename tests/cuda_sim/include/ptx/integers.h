/* Integer instructions, each a function of the instruction's name with _ for the dots. The PTX manual says what they
 * do; an instruction that is not here does not compile. */
#ifndef CUDA_SIM_PTX_INTEGERS_H
#define CUDA_SIM_PTX_INTEGERS_H

#include "registers.h"

namespace ptx
{

/* Overflow wraps, so sums and products are made in an unsigned type of 32 bits at least. */
template <typename T> using Wrapping = std::conditional_t<sizeof(T) == 8, u64, u32>;

template <typename T> T high_product(T a, T b)
{
    using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
    return T(Wide(a) * Wide(b) >> sizeof(T) * 8);
}

/* A shift by the width or more gives 0, or the sign's copies. */
template <typename T> T shift_left(T a, u32 count) { return count < sizeof(T) * 8 ? T(u64(a) << count) : T(0); }
template <typename T> T shift_right(T a, u32 count)
{
    const u32 last = sizeof(T) * 8 - 1;
    if (count > last) return std::is_signed_v<T> ? T(a >> last) : T(0);
    return T(a >> count);
}

#define CUDA_SIM_PTX_INTEGER(T)                                                                                \
    inline T add_##T(T a, T b) { return T(Wrapping<T>(a) + Wrapping<T>(b)); }                                  \
    inline T sub_##T(T a, T b) { return T(Wrapping<T>(a) - Wrapping<T>(b)); }                                  \
    inline T mul_lo_##T(T a, T b) { return T(Wrapping<T>(a) * Wrapping<T>(b)); }                               \
    inline T mul_hi_##T(T a, T b) { return high_product<T>(a, b); }                                            \
    inline T mad_lo_##T(T a, T b, T c) { return add_##T(mul_lo_##T(a, b), c); }                                \
    inline T div_##T(T a, T b)                                                                                 \
    {                                                                                                          \
        return b == 0 ? T(-1) : T(b) == T(-1) && std::is_signed_v<T> ? sub_##T(0, a) : T(a / b);               \
    }                                                                                                          \
    inline T rem_##T(T a, T b) { return b == 0 ? a : T(b) == T(-1) && std::is_signed_v<T> ? T(0) : T(a % b); } \
    inline T min_##T(T a, T b) { return a < b ? a : b; }                                                       \
    inline T max_##T(T a, T b) { return a > b ? a : b; }                                                       \
    inline T shr_##T(T a, u32 count) { return shift_right<T>(a, count); }                                      \
    inline T mov_##T(T a) { return a; }                                                                        \
    inline T selp_##T(T a, T b, pred p) { return p ? a : b; }                                                  \
    inline pred setp_eq_##T(T a, T b) { return a == b; }                                                       \
    inline pred setp_ne_##T(T a, T b) { return a != b; }                                                       \
    inline pred setp_lt_##T(T a, T b) { return a < b; }                                                        \
    inline pred setp_le_##T(T a, T b) { return a <= b; }                                                       \
    inline pred setp_gt_##T(T a, T b) { return a > b; }                                                        \
    inline pred setp_ge_##T(T a, T b) { return a >= b; }
CUDA_SIM_PTX_INTEGER(s16)
CUDA_SIM_PTX_INTEGER(u16)
CUDA_SIM_PTX_INTEGER(s32)
CUDA_SIM_PTX_INTEGER(u32)
CUDA_SIM_PTX_INTEGER(s64)
CUDA_SIM_PTX_INTEGER(u64)
#undef CUDA_SIM_PTX_INTEGER

#define CUDA_SIM_PTX_SIGNED(T)                      \
    inline T neg_##T(T a) { return sub_##T(0, a); } \
    inline T abs_##T(T a) { return a < 0 ? neg_##T(a) : a; }
CUDA_SIM_PTX_SIGNED(s32)
CUDA_SIM_PTX_SIGNED(s64)
#undef CUDA_SIM_PTX_SIGNED

#define CUDA_SIM_PTX_WIDE(T, W)                                \
    inline W mul_wide_##T(T a, T b) { return W(W(a) * W(b)); } \
    inline W mad_wide_##T(T a, T b, W c) { return add_##W(mul_wide_##T(a, b), c); }
CUDA_SIM_PTX_WIDE(u16, u32)
CUDA_SIM_PTX_WIDE(s32, s64)
CUDA_SIM_PTX_WIDE(u32, u64)
#undef CUDA_SIM_PTX_WIDE

#define CUDA_SIM_PTX_BITS(T)                                              \
    inline T and_##T(T a, T b) { return T(a & b); }                       \
    inline T or_##T(T a, T b) { return T(a | b); }                        \
    inline T xor_##T(T a, T b) { return T(a ^ b); }                       \
    inline T not_##T(T a) { return T(~a); }                               \
    inline T shl_##T(T a, u32 count) { return shift_left<T>(a, count); }  \
    inline T shr_##T(T a, u32 count) { return shift_right<T>(a, count); } \
    inline T mov_##T(T a) { return a; }                                   \
    inline T selp_##T(T a, T b, pred p) { return p ? a : b; }             \
    inline pred setp_eq_##T(T a, T b) { return a == b; }                  \
    inline pred setp_ne_##T(T a, T b) { return a != b; }
CUDA_SIM_PTX_BITS(b16)
CUDA_SIM_PTX_BITS(b32)
CUDA_SIM_PTX_BITS(b64)
#undef CUDA_SIM_PTX_BITS

inline pred and_pred(pred a, pred b) { return a && b; }
inline pred or_pred(pred a, pred b) { return a || b; }
inline pred xor_pred(pred a, pred b) { return a != b; }
inline pred not_pred(pred a) { return !a; }
inline pred mov_pred(pred a) { return a; }

inline u32 popc_b32(u32 a) { return u32(__builtin_popcount(a)); }
inline u32 popc_b64(u64 a) { return u32(__builtin_popcountll(a)); }
inline u32 clz_b32(u32 a) { return a == 0 ? 32 : u32(__builtin_clz(a)); }
inline u32 clz_b64(u64 a) { return a == 0 ? 64 : u32(__builtin_clzll(a)); }
/* How far left the highest bit that is set can go, all ones if none is. */
inline u32 bfind_shiftamt_u32(u32 a) { return a == 0 ? ~0u : clz_b32(a); }
inline u32 brev_b32(u32 a)
{
    u32 result = 0;
    for (int i = 0; i < 32; i++) result |= (a >> i & 1) << (31 - i);
    return result;
}

inline u32 shf_l_wrap_b32(u32 low, u32 high, u32 count) { return u32((u64(high) << 32 | low) << (count & 31) >> 32); }
inline u32 shf_r_wrap_b32(u32 low, u32 high, u32 count) { return u32((u64(high) << 32 | low) >> (count & 31)); }

/* prmt: each nibble of the selector names a byte of {b, a}; its high bit copies that byte's sign over the byte. */
inline u32 prmt_b32(u32 a, u32 b, u32 selector)
{
    const u64 bytes = u64(b) << 32 | a;
    u32 result = 0;
    for (u32 i = 0; i < 4; i++) {
        const u32 nibble = selector >> 4 * i & 15;
        u32 byte = u32(bytes >> (nibble & 7) * 8) & 255;
        if (nibble & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << 8 * i;
    }
    return result;
}

} // namespace ptx

#endif
