/* A fiber: a stack and the place where its code goes on. x86-64 only. The sanitizers are told of every switch; the
 * thread sanitizer sees each fiber as a thread of its own, and no order between them but what sync_* says. */
#ifndef CUDA_SIM_FIBER_H
#define CUDA_SIM_FIBER_H

#include <cstddef>

namespace cuda_sim
{

/* Pages for `count` stacks with a guard page below each. Not copied, freed with the object. */
class Stacks
{
  public:
    explicit Stacks(size_t count);
    ~Stacks();
    Stacks(const Stacks &) = delete;
    Stacks &operator=(const Stacks &) = delete;
    char *lowest(size_t index) const; /* first usable byte of one stack */
    static constexpr size_t usable_bytes = 240 << 10;

  private:
    static constexpr size_t guard_bytes = 16 << 10;
    char *memory;
    size_t bytes;
};

class Fiber
{
  public:
    Fiber() = default; /* the calling thread itself: something to switch back to */
    Fiber(const Fiber &) = delete;
    Fiber &operator=(const Fiber &) = delete;
    ~Fiber();

    /* Makes a fiber that calls entry(argument) when first switched to; entry ends with leave(), never returns. What the
     * caller did is before what it does. alone: no earlier fiber's history may pass to it (see idle_threads). */
    void start(char *stack, void (*entry)(void *), void *argument, bool alone);
    /* From the running fiber to another. leave() says that this one is not come back to. */
    void switch_to(Fiber &other);
    void leave(Fiber &other);
    friend void sync_carry(const void *from, const void *to, const Fiber &origin);
    void adopt_thread(); /* notes the calling OS thread's sanitizer state, for a default-made fiber */

  private:
    static void enter(void *fiber);
    void *stack_pointer = nullptr;
    [[maybe_unused]] void *sanitizer_thread = nullptr; /* thread sanitizer */
    [[maybe_unused]] bool alone = true;
    [[maybe_unused]] void *fake_stack = nullptr; /* address sanitizer */
    const void *stack_bottom = nullptr;
    size_t stack_bytes = 0;
    void (*entry)(void *) = nullptr;
    void *argument = nullptr;
    Fiber *previous = nullptr; /* who switched to this fiber */
};

/* Order for the thread sanitizer; nothing without it. What is before release(a) is before what follows acquire(a). */
void sync_release(const void *address);
void sync_acquire(const void *address);
/* release(to) by somebody who knows what `origin` knows and has done acquire(from), and nothing else. */
void sync_carry(const void *from, const void *to, const Fiber &origin);

/* Memory that is made and filled inside counts as untouched, whoever runs. */
class Unwatched
{
  public:
    Unwatched();
    ~Unwatched();
    Unwatched(const Unwatched &) = delete;
    Unwatched &operator=(const Unwatched &) = delete;
};

} // namespace cuda_sim

#endif
