#include "linear_finish.cuh"

#include "elements.cuh"

namespace pfo
{

constexpr unsigned ROW_THREADS = 64;
constexpr int HIDDEN_THREADS = 256;

/* ---- statistics -------------------------------------------------------------------------------------------------- */

__device__ inline void write_stats(const RowArray *outputs, Row row, const pfo_row_stats &stats, bool is_correct)
{
    write_value(outputs[PFO_TOKEN_LOGPS], row, stats.logp);
    write_value(outputs[PFO_TOKEN_LSE], row, stats.lse);
    write_value(outputs[PFO_TOKEN_ENTROPY], row, stats.entropy);
    write_value(outputs[PFO_TOKEN_CORRECT], row, is_correct);
    write_value(outputs[PFO_TOKEN_MEAN_LOGIT], row, stats.mean_logit);
    write_value(outputs[PFO_TOKEN_MAX_LOGIT], row, stats.max_logit);
    write_value(outputs[PFO_TOKEN_LSE2], row, stats.lse2);
}

/* A state as doubles, in the order of the struct's fields: pfo_row_state_store and _load of core/row_state.c. */
constexpr int STATE_FIELDS = 9;
__device__ inline void store_state(const pfo_row_state &state, double *out)
{
    out[0] = state.max, out[1] = state.sum_exp, out[2] = state.sum_x_exp, out[3] = state.sum_exp2;
    out[4] = state.sum_x, out[5] = state.target, out[6] = double(state.best), out[7] = double(state.count);
    out[8] = double(state.has_target);
}
__device__ inline pfo_row_state load_state(const double *in)
{
    return {in[0], in[1], in[2], in[3], in[4], in[5], int64_t(in[6]), int64_t(in[7]), int64_t(in[8])};
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

__device__ inline void write_topk(const FinishRows &in, int index, Row row, const pfo_row_stats &stats)
{
    if (in.top.k == 0) return;
    const int64_t start = int64_t(index) * in.top.k;
    auto *ids = reinterpret_cast<int64_t *>(row_at(in.topk_ids, row));
    auto *logps = reinterpret_cast<float *>(row_at(in.topk_logps, row));
    const int held = isnan(stats.lse) ? 0 : in.top.held[index];
    for (int k = 0; k < in.top.k; k++) {
        const double value = k < held ? double(in.top.values[start + k]) - stats.max_logit : double(NAN);
        ids[k] = k < held ? in.top.ids[start + k] : -1;
        logps[k] = float(value - (stats.lse - stats.max_logit));
    }
}

/* d lse = chain sums / S, d logp = chain cap'_y w_y - d lse, and the entropy's -chain (moments / S - (sum_x_exp / S)
 * sums / S): as the CPU's pfo_linear_sums_finish. */
__device__ inline HiddenRow hidden_row(const FinishRows &in, const LinearRow &row, const pfo_row_state &state,
                                       const pfo_row_stats &stats)
{
    const double chain = isfinite(stats.lse) ? in.chain : double(NAN), capped = state.target * in.cap_slope;
    HiddenRow out;
    out.share = float(chain / state.sum_exp);
    out.mean = float(state.sum_x_exp / state.sum_exp);
    out.at_label = float(in.cap_slope == 0.0 ? chain : chain * (1.0 - capped * capped));
    out.is_live = row.kind == ROW_LIVE;
    return out;
}

/* A thread a row. */
__global__ void __launch_bounds__(ROW_THREADS) finish_linear_rows(FinishRows in)
{
    const int index = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (index >= in.count) return;
    const LinearRow row = in.rows[index];
    if (row.kind != ROW_LIVE && row.kind != ROW_BAD_LABEL) return;
    const Row place = row_of(in.token_rows, unsigned(row.place));
    pfo_row_state state;
    pfo_row_stats stats;
    device_row_state_init(&state);
    for (int64_t k = 0; k < in.states_per_row; k++)
        device_row_state_merge(&state, &in.states[index * in.states_per_row + k]);
    device_row_state_finish(&state, &stats);
    write_stats(in.outputs, place, stats, row.kind == ROW_LIVE && stats.best == row.label);
    if (in.states_out.data) store_state(state, reinterpret_cast<double *>(row_at(in.states_out, place)));
    write_topk(in, index, place, stats);
    if (in.hidden) in.hidden[index] = hidden_row(in, row, state, stats);
}

/* ---- gradients by hidden ----------------------------------------------------------------------------------------- */

struct FinishHidden {
    const LinearRow *rows;
    const HiddenRow *hidden;
    Rows token_rows;
    RowArray grads[HIDDEN_GRADS];
    const float *sums, *moments;
    const char *weight;
    int64_t weight_stride; /* bytes */
    const float *lora_a, *lora_b;
    int64_t vocab_start;
    int hidden_size, rank;
};

/* Entry h of the label's row of the whole head, weight[y] + lora_b[y] lora_a. */
template <typename T> __device__ float label_weight(const FinishHidden &in, int64_t label, int h)
{
    float value = Dtype<T>::widen(reinterpret_cast<const T *>(in.weight + label * in.weight_stride)[h]);
    for (int r = 0; r < in.rank; r++)
        value = fmaf(in.lora_b[label * in.rank + r], in.lora_a[int64_t(r) * in.hidden_size + h], value);
    return value;
}

__device__ inline float *grad_at(const FinishHidden &in, int which, Row place)
{
    return in.grads[which].data ? reinterpret_cast<float *>(row_at(in.grads[which], place)) : nullptr;
}

/* A block a row. */
template <typename T> __global__ void __launch_bounds__(HIDDEN_THREADS) finish_hidden_row(FinishHidden in)
{
    const LinearRow row = in.rows[blockIdx.x];
    if (row.kind != ROW_LIVE && row.kind != ROW_BAD_LABEL) return;
    const HiddenRow by = in.hidden[blockIdx.x];
    const Row place = row_of(in.token_rows, unsigned(row.place));
    float *logps = grad_at(in, HIDDEN_LOGPS, place), *lse = grad_at(in, HIDDEN_LSE, place),
          *entropy = grad_at(in, HIDDEN_ENTROPY, place);
    const int64_t start = int64_t(blockIdx.x) * in.hidden_size;
    for (int h = int(threadIdx.x); h < in.hidden_size; h += HIDDEN_THREADS) {
        const float sum = in.sums[start + h], by_lse = by.is_live ? by.share * sum : 0.0f;
        if (entropy) entropy[h] = by.is_live ? -by.share * fmaf(-by.mean, sum, in.moments[start + h]) : 0.0f;
        if (lse) lse[h] = by_lse;
        if (logps)
            logps[h] =
                by.is_live ? fmaf(by.at_label, label_weight<T>(in, row.label - in.vocab_start, h), -by_lse) : 0.0f;
    }
}

/* ---- tokens that are no rows ------------------------------------------------------------------------------------- */

struct FinishRest {
    FinishRows finish;
    RowArray labels;
    int64_t ignore_index, rows;
    const int64_t *live_count; /* NULL: every token is a row */
    int hidden_size;
};

/* A block a token. */
__global__ void __launch_bounds__(ROW_THREADS) finish_no_rows(FinishRest in)
{
    const FinishRows &out = in.finish;
    const Row place = row_of(out.token_rows, blockIdx.x);
    const bool is_ignored = read_int(row_at(in.labels, place), in.labels.dtype) == in.ignore_index;
    if (!is_ignored && !(in.live_count && *in.live_count > in.rows)) return;
    const double value = is_ignored ? 0.0 : double(NAN);
    for (int which = 0; which < HIDDEN_GRADS; which++) {
        if (!out.grads[which].data) continue;
        auto *grad = reinterpret_cast<float *>(row_at(out.grads[which], place));
        for (int h = int(threadIdx.x); h < in.hidden_size; h += ROW_THREADS) grad[h] = float(value);
    }
    if (threadIdx.x != 0) return;
    write_stats(out.outputs, place, {value, value, value, value, value, value, 0}, false);
    for (int k = 0; k < out.top.k; k++) {
        reinterpret_cast<int64_t *>(row_at(out.topk_ids, place))[k] = -1;
        reinterpret_cast<float *>(row_at(out.topk_logps, place))[k] = float(value);
    }
    if (!out.states_out.data) return;
    pfo_row_state state;
    device_row_state_init(&state);
    if (!is_ignored) state.sum_exp = value;
    store_state(state, reinterpret_cast<double *>(row_at(out.states_out, place)));
}

/* ---- host -------------------------------------------------------------------------------------------------------- */

int finish_views(const pfo_linear_token_logps_args *args, FinishRows *finish, RowView *views)
{
    const pfo_view *stats[PFO_TOKEN_OUTPUTS];
    pfo_linear_outputs(args, stats);
    int count = 0;
    for (int k = 0; k < PFO_TOKEN_OUTPUTS; k++) views[count++] = {stats[k], 0, &finish->outputs[k]};
    views[count++] = {&args->states, 1, &finish->states_out};
    views[count++] = {&args->topk_ids, 1, &finish->topk_ids};
    views[count++] = {&args->topk_logps, 1, &finish->topk_logps};
    views[count++] = {&args->grad_hidden_logps, 1, &finish->grads[HIDDEN_LOGPS]};
    views[count++] = {&args->grad_hidden_lse, 1, &finish->grads[HIDDEN_LSE]};
    views[count++] = {&args->grad_hidden_entropy, 1, &finish->grads[HIDDEN_ENTROPY]};
    finish->chain = args->in.logit_scale / args->in.temperature;
    finish->cap_slope = args->in.softcap > 0.0 ? args->in.temperature / args->in.softcap : 0.0;
    return count;
}

void take_finish(const Linear *l, int topk, int64_t token_span, FinishRows *finish, Arena *arena)
{
    finish->token_rows = l->token_rows;
    finish->top.k = topk;
    finish->top.values = arena->take<float>(token_span * topk);
    finish->top.ids = arena->take<int32_t>(token_span * topk);
    finish->top.held = arena->take<int32_t>(topk ? token_span : 0);
    finish->hidden = arena->take<HiddenRow>(l->needs.gradients ? token_span : 0);
}

template <typename T>
static pfo_status finish_hidden_rows(const Linear *l, const FinishRows &finish, const FinishHidden &hidden,
                                     pfo_error *error)
{
    return launch(l->call, unsigned(finish.count), dim3(HIDDEN_THREADS), finish_hidden_row<T>, error, hidden);
}

pfo_status finish_span(const Linear *l, FinishRows finish, const float *sums, const float *moments, pfo_error *error)
{
    const pfo_status status =
        launch(l->call, blocks_for(finish.count, ROW_THREADS), dim3(ROW_THREADS), finish_linear_rows, error, finish);
    if (status != PFO_OK || !l->needs.gradients) return status;
    const pfo_view *weight = &l->in->weight;
    const FinishHidden hidden = {finish.rows,
                                 finish.hidden,
                                 finish.token_rows,
                                 {finish.grads[0], finish.grads[1], finish.grads[2]},
                                 sums,
                                 moments,
                                 static_cast<const char *>(weight->data),
                                 weight->strides_bytes[0],
                                 l->lora_a,
                                 l->lora_b,
                                 l->in->vocab_start,
                                 int(l->hidden_size),
                                 int(l->rank)};
    switch (weight->dtype) {
    case PFO_F16: return finish_hidden_rows<__half>(l, finish, hidden, error);
    case PFO_BF16: return finish_hidden_rows<__nv_bfloat16>(l, finish, hidden, error);
    default: return finish_hidden_rows<float>(l, finish, hidden, error);
    }
}

pfo_status finish_rest(const Linear *l, FinishRows finish, pfo_error *error)
{
    finish.token_rows = l->token_rows;
    const FinishRest rest = {
        finish, l->labels, l->in->ignore_index, l->rows, l->is_compact ? l->live_count : nullptr, int(l->hidden_size)};
    return launch(l->call, unsigned(l->tokens), dim3(ROW_THREADS), finish_no_rows, error, rest);
}

/* ---- states of a vocabulary's parts ------------------------------------------------------------------------------ */

struct FinishStates {
    Rows rows;
    RowArray states, labels, outputs[PFO_TOKEN_OUTPUTS]; /* states: of the first part */
    int64_t parts, part_bytes, ignore_index;
};

/* A thread a row. */
__global__ void __launch_bounds__(ROW_THREADS) finish_states(FinishStates in)
{
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= in.rows.count) return;
    const Row row = row_of(in.rows, index);
    const int64_t label = read_int(row_at(in.labels, row), in.labels.dtype);
    pfo_row_state state;
    pfo_row_stats stats = {};
    if (label != in.ignore_index) {
        device_row_state_init(&state);
        for (int64_t part = 0; part < in.parts; part++) {
            const pfo_row_state next =
                load_state(reinterpret_cast<const double *>(row_at(in.states, row) + part * in.part_bytes));
            device_row_state_merge(&state, &next);
        }
        device_row_state_finish(&state, &stats);
    }
    write_stats(in.outputs, row, stats, label != in.ignore_index && stats.best == label);
}

} // namespace pfo

pfo_status pfo_cuda_row_states_finish(const pfo_row_states_args *args, const pfo_cuda_call *call, pfo_error *error)
{
    pfo_clear(error);
    pfo_status status = pfo_check_row_states(args, error);
    if (status != PFO_OK) return status;
    pfo::FinishStates in = {};
    const pfo_view *outputs[PFO_TOKEN_OUTPUTS];
    pfo_row_states_outputs(args, outputs);
    pfo_view first = args->states; /* its leading axis is the parts' */
    first.ndim--;
    for (int axis = 0; axis < first.ndim; axis++) {
        first.shape[axis] = args->states.shape[axis + 1];
        first.strides_bytes[axis] = args->states.strides_bytes[axis + 1];
    }
    pfo::RowView views[2 + PFO_TOKEN_OUTPUTS] = {{&first, 1, &in.states}, {&args->labels, 0, &in.labels}};
    for (int k = 0; k < PFO_TOKEN_OUTPUTS; k++) views[2 + k] = {outputs[k], 0, &in.outputs[k]};
    status = pfo::split_rows(views, 2 + PFO_TOKEN_OUTPUTS, &in.rows, error);
    if (status != PFO_OK) return status;
    in.parts = args->states.shape[0];
    in.part_bytes = pfo_leading_size(&args->labels, 0) * pfo::STATE_FIELDS * 8;
    in.ignore_index = args->ignore_index;
    const pfo::OnDevice on(call, 0, error);
    if (on.status != PFO_OK) return on.status;
    return pfo::launch(call, pfo::blocks_for(in.rows.count, pfo::ROW_THREADS), dim3(pfo::ROW_THREADS),
                       pfo::finish_states, error, in);
}
