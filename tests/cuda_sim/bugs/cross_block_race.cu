/* Blocks add to one place without an atomic. */
#include "bugs.h"

template <bool FIXED> __global__ void cross_block_race(Work work)
{
    if (threadIdx.x != 0) return;
    if (FIXED) {
        atomicAdd(work.counter, 1u);
        work.out[blockIdx.x] = 0;
    } else {
        *work.counter += 1; // found
        work.out[blockIdx.x] = 0;
    }
}
BUG(cross_block_race, 4, 32, 4, 0)
