/* pair_token_stats_grad: d loss / d policy logits from the gradients of logps and of both divergences.
 *
 *     out[v] = p_v (a + c (log p_v - log r_v)) + b r_v + grad_policy_logps [v == label] / temperature
 *
 * As token_logps_grad: a first kernel makes the constants of each row and the label's entry in double, a second reads
 * both rows and writes one. out may be either input. */
#include "grad_rows.cuh"

namespace pfo
{

/* One row for the second kernel. log p = (x - high[0]) scale + low[0] and log r = (y - high[1]) scale + low[1], in
 * powers of the base. */
template <typename Real> struct GradPair {
    Real high[2], low[2];
    Real a, b, c;
    Real at_label;
    int label, kind;
};

struct PairGrad {
    Rows rows;
    RowArray policy, ref, labels, out, vectors[PFO_PAIR_GRAD_VECTORS];
    int vocab, parts;
    int64_t ignore_index;
    double temperature;
    RealNumber scale;
    uint64_t *report;
    void *constants; /* GradPair [rows] */
};

template <typename Real> __device__ GradPair<Real> constants_of(const PairGrad &in, Row row, double x, double y)
{
    double vectors[PFO_PAIR_GRAD_VECTORS];
    PFO_UNROLL
    for (int k = 0; k < PFO_PAIR_GRAD_VECTORS; k++) vectors[k] = read_float(in.vectors[k], row, 0.0);
    const double policy_lse = vectors[PFO_PAIR_GRAD_BY_POLICY_LSE], ref_lse = vectors[PFO_PAIR_GRAD_BY_REF_LSE];
    const double grad_logps = vectors[PFO_PAIR_GRAD_OF_POLICY_LOGPS];
    const double grad_ref_kl = vectors[PFO_PAIR_GRAD_OF_REF_POLICY_KL];
    const double grad_policy_kl = vectors[PFO_PAIR_GRAD_OF_POLICY_REF_KL];
    GradPair<Real> g = {};
    g.kind = isfinite(policy_lse) && isfinite(ref_lse) ? GRAD_OF_ROW : GRAD_NAN;
    if (g.kind == GRAD_NAN) return g;
    /* A divergence of inf must not poison a row whose gradient for it is 0. */
    const double kl_term = grad_policy_kl == 0.0 ? 0.0 : grad_policy_kl * vectors[PFO_PAIR_GRAD_BY_POLICY_REF_KL];
    const double a = (grad_ref_kl - grad_logps - kl_term) / in.temperature, b = -grad_ref_kl / in.temperature;
    const double c = grad_policy_kl / in.temperature;
    split_lse(policy_lse, 0.0, in.temperature, &g.high[0], &g.low[0]);
    split_lse(ref_lse, 0.0, in.temperature, &g.high[1], &g.low[1]);
    g.a = Real(a);
    g.b = Real(b);
    g.c = Real(c / Arithmetic<Real>::PER_NAT);
    const double log_p = x / in.temperature - policy_lse, log_r = y / in.temperature - ref_lse;
    const double p = device_exp_f64(log_p);
    const double slope = p == 0.0 ? 0.0 : p * (a + (c == 0.0 ? 0.0 : c * (log_p - log_r)));
    g.at_label = Real(slope + b * device_exp_f64(log_r) + grad_logps / in.temperature);
    return g;
}

/* A thread a row. */
template <typename T> __global__ void prepare_pair_grad(PairGrad in)
{
    using Real = typename Dtype<T>::Real;
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= in.rows.count) return;
    const Row row = row_of(in.rows, index);
    const int64_t label = read_int(row_at(in.labels, row), in.labels.dtype);
    GradPair<Real> g = {};
    g.kind = GRAD_ZERO;
    if (label >= 0 && label < in.vocab && label != in.ignore_index) {
        const T *x = reinterpret_cast<const T *>(row_at(in.policy, row));
        const T *y = reinterpret_cast<const T *>(row_at(in.ref, row));
        g = constants_of<Real>(in, row, double(Dtype<T>::widen(x[label])), double(Dtype<T>::widen(y[label])));
        g.label = int(label);
    } else if (label != in.ignore_index) {
        report_bad(in.report, REPORT_LABELS, index);
    }
    static_cast<GradPair<Real> *>(in.constants)[index] = g;
}

template <typename Real, bool LOGS> __device__ Real pair_slope(const GradPair<Real> &g, Real scale, Real x, Real y)
{
    const Real nothing = Real(-1e30); /* log p of a -inf logit, whose product with p = 0 has to be 0 */
    const Real log_p = multiply_add(x - g.high[0], scale, g.low[0]);
    const Real log_r = multiply_add(y - g.high[1], scale, g.low[1]);
    const Real gap = larger(log_p, nothing) - larger(log_r, nothing);
    const Real slope = LOGS ? multiply_add(g.c, gap, g.a) : g.a;
    return multiply_add(g.b, Arithmetic<Real>::power(log_r), Arithmetic<Real>::power(log_p) * slope);
}

/* One part of a row; 16 bytes at a time where all three arrays are aligned alike. */
template <typename T, bool LOGS>
__device__ void write_pair_grad(const GradPair<typename Dtype<T>::Real> &g, typename Dtype<T>::Real scale, const T *x,
                                const T *y, T *out, int begin, int end)
{
    using Real = typename Dtype<T>::Real;
    constexpr int COUNT = Pack<T>::COUNT;
    const uintptr_t offset = reinterpret_cast<uintptr_t>(x) % 16;
    const bool alike = reinterpret_cast<uintptr_t>(y) % 16 == offset && reinterpret_cast<uintptr_t>(out) % 16 == offset;
    const int thread = int(threadIdx.x), step = int(blockDim.x);
    const int head = alike ? begin + head_of(x + begin, end - begin) : end;
    const int packs = (end - head) / COUNT, tail = head + packs * COUNT;
    auto write_one = [&](int v) {
        const Real value =
            v == g.label ? g.at_label : pair_slope<Real, LOGS>(g, scale, Dtype<T>::widen(x[v]), Dtype<T>::widen(y[v]));
        out[v] = Dtype<T>::narrow(double(value));
    };
    for (int v = begin + thread; v < head; v += step) write_one(v);
    for (int i = thread; i < packs; i += step) {
        const int first = head + i * COUNT;
        Real xs[COUNT], ys[COUNT];
        Pack<T>::load(x + first).values(xs);
        Pack<T>::load(y + first).values(ys);
        PFO_UNROLL
        for (int k = 0; k < COUNT; k++)
            xs[k] = first + k == g.label ? g.at_label : pair_slope<Real, LOGS>(g, scale, xs[k], ys[k]);
        Pack<T>::of(xs).store(out + first);
    }
    if (tail + thread < end) write_one(tail + thread);
}

/* Blocks of (threads, rows a block), one part of a row for each threadIdx.y. */
template <typename T, bool LOGS> __global__ void __launch_bounds__(BLOCK_THREADS) pair_grad_rows(PairGrad in)
{
    using Real = typename Dtype<T>::Real;
    const Piece piece = piece_of(in.rows.count, in.parts, in.vocab);
    if (piece.row >= in.rows.count) return;
    const Row row = row_of(in.rows, piece.row);
    const GradPair<Real> g = static_cast<const GradPair<Real> *>(in.constants)[piece.row];
    T *out = reinterpret_cast<T *>(row_at(in.out, row));
    if (g.kind != GRAD_OF_ROW) {
        fill_row(out, piece.begin, piece.end, int(blockDim.x), g.kind == GRAD_ZERO ? 0.0 : double(NAN));
        return;
    }
    write_pair_grad<T, LOGS>(g, in.scale.as<Real>(), reinterpret_cast<const T *>(row_at(in.policy, row)),
                             reinterpret_cast<const T *>(row_at(in.ref, row)), out, piece.begin, piece.end);
}

/* ---- host -------------------------------------------------------------------------------------------------------- */

template <typename T>
static pfo_status run(const PairGrad &in, const Plan &plan, const pfo_cuda_call *call, pfo_error *error)
{
    pfo_status status = launch(call, (in.rows.count + PREPARE_THREADS - 1) / PREPARE_THREADS, dim3(PREPARE_THREADS),
                               prepare_pair_grad<T>, error, in);
    if (status != PFO_OK) return status;
    const dim3 threads(unsigned(plan.threads), unsigned(plan.rows_per_block));
    if (in.vectors[PFO_PAIR_GRAD_OF_POLICY_REF_KL].data)
        return launch(call, plan.blocks, threads, pair_grad_rows<T, true>, error, in);
    return launch(call, plan.blocks, threads, pair_grad_rows<T, false>, error, in);
}

static pfo_status arguments_of(const pfo_pair_token_stats_grad_args *args, PairGrad *in, pfo_error *error)
{
    const pfo_view *vectors[PFO_PAIR_GRAD_VECTORS];
    pfo_pair_grad_vectors(args, vectors);
    RowView views[4 + PFO_PAIR_GRAD_VECTORS] = {{&args->policy_logits, 1, &in->policy},
                                                {&args->ref_logits, 1, &in->ref},
                                                {&args->labels, 0, &in->labels},
                                                {&args->out, 1, &in->out}};
    for (int k = 0; k < PFO_PAIR_GRAD_VECTORS; k++) views[4 + k] = {vectors[k], 0, &in->vectors[k]};
    in->ignore_index = args->ignore_index;
    in->temperature = args->temperature;
    in->scale = scale_of(args->temperature);
    const pfo_status status = split_rows(views, 4 + PFO_PAIR_GRAD_VECTORS, &in->rows, error);
    return status == PFO_OK ? vocab_of(&args->policy_logits, "policy_logits", &in->vocab, error) : status;
}

} // namespace pfo

int64_t pfo_cuda_pair_token_stats_grad_workspace(const pfo_pair_token_stats_grad_args *args, const pfo_cuda_call *call)
{
    (void)call;
    if (pfo_check_pair_token_stats_grad(args, nullptr) != PFO_OK) return -1;
    const bool is_double = args->policy_logits.dtype == PFO_F64;
    return pfo_leading_size(&args->policy_logits, 1) *
           int64_t(is_double ? sizeof(pfo::GradPair<double>) : sizeof(pfo::GradPair<float>));
}

pfo_status pfo_cuda_pair_token_stats_grad(const pfo_pair_token_stats_grad_args *args, const pfo_cuda_call *call,
                                          pfo_error *error)
{
    pfo_clear(error);
    pfo::PairGrad in = {};
    pfo_status status = pfo_check_pair_token_stats_grad(args, error);
    if (status == PFO_OK) status = pfo::arguments_of(args, &in, error);
    if (status != PFO_OK) return status;
    const pfo::OnDevice on(call, pfo_cuda_pair_token_stats_grad_workspace(args, call), error);
    if (on.status != PFO_OK) return on.status;
    in.report = on.report;
    const pfo::Plan plan =
        pfo::plan_rows(in.rows.count, pfo::row_bytes(&args->policy_logits), pfo::multiprocessors(call));
    in.parts = plan.parts;
    in.constants = call->workspace;
    switch (args->policy_logits.dtype) {
    case PFO_F16: return pfo::run<__half>(in, plan, call, error);
    case PFO_BF16: return pfo::run<__nv_bfloat16>(in, plan, call, error);
    case PFO_F32: return pfo::run<float>(in, plan, call, error);
    default: return pfo::run<double>(in, plan, call, error);
    }
}
