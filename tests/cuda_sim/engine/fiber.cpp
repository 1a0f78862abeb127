#include "fiber.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>
#include <sys/mman.h>

#if !defined(__x86_64__)
#error "cuda_sim switches stacks with x86-64 assembly"
#endif

#if defined(CUDA_SIM_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(CUDA_SIM_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" void AnnotateIgnoreReadsBegin(const char *file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char *file, int line);
extern "C" void AnnotateIgnoreWritesBegin(const char *file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char *file, int line);
#endif

/* Saves what a call preserves on the stack, stores the stack pointer in *from, and goes on where `to` was saved. */
extern "C" void cuda_sim_switch_stack(void **from, void *to);
asm(R"(
    .text
    .globl cuda_sim_switch_stack
    .hidden cuda_sim_switch_stack
    .type cuda_sim_switch_stack, @function
cuda_sim_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size cuda_sim_switch_stack, . - cuda_sim_switch_stack
)");

namespace cuda_sim
{

Stacks::Stacks(size_t count) : bytes(count * (usable_bytes + guard_bytes))
{
    void *pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) {
        fprintf(stderr, "cuda_sim: no memory for %zu stacks\n", count);
        abort();
    }
    memory = static_cast<char *>(pages);
    for (size_t i = 0; i < count; i++) mprotect(lowest(i) - guard_bytes, guard_bytes, PROT_NONE);
}

Stacks::~Stacks() { munmap(memory, bytes); }

char *Stacks::lowest(size_t index) const { return memory + index * (usable_bytes + guard_bytes) + guard_bytes; }

/* The fiber whose entry is about to run: the first switch to a fiber carries no argument. */
static Fiber *entering;

void Fiber::enter(void *)
{
    Fiber *self = entering;
#if defined(CUDA_SIM_ASAN)
    __sanitizer_finish_switch_fiber(nullptr, &self->previous->stack_bottom, &self->previous->stack_bytes);
#endif
    sync_acquire(self);
    self->entry(self->argument);
    abort(); /* entry must end with leave() */
}

#if defined(CUDA_SIM_TSAN)
/* The sanitizer's threads are costly to make (0.7 ms), so they serve block after block. One that goes on in another
 * block brings along what it did before: right where blocks are in order anyway, wrong where they are not. */
static std::vector<void *> idle_threads;
#endif

void Fiber::start(char *lowest, void (*function)(void *), void *its_argument, bool is_alone)
{
    stack_bottom = lowest;
    stack_bytes = Stacks::usable_bytes;
    entry = function;
    argument = its_argument;
    /* Six saved registers, then the address to return to; on entry the stack must be 8 off a multiple of 16. */
    auto **top = reinterpret_cast<void **>(lowest + Stacks::usable_bytes) - 2;
    *top = reinterpret_cast<void *>(&Fiber::enter);
    stack_pointer = top - 6;
#if defined(CUDA_SIM_TSAN)
    alone = is_alone;
    if (alone || idle_threads.empty()) {
        sanitizer_thread = __tsan_create_fiber(0);
    } else {
        sanitizer_thread = idle_threads.back();
        idle_threads.pop_back();
    }
    sync_release(this);
#else
    (void)is_alone;
#endif
}

Fiber::~Fiber()
{
#if defined(CUDA_SIM_TSAN)
    if (entry == nullptr) return; /* an OS thread */
    if (alone)
        __tsan_destroy_fiber(sanitizer_thread);
    else
        idle_threads.push_back(sanitizer_thread);
#endif
}

void Fiber::adopt_thread()
{
#if defined(CUDA_SIM_TSAN)
    sanitizer_thread = __tsan_get_current_fiber();
#endif
}

void Fiber::switch_to(Fiber &other)
{
    other.previous = this;
    entering = &other;
#if defined(CUDA_SIM_ASAN)
    __sanitizer_start_switch_fiber(&fake_stack, other.stack_bottom, other.stack_bytes);
#endif
#if defined(CUDA_SIM_TSAN)
    __tsan_switch_to_fiber(other.sanitizer_thread, __tsan_switch_to_fiber_no_sync);
#endif
    cuda_sim_switch_stack(&stack_pointer, other.stack_pointer);
#if defined(CUDA_SIM_ASAN)
    __sanitizer_finish_switch_fiber(fake_stack, &previous->stack_bottom, &previous->stack_bytes);
#endif
}

void Fiber::leave(Fiber &other)
{
    other.previous = this;
#if defined(CUDA_SIM_ASAN)
    __sanitizer_start_switch_fiber(nullptr, other.stack_bottom, other.stack_bytes); /* frees the fake stack */
#endif
#if defined(CUDA_SIM_TSAN)
    __tsan_switch_to_fiber(other.sanitizer_thread, __tsan_switch_to_fiber_no_sync);
#endif
    cuda_sim_switch_stack(&stack_pointer, other.stack_pointer);
    abort();
}

#if defined(CUDA_SIM_TSAN)
void sync_release(const void *address) { __tsan_release(const_cast<void *>(address)); }
void sync_acquire(const void *address) { __tsan_acquire(const_cast<void *>(address)); }

void sync_carry(const void *from, const void *to, const Fiber &origin)
{
    void *const here = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(origin.sanitizer_thread, __tsan_switch_to_fiber_no_sync);
    void *const courier = __tsan_create_fiber(0); /* takes over what its maker knows */
    __tsan_switch_to_fiber(courier, __tsan_switch_to_fiber_no_sync);
    sync_acquire(from);
    sync_release(to);
    __tsan_switch_to_fiber(here, __tsan_switch_to_fiber_no_sync);
    __tsan_destroy_fiber(courier);
}

Unwatched::Unwatched()
{
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
Unwatched::~Unwatched()
{
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
#else
void sync_release(const void *) {}
void sync_acquire(const void *) {}
void sync_carry(const void *, const void *, const Fiber &) {}
Unwatched::Unwatched() {}
Unwatched::~Unwatched() {}
#endif

} // namespace cuda_sim
