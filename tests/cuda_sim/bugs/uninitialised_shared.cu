/* A sum that never started from 0. */
#include "bugs.h"

template <bool FIXED> __global__ void uninitialised_shared(Work work)
{
    PFO_SHARED(float, total, 1);
    const int t = int(threadIdx.x);
    if (FIXED && t == 0) total[0] = 0;
    __syncthreads();
    if (t == 0) total[0] += work.in[5];
    __syncthreads();
    work.out[t] = total[0];
}
BUG(uninitialised_shared, 1, 64, 64, 5)
