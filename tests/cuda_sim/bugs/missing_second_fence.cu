/* The writes are made visible before the arrival, but the last block reads them without a fence after its own. */
#include "bugs.h"

template <bool FIXED> __global__ void missing_second_fence(Work work)
{
    if (threadIdx.x != 0) return;
    work.out[blockIdx.x] = work.in[blockIdx.x]; // found
    __threadfence();
    if (atomicAdd(work.counter, 1u) != gridDim.x - 1) return;
    if (FIXED) __threadfence();
    float sum = 0;
    for (unsigned b = 0; b < gridDim.x; b++) sum += work.out[b]; // found
    work.out[4] = sum;
}
BUG(missing_second_fence, 4, 32, 5, i < 4 ? i : 6)
