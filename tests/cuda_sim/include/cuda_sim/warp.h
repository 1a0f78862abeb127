/* Barriers, shuffles and votes, as CUDA's own headers map them to PTX. */
#ifndef CUDA_SIM_WARP_H
#define CUDA_SIM_WARP_H

#include <cstring>
#include <type_traits>

#include "engine.h"

#define CUDA_SIM_HERE cuda_sim::Place place = cuda_sim::Place::here()

inline void __syncthreads(CUDA_SIM_HERE) { cuda_sim::barrier(cuda_sim::Barrier::sync, false, place); }
inline int __syncthreads_count(int predicate, CUDA_SIM_HERE)
{
    return int(cuda_sim::barrier(cuda_sim::Barrier::count, predicate != 0, place));
}
inline int __syncthreads_and(int predicate, CUDA_SIM_HERE)
{
    return int(cuda_sim::barrier(cuda_sim::Barrier::all, predicate != 0, place));
}
inline int __syncthreads_or(int predicate, CUDA_SIM_HERE)
{
    return int(cuda_sim::barrier(cuda_sim::Barrier::any, predicate != 0, place));
}
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_SIM_HERE)
{
    cuda_sim::warp(cuda_sim::Warp::sync, mask, 0, 0, 0, nullptr, place);
}

namespace cuda_sim
{

/* The types that nvcc's shuffles take (halves aside, which are 2 or 4 bytes as well). */
template <typename T> T shuffle(Warp kind, unsigned mask, T value, unsigned b, int width, Place place)
{
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8 && !std::is_pointer_v<T>);
    if (width != 1 && width != 2 && width != 4 && width != 8 && width != 16 && width != 32) {
        fail(place, "shuffle width %d is no power of two up to 32", width);
    }
    const unsigned clamp = kind == Warp::up ? 0u : 31u;
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = warp(kind, mask, bits, b, unsigned(32 - width) << 8 | clamp, nullptr, place);
    memcpy(&value, &bits, sizeof value);
    return value;
}

} // namespace cuda_sim

template <typename T> T __shfl_sync(unsigned mask, T value, int lane, int width = 32, CUDA_SIM_HERE)
{
    return cuda_sim::shuffle(cuda_sim::Warp::index, mask, value, unsigned(lane), width, place);
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_SIM_HERE)
{
    return cuda_sim::shuffle(cuda_sim::Warp::up, mask, value, delta, width, place);
}
template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_SIM_HERE)
{
    return cuda_sim::shuffle(cuda_sim::Warp::down, mask, value, delta, width, place);
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, CUDA_SIM_HERE)
{
    return cuda_sim::shuffle(cuda_sim::Warp::butterfly, mask, value, unsigned(lane_mask), width, place);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_SIM_HERE)
{
    return unsigned(cuda_sim::warp(cuda_sim::Warp::ballot, mask, predicate != 0, 0, 0, nullptr, place));
}
inline int __any_sync(unsigned mask, int predicate, CUDA_SIM_HERE)
{
    return int(cuda_sim::warp(cuda_sim::Warp::any, mask, predicate != 0, 0, 0, nullptr, place));
}
inline int __all_sync(unsigned mask, int predicate, CUDA_SIM_HERE)
{
    return int(cuda_sim::warp(cuda_sim::Warp::all, mask, predicate != 0, 0, 0, nullptr, place));
}
template <typename T> unsigned __match_any_sync(unsigned mask, T value, CUDA_SIM_HERE)
{
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return unsigned(cuda_sim::warp(cuda_sim::Warp::match, mask, bits, 0, 0, nullptr, place));
}

#undef CUDA_SIM_HERE

#endif
