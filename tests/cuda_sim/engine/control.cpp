/* Settings: from the environment at first, then from the calls of cuda_sim.h. */
#include "internal.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace cuda_sim
{

uint64_t hash(uint64_t x)
{
    /* The finaliser of splitmix64. */
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static Settings from_environment()
{
    Settings result;
    const char *order = getenv("CUDA_SIM_ORDER"), *blocks = getenv("CUDA_SIM_BLOCKS"), *ulps = getenv("CUDA_SIM_ULPS");
    if (order != nullptr && strcmp(order, "reverse") == 0) {
        result.order = CUDA_SIM_REVERSE;
    } else if (order != nullptr && strncmp(order, "shuffled:", 9) == 0) {
        result.order = CUDA_SIM_SHUFFLED;
        result.seed = strtoull(order + 9, nullptr, 10);
    } else if (order != nullptr && strcmp(order, "forward") != 0) {
        fprintf(stderr, "cuda_sim: CUDA_SIM_ORDER=%s: expected forward, reverse or shuffled:SEED\n", order);
        abort();
    }
    result.blocks_together = blocks != nullptr && strcmp(blocks, "together") == 0;
    if (ulps != nullptr) result.approx_ulps = atoi(ulps);
    return result;
}

Settings settings = from_environment();

float approximate(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t exponent = bits >> 23 & 255;
    /* Powers of two are exact on every GPU: 2^0 is 1, which sums of one term rely on. */
    const bool exact = exponent == 0 || exponent == 255 || (bits & 0x7fffff) == 0;
    if (settings.approx_ulps == 0 || exact) return x;
    const auto range = uint64_t(2 * settings.approx_ulps + 1);
    const auto moved = uint32_t(bits + hash(bits) % range - uint64_t(settings.approx_ulps));
    if ((moved >> 23 & 255) == 255 || (moved >> 23 & 255) == 0) return x;
    memcpy(&x, &moved, sizeof x);
    return x;
}

} // namespace cuda_sim

extern "C" void cuda_sim_set_order(int order, uint64_t seed)
{
    cuda_sim::settings.order = order;
    cuda_sim::settings.seed = seed;
}
extern "C" void cuda_sim_set_blocks_together(int together) { cuda_sim::settings.blocks_together = together != 0; }
extern "C" void cuda_sim_set_approx_ulps(int ulps) { cuda_sim::settings.approx_ulps = ulps; }
