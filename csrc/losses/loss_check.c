/* Everything that can be refused before a loss is computed: names, dtypes, shapes, ranges, overlaps. */
#include <math.h>
#include <string.h>

#include "../core/dtype.h"
#include "loss_call.h"

/* PFO_LOSS_FIELD stands on these. */
_Static_assert(sizeof(pfo_loss_inputs_f64) == PFO_INPUT_FIELD_COUNT * sizeof(double), "inputs are doubles only");
_Static_assert(sizeof(pfo_loss_params_f64) == PFO_PARAM_FIELD_COUNT * sizeof(double), "params are doubles only");
_Static_assert(sizeof(pfo_loss_rewards_f64) == PFO_REWARD_FIELD_COUNT * sizeof(double), "rewards are doubles only");

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
    if (param->choices[0]) {
        int words = 1;
        for (const char *c = param->choices; *c; c++) words += *c == '|';
        if (value >= 0 && value < words && value == floor(value)) return PFO_OK;
        return pfo_fail(error, PFO_ERROR_VALUE, param->name, -1, "expected a position in %s, got %g", param->choices,
                        value);
    }
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

/* The first array of a call that has a size sets it for the others. */
static pfo_status check_axis(const char *name, int64_t got, int64_t *size, const char **from, const char *axis,
                             pfo_error *error)
{
    if (got < 0) return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "a size may not be negative");
    if (*size < 0) {
        *size = got;
        *from = name;
    }
    if (got == *size) return PFO_OK;
    if (!axis) {
        return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected shape [%lld] like %s, got [%lld]", (long long)*size,
                        *from, (long long)got);
    }
    return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected %s = %lld in [B, T] like %s, got %lld", axis,
                    (long long)*size, *from, (long long)got);
}

/* [B]. */
static pfo_status check_size(pfo_loss_call *call, const char *name, const pfo_view *view, pfo_error *error)
{
    if (view->ndim != 1) {
        return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected one dimension [B], got %d", (int)view->ndim);
    }
    return check_axis(name, view->shape[0], &call->size, &call->size_from, NULL, error);
}

/* [B, T], or with any_width [B, K]. */
static pfo_status check_grid(pfo_loss_call *call, const char *name, const pfo_view *view, int any_width,
                             pfo_error *error)
{
    if (view->ndim != 2) {
        return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected two dimensions [B, %s], got %d",
                        any_width ? "K" : "T", (int)view->ndim);
    }
    pfo_status status = check_axis(name, view->shape[0], &call->size, &call->size_from, "B", error);
    if (status != PFO_OK || any_width) return status;
    return check_axis(name, view->shape[1], &call->width, &call->width_from, "T", error);
}

static pfo_status check_output_dtype(const char *name, const pfo_view *view, int shape, pfo_error *error)
{
    const char *expected = shape == PFO_OUTPUT_FLAGS       ? "bool"
                           : shape == PFO_OUTPUT_POSITIONS ? "int64"
                                                           : "float32 or float64";
    int fits = shape == PFO_OUTPUT_FLAGS       ? view->dtype == PFO_BOOL
               : shape == PFO_OUTPUT_POSITIONS ? view->dtype == PFO_I64
                                               : view->dtype == PFO_F32 || view->dtype == PFO_F64;
    if (fits) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_DTYPE, name, -1, "expected %s, got %s", expected, pfo_dtype_name(view->dtype));
}

static pfo_status check_input_dtype(const pfo_loss_input_info *info, const pfo_view *view, pfo_error *error)
{
    int is_float = view->dtype >= PFO_F16 && view->dtype <= PFO_F64;
    int is_int = pfo_is_int(view->dtype);
    const char *expected = "a float dtype";
    int fits = is_float;
    if (info->type == PFO_INPUT_COUNT) {
        expected = "an integer or float dtype";
        fits = is_float || is_int;
    } else if (info->type == PFO_INPUT_FLAG || info->type == PFO_INPUT_MASK) {
        expected = "bool or integers 0 and 1";
        fits = is_int || view->dtype == PFO_BOOL;
    } else if (info->type == PFO_INPUT_INDICES) {
        expected = "an integer dtype";
        fits = is_int;
    }
    if (fits) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_DTYPE, info->name, -1, "expected %s, got %s", expected,
                    pfo_dtype_name(view->dtype));
}

static pfo_status check_input(pfo_loss_call *call, const pfo_loss_input_info *info, const pfo_view *view,
                              pfo_error *error)
{
    pfo_status status = check_input_dtype(info, view, error);
    if (status != PFO_OK) return status;
    switch (info->type) {
    case PFO_INPUT_SCALAR:
        if (view->ndim == 0 || (view->ndim == 1 && view->shape[0] == 1)) return PFO_OK;
        return pfo_fail(error, PFO_ERROR_SHAPE, info->name, -1, "expected one value for the batch, shape [] or [1]");
    case PFO_INPUT_TOKENS:
    case PFO_INPUT_MASK: return check_grid(call, info->name, view, 0, error);
    case PFO_INPUT_INDICES: return check_grid(call, info->name, view, 1, error);
    case PFO_INPUT_GATHERED:
        if (view->ndim == 1) return PFO_OK;
        return pfo_fail(error, PFO_ERROR_SHAPE, info->name, -1, "expected one dimension [N], got %d", (int)view->ndim);
    default: return check_size(call, info->name, view, error);
    }
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

/* The bytes that a view spans, [*low, *high). */
static void view_extent(const pfo_view *view, const char **low, const char **high)
{
    *low = *high = view->data;
    if (pfo_loss_elements(view) == 0) return;
    for (int axis = 0; axis < view->ndim; axis++) {
        int64_t span = (view->shape[axis] - 1) * view->strides_bytes[axis];
        *(span < 0 ? low : high) += span;
    }
    *high += pfo_dtype_size(view->dtype);
}

/* 1 where two elements of one output would share bytes: each axis must step over all of a smaller axis. */
static int overlaps_itself(const pfo_view *view)
{
    if (pfo_loss_elements(view) == 0) return 0;
    int64_t inner = pfo_dtype_size(view->dtype);
    int64_t steps[2] = {0, 0}, sizes[2] = {1, 1};
    for (int axis = 0; axis < view->ndim; axis++) {
        int64_t stride = view->strides_bytes[axis];
        steps[axis] = stride < 0 ? -stride : stride;
        sizes[axis] = view->shape[axis];
    }
    int first = sizes[1] > 1 && (sizes[0] <= 1 || steps[1] < steps[0]); /* the axis with the smaller step */
    if (sizes[first] > 1 && steps[first] < inner) return 1;
    int64_t span = sizes[first] > 1 ? (sizes[first] - 1) * steps[first] + inner : inner;
    return sizes[!first] > 1 && steps[!first] < span;
}

/* Registers an output, whose shape was checked, and refuses one that meets an output seen before (by its extent:
 * interleaved views are refused too). */
static pfo_status add_output(pfo_loss_call *call, const char *name, const pfo_view *view, pfo_error *error)
{
    if (overlaps_itself(view)) {
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

static pfo_status check_shape(pfo_loss_call *call, const char *name, const pfo_view *view, int shape, pfo_error *error)
{
    pfo_status status = check_output_dtype(name, view, shape, error);
    if (status != PFO_OK) return status;
    if (shape == PFO_OUTPUT_TOKENS || shape == PFO_OUTPUT_POSITIONS) return check_grid(call, name, view, 0, error);
    if (shape != PFO_OUTPUT_NUMBER) return check_size(call, name, view, error);
    if (view->ndim == 0) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected no dimension, got %d", (int)view->ndim);
}

/* The losses: [B] or [B, T], none of a procedure. */
static pfo_status resolve_losses(pfo_loss_call *call, const pfo_loss_args *args, pfo_error *error)
{
    if (call->row->kind == PFO_KIND_PROCEDURE) {
        if (args->losses.dtype == PFO_NONE && args->grad_losses.dtype == PFO_NONE) return PFO_OK;
        const char *name = args->losses.dtype != PFO_NONE ? "losses" : "grad_losses";
        return pfo_fail(error, PFO_ERROR_VALUE, name, -1, "%s is a procedure: it has no losses", call->row->name);
    }
    int shape = pfo_loss_is_tokenwise(call->row) ? PFO_OUTPUT_TOKENS : PFO_OUTPUT_ROWS;
    pfo_status status = check_shape(call, "losses", &args->losses, shape, error);
    if (status == PFO_OK) status = add_output(call, "losses", &args->losses, error);
    if (status != PFO_OK || args->grad_losses.dtype == PFO_NONE) return status;
    const pfo_loss_input_info grad_losses = {.name = "grad_losses",
                                             .type = shape == PFO_OUTPUT_TOKENS ? PFO_INPUT_TOKENS : PFO_INPUT_REAL};
    call->grad_losses = &args->grad_losses;
    return check_input(call, &grad_losses, call->grad_losses, error);
}

static pfo_status resolve_outputs(pfo_loss_call *call, const pfo_loss_args *args, pfo_error *error)
{
    pfo_status status = resolve_losses(call, args, error);
    for (int k = 0; k < args->reward_count && status == PFO_OK; k++) {
        const pfo_loss_reward_info *info = find_reward(call->row, args->rewards[k].name);
        if (!info) return fail_unknown(call, "reward", args->rewards[k].name, error);
        if (call->reward_output[info->field]) return fail_twice(info->name, error);
        status = check_shape(call, info->name, &args->rewards[k].view, info->shape, error);
        if (status == PFO_OK) status = add_output(call, info->name, &args->rewards[k].view, error);
        call->reward_output[info->field] = call->output_count;
    }
    for (int k = 0; k < args->grad_count && status == PFO_OK; k++) {
        const pfo_loss_input_info *info = find_input(call->row, args->grads[k].name);
        if (!info || !info->differentiable || !call->inputs[info->field]) {
            return fail_unknown(call, "differentiable input in this call", args->grads[k].name, error);
        }
        if (call->grad_output[info->field]) return fail_twice(info->name, error);
        int shape = info->type == PFO_INPUT_TOKENS ? PFO_OUTPUT_TOKENS : PFO_OUTPUT_ROWS;
        status = check_shape(call, info->name, &args->grads[k].view, shape, error);
        if (status == PFO_OK) status = add_output(call, info->name, &args->grads[k].view, error);
        call->grad_output[info->field] = call->output_count;
    }
    return status;
}

/* ---- entries --------------------------------------------------------------------------------------------------- */

pfo_status pfo_loss_resolve(pfo_loss_call *call, const pfo_loss_args *args, pfo_error *error)
{
    memset(call, 0, sizeof *call);
    call->size = call->width = -1;
    call->row = pfo_loss_find(args->loss);
    if (!call->row) {
        return pfo_fail(error, PFO_ERROR_VALUE, "loss", -1, "no loss is named \"%s\"", args->loss ? args->loss : "");
    }
    pfo_status status = resolve_params(call, args, error);
    if (status == PFO_OK) status = resolve_inputs(call, args, error);
    if (status == PFO_OK) status = resolve_outputs(call, args, error);
    if (call->size < 0) call->size = 0;
    if (call->width < 0) call->width = 0;
    return status;
}

int64_t pfo_loss_elements(const pfo_view *view)
{
    int64_t elements = 1;
    for (int axis = 0; axis < view->ndim; axis++) elements *= view->shape[axis];
    return elements;
}

static pfo_status check_value(const pfo_loss_input_info *info, double value, int64_t i, pfo_error *error)
{
    if (info->type == PFO_INPUT_COUNT && !(value >= 0 && value < INFINITY)) {
        return pfo_fail(error, PFO_ERROR_VALUE, info->name, i, "expected finite counts >= 0, got %g at index %lld",
                        value, (long long)i);
    }
    int is_flag = info->type == PFO_INPUT_FLAG || info->type == PFO_INPUT_MASK;
    if (is_flag && value != 0 && value != 1) {
        return pfo_fail(error, PFO_ERROR_VALUE, info->name, i, "expected 0 or 1, got %g at index %lld", value,
                        (long long)i);
    }
    return PFO_OK;
}

static double read_value(const char *address, int32_t dtype)
{
    if (dtype <= PFO_F64) return pfo_read_float(address, dtype);
    if (dtype == PFO_BOOL) return *address != 0;
    int fits = 1;
    return (double)pfo_read_int(address, dtype, &fits);
}

pfo_status pfo_loss_read(const pfo_loss_input_info *info, const pfo_view *view, double *column, pfo_error *error)
{
    int64_t rows = view->ndim > 0 ? view->shape[0] : 1;
    int64_t columns = view->ndim > 1 ? view->shape[1] : 1;
    for (int64_t i = 0; i < rows; i++) {
        const char *address = view->data;
        if (view->ndim > 0) address += i * view->strides_bytes[0];
        for (int64_t j = 0; j < columns; j++, address += view->ndim > 1 ? view->strides_bytes[1] : 0) {
            double value = read_value(address, view->dtype);
            pfo_status status = check_value(info, value, i * columns + j, error);
            if (status != PFO_OK) return status;
            column[i * columns + j] = value;
        }
    }
    return PFO_OK;
}
