/* token_logps: one read of each row of logits that is not ignored, all statistics.
 *
 * Two kernels. The first reads: a warp a row (of at most WARP_BYTES, eight rows a block), a block a row, or several
 * blocks where there are too few rows to fill the device; each leaves the state of its part in the workspace. The
 * second has a thread a row: it merges the parts in the order of the vocabulary, adds the target and makes the
 * statistics, so that the double arithmetic of 32 rows is done at once, and its text stands once and not in every
 * reader's. Reads the logits once; writes 72 bytes a part and the results. */
#include "plan.cuh"
#include "row_sums.cuh"
#include "rows.cuh"

namespace pfo
{

constexpr unsigned FINISH_THREADS = 64;

struct TokenLogps {
    Rows rows;
    RowArray logits, labels, outputs[PFO_TOKEN_OUTPUTS];
    int vocab, parts;
    int64_t ignore_index;
    double inv_temperature;
    RealNumber scale;
    uint64_t *report;
    pfo_row_state *states; /* [rows, parts] */
};

/* Blocks of (THREADS, rows a block) threads, one part of a row for each team of THREADS. */
template <typename T, int LEVEL, int THREADS> __global__ void __launch_bounds__(BLOCK_THREADS) fold_rows(TokenLogps in)
{
    const Piece piece = piece_of(in.rows.count, in.parts, in.vocab);
    if (piece.row >= in.rows.count) return; /* a whole warp: blocks have no row too many */
    const Row row = row_of(in.rows, piece.row);
    if (read_int(row_at(in.labels, row), in.labels.dtype) == in.ignore_index) return; /* the whole team */
    const T *x = reinterpret_cast<const T *>(row_at(in.logits, row));
    RowSums<T, LEVEL, THREADS> sums(in.scale, in.inv_temperature);
    sums.read(x, piece.begin, piece.end);
    pfo_row_state state;
    sums.combine(x, piece.begin, piece.end, &state);
    if (threadIdx.x == 0) in.states[piece.number] = state;
}

/* A thread a row. */
template <typename T> __global__ void finish_rows(TokenLogps in)
{
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= in.rows.count) return;
    const Row row = row_of(in.rows, index);
    const int64_t label = read_int(row_at(in.labels, row), in.labels.dtype);
    pfo_row_stats stats = {};
    bool is_correct = false;
    if (label != in.ignore_index) {
        const T *x = reinterpret_cast<const T *>(row_at(in.logits, row));
        const bool fits = label >= 0 && label < in.vocab;
        const double logit = fits ? double(Dtype<T>::widen(x[label])) : 0.0;
        pfo_row_state state;
        device_row_state_init(&state);
        for (int part = 0; part < in.parts; part++)
            device_row_state_merge(&state, &in.states[int64_t(index) * in.parts + part]);
        state.target = logit * in.inv_temperature;
        state.has_target = fits;
        device_row_state_finish(&state, &stats);
        is_correct = fits && stats.best == label;
        if (!fits) report_bad(in.report, REPORT_LABELS, index);
        /* logit / temperature and max / temperature were rounded apart; float64 results show it (1e-12 at 1e4). */
        if (sizeof(T) == 8 && in.inv_temperature != 1.0 && isfinite(stats.logp)) {
            const double top = double(Dtype<T>::widen(x[stats.best]));
            stats.logp += (logit - top) * in.inv_temperature - (state.target - state.max);
        }
    }
    write_value(in.outputs[PFO_TOKEN_LOGPS], row, stats.logp);
    write_value(in.outputs[PFO_TOKEN_LSE], row, stats.lse);
    write_value(in.outputs[PFO_TOKEN_ENTROPY], row, stats.entropy);
    write_value(in.outputs[PFO_TOKEN_CORRECT], row, is_correct);
    write_value(in.outputs[PFO_TOKEN_MEAN_LOGIT], row, stats.mean_logit);
    write_value(in.outputs[PFO_TOKEN_MAX_LOGIT], row, stats.max_logit);
    write_value(in.outputs[PFO_TOKEN_LSE2], row, stats.lse2);
}

/* ---- host -------------------------------------------------------------------------------------------------------- */

template <typename T, int LEVEL>
static pfo_status run_level(const TokenLogps &in, const Plan &plan, const pfo_cuda_call *call, pfo_error *error)
{
    const dim3 threads(unsigned(plan.threads), unsigned(plan.rows_per_block));
    if (plan.threads == 32) return launch(call, plan.blocks, threads, fold_rows<T, LEVEL, 32>, error, in);
    return launch(call, plan.blocks, threads, fold_rows<T, LEVEL, BLOCK_THREADS>, error, in);
}

template <typename T>
static pfo_status run(const TokenLogps &in, int level, const Plan &plan, const pfo_cuda_call *call, pfo_error *error)
{
    pfo_status status = PFO_OK;
    if (sizeof(T) == 8 || level == PFO_FOLD_ALL) /* double is rare: one kernel will do */
        status = run_level<T, PFO_FOLD_ALL>(in, plan, call, error);
    else if (level == PFO_FOLD_ENTROPY)
        status = run_level<T, sizeof(T) == 8 ? PFO_FOLD_ALL : PFO_FOLD_ENTROPY>(in, plan, call, error);
    else
        status = run_level<T, sizeof(T) == 8 ? PFO_FOLD_ALL : PFO_FOLD_LSE>(in, plan, call, error);
    if (status != PFO_OK) return status;
    return launch(call, (in.rows.count + FINISH_THREADS - 1) / FINISH_THREADS, dim3(FINISH_THREADS), finish_rows<T>,
                  error, in);
}

static Plan plan_of(const pfo_token_logps_args *args, const pfo_cuda_call *call)
{
    return plan_rows(pfo_leading_size(&args->logits, 1), row_bytes(&args->logits), multiprocessors(call));
}

static pfo_status arguments_of(const pfo_token_logps_args *args, TokenLogps *in, pfo_error *error)
{
    const pfo_view *outputs[PFO_TOKEN_OUTPUTS];
    pfo_token_outputs(args, outputs);
    RowView views[2 + PFO_TOKEN_OUTPUTS] = {{&args->logits, 1, &in->logits}, {&args->labels, 0, &in->labels}};
    for (int k = 0; k < PFO_TOKEN_OUTPUTS; k++) views[2 + k] = {outputs[k], 0, &in->outputs[k]};
    in->ignore_index = args->ignore_index;
    in->inv_temperature = 1.0 / args->temperature;
    in->scale = scale_of(args->temperature);
    const pfo_status status = split_rows(views, 2 + PFO_TOKEN_OUTPUTS, &in->rows, error);
    return status == PFO_OK ? vocab_of(&args->logits, "logits", &in->vocab, error) : status;
}

} // namespace pfo

int64_t pfo_cuda_token_logps_workspace(const pfo_token_logps_args *args, const pfo_cuda_call *call)
{
    if (pfo_check_token_logps(args, nullptr) != PFO_OK) return -1;
    return pfo_leading_size(&args->logits, 1) * pfo::plan_of(args, call).parts * int64_t(sizeof(pfo_row_state));
}

pfo_status pfo_cuda_token_logps(const pfo_token_logps_args *args, const pfo_cuda_call *call, pfo_error *error)
{
    pfo_clear(error);
    pfo::TokenLogps in = {};
    pfo_status status = pfo_check_token_logps(args, error);
    if (status == PFO_OK) status = pfo::arguments_of(args, &in, error);
    if (status != PFO_OK) return status;
    const pfo::OnDevice on(call, pfo_cuda_token_logps_workspace(args, call), error);
    if (on.status != PFO_OK) return on.status;
    in.report = on.report;
    const pfo::Plan plan = pfo::plan_of(args, call);
    const int level = pfo_present(&args->lse2) || pfo_present(&args->mean_logit) ? PFO_FOLD_ALL
                      : pfo_present(&args->entropy)                              ? PFO_FOLD_ENTROPY
                                                                                 : PFO_FOLD_LSE;
    in.parts = plan.parts;
    in.states = static_cast<pfo_row_state *>(call->workspace);
    switch (args->logits.dtype) {
    case PFO_F16: return pfo::run<__half>(in, level, plan, call, error);
    case PFO_BF16: return pfo::run<__nv_bfloat16>(in, level, plan, call, error);
    case PFO_F32: return pfo::run<float>(in, level, plan, call, error);
    default: return pfo::run<double>(in, level, plan, call, error);
    }
}
