/* The mask names 32 lanes, of which 8 come. */
#include "bugs.h"

template <bool FIXED> __global__ void wrong_shuffle_mask(Work work)
{
    const int lane = int(threadIdx.x);
    if (lane >= 8) return;
    work.out[lane] = __shfl_xor_sync(FIXED ? 0xffu : 0xffffffffu, work.in[lane], 1); // found
}
BUG(wrong_shuffle_mask, 1, 32, 8, i ^ 1)
