/* The dtypes of logits: one row each.  X(stem, enum)
 *
 * stem     names kernels (pfo_fold_row_bf16_avx2) and the load/store pair of every vec header (vf_load_bf16)
 * STORAGE  what a pointer to logits points at; half types are raw bits
 * REAL     arithmetic and running max; sums over blocks are double for all
 * VEC      vf: 16 floats, vd: 8 doubles, on every ISA row
 * WIDEN    one stored value to REAL, exact;  NARROW: a REAL or double to storage, round to nearest even
 */
#ifndef PFO_DTYPE_H
#define PFO_DTYPE_H

#include "core.h"

#define PFO_LOGIT_DTYPES(X) \
    X(f16, PFO_F16)         \
    X(bf16, PFO_BF16)       \
    X(f32, PFO_F32)         \
    X(f64, PFO_F64)

/* The same facts by name, for the kernel texts (a macro cannot read a row of the list above). */
#define PFO_STORAGE_f16 uint16_t
#define PFO_STORAGE_bf16 uint16_t
#define PFO_STORAGE_f32 float
#define PFO_STORAGE_f64 double
#define PFO_REAL_f16 float
#define PFO_REAL_bf16 float
#define PFO_REAL_f32 float
#define PFO_REAL_f64 double
#define PFO_VEC_f16 vf
#define PFO_VEC_bf16 vf
#define PFO_VEC_f32 vf
#define PFO_VEC_f64 vd
#define PFO_LANES_f16 16
#define PFO_LANES_bf16 16
#define PFO_LANES_f32 16
#define PFO_LANES_f64 8
#define PFO_WIDEN_f16(bits) pfo_f16_to_f32(bits)
#define PFO_WIDEN_bf16(bits) pfo_bf16_to_f32(bits)
#define PFO_WIDEN_f32(value) (value)
#define PFO_WIDEN_f64(value) (value)
#define PFO_NARROW_f16(value) pfo_f32_to_f16((float)(value))
#define PFO_NARROW_bf16(value) pfo_f32_to_bf16((float)(value))
#define PFO_NARROW_f32(value) ((float)(value))
#define PFO_NARROW_f64(value) (value)

enum pfo_logit_index {
#define PFO_ROW(stem, id) PFO_LOGIT_##stem,
    PFO_LOGIT_DTYPES(PFO_ROW)
#undef PFO_ROW
    PFO_LOGIT_COUNT
};

/* Position in PFO_LOGIT_DTYPES, -1 if dtype is not a logit dtype. */
int pfo_logit_index_of(int32_t dtype);

/* Single elements of a float view and of an integer view, any dtype of that family. */
double pfo_read_float(const char *address, int32_t dtype);
void pfo_write_float(char *address, int32_t dtype, double value);
/* Integer as int64; *fits is cleared for a uint64 above INT64_MAX. */
int64_t pfo_read_int(const char *address, int32_t dtype, int *fits);
int pfo_is_int(int32_t dtype);

/* IEEE half and bfloat16, by bits: exact up, round to nearest even down, NaN stays NaN (quiet, payload cut). */
float pfo_f16_to_f32(uint16_t bits);
uint16_t pfo_f32_to_f16(float value);
float pfo_bf16_to_f32(uint16_t bits);
uint16_t pfo_f32_to_bf16(float value);

#endif
