/* Kernels that were translated from PTX: finding them, counting what they load and store, and the arithmetic whose
 * rounding mode must change. */
#include "internal.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <xmmintrin.h>

#include "../include/ptx/kernel.h"

namespace cuda_sim
{

/* Filled by static constructors of other units, so it makes itself when first used. */
static std::map<std::string, ptx::Kernel> &kernels()
{
    static std::map<std::string, ptx::Kernel> all;
    return all;
}

static std::map<std::string, cuda_sim_traffic> traffic;
static cuda_sim_traffic *counted;

bool has_translated_kernels() { return !kernels().empty(); }

[[noreturn]] static void refuse(const char *symbol, const std::string &why)
{
    fprintf(stderr, "cuda_sim: %s: %s\n", symbol, why.c_str());
    abort();
}

Translated find_translated(const char *symbol, const cudaLaunchConfig_t &config, const Parameter *parameters,
                           size_t count)
{
    const auto found = kernels().find(symbol);
    if (found == kernels().end()) refuse(symbol, "the PTX has no kernel of this name");
    const ptx::Kernel &kernel = found->second;
    if (kernel.parameter_count != count) refuse(symbol, "the PTX's kernel takes another number of parameters");
    Translated result;
    result.run = kernel.run;
    for (size_t i = 0; i < count; i++) {
        if (kernel.parameter_bytes[i] != parameters[i].bytes) {
            refuse(symbol, "parameter " + std::to_string(i) + " has another size in the PTX");
        }
        result.parameters.push_back(reinterpret_cast<uint64_t>(parameters[i].value));
    }
    const unsigned threads = config.blockDim.x * config.blockDim.y * config.blockDim.z;
    if (kernel.max_threads != 0 && threads > kernel.max_threads) {
        refuse(symbol, "launched with more threads than its __launch_bounds__ allow");
    }
    return result;
}

void start_traffic(const std::string &kernel)
{
    counted = &traffic[kernel];
    counted->launches++;
}

} // namespace cuda_sim

extern "C" void cuda_sim_reset_traffic(void) { cuda_sim::traffic.clear(); }

extern "C" cuda_sim_traffic cuda_sim_get_traffic(const char *kernel)
{
    cuda_sim_traffic sum = {};
    for (const auto &[name, one] : cuda_sim::traffic) {
        if (strstr(name.c_str(), kernel) == nullptr) continue;
        sum.launches += one.launches;
        sum.loaded += one.loaded;
        sum.stored += one.stored;
        sum.loaded_wide += one.loaded_wide;
        sum.stored_wide += one.stored_wide;
    }
    return sum;
}

namespace ptx
{

Registration::Registration(const Kernel &kernel) { cuda_sim::kernels().emplace(kernel.name, kernel); }

void count_load(size_t bytes)
{
    cuda_sim::counted->loaded += bytes;
    if (bytes >= 16) cuda_sim::counted->loaded_wide += bytes;
}

void count_store(size_t bytes)
{
    cuda_sim::counted->stored += bytes;
    if (bytes >= 16) cuda_sim::counted->stored_wide += bytes;
}

/* libm's fma in another rounding mode, called so that the compiler can move nothing across the change. */
template <typename T> static T rounded(T (*volatile function)(T, T, T), T a, T b, T c, Rounding rounding)
{
    const unsigned saved = _mm_getcsr();
    const unsigned mode = rounding == Rounding::down ? 0x2000u : 0x6000u;
    _mm_setcsr((saved & ~0x6000u) | mode);
    const T result = function(a, b, c);
    _mm_setcsr(saved);
    return result;
}
float fma_rounded(float a, float b, float c, Rounding rounding) { return rounded<float>(fmaf, a, b, c, rounding); }
double fma_rounded(double a, double b, double c, Rounding rounding) { return rounded<double>(fma, a, b, c, rounding); }

} // namespace ptx
