/* _core.linear_token_logps, linear_token_logps_grad, row_states_finish, blas_load, blas_name.  Positional arguments
 * only: the public signatures, defaults and documentation are in prefopt/_linear.py. */
#include "bind.h"

#include <string.h>

enum {
    INPUT_ARRAYS = 6, /* hidden, weight, labels, bias, lora_a, lora_b */
    INPUT_ARGUMENTS = 14,
    STAT_COUNT = 7,
    GRADIENT_COUNT = 3,
    OUTPUT_COUNT = STAT_COUNT + 2 + GRADIENT_COUNT + 2, /* statistics, top-k, gradients, states, kept */
    HUGE_BYTES = 64 << 20
};

/* ---- arguments that both directions share ------------------------------------------------------------------------ */

static int take_optional_double(PyObject *object, const char *name, double *value)
{
    *value = 0.0;
    if (object == Py_None) return 0;
    if (pfo_take_double(object, name, value) < 0) return -1;
    if (*value > 0.0) return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected a finite number > 0, or None, got %R", name, object);
    return -1;
}

static int take_optional_bytes(PyObject *object, const char *name, int64_t *value)
{
    *value = 0;
    if (object == Py_None) return 0;
    if (pfo_take_int64(object, name, value) < 0) return -1;
    if (*value > 0) return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected a number of bytes > 0, or None, got %R", name, object);
    return -1;
}

/* dtype says what uint16 arrays hold; arrays of other dtypes, which may be mixed, say it themselves. */
static int check_dtype_word(PyObject *dtype)
{
    if (dtype == Py_None || (PyUnicode_Check(dtype) && PyUnicode_CompareWithASCIIString(dtype, "bfloat16") == 0))
        return 0;
    PyErr_Format(PyUnicode_Check(dtype) ? PyExc_ValueError : PyExc_TypeError,
                 "dtype: expected \"bfloat16\" or None, got %R", dtype);
    return -1;
}

/* Binds the first INPUT_ARGUMENTS arguments; returns how many arrays were bound, and raises if not all were. */
static int bind_inputs(PyObject *const *arguments, pfo_linear_inputs *in, pfo_bound bound[INPUT_ARRAYS])
{
    static const char *const names[INPUT_ARRAYS] = {"hidden", "weight", "labels", "bias", "lora_a", "lora_b"};
    pfo_view *views[INPUT_ARRAYS] = {&in->hidden, &in->weight, &in->labels, &in->bias, &in->lora_a, &in->lora_b};
    if (check_dtype_word(arguments[6]) < 0 || pfo_take_int64(arguments[7], "ignore_index", &in->ignore_index) < 0 ||
        pfo_take_double(arguments[8], "logit_scale", &in->logit_scale) < 0 ||
        take_optional_double(arguments[9], "softcap", &in->softcap) < 0 ||
        pfo_take_double(arguments[10], "temperature", &in->temperature) < 0 ||
        take_optional_bytes(arguments[11], "memory_limit", &in->memory_limit) < 0 ||
        pfo_take_int64(arguments[12], "vocab_start", &in->vocab_start) < 0 ||
        pfo_take_int64(arguments[13], "vocab_total", &in->vocab_total) < 0)
        return 0;
    for (int k = 0; k < INPUT_ARRAYS; k++) {
        if (pfo_bind(arguments[k], names[k], k > 2, NULL, &bound[k]) < 0) return k;
        if (k != 2 && bound[k].view.dtype == PFO_U16 && pfo_apply_dtype(arguments[6], names[k], &bound[k]) < 0)
            return k + 1;
        pfo_copy_view(views[k], &bound[k].view);
    }
    return INPUT_ARRAYS;
}

/* A new C-contiguous array; a large one is advised for huge pages, as its first touch costs more than the filling. */
static PyObject *new_array(int32_t ndim, const int64_t *shape, int numpy_type, int32_t dtype, pfo_view *view)
{
    pfo_view like;
    like.ndim = ndim;
    memcpy(like.shape, shape, (size_t)ndim * sizeof shape[0]);
    PyObject *array = pfo_new_leading(&like, "labels", 0, numpy_type, dtype, view);
    if (array && PyArray_NBYTES((PyArrayObject *)array) >= HUGE_BYTES)
        pfo_advise_huge_pages(view->data, PyArray_NBYTES((PyArrayObject *)array));
    return array;
}

/* The shape of labels, and last behind it unless that is negative; returns the number of axes. */
static int32_t rows_shape(const pfo_view *labels, int64_t last, int64_t shape[PFO_MAX_NDIM])
{
    const int32_t axes = labels->ndim < PFO_MAX_NDIM ? labels->ndim : PFO_MAX_NDIM - 1;
    memcpy(shape, labels->shape, (size_t)axes * sizeof shape[0]);
    if (last >= 0) shape[axes] = last;
    return axes + (last >= 0);
}

static int real_type(const pfo_linear_inputs *in, int32_t *dtype)
{
    *dtype = in->hidden.dtype == PFO_F64 ? PFO_F64 : PFO_F32;
    return *dtype == PFO_F64 ? NPY_DOUBLE : NPY_FLOAT;
}

/* Whether outputs can be made: labels bound their size, and hidden and weight have the axes that theirs come from. */
static int has_sizes(const pfo_linear_inputs *in)
{
    return in->hidden.ndim >= 1 && in->labels.ndim == in->hidden.ndim - 1 && in->weight.ndim == 2 &&
           memcmp(in->labels.shape, in->hidden.shape, (size_t)in->labels.ndim * sizeof in->labels.shape[0]) == 0;
}

static PyObject *tuple_of(PyObject *const *items, Py_ssize_t count)
{
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t k = 0; tuple && k < count; k++)
        PyTuple_SET_ITEM(tuple, k, Py_NewRef(items[k] ? items[k] : Py_None));
    return tuple;
}

static int take_flags(PyObject *flags, const char *name, Py_ssize_t count, int *wanted)
{
    if (!PyTuple_CheckExact(flags) || PyTuple_GET_SIZE(flags) != count) {
        PyErr_Format(PyExc_TypeError, "%s: expected a tuple of %zd flags", name, count);
        return -1;
    }
    for (Py_ssize_t k = 0; k < count; k++) {
        wanted[k] = PyObject_IsTrue(PyTuple_GET_ITEM(flags, k));
        if (wanted[k] < 0) return -1;
    }
    return 0;
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

typedef struct forward_wants {
    int stats[STAT_COUNT], gradients[GRADIENT_COUNT], states, kept, lse_double;
    int64_t topk;
} forward_wants;

static int make_outputs(const forward_wants *w, pfo_linear_token_logps_args *args, PyObject *outputs[OUTPUT_COUNT])
{
    int32_t real;
    const int numpy_real = real_type(&args->in, &real);
    pfo_view *stats[STAT_COUNT] = {&args->logps,      &args->lse,       &args->entropy, &args->correct,
                                   &args->mean_logit, &args->max_logit, &args->lse2};
    pfo_view *gradients[GRADIENT_COUNT] = {&args->grad_hidden_logps, &args->grad_hidden_lse,
                                           &args->grad_hidden_entropy};
    int64_t shape[PFO_MAX_NDIM];
    int32_t axes = rows_shape(&args->in.labels, -1, shape);
    for (int k = 0; k < STAT_COUNT; k++) {
        if (!w->stats[k]) continue;
        const int is_correct = k == 3, is_double = real == PFO_F64 || (k == 1 && w->lse_double);
        const int type = is_correct ? NPY_BOOL : is_double ? NPY_DOUBLE : NPY_FLOAT;
        const int32_t dtype = is_correct ? PFO_BOOL : is_double ? PFO_F64 : PFO_F32;
        if (!(outputs[k] = new_array(axes, shape, type, dtype, stats[k]))) return -1;
    }
    if (w->topk > 0) {
        axes = rows_shape(&args->in.labels, w->topk, shape);
        outputs[STAT_COUNT] = new_array(axes, shape, NPY_INT64, PFO_I64, &args->topk_ids);
        outputs[STAT_COUNT + 1] = new_array(axes, shape, numpy_real, real, &args->topk_logps);
        if (!outputs[STAT_COUNT] || !outputs[STAT_COUNT + 1]) return -1;
    }
    axes = rows_shape(&args->in.labels, args->in.hidden.shape[args->in.hidden.ndim - 1], shape);
    for (int k = 0; k < GRADIENT_COUNT; k++) {
        if (!w->gradients[k]) continue;
        if (!(outputs[STAT_COUNT + 2 + k] = new_array(axes, shape, numpy_real, real, gradients[k]))) return -1;
    }
    if (w->states) {
        axes = rows_shape(&args->in.labels, 9, shape);
        if (!(outputs[OUTPUT_COUNT - 2] = new_array(axes, shape, NPY_DOUBLE, PFO_F64, &args->states))) return -1;
    }
    if (w->kept) {
        int64_t kept[2] = {0, args->in.weight.shape[0]};
        (void)pfo_linear_live(&args->in, &kept[0], NULL); /* what it refuses the call refuses, and says why */
        if (!(outputs[OUTPUT_COUNT - 1] = new_array(2, kept, numpy_real, real, &args->kept))) return -1;
    }
    return 0;
}

PyDoc_STRVAR(linear_token_logps_doc,
             "linear_token_logps(hidden, weight, labels, bias, lora_a, lora_b, dtype, ignore_index, logit_scale, "
             "softcap, temperature, memory_limit, vocab_start, vocab_total, stats, topk, gradients, states, kept, "
             "lse_double, /)\n--\n\n"
             "Seven statistics, top-k ids and logps, three gradients by hidden, row states and kept logits as a tuple, "
             "None where not asked for; stats (7) and gradients (3) are tuples of flags.");

static PyObject *linear_token_logps(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    pfo_linear_token_logps_args args = pfo_linear_token_logps_args_default();
    pfo_bound bound[INPUT_ARRAYS];
    PyObject *outputs[OUTPUT_COUNT] = {NULL}, *result = NULL;
    forward_wants w;
    if (pfo_check_count("linear_token_logps", count, INPUT_ARGUMENTS + 6) < 0 || pfo_enter_isa(module) < 0) return NULL;
    if (take_flags(arguments[14], "stats", STAT_COUNT, w.stats) < 0 ||
        pfo_take_int64(arguments[15], "topk", &w.topk) < 0 ||
        take_flags(arguments[16], "gradients", GRADIENT_COUNT, w.gradients) < 0 ||
        (w.states = PyObject_IsTrue(arguments[17])) < 0 || (w.kept = PyObject_IsTrue(arguments[18])) < 0 ||
        (w.lse_double = PyObject_IsTrue(arguments[19])) < 0)
        return NULL;
    if (w.topk < 0) return PyErr_Format(PyExc_ValueError, "topk: expected 0 or more, got %lld", (long long)w.topk);
    const int taken = bind_inputs(arguments, &args.in, bound);
    if (taken == INPUT_ARRAYS) {
        pfo_error error;
        pfo_status status = PFO_OK;
        if (has_sizes(&args.in) && make_outputs(&w, &args, outputs) < 0) goto done;
        Py_BEGIN_ALLOW_THREADS;
        status = pfo_linear_token_logps(&args, &error);
        Py_END_ALLOW_THREADS;
        result = status == PFO_OK ? tuple_of(outputs, OUTPUT_COUNT) : pfo_raise(status, &error);
    }
done:
    for (int k = 0; k < OUTPUT_COUNT; k++) Py_XDECREF(outputs[k]);
    pfo_unbind_all(bound, taken);
    return result;
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

enum {
    VECTORS = 5, /* lse, entropy, grad_logps, grad_entropy, grad_lse */
    GRADS = 5    /* of hidden, weight, bias, lora_a, lora_b */
};

static int make_grads(const int needs[GRADS], pfo_linear_token_logps_grad_args *args, PyObject *grads[GRADS])
{
    int32_t real;
    const int type = real_type(&args->in, &real);
    const pfo_view *like[GRADS] = {NULL, &args->in.weight, &args->in.bias, &args->in.lora_a, &args->in.lora_b};
    pfo_view *views[GRADS] = {&args->grad_hidden, &args->grad_weight, &args->grad_bias, &args->grad_lora_a,
                              &args->grad_lora_b};
    for (int k = 0; k < GRADS; k++) {
        int64_t shape[PFO_MAX_NDIM];
        if (!needs[k] || (like[k] && like[k]->dtype == PFO_NONE)) continue;
        int32_t axes = like[k] ? like[k]->ndim
                               : rows_shape(&args->in.labels, args->in.hidden.shape[args->in.hidden.ndim - 1], shape);
        if (like[k]) memcpy(shape, like[k]->shape, (size_t)axes * sizeof shape[0]);
        if (!(grads[k] = new_array(axes, shape, type, real, views[k]))) return -1;
    }
    return 0;
}

PyDoc_STRVAR(linear_token_logps_grad_doc,
             "linear_token_logps_grad(hidden, weight, labels, bias, lora_a, lora_b, dtype, ignore_index, logit_scale, "
             "softcap, temperature, memory_limit, vocab_start, vocab_total, lse, entropy, grad_logps, grad_entropy, "
             "grad_lse, kept, grad_filter, needs, /)\n--\n\n"
             "(grad_hidden, grad_weight, grad_bias, grad_lora_a, grad_lora_b, tiles made, tiles left out); needs is a "
             "tuple of five flags.");

static PyObject *linear_token_logps_grad(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    static const char *const names[VECTORS + 1] = {"lse", "entropy", "grad_logps", "grad_entropy", "grad_lse", "kept"};
    pfo_linear_token_logps_grad_args args = pfo_linear_token_logps_grad_args_default();
    pfo_view *views[VECTORS + 1] = {&args.lse,          &args.entropy,  &args.grad_logps,
                                    &args.grad_entropy, &args.grad_lse, &args.kept};
    pfo_bound bound[INPUT_ARRAYS + VECTORS + 1];
    PyObject *grads[GRADS] = {NULL}, *result = NULL;
    int needs[GRADS];
    int64_t made = 0, left_out = 0;
    if (pfo_check_count("linear_token_logps_grad", count, INPUT_ARGUMENTS + 8) < 0 || pfo_enter_isa(module) < 0)
        return NULL;
    if (take_flags(arguments[21], "needs", GRADS, needs) < 0) return NULL;
    if (arguments[20] != Py_None && pfo_take_double(arguments[20], "grad_filter", &args.grad_filter) < 0) return NULL;
    int taken = bind_inputs(arguments, &args.in, bound);
    if (taken < INPUT_ARRAYS) goto done;
    for (int k = 0; k <= VECTORS; k++) {
        PyObject *object = arguments[INPUT_ARGUMENTS + k];
        const int is_kept = k == VECTORS && object != Py_None;
        if ((is_kept ? pfo_bind_out(object, names[k], NULL, &bound[taken])
                     : pfo_bind(object, names[k], k > 0, NULL, &bound[taken])) < 0)
            goto done;
        pfo_copy_view(views[k], &bound[taken++].view);
    }
    if (has_sizes(&args.in) && make_grads(needs, &args, grads) < 0) goto done;
    args.entries_made = &made;
    args.entries_left_out = &left_out;
    pfo_error error;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS;
    status = pfo_linear_token_logps_grad(&args, &error);
    Py_END_ALLOW_THREADS;
    if (status != PFO_OK) {
        pfo_raise(status, &error);
        goto done;
    }
    PyObject *items[GRADS + 2] = {
        grads[0], grads[1], grads[2], grads[3], grads[4], PyLong_FromLongLong(made), PyLong_FromLongLong(left_out)};
    if (items[GRADS] && items[GRADS + 1]) result = tuple_of(items, GRADS + 2);
    Py_XDECREF(items[GRADS]);
    Py_XDECREF(items[GRADS + 1]);
done:
    for (int k = 0; k < GRADS; k++) Py_XDECREF(grads[k]);
    pfo_unbind_all(bound, taken);
    return result;
}

/* ---- states of a split vocabulary -------------------------------------------------------------------------------- */

PyDoc_STRVAR(row_states_finish_doc, "row_states_finish(states, labels, ignore_index, wide, lse_double, /)\n--\n\n"
                                    "The seven statistics of rows whose parts' states [parts, ..., 9] are given.");

static PyObject *row_states_finish(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    pfo_row_states_args args;
    pfo_bound bound[2];
    PyObject *outputs[STAT_COUNT] = {NULL}, *result = NULL;
    pfo_view *views[STAT_COUNT] = {&args.logps,      &args.lse,       &args.entropy, &args.correct,
                                   &args.mean_logit, &args.max_logit, &args.lse2};
    if (pfo_check_count("row_states_finish", count, 5) < 0) return NULL;
    const int wide = PyObject_IsTrue(arguments[3]), lse_double = PyObject_IsTrue(arguments[4]);
    if (wide < 0 || lse_double < 0 || pfo_take_int64(arguments[2], "ignore_index", &args.ignore_index) < 0) return NULL;
    if (pfo_bind(arguments[0], "states", 0, NULL, &bound[0]) < 0) return NULL;
    if (pfo_bind(arguments[1], "labels", 0, NULL, &bound[1]) < 0) {
        pfo_unbind(&bound[0]);
        return NULL;
    }
    pfo_copy_view(&args.states, &bound[0].view);
    pfo_copy_view(&args.labels, &bound[1].view);
    for (int k = 0; k < STAT_COUNT; k++) {
        const int is_double = wide || (k == 1 && lse_double);
        const int type = k == 3 ? NPY_BOOL : is_double ? NPY_DOUBLE : NPY_FLOAT;
        outputs[k] = pfo_new_leading(&args.labels, "labels", 0, type,
                                     k == 3      ? PFO_BOOL
                                     : is_double ? PFO_F64
                                                 : PFO_F32,
                                     views[k]);
        if (!outputs[k]) goto done;
    }
    pfo_error error;
    const pfo_status status = pfo_row_states_finish(&args, &error);
    result = status == PFO_OK ? tuple_of(outputs, STAT_COUNT) : pfo_raise(status, &error);
done:
    for (int k = 0; k < STAT_COUNT; k++) Py_XDECREF(outputs[k]);
    pfo_unbind_all(bound, 2);
    return result;
}

/* ---- the BLAS ---------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(blas_load_doc,
             "blas_load(path, /)\n--\n\nMultiplies with the library at path from here on; None: the plain "
             "C loop.");
static PyObject *blas_load(PyObject *module, PyObject *path)
{
    (void)module;
    const char *text = NULL;
    if (path != Py_None && !(text = PyUnicode_AsUTF8(path))) return NULL;
    pfo_error error;
    const pfo_status status = pfo_blas_load(text, &error);
    return status == PFO_OK ? Py_NewRef(Py_None) : pfo_raise(status, &error);
}

PyDoc_STRVAR(blas_name_doc, "blas_name()\n--\n\nThe path of the library that multiplies, \"\" for none.");
static PyObject *blas_name(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyUnicode_FromString(pfo_blas_name());
}

PyMethodDef pfo_linear_methods[] = {PFO_FAST(linear_token_logps),
                                    PFO_FAST(linear_token_logps_grad),
                                    PFO_FAST(row_states_finish),
                                    {"blas_load", blas_load, METH_O, blas_load_doc},
                                    {"blas_name", blas_name, METH_NOARGS, blas_name_doc},
                                    {NULL, NULL, 0, NULL}};
