/* What kernel code needs of the engine: a place in the source, collectives, shared memory, fences, launches.
 *
 * The threads of a block are fibers on one OS thread. A fiber runs until it reaches a collective (a barrier, a warp
 * operation), so that code which relies on threads moving together without one gets wrong results here. */
#ifndef CUDA_SIM_ENGINE_H
#define CUDA_SIM_ENGINE_H

#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>

namespace cuda_sim
{

/* Where in the kernel's text something happens. As a default argument it names the caller. */
struct Place {
    const char *file;
    int line;
    static constexpr Place here(const char *file = __builtin_FILE(), int line = __builtin_LINE())
    {
        return {file, line};
    }
};

enum class Barrier {
    sync,
    count,
    all,
    any
};

/* What the barrier tells every thread: nothing, the number of true predicates, whether all or any was true. */
unsigned barrier(Barrier kind, bool predicate, Place place);

enum class Warp {
    sync,
    index,
    up,
    down,
    butterfly,
    ballot,
    any,
    all,
    match,
    add,
    min_signed,
    max_signed,
    min_unsigned,
    max_unsigned,
    bit_and,
    bit_or,
    bit_xor
};

/* One warp operation of PTX. value: the lane's own; b, c: shfl.sync's operands of those names (lane or distance; clamp
 * and segment mask). *in_range: shfl.sync's predicate, may be null. */
uint64_t warp(Warp kind, unsigned mask, uint64_t value, unsigned b, unsigned c, bool *in_range, Place place);

/* The running block's allocation of a shared variable: made at first use, of exactly these bytes, all of them 0xff
 * (NaN, or -1). key: an address that is the variable's own. */
void *shared_memory(const void *key, const char *name, size_t bytes, size_t alignment);
void *dynamic_shared_memory(); /* as many bytes as the launch asked for, 16-byte aligned */
size_t dynamic_shared_bytes();

/* Atomics take no order between threads by themselves; a fence before one and a fence after one do (CUDA's memory
 * model). Only the thread sanitizer's build tells the difference. */
void fence();
void before_atomic(const void *address);
void after_atomic(const void *address);

/* Ends the process: "cuda_sim: <kernel>: <file>:<line>: <message> (block ..., thread ...)". */
[[noreturn]] void fail(Place place, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A misaligned vector access is a fault on a GPU and works on x86. */
inline void check_aligned(const void *address, size_t alignment, Place place)
{
    if (reinterpret_cast<uintptr_t>(address) % alignment != 0) {
        fail(place, "misaligned access: address %p is no multiple of %zu", address, alignment);
    }
}

/* x moved by at most the number of ulps that cuda_sim_set_approx_ulps set: stands for the hardware's approximations. */
float approximate(float x);

/* A callable without its type. */
struct Body {
    void (*call)(void *context);
    void *context;
    template <typename Call> static Body of(Call &function)
    {
        return {[](void *context) { (*static_cast<Call *>(context))(); }, &function};
    }
};

struct Parameter {
    const void *value;
    size_t bytes;
};

cudaError_t launch(const cudaLaunchConfig_t &config, const void *kernel, Body body, const Parameter *parameters,
                   size_t parameter_count);

} // namespace cuda_sim

#endif
