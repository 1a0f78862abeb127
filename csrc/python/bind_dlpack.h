/* DLPack arguments; see bind_dlpack.c. */
#ifndef PFO_BIND_DLPACK_H
#define PFO_BIND_DLPACK_H

#include "bind.h"

int pfo_bind_capsule(PyObject *capsule, const char *name, pfo_bound *bound, int *read_only);
int pfo_bind_exporter(PyObject *object, const char *name, pfo_bound *bound, int *read_only);

void pfo_release_capsule(PyObject *capsule);

#endif
