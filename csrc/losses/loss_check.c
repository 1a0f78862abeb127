/* Everything that can be refused before a loss is computed: names, dtypes, shapes, ranges, overlaps. */
#include <math.h>
#include <string.h>

#include "../core/dtype.h"
#include "loss_call.h"

/* ---- the row's own entries ------------------------------------------------------------------------------------- */

static const pfo_loss_input_info *find_input(const pfo_loss_row *row, const char *name)
{
    for (int k = 0; name && k < PFO_LOSS_MAX_INPUTS && row->inputs[k].name; k++) {
        if (strcmp(row->inputs[k].name, name) == 0) return &row->inputs[k];
    }
    return NULL;
}

static const pfo_loss_param_info *find_param(const pfo_loss_row *row, const char *name)
{
    for (int k = 0; name && k < PFO_LOSS_MAX_PARAMS && row->params[k].name; k++) {
        if (strcmp(row->params[k].name, name) == 0) return &row->params[k];
    }
    return NULL;
}

static const pfo_loss_reward_info *find_reward(const pfo_loss_row *row, const char *name)
{
    for (int k = 0; name && k < PFO_LOSS_MAX_REWARDS && row->rewards[k].name; k++) {
        if (strcmp(row->rewards[k].name, name) == 0) return &row->rewards[k];
    }
    return NULL;
}

static pfo_status fail_unknown(const pfo_loss_call *call, const char *what, const char *name, pfo_error *error)
{
    return pfo_fail(error, PFO_ERROR_VALUE, name ? name : "(null)", -1, "%s has no such %s", call->row->name, what);
}

static pfo_status fail_twice(const char *name, pfo_error *error)
{
    return pfo_fail(error, PFO_ERROR_VALUE, name, -1, "given twice");
}

/* ---- checks ---------------------------------------------------------------------------------------------------- */

static pfo_status check_param(const pfo_loss_param_info *param, double value, pfo_error *error)
{
    int above = param->low_open ? value > param->low : value >= param->low;
    int below = param->high_open ? value < param->high : value <= param->high;
    if (above && below) return PFO_OK; /* a NaN compares false */
    return pfo_fail(error, PFO_ERROR_VALUE, param->name, -1, "expected a value in %c%g, %g%c, got %g",
                    param->low_open ? '(' : '[', param->low, param->high, param->high_open ? ')' : ']', value);
}

static pfo_status resolve_params(pfo_loss_call *call, const pfo_loss_args *args, pfo_error *error)
{
    for (int k = 0; k < PFO_PARAM_FIELD_COUNT; k++) PFO_LOSS_FIELD(call->params, k) = NAN;
    for (int k = 0; k < PFO_LOSS_MAX_PARAMS && call->row->params[k].name; k++) {
        PFO_LOSS_FIELD(call->params, call->row->params[k].field) = call->row->params[k].value;
    }
    for (int k = 0; k < args->param_count; k++) {
        const pfo_named_value *given = &args->params[k];
        const pfo_loss_param_info *param = find_param(call->row, given->name);
        if (!param) return fail_unknown(call, "parameter", given->name, error);
        pfo_status status = check_param(param, given->value, error);
        if (status != PFO_OK) return status;
        PFO_LOSS_FIELD(call->params, param->field) = given->value;
    }
    return PFO_OK;
}

/* Every array of a call is [B]; the first one seen sets B. */
static pfo_status check_size(pfo_loss_call *call, const char *name, const pfo_view *view, pfo_error *error)
{
    if (view->ndim != 1) {
        return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected one dimension [B], got %d", (int)view->ndim);
    }
    if (view->shape[0] < 0) return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "a size may not be negative");
    if (call->size < 0) {
        call->size = view->shape[0];
        call->size_from = name;
    }
    if (view->shape[0] == call->size) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected shape [%lld] like %s, got [%lld]",
                    (long long)call->size, call->size_from, (long long)view->shape[0]);
}

static pfo_status check_output_dtype(const char *name, const pfo_view *view, pfo_error *error)
{
    if (view->dtype == PFO_F32 || view->dtype == PFO_F64) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_DTYPE, name, -1, "expected float32 or float64, got %s",
                    pfo_dtype_name(view->dtype));
}

static pfo_status check_input(pfo_loss_call *call, const pfo_loss_input_info *info, const pfo_view *view,
                              pfo_error *error)
{
    int is_float = view->dtype >= PFO_F16 && view->dtype <= PFO_F64;
    int is_int = pfo_is_int(view->dtype);
    const char *dtype = pfo_dtype_name(view->dtype);
    if (info->type == PFO_INPUT_COUNT && !is_float && !is_int) {
        return pfo_fail(error, PFO_ERROR_DTYPE, info->name, -1, "expected an integer or float dtype, got %s", dtype);
    }
    if (info->type == PFO_INPUT_FLAG && !is_int && view->dtype != PFO_BOOL) {
        return pfo_fail(error, PFO_ERROR_DTYPE, info->name, -1, "expected bool or integers 0 and 1, got %s", dtype);
    }
    if ((info->type == PFO_INPUT_REAL || info->type == PFO_INPUT_SCALAR) && !is_float) {
        return pfo_fail(error, PFO_ERROR_DTYPE, info->name, -1, "expected a float dtype, got %s", dtype);
    }
    if (info->type == PFO_INPUT_SCALAR) {
        if (view->ndim == 0 || (view->ndim == 1 && view->shape[0] == 1)) return PFO_OK;
        return pfo_fail(error, PFO_ERROR_SHAPE, info->name, -1, "expected one value for the batch, shape [] or [1]");
    }
    return check_size(call, info->name, view, error);
}

static pfo_status resolve_inputs(pfo_loss_call *call, const pfo_loss_args *args, pfo_error *error)
{
    for (int k = 0; k < args->input_count; k++) {
        const pfo_named_view *given = &args->inputs[k];
        const pfo_loss_input_info *info = find_input(call->row, given->name);
        if (!info) return fail_unknown(call, "input", given->name, error);
        if (given->view.dtype == PFO_NONE) continue;
        if (call->inputs[info->field]) return fail_twice(info->name, error);
        pfo_status status = check_input(call, info, &given->view, error);
        if (status != PFO_OK) return status;
        call->inputs[info->field] = &given->view;
    }
    for (int k = 0; k < PFO_LOSS_MAX_INPUTS && call->row->inputs[k].name; k++) {
        const pfo_loss_input_info *info = &call->row->inputs[k];
        if (info->optional || call->inputs[info->field]) continue;
        return pfo_fail(error, PFO_ERROR_MISSING, info->name, -1, "%s needs this input", call->row->name);
    }
    if (call->row->tokens == PFO_TOKENS_LENGTHS) {
        int chosen = call->inputs[PFO_FIELD_chosen_lengths] != NULL;
        int rejected = call->inputs[PFO_FIELD_rejected_lengths] != NULL;
        const char *missing = chosen ? "rejected_lengths" : "chosen_lengths";
        if (chosen != rejected) {
            return pfo_fail(error, PFO_ERROR_MISSING, missing, -1, "expected both lengths or none, got one");
        }
    }
    return PFO_OK;
}

/* The bytes that a [B] view spans, [*low, *high). */
static void view_extent(const pfo_view *view, const char **low, const char **high)
{
    int64_t span = view->shape[0] > 0 ? (view->shape[0] - 1) * view->strides_bytes[0] : 0;
    *low = (const char *)view->data + (span < 0 ? span : 0);
    *high = (const char *)view->data + (span > 0 ? span : 0) + (view->shape[0] > 0 ? pfo_dtype_size(view->dtype) : 0);
}

/* Registers an output and refuses one that meets an output seen before (by its extent: interleaved views are refused
 * too). */
static pfo_status add_output(pfo_loss_call *call, const char *name, const pfo_view *view, pfo_error *error)
{
    pfo_status status = check_output_dtype(name, view, error);
    if (status == PFO_OK) status = check_size(call, name, view, error);
    if (status != PFO_OK) return status;
    int64_t stride = view->strides_bytes[0];
    int64_t step = stride < 0 ? -stride : stride;
    if (call->size > 1 && step < pfo_dtype_size(view->dtype)) {
        return pfo_fail(error, PFO_ERROR_STRIDE, name, -1, "the elements of an output overlap each other");
    }
    const char *low, *high;
    view_extent(view, &low, &high);
    for (int k = 0; k < call->output_count; k++) {
        const char *other_low, *other_high;
        view_extent(call->outputs[k].view, &other_low, &other_high);
        if (low < other_high && other_low < high) {
            return pfo_fail(error, PFO_ERROR_OVERLAP, name, -1, "shares memory with %s", call->outputs[k].name);
        }
    }
    call->outputs[call->output_count].name = name;
    call->outputs[call->output_count++].view = view;
    return PFO_OK;
}

static pfo_status resolve_outputs(pfo_loss_call *call, const pfo_loss_args *args, pfo_error *error)
{
    pfo_status status = add_output(call, "losses", &args->losses, error);
    for (int k = 0; k < args->reward_count && status == PFO_OK; k++) {
        const pfo_loss_reward_info *info = find_reward(call->row, args->rewards[k].name);
        if (!info) return fail_unknown(call, "reward", args->rewards[k].name, error);
        if (call->reward_output[info->field]) return fail_twice(info->name, error);
        call->reward_output[info->field] = call->output_count;
        status = add_output(call, info->name, &args->rewards[k].view, error);
    }
    for (int k = 0; k < args->grad_count && status == PFO_OK; k++) {
        const pfo_loss_input_info *info = find_input(call->row, args->grads[k].name);
        if (!info || !info->differentiable || !call->inputs[info->field]) {
            return fail_unknown(call, "differentiable input in this call", args->grads[k].name, error);
        }
        if (call->grad_output[info->field]) return fail_twice(info->name, error);
        call->grad_output[info->field] = call->output_count;
        status = add_output(call, info->name, &args->grads[k].view, error);
    }
    if (status != PFO_OK || args->grad_losses.dtype == PFO_NONE) return status;
    static const pfo_loss_input_info grad_losses = {.name = "grad_losses", .type = PFO_INPUT_REAL};
    call->grad_losses = &args->grad_losses;
    return check_input(call, &grad_losses, call->grad_losses, error);
}

/* ---- entries --------------------------------------------------------------------------------------------------- */

pfo_status pfo_loss_resolve(pfo_loss_call *call, const pfo_loss_args *args, pfo_error *error)
{
    memset(call, 0, sizeof *call);
    call->size = -1;
    call->row = pfo_loss_find(args->loss);
    if (!call->row) {
        return pfo_fail(error, PFO_ERROR_VALUE, "loss", -1, "no loss is named \"%s\"", args->loss ? args->loss : "");
    }
    pfo_status status = resolve_params(call, args, error);
    if (status == PFO_OK) status = resolve_inputs(call, args, error);
    if (status == PFO_OK) status = resolve_outputs(call, args, error);
    return status;
}

pfo_status pfo_loss_read(const pfo_loss_input_info *info, const pfo_view *view, double *column, pfo_error *error)
{
    int64_t size = view->ndim == 0 ? 1 : view->shape[0];
    int64_t stride = view->ndim == 0 ? 0 : view->strides_bytes[0];
    const char *address = view->data;
    for (int64_t i = 0; i < size; i++, address += stride) {
        double value;
        int fits = 1;
        if (view->dtype <= PFO_F64) {
            value = pfo_read_float(address, view->dtype);
        } else if (view->dtype == PFO_BOOL) {
            value = *address != 0;
        } else {
            value = (double)pfo_read_int(address, view->dtype, &fits);
        }
        if (info->type == PFO_INPUT_COUNT && !(value >= 0 && value < INFINITY)) {
            return pfo_fail(error, PFO_ERROR_VALUE, info->name, i, "expected finite counts >= 0, got %g at index %lld",
                            value, (long long)i);
        }
        if (info->type == PFO_INPUT_FLAG && value != 0 && value != 1) {
            return pfo_fail(error, PFO_ERROR_VALUE, info->name, i, "expected 0 or 1, got %g at index %lld", value,
                            (long long)i);
        }
        column[i] = value;
    }
    return PFO_OK;
}
