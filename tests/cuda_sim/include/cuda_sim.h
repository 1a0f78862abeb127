/* What a test can ask of the simulated GPU. C, so that Python's ctypes can call it in the library as well. */
#ifndef CUDA_SIM_H
#define CUDA_SIM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In which order threads of a block, and blocks of a grid, go on. CUDA promises none, so every result must be the same
 * in all. The environment gives the first setting: CUDA_SIM_ORDER=forward|reverse|shuffled:SEED. */
enum {
    CUDA_SIM_FORWARD = 0,
    CUDA_SIM_REVERSE = 1,
    CUDA_SIM_SHUFFLED = 2
};
void cuda_sim_set_order(int order, uint64_t seed);

/* 1: blocks run interleaved, and for the thread sanitizer without order between them (CUDA_SIM_BLOCKS=together).
 * 0: one after the other. */
void cuda_sim_set_blocks_together(int together);

/* How far approximate instructions may be off (CUDA_SIM_ULPS): each result moves by a number of ulps up to this that
 * follows from its bits. */
void cuda_sim_set_approx_ulps(int ulps);

/* Launches after the next `launches` ones fail with this cudaError_t, once. -1 launches: none fails. */
void cuda_sim_fail_launch(int launches, int error);

/* cudaGetDeviceCount's answer; a negative number is the error to return, negated (35: no driver, 100: no device). */
void cuda_sim_set_devices(int count);

/* cudaStreamIsCapturing's answer. */
void cuda_sim_set_capturing(int capturing);

/* PTX runs count: bytes that a kernel's threads loaded from and stored to global memory since the last reset, and how
 * many of them in 16-byte accesses. kernel: a part of the demangled name. A source run counts nothing (all 0). */
typedef struct cuda_sim_traffic {
    uint64_t launches, loaded, stored, loaded_wide, stored_wide;
} cuda_sim_traffic;
cuda_sim_traffic cuda_sim_get_traffic(const char *kernel);
void cuda_sim_reset_traffic(void);

#ifdef __cplusplus
}
#endif

#endif
