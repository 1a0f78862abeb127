/* pair_token_stats: one read of a policy's and a reference's row, together. A block a row leaves the pair state in the
 * workspace; a second kernel, a thread a row, makes the statistics of it. */
#include "pair_sums.cuh"
#include "plan.cuh"
#include "rows.cuh"

namespace pfo
{

struct PairStats {
    Rows rows;
    RowArray policy, ref, labels, outputs[PFO_PAIR_OUTPUTS];
    int vocab;
    int64_t ignore_index;
    double inv_temperature;
    RealNumber scale, perturbation; /* perturbation 0: no perturbed rows */
    uint64_t *report;
    pfo_pair_state *states; /* [rows] */
};

template <typename T, bool PERTURBED> __global__ void __launch_bounds__(BLOCK_THREADS) fold_pairs(PairStats in)
{
    const Row row = row_of(in.rows, blockIdx.x);
    if (read_int(row_at(in.labels, row), in.labels.dtype) == in.ignore_index) return; /* the whole block */
    PairSums<T, PERTURBED, BLOCK_THREADS> sums(in.scale, in.inv_temperature, in.perturbation);
    sums.read(reinterpret_cast<const T *>(row_at(in.policy, row)), reinterpret_cast<const T *>(row_at(in.ref, row)),
              in.vocab);
    pfo_pair_state state;
    sums.combine(&state);
    if (threadIdx.x == 0) in.states[blockIdx.x] = state;
}

/* A thread a row. */
template <typename T> __global__ void finish_pairs(PairStats in)
{
    using Real = typename Dtype<T>::Real;
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= in.rows.count) return;
    const Row row = row_of(in.rows, index);
    const int64_t label = read_int(row_at(in.labels, row), in.labels.dtype);
    if (label == in.ignore_index) {
        PFO_UNROLL
        for (int k = 0; k < PFO_PAIR_OUTPUTS; k++) write_value(in.outputs[k], row, 0.0);
        return;
    }
    const bool fits = label >= 0 && label < in.vocab;
    if (!fits) report_bad(in.report, REPORT_LABELS, index);
    const Real x = fits ? Dtype<T>::widen(reinterpret_cast<const T *>(row_at(in.policy, row))[label]) : Real(NAN);
    const Real y = fits ? Dtype<T>::widen(reinterpret_cast<const T *>(row_at(in.ref, row))[label]) : Real(NAN);
    const Real eps = in.perturbation.as<Real>();
    const double target[PFO_PAIR_ROWS] = {double(x), double(y), double(perturbed(x, y, eps)),
                                          double(perturbed(x, y, -eps))};
    const pfo_pair_state state = in.states[index];
    pfo_pair_stats stats;
    device_pair_state_finish(&state, &stats);
    double logps[PFO_PAIR_ROWS];
    PFO_UNROLL
    for (int k = 0; k < PFO_PAIR_ROWS; k++)
        logps[k] = (target[k] * in.inv_temperature - state.max[k]) - stats.log_sum[k];
    write_value(in.outputs[PFO_PAIR_POLICY_LOGPS], row, logps[PFO_PAIR_POLICY]);
    write_value(in.outputs[PFO_PAIR_REF_LOGPS], row, logps[PFO_PAIR_REF]);
    write_value(in.outputs[PFO_PAIR_POLICY_LSE], row, stats.lse[PFO_PAIR_POLICY]);
    write_value(in.outputs[PFO_PAIR_REF_LSE], row, stats.lse[PFO_PAIR_REF]);
    write_value(in.outputs[PFO_PAIR_REF_POLICY_KL], row, stats.ref_policy_kl);
    write_value(in.outputs[PFO_PAIR_POLICY_REF_KL], row, stats.policy_ref_kl);
    write_value(in.outputs[PFO_PAIR_PLUS_LOGPS], row, logps[PFO_PAIR_PLUS]);
    write_value(in.outputs[PFO_PAIR_MINUS_LOGPS], row, logps[PFO_PAIR_MINUS]);
}

/* ---- host -------------------------------------------------------------------------------------------------------- */

constexpr unsigned FINISH_THREADS = 64;

template <typename T> static pfo_status run(const PairStats &in, const pfo_cuda_call *call, pfo_error *error)
{
    pfo_status status = PFO_OK;
    if (sizeof(T) == 8 || in.perturbation.f64 != 0.0) /* double is rare: one kernel will do */
        status = launch(call, in.rows.count, dim3(BLOCK_THREADS), fold_pairs<T, true>, error, in);
    else
        status = launch(call, in.rows.count, dim3(BLOCK_THREADS), fold_pairs<T, sizeof(T) == 8>, error, in);
    if (status != PFO_OK) return status;
    return launch(call, (in.rows.count + FINISH_THREADS - 1) / FINISH_THREADS, dim3(FINISH_THREADS), finish_pairs<T>,
                  error, in);
}

static pfo_status arguments_of(const pfo_pair_token_stats_args *args, PairStats *in, pfo_error *error)
{
    const pfo_view *outputs[PFO_PAIR_OUTPUTS];
    pfo_pair_outputs(args, outputs);
    RowView views[3 + PFO_PAIR_OUTPUTS] = {
        {&args->policy_logits, 1, &in->policy}, {&args->ref_logits, 1, &in->ref}, {&args->labels, 0, &in->labels}};
    for (int k = 0; k < PFO_PAIR_OUTPUTS; k++) views[3 + k] = {outputs[k], 0, &in->outputs[k]};
    in->ignore_index = args->ignore_index;
    in->inv_temperature = 1.0 / args->temperature;
    in->scale = scale_of(args->temperature);
    const bool is_perturbed = pfo_present(&args->plus_logps) || pfo_present(&args->minus_logps);
    in->perturbation.f64 = is_perturbed ? args->perturbation : 0.0;
    in->perturbation.f32 = float(in->perturbation.f64);
    const pfo_status status = split_rows(views, 3 + PFO_PAIR_OUTPUTS, &in->rows, error);
    return status == PFO_OK ? vocab_of(&args->policy_logits, "policy_logits", &in->vocab, error) : status;
}

} // namespace pfo

int64_t pfo_cuda_pair_token_stats_workspace(const pfo_pair_token_stats_args *args, const pfo_cuda_call *call)
{
    (void)call;
    if (pfo_check_pair_token_stats(args, nullptr) != PFO_OK) return -1;
    return pfo_leading_size(&args->policy_logits, 1) * int64_t(sizeof(pfo_pair_state));
}

pfo_status pfo_cuda_pair_token_stats(const pfo_pair_token_stats_args *args, const pfo_cuda_call *call, pfo_error *error)
{
    pfo_clear(error);
    pfo::PairStats in = {};
    pfo_status status = pfo_check_pair_token_stats(args, error);
    if (status == PFO_OK) status = pfo::arguments_of(args, &in, error);
    if (status != PFO_OK) return status;
    const pfo::OnDevice on(call, pfo_cuda_pair_token_stats_workspace(args, call), error);
    if (on.status != PFO_OK) return on.status;
    in.report = on.report;
    in.states = static_cast<pfo_pair_state *>(call->workspace);
    switch (args->policy_logits.dtype) {
    case PFO_F16: return pfo::run<__half>(in, call, error);
    case PFO_BF16: return pfo::run<__nv_bfloat16>(in, call, error);
    case PFO_F32: return pfo::run<float>(in, call, error);
    default: return pfo::run<double>(in, call, error);
    }
}
