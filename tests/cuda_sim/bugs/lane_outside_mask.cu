/* A lane that is not named by the mask is read from: its value is undefined. */
#include "bugs.h"

template <bool FIXED> __global__ void lane_outside_mask(Work work)
{
    const int lane = int(threadIdx.x);
    if (lane >= 8) return;
    work.out[lane] = __shfl_sync(0xffu, work.in[lane], FIXED ? 7 : 8); // found
}
BUG(lane_outside_mask, 1, 32, 8, 7)
