/* AVX-512 row (F, BW, DQ, VL): a logical vector is one 512-bit register. */

typedef __m512 vf;
typedef __m512d vd;

PFO_INLINE vf vf_set1(float s) { return _mm512_set1_ps(s); }
PFO_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
PFO_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
PFO_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
PFO_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
PFO_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
PFO_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
PFO_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }

PFO_INLINE vd vd_set1(double s) { return _mm512_set1_pd(s); }
PFO_INLINE vd vd_add(vd a, vd b) { return _mm512_add_pd(a, b); }
PFO_INLINE vd vd_sub(vd a, vd b) { return _mm512_sub_pd(a, b); }
PFO_INLINE vd vd_mul(vd a, vd b) { return _mm512_mul_pd(a, b); }
PFO_INLINE vd vd_div(vd a, vd b) { return _mm512_div_pd(a, b); }
PFO_INLINE vd vd_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
PFO_INLINE vd vd_max(vd a, vd b) { return _mm512_max_pd(a, b); }
PFO_INLINE vd vd_min(vd a, vd b) { return _mm512_min_pd(a, b); }

PFO_INLINE vf vf_pow2_bits(vf t) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t), 20)); }
PFO_INLINE vd vd_pow2_bits(vd t) { return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(t), 52)); }

/* permutexvar takes four bits of each index lane: the table stands in the register twice. */
PFO_INLINE vf vf_lookup8(const float *table, vf t)
{
    __m256 eight = _mm256_loadu_ps(table);
    __m512 twice = _mm512_castpd_ps(
        _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_castps_pd(eight)), _mm256_castps_pd(eight), 1));
    return _mm512_permutexvar_ps(_mm512_castps_si512(t), twice);
}

/* Halves through extractf64x4 and 128-bit steps: the tree of vec.h, which _mm512_reduce_add_ps does not promise. */
PFO_INLINE __m256 avx512_upper_ps(__m512 a) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)); }
PFO_INLINE float vf_hadd(vf a)
{
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), avx512_upper_ps(a));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
PFO_INLINE float vf_hmax(vf a)
{
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), avx512_upper_ps(a));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
PFO_INLINE double vd_hadd(vd a)
{
    __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
PFO_INLINE double vd_hmax(vd a)
{
    __m256d four = _mm256_max_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    __m128d two = _mm_max_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)));
}

PFO_INLINE __m256i avx512_load_16x16(const uint16_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
PFO_INLINE void avx512_store_16x16(uint16_t *p, __m256i a) { _mm256_storeu_si256((__m256i *)(void *)p, a); }

PFO_INLINE vf vf_load_f32(const float *p) { return _mm512_loadu_ps(p); }
PFO_INLINE vd vd_load_f64(const double *p) { return _mm512_loadu_pd(p); }
PFO_INLINE vf vf_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(avx512_load_16x16(p)); }
PFO_INLINE vf vf_load_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(avx512_load_16x16(p)), 16));
}

PFO_INLINE void vf_store_f32(float *p, vf a) { _mm512_storeu_ps(p, a); }
PFO_INLINE void vd_store_f64(double *p, vd a) { _mm512_storeu_pd(p, a); }
PFO_INLINE void vf_store_f16(uint16_t *p, vf a)
{
    avx512_store_16x16(p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
PFO_INLINE void vf_store_bf16(uint16_t *p, vf a)
{
    __m512i bits = _mm512_castps_si512(a);
    __m512i upper = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __m512i quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    __m512i narrow = _mm512_mask_blend_epi32(nan, _mm512_srli_epi32(rounded, 16), quiet);
    avx512_store_16x16(p, _mm512_cvtepi32_epi16(narrow));
}
