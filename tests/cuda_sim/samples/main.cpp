/* Checks the samples against plain double loops: on the simulation, or on a GPU when linked with the real runtime.
 * Argument "small" leaves out what takes long under the thread sanitizer. */
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "samples.h"

static int failures;
static bool small;

#define CHECK(condition, ...)                  \
    do {                                       \
        if (!(condition)) {                    \
            failures++;                        \
            printf("FAILED %s: ", #condition); \
            printf(__VA_ARGS__);               \
            putchar('\n');                     \
        }                                      \
    } while (0)

/* Device memory of exactly `bytes`, at `offset` from an aligned address. */
class Device
{
  public:
    explicit Device(size_t bytes, size_t offset = 0) : size(bytes), shift(offset)
    {
        void *memory = nullptr;
        if (cudaMalloc(&memory, bytes + offset) != cudaSuccess) abort();
        base = static_cast<char *>(memory);
    }
    ~Device() { cudaFree(base); }
    Device(const Device &) = delete;
    Device &operator=(const Device &) = delete;
    template <typename T> T *as() { return reinterpret_cast<T *>(base + shift); }
    void put(const void *from) { cudaMemcpy(base + shift, from, size, cudaMemcpyHostToDevice); }
    void get(void *to) { cudaMemcpy(to, base + shift, size, cudaMemcpyDeviceToHost); }

  private:
    char *base = nullptr;
    size_t size, shift;
};

static uint64_t random_state = 1;
static double random_unit() /* [-1, 1) */
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return double(int64_t(random_state)) * 0x1p-63;
}

static const size_t ELEMENT_BYTES[] = {4, 2, 2};

static void put_element(void *data, int dtype, int64_t index, float value)
{
    if (dtype == SAMPLE_F32) static_cast<float *>(data)[index] = value;
    if (dtype == SAMPLE_F16) static_cast<__half *>(data)[index] = __float2half_rn(value);
    if (dtype == SAMPLE_BF16) static_cast<__nv_bfloat16 *>(data)[index] = __float2bfloat16_rn(value);
}

static double get_element(const void *data, int dtype, int64_t index)
{
    if (dtype == SAMPLE_F32) return double(static_cast<const float *>(data)[index]);
    if (dtype == SAMPLE_F16) return double(__half2float(static_cast<const __half *>(data)[index]));
    return double(__bfloat162float(static_cast<const __nv_bfloat16 *>(data)[index]));
}

/* The worst error seen, relative to 1 + |want|, by name: argument "worst" prints them, budgets are set from them. */
static std::map<std::string, double> worst;

static void compare(const char *name, double got, double want, double budget, const char *what)
{
    const double error = std::fabs(got - want) / (1 + std::fabs(want));
    if (!(error <= worst[name])) worst[name] = error;
    CHECK(error <= budget, "%s %s: %.9g, expected %.9g", name, what, got, want);
}

static void check_rows(int dtype, int64_t rows, int64_t vocab, int64_t stride, int64_t offset)
{
    const size_t bytes = size_t(rows * stride - (stride - vocab)) * ELEMENT_BYTES[dtype];
    std::vector<char> logits(bytes), changed(bytes);
    std::vector<int64_t> labels(static_cast<size_t>(rows));
    std::vector<double> want(static_cast<size_t>(rows));
    std::vector<float> scale(static_cast<size_t>(rows)), got(static_cast<size_t>(rows)), lse(static_cast<size_t>(rows));
    for (int64_t i = 0; i < int64_t(bytes / ELEMENT_BYTES[dtype]); i++) {
        put_element(logits.data(), dtype, i, float(20 * random_unit()));
    }
    for (int64_t r = 0; r < rows; r++) {
        labels[size_t(r)] = r % 5 == 3 ? -100 : (r * 7919) % vocab;
        scale[size_t(r)] = float(random_unit());
        if (vocab > 8) put_element(logits.data(), dtype, r * stride + vocab / 2, -INFINITY);
        double max = -INFINITY, sum = 0;
        for (int64_t v = 0; v < vocab; v++) max = std::max(max, get_element(logits.data(), dtype, r * stride + v));
        for (int64_t v = 0; v < vocab; v++) sum += std::exp(get_element(logits.data(), dtype, r * stride + v) - max);
        want[size_t(r)] = labels[size_t(r)] == -100 ? 0 : max + std::log(sum);
        lse[size_t(r)] = float(want[size_t(r)]);
    }
    char what[96];
    snprintf(what, sizeof what, "dtype %d, %lld x %lld, stride %lld, offset %lld", dtype, (long long)rows,
             (long long)vocab, (long long)stride, (long long)offset);
    Device on_device(bytes, size_t(offset) * ELEMENT_BYTES[dtype]), device_labels(size_t(rows) * 8);
    Device device_lse(size_t(rows) * 4), device_scale(size_t(rows) * 4);
    Device workspace(size_t(sample_lse_workspace(rows)));
    on_device.put(logits.data());
    device_labels.put(labels.data());
    const sample_rows in = {on_device.as<void>(), device_labels.as<int64_t>(), rows, vocab, stride, dtype};
    for (int how = SAMPLE_WARP; how <= SAMPLE_BLOCKS; how++) {
        const int error = sample_lse(&in, how, device_lse.as<float>(), workspace.as<void>(), nullptr);
        CHECK(error == 0, "sample_lse returned %d", error);
        device_lse.get(got.data());
        for (size_t r = 0; r < size_t(rows); r++) compare("lse", double(got[r]), want[r], 2.2e-7, what);
    }
    device_lse.put(lse.data());
    device_scale.put(scale.data());
    const int error = sample_grad(&in, device_lse.as<float>(), device_scale.as<float>(), on_device.as<void>(), nullptr);
    CHECK(error == 0, "sample_grad returned %d", error);
    on_device.get(changed.data());
    const char *name = dtype == SAMPLE_F32 ? "grad f32" : dtype == SAMPLE_F16 ? "grad f16" : "grad bf16";
    const double budget = dtype == SAMPLE_F32 ? 1.2e-7 : dtype == SAMPLE_F16 ? 3e-4 : 2.4e-3;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t label = labels[size_t(r)];
        for (int64_t v = 0; v < vocab; v++) {
            const double x = get_element(logits.data(), dtype, r * stride + v);
            const double p = std::exp(x - double(lse[size_t(r)]));
            const double grad = label == -100 ? 0 : double(scale[size_t(r)]) * (p - (v == label));
            compare(name, get_element(changed.data(), dtype, r * stride + v), grad, budget, what);
        }
        for (int64_t v = vocab; v < stride && r + 1 < rows; v++) {
            const size_t at = size_t(r * stride + v) * ELEMENT_BYTES[dtype];
            CHECK(memcmp(&changed[at], &logits[at], ELEMENT_BYTES[dtype]) == 0, "%s: wrote between rows", what);
        }
    }
}

static void check_linear(int64_t tokens, int64_t hidden_size, int64_t vocab, int64_t tile)
{
    std::vector<__nv_bfloat16> hidden(size_t(tokens * hidden_size)), weight(size_t(vocab * hidden_size));
    for (auto &x : hidden) x = __float2bfloat16_rn(float(2 * random_unit()));
    for (auto &x : weight) x = __float2bfloat16_rn(float(2 * random_unit()));
    Device device_hidden(hidden.size() * 2), device_weight(weight.size() * 2);
    Device logits(size_t(tokens * tile) * 4), state(size_t(tokens) * 8), device_lse(size_t(tokens) * 4);
    device_hidden.put(hidden.data());
    device_weight.put(weight.data());
    const int error = sample_linear_lse(device_hidden.as<void>(), device_weight.as<void>(), tokens, hidden_size, vocab,
                                        tile, logits.as<float>(), state.as<float>(), device_lse.as<float>(), nullptr);
    CHECK(error == 0, "sample_linear_lse returned %d", error);
    std::vector<float> got(static_cast<size_t>(tokens));
    device_lse.get(got.data());
    for (int64_t t = 0; t < tokens; t++) {
        std::vector<double> row(static_cast<size_t>(vocab));
        double sum = 0;
        for (int64_t v = 0; v < vocab; v++) {
            for (int64_t h = 0; h < hidden_size; h++) {
                row[size_t(v)] += double(__bfloat162float(hidden[size_t(t * hidden_size + h)])) *
                                  double(__bfloat162float(weight[size_t(v * hidden_size + h)]));
            }
        }
        const double max = *std::max_element(row.begin(), row.end());
        for (double x : row) sum += std::exp(x - max);
        compare("linear lse", double(got[size_t(t)]), max + std::log(sum), 9.8e-8, "");
    }
}

int main(int count, char **arguments)
{
    small = count > 1 && strcmp(arguments[1], "small") == 0;
    /* Around a pack and a warp of packs; odd strides and offsets misalign every row in another way. */
    const int64_t vocabularies[] = {1, 7, 8, 33, 255, 1000, 4099};
    for (int dtype : {SAMPLE_F32, SAMPLE_F16, SAMPLE_BF16}) {
        for (int64_t vocab : vocabularies) {
            if (small && vocab != 33 && vocab != 1000) continue;
            check_rows(dtype, small ? 2 : 9, vocab, vocab, 0);
            if (!small) check_rows(dtype, 3, vocab, vocab + 3, 1);
        }
    }
    check_linear(small ? 2 : 5, 24, small ? 150 : 1000, small ? 64 : 192);
    if (count > 1 && strcmp(arguments[1], "worst") == 0) {
        for (const auto &[name, error] : worst) printf("%s %.2g\n", name.c_str(), error);
    }
    if (failures != 0) printf("%d checks failed\n", failures);
    return failures != 0;
}
