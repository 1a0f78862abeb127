/* The second barrier of a loop is missing: a fast thread writes the next value over one that a slow thread has yet to
 * read. The writer comes to the next barrier before the reader leaves the last one. */
#include "bugs.h"

template <bool FIXED> __global__ void missing_barrier_war(Work work)
{
    PFO_SHARED(float, part, 64);
    const int t = int(threadIdx.x);
    float sum = 0;
    for (int round = 0; round < 2; round++) {
        if (t == 0) part[0] = work.in[round + 1]; // found
        __syncthreads();
        sum += part[0]; // found
        if (FIXED) __syncthreads();
    }
    work.out[t] = sum;
}
BUG(missing_barrier_war, 1, 64, 64, 3)
