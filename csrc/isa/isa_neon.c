/* The NEON row: part of every aarch64, so no target region. */
#include "../simd/vec.h"
#include "isa_list.h"

#if PFO_HAVE_NEON
#include <arm_neon.h>

#define PFO_ISA neon
#include "../simd/vec_neon.h"
#include "../simd/vmath.h"
#include "../kernels/kernels.inc"
#endif
