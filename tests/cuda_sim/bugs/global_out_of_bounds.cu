/* One element too many is written. */
#include "bugs.h"

template <bool FIXED> __global__ void global_out_of_bounds(Work work)
{
    const int t = int(threadIdx.x), last = FIXED ? work.count - 1 : work.count;
    if (t <= last) work.out[t] = 1.0f; // found
}
BUG(global_out_of_bounds, 1, 64, 60, 1)
