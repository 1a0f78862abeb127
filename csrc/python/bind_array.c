/* Python arguments to views: the one checker that every entry uses. */
#include "bind.h"

#include <string.h>

#include "bind_dlpack.h"

static int32_t dtype_of_numpy(PyArrayObject *array)
{
    const PyArray_Descr *descr = PyArray_DESCR(array);
    switch (descr->type_num) {
    case NPY_HALF: return PFO_F16;
    case NPY_FLOAT: return PFO_F32;
    case NPY_DOUBLE: return PFO_F64;
    case NPY_BOOL: return PFO_BOOL;
    default: break;
    }
    if (PyTypeNum_ISINTEGER(descr->type_num)) { /* by size: long and long long are both int64 here */
        const int is_signed = PyTypeNum_ISSIGNED(descr->type_num);
        switch (PyArray_ITEMSIZE(array)) {
        case 1: return is_signed ? PFO_I8 : PFO_U8;
        case 2: return is_signed ? PFO_I16 : PFO_U16;
        case 4: return is_signed ? PFO_I32 : PFO_U32;
        default: return is_signed ? PFO_I64 : PFO_U64;
        }
    }
    /* ml_dtypes registers bfloat16 with NumPy under a number of its own: known by its scalar type's name. */
    const char *type_name = descr->typeobj->tp_name;
    const char *dot = strrchr(type_name, '.');
    if (strcmp(dot ? dot + 1 : type_name, "bfloat16") == 0 && PyArray_ITEMSIZE(array) == 2) return PFO_BF16;
    return PFO_NONE;
}

/* Masked arrays and np.matrix look like arrays but change what indexing and values mean. */
static int refuse_subclass(PyObject *object, const char *name)
{
    static const char *const refused[] = {"MaskedArray", "matrix"};
    for (PyTypeObject *type = Py_TYPE(object); type && type != &PyArray_Type; type = type->tp_base) {
        const char *dot = strrchr(type->tp_name, '.');
        const char *plain = dot ? dot + 1 : type->tp_name;
        for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
            if (strcmp(plain, refused[i]) == 0) {
                PyErr_Format(PyExc_TypeError, "%s: expected a plain array, got %s; pass np.asarray of its data", name,
                             plain);
                return -1;
            }
        }
    }
    return 0;
}

static int bind_numpy(PyArrayObject *array, const char *name, pfo_bound *bound)
{
    if (!PyArray_CheckExact(array) && refuse_subclass((PyObject *)array, name) < 0) return -1;
    if (PyArray_TYPE(array) == NPY_OBJECT) {
        PyErr_Format(PyExc_TypeError, "%s: expected numbers, got an array of objects", name);
        return -1;
    }
    if (PyArray_ISBYTESWAPPED(array)) {
        PyErr_Format(PyExc_TypeError, "%s: expected native byte order, got a byte-swapped array", name);
        return -1;
    }
    bound->view.dtype = dtype_of_numpy(array);
    if (bound->view.dtype == PFO_NONE) {
        PyErr_Format(PyExc_TypeError, "%s: dtype %R is not supported", name, (PyObject *)PyArray_DESCR(array));
        return -1;
    }
    bound->view.data = PyArray_DATA(array);
    bound->view.ndim = PyArray_NDIM(array);
    for (int32_t axis = 0; axis < bound->view.ndim; axis++) {
        bound->view.shape[axis] = PyArray_DIM(array, axis);
        bound->view.strides_bytes[axis] = PyArray_STRIDE(array, axis);
    }
    Py_INCREF(array);
    bound->array = (PyObject *)array;
    return 0;
}

static int bind_buffer(PyObject *object, const char *name, pfo_bound *bound)
{
    PyObject *array = PyArray_FROM_O(object);
    if (!array) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "%s: the buffer of %s cannot be read as an array", name,
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    int status = bind_numpy((PyArrayObject *)array, name, bound);
    Py_DECREF(array);
    return status;
}

int pfo_apply_dtype(PyObject *dtype, const char *name, pfo_bound *bound)
{
    if (!dtype || dtype == Py_None) return 0;
    const char *wanted = PyUnicode_Check(dtype) ? PyUnicode_AsUTF8(dtype) : NULL;
    if (!wanted) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "dtype: expected a name such as \"bfloat16\" or None, got %R", dtype);
        return -1;
    }
    if (strcmp(wanted, "bfloat16") == 0 && bound->view.dtype == PFO_U16) {
        bound->view.dtype = PFO_BF16;
        return 0;
    }
    if (strcmp(wanted, pfo_dtype_name(bound->view.dtype)) == 0) return 0;
    for (int32_t known = PFO_F16; known <= PFO_F64; known++) {
        if (strcmp(wanted, pfo_dtype_name(known)) == 0) {
            PyErr_Format(PyExc_TypeError, "%s: dtype=\"%s\" does not describe an array of %s", name, wanted,
                         pfo_dtype_name(bound->view.dtype));
            return -1;
        }
    }
    PyErr_Format(PyExc_ValueError,
                 "dtype: expected \"float16\", \"bfloat16\", \"float32\", \"float64\" or None, got \"%s\"", wanted);
    return -1;
}

static int bind_any(PyObject *object, const char *name, PyObject *dtype, pfo_bound *bound, int *read_only)
{
    int status;
    *read_only = 0;
    if (PyArray_Check(object)) {
        status = bind_numpy((PyArrayObject *)object, name, bound);
        if (status == 0) *read_only = !PyArray_ISWRITEABLE((PyArrayObject *)object);
    } else if (PyCapsule_CheckExact(object)) {
        status = pfo_bind_capsule(object, name, bound, read_only);
    } else if (PyObject_HasAttrString(object, "__dlpack__")) {
        status = pfo_bind_exporter(object, name, bound, read_only);
    } else if (PyObject_CheckBuffer(object)) {
        status = bind_buffer(object, name, bound);
        if (status == 0) *read_only = !PyArray_ISWRITEABLE((PyArrayObject *)bound->array);
    } else {
        PyErr_Format(PyExc_TypeError, "%s: expected an array (NumPy, buffer protocol or DLPack on the CPU), got %s",
                     name, Py_TYPE(object)->tp_name);
        status = -1;
    }
    if (status == 0) status = pfo_apply_dtype(dtype, name, bound);
    if (status < 0) pfo_unbind(bound);
    return status;
}

/* The arrays and capsule only: a view is 1 KB, and clearing it seven times would cost more than a small call. */
static void clear(pfo_bound *bound)
{
    bound->array = bound->capsule = NULL;
    bound->view.dtype = PFO_NONE;
    bound->view.ndim = 0;
    bound->view.data = NULL;
}

int pfo_bind(PyObject *object, const char *name, int optional, PyObject *dtype, pfo_bound *bound)
{
    int read_only;
    clear(bound);
    if (optional && (!object || object == Py_None)) return 0;
    return bind_any(object, name, dtype, bound, &read_only);
}

int pfo_bind_out(PyObject *object, const char *name, PyObject *dtype, pfo_bound *bound)
{
    int read_only;
    clear(bound);
    if (bind_any(object, name, dtype, bound, &read_only) < 0) return -1;
    if (!read_only) return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected a writable array, got a read-only one", name);
    pfo_unbind(bound);
    return -1;
}

void pfo_unbind(pfo_bound *bound)
{
    Py_CLEAR(bound->array);
    if (bound->capsule) pfo_release_capsule(bound->capsule);
    bound->capsule = NULL;
}

void pfo_copy_view(pfo_view *to, const pfo_view *from)
{
    to->data = from->data;
    to->dtype = from->dtype;
    to->ndim = from->ndim;
    memcpy(to->shape, from->shape, (size_t)from->ndim * sizeof to->shape[0]);
    memcpy(to->strides_bytes, from->strides_bytes, (size_t)from->ndim * sizeof to->strides_bytes[0]);
}

void pfo_unbind_all(pfo_bound *bound, int count)
{
    for (int i = 0; i < count; i++) pfo_unbind(&bound[i]);
}

int pfo_check_count(const char *function, Py_ssize_t got, Py_ssize_t expected)
{
    if (got == expected) return 0;
    PyErr_Format(PyExc_TypeError, "%s: expected %zd arguments, got %zd", function, expected, got);
    return -1;
}

static void fill_view(PyObject *array, int32_t dtype, pfo_view *view)
{
    PyArrayObject *a = (PyArrayObject *)array;
    view->data = PyArray_DATA(a);
    view->dtype = dtype;
    view->ndim = PyArray_NDIM(a);
    for (int32_t axis = 0; axis < view->ndim; axis++) {
        view->shape[axis] = PyArray_DIM(a, axis);
        view->strides_bytes[axis] = PyArray_STRIDE(a, axis);
    }
}

void pfo_name_size_error(const char *name)
{
    if (!PyErr_ExceptionMatches(PyExc_ValueError)) return; /* a MemoryError says how much was asked for */
    PyErr_Clear();
    PyErr_Format(PyExc_ValueError, "%s: too large, the bytes of the results overflow 64 bits", name);
}

PyObject *pfo_new_leading(const pfo_view *like, const char *name, int32_t trailing, int numpy_type, int32_t dtype,
                          pfo_view *view)
{
    npy_intp shape[PFO_MAX_NDIM];
    const int32_t axes = like->ndim - trailing;
    for (int32_t axis = 0; axis < axes; axis++) shape[axis] = (npy_intp)like->shape[axis];
    PyObject *array = PyArray_SimpleNew(axes, shape, numpy_type);
    if (array)
        fill_view(array, dtype, view);
    else
        pfo_name_size_error(name);
    return array;
}

PyObject *pfo_new_like(const pfo_bound *like, const char *name, pfo_view *view)
{
    PyObject *array;
    if (like->array) {
        array = PyArray_NewLikeArray((PyArrayObject *)like->array, NPY_CORDER, NULL, 0);
        if (array)
            fill_view(array, like->view.dtype, view);
        else
            pfo_name_size_error(name);
        return array;
    }
    static const int numpy_types[] = {
        [PFO_F16] = NPY_HALF, [PFO_BF16] = NPY_UINT16, [PFO_F32] = NPY_FLOAT, [PFO_F64] = NPY_DOUBLE};
    return pfo_new_leading(&like->view, name, 0, numpy_types[like->view.dtype], like->view.dtype, view);
}
