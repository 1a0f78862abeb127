/* The host side that every operation shares: arguments as kernels take them, errors, launches. */
#ifndef PFO_CUDA_HOST_CUH
#define PFO_CUDA_HOST_CUH

#include <utility>

#include "device.cuh"
#include "prefopt_cuda.h"

extern "C" {
#include "../core/core.h"
#include "../core/dtype.h"
#include "../ops/checks.h"
}

namespace pfo
{

/* "what: CUDA's words" in the error record. */
pfo_status fail_cuda(pfo_error *error, cudaError_t code, const char *what);

/* What an operation begins with, and holds while it queues its kernels: the workspace is there and has the bytes
 * needed, call->device is current, and its report of bad values is found. */
class OnDevice
{
  public:
    OnDevice(const pfo_cuda_call *call, int64_t workspace_bytes, pfo_error *error);
    ~OnDevice();
    OnDevice(const OnDevice &) = delete;
    OnDevice &operator=(const OnDevice &) = delete;
    pfo_status status; /* with its words in *error */
    uint64_t *report = nullptr;

  private:
    int before = 0;
    bool changed = false;
};

/* Multiprocessors of call->device; 1 where there is no such device. */
int multiprocessors(const pfo_cuda_call *call);

constexpr int64_t WORKSPACE_ALIGNMENT = 256;
inline int64_t aligned_bytes(int64_t bytes)
{
    return (bytes + WORKSPACE_ALIGNMENT - 1) / WORKSPACE_ALIGNMENT * WORKSPACE_ALIGNMENT;
}

/* Queues a kernel on call->stream: `blocks` blocks of `threads`. */
template <typename... Parameters, typename... Arguments>
pfo_status launch(const pfo_cuda_call *call, unsigned blocks, dim3 threads, void (*kernel)(Parameters...),
                  pfo_error *error, Arguments &&...arguments)
{
    if (blocks == 0) return PFO_OK;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks);
    config.blockDim = threads;
    config.stream = static_cast<cudaStream_t>(call->stream);
    const cudaError_t code = cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
    return code == cudaSuccess ? PFO_OK : fail_cuda(error, code, "launch of a kernel");
}

} // namespace pfo

#endif
