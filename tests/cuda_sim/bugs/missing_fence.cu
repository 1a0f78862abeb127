/* The last block to arrive reads what the others wrote; nothing makes their writes visible before their arrival. */
#include "bugs.h"

template <bool FIXED> __global__ void missing_fence(Work work)
{
    if (threadIdx.x != 0) return;
    work.out[blockIdx.x] = work.in[blockIdx.x]; // found
    if (FIXED) __threadfence();
    if (atomicAdd(work.counter, 1u) != gridDim.x - 1) return;
    __threadfence();
    float sum = 0;
    for (unsigned b = 0; b < gridDim.x; b++) sum += work.out[b]; // found
    work.out[4] = sum;
}
BUG(missing_fence, 4, 32, 5, i < 4 ? i : 6)
