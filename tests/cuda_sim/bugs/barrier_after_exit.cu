/* A barrier that some threads never come to, as they have returned. */
#include "bugs.h"

template <bool FIXED> __global__ void barrier_after_exit(Work work)
{
    const int t = int(threadIdx.x);
    if (!FIXED && t >= 40) return;
    __syncthreads(); // found
    work.out[t] = work.in[t];
}
BUG(barrier_after_exit, 1, 64, 64, i)
