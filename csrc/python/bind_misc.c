/* _core's threads, ISA rows, vmath, row state and build facts. */
#include "bind.h"

#include <string.h>

PyDoc_STRVAR(set_num_threads_doc, "set_num_threads(n, /)\n--\n\nProcess-wide number of threads, 1 to 4096.");
static PyObject *set_num_threads(PyObject *module, PyObject *argument)
{
    (void)module;
    int64_t threads;
    pfo_error error;
    if (pfo_take_int64(argument, "n", &threads) < 0) return NULL;
    pfo_status status = pfo_set_num_threads(threads, &error);
    if (status != PFO_OK) return pfo_raise(status, &error);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(get_num_threads_doc, "get_num_threads()\n--\n\nThe number of threads that kernels use at most.");
static PyObject *get_num_threads(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromLong(pfo_get_num_threads());
}

PyDoc_STRVAR(isas_doc, "isas()\n--\n\nNames of the instruction-set rows usable on this machine, slowest first.");
static PyObject *isas(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *names = PyList_New(0);
    for (int row = 0; names && row < pfo_isa_count(); row++) {
        if (!pfo_isa_usable(row)) continue;
        PyObject *name = PyUnicode_FromString(pfo_isa_name(row));
        if (!name || PyList_Append(names, name) < 0) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    PyObject *tuple = names ? PyList_AsTuple(names) : NULL;
    Py_XDECREF(names);
    return tuple;
}

PyDoc_STRVAR(isa_doc, "isa()\n--\n\nThe row in force in this context.");
static PyObject *isa(PyObject *module, PyObject *unused)
{
    (void)unused;
    const char *name;
    pfo_error error;
    if (pfo_enter_isa(module) < 0) return NULL;
    pfo_status status = pfo_current_isa(&name, &error);
    return status == PFO_OK ? PyUnicode_FromString(name) : pfo_raise(status, &error);
}

PyDoc_STRVAR(check_isa_doc, "check_isa(name, /)\n--\n\nRaises if no row of that name is usable on this machine.");
static PyObject *check_isa(PyObject *module, PyObject *argument)
{
    (void)module;
    if (!PyUnicode_Check(argument))
        return PyErr_Format(PyExc_TypeError, "isa: expected a str, got %s", Py_TYPE(argument)->tp_name);
    Py_ssize_t size;
    const char *name = PyUnicode_AsUTF8AndSize(argument, &size);
    if (!name || strlen(name) != (size_t)size) { /* surrogates; a NUL inside */
        PyErr_Clear();
        return PyErr_Format(PyExc_ValueError, "isa: expected the name of an instruction set, got %R", argument);
    }
    pfo_error error;
    pfo_status status = pfo_set_isa(name, &error);
    if (status != PFO_OK) return pfo_raise(status, &error);
    pfo_set_isa(NULL, NULL);
    Py_RETURN_NONE;
}

typedef pfo_status (*vmath_function)(const pfo_view *, const pfo_view *, pfo_error *);

static PyObject *vmath(PyObject *module, PyObject *argument, vmath_function function, int32_t dtype)
{
    pfo_bound in;
    pfo_view view;
    pfo_error error;
    pfo_status status;
    if (pfo_enter_isa(module) < 0 || pfo_bind(argument, "x", 0, NULL, &in) < 0) return NULL;
    PyObject *out = NULL;
    if (in.view.dtype != dtype)
        PyErr_Format(PyExc_TypeError, "x: expected %s, got %s", pfo_dtype_name(dtype), pfo_dtype_name(in.view.dtype));
    else
        out = pfo_new_like(&in, "x", &view);
    if (out) {
        Py_BEGIN_ALLOW_THREADS;
        status = function(&in.view, &view, &error);
        Py_END_ALLOW_THREADS;
        if (status != PFO_OK) {
            Py_CLEAR(out);
            pfo_raise(status, &error);
        }
    }
    pfo_unbind(&in);
    return out;
}

PyDoc_STRVAR(exp_f32_doc, "exp_f32(x, /)\n--\n\nThe current row's exp of a contiguous float32 vector.");
static PyObject *exp_f32(PyObject *module, PyObject *argument)
{
    return vmath(module, argument, pfo_vmath_exp, PFO_F32);
}

PyDoc_STRVAR(exp_f64_doc, "exp_f64(x, /)\n--\n\nThe current row's exp of a contiguous float64 vector.");
static PyObject *exp_f64(PyObject *module, PyObject *argument)
{
    return vmath(module, argument, pfo_vmath_exp, PFO_F64);
}

PyDoc_STRVAR(log_f64_doc, "log_f64(x, /)\n--\n\nlog of a contiguous float64 vector as row states take it.");
static PyObject *log_f64(PyObject *module, PyObject *argument)
{
    return vmath(module, argument, pfo_vmath_log, PFO_F64);
}

PyDoc_STRVAR(advise_huge_pages_doc,
             "advise_huge_pages(array, /)\n--\n\nmadvise(MADV_HUGEPAGE) on a fresh contiguous buffer; True if taken.");
static PyObject *advise_huge_pages(PyObject *module, PyObject *argument)
{
    (void)module;
    pfo_bound bound;
    if (pfo_bind_out(argument, "array", NULL, &bound) < 0) return NULL;
    int64_t bytes = pfo_dtype_size(bound.view.dtype);
    int contiguous = 1;
    for (int32_t axis = bound.view.ndim - 1; axis >= 0; axis--) {
        if (bound.view.shape[axis] > 1 && bound.view.strides_bytes[axis] != bytes) contiguous = 0;
        bytes *= bound.view.shape[axis];
    }
    int taken = contiguous ? pfo_advise_huge_pages(bound.view.data, bytes) : 0;
    pfo_unbind(&bound);
    return PyBool_FromLong(taken);
}

/* ---- row state: a row of 9 doubles on the Python side
 * ---------------------------------------------------------------- */

static int take_state(PyObject *object, const char *name, pfo_row_state *state)
{
    double fields[9];
    PyObject *items = PySequence_Fast(object, "state: expected a RowState");
    if (!items) return -1;
    if (PySequence_Fast_GET_SIZE(items) != 9) {
        PyErr_Format(PyExc_ValueError, "%s: expected 9 fields, got %zd", name, PySequence_Fast_GET_SIZE(items));
        Py_DECREF(items);
        return -1;
    }
    for (int i = 0; i < 9; i++) {
        if (pfo_take_double(PySequence_Fast_GET_ITEM(items, i), name, &fields[i]) < 0) {
            Py_DECREF(items);
            return -1;
        }
    }
    Py_DECREF(items);
    for (int i = 6; i < 9; i++) {
        if (!(fields[i] >= -1.0 && fields[i] < 9007199254740992.0)) {
            PyErr_Format(PyExc_ValueError, "%s: best, count and has_target must be whole numbers >= -1", name);
            return -1;
        }
    }
    *state = (pfo_row_state){.max = fields[0],
                             .sum_exp = fields[1],
                             .sum_x_exp = fields[2],
                             .sum_exp2 = fields[3],
                             .sum_x = fields[4],
                             .target = fields[5],
                             .best = (int64_t)fields[6],
                             .count = (int64_t)fields[7],
                             .has_target = (int64_t)fields[8]};
    return 0;
}

static PyObject *give_state(const pfo_row_state *s)
{
    return Py_BuildValue("(ddddddLLL)", s->max, s->sum_exp, s->sum_x_exp, s->sum_exp2, s->sum_x, s->target,
                         (long long)s->best, (long long)s->count, (long long)s->has_target);
}

PyDoc_STRVAR(row_state_read_doc, "row_state_read(logits, dtype, first_vocab, label, temperature, /)\n--\n\n"
                                 "State of one part [count] of a row whose first entry has index first_vocab.");
static PyObject *row_state_read(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    pfo_bound logits;
    int64_t first, label;
    double temperature;
    if (count != 5) return PyErr_Format(PyExc_TypeError, "row_state_read: expected 5 arguments, got %zd", count);
    if (pfo_enter_isa(module) < 0 || pfo_take_int64(arguments[2], "first_vocab", &first) < 0 ||
        pfo_take_int64(arguments[3], "label", &label) < 0 ||
        pfo_take_double(arguments[4], "temperature", &temperature) < 0 ||
        pfo_bind(arguments[0], "logits", 0, arguments[1], &logits) < 0)
        return NULL;
    pfo_row_state state;
    pfo_error error;
    pfo_row_state_init(&state);
    pfo_status status = pfo_row_state_read(&state, &logits.view, first, label, temperature, &error);
    pfo_unbind(&logits);
    return status == PFO_OK ? give_state(&state) : pfo_raise(status, &error);
}

PyDoc_STRVAR(row_state_merge_doc,
             "row_state_merge(first, second, /)\n--\n\nThe state of both parts; second comes later in the vocabulary.");
static PyObject *row_state_merge(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    pfo_row_state into, from;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "row_state_merge: expected 2 arguments, got %zd", count);
    if (take_state(arguments[0], "first", &into) < 0 || take_state(arguments[1], "second", &from) < 0) return NULL;
    pfo_row_state_merge(&into, &from);
    return give_state(&into);
}

PyDoc_STRVAR(
    row_state_finish_doc,
    "row_state_finish(state, /)\n--\n\n(logp, lse, entropy, mean_logit, max_logit, lse2, best) of a complete row.");
static PyObject *row_state_finish(PyObject *module, PyObject *argument)
{
    (void)module;
    pfo_row_state state;
    pfo_row_stats s;
    if (take_state(argument, "state", &state) < 0) return NULL;
    pfo_row_state_finish(&state, &s);
    return Py_BuildValue("(ddddddL)", s.logp, s.lse, s.entropy, s.mean_logit, s.max_logit, s.lse2, (long long)s.best);
}

/* ---- build facts ----------------------------------------------------------------------------------------------------
 * */

#ifndef PFO_BUILD_FLAGS
#define PFO_BUILD_FLAGS ""
#endif
#ifndef PFO_BUILD_SANITIZE
#define PFO_BUILD_SANITIZE ""
#endif
#if defined(__VERSION__)
#define PFO_COMPILER __VERSION__
#else
#define PFO_COMPILER "unknown"
#endif
#if defined(__clang__)
#define PFO_COMPILER_NAME "clang"
#elif defined(__GNUC__)
#define PFO_COMPILER_NAME "gcc"
#else
#define PFO_COMPILER_NAME "other"
#endif

PyDoc_STRVAR(build_info_doc,
             "build_info()\n--\n\nHow this extension was built: version, compiler, flags, openmp, sanitize, isas.");
static PyObject *build_info(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    char compiled[128] = "";
    for (int row = 0; row < pfo_isa_count(); row++) {
        if (row) strcat(compiled, " ");
        strcat(compiled, pfo_isa_name(row));
    }
    return Py_BuildValue("{s:s,s:s,s:s,s:s,s:O,s:s,s:s}", "version", PFO_VERSION, "compiler", PFO_COMPILER_NAME,
                         "compiler_version", PFO_COMPILER, "flags", PFO_BUILD_FLAGS, "openmp",
                         pfo_has_openmp() ? Py_True : Py_False, "sanitize", PFO_BUILD_SANITIZE, "isas", compiled);
}

#define PFO_ONE(name) {#name, name, METH_O, name##_doc}
#define PFO_NO_ARGUMENT(name) {#name, name, METH_NOARGS, name##_doc}
PyMethodDef pfo_misc_methods[] = {PFO_ONE(set_num_threads),
                                  PFO_NO_ARGUMENT(get_num_threads),
                                  PFO_NO_ARGUMENT(isas),
                                  PFO_NO_ARGUMENT(isa),
                                  PFO_ONE(check_isa),
                                  PFO_ONE(exp_f32),
                                  PFO_ONE(exp_f64),
                                  PFO_ONE(log_f64),
                                  PFO_ONE(advise_huge_pages),
                                  PFO_FAST(row_state_read),
                                  PFO_FAST(row_state_merge),
                                  PFO_ONE(row_state_finish),
                                  PFO_NO_ARGUMENT(build_info),
                                  {NULL, NULL, 0, NULL}};
