/* lse of a row by a warp, by a block, or by several blocks whose partial states the last one merges. */
#include "elements.cuh"
#include "samples.h"

constexpr int THREADS = 256, WARPS = THREADS / 32, PARTS = 4;
constexpr unsigned ALL = 0xffffffffu;
constexpr float LOG2E = 1.44269504f, LN2 = 0.693147181f;

/* sum = sum_v 2^(x_v - max), x in units of log 2. */
struct State {
    float max, sum;
};

__device__ State empty() { return {-INFINITY, 0.0f}; }

__device__ State merge(State a, State b)
{
    const float max = fmaxf(a.max, b.max);
    if (max == -INFINITY) return empty();
    return {max, fmaf(a.sum, PFO_EX2(a.max - max), b.sum * PFO_EX2(b.max - max))};
}

__device__ State merge_warp(State state)
{
    for (int distance = 16; distance > 0; distance /= 2) {
        const State other = {__shfl_xor_sync(ALL, state.max, distance), __shfl_xor_sync(ALL, state.sum, distance)};
        state = merge(state, other);
    }
    return state;
}

__device__ State merge_block(State state)
{
    PFO_SHARED(State, partial, WARPS);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    state = merge_warp(state);
    if (lane == 0) partial[warp] = state;
    __syncthreads();
    if (warp == 0) state = merge_warp(lane < WARPS ? partial[lane] : empty());
    return state;
}

/* The part of a row that a thread reads, every `step`-th pack of [begin, end). */
template <typename T> __device__ State read(const T *row, int64_t begin, int64_t end, int first, int step)
{
    State state = empty();
    const int64_t head = begin + head_of(row + begin, end - begin);
    const int64_t packs = (end - head) / Pack<T>::COUNT, tail = head + packs * Pack<T>::COUNT;
    for (int64_t v = begin + first; v < head; v += step) state = merge(state, {widen(row[v]) * LOG2E, 1.0f});
    for (int64_t i = first; i < packs; i += step) {
        const Pack<T> pack = Pack<T>::load(row + head + i * Pack<T>::COUNT);
        float max = state.max;
        for (float x : pack.value) max = fmaxf(max, x * LOG2E);
        if (max == -INFINITY) continue;
        float sum = state.sum * PFO_EX2(state.max - max);
        for (float x : pack.value) sum += PFO_EX2(fmaf(x, LOG2E, -max));
        state = {max, sum};
    }
    for (int64_t v = tail + first; v < end; v += step) state = merge(state, {widen(row[v]) * LOG2E, 1.0f});
    return state;
}

__device__ float lse_of(State state) { return LN2 * (state.max + log2f(state.sum)); }

template <typename T> __global__ void lse_warp(sample_rows in, float *lse)
{
    const int64_t r = int64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (r >= in.rows) return; /* whole warps, and no barrier follows */
    State state = empty();
    if (in.labels[r] != -100) {
        state = read(static_cast<const T *>(in.logits) + r * in.row_stride, 0, in.vocab, lane, 32);
    }
    state = merge_warp(state);
    if (lane == 0) lse[r] = in.labels[r] != -100 ? lse_of(state) : 0.0f;
}

template <typename T> __global__ void lse_block(sample_rows in, float *lse)
{
    const int64_t r = blockIdx.x;
    if (in.labels[r] == -100) {
        if (threadIdx.x == 0) lse[r] = 0.0f;
        return; /* the whole block */
    }
    const State mine =
        read(static_cast<const T *>(in.logits) + r * in.row_stride, 0, in.vocab, int(threadIdx.x), THREADS);
    const State state = merge_block(mine);
    if (threadIdx.x == 0) lse[r] = lse_of(state);
}

/* Grid (PARTS, rows). partial [rows, PARTS]; arrived [rows] starts at 0. The last block of a row merges its parts, in
 * their order, whichever block that is. */
template <typename T> __global__ void lse_blocks(sample_rows in, float *lse, State *partial, unsigned *arrived)
{
    const int64_t r = blockIdx.y, part = blockIdx.x;
    const int64_t begin = in.vocab * part / PARTS, end = in.vocab * (part + 1) / PARTS;
    State state = empty();
    if (in.labels[r] != -100) {
        state = read(static_cast<const T *>(in.logits) + r * in.row_stride, begin, end, int(threadIdx.x), THREADS);
    }
    state = merge_block(state);
    if (threadIdx.x != 0) return;
    partial[r * PARTS + part] = state;
    __threadfence(); /* the state before the count */
    if (atomicAdd(&arrived[r], 1u) != PARTS - 1) return;
    __threadfence(); /* the count before the other blocks' states */
    state = empty();
    for (int i = 0; i < PARTS; i++) state = merge(state, partial[r * PARTS + i]);
    lse[r] = in.labels[r] != -100 ? lse_of(state) : 0.0f;
}

int64_t sample_lse_workspace(int64_t rows) { return rows * int64_t(PARTS * sizeof(State) + sizeof(unsigned)); }

template <typename T>
static cudaError_t launch(const sample_rows &in, int how, float *lse, void *workspace, cudaStream_t stream)
{
    cudaLaunchConfig_t config = {};
    config.blockDim = THREADS;
    config.stream = stream;
    if (how == SAMPLE_WARP) {
        config.gridDim = unsigned((in.rows + WARPS - 1) / WARPS);
        return cudaLaunchKernelEx(&config, lse_warp<T>, in, lse);
    }
    if (how == SAMPLE_BLOCK) {
        config.gridDim = unsigned(in.rows);
        return cudaLaunchKernelEx(&config, lse_block<T>, in, lse);
    }
    auto *partial = static_cast<State *>(workspace);
    auto *arrived = reinterpret_cast<unsigned *>(partial + in.rows * PARTS);
    cudaError_t error = cudaMemsetAsync(arrived, 0, size_t(in.rows) * sizeof *arrived, stream);
    if (error != cudaSuccess) return error;
    config.gridDim = dim3(PARTS, unsigned(in.rows));
    return cudaLaunchKernelEx(&config, lse_blocks<T>, in, lse, partial, arrived);
}

int sample_lse(const sample_rows *in, int how, float *lse, void *workspace, void *stream)
{
    const auto on = static_cast<cudaStream_t>(stream);
    if (in->dtype == SAMPLE_F32) return launch<float>(*in, how, lse, workspace, on);
    if (in->dtype == SAMPLE_F16) return launch<__half>(*in, how, lse, workspace, on);
    return launch<__nv_bfloat16>(*in, how, lse, workspace, on);
}
