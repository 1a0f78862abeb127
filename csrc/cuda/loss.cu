/* Preference losses: inputs to losses, rewards and vector-Jacobian products; procedures: inputs to named outputs.
 *
 * As on the CPU: inputs are read into columns of doubles, the row's program runs over them, results are rounded once
 * into the outputs. Here the columns are in the workspace, and the three steps are three kernels. The program's shape
 * says how many blocks run it: one where elements know of each other, a block a row of tokens, or many.
 * A bad value is noted in the report and in a word of the workspace, by which all outputs become NaN or 0. */
#include "loss_programs.cuh"
#include "rows.cuh"

namespace pfo
{

constexpr int MAX_INPUT_COLUMNS = PFO_LOSS_MAX_INPUTS + 1; /* and grad_losses */
constexpr int64_t MAX_BLOCKS = 512;

/* An array and its column. What a bad value of it belongs to: a field, or PFO_BAD_GRAD_LOSSES. */
struct LossColumn {
    char *data;
    double *column;
    int64_t rows, columns;
    int64_t strides[2]; /* bytes */
    int32_t dtype, type, field;
};

template <int COUNT> struct LossColumns {
    LossColumn list[COUNT];
    int count;
    unsigned *bad;
    uint64_t *report;
};
using InputColumns = LossColumns<MAX_INPUT_COLUMNS>;
using OutputColumns = LossColumns<PFO_LOSS_MAX_OUTPUTS>;

__device__ inline char *element_of(const LossColumn &c, int64_t i)
{
    if (c.columns == 1) return c.data + i * c.strides[0];
    return c.data + i / c.columns * c.strides[0] + i % c.columns * c.strides[1];
}

__device__ inline double read_input(const LossColumn &c, int64_t i)
{
    const char *address = element_of(c, i);
    if (c.dtype <= PFO_F64) return read_float(address, c.dtype);
    if (c.dtype == PFO_BOOL) return *address != 0;
    return double(read_int(address, c.dtype));
}

/* Counts are finite and >= 0, flags and masks 0 or 1. */
__device__ inline bool is_good(int type, double value)
{
    if (type == PFO_INPUT_COUNT) return value >= 0 && value < double(INFINITY);
    if (type == PFO_INPUT_FLAG || type == PFO_INPUT_MASK) return value == 0 || value == 1;
    return true;
}

__global__ void __launch_bounds__(LOSS_THREADS) load_columns(const __grid_constant__ InputColumns in)
{
    for (int k = 0; k < in.count; k++) {
        const LossColumn &c = in.list[k];
        PFO_EACH_ELEMENT(i, c.rows * c.columns) {
            const double value = read_input(c, i);
            c.column[i] = value;
            if (is_good(c.type, value)) continue;
            report_bad(in.report, REPORT_LOSS_INPUT + c.field, i);
            atomicOr(in.bad, 1u);
        }
    }
}

template <int WHICH>
__global__ void __launch_bounds__(LOSS_THREADS) run_loss(const __grid_constant__ LossBatch<WHICH> batch)
{
    if (verdict(batch) != PFO_OK) return; /* a value was refused when it was read */
    element_inputs x;
    set_constants(&batch, &x);
#define PROGRAM(name, ...) \
    if constexpr (WHICH == int(PFO_PROGRAM_##name)) run_program_##name(&batch, &x, nullptr);
#include "../losses/program_list.h"
}

__global__ void __launch_bounds__(LOSS_THREADS) store_columns(const __grid_constant__ OutputColumns out)
{
    const bool bad = *out.bad != 0;
    for (int k = 0; k < out.count; k++) {
        const LossColumn &c = out.list[k];
        PFO_EACH_ELEMENT(i, c.rows * c.columns) {
            const bool is_float = c.dtype == PFO_F32 || c.dtype == PFO_F64;
            const double value = !bad ? c.column[i] : is_float ? double(NAN) : 0.0;
            char *address = element_of(c, i);
            if (c.dtype == PFO_I64)
                *reinterpret_cast<int64_t *>(address) = int64_t(value);
            else if (c.dtype == PFO_BOOL)
                *reinterpret_cast<uint8_t *>(address) = value != 0;
            else if (c.dtype == PFO_F32)
                *reinterpret_cast<float *>(address) = float(value);
            else
                *reinterpret_cast<double *>(address) = value;
        }
    }
}

/* ---- host -------------------------------------------------------------------------------------------------------- */

/* The parts of the workspace: the bad word, a column for every array, the program's own memory. */
class Layout
{
  public:
    explicit Layout(void *workspace) : base(reinterpret_cast<uintptr_t>(workspace)), used(WORKSPACE_ALIGNMENT) {}
    unsigned *bad() const { return reinterpret_cast<unsigned *>(base); }
    char *take(int64_t bytes)
    {
        const uintptr_t address = base + uintptr_t(used);
        used += aligned_bytes(bytes);
        return reinterpret_cast<char *>(address);
    }
    int64_t bytes() const { return used; }

  private:
    uintptr_t base;
    int64_t used;
};

static LossColumn column_of(const pfo_view *view, int type, int field, Layout *layout)
{
    LossColumn c = {};
    c.data = static_cast<char *>(view->data);
    c.dtype = view->dtype;
    c.type = type;
    c.field = field;
    c.rows = view->ndim > 0 ? view->shape[0] : 1;
    c.columns = view->ndim > 1 ? view->shape[1] : 1;
    c.strides[0] = view->ndim > 0 ? view->strides_bytes[0] : 0;
    c.strides[1] = view->ndim > 1 ? view->strides_bytes[1] : 0;
    c.column = reinterpret_cast<double *>(layout->take(c.rows * c.columns * int64_t(sizeof(double))));
    return c;
}

static int64_t blocks_of(const DeviceBatch &batch)
{
    const int64_t rows = batch.size < MAX_BLOCKS ? batch.size : MAX_BLOCKS;
    const int64_t elements = (batch.size + LOSS_THREADS - 1) / LOSS_THREADS;
    switch (pfo_program_shape_of(&batch)) {
    case PFO_SHAPE_ROWS: return rows;
    case PFO_SHAPE_ELEMENTS: return elements < MAX_BLOCKS ? elements : MAX_BLOCKS;
    default: return 1;
    }
}

/* Where everything is; with a workspace of NULL only its size is of use. */
static void lay_out(const pfo_loss_call *call, Layout *layout, DeviceBatch *batch, InputColumns *in, OutputColumns *out)
{
    static_cast<pfo_batch &>(*batch) = pfo_batch_of(call);
    batch->bad = in->bad = out->bad = layout->bad();
    in->count = out->count = 0;
    for (int k = 0; k < batch->input_count; k++) {
        const pfo_batch_input &input = batch->taken[k];
        if (!call->inputs[input.field]) continue;
        const LossColumn c = column_of(call->inputs[input.field], input.type, input.field, layout);
        in->list[in->count++] = c;
        batch->inputs[input.field] = c.column;
    }
    if (call->grad_losses) {
        const LossColumn c = column_of(call->grad_losses, PFO_INPUT_REAL, PFO_BAD_GRAD_LOSSES, layout);
        in->list[in->count++] = c;
        batch->grad_losses = c.column;
    }
    for (int k = 0; k < call->output_count; k++)
        out->list[out->count++] = column_of(call->outputs[k].view, PFO_INPUT_REAL, 0, layout);
    if (call->row->kind != PFO_KIND_PROCEDURE) batch->losses = out->list[0].column;
    for (int k = 0; k < PFO_INPUT_FIELD_COUNT; k++)
        if (call->grad_output[k]) batch->grads[k] = out->list[call->grad_output[k] - 1].column;
    for (int k = 0; k < PFO_REWARD_FIELD_COUNT; k++)
        if (call->reward_output[k]) batch->rewards[k] = out->list[call->reward_output[k] - 1].column;
    batch->block_work_bytes = aligned_bytes(pfo_program_work_bytes(batch));
    batch->work = layout->take(batch->block_work_bytes * blocks_of(*batch));
}

template <int COUNT> static unsigned blocks_for(const LossColumns<COUNT> &columns)
{
    int64_t most = 1;
    for (int k = 0; k < columns.count; k++) {
        const int64_t elements = columns.list[k].rows * columns.list[k].columns;
        if (elements > most) most = elements;
    }
    const int64_t blocks = (most + LOSS_THREADS - 1) / LOSS_THREADS;
    return unsigned(blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS);
}

template <int WHICH>
static pfo_status launch_program(const DeviceBatch &batch, const pfo_cuda_call *call, pfo_error *error)
{
    LossBatch<WHICH> typed;
    static_cast<DeviceBatch &>(typed) = batch;
    return launch(call, unsigned(blocks_of(batch)), dim3(LOSS_THREADS), run_loss<WHICH>, error, typed);
}

static pfo_status run_program(const DeviceBatch &batch, const pfo_cuda_call *call, pfo_error *error)
{
    switch (batch.program) {
#define PROGRAM(name, ...) \
    case PFO_PROGRAM_##name: return launch_program<PFO_PROGRAM_##name>(batch, call, error);
#include "../losses/program_list.h"
    default: return PFO_OK;
    }
}

static pfo_status resolve(const pfo_loss_args *args, pfo_loss_call *call, pfo_error *error)
{
    const pfo_status status = pfo_loss_resolve(call, args, error);
    if (status != PFO_OK) return status;
    for (int k = 0; k < PFO_INPUT_FIELD_COUNT; k++)
        if (call->inputs[k] && pfo_loss_elements(call->inputs[k]) > 0 && !call->inputs[k]->data)
            return pfo_fail(error, PFO_ERROR_MISSING, pfo_bad_name(k), -1, "expected data, got a NULL pointer");
    return PFO_OK;
}

} // namespace pfo

int64_t pfo_cuda_loss_workspace(const pfo_loss_args *args, const pfo_cuda_call *call)
{
    (void)call;
    pfo_loss_call resolved;
    pfo::DeviceBatch batch = {};
    pfo::InputColumns in = {};
    pfo::OutputColumns out = {};
    if (pfo::resolve(args, &resolved, nullptr) != PFO_OK) return -1;
    pfo::Layout layout(nullptr);
    pfo::lay_out(&resolved, &layout, &batch, &in, &out);
    return layout.bytes();
}

pfo_status pfo_cuda_loss(const pfo_loss_args *args, const pfo_cuda_call *call, pfo_error *error)
{
    pfo_clear(error);
    pfo_loss_call resolved;
    pfo::DeviceBatch batch = {};
    pfo::InputColumns in = {};
    pfo::OutputColumns out = {};
    pfo_status status = pfo::resolve(args, &resolved, error);
    if (status != PFO_OK) return status;
    pfo::Layout layout(call->workspace);
    pfo::lay_out(&resolved, &layout, &batch, &in, &out);
    status = pfo_program_check(&batch, error);
    if (status != PFO_OK) return status;
    const pfo::OnDevice on(call, layout.bytes(), error);
    if (on.status != PFO_OK) return on.status;
    batch.report = in.report = on.report;
    const cudaError_t code = cudaMemsetAsync(batch.bad, 0, sizeof *batch.bad, static_cast<cudaStream_t>(call->stream));
    if (code != cudaSuccess) return pfo::fail_cuda(error, code, "clearing the workspace");
    const dim3 threads(pfo::LOSS_THREADS);
    status = pfo::launch(call, pfo::blocks_for(in), threads, pfo::load_columns, error, in);
    if (status == PFO_OK) status = pfo::run_program(batch, call, error);
    if (status == PFO_OK) status = pfo::launch(call, pfo::blocks_for(out), threads, pfo::store_columns, error, out);
    return status;
}
