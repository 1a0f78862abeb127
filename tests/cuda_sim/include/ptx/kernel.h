/* What a translated PTX file includes. */
#ifndef CUDA_SIM_PTX_KERNEL_H
#define CUDA_SIM_PTX_KERNEL_H

#include "floats.h"
#include "halves.h"
#include "integers.h"
#include "memory.h"

/* As in the stand-in cuda_runtime.h. */
extern const uint3 threadIdx;
extern const uint3 blockIdx;
extern const dim3 blockDim;
extern const dim3 gridDim;

namespace ptx
{

/* A kernel under its mangled name. */
struct Kernel {
    const char *name;
    void (*run)(const u64 *parameters); /* the address of each */
    size_t parameter_count;
    const size_t *parameter_bytes;
    unsigned max_threads; /* .maxntid, 0 if there is none */
};

/* Tells the engine; in the engine. */
struct Registration {
    explicit Registration(const Kernel &kernel);
};

inline u32 lane_id() { return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32; }

} // namespace ptx

#endif
