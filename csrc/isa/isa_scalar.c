/* The scalar row: plain C11, always there. */
/* Calls of fmaf, which this row makes where the CPU has no such instruction, outweigh every other call; and forced
 * inlining of loops of 16 costs GCC minutes here. */
#define PFO_NO_FORCED_INLINE 1
#include "../kernels/kernel_list.h"
#include "../simd/vec.h"

#define PFO_ISA scalar
#include "../simd/vec_scalar.h"
#include "../simd/vmath.h"
#include "../kernels/kernels.inc"
