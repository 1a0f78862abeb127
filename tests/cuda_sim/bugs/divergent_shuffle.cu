/* The lanes of one shuffle come to it from two places. */
#include "bugs.h"

template <bool FIXED> __global__ void divergent_shuffle(Work work)
{
    const int lane = int(threadIdx.x);
    float value = work.in[lane];
    if (FIXED) {
        value = __shfl_xor_sync(0xffffffffu, value, 1);
    } else if (lane % 2 == 0) {
        value = __shfl_xor_sync(0xffffffffu, value, 1); // found
    } else {
        value = __shfl_xor_sync(0xffffffffu, value, 1); // found
    }
    work.out[lane] = value;
}
BUG(divergent_shuffle, 1, 32, 32, i ^ 1)
