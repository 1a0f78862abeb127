/* The fused linear op's backward, its end: sums to gradients. */
#include "elements.cuh"
#include "linear_grad.cuh"

namespace pfo
{

struct NarrowRows {
    const float *from;
    void *to;
    int64_t count;
};
constexpr int NARROW_THREADS = 256;

/* grad_weight in its own dtype, a thread an element. */
template <typename T> __global__ void __launch_bounds__(NARROW_THREADS) narrow_sums(NarrowRows in)
{
    const int64_t i = int64_t(blockIdx.x) * NARROW_THREADS + threadIdx.x;
    if (i < in.count) static_cast<T *>(in.to)[i] = Dtype<T>::narrow(double(in.from[i]));
}

pfo_status finish_weight(const Backward *b, int64_t entry, int64_t count, pfo_error *error)
{
    if (!b->grad_weight_span) return PFO_OK;
    const Linear *l = &b->l;
    char *to = static_cast<char *>(b->args->grad_weight.data) + entry * l->hidden_size * 2;
    const NarrowRows rows = {b->grad_weight_span, to, count * l->hidden_size};
    const unsigned blocks = blocks_for(rows.count, NARROW_THREADS);
    if (b->args->grad_weight.dtype == PFO_BF16)
        return launch(l->call, blocks, dim3(NARROW_THREADS), narrow_sums<__nv_bfloat16>, error, rows);
    return launch(l->call, blocks, dim3(NARROW_THREADS), narrow_sums<__half>, error, rows);
}

/* What goes through hidden lora_a^T: its share of grad_hidden, and grad_lora_a. */
pfo_status finish_lora(const Backward *b, const Cublas &cublas, pfo_error *error)
{
    const Linear *l = &b->l;
    pfo_status status = PFO_OK;
    if (b->grad_hidden) status = linear_add_lora(l, cublas, l->rows, b->lora_grad, b->grad_hidden, error);
    if (!pfo_present(&b->args->grad_lora_a)) return status;
    for (int64_t first = 0; status == PFO_OK && first < l->rows; first += l->token_span) {
        const int64_t count = smaller_of(l->token_span, l->rows - first);
        Operand wide;
        status = linear_lora_hidden(l, cublas, first, count, nullptr, &wide, error);
        if (status != PFO_OK) return status;
        const Product product = {l->rank,
                                 l->hidden_size,
                                 count,
                                 {b->lora_grad + first * l->rank, l->rank, true},
                                 wide,
                                 static_cast<float *>(b->args->grad_lora_a.data),
                                 l->hidden_size,
                                 1.0f,
                                 first > 0 ? 1.0f : 0.0f,
                                 PFO_F32,
                                 false};
        status = cublas.multiply(product, error);
    }
    return status;
}

struct FinishGradHidden {
    const LinearRow *list;
    RowArray labels, out;
    Rows token_rows;
    int64_t ignore_index, rows;
    const int64_t *live_count; /* NULL: sums are the output itself */
    const float *sums;
    int hidden_size;
};
constexpr int HIDDEN_THREADS = 256;

/* A block for each row, which moves its sums to its token, then one for each token, which clears what is no row. */
__global__ void __launch_bounds__(HIDDEN_THREADS) finish_grad_hidden(FinishGradHidden in)
{
    const bool is_row = blockIdx.x < in.rows;
    const int kind = is_row ? in.list[blockIdx.x].kind : ROW_NONE;
    if (is_row && (!in.live_count || kind == ROW_NONE || kind == ROW_OVERFLOW)) return;
    const auto place = is_row ? unsigned(in.list[blockIdx.x].place) : blockIdx.x - unsigned(in.rows);
    const Row row = row_of(in.token_rows, place);
    const bool has_overflow = in.live_count && *in.live_count > in.rows;
    const bool is_ignored = read_int(row_at(in.labels, row), in.labels.dtype) == in.ignore_index;
    if (!is_row && !is_ignored && !has_overflow) return;
    float *out = reinterpret_cast<float *>(row_at(in.out, row));
    const float filler = is_ignored ? 0.0f : NAN;
    for (int h = int(threadIdx.x); h < in.hidden_size; h += HIDDEN_THREADS)
        out[h] = is_row ? in.sums[int64_t(blockIdx.x) * in.hidden_size + h] : filler;
}

pfo_status finish_hidden(const Backward *b, pfo_error *error)
{
    if (!b->grad_hidden) return PFO_OK;
    const Linear *l = &b->l;
    const FinishGradHidden in = {l->row_list,
                                 l->labels,
                                 b->grad_hidden_out,
                                 l->token_rows,
                                 l->in->ignore_index,
                                 l->rows,
                                 l->is_compact ? l->live_count : nullptr,
                                 b->grad_hidden,
                                 int(l->hidden_size)};
    return launch(l->call, unsigned(l->rows + l->tokens), dim3(HIDDEN_THREADS), finish_grad_hidden, error, in);
}

} // namespace pfo
