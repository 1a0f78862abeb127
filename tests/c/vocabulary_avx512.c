/* The avx512 row's vocabulary, compiled as csrc/isa/isa_avx512.c compiles its kernels. */
#include "isa/isa_list.h"
#include "simd/vec.h"
#include "vocabulary.h"

#if PFO_HAVE_X86
#if defined(PFO_SIMDE)
#include "pfo_simde.h"

#include "simd/vec_avx512.h"
#include "simd/vmath.h"
#include "vocabulary.inc"
#else
#include <immintrin.h>

PFO_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#include "simd/vec_avx512.h"
#include "simd/vmath.h"
#include "vocabulary.inc"
PFO_TARGET_END
#endif

const vocabulary_row vocabulary_avx512 = {"avx512", run_f32, run_f64};
#else
const vocabulary_row vocabulary_avx512 = {"avx512", NULL, NULL};
#endif
