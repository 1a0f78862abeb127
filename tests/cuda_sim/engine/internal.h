/* The engine's own state: a launch in progress, its blocks and threads. */
#ifndef CUDA_SIM_INTERNAL_H
#define CUDA_SIM_INTERNAL_H

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "../include/cuda_sim/engine.h"
#include "../include/cuda_sim.h"
#include "fiber.h"

namespace cuda_sim
{

constexpr unsigned WARP_LANES = 32;

/* ---- settings (control.cpp) ------------------------------------------------------------------------------------ */

struct Settings {
    int order = CUDA_SIM_FORWARD;
    uint64_t seed = 0;
    bool blocks_together = false;
    int approx_ulps = 0;
};
extern Settings settings;

/* A counter-based generator: the same numbers on every machine. */
uint64_t hash(uint64_t x);

/* ---- threads and blocks ----------------------------------------------------------------------------------------- */

enum class State {
    ready,
    at_barrier,
    at_warp,
    finished
};

/* One synchronisation point that is used over and over. Two objects in turn: with one, a thread that is early for the
 * next round would look ordered after threads that are late for this one, and races would hide. */
struct Meeting {
    char sync[2];
    unsigned round = 0;
    const void *now() const { return &sync[round & 1]; }
};

struct Block;

struct Thread {
    Fiber fiber;
    Block *block = nullptr;
    unsigned number = 0; /* x fastest */
    uint3 index{};
    State state = State::ready;

    /* What it waits for (at_barrier, at_warp), and what it is told. */
    Place place{};
    Barrier barrier = Barrier::sync;
    Warp warp = Warp::sync;
    unsigned mask = 0, b = 0, c = 0;
    uint64_t value = 0, result = 0;
    bool in_range = false;

    /* Fences, for the thread sanitizer. */
    char fence_sync = 0;
    bool fenced = false;
    std::vector<const void *> atomics_since_fence;

    unsigned lane() const { return number % WARP_LANES; }
};

struct Block {
    uint3 index{};
    std::vector<std::unique_ptr<Thread>> threads;
    unsigned arrived = 0, finished = 0; /* threads at the barrier; threads that returned */
    Meeting meeting;
    std::unordered_map<uint64_t, Meeting> warp_meetings; /* by warp << 32 | mask */
    std::unordered_map<const void *, void *> shared;
    void *dynamic_shared = nullptr;
    char end_sync = 0;
    ~Block();
};

/* The launch in progress. */
struct Grid {
    std::string name;
    dim3 grid, block;
    size_t dynamic_bytes = 0;
    Body body{};
    bool translated = false; /* runs PTX: lines are those of its .loc directives, which merging can blur */
    std::vector<std::unique_ptr<Block>> live, retired;
    Fiber scheduler;
    unsigned block_threads() const { return block.x * block.y * block.z; }
};

extern Grid *running;   /* null outside a launch */
extern Thread *current; /* null on the scheduler */

/* scheduler.cpp */
void run(Grid &grid);
void wait(); /* current thread, whose state says for what */

/* collective.cpp: complete whatever the thread's arrival completes. */
void complete_barrier(Block &block);
void complete_warp(Thread &arrived);

/* report.cpp */
[[noreturn]] void report_deadlock(const Grid &grid);

/* translated.cpp */
struct Translated {
    void (*run)(const uint64_t *parameters) = nullptr;
    std::vector<uint64_t> parameters; /* addresses */
    void operator()() const { run(parameters.data()); }
};
bool has_translated_kernels();
/* The kernel of that mangled name; ends the process if there is none, or if it takes other parameters. */
Translated find_translated(const char *symbol, const cudaLaunchConfig_t &config, const Parameter *parameters,
                           size_t count);
void start_traffic(const std::string &kernel); /* counts go to that name until the next launch */

} // namespace cuda_sim

#endif
