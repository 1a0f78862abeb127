/* Loads, stores, atomics and collectives as translated PTX calls them. Addresses are the host's, but those of shared
 * memory, which are 32-bit: variable number in the upper bits, offset in the lower, so that a bad one is found. */
#ifndef CUDA_SIM_PTX_MEMORY_H
#define CUDA_SIM_PTX_MEMORY_H

#include "../cuda_sim/engine.h"
#include "../cuda_sim/memory.h"
#include "registers.h"

namespace ptx
{

using cuda_sim::Place;
#define CUDA_SIM_HERE Place place = Place::here()

/* ---- global, local and parameter memory ---- */

/* In the engine, which no sanitizer instruments. */
void count_load(size_t bytes);
void count_store(size_t bytes);

template <typename T, size_t N> struct Values {
    T value[N];
};

template <typename T, size_t N = 1> Values<T, N> load(u64 address, CUDA_SIM_HERE)
{
    const T *const from = reinterpret_cast<const T *>(address);
    cuda_sim::check_aligned(from, sizeof(T) * N, place);
    Values<T, N> result;
    for (size_t i = 0; i < N; i++) result.value[i] = from[i];
    return result;
}
template <typename T, size_t N = 1> Values<T, N> load_global(u64 address, CUDA_SIM_HERE)
{
    count_load(sizeof(T) * N);
    return load<T, N>(address, place);
}
template <typename T, size_t N = 1> void store(u64 address, Values<T, N> values, CUDA_SIM_HERE)
{
    T *const into = reinterpret_cast<T *>(address);
    cuda_sim::check_aligned(into, sizeof(T) * N, place);
    for (size_t i = 0; i < N; i++) into[i] = values.value[i];
}
template <typename T, size_t N = 1> void store_global(u64 address, Values<T, N> values, CUDA_SIM_HERE)
{
    count_store(sizeof(T) * N);
    store<T, N>(address, values, place);
}

/* ---- shared memory ---- */

struct Shared {
    const char *name;
    char *memory;
    size_t bytes;
};

/* The shared variables of a kernel, and 32-bit addresses for them. */
template <size_t N> class Window
{
  public:
    Shared variables[N > 0 ? N : 1];

    static constexpr u32 address(u32 variable) { return (variable + 1) << BITS | MIDDLE; }
    /* The host's address; the last byte, at size, must be the variable's. */
    u64 host(u64 address, size_t size, Place place) const
    {
        const u32 number = (u32(address) >> BITS) - 1;
        const int64_t offset = int64_t(address & ((1u << BITS) - 1)) - int64_t(MIDDLE);
        if (number >= N) fail(place, "shared access at 0x%x is to no variable", u32(address));
        const Shared &variable = variables[number];
        if (offset < 0 || uint64_t(offset) + size > variable.bytes) {
            fail(place, "shared access out of bounds: bytes %lld to %lld of %s, which has %zu", (long long)offset,
                 (long long)(offset + int64_t(size)), variable.name, variable.bytes);
        }
        return u64(variable.memory) + u64(offset);
    }
    template <typename T, size_t M = 1> Values<T, M> load(u64 address, CUDA_SIM_HERE) const
    {
        return ptx::load<T, M>(host(address, sizeof(T) * M, place), place);
    }
    template <typename T, size_t M = 1> void store(u64 address, Values<T, M> values, CUDA_SIM_HERE) const
    {
        ptx::store<T, M>(host(address, sizeof(T) * M, place), values, place);
    }

  private:
    static constexpr u32 BITS = 20, MIDDLE = 1u << 19; /* offsets below 0 stay apart from other variables */
};

/* ---- atomics ---- */

template <typename T> T *atomic_address(u64 address) { return reinterpret_cast<T *>(address); }

#define CUDA_SIM_PTX_ATOMIC(name, T, changed)                                                       \
    inline T atom_##name##_##T(u64 address, T value, CUDA_SIM_HERE)                                 \
    {                                                                                               \
        return cuda_sim::atomic_update(                                                             \
            atomic_address<T>(address), [=]([[maybe_unused]] T old) { return T(changed); }, place); \
    }
CUDA_SIM_PTX_ATOMIC(add, u32, old + value)
CUDA_SIM_PTX_ATOMIC(add, s32, u32(old) + u32(value))
CUDA_SIM_PTX_ATOMIC(add, u64, old + value)
CUDA_SIM_PTX_ATOMIC(min, u32, old < value ? old : value)
CUDA_SIM_PTX_ATOMIC(min, s32, old < value ? old : value)
CUDA_SIM_PTX_ATOMIC(min, u64, old < value ? old : value)
CUDA_SIM_PTX_ATOMIC(max, u32, old > value ? old : value)
CUDA_SIM_PTX_ATOMIC(max, s32, old > value ? old : value)
CUDA_SIM_PTX_ATOMIC(max, u64, old > value ? old : value)
CUDA_SIM_PTX_ATOMIC(and, b32, old &value)
CUDA_SIM_PTX_ATOMIC(or, b32, old | value)
CUDA_SIM_PTX_ATOMIC(xor, b32, old ^ value)
CUDA_SIM_PTX_ATOMIC(and, b64, old &value)
CUDA_SIM_PTX_ATOMIC(or, b64, old | value)
CUDA_SIM_PTX_ATOMIC(xor, b64, old ^ value)
CUDA_SIM_PTX_ATOMIC(exch, b32, value)
CUDA_SIM_PTX_ATOMIC(exch, b64, value)
CUDA_SIM_PTX_ATOMIC(inc, u32, old >= value ? 0 : old + 1)
#undef CUDA_SIM_PTX_ATOMIC

#define CUDA_SIM_PTX_CAS(T)                                                                           \
    inline T atom_cas_##T(u64 address, T expected, T value, CUDA_SIM_HERE)                            \
    {                                                                                                 \
        return cuda_sim::atomic_update(                                                               \
            atomic_address<T>(address), [=](T old) { return old == expected ? value : old; }, place); \
    }
CUDA_SIM_PTX_CAS(b32)
CUDA_SIM_PTX_CAS(b64)
#undef CUDA_SIM_PTX_CAS

inline void membar_gl() { cuda_sim::fence(); }

/* ---- barriers and warp operations ---- */

inline void bar_sync(u32 number, CUDA_SIM_HERE)
{
    if (number != 0) fail(place, "barrier %u: only 0 is known", number);
    cuda_sim::barrier(cuda_sim::Barrier::sync, false, place);
}
inline u32 bar_red_popc_u32(u32, pred p, CUDA_SIM_HERE)
{
    return cuda_sim::barrier(cuda_sim::Barrier::count, p, place);
}
inline pred bar_red_and_pred(u32, pred p, CUDA_SIM_HERE)
{
    return cuda_sim::barrier(cuda_sim::Barrier::all, p, place) != 0;
}
inline pred bar_red_or_pred(u32, pred p, CUDA_SIM_HERE)
{
    return cuda_sim::barrier(cuda_sim::Barrier::any, p, place) != 0;
}
inline void bar_warp_sync(u32 mask, CUDA_SIM_HERE)
{
    cuda_sim::warp(cuda_sim::Warp::sync, mask, 0, 0, 0, nullptr, place);
}

/* The predicate that shfl.sync gives is kept for the translator's second destination. */
struct Shuffled {
    u32 value;
    pred in_range;
};
#define CUDA_SIM_PTX_SHUFFLE(name, kind)                                                      \
    inline Shuffled shfl_sync_##name##_b32(u32 value, u32 b, u32 c, u32 mask, CUDA_SIM_HERE)  \
    {                                                                                         \
        Shuffled result;                                                                      \
        result.value = u32(cuda_sim::warp(kind, mask, value, b, c, &result.in_range, place)); \
        return result;                                                                        \
    }
CUDA_SIM_PTX_SHUFFLE(idx, cuda_sim::Warp::index)
CUDA_SIM_PTX_SHUFFLE(up, cuda_sim::Warp::up)
CUDA_SIM_PTX_SHUFFLE(down, cuda_sim::Warp::down)
CUDA_SIM_PTX_SHUFFLE(bfly, cuda_sim::Warp::butterfly)
#undef CUDA_SIM_PTX_SHUFFLE

#define CUDA_SIM_PTX_VOTE(name, kind, Result, Value)                                 \
    inline Result name(Value value, u32 mask, CUDA_SIM_HERE)                         \
    {                                                                                \
        return Result(cuda_sim::warp(kind, mask, u64(value), 0, 0, nullptr, place)); \
    }
CUDA_SIM_PTX_VOTE(vote_sync_ballot_b32, cuda_sim::Warp::ballot, u32, pred)
CUDA_SIM_PTX_VOTE(vote_sync_any_pred, cuda_sim::Warp::any, pred, pred)
CUDA_SIM_PTX_VOTE(vote_sync_all_pred, cuda_sim::Warp::all, pred, pred)
CUDA_SIM_PTX_VOTE(match_any_sync_b32, cuda_sim::Warp::match, u32, u32)
CUDA_SIM_PTX_VOTE(match_any_sync_b64, cuda_sim::Warp::match, u32, u64)
CUDA_SIM_PTX_VOTE(redux_sync_add_u32, cuda_sim::Warp::add, u32, u32)
CUDA_SIM_PTX_VOTE(redux_sync_add_s32, cuda_sim::Warp::add, u32, u32)
CUDA_SIM_PTX_VOTE(redux_sync_min_u32, cuda_sim::Warp::min_unsigned, u32, u32)
CUDA_SIM_PTX_VOTE(redux_sync_max_u32, cuda_sim::Warp::max_unsigned, u32, u32)
CUDA_SIM_PTX_VOTE(redux_sync_min_s32, cuda_sim::Warp::min_signed, u32, u32)
CUDA_SIM_PTX_VOTE(redux_sync_max_s32, cuda_sim::Warp::max_signed, u32, u32)
CUDA_SIM_PTX_VOTE(redux_sync_and_b32, cuda_sim::Warp::bit_and, u32, u32)
CUDA_SIM_PTX_VOTE(redux_sync_or_b32, cuda_sim::Warp::bit_or, u32, u32)
CUDA_SIM_PTX_VOTE(redux_sync_xor_b32, cuda_sim::Warp::bit_xor, u32, u32)
#undef CUDA_SIM_PTX_VOTE

#undef CUDA_SIM_HERE

} // namespace ptx

#endif
