/* Logits of each dtype: what a kernel computes in, 16 bytes of a row at a time, and single values. */
#ifndef PFO_CUDA_ELEMENTS_CUH
#define PFO_CUDA_ELEMENTS_CUH

#include <float.h>
#include <math.h>
#include <string.h>

#include "row_state.cuh"

namespace pfo
{

template <typename To, typename From> __device__ inline To bits_as(From value)
{
    static_assert(sizeof(To) == sizeof(From), "one size");
    To result;
    /* CUDA's pairs of halves have assignments of their own, which change no bit: hence void *. */
    memcpy(static_cast<void *>(&result), static_cast<const void *>(&value), sizeof result);
    return result;
}

__device__ inline float larger(float a, float b) { return fmaxf(a, b); } /* NaN is passed over */
__device__ inline float smaller(float a, float b) { return fminf(a, b); }
__device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double larger(double a, double b) { return fmax(a, b); }
__device__ inline double smaller(double a, double b) { return fmin(a, b); }
__device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }

/* The type of arithmetic. LARGEST is finite. power(x) is BASE^x: 2^x by the hardware for float, e^x for double;
 * PER_NAT turns natural units into powers of BASE. */
template <typename Real> struct Arithmetic;
template <> struct Arithmetic<float> {
    static constexpr float LARGEST = FLT_MAX;
    static constexpr double PER_NAT = 1.44269504088896340736;
    static __device__ float power(float x) { return PFO_EX2(x); }
};
template <> struct Arithmetic<double> {
    static constexpr double LARGEST = DBL_MAX;
    static constexpr double PER_NAT = 1.0;
    static __device__ double power(double x) { return device_exp_f64(x); }
};

/* A number for kernels of either arithmetic. The host rounds it: out of a double parameter, ptxas makes the float
 * anew in every turn of a loop. */
struct RealNumber {
    double f64;
    float f32;
    template <typename Real> __device__ Real as() const
    {
        if constexpr (sizeof(Real) == 8)
            return f64;
        else
            return f32;
    }
};

/* What makes a logit a power of the base. */
inline RealNumber scale_of(double temperature)
{
    return {Arithmetic<double>::PER_NAT / temperature, float(Arithmetic<float>::PER_NAT / temperature)};
}

/* ---- dtypes --------------------------------------------------------------------------------------------------------
 * Real       what a kernel computes in
 * widen      exact;  narrow: rounds to nearest even
 * Word       the unit of Pack: one element or two, WORDS of them in 16 bytes
 * split      a word's elements as Real, in their order
 * max_word   the elementwise maximum of two words, NaN passed over */

template <typename T> struct Dtype;

template <> struct Dtype<float> {
    using Real = float;
    using Word = float;
    static __device__ float widen(float x) { return x; }
    static __device__ float narrow(double x) { return float(x); }
    static __device__ void split(float word, float *out) { out[0] = word; }
    static __device__ float join(const float *values) { return values[0]; }
    static __device__ float max_word(float a, float b) { return fmaxf(a, b); }
    static __device__ float max_of(float word) { return word; }
};

template <> struct Dtype<double> {
    using Real = double;
    using Word = double;
    static __device__ double widen(double x) { return x; }
    static __device__ double narrow(double x) { return x; }
    static __device__ void split(double word, double *out) { out[0] = word; }
    static __device__ double join(const double *values) { return values[0]; }
    static __device__ double max_word(double a, double b) { return fmax(a, b); }
    static __device__ double max_of(double word) { return word; }
};

template <> struct Dtype<__half> {
    using Real = float;
    using Word = __half2;
    static __device__ float widen(__half x) { return __half2float(x); }
    static __device__ __half narrow(double x) { return __float2half_rn(float(x)); }
    static __device__ void split(__half2 word, float *out)
    {
        const float2 pair = __half22float2(word);
        out[0] = pair.x;
        out[1] = pair.y;
    }
    static __device__ __half2 join(const float *values) { return __floats2half2_rn(values[0], values[1]); }
    static __device__ __half2 max_word(__half2 a, __half2 b) { return __hmax2(a, b); }
    static __device__ float max_of(__half2 word) { return fmaxf(__low2float(word), __high2float(word)); }
};

template <> struct Dtype<__nv_bfloat16> {
    using Real = float;
    using Word = __nv_bfloat162;
    static __device__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
    static __device__ __nv_bfloat16 narrow(double x) { return __float2bfloat16_rn(float(x)); }
    /* One instruction a value: the bits of a bfloat16 are the upper half of its float. */
    static __device__ void split(__nv_bfloat162 word, float *out)
    {
        const unsigned bits = bits_as<unsigned>(word);
        out[0] = __uint_as_float(bits << 16);
        out[1] = __uint_as_float(bits & 0xffff0000u);
    }
    static __device__ __nv_bfloat162 join(const float *values) { return __floats2bfloat162_rn(values[0], values[1]); }
    static __device__ __nv_bfloat162 max_word(__nv_bfloat162 a, __nv_bfloat162 b) { return __hmax2(a, b); }
    static __device__ float max_of(__nv_bfloat162 word)
    {
        float pair[2];
        split(word, pair);
        return fmaxf(pair[0], pair[1]);
    }
};

/* ---- 16 bytes ----------------------------------------------------------------------------------------------------*/

template <typename T> struct Pack {
    using Word = typename Dtype<T>::Word;
    using Real = typename Dtype<T>::Real;
    static constexpr int COUNT = int(16 / sizeof(T)); /* elements */
    static constexpr int WORDS = int(16 / sizeof(Word));
    static constexpr int WIDTH = int(sizeof(Word) / sizeof(T)); /* elements of a word */
    Word words[WORDS];

    /* Read once, so that nothing else is pushed out of the cache. */
    static __device__ Pack load(const T *aligned)
    {
        const uint4 bits = __ldcs(reinterpret_cast<const uint4 *>(aligned));
        return bits_as<Pack>(bits);
    }
    __device__ void store(T *aligned) const { __stcs(reinterpret_cast<uint4 *>(aligned), bits_as<uint4>(*this)); }

    __device__ void values(Real *out) const
    {
        PFO_UNROLL
        for (int i = 0; i < WORDS; i++) Dtype<T>::split(words[i], out + i * WIDTH);
    }
    static __device__ Pack of(const Real *values)
    {
        Pack pack;
        PFO_UNROLL
        for (int i = 0; i < WORDS; i++) pack.words[i] = Dtype<T>::join(values + i * WIDTH);
        return pack;
    }
};

/* Elements before the first 16-byte boundary of a row, at most count. */
template <typename T> __device__ int head_of(const T *row, int count)
{
    const int head = int((16 - reinterpret_cast<uintptr_t>(row) % 16) % 16 / sizeof(T));
    return head < count ? head : count;
}

} // namespace pfo

#endif
