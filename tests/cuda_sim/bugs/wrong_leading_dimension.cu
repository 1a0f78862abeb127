/* A matrix of 3 x 2 (column-major) whose columns are said to be 2 apart. */
#include <dlfcn.h>

#include <library_types.h>

#include "bugs.h"

static int run_wrong_leading_dimension(bool fixed, const Work &work)
{
    using Create = int (*)(void **);
    using Destroy = int (*)(void *);
    using Gemm = int (*)(void *, int, int, int, int, int, const void *, const void *, cudaDataType, int, const void *,
                         cudaDataType, int, const void *, void *, cudaDataType, int, int, int);
    void *library = dlopen("libcublas.so.13", RTLD_NOW);
    if (library == nullptr) return 1;
    void *handle = nullptr;
    reinterpret_cast<Create>(dlsym(library, "cublasCreate_v2"))(&handle);
    const float one = 1, zero = 0;
    const int status = reinterpret_cast<Gemm>(dlsym(library, "cublasGemmEx"))(
        handle, 0, 0, 3, 2, 1, &one, work.in, CUDA_R_32F, 3, work.in + 1, CUDA_R_32F, 1, &zero, work.out, CUDA_R_32F,
        fixed ? 3 : 2, 68, -1);
    reinterpret_cast<Destroy>(dlsym(library, "cublasDestroy_v2"))(handle);
    return status;
}

/* in[0..2] times in[1], in[2]. */
static float expected_wrong_leading_dimension(int i) { return float(i % 3 * (i / 3 + 1)); }
static const Bug bug_wrong_leading_dimension("wrong_leading_dimension", 6, run_wrong_leading_dimension,
                                             expected_wrong_leading_dimension);
