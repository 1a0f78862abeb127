/* lse of hidden @ weight.T without the logits: tiles of them come from cuBLAS and are folded one by one. */
#include <dlfcn.h>

#include <library_types.h>

#include "elements.cuh"
#include "samples.h"

constexpr int THREADS = 128;

using CreateFunction = int (*)(void **);
using HandleFunction = int (*)(void *);
using StreamFunction = int (*)(void *, void *);
using GemmFunction = int (*)(void *, int, int, int, int, int, const void *, const void *, cudaDataType, int,
                             const void *, cudaDataType, int, const void *, void *, cudaDataType, int, int, int);

struct Cublas {
    CreateFunction create;
    HandleFunction destroy;
    StreamFunction set_stream;
    GemmFunction gemm;
};

static bool open_cublas(Cublas *out)
{
    void *library = dlopen("libcublas.so.13", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return false;
    out->create = reinterpret_cast<CreateFunction>(dlsym(library, "cublasCreate_v2"));
    out->destroy = reinterpret_cast<HandleFunction>(dlsym(library, "cublasDestroy_v2"));
    out->set_stream = reinterpret_cast<StreamFunction>(dlsym(library, "cublasSetStream_v2"));
    out->gemm = reinterpret_cast<GemmFunction>(dlsym(library, "cublasGemmEx"));
    return out->create != nullptr && out->destroy != nullptr && out->set_stream != nullptr && out->gemm != nullptr;
}

/* One block a token: folds logits [tokens, columns] into state [tokens, 2], (maximum, sum of e^(x - maximum)). */
__global__ void fold_tile(const float *logits, int64_t columns, float *state, float *lse, bool first, bool last)
{
    PFO_DYNAMIC_SHARED(float, partial);
    const float *row = logits + blockIdx.x * columns;
    const float before = first ? -INFINITY : state[2 * blockIdx.x];
    float max = before;
    for (int64_t v = threadIdx.x; v < columns; v += THREADS) max = fmaxf(max, row[v]);
    partial[threadIdx.x] = max;
    __syncthreads();
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] = fmaxf(partial[threadIdx.x], partial[threadIdx.x + half]);
        __syncthreads();
    }
    max = partial[0];
    __syncthreads(); /* everybody has the maximum before the sums take its place */
    float sum = 0;
    for (int64_t v = threadIdx.x; v < columns; v += THREADS) sum += expf(row[v] - max);
    partial[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    float total = first ? 0.0f : state[2 * blockIdx.x + 1] * expf(before - max);
    for (int i = 0; i < THREADS; i++) total += partial[i];
    state[2 * blockIdx.x] = max;
    state[2 * blockIdx.x + 1] = total;
    if (last) lse[blockIdx.x] = max + logf(total);
}

int sample_linear_lse(const void *hidden, const void *weight, int64_t tokens, int64_t hidden_size, int64_t vocab,
                      int64_t tile, float *logits, float *state, float *lse, void *stream)
{
    Cublas cublas;
    void *handle = nullptr;
    if (!open_cublas(&cublas)) return 1001;
    if (const int status = cublas.create(&handle)) return 1000 + status;
    int result = cublas.set_stream(handle, stream);
    const float one = 1.0f, zero = 0.0f;
    cudaLaunchConfig_t config = {};
    config.gridDim = unsigned(tokens);
    config.blockDim = THREADS;
    config.dynamicSmemBytes = THREADS * sizeof(float);
    config.stream = static_cast<cudaStream_t>(stream);
    for (int64_t first = 0; first < vocab && result == 0; first += tile) {
        const int64_t columns = tile < vocab - first ? tile : vocab - first;
        const auto *rows = static_cast<const __nv_bfloat16 *>(weight) + first * hidden_size;
        /* Row-major logits [tokens, columns] are column-major [columns, tokens] = weight (transposed) times hidden. */
        result = cublas.gemm(handle, 1, 0, int(columns), int(tokens), int(hidden_size), &one, rows, CUDA_R_16BF,
                             int(hidden_size), hidden, CUDA_R_16BF, int(hidden_size), &zero, logits, CUDA_R_32F,
                             int(columns), 68, -1);
        if (result != 0) break;
        const cudaError_t error =
            cudaLaunchKernelEx(&config, fold_tile, logits, columns, state, lse, first == 0, first + columns == vocab);
        if (error != cudaSuccess) {
            cublas.destroy(handle);
            return error;
        }
    }
    cublas.destroy(handle);
    return result == 0 ? 0 : 1000 + result;
}
