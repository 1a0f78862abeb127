/* Other warps' values are read before they are there. */
#include "bugs.h"

template <bool FIXED> __global__ void missing_barrier_raw(Work work)
{
    PFO_SHARED(float, part, 64);
    const int t = int(threadIdx.x);
    part[t] = work.in[t]; // found
    if (FIXED) __syncthreads();
    work.out[t] = part[63 - t]; // found
}
BUG(missing_barrier_raw, 1, 64, 64, 63 - i)
