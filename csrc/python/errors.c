/* The only place that turns a status into an exception. */
#include "bind.h"

PyObject *pfo_raise(pfo_status status, const pfo_error *error)
{
    PyObject *type = PyExc_ValueError;
    switch (status) {
    case PFO_ERROR_DTYPE: type = PyExc_TypeError; break;
    case PFO_ERROR_MEMORY: type = PyExc_MemoryError; break;
    case PFO_OK:
    case PFO_ERROR_SHAPE:
    case PFO_ERROR_STRIDE:
    case PFO_ERROR_LABEL:
    case PFO_ERROR_VALUE:
    case PFO_ERROR_OVERLAP:
    case PFO_ERROR_ISA:
    case PFO_ERROR_MISSING:
    default: break;
    }
    PyErr_SetString(type, error->message);
    return NULL;
}

/* A Python int (no bool) or a NumPy integer; NumPy counts a timedelta64, which has a unit, among its integers. */
static int is_integer(PyObject *object)
{
    if (PyLong_Check(object)) return !PyBool_Check(object);
    return PyArray_IsScalar(object, Integer) && !PyArray_IsScalar(object, Timedelta);
}

int pfo_take_double(PyObject *object, const char *name, double *value)
{
    if (PyFloat_CheckExact(object)) {
        *value = PyFloat_AS_DOUBLE(object);
        return 0;
    }
    if (!PyFloat_Check(object) && !PyArray_IsScalar(object, Floating) && !is_integer(object)) {
        PyErr_Format(PyExc_TypeError, "%s: expected a number, got %s", name, Py_TYPE(object)->tp_name);
        return -1;
    }
    *value = PyFloat_AsDouble(object);
    if (*value == -1.0 && PyErr_Occurred()) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s: expected a number that fits a double", name);
        return -1;
    }
    return 0;
}

int pfo_take_int64(PyObject *object, const char *name, int64_t *value)
{
    if (!is_integer(object)) {
        PyErr_Format(PyExc_TypeError, "%s: expected an int, got %s", name, Py_TYPE(object)->tp_name);
        return -1;
    }
    PyObject *whole = PyNumber_Index(object);
    if (!whole) return -1;
    int overflow;
    *value = PyLong_AsLongLongAndOverflow(whole, &overflow);
    Py_DECREF(whole);
    if (overflow) {
        PyErr_Format(PyExc_ValueError, "%s: expected an int of 64 bits", name);
        return -1;
    }
    return 0;
}

int pfo_take_bool(PyObject *object, const char *name, int *value)
{
    if (!PyBool_Check(object) && !PyArray_IsScalar(object, Bool)) {
        PyErr_Format(PyExc_TypeError, "%s: expected a bool, got %s", name, Py_TYPE(object)->tp_name);
        return -1;
    }
    *value = PyObject_IsTrue(object);
    return *value < 0 ? -1 : 0;
}
