/* What one row's vector operations gave for one set of operands. */
#ifndef PREFOPT_TEST_VOCABULARY_H
#define PREFOPT_TEST_VOCABULARY_H

#include <stdint.h>

#define F32_LANES 16
#define F64_LANES 8

typedef struct vocabulary_f32 {
    float set1[F32_LANES], add[F32_LANES], sub[F32_LANES], mul[F32_LANES], div[F32_LANES], fma[F32_LANES];
    float max[F32_LANES], min[F32_LANES], pow2_bits[F32_LANES], exp[F32_LANES], loaded[F32_LANES];
    float lookup8[F32_LANES], from_f16[F32_LANES], from_bf16[F32_LANES];
    uint16_t to_f16[F32_LANES], to_bf16[F32_LANES];
    float hadd, hmax;
} vocabulary_f32;

typedef struct vocabulary_f64 {
    double set1[F64_LANES], add[F64_LANES], sub[F64_LANES], mul[F64_LANES], div[F64_LANES], fma[F64_LANES];
    double max[F64_LANES], min[F64_LANES], pow2_bits[F64_LANES], exp[F64_LANES], loaded[F64_LANES];
    double hadd, hmax;
} vocabulary_f64;

/* a, b, c: operands; halves: raw 16-bit patterns. No pointer is aligned beyond its element. */
typedef struct vocabulary_row {
    const char *name;
    void (*f32)(const float *a, const float *b, const float *c, const uint16_t *halves, vocabulary_f32 *out);
    void (*f64)(const double *a, const double *b, const double *c, vocabulary_f64 *out);
} vocabulary_row;

/* One a unit; a row that this target lacks has NULL functions. */
extern const vocabulary_row vocabulary_scalar, vocabulary_avx2, vocabulary_avx512, vocabulary_neon;

#endif
