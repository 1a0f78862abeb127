/* The fused linear op's call: what is refused, how it is cut, its workspace. */
#include "linear.cuh"

namespace pfo
{

constexpr int64_t FEWEST_COLUMNS = EIGHT;
constexpr int64_t LEAST_BUDGET = int64_t(4) << 20;

/* ---- what CUDA does not have, and which operands products take --------------------------------------------------- */

static bool is_half(int32_t dtype) { return dtype == PFO_F16 || dtype == PFO_BF16; }

/* Whether cuBLAS can take rows of a view as they are. */
static bool steps_as_rows(int64_t stride_bytes, int64_t rows, int64_t width, int32_t dtype)
{
    const int64_t size = pfo_dtype_size(dtype);
    return rows <= 1 || (stride_bytes >= width * size && stride_bytes % size == 0);
}

static void choose_operands(Linear *l, int32_t products)
{
    const pfo_linear_inputs *in = l->in;
    const int32_t hidden = in->hidden.dtype, weight = in->weight.dtype;
    const bool halves = is_half(hidden) && is_half(weight), asks_tf32 = products == PFO_CUDA_PRODUCTS_TF32;
    /* float16 has too few exponents for gradients, whose size nobody knows here: float32, of which TF32 keeps as much
     * as a float16 has. */
    const bool rounds_gradients = hidden == PFO_BF16 && products == PFO_CUDA_PRODUCTS_DEFAULT;
    const bool is_direct = hidden == weight && (!halves || !l->needs.gradients || rounds_gradients);
    l->dtype = is_direct ? hidden : PFO_F32;
    l->logits_tf32 = l->dtype == PFO_F32 && (halves || asks_tf32); /* a half type's values are TF32's, too */
    l->grad_tf32 = l->dtype == PFO_F32 && (asks_tf32 || (halves && products == PFO_CUDA_PRODUCTS_DEFAULT));
    const bool one_step = l->token_rows.inner == l->token_rows.count;
    l->packs_hidden = l->dtype != hidden || l->is_compact || l->needs.clears_rows || !one_step ||
                      !steps_as_rows(l->hidden.strides[1], l->tokens, l->hidden_size, hidden);
    l->packs_weight =
        l->dtype != weight || !steps_as_rows(in->weight.strides_bytes[0], l->vocab, l->hidden_size, weight);
}

pfo_status linear_check(const pfo_linear_inputs *in, int64_t num_tokens, int32_t products, pfo_error *error)
{
    const pfo_status status = pfo_check_linear_inputs(in, error);
    if (status != PFO_OK) return status;
    if (in->hidden.dtype == PFO_F64)
        return pfo_fail(error, PFO_ERROR_DTYPE, "hidden", -1, "expected float32, float16 or bfloat16 on CUDA");
    if (num_tokens < 0)
        return pfo_fail(error, PFO_ERROR_VALUE, "num_tokens", -1, "expected at least 1, or 0 for all, got %lld",
                        (long long)num_tokens);
    if (products < PFO_CUDA_PRODUCTS_DEFAULT || products > PFO_CUDA_PRODUCTS_F32)
        return pfo_fail(error, PFO_ERROR_VALUE, "products", -1, "expected a pfo_cuda_products, got %d", int(products));
    if (in->weight.shape[0] > INT32_MAX || in->weight.shape[1] > INT32_MAX)
        return pfo_fail(error, PFO_ERROR_SHAPE, "weight", -1, "expected fewer than 2^31 rows and columns");
    return PFO_OK;
}

/* ---- cuts -------------------------------------------------------------------------------------------------------- */

static int64_t cut(int64_t size)
{
    if (size < 256) return size / EIGHT * EIGHT;
    int64_t power = 256;
    while (power * 2 <= size) power *= 2;
    return power;
}

static int64_t root_of(int64_t value)
{
    int64_t root = 1;
    while ((root + 1) * (root + 1) <= value) root++;
    return root;
}

/* Squares keep what is read again and again, rows of hidden and weight and sums, smallest. */
static void cut_spans(Linear *l)
{
    const int64_t wide = 4 * (1 + (l->needs.moments ? 1 : 0)); /* bytes of each element of x */
    const int64_t halves = l->needs.gradients && l->dtype == PFO_BF16 ? wide / 2 : 0;
    int cache = 0;
    cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, l->call->device);
    int64_t budget = l->in->memory_limit ? l->in->memory_limit : int64_t(cache) / 2;
    if (!l->in->memory_limit && budget < LEAST_BUDGET) budget = LEAST_BUDGET;
    const int64_t elements = budget / (wide + halves);
    const int64_t rows = l->rows > 1 ? l->rows : 1;
    l->token_span = cut(root_of(elements));
    if (elements / l->vocab > l->token_span) l->token_span = cut(elements / l->vocab);
    if (l->token_span < 1) l->token_span = 1;
    if (l->token_span > rows) l->token_span = rows;
    l->vocab_span = cut(elements / l->token_span);
    if (l->vocab_span < FEWEST_COLUMNS) l->vocab_span = FEWEST_COLUMNS;
    if (elements / l->token_span >= l->vocab || l->vocab_span > l->vocab) l->vocab_span = l->vocab;
    l->ld = (l->vocab_span + EIGHT - 1) / EIGHT * EIGHT;
    l->tiles = (l->vocab + l->vocab_span - 1) / l->vocab_span;
    l->plan = plan_rows(l->token_span, l->vocab_span * 4, multiprocessors(l->call));
}

pfo_status linear_setup(Linear *l, const pfo_linear_inputs *in, int64_t num_tokens, int32_t products, TileNeeds needs,
                        const pfo_cuda_call *call, const RowView *vectors, int vector_count, pfo_error *error)
{
    constexpr int MOST = 2 + PFO_TOKEN_OUTPUTS + 6;
    RowView views[MOST] = {{&in->hidden, 1, &l->hidden}, {&in->labels, 0, &l->labels}};
    for (int k = 0; k < vector_count; k++) views[2 + k] = vectors[k];
    const pfo_status status = split_rows(views, 2 + vector_count, &l->token_rows, error);
    if (status != PFO_OK) return status;
    l->in = in;
    l->call = call;
    l->needs = needs;
    l->tokens = l->token_rows.count;
    l->is_compact = num_tokens > 0 && num_tokens < l->tokens;
    l->rows = l->is_compact ? num_tokens : l->tokens;
    l->hidden_size = in->hidden.shape[in->hidden.ndim - 1];
    l->vocab = in->weight.shape[0];
    l->vocab_total = in->vocab_total ? in->vocab_total : l->vocab;
    l->rank = pfo_present(&in->lora_a) ? in->lora_a.shape[0] : 0;
    l->has_transform = pfo_present(&in->bias) || in->softcap > 0.0;
    l->alpha = l->has_transform ? 1.0f : float(in->logit_scale / in->temperature);
    choose_operands(l, products);
    cut_spans(l);
    return PFO_OK;
}

void linear_take(Linear *l, Arena *arena, int64_t hidden_rows)
{
    const int64_t size = pfo_dtype_size(l->dtype), pairs = l->token_span * l->ld;
    const bool has_halves = l->needs.gradients && l->dtype == PFO_BF16;
    l->row_list = arena->take<LinearRow>(l->rows);
    l->live_count = arena->take<int64_t>(1);
    l->bias = arena->take<float>(pfo_present(&l->in->bias) ? l->vocab + EIGHT : 0); /* read by eights */
    l->lora_a = arena->take<float>(l->rank * l->hidden_size);
    l->lora_b = arena->take<float>(l->vocab * l->rank);
    l->hidden_pack = static_cast<char *>(arena->take_bytes(l->packs_hidden ? hidden_rows * l->hidden_size * size : 0));
    l->weight_pack =
        static_cast<char *>(arena->take_bytes(l->packs_weight ? l->vocab_span * l->hidden_size * size : 0));
    l->hidden_wide = arena->take<float>(l->rank > 0 ? l->token_span * l->hidden_size : 0);
    l->x = arena->take<float>(pairs);
    l->moments = arena->take<float>(l->needs.moments ? pairs : 0);
    l->narrow[0] = arena->take<__nv_bfloat16>(has_halves ? pairs : 0);
    l->narrow[1] = arena->take<__nv_bfloat16>(has_halves && l->needs.moments ? pairs : 0);
    l->cublas_bytes = cublas_workspace(l->call);
    l->cublas = arena->take_bytes(l->cublas_bytes);
}

} // namespace pfo
