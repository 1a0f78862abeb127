/* Runs every operation of operations.inc over inputs that are the same everywhere, and writes the results to a file:
 * for each, its bytes one after the other. Standard output says what is where: name, result type, ulps, elements. */
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <cuda_runtime_api.h>

#include "instructions.h"

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

template <typename T> static T of_bits(uint64_t bits)
{
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Elements that are special, then any bits, then values near 1 to 100. */
constexpr int SPECIAL = 20, ANY = 1500, COUNT = 4 * SPECIAL * SPECIAL + 2 * ANY;

static const double SPECIAL_VALUES[SPECIAL] = {0.0,     -0.0,      1.0,        -1.0,      0.5,      -1.5, 2.5,
                                               1e-45,   -1.4e-42,  1e-38,      65504.0,   -65520.0, 1e30, 3.4e38,
                                               -3.4e38, 1.0 / 0.0, -1.0 / 0.0, 0.0 / 0.0, 1e-308,   -87.3};
static const int64_t SPECIAL_INTEGERS[SPECIAL] = {0,         1,         -1,         2,         -2,        7,      31,
                                                  32,        33,        63,         64,        255,       -128,   65535,
                                                  INT32_MAX, INT32_MIN, UINT32_MAX, INT64_MAX, INT64_MIN, 1 << 20};

/* Element i of input number `which`: the special ones in every pair. */
static uint64_t bits_of(const std::string &kind, int which, int i)
{
    const bool special = i < 4 * SPECIAL * SPECIAL;
    const int pair = i % (SPECIAL * SPECIAL);
    const int index = which == 0 ? pair / SPECIAL : which == 1 ? pair % SPECIAL : int(mix(uint64_t(i)) % SPECIAL);
    const uint64_t random = mix(uint64_t(i) * 3 + uint64_t(which));
    const bool is_float = kind == "F" || kind == "D";
    /* No signalling NaN: what minimum and maximum make of one differs, and none comes out of arithmetic. */
    const uint64_t quiet = kind == "F" ? 0x400000u : kind == "D" ? 0x8000000000000u : 0;
    if (special && !is_float) return uint64_t(SPECIAL_INTEGERS[index]);
    if (!special && (!is_float || i < COUNT - ANY)) return random | quiet;
    double value = special ? SPECIAL_VALUES[index] : double(int64_t(random)) * 0x1p-63 * double(1 << (random & 7));
    uint64_t bits = 0;
    const float narrow = float(value);
    if (kind == "D")
        memcpy(&bits, &value, sizeof value);
    else
        memcpy(&bits, &narrow, sizeof narrow);
    return bits;
}

static int bytes_of(const std::string &kind)
{
    if (kind == "D" || kind == "S64" || kind == "U64") return 8;
    if (kind == "S16" || kind == "U16" || kind == "H" || kind == "B") return 2;
    return 4;
}

static std::vector<char> make_input(const std::string &kind, int which)
{
    const int bytes = bytes_of(kind);
    std::vector<char> data(size_t(COUNT * bytes));
    for (int i = 0; i < COUNT; i++) {
        const uint64_t bits = bits_of(kind, which, i);
        memcpy(&data[size_t(i * bytes)], &bits, size_t(bytes));
    }
    return data;
}

static void *to_device(const std::vector<char> &data)
{
    void *device = nullptr;
    if (cudaMalloc(&device, data.size()) != cudaSuccess) exit(1);
    if (cudaMemcpy(device, data.data(), data.size(), cudaMemcpyHostToDevice) != cudaSuccess) exit(1);
    return device;
}

/* What row `row` of collectives.cu holds for thread t, from the definitions of the CUDA manual. */
static unsigned expected(int row, int t, const unsigned *x)
{
    const int base = t / 32 * 32, lane = t % 32;
    const unsigned *warp = x + base;
    unsigned result = 0;
    auto over_warp = [&](auto fold) {
        for (int i = 0; i < 32; i++) result = fold(result, warp[i], i);
        return result;
    };
    auto over_block = [&](auto fold) {
        for (int i = 0; i < COLLECTIVE_THREADS; i++) result = fold(result, x[i], i);
        return result;
    };
    switch (row) {
    case 0: return warp[(lane * 7 + 3) % 32];
    case 1: return warp[lane >= 3 ? lane - 3 : lane];
    case 2: return warp[lane + 5 < 32 ? lane + 5 : lane];
    case 3: return warp[lane ^ 9];
    case 4: return warp[lane / 8 * 8 + 2];
    case 5: return warp[lane % 4 >= 1 ? lane - 1 : lane];
    case 6: return warp[lane % 16 + 2 < 16 ? lane + 2 : lane];
    case 7: return warp[lane ^ 1];
    case 8: return warp[lane ^ 4];
    case 9: return over_warp([](unsigned r, unsigned v, int i) { return r | unsigned(v % 3 == 0) << i; });
    case 10: return over_warp([](unsigned r, unsigned v, int) { return r | unsigned(v % 31 == 0); });
    case 11: return !over_warp([](unsigned r, unsigned v, int) { return r | unsigned(v % 31 == 0); });
    case 12: return over_warp([&](unsigned r, unsigned v, int i) { return r | unsigned(v % 4 == x[t] % 4) << i; });
    case 13: return over_warp([](unsigned r, unsigned v, int) { return r + v; });
    case 14: return over_warp([](unsigned r, unsigned v, int) { return r > v ? r : v; });
    case 15:
        return over_warp(
            [&](unsigned r, unsigned v, int i) { return r | unsigned(v % 2 == 0 && i / 16 == lane / 16) << i; });
    case 16: return over_block([&](unsigned r, unsigned v, int) { return r + (v % 4 == unsigned(t % 4)); });
    case 17: return over_block([](unsigned r, unsigned v, int) { return r + (v % 5 == 0); });
    case 18:
        return over_block([](unsigned r, unsigned v, int i) {
            return (i == 0 ? 1 : r & 1) * (v < 1000) | (r & 2) | unsigned(v == 999) * 2;
        });
    case 19:
        if (t % 5 == 0) return over_block([](unsigned r, unsigned v, int) { return r + v; });
        if (t % 5 == 1) return over_block([](unsigned r, unsigned v, int) { return r > v ? r : v; });
        if (t % 5 == 2) return 0; /* the smallest, from the start */
        if (t % 5 == 3) return over_block([](unsigned r, unsigned v, int) { return r | 1u << v % 32; });
        return 5;
    case 20:
        if (t % 2 == 1) return 9 >> 4;
        return over_block([](unsigned r, unsigned v, int) { return r + (v << 16); });
    default: return t == 0 ? over_block([](unsigned r, unsigned v, int) { return r + v; }) : 0;
    }
}

static int check_collectives()
{
    unsigned in[COLLECTIVE_THREADS], out[COLLECTIVES][COLLECTIVE_THREADS];
    for (int t = 0; t < COLLECTIVE_THREADS; t++) in[t] = unsigned(mix(uint64_t(t)) % 1100);
    in[40] = 999;
    const std::vector<char> bytes(reinterpret_cast<char *>(in), reinterpret_cast<char *>(in) + sizeof in);
    void *device_in = to_device(bytes), *device_out = to_device(std::vector<char>(sizeof out));
    void *counters = to_device(std::vector<char>(5 * 4)), *wide = to_device(std::vector<char>(2 * 8));
    const int error = collectives_run(static_cast<unsigned *>(device_in), static_cast<unsigned *>(device_out),
                                      static_cast<unsigned *>(counters), static_cast<unsigned long long *>(wide));
    if (error != 0 || cudaMemcpy(out, device_out, sizeof out, cudaMemcpyDeviceToHost) != cudaSuccess) return 1;
    int wrong = 0;
    for (int row = 0; row < COLLECTIVES; row++) {
        for (int t = 0; t < COLLECTIVE_THREADS; t++) {
            if (out[row][t] == expected(row, t, in)) continue;
            if (wrong++ < 10)
                fprintf(stderr, "collective %d thread %d: %u, expected %u\n", row, t, out[row][t],
                        expected(row, t, in));
        }
    }
    for (void *memory : {device_in, device_out, counters, wide}) cudaFree(memory);
    return wrong;
}

int main(int count, char **arguments)
{
    FILE *file = count == 2 ? fopen(arguments[1], "wb") : nullptr;
    if (file == nullptr) return 2;
    for (int k = 0; k < instruction_count(); k++) {
        const instruction *operation = instruction_at(k);
        void *inputs[3];
        for (int i = 0; i < 3; i++) inputs[i] = to_device(make_input(operation->inputs[i], i));
        std::vector<char> results(size_t(COUNT * operation->result_bytes));
        void *out = to_device(results);
        const int error = operation->launch(inputs[0], inputs[1], inputs[2], out, COUNT);
        if (error != 0 || cudaMemcpy(results.data(), out, results.size(), cudaMemcpyDeviceToHost) != cudaSuccess) {
            printf("%s: error %d\n", operation->name, error);
            return 1;
        }
        fwrite(results.data(), 1, results.size(), file);
        printf("%s %s %d %d\n", operation->name, operation->result, operation->ulps, COUNT);
        for (void *input : inputs) cudaFree(input);
        cudaFree(out);
    }
    fclose(file);
    return check_collectives() != 0;
}
