/* The avx2 row's vocabulary, compiled as csrc/isa/isa_avx2.c compiles its kernels. */
#include "isa/isa_list.h"
#include "simd/vec.h"
#include "vocabulary.h"

#if PFO_HAVE_X86
#include <immintrin.h>

PFO_TARGET_BEGIN("avx2,fma,f16c")
#include "simd/vec_avx2.h"
#include "simd/vmath.h"
#include "vocabulary.inc"
PFO_TARGET_END

const vocabulary_row vocabulary_avx2 = {"avx2", run_f32, run_f64};
#else
const vocabulary_row vocabulary_avx2 = {"avx2", NULL, NULL};
#endif
