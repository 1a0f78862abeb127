/* The scalar row's vocabulary, compiled as csrc/isa/isa_scalar.c compiles its kernels. */
#include "isa/isa_list.h"
#include "simd/vec.h"
#include "vocabulary.h"

#include "simd/vec_scalar.h"
#include "simd/vmath.h"
#include "vocabulary.inc"

const vocabulary_row vocabulary_scalar = {"scalar", run_f32, run_f64};
