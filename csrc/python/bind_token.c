/* _core.token_logps, token_logps_grad, sequence_logps, sequence_logps_grad.  Positional arguments only: the public
 * signatures, defaults and documentation are in prefopt/_token.py. */
#include "bind.h"

#include <string.h>

enum {
    MAX_BOUND = 10
};

/* ---- token_logps --------------------------------------------------------------------------------------------------
 * */

enum {
    LOGPS,
    LSE,
    ENTROPY,
    CORRECT,
    MEAN_LOGIT,
    MAX_LOGIT,
    LSE2,
    STAT_COUNT
};
static const char *const stat_names[STAT_COUNT] = {"logps",      "lse",       "entropy", "correct",
                                                   "mean_logit", "max_logit", "lse2"};

/* Names in `stats` (any iterable of str, not a str) to flags.  logps and lse are always made. */
static int take_stats(PyObject *stats, int wanted[STAT_COUNT])
{
    memset(wanted, 0, STAT_COUNT * sizeof wanted[0]);
    wanted[LOGPS] = wanted[LSE] = 1;
    if (PyTuple_CheckExact(stats) && PyTuple_GET_SIZE(stats) == 0) return 0;
    if (PyUnicode_Check(stats)) {
        PyErr_SetString(PyExc_TypeError, "stats: expected a sequence of names such as (\"entropy\",), got str");
        return -1;
    }
    PyObject *names = PySequence_Fast(stats, "stats: expected a sequence of names such as (\"entropy\",)");
    if (!names) return -1;
    int status = 0;
    for (Py_ssize_t i = 0; status == 0 && i < PySequence_Fast_GET_SIZE(names); i++) {
        PyObject *name = PySequence_Fast_GET_ITEM(names, i);
        int found = 0;
        for (int k = ENTROPY; k < STAT_COUNT && PyUnicode_Check(name); k++) {
            if (PyUnicode_CompareWithASCIIString(name, stat_names[k]) != 0) continue;
            wanted[k] = found = 1;
        }
        if (found) continue;
        PyErr_Format(PyExc_ValueError,
                     "stats: expected names out of entropy, correct, mean_logit, max_logit, lse2, got %R at index %zd",
                     name, i);
        status = -1;
    }
    Py_DECREF(names);
    return status;
}

/* New result arrays for the wanted statistics; lse is double if lse_double. */
static int make_results(const int wanted[STAT_COUNT], const pfo_view *logits, int lse_double,
                        PyObject *results[STAT_COUNT], pfo_view *views[STAT_COUNT])
{
    const int wide = logits->dtype == PFO_F64;
    for (int k = 0; k < STAT_COUNT; k++) {
        if (!wanted[k]) continue;
        int type = k == CORRECT ? NPY_BOOL : wide || (k == LSE && lse_double) ? NPY_DOUBLE : NPY_FLOAT;
        int32_t dtype = k == CORRECT ? PFO_BOOL : type == NPY_DOUBLE ? PFO_F64 : PFO_F32;
        results[k] = pfo_new_leading(logits, "logits", 1, type, dtype, views[k]);
        if (!results[k]) return -1;
    }
    return 0;
}

/* As many items as prefopt.TokenLogps has fields: what only the linear op makes is None. */
static PyObject *result_tuple(PyObject *results[STAT_COUNT])
{
    enum {
        FIELD_COUNT = 13
    };
    PyObject *tuple = PyTuple_New(FIELD_COUNT);
    if (!tuple) return NULL;
    for (int k = 0; k < FIELD_COUNT; k++) {
        PyObject *item = k < STAT_COUNT && results[k] ? results[k] : Py_None;
        Py_INCREF(item);
        PyTuple_SET_ITEM(tuple, k, item);
    }
    return tuple;
}

PyDoc_STRVAR(token_logps_doc,
             "token_logps(logits, labels, dtype, ignore_index, temperature, stats, lse_double, /)\n--\n\n"
             "The fields of prefopt.TokenLogps as a tuple, None where not asked for.");

static PyObject *token_logps(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    pfo_token_logps_args args;
    pfo_bound bound[2];
    int wanted[STAT_COUNT], taken = 0;
    PyObject *results[STAT_COUNT] = {NULL}, *tuple = NULL;
    pfo_view *views[STAT_COUNT] = {&args.logps,      &args.lse,       &args.entropy, &args.correct,
                                   &args.mean_logit, &args.max_logit, &args.lse2};
    if (pfo_check_count("token_logps", count, 7) < 0 || pfo_enter_isa(module) < 0) return NULL;
    for (int k = 0; k < STAT_COUNT; k++) views[k]->dtype = PFO_NONE;
    int lse_double = PyObject_IsTrue(arguments[6]);
    if (lse_double < 0 || pfo_take_int64(arguments[3], "ignore_index", &args.ignore_index) < 0 ||
        pfo_take_double(arguments[4], "temperature", &args.temperature) < 0 || take_stats(arguments[5], wanted) < 0)
        return NULL;
    if (pfo_bind(arguments[0], "logits", 0, arguments[2], &bound[taken]) < 0) return NULL;
    taken++;
    if (pfo_bind(arguments[1], "labels", 0, NULL, &bound[taken]) < 0) goto done;
    taken++;
    pfo_copy_view(&args.logits, &bound[0].view);
    pfo_copy_view(&args.labels, &bound[1].view);
    if (args.logits.ndim < 1) {
        PyErr_SetString(PyExc_ValueError, "logits: expected [..., vocab], got a scalar");
        goto done;
    }
    pfo_error error;
    pfo_status status;
    /* Results are made before the checks, as the checks need their views; the shape is bounded by labels' first. */
    if (args.labels.ndim != args.logits.ndim - 1 ||
        memcmp(args.labels.shape, args.logits.shape, (size_t)args.labels.ndim * sizeof args.labels.shape[0]) != 0) {
        status = pfo_token_logps(&args, &error); /* no outputs: reports the mismatch, or whatever comes before it */
    } else {
        if (make_results(wanted, &args.logits, lse_double, results, views) < 0) goto done;
        Py_BEGIN_ALLOW_THREADS;
        status = pfo_token_logps(&args, &error);
        Py_END_ALLOW_THREADS;
    }
    tuple = status == PFO_OK ? result_tuple(results) : pfo_raise(status, &error);
done:
    for (int k = 0; k < STAT_COUNT; k++) Py_XDECREF(results[k]);
    pfo_unbind_all(bound, taken);
    return tuple;
}

/* ---- token_logps_grad ---------------------------------------------------------------------------------------------
 * */

PyDoc_STRVAR(
    token_logps_grad_doc,
    "token_logps_grad(logits, labels, lse, grad_logps, grad_entropy, grad_lse, entropy, logps, dtype, ignore_index, "
    "temperature, out, /)\n--\n\n"
    "d loss / d logits; see prefopt.token_logps_grad.");

static PyObject *token_logps_grad(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    enum {
        VECTORS = 6
    };
    static const char *const names[VECTORS] = {"lse", "grad_logps", "grad_entropy", "grad_lse", "entropy", "logps"};
    pfo_token_logps_grad_args args;
    pfo_view *views[VECTORS] = {&args.lse,      &args.grad_logps, &args.grad_entropy,
                                &args.grad_lse, &args.entropy,    &args.logps};
    pfo_bound bound[MAX_BOUND];
    int taken = 0;
    PyObject *out = NULL;
    if (pfo_check_count("token_logps_grad", count, 12) < 0 || pfo_enter_isa(module) < 0) return NULL;
    if (pfo_take_int64(arguments[9], "ignore_index", &args.ignore_index) < 0 ||
        pfo_take_double(arguments[10], "temperature", &args.temperature) < 0)
        return NULL;
    if (pfo_bind(arguments[0], "logits", 0, arguments[8], &bound[taken]) < 0) return NULL;
    pfo_copy_view(&args.logits, &bound[taken++].view);
    if (pfo_bind(arguments[1], "labels", 0, NULL, &bound[taken]) < 0) goto fail;
    pfo_copy_view(&args.labels, &bound[taken++].view);
    for (int k = 0; k < VECTORS; k++) {
        if (pfo_bind(arguments[2 + k], names[k], k != 0, NULL, &bound[taken]) < 0) goto fail;
        pfo_copy_view(views[k], &bound[taken++].view);
    }
    if (arguments[11] != Py_None) {
        if (pfo_bind_out(arguments[11], "out", arguments[8], &bound[taken]) < 0) goto fail;
        pfo_copy_view(&args.out, &bound[taken++].view);
        out = arguments[11];
        Py_INCREF(out);
    } else {
        if (args.logits.dtype < PFO_F16 || args.logits.dtype > PFO_F64) {
            PyErr_Format(PyExc_TypeError, "logits: expected float16, bfloat16, float32 or float64, got %s",
                         pfo_dtype_name(args.logits.dtype));
            goto fail;
        }
        out = pfo_new_like(&bound[0], "logits", &args.out);
        if (!out) goto fail;
    }
    pfo_error error;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS;
    status = pfo_token_logps_grad(&args, &error);
    Py_END_ALLOW_THREADS;
    pfo_unbind_all(bound, taken);
    if (status == PFO_OK) return out;
    Py_DECREF(out);
    return pfo_raise(status, &error);
fail:
    pfo_unbind_all(bound, taken);
    return NULL;
}

/* ---- sequence_logps -----------------------------------------------------------------------------------------------
 * */

/* Binds (logps, mask, cu_seqlens, average, normalizer) at arguments[0..4]; returns how many were bound, -1 on error. */
static int bind_sequence(PyObject *const *arguments, const char *first_name, pfo_sequence_logps_args *args,
                         pfo_bound *bound)
{
    const char *names[4] = {first_name, "mask", "cu_seqlens", "normalizer"};
    PyObject *objects[4] = {arguments[0], arguments[1], arguments[2], arguments[4]};
    pfo_view *views[4] = {&args->logps, &args->mask, &args->cu_seqlens, &args->normalizer};
    int average;
    if (pfo_take_bool(arguments[3], "average", &average) < 0) return -1;
    args->average = average;
    for (int k = 0; k < 4; k++) {
        int status = k == 0 ? pfo_bind(objects[k], names[k], 0, NULL, &bound[k])
                            : pfo_bind(objects[k], names[k], 1, NULL, &bound[k]);
        if (status < 0) {
            pfo_unbind_all(bound, k);
            return -1;
        }
        pfo_copy_view(views[k], &bound[k].view);
    }
    return 4;
}

static int64_t sequence_count(const pfo_sequence_logps_args *args)
{
    const pfo_view *from = args->cu_seqlens.dtype != PFO_NONE ? &args->cu_seqlens : &args->logps;
    if (from->ndim < 1) return 0;
    int64_t sequences = from->shape[0] - (from == &args->cu_seqlens ? 1 : 0);
    return sequences < 0 ? 0 : sequences;
}

PyDoc_STRVAR(sequence_logps_doc, "sequence_logps(logps, mask, cu_seqlens, average, normalizer, /)\n--\n\n"
                                 "[B, T] or packed [N] to [B]; see prefopt.sequence_logps.");

static PyObject *sequence_logps(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    pfo_sequence_logps_args args;
    pfo_bound bound[4];
    if (pfo_check_count("sequence_logps", count, 5) < 0) return NULL;
    int taken = bind_sequence(arguments, "logps", &args, bound);
    if (taken < 0) return NULL;
    pfo_view like = pfo_view_1d(NULL, PFO_F32, sequence_count(&args));
    const int wide = args.logps.dtype == PFO_F64;
    PyObject *out =
        pfo_new_leading(&like, "logps", 0, wide ? NPY_DOUBLE : NPY_FLOAT, wide ? PFO_F64 : PFO_F32, &args.out);
    if (out) {
        pfo_error error;
        pfo_status status;
        Py_BEGIN_ALLOW_THREADS;
        status = pfo_sequence_logps(&args, &error);
        Py_END_ALLOW_THREADS;
        if (status != PFO_OK) {
            Py_CLEAR(out);
            pfo_raise(status, &error);
        }
    }
    pfo_unbind_all(bound, taken);
    return out;
}

PyDoc_STRVAR(sequence_logps_grad_doc,
             "sequence_logps_grad(grad_out, out, mask, cu_seqlens, average, normalizer, /)\n--\n\n"
             "Writes d loss / d logps into `out` [B, T] or [N] (float32 or float64) from grad_out [B]; returns out.");

static PyObject *sequence_logps_grad(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    pfo_sequence_logps_args args;
    pfo_bound bound[4], grad, out;
    if (pfo_check_count("sequence_logps_grad", count, 6) < 0) return NULL;
    if (pfo_bind(arguments[0], "grad_out", 0, NULL, &grad) < 0) return NULL;
    if (pfo_bind_out(arguments[1], "out", NULL, &out) < 0) {
        pfo_unbind(&grad);
        return NULL;
    }
    PyObject *result = NULL;
    int taken = bind_sequence(arguments + 1, "out", &args, bound);
    if (taken >= 0) {
        pfo_error error;
        pfo_status status;
        pfo_copy_view(&args.out, &grad.view);
        Py_BEGIN_ALLOW_THREADS;
        status = pfo_sequence_logps_grad(&args, &error);
        Py_END_ALLOW_THREADS;
        if (status == PFO_OK) {
            result = arguments[1];
            Py_INCREF(result);
        } else {
            pfo_raise(status, &error);
        }
        pfo_unbind_all(bound, taken);
    }
    pfo_unbind(&grad);
    pfo_unbind(&out);
    return result;
}

PyMethodDef pfo_token_methods[] = {PFO_FAST(token_logps),
                                   PFO_FAST(token_logps_grad),
                                   PFO_FAST(sequence_logps),
                                   PFO_FAST(sequence_logps_grad),
                                   {NULL, NULL, 0, NULL}};
