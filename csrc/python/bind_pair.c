/* _core.pair_token_stats, pair_token_stats_grad.  Positional arguments only: the public signatures, defaults and
 * documentation are in prefopt/_pair.py. */
#include "bind.h"

#include <string.h>

/* The optional statistics, in the order of the flags that ask for them. */
enum {
    ALWAYS = 4, /* the two logps and the two lse */
    STAT_COUNT = 8
};

PyDoc_STRVAR(
    pair_token_stats_doc,
    "pair_token_stats(policy_logits, ref_logits, labels, dtype, ignore_index, temperature, perturbation, wanted, "
    "lse_double, /)\n--\n\n"
    "The eight statistics of prefopt.pair_token_stats as a tuple, None where not asked for; wanted is a tuple "
    "of four flags.");

/* New result arrays; the two lse are double if lse_double. */
static int make_results(const int wanted[STAT_COUNT], const pfo_view *logits, int lse_double,
                        PyObject *results[STAT_COUNT], pfo_view *views[STAT_COUNT])
{
    for (int k = 0; k < STAT_COUNT; k++) {
        if (!wanted[k]) continue;
        const int wide = logits->dtype == PFO_F64 || (lse_double && (k == 2 || k == 3));
        results[k] = pfo_new_leading(logits, "policy_logits", 1, wide ? NPY_DOUBLE : NPY_FLOAT,
                                     wide ? PFO_F64 : PFO_F32, views[k]);
        if (!results[k]) return -1;
    }
    return 0;
}

static int take_wanted(PyObject *flags, int wanted[STAT_COUNT])
{
    for (int k = 0; k < ALWAYS; k++) wanted[k] = 1;
    if (!PyTuple_CheckExact(flags) || PyTuple_GET_SIZE(flags) != STAT_COUNT - ALWAYS) {
        PyErr_SetString(PyExc_TypeError, "wanted: expected a tuple of four flags");
        return -1;
    }
    for (int k = ALWAYS; k < STAT_COUNT; k++) {
        wanted[k] = PyObject_IsTrue(PyTuple_GET_ITEM(flags, k - ALWAYS));
        if (wanted[k] < 0) return -1;
    }
    return 0;
}

/* Binds the two logits and the labels; returns how many were bound, and raises if that is not three. */
static int bind_pair(PyObject *const *arguments, PyObject *dtype, pfo_view *views[3], pfo_bound bound[3])
{
    static const char *const names[3] = {"policy_logits", "ref_logits", "labels"};
    for (int k = 0; k < 3; k++) {
        if (pfo_bind(arguments[k], names[k], 0, k < 2 ? dtype : NULL, &bound[k]) < 0) return k;
        pfo_copy_view(views[k], &bound[k].view);
        if (k == 0 && views[0]->ndim < 1) {
            PyErr_SetString(PyExc_ValueError, "policy_logits: expected [..., vocab], got a scalar");
            return 1;
        }
    }
    return 3;
}

static PyObject *pair_token_stats(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    pfo_pair_token_stats_args args;
    pfo_bound bound[3];
    int wanted[STAT_COUNT], taken;
    PyObject *results[STAT_COUNT] = {NULL}, *tuple = NULL;
    pfo_view *inputs[3] = {&args.policy_logits, &args.ref_logits, &args.labels};
    pfo_view *views[STAT_COUNT] = {&args.policy_logps,  &args.ref_logps,     &args.policy_lse, &args.ref_lse,
                                   &args.ref_policy_kl, &args.policy_ref_kl, &args.plus_logps, &args.minus_logps};
    if (pfo_check_count("pair_token_stats", count, 9) < 0 || pfo_enter_isa(module) < 0) return NULL;
    for (int k = 0; k < STAT_COUNT; k++) views[k]->dtype = PFO_NONE;
    int lse_double = PyObject_IsTrue(arguments[8]);
    if (lse_double < 0 || pfo_take_int64(arguments[4], "ignore_index", &args.ignore_index) < 0 ||
        pfo_take_double(arguments[5], "temperature", &args.temperature) < 0 ||
        pfo_take_double(arguments[6], "perturbation", &args.perturbation) < 0 || take_wanted(arguments[7], wanted) < 0)
        return NULL;
    taken = bind_pair(arguments, arguments[3], inputs, bound);
    if (taken == 3) {
        pfo_error error;
        pfo_status status = PFO_OK;
        /* Results are made before the checks, as the checks need their views; labels bound their size. */
        if (args.labels.ndim != args.policy_logits.ndim - 1 ||
            memcmp(args.labels.shape, args.policy_logits.shape,
                   (size_t)args.labels.ndim * sizeof args.labels.shape[0]) != 0) {
            status =
                pfo_pair_token_stats(&args, &error); /* no outputs: reports the mismatch, or what comes before it */
        } else if (make_results(wanted, &args.policy_logits, lse_double, results, views) == 0) {
            Py_BEGIN_ALLOW_THREADS;
            status = pfo_pair_token_stats(&args, &error);
            Py_END_ALLOW_THREADS;
            if (status == PFO_OK) tuple = PyTuple_New(STAT_COUNT);
        }
        if (status != PFO_OK) pfo_raise(status, &error);
        for (int k = 0; tuple && k < STAT_COUNT; k++)
            PyTuple_SET_ITEM(tuple, k, Py_NewRef(results[k] ? results[k] : Py_None));
    }
    for (int k = 0; k < STAT_COUNT; k++) Py_XDECREF(results[k]);
    pfo_unbind_all(bound, taken);
    return tuple;
}

PyDoc_STRVAR(pair_token_stats_grad_doc,
             "pair_token_stats_grad(policy_logits, ref_logits, labels, policy_lse, ref_lse, policy_ref_kl, "
             "grad_policy_logps, grad_ref_policy_kl, grad_policy_ref_kl, dtype, ignore_index, temperature, out, "
             "/)\n--\n\n"
             "d loss / d policy_logits; see prefopt.pair_token_stats_grad.");

static PyObject *pair_token_stats_grad(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    enum {
        VECTORS = 6
    };
    static const char *const names[VECTORS] = {
        "policy_lse", "ref_lse", "policy_ref_kl", "grad_policy_logps", "grad_ref_policy_kl", "grad_policy_ref_kl"};
    pfo_pair_token_stats_grad_args args;
    pfo_view *inputs[3] = {&args.policy_logits, &args.ref_logits, &args.labels};
    pfo_view *views[VECTORS] = {&args.policy_lse,         &args.ref_lse,
                                &args.policy_ref_kl,      &args.grad_policy_logps,
                                &args.grad_ref_policy_kl, &args.grad_policy_ref_kl};
    pfo_bound bound[4 + VECTORS];
    if (pfo_check_count("pair_token_stats_grad", count, 13) < 0 || pfo_enter_isa(module) < 0) return NULL;
    if (pfo_take_int64(arguments[10], "ignore_index", &args.ignore_index) < 0 ||
        pfo_take_double(arguments[11], "temperature", &args.temperature) < 0)
        return NULL;
    PyObject *out = NULL, *result = NULL;
    int taken = bind_pair(arguments, arguments[9], inputs, bound);
    if (taken < 3) goto done;
    for (int k = 0; k < VECTORS; k++) {
        if (pfo_bind(arguments[3 + k], names[k], k >= 2, NULL, &bound[taken]) < 0) goto done;
        pfo_copy_view(views[k], &bound[taken++].view);
    }
    if (arguments[12] != Py_None) {
        if (pfo_bind_out(arguments[12], "out", arguments[9], &bound[taken]) < 0) goto done;
        pfo_copy_view(&args.out, &bound[taken++].view);
        out = Py_NewRef(arguments[12]);
    } else if (args.policy_logits.dtype < PFO_F16 || args.policy_logits.dtype > PFO_F64) {
        PyErr_Format(PyExc_TypeError, "policy_logits: expected float16, bfloat16, float32 or float64, got %s",
                     pfo_dtype_name(args.policy_logits.dtype));
        goto done;
    } else {
        out = pfo_new_like(&bound[0], "policy_logits", &args.out);
        if (!out) goto done;
    }
    pfo_error error;
    pfo_status status;
    Py_BEGIN_ALLOW_THREADS;
    status = pfo_pair_token_stats_grad(&args, &error);
    Py_END_ALLOW_THREADS;
    if (status == PFO_OK)
        result = Py_NewRef(out);
    else
        pfo_raise(status, &error);
done:
    Py_XDECREF(out);
    pfo_unbind_all(bound, taken);
    return result;
}

PyMethodDef pfo_pair_methods[] = {PFO_FAST(pair_token_stats), PFO_FAST(pair_token_stats_grad), {NULL, NULL, 0, NULL}};
