/* NEON row (aarch64): a logical vector is four 128-bit registers. */

typedef struct {
    float32x4_t part[4];
} vf;
typedef struct {
    float64x2_t part[4];
} vd;

#define PFO_NEON_MAP(vec, expression)                              \
    do {                                                           \
        vec result;                                                \
        for (int i = 0; i < 4; i++) result.part[i] = (expression); \
        return result;                                             \
    } while (0)

/* vmaxq returns NaN for any NaN; the vocabulary's max is a > b ? a : b. */
#define PFO_NEON_PICK_F32(test, a, b) vbslq_f32(test(a, b), a, b)
#define PFO_NEON_PICK_F64(test, a, b) vbslq_f64(test(a, b), a, b)

PFO_INLINE vf vf_set1(float s) { PFO_NEON_MAP(vf, vdupq_n_f32(s)); }
PFO_INLINE vf vf_add(vf a, vf b) { PFO_NEON_MAP(vf, vaddq_f32(a.part[i], b.part[i])); }
PFO_INLINE vf vf_sub(vf a, vf b) { PFO_NEON_MAP(vf, vsubq_f32(a.part[i], b.part[i])); }
PFO_INLINE vf vf_mul(vf a, vf b) { PFO_NEON_MAP(vf, vmulq_f32(a.part[i], b.part[i])); }
PFO_INLINE vf vf_div(vf a, vf b) { PFO_NEON_MAP(vf, vdivq_f32(a.part[i], b.part[i])); }
PFO_INLINE vf vf_fma(vf a, vf b, vf c) { PFO_NEON_MAP(vf, vfmaq_f32(c.part[i], a.part[i], b.part[i])); }
PFO_INLINE vf vf_max(vf a, vf b) { PFO_NEON_MAP(vf, PFO_NEON_PICK_F32(vcgtq_f32, a.part[i], b.part[i])); }
PFO_INLINE vf vf_min(vf a, vf b) { PFO_NEON_MAP(vf, PFO_NEON_PICK_F32(vcltq_f32, a.part[i], b.part[i])); }

PFO_INLINE vd vd_set1(double s) { PFO_NEON_MAP(vd, vdupq_n_f64(s)); }
PFO_INLINE vd vd_add(vd a, vd b) { PFO_NEON_MAP(vd, vaddq_f64(a.part[i], b.part[i])); }
PFO_INLINE vd vd_sub(vd a, vd b) { PFO_NEON_MAP(vd, vsubq_f64(a.part[i], b.part[i])); }
PFO_INLINE vd vd_mul(vd a, vd b) { PFO_NEON_MAP(vd, vmulq_f64(a.part[i], b.part[i])); }
PFO_INLINE vd vd_div(vd a, vd b) { PFO_NEON_MAP(vd, vdivq_f64(a.part[i], b.part[i])); }
PFO_INLINE vd vd_fma(vd a, vd b, vd c) { PFO_NEON_MAP(vd, vfmaq_f64(c.part[i], a.part[i], b.part[i])); }
PFO_INLINE vd vd_max(vd a, vd b) { PFO_NEON_MAP(vd, PFO_NEON_PICK_F64(vcgtq_f64, a.part[i], b.part[i])); }
PFO_INLINE vd vd_min(vd a, vd b) { PFO_NEON_MAP(vd, PFO_NEON_PICK_F64(vcltq_f64, a.part[i], b.part[i])); }

PFO_INLINE vf vf_pow2_bits(vf t)
{
    PFO_NEON_MAP(vf, vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(t.part[i]), 20)));
}
PFO_INLINE vd vd_pow2_bits(vd t)
{
    PFO_NEON_MAP(vd, vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(t.part[i]), 52)));
}

/* The table as 32 bytes: lane j needs bytes 4 j .. 4 j + 3. */
PFO_INLINE float32x4_t neon_lookup8(uint8x16x2_t bytes, float32x4_t t)
{
    uint32x4_t index = vandq_u32(vreinterpretq_u32_f32(t), vdupq_n_u32(7));
    uint32x4_t places = vmlaq_u32(vdupq_n_u32(0x03020100), index, vdupq_n_u32(0x04040404));
    return vreinterpretq_f32_u8(vqtbl2q_u8(bytes, vreinterpretq_u8_u32(places)));
}
PFO_INLINE vf vf_lookup8(const float *table, vf t)
{
    uint8x16x2_t bytes = {{vreinterpretq_u8_f32(vld1q_f32(table)), vreinterpretq_u8_f32(vld1q_f32(table + 4))}};
    PFO_NEON_MAP(vf, neon_lookup8(bytes, t.part[i]));
}

PFO_INLINE float vf_hadd(vf a)
{
    float32x4_t four = vaddq_f32(vaddq_f32(a.part[0], a.part[2]), vaddq_f32(a.part[1], a.part[3]));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
PFO_INLINE float vf_hmax(vf a)
{
    float32x4_t low = PFO_NEON_PICK_F32(vcgtq_f32, a.part[0], a.part[2]);
    float32x4_t high = PFO_NEON_PICK_F32(vcgtq_f32, a.part[1], a.part[3]);
    float32x4_t four = PFO_NEON_PICK_F32(vcgtq_f32, low, high);
    float32x2_t first = vget_low_f32(four), second = vget_high_f32(four);
    float32x2_t two = vbsl_f32(vcgt_f32(first, second), first, second);
    float even = vget_lane_f32(two, 0), odd = vget_lane_f32(two, 1);
    return even > odd ? even : odd;
}
PFO_INLINE double vd_hadd(vd a)
{
    float64x2_t two = vaddq_f64(vaddq_f64(a.part[0], a.part[2]), vaddq_f64(a.part[1], a.part[3]));
    return vgetq_lane_f64(two, 0) + vgetq_lane_f64(two, 1);
}
PFO_INLINE double vd_hmax(vd a)
{
    float64x2_t low = PFO_NEON_PICK_F64(vcgtq_f64, a.part[0], a.part[2]);
    float64x2_t high = PFO_NEON_PICK_F64(vcgtq_f64, a.part[1], a.part[3]);
    float64x2_t two = PFO_NEON_PICK_F64(vcgtq_f64, low, high);
    double even = vgetq_lane_f64(two, 0), odd = vgetq_lane_f64(two, 1);
    return even > odd ? even : odd;
}

PFO_INLINE vf vf_load_f32(const float *p) { PFO_NEON_MAP(vf, vld1q_f32(p + 4 * i)); }
PFO_INLINE vd vd_load_f64(const double *p) { PFO_NEON_MAP(vd, vld1q_f64(p + 2 * i)); }
PFO_INLINE vf vf_load_f16(const uint16_t *p)
{
    PFO_NEON_MAP(vf, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))));
}
PFO_INLINE vf vf_load_bf16(const uint16_t *p)
{
    PFO_NEON_MAP(vf, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
}

PFO_INLINE void vf_store_f32(float *p, vf a)
{
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.part[i]);
}
PFO_INLINE void vd_store_f64(double *p, vd a)
{
    for (int i = 0; i < 4; i++) vst1q_f64(p + 2 * i, a.part[i]);
}
PFO_INLINE void vf_store_f16(uint16_t *p, vf a)
{
    for (int i = 0; i < 4; i++) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.part[i])));
}
PFO_INLINE void vf_store_bf16(uint16_t *p, vf a)
{
    for (int i = 0; i < 4; i++) {
        uint32x4_t bits = vreinterpretq_u32_f32(a.part[i]);
        uint32x4_t upper = vshrq_n_u32(bits, 16);
        uint32x4_t odd = vandq_u32(upper, vdupq_n_u32(1));
        uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
        uint32x4_t quiet = vorrq_u32(upper, vdupq_n_u32(0x40));
        uint32x4_t number = vceqq_f32(a.part[i], a.part[i]);
        vst1_u16(p + 4 * i, vmovn_u32(vbslq_u32(number, vshrq_n_u32(rounded, 16), quiet)));
    }
}
