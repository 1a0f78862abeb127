/* Stand-in for <cuda_runtime.h>: lets g++ compile a .cu of ours and run its kernels on the CPU.
 *
 * Types, error codes and the runtime's prototypes are NVIDIA's own (their headers compile as host C++), so the host
 * side is type-checked against the real thing. What only nvcc knows is added: the built-in variables, the device
 * intrinsics and the launch. tests/cuda_sim/engine implements the runtime functions; a function that it lacks fails to
 * link, and an intrinsic that is missing here fails to compile. */
#ifndef CUDA_SIM_CUDA_RUNTIME_H
#define CUDA_SIM_CUDA_RUNTIME_H

#if defined(__CUDACC__)
#error "the stand-in headers are for g++: leave tests/cuda_sim/include out of nvcc's include path"
#endif

#include <type_traits>
#include <utility>

/* NVIDIA's template hands over addresses without types, from which a kernel cannot be called. */
#define cudaLaunchKernelEx cuda_sim_unused_launch_kernel_ex
#include_next <cuda_runtime.h>
#undef cudaLaunchKernelEx

#define PFO_CUDA_SIM 1

/* Said to nvcc only; the PTX run checks a launch against it. */
#define __launch_bounds__(...)

#include "cuda_sim/engine.h"
#include "cuda_sim/math.h"
#include "cuda_sim/memory.h"
#include "cuda_sim/warp.h"

/* Plain variables, set whenever another thread of the grid goes on. Macros would break the members of
 * cudaLaunchConfig_t that bear the same names. */
extern const uint3 threadIdx;
extern const uint3 blockIdx;
extern const dim3 blockDim;
extern const dim3 gridDim;
static constexpr int warpSize = 32;

/* A variable of the device is one of the host. */
template <typename T> inline cudaError_t cudaGetSymbolAddress(void **address, const T &symbol)
{
    return cudaGetSymbolAddress(address, static_cast<const void *>(&symbol));
}

/* NVIDIA's templates of these names are for nvcc only. */
template <typename Kernel>
inline cudaError_t cudaFuncSetAttribute(Kernel *kernel, cudaFuncAttribute attribute, int value)
{
    return ::cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attribute, value);
}
template <typename Kernel>
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, Kernel *kernel, int threads, size_t bytes)
{
    return ::cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, reinterpret_cast<const void *>(kernel), threads,
                                                           bytes);
}

/* As NVIDIA's: the arguments are converted to the kernel's parameter types here, and each thread gets copies. */
template <typename... Parameters, typename... Arguments>
inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                                      Arguments &&...arguments)
{
    static_assert((std::is_trivially_copyable_v<Parameters> && ...), "kernel parameters are copied byte by byte");
    return [&](Parameters... converted) {
        auto call = [&] { kernel(converted...); };
        const cuda_sim::Parameter parameters[] = {{&converted, sizeof converted}..., {nullptr, 0}};
        return cuda_sim::launch(*config, reinterpret_cast<const void *>(kernel), cuda_sim::Body::of(call), parameters,
                                sizeof...(Parameters));
    }(std::forward<Arguments>(arguments)...);
}

#endif
