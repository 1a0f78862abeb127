/* Half of the block waits at one barrier, half at another. */
#include "bugs.h"

template <bool FIXED> __global__ void divergent_barrier(Work work)
{
    const int t = int(threadIdx.x);
    if (FIXED || t < 32) __syncthreads(); // found
    work.out[t] = work.in[t];
    __syncthreads(); // found
}
BUG(divergent_barrier, 1, 64, 64, i)
