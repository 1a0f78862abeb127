/* cuBLAS, opened at first need. Its header may be missing where this is compiled, so types and values are declared
 * here; where it is found, the compiler compares. */
#include <dlfcn.h>
#include <limits.h>

#include <mutex>
#include <type_traits>

#include "cublas.cuh"

namespace
{

enum DataType {
    R_32F = 0,
    R_16F = 2,
    R_16BF = 14
};
enum Operation {
    OP_N = 0,
    OP_T = 1
};
enum Compute {
    COMPUTE_32F = 68,
    COMPUTE_32F_FAST_TF32 = 77
};
enum Algorithm {
    GEMM_DEFAULT = -1
};

struct Functions {
    int (*create)(void **handle);
    int (*set_stream)(void *handle, void *stream);
    int (*set_workspace)(void *handle, void *workspace, size_t bytes);
    int (*get_version)(void *handle, int *version);
    int (*gemm)(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a, int a_type,
                int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc,
                int compute, int algorithm);
};

} // namespace

#if __has_include(<cublas_api.h>)
#include <cublas_api.h>

namespace
{

/* What a call passes, a digit each: a pointer, 4 bytes, 8 bytes. Functions of one shape are called alike. */
template <typename T> constexpr uint64_t digit = std::is_pointer<T>::value ? 1 : sizeof(T) == 4 ? 2 : 3;
template <typename R, typename... As> constexpr uint64_t shape_of(R (*)(As...))
{
    uint64_t shape = digit<R>;
    ((shape = 4 * shape + digit<As>), ...);
    return shape;
}
#define SAME_SHAPE(ours, theirs) (shape_of(decltype(Functions::ours)(nullptr)) == shape_of(decltype(theirs)(nullptr)))
/* In C++ the header has a second function of this name, of an older interface. */
using GemmEx = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void *,
                                  const void *, cudaDataType, int, const void *, cudaDataType, int, const void *,
                                  void *, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);

static_assert(int(R_32F) == CUDA_R_32F && int(R_16F) == CUDA_R_16F && int(R_16BF) == CUDA_R_16BF, "cudaDataType");
static_assert(int(OP_N) == CUBLAS_OP_N && int(OP_T) == CUBLAS_OP_T, "cublasOperation_t");
static_assert(int(COMPUTE_32F) == CUBLAS_COMPUTE_32F, "cublasComputeType_t");
static_assert(int(COMPUTE_32F_FAST_TF32) == CUBLAS_COMPUTE_32F_FAST_TF32, "cublasComputeType_t");
static_assert(int(GEMM_DEFAULT) == CUBLAS_GEMM_DEFAULT, "cublasGemmAlgo_t");
static_assert(CUBLAS_STATUS_SUCCESS == 0, "cublasStatus_t");
static_assert(SAME_SHAPE(create, &cublasCreate_v2), "cublasCreate");
static_assert(SAME_SHAPE(set_stream, &cublasSetStream_v2), "cublasSetStream");
static_assert(SAME_SHAPE(set_workspace, &cublasSetWorkspace_v2), "cublasSetWorkspace");
static_assert(SAME_SHAPE(get_version, &cublasGetVersion_v2), "cublasGetVersion");
static_assert(SAME_SHAPE(gemm, static_cast<GemmEx>(&cublasGemmEx)), "cublasGemmEx");

} // namespace
#endif

namespace
{

constexpr int MAX_DEVICES = 64;
std::mutex opening, device_guards[MAX_DEVICES];
Functions functions;
int version; /* 0: not open */
void *handles[MAX_DEVICES];

void *open_library(const char *path)
{
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12"};
    for (const char *name : names)
        if (void *library = dlopen(name, RTLD_NOW | RTLD_NOLOAD)) return library;
    if (path)
        if (void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL)) return library;
    for (const char *name : names)
        if (void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
    return nullptr;
}

template <typename Function> bool find(void *library, const char *name, Function *function)
{
    *function = reinterpret_cast<Function>(dlsym(library, name));
    return *function != nullptr;
}

/* Called with `opening` held. */
pfo_status open_functions(const char *path, pfo_error *error)
{
    if (version) return PFO_OK;
    void *library = open_library(path);
    if (!library)
        return pfo_fail(error, PFO_ERROR_MISSING, "cublas", -1,
                        "cuBLAS missing: no libcublas.so.13 or .12 is loaded or found (pip install nvidia-cublas)");
    Functions found = {};
    if (!find(library, "cublasCreate_v2", &found.create) || !find(library, "cublasSetStream_v2", &found.set_stream) ||
        !find(library, "cublasSetWorkspace_v2", &found.set_workspace) ||
        !find(library, "cublasGetVersion_v2", &found.get_version) || !find(library, "cublasGemmEx", &found.gemm))
        return pfo_fail(error, PFO_ERROR_MISSING, "cublas", -1, "cuBLAS missing: the library found lacks functions");
    functions = found;
    /* Without a handle the version is known too (cublasGetVersion ignores it). */
    if (functions.get_version(nullptr, &version) != 0 || version == 0) version = 1;
    return PFO_OK;
}

pfo_status failed(pfo_error *error, const char *what, int status)
{
    return pfo_fail(error, PFO_ERROR_DEVICE, "cublas", -1, "%s: cuBLAS returns status %d", what, status);
}

/* The handle of the current device; called with its guard held. */
pfo_status find_handle(const pfo_cuda_call *call, void **handle, pfo_error *error)
{
    *handle = handles[call->device];
    if (*handle) return PFO_OK;
    cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
    cudaStreamIsCapturing(static_cast<cudaStream_t>(call->stream), &capturing);
    if (capturing != cudaStreamCaptureStatusNone)
        return pfo_fail(error, PFO_ERROR_DEVICE, "cublas", -1,
                        "cuBLAS has no handle yet: call once before the stream is captured");
    const int status = functions.create(&handles[call->device]);
    if (status != 0) {
        handles[call->device] = nullptr;
        return failed(error, "making a handle", status);
    }
    *handle = handles[call->device];
    return PFO_OK;
}

} // namespace

int32_t pfo_cuda_cublas_open(const char *path, pfo_error *error)
{
    pfo_clear(error);
    const std::lock_guard<std::mutex> lock(opening);
    return open_functions(path, error) == PFO_OK ? version : 0;
}

namespace pfo
{

int64_t cublas_workspace(const pfo_cuda_call *call)
{
    int major = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, call->device);
    return major >= 9 ? int64_t(32) << 20 : int64_t(8) << 20; /* what cuBLAS recommends, rounded up */
}

Cublas::Cublas(const pfo_cuda_call *call, void *workspace, int64_t bytes, pfo_error *error) : status(PFO_OK)
{
    {
        const std::lock_guard<std::mutex> lock(opening);
        status = open_functions(nullptr, error);
    }
    if (status != PFO_OK) return;
    device_guards[call->device].lock();
    locked = call->device;
    status = find_handle(call, &handle, error);
    if (status != PFO_OK) return;
    /* The workspace comes second: a stream that is set takes the last one away. */
    int code = functions.set_stream(handle, call->stream);
    if (code == 0) code = functions.set_workspace(handle, workspace, size_t(bytes));
    if (code != 0) status = failed(error, "setting the stream", code);
}

Cublas::~Cublas()
{
    if (locked >= 0) device_guards[locked].unlock();
}

/* Row-major c = a b is column-major c^T = b^T a^T: operands change places, and nothing else does. */
pfo_status Cublas::multiply(const Product &p, pfo_error *error) const
{
    if (p.m <= 0 || p.n <= 0) return PFO_OK;
    const int64_t sizes[] = {p.m, p.n, p.k, p.a.stride, p.b.stride, p.c_stride};
    for (const int64_t size : sizes)
        if (size > INT_MAX) return pfo_fail(error, PFO_ERROR_SHAPE, "weight", -1, "expected sizes below 2^31");
    const int type = p.dtype == PFO_BF16 ? R_16BF : p.dtype == PFO_F16 ? R_16F : R_32F;
    const int code = functions.gemm(handle, p.b.is_transposed ? OP_T : OP_N, p.a.is_transposed ? OP_T : OP_N, int(p.n),
                                    int(p.m), int(p.k), &p.alpha, p.b.data, type, int(p.b.stride), p.a.data, type,
                                    int(p.a.stride), &p.beta, p.c, R_32F, int(p.c_stride),
                                    p.rounds_to_tf32 ? COMPUTE_32F_FAST_TF32 : COMPUTE_32F, GEMM_DEFAULT);
    return code == 0 ? PFO_OK : failed(error, "a product", code);
}

} // namespace pfo
