/* Every loss and procedure through one handler, and the weighted sum of several losses.
 *
 * Attributes of the loss: "loss" its name, "numbers" and "values" the names and values of parameters and of those
 * inputs that are one number for the batch.  A parameter may also be an input, one number [] that only the running
 * program knows.  Outputs are "losses", the row's rewards or outputs, and "grad_<input>". */
#include <stdlib.h>
#include <string.h>

#include "../core/dtype.h"
#include "../ops/views.h"
#include "handlers.h"

enum {
    MAX_OUTPUTS = PFO_LOSS_MAX_REWARDS + PFO_LOSS_MAX_INPUTS,
    MAX_SUMMANDS = 32
};

typedef struct loss_call {
    const pfo_loss_row *row;
    pfo_loss_args args;
    pfo_named_view inputs[PFO_LOSS_MAX_INPUTS], rewards[PFO_LOSS_MAX_REWARDS], grads[PFO_LOSS_MAX_INPUTS];
    pfo_named_value params[PFO_LOSS_MAX_PARAMS];
    pfo_named_view param_views[PFO_LOSS_MAX_PARAMS]; /* parameters that came as inputs */
    int32_t param_view_count;
    double scalars[PFO_LOSS_MAX_INPUTS]; /* behind the views of inputs that came as numbers */
} loss_call;

/* ---- names ------------------------------------------------------------------------------------------------------- */

static const pfo_loss_input_info *input_called(const pfo_loss_row *row, XLA_FFI_ByteSpan name)
{
    for (int k = 0; k < PFO_LOSS_MAX_INPUTS && row->inputs[k].name; k++)
        if (pfo_ffi_is(name, row->inputs[k].name)) return &row->inputs[k];
    return NULL;
}

static const pfo_loss_param_info *param_called(const pfo_loss_row *row, XLA_FFI_ByteSpan name)
{
    for (int k = 0; k < PFO_LOSS_MAX_PARAMS && row->params[k].name; k++)
        if (pfo_ffi_is(name, row->params[k].name)) return &row->params[k];
    return NULL;
}

static pfo_view *add(pfo_named_view *list, int32_t *count, int32_t limit, const char *name)
{
    if (!name || *count == limit) return NULL;
    list[*count].name = name;
    return &list[(*count)++].view;
}

static pfo_view *find_output(loss_call *call, XLA_FFI_ByteSpan name)
{
    static const char prefix[] = "grad_";
    const size_t skip = sizeof prefix - 1;
    if (pfo_ffi_is(name, "losses")) return &call->args.losses;
    for (int k = 0; k < PFO_LOSS_MAX_REWARDS && call->row->rewards[k].name; k++)
        if (pfo_ffi_is(name, call->row->rewards[k].name))
            return add(call->rewards, &call->args.reward_count, PFO_LOSS_MAX_REWARDS, call->row->rewards[k].name);
    if (name.len < skip || memcmp(name.ptr, prefix, skip) != 0) return NULL;
    const pfo_loss_input_info *input =
        input_called(call->row, (XLA_FFI_ByteSpan){.ptr = name.ptr + skip, .len = name.len - skip});
    return add(call->grads, &call->args.grad_count, PFO_LOSS_MAX_INPUTS, input ? input->name : NULL);
}

/* A batch of losses is one whole: statistics over it couple its rows. */
static pfo_view *find_loss_array(void *args, XLA_FFI_ByteSpan name, int is_output, enum pfo_ffi_kind *kind)
{
    loss_call *call = args;
    *kind = PFO_FFI_WHOLE;
    if (is_output) return find_output(call, name);
    if (pfo_ffi_is(name, "grad_losses")) return &call->args.grad_losses;
    const pfo_loss_param_info *param = param_called(call->row, name);
    if (param) return add(call->param_views, &call->param_view_count, PFO_LOSS_MAX_PARAMS, param->name);
    const pfo_loss_input_info *input = input_called(call->row, name);
    return add(call->inputs, &call->args.input_count, PFO_LOSS_MAX_INPUTS, input ? input->name : NULL);
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

static pfo_status take_number(loss_call *call, XLA_FFI_ByteSpan name, double value, pfo_error *error)
{
    const pfo_loss_param_info *param = param_called(call->row, name);
    if (param && call->args.param_count < PFO_LOSS_MAX_PARAMS) {
        call->params[call->args.param_count++] = (pfo_named_value){param->name, value};
        return PFO_OK;
    }
    const pfo_loss_input_info *input = input_called(call->row, name);
    const int32_t at = call->args.input_count;
    pfo_view *view = add(call->inputs, &call->args.input_count, PFO_LOSS_MAX_INPUTS, input ? input->name : NULL);
    if (!view) return pfo_fail(error, PFO_ERROR_VALUE, "numbers", -1, "%s has no such number", call->row->name);
    call->scalars[at] = value;
    *view = pfo_view_none();
    view->data = &call->scalars[at];
    view->dtype = PFO_F64;
    return PFO_OK;
}

static pfo_status take_numbers(const XLA_FFI_CallFrame *frame, loss_call *call, pfo_error *error)
{
    XLA_FFI_ByteSpan names, name;
    const double *values;
    int64_t count;
    if (pfo_ffi_text(frame, "numbers", &names, error) < 0 ||
        pfo_ffi_doubles(frame, "values", &values, &count, error) < 0)
        return PFO_ERROR_DTYPE;
    for (int64_t k = 0; pfo_ffi_next_word(&names, &name); k++) {
        if (k == count) return pfo_fail(error, PFO_ERROR_MISSING, "values", -1, "fewer than the names of numbers");
        const pfo_status status = take_number(call, name, values[k], error);
        if (status != PFO_OK) return status;
    }
    return PFO_OK;
}

static pfo_status take_row(const XLA_FFI_CallFrame *frame, loss_call *call, pfo_error *error)
{
    XLA_FFI_ByteSpan name;
    if (pfo_ffi_text(frame, "loss", &name, error) < 0) return PFO_ERROR_DTYPE;
    for (int k = 0; k < pfo_loss_count() && !call->row; k++)
        if (pfo_ffi_is(name, pfo_loss_info(k)->name)) call->row = pfo_loss_info(k);
    if (!call->row) return pfo_fail(error, PFO_ERROR_VALUE, "loss", -1, "no loss has this name");
    call->args.loss = call->row->name;
    call->args.inputs = call->inputs;
    call->args.params = call->params;
    call->args.rewards = call->rewards;
    call->args.grads = call->grads;
    return PFO_OK;
}

/* ---- the loss ---------------------------------------------------------------------------------------------------- */

/* The parameters that came as inputs, after those that came as numbers. */
static pfo_status read_params(loss_call *call, int32_t numbers, pfo_error *error)
{
    call->args.param_count = numbers;
    for (int32_t k = 0; k < call->param_view_count; k++) {
        const pfo_named_view *given = &call->param_views[k];
        int fits;
        if (given->view.ndim != 0 || call->args.param_count == PFO_LOSS_MAX_PARAMS)
            return pfo_fail(error, PFO_ERROR_SHAPE, given->name, -1, "expected one number");
        const double value = pfo_is_int(given->view.dtype)
                                 ? (double)pfo_read_int(given->view.data, given->view.dtype, &fits)
                                 : pfo_read_float(given->view.data, given->view.dtype);
        call->params[call->args.param_count++] = (pfo_named_value){given->name, value};
    }
    return PFO_OK;
}

static pfo_status run_with_params(loss_call *call, pfo_error *error)
{
    const int32_t numbers = call->args.param_count;
    const pfo_fpenv saved = pfo_fpenv_enter();
    pfo_status status = read_params(call, numbers, error);
    pfo_fpenv_leave(saved);
    if (status == PFO_OK) status = pfo_loss(&call->args, error);
    call->args.param_count = numbers; /* the next mapped element reads its own */
    return status;
}

/* JAX without x64 has no int64: positions come in int32 then. */
static pfo_status run_loss(void *args, pfo_error *error)
{
    loss_call *call = args;
    pfo_view narrow[PFO_LOSS_MAX_REWARDS];
    pfo_status status = PFO_OK;
    int32_t widened = 0; /* outputs before this one that had to be */
    for (; widened < call->args.reward_count && status == PFO_OK; widened++) {
        pfo_view *view = &call->rewards[widened].view;
        narrow[widened].dtype = PFO_NONE;
        if (view->dtype == PFO_I32) status = pfo_ffi_widen(view, PFO_I64, &narrow[widened], error);
    }
    if (status == PFO_OK) status = run_with_params(call, error);
    for (int32_t k = 0; k < widened; k++) {
        pfo_view *view = &call->rewards[k].view;
        if (!pfo_present(&narrow[k])) continue;
        if (status == PFO_OK) pfo_ffi_round(view, &narrow[k]);
        free(view->data);
        *view = narrow[k];
    }
    return status;
}

XLA_FFI_Error *pfo_ffi_loss(XLA_FFI_CallFrame *frame)
{
    XLA_FFI_Error *answer;
    if (pfo_ffi_answered(frame, &answer)) return answer;
    loss_call call;
    memset(&call, 0, sizeof call);
    pfo_error error;
    pfo_clear(&error);
    pfo_status status = take_row(frame, &call, &error);
    if (status == PFO_OK) status = take_numbers(frame, &call, &error);
    if (status == PFO_OK) status = pfo_ffi_run_bound(frame, &call, find_loss_array, run_loss, &error);
    return status == PFO_OK ? NULL : pfo_ffi_error(frame, call.row ? call.row->name : "loss", &error);
}

/* ---- several losses ---------------------------------------------------------------------------------------------- */

typedef struct sum_call {
    pfo_view summands[MAX_SUMMANDS], sum;
    int64_t count, weight_count;
    const double *weights;
} sum_call;

static pfo_view *find_summand(void *args, XLA_FFI_ByteSpan name, int is_output, enum pfo_ffi_kind *kind)
{
    (void)name; /* summands come in the order of their weights */
    sum_call *call = args;
    *kind = PFO_FFI_WHOLE;
    if (is_output) return &call->sum;
    return call->count < MAX_SUMMANDS ? &call->summands[call->count++] : NULL;
}

/* sum[i] = sum_k weights[k] summands[k][i] in double, rounded once; a summand of weight 0 is not read.  All have one
 * shape and dtype. */
static pfo_status run_weighted_sum(void *args, pfo_error *error)
{
    const sum_call *call = args;
    if (call->count != call->weight_count)
        return pfo_fail(error, PFO_ERROR_MISSING, "weights", -1, "expected one for each summand");
    const pfo_fpenv saved = pfo_fpenv_enter();
    const int64_t elements = pfo_leading_size(&call->sum, 0), size = pfo_dtype_size(call->sum.dtype);
    for (int64_t i = 0; i < elements; i++) {
        double total = 0;
        for (int64_t k = 0; k < call->count; k++)
            if (call->weights[k] != 0)
                total +=
                    call->weights[k] * pfo_read_float((const char *)call->summands[k].data + i * size, call->sum.dtype);
        pfo_write_float((char *)call->sum.data + i * size, call->sum.dtype, total);
    }
    pfo_fpenv_leave(saved);
    return PFO_OK;
}

XLA_FFI_Error *pfo_ffi_weighted_sum(XLA_FFI_CallFrame *frame)
{
    XLA_FFI_Error *answer;
    if (pfo_ffi_answered(frame, &answer)) return answer;
    sum_call call = {.count = 0};
    pfo_error error;
    pfo_clear(&error);
    pfo_status status = PFO_OK;
    if (pfo_ffi_doubles(frame, "weights", &call.weights, &call.weight_count, &error) < 0) status = error.status;
    if (status == PFO_OK) status = pfo_ffi_run_bound(frame, &call, find_summand, run_weighted_sum, &error);
    return status == PFO_OK ? NULL : pfo_ffi_error(frame, "loss", &error);
}
