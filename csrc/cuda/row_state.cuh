/* The row state on the device: the CPU's own text. */
#ifndef PFO_CUDA_ROW_STATE_CUH
#define PFO_CUDA_ROW_STATE_CUH

#include <math.h>
#include <string.h>

#include "device.cuh"
#include "prefopt_cuda.h"

extern "C" {
#include "../kernels/kernel_list.h" /* pfo_fold_level */
}

namespace pfo
{

#define PFO_HD __device__ inline
#define PFO_FN(name) device_##name
#include "../core/row_state.inc"
#undef PFO_HD
#undef PFO_FN

} // namespace pfo

#endif
