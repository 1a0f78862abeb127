/* Every collective and atomic that kernels use, each a row of the output; main.cpp knows what must come out. */
#include "instructions.h"

#include "cuda/device.cuh"

constexpr unsigned ALL = 0xffffffffu;

/* redux.sync exists from sm_80 on. */
__device__ static unsigned sum_of_warp(unsigned x)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return __reduce_add_sync(ALL, x);
#else
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL, x, distance);
    return x;
#endif
}
__device__ static unsigned maximum_of_warp(unsigned x)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return __reduce_max_sync(ALL, x);
#else
    for (int distance = 16; distance > 0; distance /= 2) x = max(x, __shfl_xor_sync(ALL, x, distance));
    return x;
#endif
}

/* counters [5] and wide_counters [2] start at 0. */
__global__ void collectives(const unsigned *in, unsigned *out, unsigned *counters, unsigned long long *wide_counters)
{
    PFO_SHARED(unsigned, bins, 4);
    const int t = int(threadIdx.x), lane = t % 32;
    const unsigned x = in[t];
    const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
    int row = 0;
    auto put = [&](unsigned value) { out[COLLECTIVE_THREADS * row++ + t] = value; };
    put(__shfl_sync(ALL, x, lane * 7 + 3));
    put(__shfl_up_sync(ALL, x, 3));
    put(__shfl_down_sync(ALL, x, 5));
    put(__shfl_xor_sync(ALL, x, 9));
    put(__shfl_sync(ALL, x, 2, 8));
    put(__shfl_up_sync(ALL, x, 1, 4));
    put(__shfl_down_sync(ALL, x, 2, 16));
    put(unsigned(__shfl_xor_sync(ALL, (unsigned long long)x << 32 | 77u, 1) >> 32));
    put(unsigned(__shfl_xor_sync(ALL, double(x), 4)));
    put(__ballot_sync(ALL, x % 3 == 0));
    put(unsigned(__any_sync(ALL, x % 31 == 0)));
    put(unsigned(__all_sync(ALL, x % 31 != 0)));
    put(__match_any_sync(ALL, x % 4));
    put(sum_of_warp(x));
    put(maximum_of_warp(x));
    put(__ballot_sync(half, x % 2 == 0));
    if (t < 4) bins[t] = 0;
    __syncthreads();
    atomicAdd(&bins[x % 4], 1u);
    __syncthreads();
    put(bins[t % 4]);
    put(unsigned(__syncthreads_count(x % 5 == 0)));
    put(unsigned(__syncthreads_and(x < 1000) + 2 * __syncthreads_or(x == 999)));
    atomicAdd(&counters[0], x);
    atomicMax(&counters[1], x);
    atomicMin(&counters[2], ~x);
    atomicOr(&counters[3], 1u << (x % 32));
    atomicExch(&counters[4], 5u);
    atomicAdd(&wide_counters[0], (unsigned long long)x << 20);
    atomicCAS(&wide_counters[1], 0ull, 9ull);
    __threadfence();
    __syncthreads();
    put(counters[t % 5]);
    put(unsigned(wide_counters[t % 2] >> 4));
    if (lane % 2 == 0) __syncwarp(0x55555555u); /* some lanes alone */
    put(t == 0 ? atomicExch(&counters[0], 1u) : 0u);
}

int collectives_run(const unsigned *in, unsigned *out, unsigned *counters, unsigned long long *wide_counters)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = 1;
    config.blockDim = COLLECTIVE_THREADS;
    return cudaLaunchKernelEx(&config, collectives, in, out, counters, wide_counters);
}
