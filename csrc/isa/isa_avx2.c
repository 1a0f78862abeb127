/* The AVX2 + FMA + F16C row. */
#include "../simd/vec.h"
#include "isa_list.h"

#if PFO_HAVE_X86
#include <immintrin.h>

PFO_TARGET_BEGIN("avx2,fma,f16c")
#define PFO_ISA avx2
#include "../simd/vec_avx2.h"
#include "../simd/vmath.h"
#include "../kernels/kernels.inc"
PFO_TARGET_END
#endif
