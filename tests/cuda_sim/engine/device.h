/* The simulated device's state between launches. */
#ifndef CUDA_SIM_DEVICE_H
#define CUDA_SIM_DEVICE_H

#include <cstddef>
#include <cuda_runtime_api.h>

namespace cuda_sim
{

/* Keeps an error for cudaGetLastError and returns it. */
cudaError_t note_error(cudaError_t error);
/* The error that cuda_sim_fail_launch asked for, if it is this launch's turn. */
cudaError_t injected_failure();
/* 48 KiB, or what cudaFuncSetAttribute set for the kernel. */
size_t dynamic_shared_limit(const void *kernel);

} // namespace cuda_sim

#endif
