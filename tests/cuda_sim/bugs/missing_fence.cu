/* The last block to arrive reads what the others wrote; nothing makes their writes visible before their arrival. */
#include "bugs.h"

struct Part {
    float value, offset;
};

/* By value and not inline: GCC's thread sanitizer sees such a read only where the call is inlined after all. */
__device__ float sum_of(Part part) { return part.value + part.offset; }

template <bool FIXED> __global__ void missing_fence(Work work)
{
    if (threadIdx.x != 0) return;
    Part *parts = reinterpret_cast<Part *>(work.out);
    parts[blockIdx.x].value = work.in[blockIdx.x]; // found
    if (FIXED) __threadfence();
    if (atomicAdd(work.counter, 1u) != gridDim.x - 1) return;
    __threadfence();
    for (unsigned b = 0; b < gridDim.x; b++) work.out[8] += sum_of(parts[b]); // found
}
BUG(missing_fence, 4, 32, 9, i == 8 ? 6 : i % 2 == 0 ? i / 2 : 0)
