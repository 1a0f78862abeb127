/* Float instructions, by name as in integers.h. IEEE arithmetic in the mode that the name says, denormals kept unless
 * it says .ftz; approximate ones are the exact function's rounding, moved by cuda_sim::approximate(). */
#ifndef CUDA_SIM_PTX_FLOATS_H
#define CUDA_SIM_PTX_FLOATS_H

#include <cmath>
#include <limits>

#include "registers.h"

namespace ptx
{

enum class Rounding {
    down,
    zero
};
/* In the engine: compiled apart, so that no operation moves across the change of mode. */
float fma_rounded(float a, float b, float c, Rounding rounding);
double fma_rounded(double a, double b, double c, Rounding rounding);
/* min and max pass over NaN and put -0 below +0. */
template <typename T> T least(T a, T b)
{
    if (a != a) return b;
    if (b != b) return a;
    return a < b || (a == b && std::signbit(a)) ? a : b;
}
template <typename T> T greatest(T a, T b)
{
    if (a != a) return b;
    if (b != b) return a;
    return a > b || (a == b && !std::signbit(a)) ? a : b;
}
#define CUDA_SIM_PTX_FLOAT(T)                                                           \
    inline T add_##T(T a, T b) { return a + b; }                                        \
    inline T add_rz_##T(T a, T b) { return fma_rounded(a, 1, b, Rounding::zero); }      \
    inline T add_rn_##T(T a, T b) { return a + b; }                                     \
    inline T sub_##T(T a, T b) { return a - b; }                                        \
    inline T sub_rn_##T(T a, T b) { return a - b; }                                     \
    inline T mul_##T(T a, T b) { return a * b; }                                        \
    inline T mul_rn_##T(T a, T b) { return a * b; }                                     \
    inline T fma_rn_##T(T a, T b, T c) { return std::fma(a, b, c); }                    \
    inline T fma_rm_##T(T a, T b, T c) { return fma_rounded(a, b, c, Rounding::down); } \
    inline T div_rn_##T(T a, T b) { return a / b; }                                     \
    inline T rcp_rn_##T(T a) { return 1 / a; }                                          \
    inline T sqrt_rn_##T(T a) { return std::sqrt(a); }                                  \
    inline T neg_##T(T a) { return -a; }                                                \
    inline T abs_##T(T a) { return std::fabs(a); }                                      \
    inline T copysign_##T(T sign, T a) { return std::copysign(a, sign); }               \
    inline T min_##T(T a, T b) { return least(a, b); }                                  \
    inline T max_##T(T a, T b) { return greatest(a, b); }                               \
    inline T mov_##T(T a) { return a; }                                                 \
    inline T selp_##T(T a, T b, pred p) { return p ? a : b; }                           \
    inline pred setp_num_##T(T a, T b) { return a == a && b == b; }                     \
    inline pred setp_nan_##T(T a, T b) { return a != a || b != b; }                     \
    inline pred setp_eq_##T(T a, T b) { return a == b; }                                \
    inline pred setp_ne_##T(T a, T b) { return a < b || a > b; }                        \
    inline pred setp_lt_##T(T a, T b) { return a < b; }                                 \
    inline pred setp_le_##T(T a, T b) { return a <= b; }                                \
    inline pred setp_gt_##T(T a, T b) { return a > b; }                                 \
    inline pred setp_ge_##T(T a, T b) { return a >= b; }                                \
    inline pred setp_equ_##T(T a, T b) { return !(a < b || a > b); }                    \
    inline pred setp_neu_##T(T a, T b) { return a != b; }                               \
    inline pred setp_ltu_##T(T a, T b) { return !(a >= b); }                            \
    inline pred setp_leu_##T(T a, T b) { return !(a > b); }                             \
    inline pred setp_gtu_##T(T a, T b) { return !(a <= b); }                            \
    inline pred setp_geu_##T(T a, T b) { return !(a < b); }                             \
    inline T cvt_rni_##T##_##T(T a) { return std::nearbyint(a); }                       \
    inline T cvt_rzi_##T##_##T(T a) { return std::trunc(a); }                           \
    inline T cvt_rmi_##T##_##T(T a) { return std::floor(a); }                           \
    inline T cvt_rpi_##T##_##T(T a) { return std::ceil(a); }
CUDA_SIM_PTX_FLOAT(f32)
CUDA_SIM_PTX_FLOAT(f64)
#undef CUDA_SIM_PTX_FLOAT

/* A comparison as a number. */
#define CUDA_SIM_PTX_SET(compare) \
    inline f32 set_##compare##_f32_f32(f32 a, f32 b) { return setp_##compare##_f32(a, b) ? 1 : 0; }
CUDA_SIM_PTX_SET(eq)
CUDA_SIM_PTX_SET(le)
CUDA_SIM_PTX_SET(ge)
CUDA_SIM_PTX_SET(nan)
#undef CUDA_SIM_PTX_SET

/* NaN becomes 0. */
inline f32 cvt_sat_f32_f32(f32 a) { return a >= 1 ? 1 : a > 0 ? a : 0; }

inline f32 ex2_approx_f32(f32 a) { return cuda_sim::approximate(std::exp2(a)); }
inline f32 ex2_approx_ftz_f32(f32 a) { return cuda_sim::ex2_approx_ftz(a); }
inline f32 lg2_approx_f32(f32 a) { return cuda_sim::approximate(std::log2(a)); }
inline f32 div_approx_f32(f32 a, f32 b) { return cuda_sim::approximate(a / b); }

/* Works on the upper half of a double, and gives one whose lower half is 0. */
inline f64 rcp_approx_ftz_f64(f64 a)
{
    const u64 upper = ~u64(0xffffffff);
    const f64 x = bit_cast<f64>(bit_cast<u64>(a) & upper);
    const f64 flushed = std::fabs(x) < 0x1p-1022 ? std::copysign(0.0, x) : x;
    const f64 result = bit_cast<f64>(bit_cast<u64>(1 / flushed) & upper);
    return std::fabs(result) < 0x1p-1022 ? std::copysign(0.0, result) : result;
}

/* ---- conversions between integers and floats ---- */

/* Out of range gives the nearest integer that there is. NaN gives 0, or, where 64 bits are involved, the top bit. */
template <typename Integer, typename Float> Integer saturated(Float rounded)
{
    using Limits = std::numeric_limits<Integer>;
    constexpr bool small = sizeof(Float) == 4 && sizeof(Integer) < 8;
    if (rounded != rounded) return small ? Integer(0) : Integer(u64(1) << (sizeof(Integer) * 8 - 1));
    if (rounded <= Float(Limits::min())) return Limits::min();
    if (rounded >= std::ldexp(Float(1), Limits::digits)) return Limits::max(); /* which itself may be no Float */
    return Integer(rounded);
}
#define CUDA_SIM_PTX_TO_INTEGER(I, F)                                       \
    inline I cvt_rzi_##I##_##F(F a) { return saturated<I>(std::trunc(a)); } \
    inline I cvt_rni_##I##_##F(F a) { return saturated<I>(std::nearbyint(a)); }
#define CUDA_SIM_PTX_FROM_INTEGER(I)                  \
    inline f32 cvt_rn_f32_##I(I a) { return f32(a); } \
    inline f64 cvt_rn_f64_##I(I a) { return f64(a); } \
    CUDA_SIM_PTX_TO_INTEGER(I, f32)                   \
    CUDA_SIM_PTX_TO_INTEGER(I, f64)
CUDA_SIM_PTX_FROM_INTEGER(s16)
CUDA_SIM_PTX_FROM_INTEGER(u16)
CUDA_SIM_PTX_FROM_INTEGER(s32)
CUDA_SIM_PTX_FROM_INTEGER(u32)
CUDA_SIM_PTX_FROM_INTEGER(s64)
CUDA_SIM_PTX_FROM_INTEGER(u64)
#undef CUDA_SIM_PTX_FROM_INTEGER
#undef CUDA_SIM_PTX_TO_INTEGER

inline f64 cvt_f64_f32(f32 a) { return f64(a); }
inline f32 cvt_rn_f32_f64(f64 a) { return f32(a); }

#define CUDA_SIM_PTX_RESIZE(To, From) \
    inline To cvt_##To##_##From(From a) { return To(a); }
#define CUDA_SIM_PTX_RESIZES(From) \
    CUDA_SIM_PTX_RESIZE(s8, From)  \
    CUDA_SIM_PTX_RESIZE(u8, From)  \
    CUDA_SIM_PTX_RESIZE(s16, From) \
    CUDA_SIM_PTX_RESIZE(u16, From) \
    CUDA_SIM_PTX_RESIZE(s32, From) \
    CUDA_SIM_PTX_RESIZE(u32, From) \
    CUDA_SIM_PTX_RESIZE(s64, From) \
    CUDA_SIM_PTX_RESIZE(u64, From)
CUDA_SIM_PTX_RESIZES(s8)
CUDA_SIM_PTX_RESIZES(u8)
CUDA_SIM_PTX_RESIZES(s16)
CUDA_SIM_PTX_RESIZES(u16)
CUDA_SIM_PTX_RESIZES(s32)
CUDA_SIM_PTX_RESIZES(u32)
CUDA_SIM_PTX_RESIZES(s64)
CUDA_SIM_PTX_RESIZES(u64)
#undef CUDA_SIM_PTX_RESIZES
#undef CUDA_SIM_PTX_RESIZE

} // namespace ptx

#endif
