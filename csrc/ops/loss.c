/* Preference losses: inputs to losses, rewards and vector-Jacobian products; procedures: inputs to named outputs.
 *
 *     losses[i]   = L_i(inputs)
 *     grads[k][j] = sum_i g_i dL_i / d input_k[j]
 *
 * Batches are small next to [tokens, vocab] logits, so everything is double and one thread: inputs are read into
 * columns of scratch memory, the formula of the row runs once an element (or a token) as the row's program says,
 * results are rounded once into the outputs.  Reading all inputs first lets an output share memory with an input.
 * Scratch: 8 bytes an element of every input and output, on the stack for a small batch. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../core/dtype.h"
#include "../losses/loss_call.h"
#include "../losses/programs.inc"

#define STACK_DOUBLES 512

/* Doubles of scratch, -1 if that overflows. */
static int64_t scratch_doubles(const pfo_loss_call *call)
{
    int64_t total = 0;
    for (int k = 0; k < PFO_INPUT_FIELD_COUNT + call->output_count + 1; k++) {
        const pfo_view *view = NULL;
        if (k < PFO_INPUT_FIELD_COUNT)
            view = call->inputs[k];
        else if (k < PFO_INPUT_FIELD_COUNT + call->output_count)
            view = call->outputs[k - PFO_INPUT_FIELD_COUNT].view;
        else
            view = call->grad_losses;
        if (!view) continue;
        int64_t elements = view->ndim > 1 ? pfo_mul_size(view->shape[0], view->shape[1]) : pfo_loss_elements(view);
        if (elements < 0 || elements > INT64_MAX / 16 - total) return -1;
        total += elements + 1; /* never an empty column */
    }
    return total;
}

/* Lays the columns out in scratch and reads the inputs.  An input that is not there stays NULL in batch->inputs. */
static pfo_status load_columns(pfo_loss_call *call, double *scratch, pfo_batch *batch, pfo_error *error)
{
    static const pfo_loss_input_info any_real = {.name = "grad_losses", .type = PFO_INPUT_REAL};
    *batch = (pfo_batch){.row = call->row, .size = call->size, .width = call->width, .params = call->params};
    for (int k = 0; k < PFO_LOSS_MAX_INPUTS && call->row->inputs[k].name; k++) {
        const pfo_loss_input_info *info = &call->row->inputs[k];
        const pfo_view *view = call->inputs[info->field];
        if (!view) continue;
        pfo_status status = pfo_loss_read(info, view, scratch, error);
        if (status != PFO_OK) return status;
        batch->inputs[info->field] = scratch;
        batch->counts[info->field] = pfo_loss_elements(view);
        scratch += batch->counts[info->field] + 1;
    }
    if (call->grad_losses) {
        pfo_status status = pfo_loss_read(&any_real, call->grad_losses, scratch, error);
        if (status != PFO_OK) return status;
        batch->grad_losses = scratch;
        scratch += pfo_loss_elements(call->grad_losses) + 1;
    }
    for (int k = 0; k < call->output_count; k++) {
        call->outputs[k].column = scratch;
        scratch += pfo_loss_elements(call->outputs[k].view) + 1;
    }
    if (call->row->kind != PFO_KIND_PROCEDURE) batch->losses = call->outputs[0].column;
    for (int k = 0; k < PFO_INPUT_FIELD_COUNT; k++) {
        if (call->grad_output[k]) batch->grads[k] = call->outputs[call->grad_output[k] - 1].column;
    }
    for (int k = 0; k < PFO_REWARD_FIELD_COUNT; k++) {
        if (call->reward_output[k]) batch->rewards[k] = call->outputs[call->reward_output[k] - 1].column;
    }
    return PFO_OK;
}

static void store_element(char *address, int32_t dtype, double value)
{
    if (dtype == PFO_BOOL) {
        *address = value != 0;
    } else if (dtype == PFO_I64) {
        int64_t position = (int64_t)value;
        memcpy(address, &position, sizeof position); /* the address may be unaligned */
    } else {
        pfo_write_float(address, dtype, value);
    }
}

static void store_outputs(const pfo_loss_call *call)
{
    for (int k = 0; k < call->output_count; k++) {
        const pfo_view *view = call->outputs[k].view;
        const double *column = call->outputs[k].column;
        int64_t rows = view->ndim > 0 ? view->shape[0] : 1;
        int64_t columns = view->ndim > 1 ? view->shape[1] : 1;
        for (int64_t i = 0; i < rows; i++) {
            char *address = view->data;
            if (view->ndim > 0) address += i * view->strides_bytes[0];
            for (int64_t j = 0; j < columns; j++, address += view->ndim > 1 ? view->strides_bytes[1] : 0) {
                store_element(address, view->dtype, *column++);
            }
        }
    }
}

/* Reading is arithmetic too: a caller that flushes denormals would widen a float32 denormal to 0. */
static pfo_status run_in(pfo_loss_call *call, double *scratch, pfo_error *error)
{
    pfo_batch batch = {0};
    const pfo_fpenv saved = pfo_fpenv_enter();
    pfo_status status = load_columns(call, scratch, &batch, error);
    if (status == PFO_OK) status = run_program(&batch, error);
    if (status == PFO_OK) store_outputs(call);
    pfo_fpenv_leave(saved);
    free(batch.work);
    return status;
}

pfo_status pfo_loss(const pfo_loss_args *args, pfo_error *error)
{
    pfo_clear(error);
    pfo_loss_call call;
    pfo_status status = pfo_loss_resolve(&call, args, error);
    if (status != PFO_OK) return status;
    double on_stack[STACK_DOUBLES];
    int64_t doubles = scratch_doubles(&call);
    if (doubles >= 0 && doubles <= STACK_DOUBLES) return run_in(&call, on_stack, error);
    double *scratch = doubles < 0 ? NULL : malloc((size_t)doubles * sizeof(double));
    if (!scratch) return pfo_fail(error, PFO_ERROR_MEMORY, "losses", -1, "no scratch memory for a batch of this size");
    status = run_in(&call, scratch, error);
    free(scratch);
    return status;
}

/* ---- KTO's reference point ------------------------------------------------------------------------------------- */

static pfo_status check_kl_view(const char *name, const pfo_view *view, int64_t size, pfo_error *error)
{
    if (!view) return pfo_fail(error, PFO_ERROR_MISSING, name, -1, "expected [B] log-probabilities or a state");
    if (view->dtype < PFO_F16 || view->dtype > PFO_F64) {
        return pfo_fail(error, PFO_ERROR_DTYPE, name, -1, "expected a float dtype, got %s",
                        pfo_dtype_name(view->dtype));
    }
    if (view->ndim != 1) {
        return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected one dimension [B], got %d", (int)view->ndim);
    }
    if (view->shape[0] == size) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected shape [%lld] like policy_kl_logps, got [%lld]",
                    (long long)size, (long long)view->shape[0]);
}

pfo_status pfo_kto_kl(const pfo_view *policy, const pfo_view *ref, const double *state, double *kl, pfo_error *error)
{
    pfo_clear(error);
    int64_t size = policy && policy->ndim == 1 ? policy->shape[0] : 0;
    pfo_status status = PFO_OK;
    if (policy || !state) status = check_kl_view("policy_kl_logps", policy, size, error);
    if (status == PFO_OK && (ref || policy || !state)) status = check_kl_view("ref_kl_logps", ref, size, error);
    if (status != PFO_OK) return status;
    double sum = 0;
    double count = (double)size;
    if (state) {
        sum = state[0];
        count = state[1];
        if (!(count >= 0 && count < INFINITY)) {
            return pfo_fail(error, PFO_ERROR_VALUE, "state", 1, "expected a finite count >= 0, got %g", count);
        }
    }
    pfo_fpenv saved = pfo_fpenv_enter();
    for (int64_t i = 0; !state && i < size; i++) {
        double policy_logp = pfo_read_float((const char *)policy->data + i * policy->strides_bytes[0], policy->dtype);
        double ref_logp = pfo_read_float((const char *)ref->data + i * ref->strides_bytes[0], ref->dtype);
        sum += policy_logp - ref_logp;
    }
    double mean = count > 0 ? sum / count : 0;
    *kl = mean <= 0 ? 0 : mean; /* a NaN compares false and stays */
    pfo_fpenv_leave(saved);
    return PFO_OK;
}
