/* The simulated runtime: what a launch gets, what it refuses as a device would, errors and devices. */
#include <cstdio>
#include <cstring>
#include <vector>

#include <cuda_runtime_api.h>

#include "cuda_sim.h"
#include "kernels.h"

static int failures;

#define CHECK(condition)                                                     \
    do {                                                                     \
        if (!(condition)) {                                                  \
            failures++;                                                      \
            printf("main.cpp:%d: %s does not hold\n", __LINE__, #condition); \
        }                                                                    \
    } while (0)

static void check_kernels()
{
    large_struct values;
    for (int i = 0; i < 64; i++) values.word[i] = i * i;
    std::vector<int> out(64, -1);
    CHECK(launch_copy_struct(&values, out.data()) == cudaSuccess);
    for (int i = 0; i < 64; i++) CHECK(out[size_t(i)] == (63 - i) * (63 - i));

    const unsigned grid[3] = {2, 3, 2}, block[3] = {4, 2, 3};
    std::vector<int> at(12 * 24, -1);
    CHECK(launch_positions(grid, block, at.data()) == cudaSuccess);
    size_t i = 0;
    for (int bz = 0; bz < 2; bz++) {
        for (int by = 0; by < 3; by++) {
            for (int bx = 0; bx < 2; bx++) {
                for (int tz = 0; tz < 3; tz++) {
                    for (int ty = 0; ty < 2; ty++) {
                        for (int tx = 0; tx < 4; tx++) {
                            CHECK(at[i] == bx + 10 * by + 100 * bz + 1000 * tx + 10000 * ty + 100000 * tz);
                            i++;
                        }
                    }
                }
            }
        }
    }

    CHECK(launch_own_shared(at.data()) == cudaSuccess);
    for (size_t t = 0; t < 32; t++) CHECK(at[t] == 5 && at[32 + t] == 7);
}

static void check_dynamic_shared()
{
    std::vector<int> in(100, 3);
    int sum = 0;
    CHECK(launch_dynamic_sum(100, 400, in.data(), &sum) == cudaSuccess);
    CHECK(sum == 300);
    CHECK(launch_dynamic_sum(100, (48 << 10) + 1, in.data(), &sum) == cudaErrorInvalidValue);
    CHECK(allow_dynamic_bytes(100 << 10) == cudaSuccess);
    CHECK(launch_dynamic_sum(100, 100 << 10, in.data(), &sum) == cudaSuccess);
    CHECK(launch_dynamic_sum(100, (100 << 10) + 1, in.data(), &sum) == cudaErrorInvalidValue);
    CHECK(allow_dynamic_bytes(1 << 20) == cudaErrorInvalidValue);
}

static void check_errors()
{
    int out[64];
    memset(out, 0, sizeof out);
    while (cudaGetLastError() != cudaSuccess) {}
    const unsigned one[3] = {1, 1, 1}, none[3] = {0, 1, 1}, tall[3] = {1, 65536, 1}, many[3] = {1025, 1, 1};
    CHECK(launch_positions(none, one, out) == cudaErrorInvalidConfiguration);
    CHECK(cudaPeekAtLastError() == cudaErrorInvalidConfiguration);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(launch_positions(tall, one, out) == cudaErrorInvalidConfiguration);
    CHECK(launch_positions(one, many, out) == cudaErrorInvalidConfiguration);
    cuda_sim_fail_launch(1, cudaErrorLaunchOutOfResources);
    CHECK(launch_bounded(64, out) == cudaSuccess && out[0] == 1);
    out[0] = 0;
    CHECK(launch_bounded(64, out) == cudaErrorLaunchOutOfResources && out[0] == 0);
    CHECK(launch_bounded(64, out) == cudaSuccess);
    CHECK(strcmp(cudaGetErrorName(cudaErrorInvalidConfiguration), "cudaErrorInvalidConfiguration") == 0);
}

static void check_devices()
{
    int count = 77, which = 77, value = 0;
    CHECK(cudaGetDeviceCount(&count) == cudaSuccess && count == 1);
    CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
    cuda_sim_set_devices(2);
    CHECK(cudaSetDevice(1) == cudaSuccess && cudaGetDevice(&which) == cudaSuccess && which == 1);
    CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 1) == cudaSuccess && value > 0);
    CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 2) == cudaErrorInvalidDevice);
    count = 77;
    cuda_sim_set_devices(-int(cudaErrorInsufficientDriver));
    CHECK(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver && count == 77);
    CHECK(cudaDriverGetVersion(&value) == cudaSuccess && value == 0);
    cuda_sim_set_devices(1);
    CHECK(cudaDriverGetVersion(&value) == cudaSuccess && value == CUDART_VERSION);
    CHECK(cudaSetDevice(0) == cudaSuccess);
    cudaStreamCaptureStatus status;
    CHECK(cudaStreamIsCapturing(nullptr, &status) == cudaSuccess && status == cudaStreamCaptureStatusNone);
    cuda_sim_set_capturing(1);
    CHECK(cudaStreamIsCapturing(nullptr, &status) == cudaSuccess && status == cudaStreamCaptureStatusActive);
    cuda_sim_set_capturing(0);
    CHECK(blocks_a_multiprocessor(64, &value) == cudaSuccess && value == 32);
    CHECK(blocks_a_multiprocessor(1024, &value) == cudaSuccess && value == 2);
}

int main(int count, char **arguments)
{
    if (count > 1 && strcmp(arguments[1], "too-many-threads") == 0) {
        int out[128];
        return launch_bounded(128, out); /* PTX knows the bound */
    }
    check_kernels();
    check_dynamic_shared();
    check_errors();
    check_devices();
    return failures != 0;
}
