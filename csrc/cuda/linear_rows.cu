/* The fused linear op's rows: the list of those that are multiplied, and inputs copied, gathered or converted. */
#include "linear.cuh"
#include "team.cuh"

namespace pfo
{

/* ---- the list ---------------------------------------------------------------------------------------------------- */

struct ListRows {
    Rows token_rows;
    RowArray labels;
    int64_t ignore_index, vocab_total;
    int64_t rows; /* of the list */
    LinearRow *list;
    int64_t *live_count;
    uint64_t *report;
};

__device__ inline LinearRow row_for(const ListRows &in, int64_t place, int64_t label)
{
    const bool fits = label >= 0 && label < in.vocab_total;
    if (!fits) report_bad(in.report, REPORT_LABELS, place);
    return {label, int32_t(place), fits ? ROW_LIVE : ROW_BAD_LABEL};
}

__device__ inline int64_t label_at(const ListRows &in, int64_t place)
{
    return read_int(row_at(in.labels, row_of(in.token_rows, unsigned(place))), in.labels.dtype);
}

/* A thread a token: every token is a row. */
__global__ void list_all_rows(ListRows in)
{
    const int64_t place = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (place >= in.rows) return;
    const int64_t label = label_at(in, place);
    LinearRow row = {label, int32_t(place), ROW_NONE};
    if (label != in.ignore_index) row = row_for(in, place, label);
    in.list[place] = row;
}

constexpr int LIST_THREADS = 256;

/* One block: the rows that count, in their order, then rows of nothing. */
__global__ void __launch_bounds__(LIST_THREADS) list_live_rows(ListRows in)
{
    PFO_SHARED(int, counts, LIST_THREADS / 32);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t before = 0;
    for (int64_t first = 0; first < in.token_rows.count; first += LIST_THREADS) {
        const int64_t place = first + threadIdx.x;
        const int64_t label = place < in.token_rows.count ? label_at(in, place) : in.ignore_index;
        const bool is_live = label != in.ignore_index;
        const unsigned votes = __ballot_sync(WHOLE_WARP, is_live);
        if (lane == 0) counts[warp] = __popc(votes);
        __syncthreads();
        int64_t position = before + __popc(votes & ((1u << lane) - 1));
        for (unsigned other = 0; other < LIST_THREADS / 32; other++) {
            if (other < warp) position += counts[other];
            before += counts[other];
        }
        if (is_live && position < in.rows) in.list[position] = row_for(in, place, label);
        __syncthreads(); /* counts are free, and the list is there */
    }
    const bool has_overflow = before > in.rows;
    for (int64_t row = threadIdx.x; row < in.rows; row += LIST_THREADS) {
        if (has_overflow) in.list[row].kind = ROW_OVERFLOW;
        if (row >= before) in.list[row] = {0, -1, ROW_NONE};
    }
    if (threadIdx.x != 0) return;
    *in.live_count = before;
    if (has_overflow) report_bad(in.report, REPORT_NUM_TOKENS, before);
}

/* ---- copies ------------------------------------------------------------------------------------------------------ */

constexpr int COPY_THREADS = 256;
constexpr int64_t COPY_EACH = 4 * COPY_THREADS; /* elements of a block */

struct CopyRows {
    const LinearRow *list; /* NULL: rows of `from` in their order */
    Rows from_rows;
    RowArray from;
    int64_t width, blocks_a_row;
    void *to; /* [rows, width] */
};

template <typename In, typename Out> struct Copied {
    static __device__ Out of(In value) { return Dtype<In>::widen(value); }
};
template <typename T> struct Copied<T, T> {
    static __device__ T of(T value) { return value; }
};

/* Rows that are nothing become 0. */
template <typename In, typename Out> __global__ void __launch_bounds__(COPY_THREADS) copy_rows(CopyRows in)
{
    const int64_t row = int64_t(blockIdx.x) / in.blocks_a_row, part = int64_t(blockIdx.x) % in.blocks_a_row;
    const bool exists = !in.list || in.list[row].kind != ROW_NONE;
    const unsigned place = in.list && exists ? unsigned(in.list[row].place) : unsigned(row);
    const In *from = reinterpret_cast<const In *>(row_at(in.from, exists ? row_of(in.from_rows, place) : Row{0, 0}));
    Out *to = static_cast<Out *>(in.to) + row * in.width;
    const int64_t end = min((part + 1) * COPY_EACH, in.width);
    for (int64_t i = part * COPY_EACH + threadIdx.x; i < end; i += COPY_THREADS) {
        to[i] = exists ? Copied<In, Out>::of(from[i]) : Dtype<Out>::narrow(0.0);
    }
}

template <typename In>
static pfo_status copy_from(const Linear *l, const CopyRows &copy, unsigned blocks, int32_t dtype, pfo_error *error)
{
    const dim3 threads(COPY_THREADS);
    if (dtype == PFO_F32) return launch(l->call, blocks, threads, copy_rows<In, float>, error, copy);
    return launch(l->call, blocks, threads, copy_rows<In, In>, error, copy);
}

static pfo_status copy(const Linear *l, CopyRows copy, int64_t rows, int32_t dtype, pfo_error *error)
{
    if (copy.width == 0) return PFO_OK;
    copy.blocks_a_row = (copy.width + COPY_EACH - 1) / COPY_EACH;
    if (rows * copy.blocks_a_row > INT32_MAX)
        return pfo_fail(error, PFO_ERROR_SHAPE, "hidden", -1, "expected fewer elements: a copy has 2^31 blocks");
    const auto blocks = unsigned(rows * copy.blocks_a_row);
    switch (copy.from.dtype) {
    case PFO_F16: return copy_from<__half>(l, copy, blocks, dtype, error);
    case PFO_BF16: return copy_from<__nv_bfloat16>(l, copy, blocks, dtype, error);
    default: return copy_from<float>(l, copy, blocks, dtype, error);
    }
}

/* Rows [first, first + count) of a [V, width] or [V] input. */
static pfo_status copy_input(const Linear *l, const pfo_view *view, int64_t first, int64_t count, int32_t dtype,
                             void *to, pfo_error *error)
{
    if (!pfo_present(view)) return PFO_OK;
    const int64_t width = view->ndim == 2 ? view->shape[1] : 1, size = pfo_dtype_size(view->dtype);
    const int64_t stride = view->shape[0] > 1 ? view->strides_bytes[0] : width * size;
    CopyRows in = {};
    in.from = {static_cast<char *>(view->data) + first * stride, {0, stride}, view->dtype};
    in.to = to;
    const bool is_one_row = stride == width * size;
    const int64_t rows = is_one_row ? 1 : count;
    in.from_rows = {unsigned(rows), unsigned(rows)};
    in.width = is_one_row ? count * width : width;
    return copy(l, in, rows, dtype, error);
}

/* ---- what the two directions ask for ----------------------------------------------------------------------------- */

pfo_status linear_begin(const Linear *l, pfo_error *error)
{
    const pfo_linear_inputs *in = l->in;
    const ListRows list = {l->token_rows, l->labels,   in->ignore_index, l->vocab_total,
                           l->rows,       l->row_list, l->live_count,    l->report};
    pfo_status status = l->is_compact ? launch(l->call, 1, dim3(LIST_THREADS), list_live_rows, error, list)
                                      : launch(l->call, blocks_for(l->rows, COPY_THREADS), dim3(COPY_THREADS),
                                               list_all_rows, error, list);
    if (status == PFO_OK) status = copy_input(l, &in->bias, 0, l->vocab, PFO_F32, l->bias, error);
    if (status == PFO_OK) status = copy_input(l, &in->lora_a, 0, l->rank, PFO_F32, l->lora_a, error);
    if (status == PFO_OK) status = copy_input(l, &in->lora_b, 0, l->vocab, PFO_F32, l->lora_b, error);
    return status;
}

static pfo_status copy_hidden(const Linear *l, int64_t first, int64_t count, int32_t dtype, void *to, pfo_error *error)
{
    CopyRows in = {};
    in.list = l->row_list + first;
    in.from_rows = l->token_rows;
    in.from = l->hidden;
    in.width = l->hidden_size;
    in.to = to;
    return copy(l, in, count, dtype, error);
}

pfo_status linear_take_hidden(const Linear *l, int64_t first, int64_t count, int64_t at, Operand *out, pfo_error *error)
{
    const int64_t size = pfo_dtype_size(l->dtype);
    if (!l->packs_hidden) {
        const int64_t stride = l->tokens > 1 ? l->hidden.strides[1] / size : l->hidden_size;
        *out = {l->hidden.data + first * stride * size, stride};
        return PFO_OK;
    }
    char *to = l->hidden_pack + at * l->hidden_size * size;
    *out = {to, l->hidden_size};
    return copy_hidden(l, first, count, l->dtype, to, error);
}

pfo_status linear_take_weight(const Linear *l, int64_t first, int64_t count, Operand *out, pfo_error *error)
{
    const pfo_view *weight = &l->in->weight;
    const int64_t size = pfo_dtype_size(weight->dtype);
    if (!l->packs_weight) {
        const int64_t stride = l->vocab > 1 ? weight->strides_bytes[0] / size : l->hidden_size;
        *out = {static_cast<char *>(weight->data) + first * stride * size, stride};
        return PFO_OK;
    }
    *out = {l->weight_pack, l->hidden_size};
    return copy_input(l, weight, first, count, l->dtype, l->weight_pack, error);
}

pfo_status linear_lora_hidden(const Linear *l, const Cublas &cublas, int64_t first, int64_t count, float *out,
                              Operand *wide, pfo_error *error)
{
    if (l->rank == 0) return PFO_OK;
    *wide = {l->hidden_wide, l->hidden_size};
    pfo_status status = copy_hidden(l, first, count, PFO_F32, l->hidden_wide, error);
    if (status != PFO_OK || !out) return status;
    const Product product = {count, l->rank, l->hidden_size, *wide, {l->lora_a, l->hidden_size, true}, out, l->rank,
                             1.0f,  0.0f,    PFO_F32,        false};
    return cublas.multiply(product, error);
}

} // namespace pfo
