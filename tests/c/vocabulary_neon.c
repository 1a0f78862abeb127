/* The neon row's vocabulary, compiled as csrc/isa/isa_neon.c compiles its kernels. */
#include "isa/isa_list.h"
#include "simd/vec.h"
#include "vocabulary.h"

#if PFO_HAVE_NEON
#include <arm_neon.h>

#include "simd/vec_neon.h"
#include "simd/vmath.h"
#include "vocabulary.inc"

const vocabulary_row vocabulary_neon = {"neon", run_f32, run_f64};
#else
const vocabulary_row vocabulary_neon = {"neon", NULL, NULL};
#endif
