/* Injected faults: one .cu each, with the fault and, as FIXED, without. tests/cuda_sim/test_bugs.py says which check
 * must find which, and that each names the lines that end in the comment "found". */
#ifndef CUDA_SIM_BUGS_H
#define CUDA_SIM_BUGS_H

#include "cuda/device.cuh"

/* What a kernel gets: out and in of `count` elements exactly, in[i] = i; one counter, 0 at first. */
struct Work {
    float *out;
    const float *in;
    unsigned *counter;
    int count;
};

struct Bug {
    const char *name;
    int count; /* elements of out */
    int (*run)(bool fixed, const Work &work);
    float (*expected)(int i);
    const Bug *next;
    static const Bug *&first()
    {
        static const Bug *head = nullptr;
        return head;
    }
    Bug(const char *its_name, int its_count, int (*its_run)(bool, const Work &), float (*its_expected)(int))
        : name(its_name), count(its_count), run(its_run), expected(its_expected), next(first())
    {
        first() = this;
    }
};

/* A kernel template <bool FIXED>(Work), launched with blocks x threads; value: of out[i]. */
#define BUG(name, blocks, threads, elements, value)                                 \
    static int run_##name(bool fixed, const Work &work)                             \
    {                                                                               \
        cudaLaunchConfig_t config = {};                                             \
        config.gridDim = blocks;                                                    \
        config.blockDim = threads;                                                  \
        return cudaLaunchKernelEx(&config, fixed ? name<true> : name<false>, work); \
    }                                                                               \
    static float expected_##name([[maybe_unused]] int i) { return float(value); }   \
    static const Bug bug_##name(#name, elements, run_##name, expected_##name);

#endif
