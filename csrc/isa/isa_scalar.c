/* The scalar row: plain C11, always there. */
#include "../kernels/kernel_list.h"
#include "../simd/vec.h"

#define PFO_ISA scalar
#include "../simd/vec_scalar.h"
#include "../simd/vmath.h"
#include "../kernels/kernels.inc"
