/* AVX2 + FMA + F16C row: a logical vector is two 256-bit registers. */

typedef struct {
    __m256 lo, hi;
} vf;
typedef struct {
    __m256d lo, hi;
} vd;

#define PFO_PAIR(vec, low, high) ((vec){(low), (high)})

PFO_INLINE vf vf_set1(float s) { return PFO_PAIR(vf, _mm256_set1_ps(s), _mm256_set1_ps(s)); }
PFO_INLINE vf vf_add(vf a, vf b) { return PFO_PAIR(vf, _mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)); }
PFO_INLINE vf vf_sub(vf a, vf b) { return PFO_PAIR(vf, _mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)); }
PFO_INLINE vf vf_mul(vf a, vf b) { return PFO_PAIR(vf, _mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)); }
PFO_INLINE vf vf_div(vf a, vf b) { return PFO_PAIR(vf, _mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)); }
PFO_INLINE vf vf_max(vf a, vf b) { return PFO_PAIR(vf, _mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)); }
PFO_INLINE vf vf_min(vf a, vf b) { return PFO_PAIR(vf, _mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)); }
PFO_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return PFO_PAIR(vf, _mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}

PFO_INLINE vd vd_set1(double s) { return PFO_PAIR(vd, _mm256_set1_pd(s), _mm256_set1_pd(s)); }
PFO_INLINE vd vd_add(vd a, vd b) { return PFO_PAIR(vd, _mm256_add_pd(a.lo, b.lo), _mm256_add_pd(a.hi, b.hi)); }
PFO_INLINE vd vd_sub(vd a, vd b) { return PFO_PAIR(vd, _mm256_sub_pd(a.lo, b.lo), _mm256_sub_pd(a.hi, b.hi)); }
PFO_INLINE vd vd_mul(vd a, vd b) { return PFO_PAIR(vd, _mm256_mul_pd(a.lo, b.lo), _mm256_mul_pd(a.hi, b.hi)); }
PFO_INLINE vd vd_div(vd a, vd b) { return PFO_PAIR(vd, _mm256_div_pd(a.lo, b.lo), _mm256_div_pd(a.hi, b.hi)); }
PFO_INLINE vd vd_max(vd a, vd b) { return PFO_PAIR(vd, _mm256_max_pd(a.lo, b.lo), _mm256_max_pd(a.hi, b.hi)); }
PFO_INLINE vd vd_min(vd a, vd b) { return PFO_PAIR(vd, _mm256_min_pd(a.lo, b.lo), _mm256_min_pd(a.hi, b.hi)); }
PFO_INLINE vd vd_fma(vd a, vd b, vd c)
{
    return PFO_PAIR(vd, _mm256_fmadd_pd(a.lo, b.lo, c.lo), _mm256_fmadd_pd(a.hi, b.hi, c.hi));
}

PFO_INLINE __m256 avx2_pow2_ps(__m256 t) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t), 20)); }
PFO_INLINE __m256d avx2_pow2_pd(__m256d t)
{
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(t), 52));
}
PFO_INLINE vf vf_pow2_bits(vf t) { return PFO_PAIR(vf, avx2_pow2_ps(t.lo), avx2_pow2_ps(t.hi)); }
PFO_INLINE vd vd_pow2_bits(vd t) { return PFO_PAIR(vd, avx2_pow2_pd(t.lo), avx2_pow2_pd(t.hi)); }

/* permutevar8x32 takes the low three bits of each index lane: the table is one register. */
PFO_INLINE vf vf_lookup8(const float *table, vf t)
{
    __m256 eight = _mm256_loadu_ps(table);
    return PFO_PAIR(vf, _mm256_permutevar8x32_ps(eight, _mm256_castps_si256(t.lo)),
                    _mm256_permutevar8x32_ps(eight, _mm256_castps_si256(t.hi)));
}

PFO_INLINE float vf_hadd(vf a)
{
    __m256 eight = _mm256_add_ps(a.lo, a.hi);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
PFO_INLINE float vf_hmax(vf a)
{
    __m256 eight = _mm256_max_ps(a.lo, a.hi);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
PFO_INLINE double vd_hadd(vd a)
{
    __m256d four = _mm256_add_pd(a.lo, a.hi);
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
PFO_INLINE double vd_hmax(vd a)
{
    __m256d four = _mm256_max_pd(a.lo, a.hi);
    __m128d two = _mm_max_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)));
}

PFO_INLINE vf vf_load_f32(const float *p) { return PFO_PAIR(vf, _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
PFO_INLINE vd vd_load_f64(const double *p) { return PFO_PAIR(vd, _mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)); }
PFO_INLINE __m128i avx2_load_8x16(const uint16_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
PFO_INLINE vf vf_load_f16(const uint16_t *p)
{
    return PFO_PAIR(vf, _mm256_cvtph_ps(avx2_load_8x16(p)), _mm256_cvtph_ps(avx2_load_8x16(p + 8)));
}
PFO_INLINE __m256 avx2_widen_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(avx2_load_8x16(p)), 16));
}
PFO_INLINE vf vf_load_bf16(const uint16_t *p) { return PFO_PAIR(vf, avx2_widen_bf16(p), avx2_widen_bf16(p + 8)); }

PFO_INLINE void vf_store_f32(float *p, vf a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
PFO_INLINE void vd_store_f64(double *p, vd a)
{
    _mm256_storeu_pd(p, a.lo);
    _mm256_storeu_pd(p + 4, a.hi);
}
PFO_INLINE void avx2_store_8x16(uint16_t *p, __m128i a) { _mm_storeu_si128((__m128i *)(void *)p, a); }
PFO_INLINE void vf_store_f16(uint16_t *p, vf a)
{
    avx2_store_8x16(p, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
    avx2_store_8x16(p + 8, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
/* Eight bfloat16 in the low halves of the 32-bit lanes. */
PFO_INLINE __m256i avx2_narrow_bf16(__m256 a)
{
    __m256i bits = _mm256_castps_si256(a);
    __m256i upper = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    __m256 nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
    return _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), quiet, _mm256_castps_si256(nan));
}
PFO_INLINE void vf_store_bf16(uint16_t *p, vf a)
{
    /* packus works in 128-bit halves: 0xD8 puts the four quarters back in order. */
    __m256i packed = _mm256_packus_epi32(avx2_narrow_bf16(a.lo), avx2_narrow_bf16(a.hi));
    _mm256_storeu_si256((__m256i *)(void *)p, _mm256_permute4x64_epi64(packed, 0xD8));
}
