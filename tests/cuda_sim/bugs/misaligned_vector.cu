/* 16 bytes at an address that is a multiple of 4. */
#include "bugs.h"

template <bool FIXED> __global__ void misaligned_vector(Work work)
{
    const int t = int(threadIdx.x), first = FIXED ? 4 : 1;
    const float4 value = *reinterpret_cast<const float4 *>(work.in + first); // found
    work.out[t] = value.x + value.y + value.z + value.w - float(4 * first);
}
BUG(misaligned_vector, 1, 32, 32, 6)
