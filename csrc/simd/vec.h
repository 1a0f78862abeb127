/* The vocabulary of vector operations.
 *
 * One logical vector is 16 floats (vf) or 8 doubles (vd) on every ISA row: two AVX2 registers, one AVX-512 register,
 * four NEON registers, a loop.  Every row reduces in the same tree and rounds in the same places (explicit fma,
 * compiled with -ffp-contract=off), so rows agree bit for bit and one kernel text serves all.
 *
 * A row's header vec_<isa>.h defines, for P = vf (float) and vd (double):
 *   P_set1(s)                    all lanes s
 *   P_add P_sub P_mul P_div (a, b)   IEEE, round to nearest
 *   P_fma(a, b, c)               a * b + c with one rounding
 *   P_max(a, b)                  a > b ? a : b      so the result is b when either is NaN, and max(+0, -0) = -0
 *   P_min(a, b)                  a < b ? a : b      (likewise b)
 *   P_pow2_bits(t)               t's bits << 20 (vf) or << 52 (vd): what vmath.h makes powers of two from
 *   vf_lookup8(table, t)         lane i: table[t_i's bits & 7]; table holds 8 floats
 *   P_hadd(a) P_hmax(a)          lanes i and i + n/2 combine, then halves of that: a fixed tree
 * and the loads and stores of the dtypes (any alignment that suits one element):
 *   vf_load_f32 vf_load_f16 vf_load_bf16, vf_store_*, vd_load_f64, vd_store_f64
 * Narrowing stores round to nearest even; NaN stays NaN.
 *
 * Tails go through a buffer of one whole vector (below), so a row needs no masks.
 */
#ifndef PFO_VEC_H
#define PFO_VEC_H

#include <math.h>
#include <string.h>

#include "../core/dtype.h"

#define PFO_VF_LANES 16
#define PFO_VD_LANES 8

/* A vector of the arithmetic type itself. */
#define vf_load_real(address) vf_load_f32(address)
#define vd_load_real(address) vd_load_f64(address)
#define vf_store_real(address, vector) vf_store_f32(address, vector)
#define vd_store_real(address, vector) vd_store_f64(address, vector)

#endif
