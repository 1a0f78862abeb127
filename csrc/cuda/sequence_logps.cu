/* sequence_logps: masked sums of token log-probs per sequence, in double, and the transpose.
 *
 *     out[b] = sum_t mask[b, t] logps[b, t] / divisor[b]
 *
 * A block a sequence: its threads stride over the tokens, and their sums are added in a fixed order. Where the mask is
 * 0 logps is not used. These arrays are small beside the logits, so values are read one by one, by dtype. */
#include "rows.cuh"
#include "team.cuh"

namespace pfo
{

constexpr int SEQUENCE_THREADS = 128;

struct Sequences {
    RowArray logps, mask, cu_seqlens, normalizer, out; /* [B, T] or [1, N], and [1, B] */
    int64_t tokens;                                    /* T or N */
    bool is_packed, average;
    uint64_t *report;
};

/* Whether the offsets ascend, all of them: where some do not, sequences may overlap, and none is used. */
__device__ inline bool ascends(const Sequences &in)
{
    PFO_SHARED(int, falls, 1);
    if (threadIdx.x == 0) falls[0] = 0;
    __syncthreads();
    for (unsigned k = threadIdx.x; k < gridDim.x; k += SEQUENCE_THREADS)
        if (read_int(row_at(in.cu_seqlens, {0, k}), in.cu_seqlens.dtype) >
            read_int(row_at(in.cu_seqlens, {0, k + 1}), in.cu_seqlens.dtype))
            atomicOr(&falls[0], 1);
    __syncthreads();
    return falls[0] == 0;
}

/* The tokens of the block's sequence, and whether its offsets are usable. */
struct Bounds {
    unsigned outer;
    int64_t begin, end;
    bool fits;
};

__device__ inline Bounds bounds_of(const Sequences &in, unsigned sequence)
{
    if (!in.is_packed) return {sequence, 0, in.tokens, true};
    const int64_t begin = read_int(row_at(in.cu_seqlens, {0, sequence}), in.cu_seqlens.dtype);
    const int64_t end = read_int(row_at(in.cu_seqlens, {0, sequence + 1}), in.cu_seqlens.dtype);
    const bool starts = sequence > 0 || begin == 0, ends = sequence + 1 < gridDim.x || end == in.tokens;
    const bool fits = ascends(in) && begin >= 0 && end <= in.tokens && starts && ends;
    if (!fits && threadIdx.x == 0) report_bad(in.report, REPORT_CU_SEQLENS, sequence);
    return {0, fits ? begin : 0, fits ? end : 0, fits};
}

__device__ inline double weight_of(const Sequences &in, Row at)
{
    if (!in.mask.data) return 1.0;
    const char *address = row_at(in.mask, at);
    return in.mask.dtype == PFO_BOOL ? double(*reinterpret_cast<const uint8_t *>(address) != 0)
                                     : read_float(address, in.mask.dtype);
}

/* What the sum is divided by, in thread 0; +inf for an empty sequence under average, which makes 0 of every finite sum;
 * NaN for a bad one. */
__device__ inline double divisor_of(const Sequences &in, unsigned sequence, const Bounds &bounds, double weights)
{
    if (!bounds.fits || isnan(weights)) return double(NAN);
    if (!in.average) return 1.0;
    if (!in.normalizer.data) return weights == 0.0 ? double(INFINITY) : weights;
    const double given = read_float(in.normalizer, {0, sequence}, 1.0);
    if (given > 0.0 && isfinite(given)) return given;
    report_bad(in.report, REPORT_NORMALIZER, sequence);
    return double(NAN);
}

/* Sums of the block's sequence, in thread 0: weighted log-probs and weights. */
__device__ inline void sum_sequence(const Sequences &in, const Bounds &bounds, bool with_logps, double sums[2])
{
    sums[0] = sums[1] = 0.0;
    for (int64_t t = bounds.begin + threadIdx.x; t < bounds.end; t += SEQUENCE_THREADS) {
        const Row at = {bounds.outer, unsigned(t)};
        const double weight = weight_of(in, at);
        if (!isfinite(weight)) report_bad(in.report, REPORT_MASK, int64_t(bounds.outer) * in.tokens + t);
        sums[1] += isfinite(weight) ? weight : double(NAN);
        if (with_logps && weight != 0.0) sums[0] += weight * read_float(in.logps, at, 0.0);
    }
    unsigned unused = 0;
    Team<SEQUENCE_THREADS>::sums<2>(sums, &unused);
}

__global__ void __launch_bounds__(SEQUENCE_THREADS) sum_sequences(Sequences in)
{
    const Bounds bounds = bounds_of(in, blockIdx.x);
    double sums[2];
    sum_sequence(in, bounds, true, sums);
    if (threadIdx.x != 0) return;
    write_value(in.out, {0, blockIdx.x}, sums[0] / divisor_of(in, blockIdx.x, bounds, sums[1]));
}

/* logps is written, out read. */
__global__ void __launch_bounds__(SEQUENCE_THREADS) spread_sequences(Sequences in)
{
    PFO_SHARED(double, share, 1);
    const Bounds bounds = bounds_of(in, blockIdx.x);
    double sums[2];
    sum_sequence(in, bounds, false, sums);
    if (threadIdx.x == 0) {
        const double divisor = divisor_of(in, blockIdx.x, bounds, sums[1]);
        share[0] = isnan(divisor) ? 0.0 : read_float(in.out, {0, blockIdx.x}, 0.0) / divisor;
    }
    __syncthreads();
    for (int64_t t = bounds.begin + threadIdx.x; t < bounds.end; t += SEQUENCE_THREADS) {
        const Row at = {bounds.outer, unsigned(t)};
        const double weight = weight_of(in, at);
        write_value(in.logps, at, weight == 0.0 || share[0] == 0.0 ? 0.0 : share[0] * weight);
    }
}

/* What no sequence of bad offsets covers has a gradient of 0. */
__global__ void clear_tokens(Sequences in)
{
    const int64_t t = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (t < in.tokens) write_value(in.logps, {0, unsigned(t)}, 0.0);
}

/* ---- host -------------------------------------------------------------------------------------------------------- */

/* A view of one or two axes; of one, the step belongs to the inner. */
static RowArray array_of(const pfo_view *view)
{
    RowArray array = {};
    if (!pfo_present(view)) return array;
    array.data = static_cast<char *>(view->data);
    array.dtype = view->dtype;
    array.strides[0] = view->ndim == 2 ? view->strides_bytes[0] : 0;
    array.strides[1] = view->strides_bytes[view->ndim - 1];
    return array;
}

static pfo_status prepare(const pfo_sequence_logps_args *args, int transpose, Sequences *in, int64_t *sequences,
                          pfo_error *error)
{
    pfo_clear(error);
    const pfo_status status = pfo_check_sequence_logps(args, transpose, sequences, error);
    if (status != PFO_OK) return status;
    in->tokens = args->logps.shape[args->logps.ndim - 1];
    if (*sequences > INT32_MAX || in->tokens > INT32_MAX)
        return pfo_fail(error, PFO_ERROR_SHAPE, "logps", -1, "expected fewer than 2^31 sequences and tokens");
    in->is_packed = pfo_present(&args->cu_seqlens);
    in->average = args->average != 0;
    in->logps = array_of(&args->logps);
    in->mask = array_of(&args->mask);
    in->cu_seqlens = array_of(&args->cu_seqlens);
    in->normalizer = array_of(&args->normalizer);
    in->out = array_of(&args->out);
    return PFO_OK;
}

} // namespace pfo

pfo_status pfo_cuda_sequence_logps(const pfo_sequence_logps_args *args, const pfo_cuda_call *call, pfo_error *error)
{
    pfo::Sequences in = {};
    int64_t sequences = 0;
    const pfo_status status = pfo::prepare(args, 0, &in, &sequences, error);
    if (status != PFO_OK) return status;
    const pfo::OnDevice on(call, 0, error);
    if (on.status != PFO_OK) return on.status;
    in.report = on.report;
    return pfo::launch(call, unsigned(sequences), dim3(pfo::SEQUENCE_THREADS), pfo::sum_sequences, error, in);
}

pfo_status pfo_cuda_sequence_logps_grad(const pfo_sequence_logps_args *args, const pfo_cuda_call *call,
                                        pfo_error *error)
{
    constexpr unsigned CLEAR_THREADS = 256;
    pfo::Sequences in = {};
    int64_t sequences = 0;
    pfo_status status = pfo::prepare(args, 1, &in, &sequences, error);
    if (status != PFO_OK) return status;
    const pfo::OnDevice on(call, 0, error);
    if (on.status != PFO_OK) return on.status;
    in.report = on.report;
    if (in.is_packed) {
        const unsigned blocks = unsigned((in.tokens + CLEAR_THREADS - 1) / CLEAR_THREADS);
        status = pfo::launch(call, blocks, dim3(CLEAR_THREADS), pfo::clear_tokens, error, in);
        if (status != PFO_OK) return status;
    }
    return pfo::launch(call, unsigned(sequences), dim3(pfo::SEQUENCE_THREADS), pfo::spread_sequences, error, in);
}
