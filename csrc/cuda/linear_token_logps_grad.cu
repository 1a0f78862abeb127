/* linear_token_logps_grad: the gradients of hidden, head and LoRA from those of logps, entropy and lse.
 *
 * For each span of the vocabulary, for each span of rows:
 *   x           again, by cuBLAS (linear_tiles.cu)
 *   slopes      in its place g = d loss / d (product with the head) = p (a + b log p) cap' + grad_logps chain cap'
 *               [v == label], chain = logit_scale / temperature
 *   products    grad_hidden [rows, H] += g weight;  grad_weight [vocab span, H] += g^T hidden;  and the small ones
 * The vocabulary is the outer loop, so that grad_weight is complete after one turn of the inner one, and its float32
 * sums need no more memory than a span where it has a half type. */
#include "elements.cuh"
#include "linear_grad.cuh"
#include "row_state.cuh"

namespace pfo
{

/* ---- rows -------------------------------------------------------------------------------------------------------- */

struct PrepareSlopes {
    const LinearRow *list;
    int64_t rows;
    Rows token_rows;
    RowArray vectors[PFO_LINEAR_VECTORS];
    double chain;
    SlopeRow *slopes;
};

/* A thread a row. */
__global__ void prepare_slopes(PrepareSlopes in)
{
    const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= in.rows) return;
    const LinearRow row = in.list[index];
    SlopeRow s = {};
    s.label = row.label;
    s.kind = row.kind;
    if (row.kind == ROW_LIVE) {
        const Row place = row_of(in.token_rows, unsigned(row.place));
        const double by_logps = read_float(in.vectors[PFO_LINEAR_OF_LOGPS], place, 0.0);
        const double by_entropy = read_float(in.vectors[PFO_LINEAR_OF_ENTROPY], place, 0.0);
        const double by_lse = read_float(in.vectors[PFO_LINEAR_OF_LSE], place, 0.0);
        /* An entropy of NaN must not poison a row whose gradient for it is 0. */
        const double entropy = read_float(in.vectors[PFO_LINEAR_BY_ENTROPY], place, 0.0);
        s.lse = read_float(in.vectors[PFO_LINEAR_BY_LSE], place, 0.0);
        s.exact_a = (by_lse - by_logps - (by_entropy == 0.0 ? 0.0 : by_entropy * entropy)) * in.chain;
        s.exact_b = -by_entropy * in.chain;
        s.at_label = by_logps * in.chain;
        s.high = float(s.lse);
        s.low = float(double(s.high) - s.lse);
        s.a = float(s.exact_a);
        s.b = float(s.exact_b);
        s.is_valid = isfinite(s.lse);
    }
    in.slopes[index] = s;
}

/* ---- slopes ------------------------------------------------------------------------------------------------------ */

struct Slopes {
    TileView tile;
    const SlopeRow *rows; /* of the tile */
    __nv_bfloat16 *narrow;
    bool keeps_wide;
    float cap_slope; /* temperature / softcap, or 0 */
};

/* The label's entry in double: p (a + b log p) + grad_logps chain cancels where p is near 1. */
__device__ inline float slope_at_label(const SlopeRow &row, float x, float cap_slope)
{
    const double log_p = double(x) - row.lse, p = device_exp_f64(log_p), capped = double(x) * double(cap_slope);
    const double slope = p == 0.0 ? 0.0 : p * (row.exact_a + row.exact_b * log_p);
    return float((slope + row.at_label) * (cap_slope == 0.0f ? 1.0 : 1.0 - capped * capped));
}

__device__ inline float slope_of(const SlopeRow &row, float x, float cap_slope, bool has_entropy)
{
    const float y = (x - row.high) + row.low;
    const float p = Arithmetic<float>::power(y * float(Arithmetic<float>::PER_NAT));
    float slope = has_entropy ? p * fmaf(row.b, fmaxf(y, -FLT_MAX), row.a) : p * row.a;
    const float t = x * cap_slope;
    if (cap_slope != 0.0f) slope *= fmaf(-t, t, 1.0f);
    return slope;
}

/* In place of x, a team a piece. Rows that do not count become 0, those without a distribution NaN. */
template <bool NARROW, bool ENTROPY> __global__ void __launch_bounds__(BLOCK_THREADS) slopes_tile(Slopes in)
{
    const Piece piece = piece_of(in.tile);
    if (piece.row >= in.tile.count) return;
    const SlopeRow row = in.rows[piece.row];
    const int64_t start = int64_t(piece.row) * in.tile.ld, label = row.label - in.tile.entry;
    const bool is_live = row.kind == ROW_LIVE, is_valid = is_live && row.is_valid;
    const float filler = row.kind == ROW_OVERFLOW || is_live ? NAN : 0.0f;
    /* The label's entry beforehand, by the thread that will write it: the loop has no double arithmetic. */
    int mine = -1;
    float at_label = 0.0f;
    if (is_valid && label >= piece.begin && label < piece.end &&
        (int(label) - piece.begin) / EIGHT % int(blockDim.x) == int(threadIdx.x)) {
        mine = int(label);
        at_label = slope_at_label(row, in.tile.x[start + label], in.cap_slope);
    }
    for (int first = piece.begin + int(threadIdx.x) * EIGHT; first < piece.end; first += int(blockDim.x) * EIGHT) {
        float values[EIGHT];
        load_eight(in.tile.x + start + first, values);
        PFO_UNROLL
        for (int k = 0; k < EIGHT; k++) {
            const float slope = is_valid ? slope_of(row, values[k], in.cap_slope, ENTROPY) : filler;
            values[k] = first + k == mine ? at_label : slope;
        }
        if (!NARROW || in.keeps_wide) store_eight(in.tile.x + start + first, values);
        if (NARROW) Pack<__nv_bfloat16>::of(values).store(in.narrow + start + first);
    }
}

static pfo_status make_slopes(const Backward *b, const Tile &tile, pfo_error *error)
{
    const Linear *l = &b->l;
    const pfo_linear_inputs *in = &b->args->in;
    const bool keeps_wide = l->rank > 0 || pfo_present(&b->args->grad_bias);
    const float cap_slope = in->softcap > 0.0 ? float(in->temperature / in->softcap) : 0.0f;
    const Slopes slopes = {view_of(l, tile), b->slopes + tile.row, l->narrow[0], keeps_wide, cap_slope};
    const bool has_entropy = pfo_present(&b->args->grad_entropy);
    const unsigned blocks = piece_blocks(l, tile.rows);
    const dim3 threads = piece_threads(l);
    if (l->narrow[0] && has_entropy) return launch(l->call, blocks, threads, slopes_tile<true, true>, error, slopes);
    if (l->narrow[0]) return launch(l->call, blocks, threads, slopes_tile<true, false>, error, slopes);
    if (has_entropy) return launch(l->call, blocks, threads, slopes_tile<false, true>, error, slopes);
    return launch(l->call, blocks, threads, slopes_tile<false, false>, error, slopes);
}

/* ---- bias -------------------------------------------------------------------------------------------------------- */

constexpr int BIAS_PARTS = 32; /* of the rows of a tile, summed apart */
constexpr int BIAS_THREADS = 128;

struct SumColumns {
    const float *g;
    int64_t ld;
    int rows, columns;
    float *parts; /* [BIAS_PARTS, columns] */
    float *out;   /* [columns] */
    bool is_first;
};

/* A thread a column and part of the rows. */
__global__ void __launch_bounds__(BIAS_THREADS) sum_columns(SumColumns in)
{
    const int across = (in.columns + BIAS_THREADS - 1) / BIAS_THREADS;
    const int part = int(blockIdx.x) / across, v = int(blockIdx.x) % across * BIAS_THREADS + int(threadIdx.x);
    if (v >= in.columns) return;
    const int each = (in.rows + BIAS_PARTS - 1) / BIAS_PARTS, end = min((part + 1) * each, in.rows);
    float sum = 0.0f;
    for (int64_t row = int64_t(part) * each; row < end; row++) sum += in.g[row * in.ld + v];
    in.parts[int64_t(part) * in.columns + v] = sum;
}

/* A thread a column. */
__global__ void __launch_bounds__(BIAS_THREADS) add_columns(SumColumns in)
{
    const int v = int(blockIdx.x) * BIAS_THREADS + int(threadIdx.x);
    if (v >= in.columns) return;
    float sum = 0.0f;
    for (int part = 0; part < BIAS_PARTS; part++) sum += in.parts[int64_t(part) * in.columns + v];
    in.out[v] = in.is_first ? sum : in.out[v] + sum;
}

static pfo_status add_bias(const Backward *b, const Tile &tile, pfo_error *error)
{
    if (!pfo_present(&b->args->grad_bias)) return PFO_OK;
    const Linear *l = &b->l;
    float *out = static_cast<float *>(b->args->grad_bias.data) + tile.entry;
    const SumColumns in = {l->x, l->ld, int(tile.rows), int(tile.columns), b->bias_parts, out, tile.row == 0};
    const unsigned across = blocks_for(tile.columns, BIAS_THREADS);
    const pfo_status status = launch(l->call, across * BIAS_PARTS, dim3(BIAS_THREADS), sum_columns, error, in);
    return status == PFO_OK ? launch(l->call, across, dim3(BIAS_THREADS), add_columns, error, in) : status;
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* Where grad_weight's rows of a span are summed. */
static float *weight_sums(const Backward *b, int64_t entry)
{
    const pfo_view *out = &b->args->grad_weight;
    if (!pfo_present(out)) return nullptr;
    return b->grad_weight_span ? b->grad_weight_span : static_cast<float *>(out->data) + entry * b->l.hidden_size;
}

/* grad_weight += g^T hidden, and grad_lora_b += g^T lora_hidden. */
static pfo_status add_head(const Backward *b, const Cublas &cublas, const Tile &tile, pfo_error *error)
{
    const Linear *l = &b->l;
    const bool is_narrow = l->dtype == PFO_BF16;
    const void *g = is_narrow ? static_cast<const void *>(l->narrow[0]) : l->x;
    const float keep = tile.row > 0 ? 1.0f : 0.0f;
    const Product by_hidden = {
        tile.columns,   l->hidden_size, tile.rows, {g, l->ld, true}, tile.hidden, weight_sums(b, tile.entry),
        l->hidden_size, 1.0f,           keep,      l->dtype,         l->grad_tf32};
    pfo_status status = by_hidden.c ? cublas.multiply(by_hidden, error) : PFO_OK;
    if (status != PFO_OK || !pfo_present(&b->args->grad_lora_b)) return status;
    const Product by_lora = {tile.columns,
                             l->rank,
                             tile.rows,
                             {l->x, l->ld, true},
                             {b->lora_hidden + tile.row * l->rank, l->rank},
                             static_cast<float *>(b->args->grad_lora_b.data) + tile.entry * l->rank,
                             l->rank,
                             1.0f,
                             keep,
                             PFO_F32,
                             false};
    return cublas.multiply(by_lora, error);
}

static pfo_status run_tile(const Backward *b, const Cublas &cublas, const Tile &tile, pfo_error *error)
{
    const Linear *l = &b->l;
    const float *lora_hidden = b->lora_hidden ? b->lora_hidden + tile.row * l->rank : nullptr;
    float *lora_grad = b->lora_grad ? b->lora_grad + tile.row * l->rank : nullptr;
    float *sums = b->grad_hidden ? b->grad_hidden + tile.row * l->hidden_size : nullptr;
    pfo_status status = linear_logits(l, cublas, tile, lora_hidden, error);
    if (status == PFO_OK) status = make_slopes(b, tile, error);
    if (status == PFO_OK) status = linear_times_head(l, cublas, tile, 0, sums, lora_grad, tile.entry == 0, error);
    if (status == PFO_OK) status = add_head(b, cublas, tile, error);
    return status == PFO_OK ? add_bias(b, tile, error) : status;
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

static pfo_status run_rows(Backward *b, const Cublas &cublas, pfo_error *error)
{
    const Linear *l = &b->l;
    const pfo_linear_inputs *in = l->in;
    pfo_status status = linear_begin(l, error);
    if (status != PFO_OK) return status;
    PrepareSlopes prepare = {l->row_list, l->rows, l->token_rows, {}, in->logit_scale / in->temperature, b->slopes};
    for (int k = 0; k < PFO_LINEAR_VECTORS; k++) prepare.vectors[k] = b->vectors[k];
    status = launch(l->call, blocks_for(l->rows, 64), dim3(64), prepare_slopes, error, prepare);
    for (int64_t first = 0; status == PFO_OK && first < l->rows; first += l->token_span) {
        const int64_t count = smaller_of(l->token_span, l->rows - first);
        Operand hidden, wide;
        float *lora_hidden = b->lora_hidden ? b->lora_hidden + first * l->rank : nullptr;
        status = linear_take_hidden(l, first, count, first, &hidden, error);
        if (status == PFO_OK) status = linear_lora_hidden(l, cublas, first, count, lora_hidden, &wide, error);
    }
    return status;
}

static pfo_status run(Backward *b, const Cublas &cublas, pfo_error *error)
{
    const Linear *l = &b->l;
    pfo_status status = run_rows(b, cublas, error);
    Tile tile = {};
    for (tile.entry = 0; status == PFO_OK && tile.entry < l->vocab; tile.entry += l->vocab_span) {
        tile.columns = smaller_of(l->vocab_span, l->vocab - tile.entry);
        status = linear_take_weight(l, tile.entry, tile.columns, &tile.weight, error);
        for (tile.row = 0; status == PFO_OK && tile.row < l->rows; tile.row += l->token_span) {
            tile.rows = smaller_of(l->token_span, l->rows - tile.row);
            const int64_t at = tile.row * l->hidden_size * pfo_dtype_size(l->dtype);
            tile.hidden = {l->hidden_pack + at, l->hidden_size};
            status = run_tile(b, cublas, tile, error);
        }
        if (status == PFO_OK) status = finish_weight(b, tile.entry, tile.columns, error);
    }
    if (status == PFO_OK) status = finish_lora(b, cublas, error);
    return status == PFO_OK ? finish_hidden(b, error) : status;
}

static void take(Backward *b, Arena *arena)
{
    Linear *l = &b->l;
    const pfo_linear_token_logps_grad_args *args = b->args;
    const bool is_apart = pfo_present(&args->grad_hidden) && l->is_compact;
    const bool has_half = pfo_present(&args->grad_weight) && args->grad_weight.dtype != PFO_F32;
    linear_take(l, arena, l->rows);
    b->slopes = arena->take<SlopeRow>(l->rows);
    b->lora_hidden = arena->take<float>(l->rows * l->rank);
    b->lora_grad = arena->take<float>(l->rows * l->rank);
    b->grad_hidden = arena->take<float>(is_apart ? l->rows * l->hidden_size : 0);
    if (!is_apart) b->grad_hidden = static_cast<float *>(args->grad_hidden.data);
    b->grad_weight_span = arena->take<float>(has_half ? l->vocab_span * l->hidden_size : 0);
    b->bias_parts = arena->take<float>(pfo_present(&args->grad_bias) ? BIAS_PARTS * l->vocab_span : 0);
}

/* Everything but the workspace. */
static pfo_status prepare(Backward *b, const pfo_cuda_linear_token_logps_grad_args *args, const pfo_cuda_call *call,
                          pfo_error *error)
{
    const pfo_linear_token_logps_grad_args *linear = &args->linear;
    b->args = linear;
    if (pfo_present(&linear->kept)) return pfo_fail(error, PFO_ERROR_VALUE, "kept", -1, "expected none on CUDA");
    if (linear->grad_filter > 0.0)
        return pfo_fail(error, PFO_ERROR_VALUE, "grad_filter", -1, "expected 0 on CUDA, got %g", linear->grad_filter);
    pfo_status status = linear_check(&linear->in, args->num_tokens, args->products, error);
    if (status == PFO_OK) status = pfo_check_linear_token_logps_grad(linear, 0, 1, error);
    if (status != PFO_OK) return status;
    const pfo_view *vectors[PFO_LINEAR_VECTORS];
    pfo_linear_vectors(linear, vectors);
    RowView views[PFO_LINEAR_VECTORS + 1];
    for (int k = 0; k < PFO_LINEAR_VECTORS; k++) views[k] = {vectors[k], 0, &b->vectors[k]};
    views[PFO_LINEAR_VECTORS] = {&linear->grad_hidden, 1, &b->grad_hidden_out};
    const TileNeeds needs = {true, false, true};
    return linear_setup(&b->l, &linear->in, args->num_tokens, args->products, needs, call, views,
                        PFO_LINEAR_VECTORS + 1, error);
}

/* Without a row there is no tile to clear these. */
static pfo_status clear_outputs(const Backward *b, pfo_error *error)
{
    const Linear *l = &b->l;
    const pfo_linear_token_logps_grad_args *args = b->args;
    const pfo_view *outputs[] = {&args->grad_weight, &args->grad_bias, &args->grad_lora_a, &args->grad_lora_b};
    const int64_t sizes[] = {l->vocab * l->hidden_size, l->vocab, l->rank * l->hidden_size, l->vocab * l->rank};
    for (int k = 0; k < 4; k++) {
        if (!pfo_present(outputs[k])) continue;
        const size_t bytes = size_t(sizes[k] * pfo_dtype_size(outputs[k]->dtype));
        const cudaError_t code =
            cudaMemsetAsync(outputs[k]->data, 0, bytes, static_cast<cudaStream_t>(l->call->stream));
        if (code != cudaSuccess) return fail_cuda(error, code, "clearing a gradient");
    }
    return PFO_OK;
}

} // namespace pfo

int64_t pfo_cuda_linear_token_logps_grad_workspace(const pfo_cuda_linear_token_logps_grad_args *args,
                                                   const pfo_cuda_call *call)
{
    pfo::Backward b = {};
    if (pfo::prepare(&b, args, call, nullptr) != PFO_OK) return -1;
    pfo::Arena arena(nullptr);
    pfo::take(&b, &arena);
    return arena.bytes();
}

pfo_status pfo_cuda_linear_token_logps_grad(const pfo_cuda_linear_token_logps_grad_args *args,
                                            const pfo_cuda_call *call, pfo_error *error)
{
    pfo_clear(error);
    pfo::Backward b = {};
    const pfo_status status = pfo::prepare(&b, args, call, error);
    if (status != PFO_OK) return status;
    const pfo::OnDevice on(call, pfo_cuda_linear_token_logps_grad_workspace(args, call), error);
    if (on.status != PFO_OK) return on.status;
    if (b.l.tokens == 0) return pfo::clear_outputs(&b, error);
    b.l.report = on.report;
    pfo::Arena arena(call->workspace);
    pfo::take(&b, &arena);
    const pfo::Cublas cublas(call, b.l.cublas, b.l.cublas_bytes, error);
    return cublas.status == PFO_OK ? pfo::run(&b, cublas, error) : cublas.status;
}
