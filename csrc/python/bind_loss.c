/* The losses for Python: _core.loss, _core.kto_kl and the list itself as _core.losses. */
#include "bind.h"

#include <math.h>

/* The arrays of one call.  Views are copied into named views for pfo_loss; `bound` keeps their memory alive. */
typedef struct loss_arrays {
    pfo_bound bound[PFO_LOSS_MAX_INPUTS + 1]; /* the inputs, then grad_losses */
    pfo_named_view inputs[PFO_LOSS_MAX_INPUTS];
    pfo_named_view rewards[PFO_LOSS_MAX_REWARDS];
    pfo_named_view grads[PFO_LOSS_MAX_INPUTS];
    pfo_named_value params[PFO_LOSS_MAX_PARAMS];
    int32_t bound_count, input_count, reward_count, grad_count, param_count;
} loss_arrays;

static const char *key_name(PyObject *key)
{
    const char *name = PyUnicode_Check(key) ? PyUnicode_AsUTF8(key) : NULL;
    if (!name && !PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "inputs and parameters are named by strings");
    return name;
}

static int bind_inputs(PyObject *inputs, PyObject *grad_losses, loss_arrays *arrays)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(inputs, &position, &key, &value)) {
        const char *name = key_name(key);
        if (!name) return -1;
        if (arrays->input_count == PFO_LOSS_MAX_INPUTS) {
            PyErr_Format(PyExc_ValueError, "%s: a loss has at most %d inputs", name, PFO_LOSS_MAX_INPUTS);
            return -1;
        }
        pfo_bound *bound = &arrays->bound[arrays->bound_count];
        if (pfo_bind(value, name, 0, NULL, bound) < 0) return -1;
        arrays->bound_count++;
        arrays->inputs[arrays->input_count++] = (pfo_named_view){name, bound->view};
    }
    pfo_bound *bound = &arrays->bound[arrays->bound_count];
    if (pfo_bind(grad_losses, "grad_losses", 1, NULL, bound) < 0) return -1;
    arrays->bound_count++;
    return 0;
}

static int take_params(PyObject *params, loss_arrays *arrays)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(params, &position, &key, &value)) {
        const char *name = key_name(key);
        double number;
        if (!name || pfo_take_double(value, name, &number) < 0) return -1;
        if (arrays->param_count == PFO_LOSS_MAX_PARAMS) {
            PyErr_Format(PyExc_ValueError, "%s: a loss has at most %d parameters", name, PFO_LOSS_MAX_PARAMS);
            return -1;
        }
        arrays->params[arrays->param_count++] = (pfo_named_value){name, number};
    }
    return 0;
}

static const pfo_named_view *given_input(const loss_arrays *arrays, const char *name)
{
    for (int32_t k = 0; k < arrays->input_count; k++) {
        if (strcmp(arrays->inputs[k].name, name) == 0) return &arrays->inputs[k];
    }
    return NULL;
}

/* float64 if one of the row's REAL or TOKENS inputs is, else float32: constants such as lengths do not widen a
 * result. */
static int32_t result_dtype(const pfo_loss_row *row, const loss_arrays *arrays)
{
    for (int k = 0; k < PFO_LOSS_MAX_INPUTS && row->inputs[k].name; k++) {
        const pfo_named_view *given = given_input(arrays, row->inputs[k].name);
        int type = row->inputs[k].type;
        int is_real = type == PFO_INPUT_REAL || type == PFO_INPUT_TOKENS;
        if (given && is_real && given->view.dtype == PFO_F64) return PFO_F64;
    }
    return PFO_F32;
}

/* A fresh array of the given dimensions.  Whatever is wrong with the inputs they are of is found by pfo_loss. */
static PyObject *new_result(int ndim, const npy_intp *shape, int32_t dtype, pfo_view *view)
{
    int type = dtype == PFO_F64 ? NPY_DOUBLE : dtype == PFO_BOOL ? NPY_BOOL : dtype == PFO_I64 ? NPY_INT64 : NPY_FLOAT;
    npy_intp no_axis = 0;
    PyObject *array = PyArray_SimpleNew(ndim, ndim > 0 ? shape : &no_axis, type);
    if (!array) return NULL;
    memset(view, 0, sizeof *view);
    view->data = PyArray_DATA((PyArrayObject *)array);
    view->dtype = dtype;
    view->ndim = ndim;
    for (int axis = 0; axis < ndim; axis++) {
        view->shape[axis] = shape[axis];
        view->strides_bytes[axis] = PyArray_STRIDE((PyArrayObject *)array, axis);
    }
    return array;
}

/* B and T of a call: those of the first input that has them. */
static void batch_shape(const pfo_loss_row *row, const loss_arrays *arrays, npy_intp shape[2])
{
    int has_rows = 0, has_width = 0;
    shape[0] = shape[1] = 0;
    for (int k = 0; k < PFO_LOSS_MAX_INPUTS && row->inputs[k].name; k++) {
        const pfo_named_view *given = given_input(arrays, row->inputs[k].name);
        int type = row->inputs[k].type;
        if (!given || type == PFO_INPUT_SCALAR || type == PFO_INPUT_GATHERED || given->view.ndim < 1) continue;
        if (!has_rows) shape[0] = (npy_intp)given->view.shape[0];
        has_rows = 1;
        if ((type != PFO_INPUT_TOKENS && type != PFO_INPUT_MASK) || has_width || given->view.ndim != 2) continue;
        shape[1] = (npy_intp)given->view.shape[1];
        has_width = 1;
    }
}

static PyObject *new_output(int shape_kind, const npy_intp shape[2], int32_t dtype, pfo_view *view)
{
    if (shape_kind == PFO_OUTPUT_FLAGS) dtype = PFO_BOOL;
    if (shape_kind == PFO_OUTPUT_POSITIONS) dtype = PFO_I64;
    int is_grid = shape_kind == PFO_OUTPUT_TOKENS || shape_kind == PFO_OUTPUT_POSITIONS;
    int ndim = is_grid ? 2 : shape_kind == PFO_OUTPUT_NUMBER ? 0 : 1;
    return new_result(ndim, shape, dtype, view);
}

static int make_grads(const pfo_loss_row *row, const npy_intp shape[2], int32_t dtype, loss_arrays *arrays,
                      PyObject *grads)
{
    for (int k = 0; k < PFO_LOSS_MAX_INPUTS && row->inputs[k].name; k++) {
        if (!row->inputs[k].differentiable || !given_input(arrays, row->inputs[k].name)) continue;
        pfo_named_view *named = &arrays->grads[arrays->grad_count++];
        named->name = row->inputs[k].name;
        int kind = row->inputs[k].type == PFO_INPUT_TOKENS ? PFO_OUTPUT_TOKENS : PFO_OUTPUT_ROWS;
        PyObject *array = new_output(kind, shape, dtype, &named->view);
        int status = array ? PyDict_SetItemString(grads, named->name, array) : -1;
        Py_XDECREF(array);
        if (status < 0) return -1;
    }
    return 0;
}

/* Allocates the results and names them in args; the tuple is (losses or None, outputs, grads or None).  The numbers
 * that a procedure makes are float64. */
static PyObject *make_results(const pfo_loss_row *row, int wants_grads, loss_arrays *arrays, pfo_loss_args *args)
{
    const int32_t dtype = result_dtype(row, arrays);
    npy_intp shape[2];
    batch_shape(row, arrays, shape);
    int reward_count = 0;
    while (reward_count < PFO_LOSS_MAX_REWARDS && row->rewards[reward_count].name) reward_count++;
    PyObject *rewards = PyTuple_New(reward_count);
    PyObject *grads = wants_grads ? PyDict_New() : Py_NewRef(Py_None);
    int losses_kind = pfo_loss_is_tokenwise(row) ? PFO_OUTPUT_TOKENS : PFO_OUTPUT_ROWS;
    PyObject *losses =
        row->kind == PFO_KIND_PROCEDURE ? Py_NewRef(Py_None) : new_output(losses_kind, shape, dtype, &args->losses);
    if (!rewards || !grads || !losses) goto fail;
    for (int k = 0; k < reward_count; k++) {
        pfo_named_view *named = &arrays->rewards[arrays->reward_count++];
        named->name = row->rewards[k].name;
        int32_t output_dtype = row->rewards[k].shape == PFO_OUTPUT_NUMBER ? PFO_F64 : dtype;
        PyObject *array = new_output(row->rewards[k].shape, shape, output_dtype, &named->view);
        if (!array) goto fail;
        PyTuple_SET_ITEM(rewards, k, array);
    }
    if (wants_grads && make_grads(row, shape, dtype, arrays, grads) < 0) goto fail;
    return Py_BuildValue("(NNN)", losses, rewards, grads);
fail:
    Py_XDECREF(losses);
    Py_XDECREF(rewards);
    Py_XDECREF(grads);
    if (arrays->input_count > 0) pfo_name_size_error(arrays->inputs[0].name);
    return NULL;
}

static PyObject *run_loss(const pfo_loss_row *row, int wants_grads, loss_arrays *arrays)
{
    pfo_loss_args args = {.loss = row->name};
    PyObject *results = make_results(row, wants_grads, arrays, &args);
    if (!results) return NULL;
    args.inputs = arrays->inputs;
    args.input_count = arrays->input_count;
    args.params = arrays->params;
    args.param_count = arrays->param_count;
    args.rewards = arrays->rewards;
    args.reward_count = arrays->reward_count;
    args.grads = arrays->grads;
    args.grad_count = arrays->grad_count;
    args.grad_losses = arrays->bound[arrays->bound_count - 1].view;
    pfo_error error;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS;
    status = pfo_loss(&args, &error);
    Py_END_ALLOW_THREADS;
    if (status == PFO_OK) return results;
    Py_DECREF(results);
    return pfo_raise(status, &error);
}

/* loss(name, inputs, params, grad_losses, wants_grads) */
static PyObject *loss(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 5 || !PyUnicode_Check(args[0]) || !PyDict_Check(args[1]) || !PyDict_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "loss: expected (name, inputs, params, grad_losses, wants_grads)");
        return NULL;
    }
    const char *name = PyUnicode_AsUTF8(args[0]);
    const pfo_loss_row *row = name ? pfo_loss_find(name) : NULL;
    if (!row) return PyErr_Format(PyExc_ValueError, "name: no loss is called %R", args[0]);
    int wants_grads = PyObject_IsTrue(args[4]);
    if (wants_grads < 0) return NULL;
    loss_arrays arrays;
    arrays.bound_count = arrays.input_count = arrays.reward_count = arrays.grad_count = arrays.param_count = 0;
    PyObject *result = NULL;
    if (bind_inputs(args[1], args[3], &arrays) == 0 && take_params(args[2], &arrays) == 0) {
        result = run_loss(row, wants_grads, &arrays);
    }
    for (int32_t k = 0; k < arrays.bound_count; k++) pfo_unbind(&arrays.bound[k]);
    return result;
}

/* kto_kl(policy or None, ref or None, (sum, count) or None) */
static PyObject *kto_kl(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 3) return PyErr_Format(PyExc_TypeError, "kto_kl: expected 3 arguments, got %zd", count);
    double state[2];
    if (args[2] != Py_None) {
        if (!PyTuple_Check(args[2]) || PyTuple_GET_SIZE(args[2]) != 2)
            return PyErr_Format(PyExc_TypeError, "state: expected the tuple (sum, count)");
        if (pfo_take_double(PyTuple_GET_ITEM(args[2], 0), "state", &state[0]) < 0) return NULL;
        if (pfo_take_double(PyTuple_GET_ITEM(args[2], 1), "state", &state[1]) < 0) return NULL;
    }
    pfo_bound policy, ref;
    if (pfo_bind(args[0], "policy_kl_logps", 1, NULL, &policy) < 0) return NULL;
    if (pfo_bind(args[1], "ref_kl_logps", 1, NULL, &ref) < 0) {
        pfo_unbind(&policy);
        return NULL;
    }
    pfo_error error;
    double kl = 0;
    pfo_status status =
        pfo_kto_kl(policy.view.dtype != PFO_NONE ? &policy.view : NULL, ref.view.dtype != PFO_NONE ? &ref.view : NULL,
                   args[2] != Py_None ? state : NULL, &kl, &error);
    pfo_unbind(&policy);
    pfo_unbind(&ref);
    return status == PFO_OK ? PyFloat_FromDouble(kl) : pfo_raise(status, &error);
}

/* ---- the list -------------------------------------------------------------------------------------------------- */

/* Appends item (stolen, may be NULL) to list; 0 on success. */
static int append(PyObject *list, PyObject *item)
{
    int status = item ? PyList_Append(list, item) : -1;
    Py_XDECREF(item);
    return status;
}

static PyObject *describe_inputs(const pfo_loss_row *row)
{
    static const char *const types[] = {"real", "count",   "flag",     "scalar",   "tokens",
                                        "mask", "indices", "gathered", "statistic"};
    PyObject *list = PyList_New(0);
    for (int k = 0; list && k < PFO_LOSS_MAX_INPUTS && row->inputs[k].name; k++) {
        const pfo_loss_input_info *info = &row->inputs[k];
        PyObject *item = Py_BuildValue("{s:s,s:s,s:N,s:N,s:s}", "name", info->name, "type", types[info->type],
                                       "differentiable", PyBool_FromLong(info->differentiable), "optional",
                                       PyBool_FromLong(info->optional), "meaning", info->meaning);
        if (append(list, item) < 0) Py_CLEAR(list);
    }
    return list;
}

static PyObject *describe_params(const pfo_loss_row *row)
{
    PyObject *list = PyList_New(0);
    for (int k = 0; list && k < PFO_LOSS_MAX_PARAMS && row->params[k].name; k++) {
        const pfo_loss_param_info *info = &row->params[k];
        PyObject *value = isnan(info->value) ? Py_NewRef(Py_None) : PyFloat_FromDouble(info->value);
        PyObject *item =
            Py_BuildValue("{s:s,s:N,s:s,s:d,s:N,s:d,s:N,s:s}", "name", info->name, "default", value, "choices",
                          info->choices, "low", info->low, "low_open", PyBool_FromLong(info->low_open), "high",
                          info->high, "high_open", PyBool_FromLong(info->high_open), "meaning", info->meaning);
        if (append(list, item) < 0) Py_CLEAR(list);
    }
    return list;
}

static PyObject *describe_rewards(const pfo_loss_row *row)
{
    static const char *const shapes[] = {"rows", "number", "flags", "tokens", "positions"};
    PyObject *list = PyList_New(0);
    for (int k = 0; list && k < PFO_LOSS_MAX_REWARDS && row->rewards[k].name; k++) {
        const pfo_loss_reward_info *info = &row->rewards[k];
        if (append(list, Py_BuildValue("(ss)", info->name, shapes[info->shape])) < 0) Py_CLEAR(list);
    }
    return list;
}

static PyObject *describe_row(const pfo_loss_row *row)
{
    static const char *const kinds[] = {"pair", "unpaired", "token", "procedure"};
    static const char *const tokens[] = {"sum", "lengths"};
    const char *dot = strchr(row->name, '.');
    PyObject *family = PyUnicode_FromStringAndSize(row->name, dot - row->name);
    return Py_BuildValue("{s:s,s:N,s:s,s:s,s:s,s:N,s:N,s:N,s:N,s:s,s:s,s:s,s:s}", "name", row->name, "family", family,
                         "variant", dot + 1, "kind", kinds[row->kind], "tokens", tokens[row->tokens], "inputs",
                         describe_inputs(row), "parameters", describe_params(row), "outputs", describe_rewards(row),
                         "tokenwise", PyBool_FromLong(pfo_loss_is_tokenwise(row)), "state", row->state, "formula",
                         row->formula, "kink", row->kink, "source", row->source);
}

static PyObject *losses(PyObject *module, PyObject *ignored)
{
    (void)module;
    (void)ignored;
    PyObject *list = PyList_New(0);
    for (int k = 0; list && k < pfo_loss_count(); k++) {
        if (append(list, describe_row(pfo_loss_info(k))) < 0) Py_CLEAR(list);
    }
    if (!list) return NULL;
    PyObject *result = PyList_AsTuple(list);
    Py_DECREF(list);
    return result;
}

PyMethodDef pfo_loss_methods[] = {
    {"loss", (PyCFunction)(void (*)(void))loss, METH_FASTCALL, "One loss of the list; see prefopt.loss."},
    {"kto_kl", (PyCFunction)(void (*)(void))kto_kl, METH_FASTCALL, "KTO's reference point; see prefopt.kto_kl."},
    {"losses", losses, METH_NOARGS, "The list of losses, a tuple of dicts; see prefopt.losses."},
    {NULL, NULL, 0, NULL},
};
