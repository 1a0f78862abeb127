/* Scalar row: loops over lanes in plain C11.  The definition that the other rows must match bit for bit. */

typedef struct {
    float lane[PFO_VF_LANES];
} vf;
typedef struct {
    double lane[PFO_VD_LANES];
} vd;

#define PFO_SCALAR_MAP(vec, lanes, expression)                         \
    do {                                                               \
        vec result;                                                    \
        for (int i = 0; i < lanes; i++) result.lane[i] = (expression); \
        return result;                                                 \
    } while (0)

PFO_INLINE vf vf_set1(float s) { PFO_SCALAR_MAP(vf, PFO_VF_LANES, s); }
PFO_INLINE vf vf_add(vf a, vf b) { PFO_SCALAR_MAP(vf, PFO_VF_LANES, a.lane[i] + b.lane[i]); }
PFO_INLINE vf vf_sub(vf a, vf b) { PFO_SCALAR_MAP(vf, PFO_VF_LANES, a.lane[i] - b.lane[i]); }
PFO_INLINE vf vf_mul(vf a, vf b) { PFO_SCALAR_MAP(vf, PFO_VF_LANES, a.lane[i] * b.lane[i]); }
PFO_INLINE vf vf_div(vf a, vf b) { PFO_SCALAR_MAP(vf, PFO_VF_LANES, a.lane[i] / b.lane[i]); }
PFO_INLINE vf vf_fma(vf a, vf b, vf c) { PFO_SCALAR_MAP(vf, PFO_VF_LANES, fmaf(a.lane[i], b.lane[i], c.lane[i])); }
PFO_INLINE vf vf_max(vf a, vf b) { PFO_SCALAR_MAP(vf, PFO_VF_LANES, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
PFO_INLINE vf vf_min(vf a, vf b) { PFO_SCALAR_MAP(vf, PFO_VF_LANES, a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]); }

PFO_INLINE vd vd_set1(double s) { PFO_SCALAR_MAP(vd, PFO_VD_LANES, s); }
PFO_INLINE vd vd_add(vd a, vd b) { PFO_SCALAR_MAP(vd, PFO_VD_LANES, a.lane[i] + b.lane[i]); }
PFO_INLINE vd vd_sub(vd a, vd b) { PFO_SCALAR_MAP(vd, PFO_VD_LANES, a.lane[i] - b.lane[i]); }
PFO_INLINE vd vd_mul(vd a, vd b) { PFO_SCALAR_MAP(vd, PFO_VD_LANES, a.lane[i] * b.lane[i]); }
PFO_INLINE vd vd_div(vd a, vd b) { PFO_SCALAR_MAP(vd, PFO_VD_LANES, a.lane[i] / b.lane[i]); }
PFO_INLINE vd vd_fma(vd a, vd b, vd c) { PFO_SCALAR_MAP(vd, PFO_VD_LANES, fma(a.lane[i], b.lane[i], c.lane[i])); }
PFO_INLINE vd vd_max(vd a, vd b) { PFO_SCALAR_MAP(vd, PFO_VD_LANES, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
PFO_INLINE vd vd_min(vd a, vd b) { PFO_SCALAR_MAP(vd, PFO_VD_LANES, a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]); }

PFO_INLINE vf vf_pow2_bits(vf t)
{
    uint32_t bits[PFO_VF_LANES];
    vf result;
    memcpy(bits, t.lane, sizeof bits);
    for (int i = 0; i < PFO_VF_LANES; i++) bits[i] <<= 20;
    memcpy(result.lane, bits, sizeof bits);
    return result;
}

PFO_INLINE vf vf_lookup8(const float *table, vf t)
{
    uint32_t bits[PFO_VF_LANES];
    vf result;
    memcpy(bits, t.lane, sizeof bits);
    for (int i = 0; i < PFO_VF_LANES; i++) result.lane[i] = table[bits[i] & 7];
    return result;
}

PFO_INLINE vd vd_pow2_bits(vd t)
{
    uint64_t bits[PFO_VD_LANES];
    vd result;
    memcpy(bits, t.lane, sizeof bits);
    for (int i = 0; i < PFO_VD_LANES; i++) bits[i] <<= 52;
    memcpy(result.lane, bits, sizeof bits);
    return result;
}

#define PFO_SCALAR_TREE(lanes, combine)              \
    for (int half = lanes / 2; half >= 1; half /= 2) \
        for (int i = 0; i < half; i++) {             \
            combine;                                 \
        }                                            \
    return a.lane[0]

PFO_INLINE float vf_hadd(vf a) { PFO_SCALAR_TREE(PFO_VF_LANES, a.lane[i] += a.lane[i + half]); }
PFO_INLINE double vd_hadd(vd a) { PFO_SCALAR_TREE(PFO_VD_LANES, a.lane[i] += a.lane[i + half]); }
PFO_INLINE float vf_hmax(vf a)
{
    PFO_SCALAR_TREE(PFO_VF_LANES, if (!(a.lane[i] > a.lane[i + half])) a.lane[i] = a.lane[i + half]);
}
PFO_INLINE double vd_hmax(vd a)
{
    PFO_SCALAR_TREE(PFO_VD_LANES, if (!(a.lane[i] > a.lane[i + half])) a.lane[i] = a.lane[i + half]);
}

PFO_INLINE vf vf_load_f32(const float *p) { PFO_SCALAR_MAP(vf, PFO_VF_LANES, p[i]); }
PFO_INLINE vf vf_load_f16(const uint16_t *p) { PFO_SCALAR_MAP(vf, PFO_VF_LANES, pfo_f16_to_f32(p[i])); }
PFO_INLINE vf vf_load_bf16(const uint16_t *p) { PFO_SCALAR_MAP(vf, PFO_VF_LANES, pfo_bf16_to_f32(p[i])); }
PFO_INLINE vd vd_load_f64(const double *p) { PFO_SCALAR_MAP(vd, PFO_VD_LANES, p[i]); }

PFO_INLINE void vf_store_f32(float *p, vf a)
{
    for (int i = 0; i < PFO_VF_LANES; i++) p[i] = a.lane[i];
}
PFO_INLINE void vf_store_f16(uint16_t *p, vf a)
{
    for (int i = 0; i < PFO_VF_LANES; i++) p[i] = pfo_f32_to_f16(a.lane[i]);
}
PFO_INLINE void vf_store_bf16(uint16_t *p, vf a)
{
    for (int i = 0; i < PFO_VF_LANES; i++) p[i] = pfo_f32_to_bf16(a.lane[i]);
}
PFO_INLINE void vd_store_f64(double *p, vd a)
{
    for (int i = 0; i < PFO_VD_LANES; i++) p[i] = a.lane[i];
}
