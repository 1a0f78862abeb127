/* The programs of losses/programs.inc for the threads of a GPU: the same text as the CPU's. A kernel is made for each
 * program, and holds the formulas of the losses that it runs. */
#ifndef PFO_CUDA_LOSS_PROGRAMS_CUH
#define PFO_CUDA_LOSS_PROGRAMS_CUH

#include <math.h>
#include <string.h>

#include "host.cuh"
#include "report.cuh"

extern "C" {
#include "../losses/program.h"
}

namespace pfo
{

constexpr int LOSS_THREADS = 128, LOSS_WARPS = LOSS_THREADS / 32;

struct DeviceBatch : pfo_batch {
    unsigned *bad; /* becomes 1 where a value is refused */
    uint64_t *report;
    int64_t block_work_bytes;
};

/* WHICH program a kernel is made of. */
template <int WHICH> struct LossBatch : DeviceBatch {};

/* The sum over the block, in a fixed order, for every thread. */
__device__ inline double block_total(double x)
{
    PFO_SHARED(double, partial, LOSS_WARPS);
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    x = partial[0];
    for (int warp = 1; warp < LOSS_WARPS; warp++) x += partial[warp];
    __syncthreads(); /* before the next sum */
    return x;
}

__device__ inline int pfo_comes_before(const pfo_ranked *a, const pfo_ranked *b);

/* A bitonic network in which every comparison puts the smaller item first, so that items beyond the end, which would be
 * the largest, need not be there. */
__device__ inline void sort_ranked(pfo_ranked *items, int64_t count)
{
    __syncthreads();
    for (int64_t size = 2; size / 2 < count; size *= 2) {
        for (int64_t mask = size - 1; mask > 0; mask = (mask == size - 1 ? size / 2 : mask) / 2) {
            for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
                const int64_t other = i ^ mask;
                if (other < i || other >= count || !pfo_comes_before(&items[other], &items[i])) continue;
                const pfo_ranked moved = items[i];
                items[i] = items[other];
                items[other] = moved;
            }
            __syncthreads();
        }
    }
}

__device__ inline void note_bad(const DeviceBatch &batch, int field, int64_t i)
{
    report_bad(batch.report, REPORT_LOSS_INPUT + field, i < 0 ? 0 : i);
    atomicOr(batch.bad, 1u);
}

__device__ inline pfo_status verdict(const DeviceBatch &batch)
{
    __syncthreads();
    const unsigned bad = threadIdx.x == 0 ? atomicOr(batch.bad, 0u) : 0u;
    return __syncthreads_or(bad != 0) ? PFO_ERROR_VALUE : PFO_OK;
}

/* The formula of one element; those of other programs are left out. */
template <int WHICH>
__device__ void loss_terms_of(const LossBatch<WHICH> *batch, const pfo_loss_inputs_f64 *x, pfo_loss_terms_f64 *out)
{
    switch (batch->loss) {
#define LOSS(family, variant, kind, tokens, program, ...)                                                \
    case PFO_LOSS_##family##_##variant:                                                                  \
        if (WHICH == int(PFO_PROGRAM_##program)) pfo_##family##_##variant##_f64(x, &batch->params, out); \
        break;
#include "../losses/loss_list.h"
    default: break;
    }
}

#define PFO_BATCH LossBatch<WHICH>
#define PFO_STEP template <int WHICH> __device__ inline
#define PFO_HELPER __device__ inline
#define PFO_EACH(i, count) for (int64_t i = threadIdx.x, i##_end = (count); i < i##_end; i += blockDim.x)
#define PFO_EACH_ROW(i, count) for (int64_t i = blockIdx.x, i##_end = (count); i < i##_end; i += gridDim.x)
#define PFO_EACH_ELEMENT(i, count)                                                                   \
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, i##_end = (count); i < i##_end; \
         i += int64_t(gridDim.x) * blockDim.x)
#define PFO_TOTAL(x) block_total(x)
#define PFO_BARRIER() __syncthreads()
#define PFO_FIRST (threadIdx.x == 0)
#define PFO_SORT(items, count) sort_ranked(items, count)
#define PFO_BLOCK_WORK(batch) (static_cast<char *>((batch)->work) + blockIdx.x * (batch)->block_work_bytes)
#define PFO_TERMS_OF(batch, x, out) loss_terms_of(batch, x, out)
#define PFO_BAD(batch, field, i, error, ...) ((void)(error), note_bad(*(batch), field, i))
#define PFO_VERDICT(batch) verdict(*(batch))

#include "../losses/programs.inc"

} // namespace pfo

#endif
