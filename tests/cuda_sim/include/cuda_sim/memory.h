/* Loads and stores with cache hints, fences, and atomics on integers. */
#ifndef CUDA_SIM_MEMORY_H
#define CUDA_SIM_MEMORY_H

#include <type_traits>

#include "engine.h"

#define CUDA_SIM_HERE cuda_sim::Place place = cuda_sim::Place::here()

/* A hint changes no value. */
#define CUDA_SIM_LOAD(name)                                              \
    template <typename T> inline T name(const T *address, CUDA_SIM_HERE) \
    {                                                                    \
        cuda_sim::check_aligned(address, alignof(T), place);             \
        return *address;                                                 \
    }
#define CUDA_SIM_STORE(name)                                                                       \
    template <typename T> inline void name(T *address, std::common_type_t<T> value, CUDA_SIM_HERE) \
    {                                                                                              \
        cuda_sim::check_aligned(address, alignof(T), place);                                       \
        *address = value;                                                                          \
    }
CUDA_SIM_LOAD(__ldg)
CUDA_SIM_LOAD(__ldca)
CUDA_SIM_LOAD(__ldcg)
CUDA_SIM_LOAD(__ldcs)
CUDA_SIM_LOAD(__ldlu)
CUDA_SIM_STORE(__stcg)
CUDA_SIM_STORE(__stcs)
CUDA_SIM_STORE(__stwb)
CUDA_SIM_STORE(__stwt)
#undef CUDA_SIM_LOAD
#undef CUDA_SIM_STORE

inline void __threadfence() { cuda_sim::fence(); }

namespace cuda_sim
{

/* *address = change(old) in one step; returns old. */
template <typename T, typename Change> T atomic_update(T *address, Change change, Place place)
{
    check_aligned(address, sizeof(T), place);
    before_atomic(address);
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(address, &old, change(old), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    after_atomic(address);
    return old;
}

} // namespace cuda_sim

/* A sum of floats by atomics depends on the order of threads: no kernel of ours may use one. */
template <typename T>
using AtomicType =
    std::enable_if_t<std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>, T>;

#define CUDA_SIM_ATOMIC(name, changed)                                                                      \
    template <typename T> inline T name(T *address, std::common_type_t<T> value, CUDA_SIM_HERE)             \
    {                                                                                                       \
        return cuda_sim::atomic_update(address, [=]([[maybe_unused]] T old) { return T(changed); }, place); \
    }
CUDA_SIM_ATOMIC(atomicAdd, old + value)
CUDA_SIM_ATOMIC(atomicSub, old - value)
CUDA_SIM_ATOMIC(atomicOr, old | value)
CUDA_SIM_ATOMIC(atomicAnd, old &value)
CUDA_SIM_ATOMIC(atomicXor, old ^ value)
CUDA_SIM_ATOMIC(atomicMax, old > value ? old : value)
CUDA_SIM_ATOMIC(atomicMin, old < value ? old : value)
CUDA_SIM_ATOMIC(atomicExch, value)
CUDA_SIM_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
#undef CUDA_SIM_ATOMIC

template <typename T>
inline AtomicType<T> atomicCAS(T *address, std::common_type_t<T> expected, std::common_type_t<T> value, CUDA_SIM_HERE)
{
    return cuda_sim::atomic_update(address, [=](T old) { return old == expected ? T(value) : old; }, place);
}

#undef CUDA_SIM_HERE

#endif
