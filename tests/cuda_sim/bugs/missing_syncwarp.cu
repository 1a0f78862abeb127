/* Lanes of one warp exchange values through shared memory, as if they moved together. */
#include "bugs.h"

template <bool FIXED> __global__ void missing_syncwarp(Work work)
{
    PFO_SHARED(float, part, 32);
    const int lane = int(threadIdx.x);
    part[lane] = work.in[lane]; // found
    if (FIXED) __syncwarp();
    work.out[lane] = part[lane ^ 1]; // found
}
BUG(missing_syncwarp, 1, 32, 32, i ^ 1)
