/* What the binding files share.  Only files in this folder include Python.h or NumPy. */
#ifndef PFO_BIND_H
#define PFO_BIND_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_1_20_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL prefopt_numpy_api
#ifndef PFO_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "../prefopt.h"

/* An argument taken from Python: a view and what keeps its memory alive. */
typedef struct pfo_bound {
    pfo_view view;
    PyObject *array;   /* the ndarray behind the view (owned), NULL if absent */
    PyObject *capsule; /* the DLPack capsule behind it (owned), NULL if none */
} pfo_bound;

/* bind_array.c: any argument to a view.  Accepts ndarrays (np.memmap included; masked arrays, np.matrix, object and
 * big-endian arrays are refused), the buffer protocol, DLPack objects and capsules on the CPU.  dtype: None or a name
 * that reinterprets ("bfloat16" for uint16).  None binds an absent array if optional.  0 on success, -1 with an
 * exception. */
int pfo_bind(PyObject *object, const char *name, int optional, PyObject *dtype, pfo_bound *bound);
/* The same for an output argument: also checks that it is writable. */
int pfo_bind_out(PyObject *object, const char *name, PyObject *dtype, pfo_bound *bound);
/* dtype="bfloat16" reads a bound uint16 as bfloat16; any other name must be what the array already holds. */
int pfo_apply_dtype(PyObject *dtype, const char *name, pfo_bound *bound);
void pfo_unbind(pfo_bound *bound);
void pfo_unbind_all(pfo_bound *bound, int count);
/* Copies only the axes in use: a whole view is 1 KB. */
void pfo_copy_view(pfo_view *to, const pfo_view *from);
/* A TypeError where the number of arguments is not the expected one; 0 on success. */
int pfo_check_count(const char *function, Py_ssize_t got, Py_ssize_t expected);
/* A new C-contiguous array with the leading axes of like (all but `trailing`), and its view.  name: the argument that
 * like is, for the message when NumPy cannot count the array's bytes. */
PyObject *pfo_new_leading(const pfo_view *like, const char *name, int32_t trailing, int numpy_type, int32_t dtype,
                          pfo_view *view);
/* A new array with the shape of `like` and the dtype of the bound array. */
PyObject *pfo_new_like(const pfo_bound *like, const char *name, pfo_view *view);
/* NumPy's error about an array that is too large does not say which argument asked for it; this makes it say so. */
void pfo_name_size_error(const char *name);

/* errors.c: raises what the record says; always returns NULL. */
PyObject *pfo_raise(pfo_status status, const pfo_error *error);

/* Scalars from Python with the argument named in the error.  0 on success. */
int pfo_take_double(PyObject *object, const char *name, double *value);
int pfo_take_int64(PyObject *object, const char *name, int64_t *value);
int pfo_take_bool(PyObject *object, const char *name, int *value);

/* module.c: puts the context's ISA row (prefopt.using_isa) in force for this thread; first call of every entry that
 * runs kernels.  0 on success. */
int pfo_enter_isa(PyObject *module);

#define PFO_FAST(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, name##_doc}

/* bind_token.c, bind_pair.c, bind_linear.c, bind_loss.c, bind_jax.c, bind_misc.c: method tables; NULL ends each. */
extern PyMethodDef pfo_token_methods[];
extern PyMethodDef pfo_pair_methods[];
extern PyMethodDef pfo_linear_methods[];
extern PyMethodDef pfo_misc_methods[];
extern PyMethodDef pfo_loss_methods[];
extern PyMethodDef pfo_jax_methods[];

#endif
