/* The same through a load with a cache hint, which is a function of the stand-in's. */
#include "bugs.h"

template <bool FIXED> __global__ void misaligned_hinted_load(Work work)
{
    const int t = int(threadIdx.x), first = FIXED ? 4 : 2;
    const float4 value = __ldcs(reinterpret_cast<const float4 *>(work.in + first)); // found
    work.out[t] = value.x + value.y + value.z + value.w - float(4 * first);
}
BUG(misaligned_hinted_load, 1, 32, 32, 6)
