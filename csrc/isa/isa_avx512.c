/* The AVX-512 row.  PFO_SIMDE (tests only) compiles it through SIMDe for machines without AVX-512. */
#include "../simd/vec.h"
#include "isa_list.h"

#if PFO_HAVE_X86
#if defined(PFO_SIMDE)
#include "pfo_simde.h"
#define PFO_ISA avx512
#include "../simd/vec_avx512.h"
#include "../simd/vmath.h"
#include "../kernels/kernels.inc"
#else
#include <immintrin.h>

PFO_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#define PFO_ISA avx512
#include "../simd/vec_avx512.h"
#include "../simd/vmath.h"
#include "../kernels/kernels.inc"
PFO_TARGET_END
#endif
#endif
