/* _core.ffi_handlers: the handlers of csrc/jax as capsules, for jax.ffi.register_ffi_target.  Nothing of JAX is needed
 * to build or to call this. */
#include "bind.h"

#include <string.h>

#include "../jax/ffi.h"

static PyObject *capsule_of(XLA_FFI_Handler *handler)
{
    void *address;
    _Static_assert(sizeof address == sizeof handler, "a function's address fits a pointer");
    memcpy(&address, &handler, sizeof address);
    return PyCapsule_New(address, NULL, NULL);
}

static int put(PyObject *dict, const char *name, XLA_FFI_Handler *handler)
{
    PyObject *capsule = capsule_of(handler);
    const int status = capsule ? PyDict_SetItemString(dict, name, capsule) : -1;
    Py_XDECREF(capsule);
    return status;
}

PyDoc_STRVAR(ffi_handlers_doc, "ffi_handlers()\n--\n\n"
                               "XLA FFI handlers as capsules by the name of their target; \"\" is the one for "
                               "platforms that have no kernels.");

static PyObject *ffi_handlers(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *dict = PyDict_New();
    if (dict && put(dict, "", pfo_ffi_refuse_platform) < 0) Py_CLEAR(dict);
    for (const pfo_ffi_handler *each = pfo_ffi_handlers; dict && each->name; each++)
        if (put(dict, each->name, each->run) < 0) Py_CLEAR(dict);
    return dict;
}

PyMethodDef pfo_jax_methods[] = {{"ffi_handlers", ffi_handlers, METH_NOARGS, ffi_handlers_doc}, {NULL, NULL, 0, NULL}};
