/* What every .cu includes: CUDA's headers, and the few things that are said in two ways, for a GPU and for the stand-in
 * of tests/cuda_sim (PFO_CUDA_SIM), which runs the same text on a CPU.
 *
 * Rules that let both run it:
 *   - launch with cudaLaunchKernelEx(&config, kernel, arguments...), never <<<>>>; kernels have external linkage, their
 *     parameters are pointers, scalars, or plain structs passed by value;
 *   - shared memory is declared with PFO_SHARED and PFO_DYNAMIC_SHARED only;
 *   - no cooperative groups, CUB, inline assembly or float atomics;
 *   - a warp operation names exactly the lanes that reach it; no thread leaves a kernel before a barrier of its block;
 *   - offsets into rows are 64 bits wide. */
#ifndef PFO_CUDA_DEVICE_CUH
#define PFO_CUDA_DEVICE_CUH

#include <stdint.h>

#include <cuda_runtime.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#if defined(PFO_CUDA_SIM)

/* Each block gets an allocation of its own, of exactly this size and full of NaN: a sanitizer sees an index that is out
 * of bounds, and a value that nobody wrote shows. The key is per instantiation, as a __shared__ variable is. */
#define PFO_SHARED(type, name, count)                  \
    static char name##_key;                            \
    type(&name)[count] = *static_cast<type(*)[count]>( \
        cuda_sim::shared_memory(&name##_key, #name, sizeof(type[count]), alignof(type) > 16 ? alignof(type) : 16))
#define PFO_DYNAMIC_SHARED(type, name) type *const name = static_cast<type *>(cuda_sim::dynamic_shared_memory())

#define PFO_EX2(x) cuda_sim::ex2_approx_ftz(x)
#define PFO_UNROLL

#else

/* In a kernel: `type name[count]` in static shared memory; count is a constant. 16-byte aligned, for vector access. */
#define PFO_SHARED(type, name, count) __shared__ __align__(16) type name[count]
/* In a kernel: `type *name`, the launch's dynamic shared memory. One declaration a kernel. */
#define PFO_DYNAMIC_SHARED(type, name)                                        \
    extern __shared__ __align__(16) unsigned char pfo_dynamic_shared_bytes[]; \
    type *const name = reinterpret_cast<type *>(pfo_dynamic_shared_bytes)

/* 2^x in one instruction (MUFU.EX2): at most 2 ulp off for results that are normal numbers, 0 below 2^-126, for which
 * exp2f spends three instructions more. nvcc's name for ex2.approx.ftz.f32. */
extern "C" __device__ float __nvvm_ex2_approx_ftz_f(float x);
#define PFO_EX2(x) __nvvm_ex2_approx_ftz_f(x)

/* Before a loop of few rounds over an array that is to live in registers. */
#define PFO_UNROLL _Pragma("unroll")

#endif

#endif
