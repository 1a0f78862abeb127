/* Reductions over the threads that share a row: a warp (THREADS 32; a block has several, one a threadIdx.y), or a
 * block of its own. Sums are made in a fixed order. */
#ifndef PFO_CUDA_TEAM_CUH
#define PFO_CUDA_TEAM_CUH

#include "elements.cuh"

namespace pfo
{

constexpr unsigned WHOLE_WARP = 0xffffffffu;

template <int THREADS> struct Team {
    static_assert(THREADS % 32 == 0 && THREADS <= 1024, "whole warps of one block");
    static constexpr int WARPS = THREADS / 32;

    /* Every thread gets the maxima of COUNT values. One call a kernel, as sums. */
    template <int COUNT, typename Real> static __device__ void maxima(Real *values)
    {
        PFO_UNROLL
        for (int distance = 16; distance > 0; distance /= 2) {
            PFO_UNROLL
            for (int k = 0; k < COUNT; k++)
                values[k] = larger(values[k], __shfl_xor_sync(WHOLE_WARP, values[k], distance));
        }
        if constexpr (WARPS > 1) {
            PFO_SHARED(Real, partial, WARPS * COUNT);
            PFO_UNROLL
            for (int k = 0; k < COUNT; k++)
                if (threadIdx.x % 32 == 0) partial[int(threadIdx.x / 32) * COUNT + k] = values[k];
            __syncthreads();
            for (int warp = 0; warp < WARPS; warp++) {
                PFO_UNROLL
                for (int k = 0; k < COUNT; k++) values[k] = larger(values[k], partial[warp * COUNT + k]);
            }
        }
    }

    /* Thread 0 gets the sums of COUNT values and the minimum of `lowest`. One call a kernel: the shared arrays are not
     * free for another before a barrier. */
    template <int COUNT> static __device__ void sums(double *values, unsigned *lowest)
    {
        PFO_UNROLL
        for (int distance = 16; distance > 0; distance /= 2) {
            PFO_UNROLL
            for (int k = 0; k < COUNT; k++) values[k] += __shfl_down_sync(WHOLE_WARP, values[k], unsigned(distance));
            *lowest = min(*lowest, __shfl_down_sync(WHOLE_WARP, *lowest, unsigned(distance)));
        }
        if constexpr (WARPS > 1) {
            PFO_SHARED(double, partial, WARPS *COUNT);
            PFO_SHARED(unsigned, partial_lowest, WARPS);
            if (threadIdx.x % 32 == 0) {
                const int warp = int(threadIdx.x / 32);
                PFO_UNROLL
                for (int k = 0; k < COUNT; k++) partial[warp * COUNT + k] = values[k];
                partial_lowest[warp] = *lowest;
            }
            __syncthreads();
            if (threadIdx.x != 0) return;
            for (int warp = 1; warp < WARPS; warp++) {
                PFO_UNROLL
                for (int k = 0; k < COUNT; k++) values[k] += partial[warp * COUNT + k];
                *lowest = min(*lowest, partial_lowest[warp]);
            }
        }
    }
};

} // namespace pfo

#endif
