/* DLPack to a view, in C, since NumPy's from_dlpack refuses bfloat16.
 *
 * The capsule is not consumed (renamed): it stays owned by the bound argument for the length of the call and its own
 * destructor frees the tensor.  That is what the protocol asks of a consumer that keeps nothing. */
#include "bind_dlpack.h"

#include "dlpack.h"

static const struct {
    uint8_t code, bits;
    int32_t dtype;
} dl_dtypes[] = {
    {PFO_DL_FLOAT, 16, PFO_F16}, {PFO_DL_BFLOAT, 16, PFO_BF16}, {PFO_DL_FLOAT, 32, PFO_F32},
    {PFO_DL_FLOAT, 64, PFO_F64}, {PFO_DL_INT, 8, PFO_I8},       {PFO_DL_INT, 16, PFO_I16},
    {PFO_DL_INT, 32, PFO_I32},   {PFO_DL_INT, 64, PFO_I64},     {PFO_DL_UINT, 8, PFO_U8},
    {PFO_DL_UINT, 16, PFO_U16},  {PFO_DL_UINT, 32, PFO_U32},    {PFO_DL_UINT, 64, PFO_U64},
    {PFO_DL_BOOL, 8, PFO_BOOL},
};

static int view_of(const pfo_dl_tensor *tensor, const char *name, pfo_view *view)
{
    if (tensor->device.device_type != PFO_DL_CPU && tensor->device.device_type != PFO_DL_CUDA_HOST) {
        PyErr_Format(PyExc_ValueError, "%s: expected memory on the CPU, got DLPack device type %d", name,
                     (int)tensor->device.device_type);
        return -1;
    }
    *view = pfo_view_none();
    for (size_t i = 0; i < sizeof dl_dtypes / sizeof dl_dtypes[0]; i++)
        if (tensor->dtype.code == dl_dtypes[i].code && tensor->dtype.bits == dl_dtypes[i].bits &&
            tensor->dtype.lanes == 1)
            view->dtype = dl_dtypes[i].dtype;
    if (view->dtype == PFO_NONE) {
        PyErr_Format(PyExc_TypeError, "%s: DLPack dtype code %d with %d bits is not supported", name,
                     (int)tensor->dtype.code, (int)tensor->dtype.bits);
        return -1;
    }
    if (tensor->ndim < 0 || tensor->ndim > PFO_MAX_NDIM) {
        PyErr_Format(PyExc_ValueError, "%s: expected at most %d axes, got %d", name, PFO_MAX_NDIM, (int)tensor->ndim);
        return -1;
    }
    if (tensor->ndim > 0 && !tensor->shape) {
        PyErr_Format(PyExc_ValueError, "%s: expected a DLPack shape, got NULL", name);
        return -1;
    }
    const int64_t size = pfo_dtype_size(view->dtype), limit = INT64_MAX / size;
    int64_t contiguous = 1; /* the C-order stride of the axis, in elements */
    view->ndim = tensor->ndim;
    view->data = tensor->data ? (char *)tensor->data + tensor->byte_offset : NULL;
    for (int32_t axis = tensor->ndim - 1; axis >= 0; axis--) {
        const int64_t length = tensor->shape[axis], stride = tensor->strides ? tensor->strides[axis] : contiguous;
        if (stride > limit || stride < -limit || (length > 1 && contiguous > limit / length)) {
            PyErr_Format(PyExc_ValueError, "%s: its DLPack sizes or strides overflow 64 bits at axis %d", name,
                         (int)axis);
            return -1;
        }
        view->shape[axis] = length;
        view->strides_bytes[axis] = stride * size;
        contiguous *= length > 0 ? length : 1;
    }
    return 0;
}

int pfo_bind_capsule(PyObject *capsule, const char *name, pfo_bound *bound, int *read_only)
{
    const pfo_dl_tensor *tensor;
    *read_only = 0;
    if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
        pfo_dl_versioned *managed = (pfo_dl_versioned *)PyCapsule_GetPointer(capsule, "dltensor_versioned");
        if (managed->version.major != 1) {
            PyErr_Format(PyExc_ValueError, "%s: DLPack version %u is not supported", name, managed->version.major);
            return -1;
        }
        *read_only = (managed->flags & PFO_DL_READ_ONLY) != 0;
        tensor = &managed->tensor;
    } else if (PyCapsule_IsValid(capsule, "dltensor")) {
        tensor = &((pfo_dl_managed *)PyCapsule_GetPointer(capsule, "dltensor"))->tensor;
    } else {
        PyErr_Format(PyExc_TypeError, "%s: expected an unused DLPack capsule", name);
        return -1;
    }
    if (view_of(tensor, name, &bound->view) < 0) return -1;
    Py_INCREF(capsule);
    bound->capsule = capsule;
    return 0;
}

/* The producer's destructor runs here, maybe with an exception on its way to the caller, which it must not lose. */
void pfo_release_capsule(PyObject *capsule)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    Py_DECREF(capsule);
    PyErr_Restore(type, value, traceback);
}

int pfo_bind_exporter(PyObject *object, const char *name, pfo_bound *bound, int *read_only)
{
    PyObject *method = PyObject_GetAttrString(object, "__dlpack__");
    if (!method) return -1;
    /* The versioned form first (it can say "read-only"), the old form where the exporter does not know it. */
    PyObject *keywords = Py_BuildValue("{s:(ii)}", "max_version", 1, 0);
    PyObject *none = PyTuple_New(0);
    PyObject *capsule = keywords && none ? PyObject_Call(method, none, keywords) : NULL;
    if (!capsule && PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();
        capsule = PyObject_CallNoArgs(method);
    }
    Py_XDECREF(keywords);
    Py_XDECREF(none);
    Py_DECREF(method);
    /* A KeyboardInterrupt or a lack of memory stays what it is. */
    if (!capsule && (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError))) return -1;
    if (!capsule) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyErr_Format(PyExc_TypeError, "%s: %s cannot be read through DLPack: %S", name, Py_TYPE(object)->tp_name,
                     value ? value : Py_None);
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        return -1;
    }
    int status = pfo_bind_capsule(capsule, name, bound, read_only);
    pfo_release_capsule(capsule);
    return status;
}
