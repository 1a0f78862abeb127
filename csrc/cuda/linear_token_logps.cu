/* linear_token_logps: token log-probabilities from hidden states, and in the same sweep their gradients by hidden.
 *
 * For each span of rows, for each span of the vocabulary:
 *   x           by cuBLAS (linear_tiles.cu)
 *   fold        one read: a row state for each row and piece of the tile, kept to the end of the span of rows
 *   weigh       for gradients: e = exp(x - m), and e (x - m), m the row's maximum so far; where that has risen, the
 *               sums so far are rescaled
 *   sums        += e weight by cuBLAS
 * Then the states of a row are merged, in the order of the vocabulary, and become results. */
#include "linear.cuh"
#include "row_sums.cuh"

#include "linear_finish.cuh"

namespace pfo
{

struct Forward {
    Linear l;
    const pfo_linear_token_logps_args *args;
    int level, topk;
    FinishRows finish; /* with the outputs, but for the span */

    /* Workspace, of a span of rows. */
    pfo_row_state *states; /* [token_span, tiles, parts] */
    float *lora_hidden;    /* [token_span, r] */
    float *references[2];  /* [token_span] m before and after a tile, taking turns */
    float *sums[2], *lora_sums[2];
};

/* ---- fold -------------------------------------------------------------------------------------------------------- */

struct Fold {
    TileView tile;
    pfo_row_state *states; /* of this tile: row r, part p at [r * states_per_row + p] */
    int64_t states_per_row;
    RealNumber scale; /* of x, which has the temperature in it */
};

template <int LEVEL, int THREADS> __global__ void __launch_bounds__(BLOCK_THREADS) fold_tile(Fold in)
{
    const Piece piece = piece_of(in.tile);
    if (piece.row >= in.tile.count) return; /* the whole team */
    const LinearRow row = in.tile.rows[piece.row];
    if (row.kind != ROW_LIVE && row.kind != ROW_BAD_LABEL) return; /* the whole team */
    const float *x = row_of(in.tile, piece);
    RowSums<float, LEVEL, THREADS> sums(in.scale, 1.0);
    sums.read(x, piece.begin, piece.end);
    pfo_row_state state;
    sums.combine(x, piece.begin, piece.end, &state);
    if (threadIdx.x != 0) return;
    if (state.best >= 0) state.best += in.tile.entry;
    const int64_t at = row.label - in.tile.entry;
    if (row.kind == ROW_LIVE && at >= piece.begin && at < piece.end) {
        state.target = double(x[at]);
        state.has_target = 1;
    }
    in.states[piece.row * in.states_per_row + part_of(in.tile, piece)] = state;
}

template <int LEVEL> static pfo_status fold_level(const Linear *l, const Fold &fold, pfo_error *error)
{
    const unsigned blocks = piece_blocks(l, fold.tile.count);
    if (l->plan.threads == 32) return launch(l->call, blocks, piece_threads(l), fold_tile<LEVEL, 32>, error, fold);
    return launch(l->call, blocks, piece_threads(l), fold_tile<LEVEL, BLOCK_THREADS>, error, fold);
}

static pfo_status fold(const Forward *f, const Tile &tile, int64_t index, pfo_error *error)
{
    const Linear *l = &f->l;
    const Fold in = {view_of(l, tile), f->states + index * l->plan.parts, l->tiles * l->plan.parts, scale_of(1.0)};
    switch (f->level) {
    case PFO_FOLD_LSE: return fold_level<PFO_FOLD_LSE>(l, in, error);
    case PFO_FOLD_ENTROPY: return fold_level<PFO_FOLD_ENTROPY>(l, in, error);
    default: return fold_level<PFO_FOLD_ALL>(l, in, error);
    }
}

/* ---- the k largest ----------------------------------------------------------------------------------------------- */

struct Topk {
    TileView tile;
    bool is_first;
    TopRows top;
};

/* A warp a row. Thirty-two entries are looked at together; those above the least one held come in, in their order. */
__global__ void __launch_bounds__(BLOCK_THREADS) topk_tile(Topk in)
{
    const int row = int(blockIdx.x * blockDim.y + threadIdx.y), lane = int(threadIdx.x), k = in.top.k;
    if (row >= int(in.tile.count)) return; /* the whole warp */
    const float *x = in.tile.x + int64_t(row) * in.tile.ld;
    float *values = in.top.values + int64_t(row) * k;
    int32_t *ids = in.top.ids + int64_t(row) * k;
    int held = in.is_first ? 0 : in.top.held[row];
    for (int first = 0; first < in.tile.columns; first += 32) {
        const int v = first + lane;
        const float value = v < in.tile.columns ? x[v] : NAN; /* NaN is passed over */
        const bool enters = held < k ? value == value : value > values[k - 1];
        unsigned waiting = __ballot_sync(WHOLE_WARP, enters);
        for (; waiting != 0; waiting &= waiting - 1) {
            const int from = __ffs(int(waiting)) - 1;
            const float next = __shfl_sync(WHOLE_WARP, value, from);
            if (held == k && !(next > values[k - 1])) continue;
            __syncwarp(); /* everybody has read the least one */
            if (lane == 0) {
                int at = held < k ? held : k - 1;
                for (; at > 0 && next > values[at - 1]; at--) {
                    values[at] = values[at - 1];
                    ids[at] = ids[at - 1];
                }
                values[at] = next;
                ids[at] = int32_t(in.tile.entry) + first + from;
            }
            if (held < k) held++;
            __syncwarp(); /* it is written */
        }
    }
    __syncwarp(); /* everybody has read how many there were */
    if (lane == 0) in.top.held[row] = held;
}

static pfo_status find_topk(const Forward *f, const Tile &tile, bool is_first, pfo_error *error)
{
    if (f->topk == 0) return PFO_OK;
    constexpr unsigned WARPS = BLOCK_THREADS / 32;
    const Topk in = {view_of(&f->l, tile), is_first, f->finish.top};
    return launch(f->l.call, blocks_for(tile.rows, WARPS), dim3(32, WARPS), topk_tile, error, in);
}

/* ---- weigh ------------------------------------------------------------------------------------------------------- */

struct Weigh {
    TileView tile;
    const pfo_row_state *states;
    int64_t states_per_row;
    const float *reference; /* NULL before the first tile */
    float *new_reference;
    float *moments;
    __nv_bfloat16 *narrow, *narrow_moments; /* NULL: x and moments are multiplied themselves */
    bool keeps_wide;                        /* LoRA multiplies x and moments also where there is `narrow` */
    float cap_slope;                        /* temperature / softcap, or 0 */
    float *sums[2], *lora_sums[2];          /* of the row spans; the second: of the moments */
    int hidden_size, rank;
};

/* sums and moments of a row from maximum `from` to a higher one: e^(x - m), and e^(x - m) (x - m). The whole team. */
__device__ inline void rescale(float *sums, float *moments, int64_t width, float shift, float factor)
{
    for (int64_t h = threadIdx.x; h < width; h += blockDim.x) {
        const float sum = sums[h];
        sums[h] = factor == 0.0f ? 0.0f : factor * sum;
        if (moments) moments[h] = factor == 0.0f ? 0.0f : factor * fmaf(shift, sum, moments[h]);
    }
}

__device__ inline void raise_row(const Weigh &in, int64_t row, float from, float to)
{
    if (in.reference == nullptr || !(to > from)) return;
    const float shift = from - to;
    const float factor = isinf(from) ? 0.0f : Arithmetic<float>::power(shift * float(Arithmetic<float>::PER_NAT));
    const int64_t start = row * in.hidden_size, lora = row * in.rank;
    rescale(in.sums[0] + start, in.sums[1] ? in.sums[1] + start : nullptr, in.hidden_size, shift, factor);
    if (in.rank > 0)
        rescale(in.lora_sums[0] + lora, in.sums[1] ? in.lora_sums[1] + lora : nullptr, in.rank, shift, factor);
}

/* A team a piece. */
template <bool NARROW, bool MOMENTS> __global__ void __launch_bounds__(BLOCK_THREADS) weigh_tile(Weigh in)
{
    const Piece piece = piece_of(in.tile);
    if (piece.row >= in.tile.count) return;
    const int kind = in.tile.rows[piece.row].kind;
    if (kind != ROW_LIVE && kind != ROW_BAD_LABEL) return;
    const float before = in.reference ? in.reference[piece.row] : -INFINITY;
    float max = before;
    for (int part = 0; part < in.tile.parts; part++)
        max = fmaxf(max, float(in.states[piece.row * in.states_per_row + part].max));
    if (part_of(in.tile, piece) == 0) {
        if (threadIdx.x == 0) in.new_reference[piece.row] = max;
        raise_row(in, piece.row, before, max);
    }
    const int64_t start = int64_t(piece.row) * in.tile.ld;
    const bool has_none = isinf(max); /* no distribution, or none yet: nothing to add */
    for (int first = piece.begin + int(threadIdx.x) * EIGHT; first < piece.end; first += int(blockDim.x) * EIGHT) {
        float values[EIGHT], moments[EIGHT];
        load_eight(in.tile.x + start + first, values);
        PFO_UNROLL
        for (int k = 0; k < EIGHT; k++) {
            const float d = values[k] - max, t = values[k] * in.cap_slope;
            float e = Arithmetic<float>::power(d * float(Arithmetic<float>::PER_NAT));
            if (in.cap_slope != 0.0f) e *= fmaf(-t, t, 1.0f);
            values[k] = has_none ? 0.0f : e;
            moments[k] = has_none ? 0.0f : e * fmaxf(d, -FLT_MAX); /* -inf times 0 */
        }
        if (!NARROW || in.keeps_wide) {
            store_eight(in.tile.x + start + first, values);
            if (MOMENTS) store_eight(in.moments + start + first, moments);
        }
        if (NARROW) {
            Pack<__nv_bfloat16>::of(values).store(in.narrow + start + first);
            if (MOMENTS) Pack<__nv_bfloat16>::of(moments).store(in.narrow_moments + start + first);
        }
    }
}

static pfo_status weigh(const Forward *f, const Tile &tile, int64_t index, pfo_error *error)
{
    const Linear *l = &f->l;
    const bool is_first = index == 0, has_moments = l->needs.moments;
    const pfo_linear_inputs *in = &f->args->in;
    const Weigh w = {view_of(l, tile),
                     f->states + index * l->plan.parts,
                     l->tiles * l->plan.parts,
                     is_first ? nullptr : f->references[index % 2],
                     f->references[(index + 1) % 2],
                     l->moments,
                     l->narrow[0],
                     l->narrow[1],
                     l->rank > 0,
                     in->softcap > 0.0 ? float(in->temperature / in->softcap) : 0.0f,
                     {f->sums[0], f->sums[1]},
                     {f->lora_sums[0], f->lora_sums[1]},
                     int(l->hidden_size),
                     int(l->rank)};
    const unsigned blocks = piece_blocks(l, tile.rows);
    const dim3 threads = piece_threads(l);
    pfo_status status = PFO_OK;
    if (l->narrow[0] && has_moments)
        status = launch(l->call, blocks, threads, weigh_tile<true, true>, error, w);
    else if (l->narrow[0])
        status = launch(l->call, blocks, threads, weigh_tile<true, false>, error, w);
    else if (has_moments)
        status = launch(l->call, blocks, threads, weigh_tile<false, true>, error, w);
    else
        status = launch(l->call, blocks, threads, weigh_tile<false, false>, error, w);
    return status;
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

static pfo_status run_tile(const Forward *f, const Cublas &cublas, const Tile &tile, int64_t index, pfo_error *error)
{
    const Linear *l = &f->l;
    pfo_status status = linear_logits(l, cublas, tile, f->lora_hidden, error);
    if (status == PFO_OK) status = fold(f, tile, index, error);
    if (status == PFO_OK) status = find_topk(f, tile, index == 0, error);
    if (status != PFO_OK || !l->needs.gradients) return status;
    status = weigh(f, tile, index, error);
    for (int which = 0; which < 2 && status == PFO_OK; which++)
        if (f->sums[which])
            status = linear_times_head(l, cublas, tile, which, f->sums[which], f->lora_sums[which], index == 0, error);
    return status;
}

static pfo_status run_span(const Forward *f, const Cublas &cublas, int64_t first, int64_t count, pfo_error *error)
{
    const Linear *l = &f->l;
    Tile tile = {};
    tile.row = first;
    tile.rows = count;
    Operand wide;
    pfo_status status = linear_take_hidden(l, first, count, 0, &tile.hidden, error);
    if (status == PFO_OK) status = linear_lora_hidden(l, cublas, first, count, f->lora_hidden, &wide, error);
    for (int64_t index = 0; status == PFO_OK && index < l->tiles; index++) {
        tile.entry = index * l->vocab_span;
        tile.columns = smaller_of(l->vocab_span, l->vocab - tile.entry);
        status = linear_take_weight(l, tile.entry, tile.columns, &tile.weight, error);
        if (status == PFO_OK) status = run_tile(f, cublas, tile, index, error);
    }
    for (int which = 0; which < 2 && status == PFO_OK; which++)
        if (f->sums[which]) status = linear_add_lora(l, cublas, count, f->lora_sums[which], f->sums[which], error);
    if (status != PFO_OK) return status;
    FinishRows finish = f->finish;
    finish.rows = l->row_list + first;
    finish.count = int(count);
    finish.states = f->states;
    finish.states_per_row = l->tiles * l->plan.parts;
    return finish_span(l, finish, f->sums[0], f->sums[1], error);
}

static void take(Forward *f, Arena *arena)
{
    Linear *l = &f->l;
    const int64_t span = l->token_span;
    linear_take(l, arena, span);
    f->states = arena->take<pfo_row_state>(span * l->tiles * l->plan.parts);
    f->lora_hidden = arena->take<float>(span * l->rank);
    for (int which = 0; which < 2; which++) {
        const bool is_made = which == 0 ? l->needs.gradients : l->needs.moments;
        f->references[which] = arena->take<float>(l->needs.gradients ? span : 0);
        f->sums[which] = arena->take<float>(is_made ? span * l->hidden_size : 0);
        f->lora_sums[which] = arena->take<float>(is_made ? span * l->rank : 0);
    }
    take_finish(l, f->topk, span, &f->finish, arena);
}

/* Everything but the workspace. */
static pfo_status prepare(Forward *f, const pfo_cuda_linear_token_logps_args *args, const pfo_cuda_call *call,
                          pfo_error *error)
{
    const pfo_linear_token_logps_args *linear = &args->linear;
    f->args = linear;
    if (pfo_present(&linear->kept)) return pfo_fail(error, PFO_ERROR_VALUE, "kept", -1, "expected none on CUDA");
    pfo_status status = linear_check(&linear->in, args->num_tokens, args->products, error);
    if (status == PFO_OK) status = pfo_check_linear_token_logps(linear, 0, error);
    if (status != PFO_OK) return status;
    const bool gradients = pfo_present(&linear->grad_hidden_logps) || pfo_present(&linear->grad_hidden_lse);
    const TileNeeds needs = {gradients, pfo_present(&linear->grad_hidden_entropy) != 0, false};
    f->topk = pfo_present(&linear->topk_ids) ? int(linear->topk_ids.shape[linear->topk_ids.ndim - 1]) : 0;
    const bool has_states = pfo_present(&linear->states) != 0;
    f->level = has_states || pfo_present(&linear->lse2) || pfo_present(&linear->mean_logit) ? PFO_FOLD_ALL
               : pfo_present(&linear->entropy) || needs.moments                             ? PFO_FOLD_ENTROPY
                                                                                            : PFO_FOLD_LSE;
    RowView views[FINISH_VIEWS];
    const int count = finish_views(linear, &f->finish, views);
    return linear_setup(&f->l, &linear->in, args->num_tokens, args->products, needs, call, views, count, error);
}

} // namespace pfo

int64_t pfo_cuda_linear_token_logps_workspace(const pfo_cuda_linear_token_logps_args *args, const pfo_cuda_call *call)
{
    pfo::Forward f = {};
    if (pfo::prepare(&f, args, call, nullptr) != PFO_OK) return -1;
    pfo::Arena arena(nullptr);
    pfo::take(&f, &arena);
    return arena.bytes();
}

pfo_status pfo_cuda_linear_token_logps(const pfo_cuda_linear_token_logps_args *args, const pfo_cuda_call *call,
                                       pfo_error *error)
{
    pfo_clear(error);
    pfo::Forward f = {};
    pfo_status status = pfo::prepare(&f, args, call, error);
    if (status != PFO_OK) return status;
    const pfo::OnDevice on(call, pfo_cuda_linear_token_logps_workspace(args, call), error);
    if (on.status != PFO_OK || f.l.tokens == 0) return on.status;
    f.l.report = on.report;
    pfo::Arena arena(call->workspace);
    pfo::take(&f, &arena);
    const pfo::Cublas cublas(call, f.l.cublas, f.l.cublas_bytes, error);
    status = cublas.status;
    if (status == PFO_OK) status = pfo::linear_begin(&f.l, error);
    for (int64_t first = 0; status == PFO_OK && first < f.l.rows; first += f.l.token_span)
        status = pfo::run_span(&f, cublas, first, pfo::smaller_of(f.l.token_span, f.l.rows - first), error);
    return status == PFO_OK ? pfo::finish_rest(&f.l, f.finish, error) : status;
}
