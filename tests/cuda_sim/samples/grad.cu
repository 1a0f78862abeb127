/* An element-wise gradient, in place: one block a row. */
#include "elements.cuh"
#include "samples.h"

constexpr int THREADS = 128;

template <typename T> __global__ void grad_row(sample_rows in, const float *lse, const float *scale, T *out)
{
    const int64_t r = blockIdx.x, label = in.labels[r];
    T *row = out + r * in.row_stride;
    const bool counts = label != -100;
    const float factor = counts ? scale[r] : 0.0f, shift = counts ? lse[r] : 0.0f;
    auto changed = [=](float x, int64_t v) {
        return counts ? factor * (expf(x - shift) - (v == label ? 1.0f : 0.0f)) : 0.0f;
    };
    const int64_t head = head_of(row, in.vocab);
    const int64_t packs = (in.vocab - head) / Pack<T>::COUNT, tail = head + packs * Pack<T>::COUNT;
    for (int64_t v = threadIdx.x; v < head; v += THREADS) row[v] = narrow<T>(changed(widen(row[v]), v));
    for (int64_t i = threadIdx.x; i < packs; i += THREADS) {
        const int64_t v = head + i * Pack<T>::COUNT;
        Pack<T> pack = Pack<T>::load(row + v);
        for (int k = 0; k < Pack<T>::COUNT; k++) pack.value[k] = changed(pack.value[k], v + k);
        pack.store(row + v);
    }
    for (int64_t v = tail + threadIdx.x; v < in.vocab; v += THREADS) row[v] = narrow<T>(changed(widen(row[v]), v));
}

template <typename T>
static cudaError_t launch(const sample_rows &in, const float *lse, const float *scale, void *logits,
                          cudaStream_t stream)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = unsigned(in.rows);
    config.blockDim = THREADS;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, grad_row<T>, in, lse, scale, static_cast<T *>(logits));
}

int sample_grad(const sample_rows *in, const float *lse, const float *scale, void *logits, void *stream)
{
    const auto on = static_cast<cudaStream_t>(stream);
    if (in->dtype == SAMPLE_F32) return launch<float>(*in, lse, scale, logits, on);
    if (in->dtype == SAMPLE_F16) return launch<__half>(*in, lse, scale, logits, on);
    return launch<__nv_bfloat16>(*in, lse, scale, logits, on);
}
