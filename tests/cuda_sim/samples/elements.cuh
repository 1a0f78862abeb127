/* Rows of any float dtype, read 16 bytes at a time from an address of any alignment. */
#ifndef CUDA_SIM_SAMPLE_ELEMENTS_CUH
#define CUDA_SIM_SAMPLE_ELEMENTS_CUH

#include "cuda/device.cuh"

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ T narrow(float x);
template <> __device__ inline float narrow<float>(float x) { return x; }
template <> __device__ inline __half narrow<__half>(float x) { return __float2half_rn(x); }
template <> __device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

/* 16 bytes of T as floats, and back. */
template <typename T> struct Pack {
    static constexpr int COUNT = 16 / sizeof(T);
    float value[COUNT];

    __device__ static Pack load(const T *aligned)
    {
        union {
            uint4 bits;
            T parts[COUNT];
        };
        bits = __ldcs(reinterpret_cast<const uint4 *>(aligned));
        Pack pack;
        for (int i = 0; i < COUNT; i++) pack.value[i] = widen(parts[i]);
        return pack;
    }
    __device__ void store(T *aligned) const
    {
        union {
            uint4 bits;
            T parts[COUNT];
        };
        for (int i = 0; i < COUNT; i++) parts[i] = narrow<T>(value[i]);
        __stcs(reinterpret_cast<uint4 *>(aligned), bits);
    }
};

/* Elements before the first 16-byte boundary, at most count. */
template <typename T> __device__ int64_t head_of(const T *row, int64_t count)
{
    const int64_t head = int64_t((16 - reinterpret_cast<uintptr_t>(row) % 16) % 16 / sizeof(T));
    return head < count ? head : count;
}

#endif
