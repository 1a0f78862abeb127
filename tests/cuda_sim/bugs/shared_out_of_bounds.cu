/* One element too many, in shared memory: on a GPU it is another variable's. */
#include "bugs.h"

template <bool FIXED> __global__ void shared_out_of_bounds(Work work)
{
    PFO_SHARED(float, part, 60);
    const int t = int(threadIdx.x), last = FIXED ? 59 : 60;
    if (t <= last) part[t] = work.in[0] + 1.0f; // found
    __syncthreads();
    work.out[t] = part[t % 60];
}
BUG(shared_out_of_bounds, 1, 64, 64, 1)
