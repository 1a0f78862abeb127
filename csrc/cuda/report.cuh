/* The report of bad values: 8 bytes in the memory of each device, 0 while nothing is wrong. Kernels keep the largest
 * word by an atomic maximum, so that what is found does not depend on the order of threads: words are made so that the
 * first kind of this list, and of that the lowest index, is the largest. */
#ifndef PFO_CUDA_REPORT_CUH
#define PFO_CUDA_REPORT_CUH

#include "device.cuh"

namespace pfo
{

enum ReportKind {
    REPORT_LABELS = 1,
    REPORT_CU_SEQLENS,
    REPORT_MASK,
    REPORT_NORMALIZER,
    REPORT_NUM_TOKENS, /* the index is the number that would do */
    REPORT_LOSS_INPUT  /* + the input's field, or PFO_BAD_GRAD_LOSSES */
};

constexpr int REPORT_INDEX_BITS = 48;
constexpr uint64_t REPORT_INDEX_MASK = (uint64_t(1) << REPORT_INDEX_BITS) - 1;

__host__ __device__ inline uint64_t report_word(int kind, int64_t index)
{
    return (0xffff - uint64_t(kind)) << REPORT_INDEX_BITS | (REPORT_INDEX_MASK - uint64_t(index));
}
inline int report_kind(uint64_t word) { return int(0xffff - (word >> REPORT_INDEX_BITS)); }
inline int64_t report_index(uint64_t word) { return int64_t(REPORT_INDEX_MASK - (word & REPORT_INDEX_MASK)); }

__device__ inline void report_bad(uint64_t *report, int kind, int64_t index)
{
    static_assert(sizeof(unsigned long long) == sizeof(uint64_t), "CUDA's 64-bit atomics take unsigned long long");
    atomicMax(reinterpret_cast<unsigned long long *>(report), report_word(kind, index));
}

} // namespace pfo

#endif
