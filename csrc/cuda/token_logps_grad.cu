/* token_logps_grad: d loss / d logits from the gradients of logps, entropy and lse.
 *
 *     out[v] = p_v (a + b log p_v) + grad_logps [v == label] / temperature,   p_v = exp(x_v / temperature - lse)
 *
 * Two kernels. The first has a thread a row and makes the row's constants in double, among them the label's entry,
 * which cancels where p is near 1: it has to be read before the second overwrites it. The second reads and writes
 * every row once, 16 bytes at a time, with no barrier and no word between its threads. Ignored rows are not read, and
 * written as 0.
 *
 * lse comes as a double and is split into one number of the row's type and a small remainder (see grad_row in
 * csrc/kernels): x - lse_high is exact where p matters. */
#include "grad_rows.cuh"

namespace pfo
{

/* One row for the second kernel. y = (x - high) scale + low is log p in powers of the base; out = p (a + b y). */
template <typename Real> struct GradRow {
    Real high, low, a, b;
    Real at_label;
    int label, kind;
};

struct TokenGrad {
    Rows rows;
    RowArray logits, labels, out, vectors[PFO_TOKEN_GRAD_VECTORS];
    int vocab, parts;
    int64_t ignore_index;
    double temperature;
    RealNumber scale;
    int logits_dtype;
    uint64_t *report;
    void *constants; /* GradRow [rows] */
};

/* lse as a sum of two doubles, and the label's log p: as the CPU's best_lse. */
struct BestLse {
    double lse, rest, log_p;
};

__device__ inline BestLse best_lse(const TokenGrad &in, Row row, double logit)
{
    const RowArray &by_lse = in.vectors[PFO_TOKEN_GRAD_BY_LSE], &by_logps = in.vectors[PFO_TOKEN_GRAD_BY_LOGPS];
    const double lse = read_float(by_lse, row, 0.0), logp = read_float(by_logps, row, 0.0);
    const double target = logit / in.temperature;
    const bool wide_lse = by_lse.dtype == PFO_F64 && in.logits_dtype != PFO_F64;
    if (!by_logps.data || wide_lse || !(fabs(logp) < fabs(lse)) || !isfinite(target)) return {lse, 0.0, target - lse};
    /* The quotient's and the difference's rounding errors, exact: Dekker's and Knuth's two-term forms. */
    const double target_rest = fma(-target, in.temperature, logit) / in.temperature;
    const double sum = __dsub_rn(target, logp), back = __dsub_rn(sum, target);
    const double rest = __dsub_rn(__dsub_rn(target, __dsub_rn(sum, back)), __dadd_rn(logp, back));
    return {sum, rest + target_rest, logp};
}

template <typename Real> __device__ GradRow<Real> constants_of(const TokenGrad &in, Row row, double logit, int label)
{
    const BestLse best = best_lse(in, row, logit);
    const double grad_logps = read_float(in.vectors[PFO_TOKEN_GRAD_OF_LOGPS], row, 0.0);
    const double grad_entropy = read_float(in.vectors[PFO_TOKEN_GRAD_OF_ENTROPY], row, 0.0);
    const double grad_lse = read_float(in.vectors[PFO_TOKEN_GRAD_OF_LSE], row, 0.0);
    GradRow<Real> g = {};
    g.label = label;
    g.kind = isfinite(best.lse) ? GRAD_OF_ROW : GRAD_NAN;
    if (g.kind == GRAD_NAN) return g;
    /* An entropy of NaN must not poison a row whose grad_entropy is 0. */
    const double entropy = read_float(in.vectors[PFO_TOKEN_GRAD_BY_ENTROPY], row, 0.0);
    const double a = (grad_lse - grad_logps - (grad_entropy == 0.0 ? 0.0 : grad_entropy * entropy)) / in.temperature;
    const double b = -grad_entropy / in.temperature;
    split_lse(best.lse, best.rest, in.temperature, &g.high, &g.low);
    g.a = Real(a);
    g.b = Real(b / Arithmetic<Real>::PER_NAT);
    const double p = device_exp_f64(best.log_p);
    g.at_label = Real((p == 0.0 ? 0.0 : p * (a + b * best.log_p)) + grad_logps / in.temperature);
    return g;
}

/* A thread a row. */
template <typename T> __global__ void prepare_grad(TokenGrad in)
{
    using Real = typename Dtype<T>::Real;
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= in.rows.count) return;
    const Row row = row_of(in.rows, index);
    const int64_t label = read_int(row_at(in.labels, row), in.labels.dtype);
    GradRow<Real> g = {};
    g.kind = GRAD_ZERO;
    if (label >= 0 && label < in.vocab && label != in.ignore_index) {
        const double logit = double(Dtype<T>::widen(reinterpret_cast<const T *>(row_at(in.logits, row))[label]));
        g = constants_of<Real>(in, row, logit, int(label));
    } else if (label != in.ignore_index) {
        report_bad(in.report, REPORT_LABELS, index);
    }
    static_cast<GradRow<Real> *>(in.constants)[index] = g;
}

template <typename T, bool ENTROPY> class GradWriter
{
    using Real = typename Dtype<T>::Real;
    static constexpr int COUNT = Pack<T>::COUNT;
    static constexpr Real LOWEST = -Real(1000); /* p is 0 from here on, whatever the base */

  public:
    __device__ GradWriter(const GradRow<Real> &row, Real factor) : g(row), scale(factor) {}

    /* x and out begin at the row's own beginning; elements [begin, end), every `step`-th of the packs. */
    __device__ void write(const T *x, T *out, int begin, int end, int step) const
    {
        const int thread = int(threadIdx.x);
        const int head = begin + head_of(x + begin, end - begin);
        const int packs = (end - head) / COUNT, tail = head + packs * COUNT;
        const bool aligned = reinterpret_cast<uintptr_t>(out + head) % 16 == 0;
        if (begin + thread < head) write_value(x, out, begin + thread);
        for (int i = thread; i < packs; i += step) write_pack(x, out, head + i * COUNT, aligned);
        if (tail + thread < end) write_value(x, out, tail + thread);
    }

  private:
    __device__ Real slope(Real x) const
    {
        const Real y = multiply_add(x - g.high, scale, g.low);
        const Real p = Arithmetic<Real>::power(y);
        return ENTROPY ? p * multiply_add(g.b, larger(y, LOWEST), g.a) : p * g.a;
    }

    __device__ void write_value(const T *x, T *out, int v) const
    {
        out[v] = Dtype<T>::narrow(v == g.label ? double(g.at_label) : double(slope(Dtype<T>::widen(x[v]))));
    }

    __device__ void write_pack(const T *x, T *out, int first, bool aligned) const
    {
        Real values[COUNT];
        Pack<T>::load(x + first).values(values);
        PFO_UNROLL
        for (int k = 0; k < COUNT; k++) values[k] = slope(values[k]);
        if (unsigned(g.label - first) < unsigned(COUNT)) PFO_UNROLL
        for (int k = 0; k < COUNT; k++) values[k] = first + k == g.label ? g.at_label : values[k];
        if (aligned) {
            Pack<T>::of(values).store(out + first);
            return;
        }
        PFO_UNROLL
        for (int k = 0; k < COUNT; k++) out[first + k] = Dtype<T>::narrow(double(values[k]));
    }

    const GradRow<Real> g;
    const Real scale;
};

/* Blocks of (threads, rows a block), one part of a row for each threadIdx.y. */
template <typename T, bool ENTROPY> __global__ void __launch_bounds__(BLOCK_THREADS) grad_rows(TokenGrad in)
{
    using Real = typename Dtype<T>::Real;
    const Piece piece = piece_of(in.rows.count, in.parts, in.vocab);
    if (piece.row >= in.rows.count) return;
    const Row row = row_of(in.rows, piece.row);
    const GradRow<Real> g = static_cast<const GradRow<Real> *>(in.constants)[piece.row];
    T *out = reinterpret_cast<T *>(row_at(in.out, row));
    if (g.kind != GRAD_OF_ROW) {
        fill_row(out, piece.begin, piece.end, int(blockDim.x), g.kind == GRAD_ZERO ? 0.0 : double(NAN));
        return;
    }
    const GradWriter<T, ENTROPY> writer(g, in.scale.as<Real>());
    writer.write(reinterpret_cast<const T *>(row_at(in.logits, row)), out, piece.begin, piece.end, int(blockDim.x));
}

/* ---- host -------------------------------------------------------------------------------------------------------- */

template <typename T>
static pfo_status run(const TokenGrad &in, const Plan &plan, const pfo_cuda_call *call, pfo_error *error)
{
    pfo_status status = launch(call, (in.rows.count + PREPARE_THREADS - 1) / PREPARE_THREADS, dim3(PREPARE_THREADS),
                               prepare_grad<T>, error, in);
    if (status != PFO_OK) return status;
    const dim3 threads(unsigned(plan.threads), unsigned(plan.rows_per_block));
    if (in.vectors[PFO_TOKEN_GRAD_OF_ENTROPY].data)
        return launch(call, plan.blocks, threads, grad_rows<T, true>, error, in);
    return launch(call, plan.blocks, threads, grad_rows<T, false>, error, in);
}

static pfo_status arguments_of(const pfo_token_logps_grad_args *args, TokenGrad *in, pfo_error *error)
{
    const pfo_view *vectors[PFO_TOKEN_GRAD_VECTORS];
    pfo_token_grad_vectors(args, vectors);
    RowView views[3 + PFO_TOKEN_GRAD_VECTORS] = {
        {&args->logits, 1, &in->logits}, {&args->labels, 0, &in->labels}, {&args->out, 1, &in->out}};
    for (int k = 0; k < PFO_TOKEN_GRAD_VECTORS; k++) views[3 + k] = {vectors[k], 0, &in->vectors[k]};
    in->ignore_index = args->ignore_index;
    in->temperature = args->temperature;
    in->scale = scale_of(args->temperature);
    in->logits_dtype = args->logits.dtype;
    const pfo_status status = split_rows(views, 3 + PFO_TOKEN_GRAD_VECTORS, &in->rows, error);
    return status == PFO_OK ? vocab_of(&args->logits, "logits", &in->vocab, error) : status;
}

} // namespace pfo

int64_t pfo_cuda_token_logps_grad_workspace(const pfo_token_logps_grad_args *args, const pfo_cuda_call *call)
{
    (void)call;
    if (pfo_check_token_logps_grad(args, nullptr) != PFO_OK) return -1;
    const int64_t bytes = args->logits.dtype == PFO_F64 ? sizeof(pfo::GradRow<double>) : sizeof(pfo::GradRow<float>);
    return pfo_leading_size(&args->logits, 1) * bytes;
}

pfo_status pfo_cuda_token_logps_grad(const pfo_token_logps_grad_args *args, const pfo_cuda_call *call, pfo_error *error)
{
    pfo_clear(error);
    pfo::TokenGrad in = {};
    pfo_status status = pfo_check_token_logps_grad(args, error);
    if (status == PFO_OK) status = pfo::arguments_of(args, &in, error);
    if (status != PFO_OK) return status;
    const pfo::OnDevice on(call, pfo_cuda_token_logps_grad_workspace(args, call), error);
    if (on.status != PFO_OK) return on.status;
    in.report = on.report;
    const pfo::Plan plan =
        pfo::plan_rows(pfo_leading_size(&args->logits, 1), pfo::row_bytes(&args->logits), pfo::multiprocessors(call));
    in.parts = plan.parts;
    in.constants = call->workspace;
    switch (args->logits.dtype) {
    case PFO_F16: return pfo::run<__half>(in, plan, call, error);
    case PFO_BF16: return pfo::run<__nv_bfloat16>(in, plan, call, error);
    case PFO_F32: return pfo::run<float>(in, plan, call, error);
    default: return pfo::run<double>(in, plan, call, error);
    }
}
