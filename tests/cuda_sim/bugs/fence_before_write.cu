/* The fence is there, but before the write that it should have made visible. */
#include "bugs.h"

template <bool FIXED> __global__ void fence_before_write(Work work)
{
    if (threadIdx.x != 0) return;
    if (!FIXED) __threadfence();
    work.out[blockIdx.x] = work.in[blockIdx.x]; // found
    if (FIXED) __threadfence();
    if (atomicAdd(work.counter, 1u) != gridDim.x - 1) return;
    __threadfence();
    float sum = 0;
    for (unsigned b = 0; b < gridDim.x; b++) sum += work.out[b]; // found
    work.out[4] = sum;
}
BUG(fence_before_write, 4, 32, 5, i < 4 ? i : 6)
