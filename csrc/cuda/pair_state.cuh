/* The pair state on the device: the CPU's own text. */
#ifndef PFO_CUDA_PAIR_STATE_CUH
#define PFO_CUDA_PAIR_STATE_CUH

#include "row_state.cuh"

extern "C" {
#include "../core/pair_state.h"
}

namespace pfo
{

#define PFO_HD __device__ inline
#define PFO_FN(name) device_##name
#include "../core/pair_state.inc"
#undef PFO_HD
#undef PFO_FN

} // namespace pfo

#endif
