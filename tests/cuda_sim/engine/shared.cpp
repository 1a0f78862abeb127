/* A block's shared memory, and fences. */
#include "internal.h"

#include <cstdlib>
#include <cstring>

namespace cuda_sim
{

void *shared_memory(const void *key, const char *name, size_t bytes, size_t alignment)
{
    Unwatched allocation;
    void *&memory = current->block->shared[key];
    if (memory == nullptr) {
        if (posix_memalign(&memory, alignment, bytes) != 0) fail(Place::here(), "no memory for shared %s", name);
        memset(memory, 0xff, bytes);
    }
    return memory;
}

void *dynamic_shared_memory() { return current->block->dynamic_shared; }
size_t dynamic_shared_bytes() { return running->dynamic_bytes; }

/* CUDA's atomics are relaxed: order comes from fences. What precedes a fence is released by the thread's later atomics,
 * to whoever reads those and then fences. What the thread does between its fence and the atomic is not released, so the
 * state at the fence is carried over by somebody who knows nothing else. */
#if defined(CUDA_SIM_TSAN)

void fence()
{
    Unwatched list;
    for (const void *address : current->atomics_since_fence) sync_acquire(address);
    current->atomics_since_fence.clear();
    sync_release(&current->fence_sync);
    current->fenced = true;
}

void before_atomic(const void *address)
{
    if (current->fenced) sync_carry(&current->fence_sync, address, running->scheduler);
}

void after_atomic(const void *address)
{
    Unwatched list;
    current->atomics_since_fence.push_back(address);
}

#else

void fence() {}
void before_atomic(const void *) {}
void after_atomic(const void *) {}

#endif

} // namespace cuda_sim
