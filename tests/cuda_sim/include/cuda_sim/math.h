/* Device functions of arithmetic that the host's <cmath> lacks. Approximate ones give the exact function's rounding,
 * moved by approximate() where a test asks for it. */
#ifndef CUDA_SIM_MATH_H
#define CUDA_SIM_MATH_H

#include <cmath>
#include <math.h> /* the overloads for float in the global namespace, as nvcc has them */
#include <cstring>
#include <type_traits>

#include "engine.h"

namespace cuda_sim
{

template <typename To, typename From> constexpr To bit_cast(const From &value) { return __builtin_bit_cast(To, value); }

/* The flush of a denormal to a zero of its sign: ".ftz". */
inline float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

inline float ex2_approx_ftz(float x) { return flushed(approximate(std::exp2(flushed(x)))); }

} // namespace cuda_sim

/* glibc declares some of these names for itself, so they are macros here. */
#define __expf(x) cuda_sim::approximate(std::exp(float(x)))
#define __exp10f(x) cuda_sim::approximate(std::pow(10.0f, float(x)))
#define __logf(x) cuda_sim::approximate(std::log(float(x)))
#define __log2f(x) cuda_sim::approximate(std::log2(float(x)))
#define __log10f(x) cuda_sim::approximate(std::log10(float(x)))
#define __powf(x, y) cuda_sim::approximate(std::pow(float(x), float(y)))
#define __fdividef(x, y) cuda_sim::approximate(float(x) / float(y))

inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline double __drcp_rn(double x) { return 1.0 / x; }
inline double __dsqrt_rn(double x) { return std::sqrt(x); }
inline double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }

inline int __float_as_int(float x) { return cuda_sim::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return cuda_sim::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return cuda_sim::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return cuda_sim::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return cuda_sim::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_sim::bit_cast<double>(x); }
inline int __double2hiint(double x) { return int(cuda_sim::bit_cast<uint64_t>(x) >> 32); }
inline int __double2loint(double x) { return int(cuda_sim::bit_cast<uint64_t>(x)); }
inline double __hiloint2double(int high, int low)
{
    return cuda_sim::bit_cast<double>(uint64_t(unsigned(high)) << 32 | unsigned(low));
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned(uint64_t(x) * y >> 32); }
inline int __mulhi(int x, int y) { return int(int64_t(x) * y >> 32); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return unsigned((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    const uint64_t bytes = uint64_t(y) << 32 | x;
    unsigned result = 0;
    for (unsigned i = 0; i < 4; i++) result |= unsigned(bytes >> ((selector >> 4 * i & 7) * 8) & 0xff) << 8 * i;
    return result;
}

/* The common type of two arithmetic types, as CUDA's overloads give. */
template <typename A, typename B, typename = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
inline std::common_type_t<A, B> min(A a, B b)
{
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>)
        return std::fmin(T(a), T(b));
    else
        return T(a) < T(b) ? T(a) : T(b);
}
template <typename A, typename B, typename = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
inline std::common_type_t<A, B> max(A a, B b)
{
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>)
        return std::fmax(T(a), T(b));
    else
        return T(a) > T(b) ? T(a) : T(b);
}

#endif
