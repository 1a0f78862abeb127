/* Dtype facts and single-element access; kernels have their own vector loads. */
#include "dtype.h"

#include <string.h>

static const struct {
    const char *name;
    int64_t size;
} dtype_facts[] = {
    [PFO_NONE] = {"none", 0},   [PFO_F16] = {"float16", 2}, [PFO_BF16] = {"bfloat16", 2}, [PFO_F32] = {"float32", 4},
    [PFO_F64] = {"float64", 8}, [PFO_I8] = {"int8", 1},     [PFO_I16] = {"int16", 2},     [PFO_I32] = {"int32", 4},
    [PFO_I64] = {"int64", 8},   [PFO_U8] = {"uint8", 1},    [PFO_U16] = {"uint16", 2},    [PFO_U32] = {"uint32", 4},
    [PFO_U64] = {"uint64", 8},  [PFO_BOOL] = {"bool", 1},
};

const char *pfo_dtype_name(int32_t dtype)
{
    if (dtype < 0 || dtype > PFO_BOOL) return "unknown";
    return dtype_facts[dtype].name;
}

int64_t pfo_dtype_size(int32_t dtype)
{
    if (dtype < 0 || dtype > PFO_BOOL) return 0;
    return dtype_facts[dtype].size;
}

int pfo_logit_index_of(int32_t dtype)
{
#define PFO_ROW(stem, id) \
    if (dtype == id) return PFO_LOGIT_##stem;
    PFO_LOGIT_DTYPES(PFO_ROW)
#undef PFO_ROW
    return -1;
}

int pfo_is_int(int32_t dtype) { return dtype >= PFO_I8 && dtype <= PFO_U64; }

float pfo_bf16_to_f32(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

uint16_t pfo_f32_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x0040u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float pfo_f16_to_f32(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = (bits >> 10) & 0x1fu;
    uint32_t mantissa = bits & 0x3ffu;
    uint32_t wide;
    if (exponent == 0x1f) {
        wide = sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x00400000u : 0u);
    } else if (exponent != 0) {
        wide = sign | ((exponent + 112u) << 23) | (mantissa << 13);
    } else {
        float magnitude = (float)mantissa * 0x1p-24f; /* denormals and zero: exact in float */
        memcpy(&wide, &magnitude, sizeof wide);
        wide |= sign;
    }
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

uint16_t pfo_f32_to_f16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to inf */
    if (magnitude < 0x38800000u) {
        /* Denormal result: adding 0.5 makes the float unit round at 2^-24 for us. */
        float shifted;
        memcpy(&shifted, &magnitude, sizeof shifted);
        shifted += 0.5f;
        uint32_t rounded;
        memcpy(&rounded, &shifted, sizeof rounded);
        return (uint16_t)(sign | (rounded - 0x3f000000u));
    }
    uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | (rounded >> 13));
}

double pfo_read_float(const char *address, int32_t dtype)
{
    uint16_t half;
    float single;
    double wide;
    switch (dtype) {
    case PFO_F16: memcpy(&half, address, 2); return pfo_f16_to_f32(half);
    case PFO_BF16: memcpy(&half, address, 2); return pfo_bf16_to_f32(half);
    case PFO_F32: memcpy(&single, address, 4); return single;
    default: memcpy(&wide, address, 8); return wide;
    }
}

void pfo_write_float(char *address, int32_t dtype, double value)
{
    float single = (float)value;
    uint16_t half;
    switch (dtype) {
    case PFO_F16:
        half = pfo_f32_to_f16(single);
        memcpy(address, &half, 2);
        break;
    case PFO_BF16:
        half = pfo_f32_to_bf16(single);
        memcpy(address, &half, 2);
        break;
    case PFO_F32: memcpy(address, &single, 4); break;
    default: memcpy(address, &value, 8); break;
    }
}

int64_t pfo_read_int(const char *address, int32_t dtype, int *fits)
{
    int64_t wide;
    uint64_t unsigned_wide;
    *fits = 1;
    switch (dtype) {
    case PFO_I8: return *(const int8_t *)address;
    case PFO_U8: return *(const uint8_t *)address;
    case PFO_I16: {
        int16_t value;
        memcpy(&value, address, 2);
        return value;
    }
    case PFO_U16: {
        uint16_t value;
        memcpy(&value, address, 2);
        return value;
    }
    case PFO_I32: {
        int32_t value;
        memcpy(&value, address, 4);
        return value;
    }
    case PFO_U32: {
        uint32_t value;
        memcpy(&value, address, 4);
        return value;
    }
    case PFO_U64:
        memcpy(&unsigned_wide, address, 8);
        *fits = unsigned_wide <= (uint64_t)INT64_MAX;
        return *fits ? (int64_t)unsigned_wide : INT64_MAX;
    default: memcpy(&wide, address, 8); return wide;
    }
}
