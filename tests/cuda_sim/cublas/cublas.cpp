/* A libcublas.so.13 of the few functions that the library opens: column-major, on the host, sums in double.
 *
 * Stricter than it need be: a wrong leading dimension is refused as cuBLAS does, and says so on stderr. Enum values are
 * those of cublas_api.h of CUDA 13 (the toolkit on the test machine has no cuBLAS headers). */
#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <library_types.h>

namespace
{

enum Status {
    SUCCESS = 0,
    NOT_INITIALIZED = 1,
    INVALID_VALUE = 7,
    NOT_SUPPORTED = 15
};
enum Operation {
    OP_N = 0,
    OP_T = 1,
    OP_C = 2
};
enum Compute {
    COMPUTE_32F = 68,
    COMPUTE_32F_PEDANTIC = 69,
    COMPUTE_32F_FAST_TF32 = 77
};

constexpr uint64_t ALIVE = 0x63756461626c6173u;
constexpr int VERSION = 130000;

struct Handle {
    uint64_t state = ALIVE;
    void *stream = nullptr;
};

int fail_after = -1, fail_with;

Status refuse(Status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
Status refuse(Status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("cuda_sim: cublasGemmEx: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return status;
}

float read(const void *data, cudaDataType type, int64_t index)
{
    switch (type) {
    case CUDA_R_16F: return __half2float(static_cast<const __half *>(data)[index]);
    case CUDA_R_16BF: return __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[index]);
    default: return static_cast<const float *>(data)[index];
    }
}

void write(void *data, cudaDataType type, int64_t index, float value)
{
    switch (type) {
    case CUDA_R_16F: static_cast<__half *>(data)[index] = __float2half_rn(value); break;
    case CUDA_R_16BF: static_cast<__nv_bfloat16 *>(data)[index] = __float2bfloat16_rn(value); break;
    default: static_cast<float *>(data)[index] = value; break;
    }
}

/* What TF32 keeps of a float, ten bits behind the point: cut off, the worst that hardware does. */
float cut_to_tf32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits &= 0xffffe000u;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

/* `lines` lines of `depth` floats: the rows of op(A), the columns of op(B). transposed: a line is a stored column. */
std::vector<float> gather(const void *data, cudaDataType type, int64_t ld, int64_t lines, int64_t depth,
                          bool transposed)
{
    std::vector<float> packed(size_t(lines * depth));
    for (int64_t line = 0; line < lines; line++) {
        for (int64_t k = 0; k < depth; k++) {
            packed[size_t(line * depth + k)] = read(data, type, transposed ? line * ld + k : k * ld + line);
        }
    }
    return packed;
}

bool is_float_type(cudaDataType type) { return type == CUDA_R_32F || type == CUDA_R_16F || type == CUDA_R_16BF; }

} // namespace

extern "C" {

/* The call after the next `calls` GEMMs returns this status, once. */
__attribute__((visibility("default"))) void cuda_sim_cublas_fail(int calls, int status)
{
    fail_after = calls;
    fail_with = status;
}

int cublasCreate_v2(void **handle)
{
    *handle = new Handle;
    return SUCCESS;
}

int cublasDestroy_v2(void *handle)
{
    if (handle == nullptr) return NOT_INITIALIZED;
    auto *own = static_cast<Handle *>(handle);
    own->state = 0;
    delete own;
    return SUCCESS;
}

int cublasSetStream_v2(void *handle, void *stream)
{
    if (handle == nullptr) return NOT_INITIALIZED;
    static_cast<Handle *>(handle)->stream = stream;
    return SUCCESS;
}

int cublasSetWorkspace_v2(void *handle, void *workspace, size_t)
{
    if (handle == nullptr) return NOT_INITIALIZED;
    return reinterpret_cast<uintptr_t>(workspace) % 256 == 0 ? SUCCESS : INVALID_VALUE;
}

int cublasSetMathMode(void *handle, int) { return handle == nullptr ? NOT_INITIALIZED : SUCCESS; }

int cublasGetVersion_v2(void *, int *version)
{
    *version = VERSION;
    return SUCCESS;
}

/* C [m, n] = alpha op(A) [m, k] op(B) [k, n] + beta C. beta 0 reads no C. */
int cublasGemmEx(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a,
                 cudaDataType a_type, int lda, const void *b, cudaDataType b_type, int ldb, const void *beta, void *c,
                 cudaDataType c_type, int ldc, int compute, int)
{
    if (handle == nullptr || static_cast<Handle *>(handle)->state != ALIVE) return NOT_INITIALIZED;
    if (fail_after >= 0 && fail_after-- == 0) return fail_with;
    const int rows_a = op_a == OP_N ? m : k, rows_b = op_b == OP_N ? k : n;
    if (m < 0 || n < 0 || k < 0) return refuse(INVALID_VALUE, "m %d, n %d, k %d", m, n, k);
    if (lda < std::max(1, rows_a)) return refuse(INVALID_VALUE, "lda %d is less than the %d rows of A", lda, rows_a);
    if (ldb < std::max(1, rows_b)) return refuse(INVALID_VALUE, "ldb %d is less than the %d rows of B", ldb, rows_b);
    if (ldc < std::max(1, m)) return refuse(INVALID_VALUE, "ldc %d is less than the %d rows of C", ldc, m);
    const bool types = is_float_type(a_type) && a_type == b_type && (c_type == a_type || c_type == CUDA_R_32F);
    const bool computes = compute == COMPUTE_32F || compute == COMPUTE_32F_PEDANTIC ||
                          (compute == COMPUTE_32F_FAST_TF32 && a_type == CUDA_R_32F);
    if (!types || !computes) {
        return refuse(NOT_SUPPORTED, "types %d, %d, %d with compute type %d", a_type, b_type, c_type, compute);
    }
    std::vector<float> left = gather(a, a_type, lda, m, k, op_a != OP_N);
    std::vector<float> right = gather(b, b_type, ldb, n, k, op_b == OP_N);
    if (compute == COMPUTE_32F_FAST_TF32) {
        for (float &value : left) value = cut_to_tf32(value);
        for (float &value : right) value = cut_to_tf32(value);
    }
    const float scale = *static_cast<const float *>(alpha), keep = *static_cast<const float *>(beta);
    for (int64_t column = 0; column < n; column++) {
        for (int64_t row = 0; row < m; row++) {
            double sum = 0;
            for (int64_t i = 0; i < k; i++) sum += double(left[size_t(row * k + i)]) * right[size_t(column * k + i)];
            const int64_t index = column * ldc + row;
            const float before = keep == 0.0f ? 0.0f : keep * read(c, c_type, index);
            write(c, c_type, index, float(scale * sum) + before);
        }
    }
    return SUCCESS;
}

} /* extern "C" */
