/* Preference losses: [B] inputs to [B] losses, rewards and vector-Jacobian products.
 *
 *     losses[i]   = L_i(inputs)
 *     grads[k][j] = sum_i g_i dL_i / d input_k[j]
 *
 * Batches are small next to [tokens, vocab] logits, so everything is double and one thread: inputs are read into
 * columns of scratch memory, the formula of the row runs once an element, results are rounded once into the outputs.
 * Reading all inputs first lets an output share memory with an input.  Scratch: 8 B (inputs + outputs) bytes, on the
 * stack for a small batch. */
#include <math.h>
#include <stdlib.h>

#include "../core/dtype.h"
#include "../losses/loss_call.h"
#include "../losses/batch.inc"

#define STACK_DOUBLES 512

/* Columns that a call needs: every input (a SCALAR takes one too, for simplicity), every output, grad_losses. */
static int64_t scratch_columns(const pfo_loss_call *call)
{
    int64_t columns = call->output_count + (call->grad_losses ? 1 : 0);
    for (int k = 0; k < PFO_INPUT_FIELD_COUNT; k++) columns += call->inputs[k] ? 1 : 0;
    return columns;
}

/* Lays the columns out in scratch and reads the inputs.  An input that is not there stays NULL in batch->inputs. */
static pfo_status load_columns(pfo_loss_call *call, double *scratch, pfo_batch *batch, const double **grad_losses,
                               pfo_error *error)
{
    static const pfo_loss_input_info any_real = {.name = "grad_losses", .type = PFO_INPUT_REAL};
    int64_t rows = call->size > 0 ? call->size : 1;
    *batch = (pfo_batch){.size = call->size, .params = call->params};
    for (int k = 0; k < PFO_LOSS_MAX_INPUTS && call->row->inputs[k].name; k++) {
        const pfo_loss_input_info *info = &call->row->inputs[k];
        if (!call->inputs[info->field]) continue;
        pfo_status status = pfo_loss_read(info, call->inputs[info->field], scratch, error);
        if (status != PFO_OK) return status;
        batch->inputs[info->field] = scratch;
        scratch += rows;
    }
    *grad_losses = NULL;
    if (call->grad_losses) {
        pfo_status status = pfo_loss_read(&any_real, call->grad_losses, scratch, error);
        if (status != PFO_OK) return status;
        *grad_losses = scratch;
        scratch += rows;
    }
    for (int k = 0; k < call->output_count; k++, scratch += rows) call->outputs[k].column = scratch;
    for (int k = 0; k < PFO_INPUT_FIELD_COUNT; k++) {
        if (call->grad_output[k]) batch->grads[k] = call->outputs[call->grad_output[k]].column;
    }
    return PFO_OK;
}

/* Sets what does not change over the batch: absent inputs, scalars, statistics. */
static void set_constants(const pfo_loss_call *call, const pfo_batch *batch, pfo_loss_inputs_f64 *x)
{
    for (int k = 0; k < PFO_INPUT_FIELD_COUNT; k++) PFO_LOSS_FIELD(*x, k) = NAN;
    for (int k = 0; k < PFO_LOSS_MAX_INPUTS && call->row->inputs[k].name; k++) {
        const pfo_loss_input_info *info = &call->row->inputs[k];
        const double *column = batch->inputs[info->field];
        if (!column) PFO_LOSS_FIELD(*x, info->field) = info->absent;
        if (column && info->type == PFO_INPUT_SCALAR) PFO_LOSS_FIELD(*x, info->field) = column[0];
    }
    if (couplings[call->row->coupling].gather) couplings[call->row->coupling].gather(batch, x);
}

/* Runs the formula over the batch.  Gradients of statistics add up in *statistics and are spread at the end. */
static void run_formula(const pfo_loss_call *call, const pfo_batch *batch, const double *grad_losses)
{
    pfo_loss_inputs_f64 x;
    pfo_loss_inputs_f64 statistics = {0};
    pfo_loss_terms_f64 terms = {0};
    set_constants(call, batch, &x);
    for (int64_t i = 0; i < batch->size; i++) {
        for (int k = 0; k < PFO_LOSS_MAX_INPUTS && call->row->inputs[k].name; k++) {
            const pfo_loss_input_info *info = &call->row->inputs[k];
            const double *column = batch->inputs[info->field];
            if (column && info->type != PFO_INPUT_SCALAR) PFO_LOSS_FIELD(x, info->field) = column[i];
        }
        pfo_loss_terms_of_f64(call->row->id, &x, &call->params, &terms);
        call->outputs[0].column[i] = terms.value;
        for (int k = 0; k < PFO_REWARD_FIELD_COUNT; k++) {
            if (call->reward_output[k]) {
                call->outputs[call->reward_output[k]].column[i] = PFO_LOSS_FIELD(terms.reward, k);
            }
        }
        double g = grad_losses ? grad_losses[i] : 1.0;
        for (int k = 0; k < PFO_INPUT_FIELD_COUNT; k++) {
            if (batch->grads[k]) batch->grads[k][i] = g * PFO_LOSS_FIELD(terms.grad, k);
            PFO_LOSS_FIELD(statistics, k) += g * PFO_LOSS_FIELD(terms.grad, k);
        }
    }
    if (couplings[call->row->coupling].scatter) couplings[call->row->coupling].scatter(batch, &statistics);
}

static void store_outputs(const pfo_loss_call *call)
{
    for (int k = 0; k < call->output_count; k++) {
        const pfo_view *view = call->outputs[k].view;
        char *address = view->data;
        for (int64_t i = 0; i < call->size; i++, address += view->strides_bytes[0]) {
            pfo_write_float(address, view->dtype, call->outputs[k].column[i]);
        }
    }
}

static pfo_status run_in(pfo_loss_call *call, double *scratch, pfo_error *error)
{
    pfo_batch batch;
    const double *grad_losses;
    pfo_status status = load_columns(call, scratch, &batch, &grad_losses, error);
    if (status == PFO_OK && couplings[call->row->coupling].check) {
        status = couplings[call->row->coupling].check(&batch, error);
    }
    if (status != PFO_OK) return status;
    pfo_fpenv saved = pfo_fpenv_enter();
    run_formula(call, &batch, grad_losses);
    store_outputs(call);
    pfo_fpenv_leave(saved);
    return PFO_OK;
}

pfo_status pfo_loss(const pfo_loss_args *args, pfo_error *error)
{
    pfo_clear(error);
    pfo_loss_call call;
    pfo_status status = pfo_loss_resolve(&call, args, error);
    if (status != PFO_OK) return status;
    double on_stack[STACK_DOUBLES];
    int64_t rows = call.size > 0 ? call.size : 1;
    int64_t doubles = pfo_mul_size(scratch_columns(&call), rows);
    int64_t bytes = doubles < 0 ? -1 : pfo_mul_size(doubles, (int64_t)sizeof(double));
    if (bytes >= 0 && doubles <= STACK_DOUBLES) return run_in(&call, on_stack, error);
    double *scratch = bytes < 0 ? NULL : malloc((size_t)bytes);
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
    for (int64_t i = 0; !state && i < size; i++) {
        double policy_logp = pfo_read_float((const char *)policy->data + i * policy->strides_bytes[0], policy->dtype);
        double ref_logp = pfo_read_float((const char *)ref->data + i * ref->strides_bytes[0], ref->dtype);
        sum += policy_logp - ref_logp;
    }
    double mean = count > 0 ? sum / count : 0;
    *kl = mean <= 0 ? 0 : mean; /* a NaN compares false and stays */
    return PFO_OK;
}
