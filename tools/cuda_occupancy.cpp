/* Occupancy of a kernel by NVIDIA's own calculator. Reads lines "architecture registers shared-bytes threads" and writes
 * the share of the device's threads that can be resident, in per cent. The devices' figures are those of the CUDA
 * programming guide's table of compute capabilities; the card is the data-centre one of its number. */
#include <cstdio>
#include <cstring>

#include <cuda_occupancy.h>

struct Device {
    int architecture, threads, shared_kib, shared_kib_a_block;
};
static const Device DEVICES[] = {
    {75, 1024, 64, 64}, {80, 2048, 164, 163}, {90, 2048, 228, 227}, {100, 2048, 228, 227}, {120, 1536, 100, 99},
};

static int occupancy(const Device &device, int registers, int shared, int threads)
{
    cudaOccDeviceProp properties = {};
    properties.computeMajor = device.architecture / 10;
    properties.computeMinor = device.architecture % 10;
    properties.maxThreadsPerBlock = 1024;
    properties.maxThreadsPerMultiprocessor = device.threads;
    properties.regsPerBlock = properties.regsPerMultiprocessor = 65536;
    properties.warpSize = 32;
    properties.sharedMemPerBlock = 48 << 10;
    properties.sharedMemPerMultiprocessor = size_t(device.shared_kib) << 10;
    properties.sharedMemPerBlockOptin = size_t(device.shared_kib_a_block) << 10;
    properties.reservedSharedMemPerBlock = device.architecture >= 80 ? 1024 : 0;
    properties.numSms = 1;
    cudaOccFuncAttributes attributes = {};
    attributes.maxThreadsPerBlock = 1024;
    attributes.numRegs = registers;
    attributes.sharedSizeBytes = size_t(shared);
    attributes.maxDynamicSharedSizeBytes = INT_MAX;
    cudaOccDeviceState state = {};
    state.carveoutConfig = -1; /* the driver's choice; 0 would mean no shared memory preferred, and report less */
    cudaOccResult result;
    const cudaOccError error =
        cudaOccMaxActiveBlocksPerMultiprocessor(&result, &properties, &attributes, &state, threads, 0);
    if (error != CUDA_OCC_SUCCESS) return -1;
    return 100 * result.activeBlocksPerMultiprocessor * threads / device.threads;
}

int main()
{
    int architecture, registers, shared, threads;
    while (scanf("%d %d %d %d", &architecture, &registers, &shared, &threads) == 4) {
        int share = -1;
        for (const Device &device : DEVICES) {
            if (device.architecture == architecture) share = occupancy(device, registers, shared, threads);
        }
        printf("%d\n", share);
    }
    return 0;
}
