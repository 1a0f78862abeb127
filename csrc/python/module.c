/* prefopt._core: multi-phase initialisation, no global Python state. */
#define PFO_IMPORTS_NUMPY
#include "bind.h"

typedef struct module_state {
    PyObject *isa; /* ContextVar: the forced ISA row's name; unset or None: the default */
} module_state;

int pfo_enter_isa(PyObject *module)
{
    const module_state *state = (const module_state *)PyModule_GetState(module);
    PyObject *value = NULL;
    if (PyContextVar_Get(state->isa, NULL, &value) < 0) return -1;
    const char *name = NULL;
    if (value && value != Py_None) name = PyUnicode_AsUTF8(value);
    pfo_error error;
    pfo_status status = pfo_set_isa(name, &error);
    Py_XDECREF(value);
    if (PyErr_Occurred()) return -1;
    if (status == PFO_OK) return 0;
    pfo_raise(status, &error);
    return -1;
}

static int execute(PyObject *module)
{
    module_state *state = (module_state *)PyModule_GetState(module);
    if (PyArray_ImportNumPyAPI() < 0) return -1;
    state->isa = PyContextVar_New("prefopt_isa", NULL);
    if (!state->isa || PyModule_AddObjectRef(module, "isa_context", state->isa) < 0) return -1;
    PyMethodDef *const tables[] = {pfo_token_methods, pfo_pair_methods, pfo_linear_methods,
                                   pfo_misc_methods,  pfo_loss_methods, pfo_jax_methods};
    for (size_t k = 0; k < sizeof tables / sizeof tables[0]; k++)
        if (PyModule_AddFunctions(module, tables[k]) < 0) return -1;
    return PyModule_AddStringConstant(module, "__version__", PFO_VERSION);
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    const module_state *state = (const module_state *)PyModule_GetState(module);
    if (state) Py_VISIT(state->isa);
    return 0;
}

static int clear(PyObject *module)
{
    module_state *state = (module_state *)PyModule_GetState(module);
    if (state) Py_CLEAR(state->isa);
    return 0;
}

static void release(void *module) { clear((PyObject *)module); }

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)execute}, {0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                        "prefopt._core",
                                        "prefopt's C kernels; the public interface is the package.",
                                        sizeof(module_state),
                                        NULL,
                                        slots,
                                        traverse,
                                        clear,
                                        release};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&definition); }
