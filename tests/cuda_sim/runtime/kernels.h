/* Launches for main.cpp; each returns a cudaError_t. */
#ifndef CUDA_SIM_RUNTIME_KERNELS_H
#define CUDA_SIM_RUNTIME_KERNELS_H

#include <cstddef>

struct large_struct {
    int word[64];
};

int launch_copy_struct(const large_struct *values, int *out);
int launch_positions(const unsigned grid[3], const unsigned block[3], int *out);
int allow_dynamic_bytes(int bytes);
int launch_dynamic_sum(unsigned threads, size_t dynamic_bytes, const int *in, int *out);
int launch_own_shared(int *out);
int launch_bounded(unsigned threads, int *out);
int blocks_a_multiprocessor(int threads, int *blocks);

#endif
