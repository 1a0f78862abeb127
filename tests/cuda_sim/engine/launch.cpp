/* cudaLaunchKernelEx and what a launch may ask for: the limits of a real device, so that a launch which a GPU would
 * refuse is refused here. */
#include "internal.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "device.h"

namespace cuda_sim
{

static std::mutex one_launch;

/* The kernel's mangled name: equal in g++ and nvcc. */
static const char *symbol_name(const void *kernel)
{
    Dl_info info;
    return dladdr(kernel, &info) != 0 && info.dli_saddr == kernel ? info.dli_sname : nullptr;
}

std::string demangled(const char *symbol)
{
    int status = 0;
    char *text = abi::__cxa_demangle(symbol, nullptr, nullptr, &status);
    std::string result = status == 0 ? text : symbol;
    free(text);
    return result.substr(0, result.find('(')); /* parameters say little */
}

static bool fits(unsigned value, unsigned limit) { return value >= 1 && value <= limit; }

/* The error that a device gives for such a launch. */
static cudaError_t check(const cudaLaunchConfig_t &config, const void *kernel)
{
    const dim3 grid = config.gridDim, block = config.blockDim;
    const bool extents = fits(grid.x, 0x7fffffffu) && fits(grid.y, 65535) && fits(grid.z, 65535) &&
                         fits(block.x, 1024) && fits(block.y, 1024) && fits(block.z, 64);
    if (!extents || uint64_t(block.x) * block.y * block.z > 1024) return cudaErrorInvalidConfiguration;
    if (config.dynamicSmemBytes > dynamic_shared_limit(kernel)) return cudaErrorInvalidValue;
    if (config.numAttrs != 0) return cudaErrorNotSupported; /* clusters, dependent launches: not simulated */
    return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t &config, const void *kernel, Body body, const Parameter *parameters,
                   size_t parameter_count)
{
    const std::lock_guard<std::mutex> lock(one_launch);
    cudaError_t error = injected_failure();
    if (error == cudaSuccess) error = check(config, kernel);
    if (error != cudaSuccess) return note_error(error);
    const char *symbol = symbol_name(kernel);
    if (symbol == nullptr) {
        fprintf(stderr, "cuda_sim: a kernel at %p has no symbol: kernels need external linkage\n", kernel);
        abort();
    }
    Grid grid;
    grid.name = demangled(symbol);
    grid.grid = config.gridDim;
    grid.block = config.blockDim;
    grid.dynamic_bytes = config.dynamicSmemBytes;
    grid.body = body;
    Translated translated;
    if (has_translated_kernels()) {
        translated = find_translated(symbol, config, parameters, parameter_count);
        grid.body = Body::of(translated);
        grid.translated = true;
    }
    running = &grid;
    start_traffic(grid.name);
    run(grid);
    running = nullptr;
    return cudaSuccess;
}

} // namespace cuda_sim
