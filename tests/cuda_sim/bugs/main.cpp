/* bugs NAME [fixed]: runs one; exit code 1 and "wrong result" if its numbers are off. */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "bugs.h"

const Bug *first_bug();

template <typename T> static T *to_device(const std::vector<T> &data)
{
    void *device = nullptr;
    if (cudaMalloc(&device, data.size() * sizeof(T)) != cudaSuccess) exit(2);
    cudaMemcpy(device, data.data(), data.size() * sizeof(T), cudaMemcpyHostToDevice);
    return static_cast<T *>(device);
}

int main(int count, char **arguments)
{
    const bool fixed = count == 3 && strcmp(arguments[2], "fixed") == 0;
    const Bug *bug = first_bug();
    while (bug != nullptr && (count < 2 || strcmp(bug->name, arguments[1]) != 0)) bug = bug->next;
    if (bug == nullptr) return 2;
    std::vector<float> in(64), out(size_t(bug->count));
    for (size_t i = 0; i < in.size(); i++) in[i] = float(i);
    float *device_in = to_device(in), *device_out = to_device(out);
    unsigned *counter = to_device(std::vector<unsigned>(1));
    const int error = bug->run(fixed, {device_out, device_in, counter, bug->count});
    if (error != 0) printf("error %d\n", error);
    cudaMemcpy(out.data(), device_out, out.size() * sizeof(float), cudaMemcpyDeviceToHost);
    int wrong = error != 0;
    for (int i = 0; i < bug->count; i++) {
        if (out[size_t(i)] == bug->expected(i)) continue;
        wrong = 1;
        printf("wrong result: out[%d] is %g, expected %g\n", i, double(out[size_t(i)]), double(bug->expected(i)));
    }
    for (void *memory :
         {static_cast<void *>(device_in), static_cast<void *>(device_out), static_cast<void *>(counter)}) {
        cudaFree(memory);
    }
    return wrong;
}
