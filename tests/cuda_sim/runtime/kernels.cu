/* Kernels for main.cpp, and launches of them. */
#include "kernels.h"

#include "cuda/device.cuh"

/* A plain struct by value, 256 bytes. */
__global__ void copy_struct(large_struct values, int *out)
{
    const int t = int(threadIdx.x);
    if (t < 64) out[t] = values.word[63 - t] + int(blockIdx.x);
}

/* Every position of a grid with three extents, each thread in its own element. */
__global__ void positions(int *out)
{
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] =
        int(blockIdx.x + 10 * blockIdx.y + 100 * blockIdx.z + 1000 * threadIdx.x + 10000 * threadIdx.y +
            100000 * threadIdx.z);
}

__global__ void dynamic_sum(const int *in, int *out)
{
    PFO_DYNAMIC_SHARED(int, held);
    const int t = int(threadIdx.x);
    held[t] = in[t];
    __syncthreads();
    if (t != 0) return;
    int sum = 0;
    for (unsigned i = 0; i < blockDim.x; i++) sum += held[i];
    *out = sum;
}

/* Two instantiations, each with a shared variable of its own. */
template <int N> __global__ void own_shared(int *out)
{
    PFO_SHARED(int, held, N);
    if (threadIdx.x < N) held[threadIdx.x] = N;
    __syncthreads();
    out[threadIdx.x] = held[threadIdx.x % N];
}

__global__ void __launch_bounds__(64) bounded(int *out) { out[threadIdx.x] = 1; }

static cudaLaunchConfig_t config_of(dim3 grid, dim3 block, size_t dynamic_bytes)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = dynamic_bytes;
    return config;
}

int launch_copy_struct(const large_struct *values, int *out)
{
    const cudaLaunchConfig_t config = config_of(1, 64, 0);
    return cudaLaunchKernelEx(&config, copy_struct, *values, out);
}

int launch_positions(const unsigned grid[3], const unsigned block[3], int *out)
{
    const cudaLaunchConfig_t config = config_of({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, 0);
    return cudaLaunchKernelEx(&config, positions, out);
}

int allow_dynamic_bytes(int bytes)
{
    return cudaFuncSetAttribute(dynamic_sum, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

int launch_dynamic_sum(unsigned threads, size_t dynamic_bytes, const int *in, int *out)
{
    const cudaLaunchConfig_t config = config_of(1, threads, dynamic_bytes);
    return cudaLaunchKernelEx(&config, dynamic_sum, in, out);
}

int launch_own_shared(int *out)
{
    const cudaLaunchConfig_t config = config_of(1, 32, 0);
    if (const cudaError_t error = cudaLaunchKernelEx(&config, own_shared<5>, out)) return error;
    return cudaLaunchKernelEx(&config, own_shared<7>, out + 32);
}

int launch_bounded(unsigned threads, int *out)
{
    const cudaLaunchConfig_t config = config_of(1, threads, 0);
    return cudaLaunchKernelEx(&config, bounded, out);
}

int blocks_a_multiprocessor(int threads, int *blocks)
{
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, bounded, threads, 0);
}
