/* The functions of the CUDA runtime that the library calls. Device memory is host memory, streams run at once. */
#include "device.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "../include/cuda_sim.h"

/* An A100's figures but for the few multiprocessors, so that small tests spread over all of them. */
constexpr int MULTIPROCESSORS = 4;
constexpr size_t SHARED_BYTES = 48 << 10, SHARED_BYTES_OPT_IN = 163 << 10;

static std::mutex guard;
static std::map<const void *, size_t> shared_limits;
static int devices = 1, fail_after = -1;
static cudaError_t fail_with;
static bool capturing;
static thread_local int device;
static thread_local cudaError_t last_error;

namespace cuda_sim
{

cudaError_t note_error(cudaError_t error)
{
    if (error != cudaSuccess) last_error = error;
    return error;
}

cudaError_t injected_failure()
{
    const std::lock_guard<std::mutex> lock(guard);
    if (fail_after < 0) return cudaSuccess;
    return fail_after-- == 0 ? fail_with : cudaSuccess;
}

size_t dynamic_shared_limit(const void *kernel)
{
    const std::lock_guard<std::mutex> lock(guard);
    const auto found = shared_limits.find(kernel);
    return found == shared_limits.end() ? SHARED_BYTES : found->second;
}

} // namespace cuda_sim

using cuda_sim::note_error;

extern "C" {

void cuda_sim_fail_launch(int launches, int error)
{
    const std::lock_guard<std::mutex> lock(guard);
    fail_after = launches;
    fail_with = cudaError_t(error);
}
void cuda_sim_set_devices(int count) { devices = count; }
void cuda_sim_set_capturing(int value) { capturing = value != 0; }

/* ---- devices and errors ----------------------------------------------------------------------------------------- */

/* On an error the count stays unwritten, as it does on a machine without a driver. */
cudaError_t cudaGetDeviceCount(int *count)
{
    if (devices < 0) return note_error(cudaError_t(-devices));
    *count = devices;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *result)
{
    if (devices < 0) return note_error(cudaError_t(-devices));
    *result = device;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int wanted)
{
    if (devices < 0) return note_error(cudaError_t(-devices));
    if (wanted < 0 || wanted >= devices) return note_error(cudaErrorInvalidDevice);
    device = wanted;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int which)
{
    if (which < 0 || which >= devices) return note_error(cudaErrorInvalidDevice);
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = MULTIPROCESSORS; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = 32; break;
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = 65536; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = SHARED_BYTES; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = SHARED_BYTES_OPT_IN; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 164 << 10; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxGridDimX: *value = 0x7fffffff; break;
    case cudaDevAttrL2CacheSize: *value = 40 << 20; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 8; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    default: return note_error(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}
cudaError_t cudaPeekAtLastError(void) { return last_error; }

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorLaunchOutOfResources: return "cudaErrorLaunchOutOfResources";
    case cudaErrorNotSupported: return "cudaErrorNotSupported";
    default: return "simulated error";
    }
}
const char *cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = devices < 0 ? 0 : CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

/* ---- memory and streams ------------------------------------------------------------------------------------------ */

cudaError_t cudaMalloc(void **address, size_t bytes)
{
    if (posix_memalign(address, 256, bytes) != 0) return note_error(cudaErrorMemoryAllocation);
    memset(*address, 0xff, bytes);
    return cudaSuccess;
}
cudaError_t cudaFree(void *address)
{
    free(address);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind)
{
    memcpy(to, from, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t)
{
    return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaMemset(void *address, int value, size_t bytes)
{
    memset(address, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *address, int value, size_t bytes, cudaStream_t)
{
    return cudaMemset(address, value, bytes);
}
cudaError_t cudaGetSymbolAddress(void **address, const void *symbol)
{
    *address = const_cast<void *>(symbol);
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize(void) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus *status)
{
    *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

/* ---- kernels ---------------------------------------------------------------------------------------------------- */

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    const std::lock_guard<std::mutex> lock(guard);
    switch (attribute) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize:
        if (value < 0 || size_t(value) > SHARED_BYTES_OPT_IN) return note_error(cudaErrorInvalidValue);
        shared_limits[kernel] = size_t(value);
        return cudaSuccess;
    case cudaFuncAttributePreferredSharedMemoryCarveout: return cudaSuccess;
    default: return note_error(cudaErrorInvalidValue);
    }
}

/* As if each thread needed 32 registers. */
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *, int threads, size_t bytes,
                                                                   unsigned)
{
    if (threads < 1 || threads > 1024) return note_error(cudaErrorInvalidValue);
    int most = 2048 / ((threads + 31) / 32 * 32);
    if (bytes > 0 && int((164 << 10) / bytes) < most) most = int((164 << 10) / bytes);
    *blocks = most < 32 ? most : 32;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int threads, size_t bytes)
{
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, kernel, threads, bytes, 0);
}

} /* extern "C" */
