/* The result depends on which block comes last. */
#include "bugs.h"

template <bool FIXED> __global__ void order_of_arrival(Work work)
{
    if (threadIdx.x != 0) return;
    const unsigned arrival = atomicAdd(work.counter, 1u);
    const unsigned slot = FIXED ? blockIdx.x : arrival;
    work.out[slot] = work.in[blockIdx.x];
}
BUG(order_of_arrival, 4, 32, 4, i)
