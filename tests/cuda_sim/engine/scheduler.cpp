/* Runs the threads of a launch, each until its next collective, in the order that the settings ask for. */
#include "internal.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

/* Defined without the const that kernels see; vector_types.h is all that is included here. */
uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_sim
{

Grid *running;
Thread *current;

/* With blocks together, as many as have this many threads are alive at once. */
constexpr unsigned MAX_LIVE_THREADS = 2048;

Block::~Block()
{
    for (auto &[key, memory] : shared) free(memory);
    free(dynamic_shared);
}

/* 0 .. count-1 in the order of the settings; `round` makes each shuffle another one. */
static void put_in_order(std::vector<uint32_t> &order, size_t count, uint64_t round)
{
    order.resize(count);
    std::iota(order.begin(), order.end(), 0u);
    if (settings.order == CUDA_SIM_REVERSE) std::reverse(order.begin(), order.end());
    if (settings.order != CUDA_SIM_SHUFFLED) return;
    for (size_t i = count; i > 1; i--) std::swap(order[i - 1], order[hash(settings.seed ^ hash(round << 32 | i)) % i]);
}

static void thread_main(void *argument)
{
    auto *thread = static_cast<Thread *>(argument);
    running->body.call(running->body.context);
    thread->state = State::finished;
    sync_release(&thread->block->end_sync);
    thread->fiber.leave(running->scheduler);
}

static uint3 position(uint64_t number, dim3 extent)
{
    return {unsigned(number % extent.x), unsigned(number / extent.x % extent.y),
            unsigned(number / extent.x / extent.y)};
}

static std::unique_ptr<Block> make_block(const Grid &grid, uint64_t number, const Stacks &stacks, size_t first_stack)
{
    auto block = std::make_unique<Block>();
    block->index = position(number, grid.grid);
    if (grid.dynamic_bytes > 0) {
        if (posix_memalign(&block->dynamic_shared, 16, grid.dynamic_bytes) != 0) abort();
        memset(block->dynamic_shared, 0xff, grid.dynamic_bytes);
    }
    for (unsigned i = 0; i < grid.block_threads(); i++) {
        auto thread = std::make_unique<Thread>();
        thread->block = block.get();
        thread->number = i;
        thread->index = position(i, grid.block);
        thread->fiber.start(stacks.lowest(first_stack + i), thread_main, thread.get(), settings.blocks_together);
        block->threads.push_back(std::move(thread));
    }
    return block;
}

void wait()
{
    Thread *thread = current;
    thread->fiber.switch_to(running->scheduler);
}

/* Lets one thread go on, and then completes what its arrival completes. */
static void resume(Grid &grid, Thread &thread)
{
    current = &thread;
    threadIdx = thread.index;
    blockIdx = thread.block->index;
    grid.scheduler.switch_to(thread.fiber);
    current = nullptr;
    switch (thread.state) {
    case State::at_barrier: complete_barrier(*thread.block); break;
    case State::at_warp: complete_warp(thread); break;
    case State::finished: thread.block->finished++; break;
    case State::ready: abort();
    }
}

/* Runs the live blocks to their end. */
static void run_live(Grid &grid)
{
    const unsigned block_threads = grid.block_threads();
    const size_t count = grid.live.size() * block_threads;
    std::vector<uint32_t> order;
    size_t finished = 0;
    put_in_order(order, count, 0);
    for (uint64_t round = 1; finished < count; round++) {
        bool moved = false;
        for (uint32_t number : order) {
            Thread &thread = *grid.live[number / block_threads]->threads[number % block_threads];
            if (thread.state != State::ready) continue;
            moved = true;
            resume(grid, thread);
            finished += thread.state == State::finished;
        }
        if (!moved) report_deadlock(grid);
        if (settings.order == CUDA_SIM_SHUFFLED) put_in_order(order, count, round);
    }
}

/* Stacks are kept between launches. Blocks without order between them must not share any: they would race for it. */
static Stacks &reusable_stacks(size_t count)
{
    static std::unique_ptr<Stacks> stacks;
    static size_t size;
    if (count > size) {
        stacks = std::make_unique<Stacks>(count);
        size = count;
    }
    return *stacks;
}

void run(Grid &grid)
{
    const uint64_t blocks = uint64_t(grid.grid.x) * grid.grid.y * grid.grid.z;
    const unsigned block_threads = grid.block_threads();
    const uint64_t together = settings.blocks_together ? std::max(1u, MAX_LIVE_THREADS / block_threads) : 1;
    std::vector<std::unique_ptr<Stacks>> stacks;
    std::vector<uint32_t> order;
    put_in_order(order, blocks, ~uint64_t(0));
    gridDim = grid.grid;
    blockDim = grid.block;
    Unwatched scheduler; /* its own memory is no business of the sanitizer */
    grid.scheduler.adopt_thread();
    for (uint64_t first = 0; first < blocks; first += together) {
        const uint64_t count = std::min(together, blocks - first);
        if (settings.blocks_together) stacks.push_back(std::make_unique<Stacks>(count * block_threads));
        const Stacks &now = settings.blocks_together ? *stacks.back() : reusable_stacks(block_threads);
        for (uint64_t i = 0; i < count; i++) {
            grid.live.push_back(make_block(grid, order[first + i], now, i * block_threads));
        }
        run_live(grid);
        if (settings.blocks_together) {
            for (auto &block : grid.live) {
                block->threads.clear(); /* the sanitizer has room for 8,128 at a time */
                grid.retired.push_back(std::move(block));
            }
        } else {
            sync_acquire(&grid.live[0]->end_sync);
        }
        grid.live.clear();
    }
    for (auto &block : grid.retired) sync_acquire(&block->end_sync);
    grid.retired.clear();
}

} // namespace cuda_sim
