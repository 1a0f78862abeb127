/* A BLAS found at run time: the library is never linked, so that the wheel builds and runs without one. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "blas.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

enum {
    CBLAS_ROW_MAJOR = 101,
    CBLAS_NO_TRANS = 111,
    CBLAS_TRANS = 112
};

typedef void (*sgemm_function)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a,
                               int lda, const float *b, int ldb, float beta, float *c, int ldc);
typedef void (*dgemm_function)(int order, int trans_a, int trans_b, int m, int n, int k, double alpha, const double *a,
                               int lda, const double *b, int ldb, double beta, double *c, int ldc);

typedef struct blas {
    sgemm_function sgemm;
    dgemm_function dgemm;
    char name[512];
} blas;

/* Never freed: another thread may be inside the one that is replaced. */
static _Atomic(const blas *) loaded;

static void *open_library(const char *path)
{
#if defined(_WIN32)
    return (void *)LoadLibraryA(path);
#else
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
#endif
}

/* The address of prefix + name, as a value that can be copied into a function pointer. */
static void *find_symbol(void *library, const char *name)
{
    static const char *const prefixes[] = {"scipy_", ""};
    char full[64];
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        snprintf(full, sizeof full, "%s%s", prefixes[i], name);
#if defined(_WIN32)
        void *address = (void *)(uintptr_t)GetProcAddress((HMODULE)library, full);
#else
        void *address = dlsym(library, full);
#endif
        if (address) return address;
    }
    return NULL;
}

static void use_one_thread(void *library)
{
    void (*set_threads)(int);
    void *address = find_symbol(library, "openblas_set_num_threads");
    if (!address) return; /* another BLAS: its caller has seen to it */
    memcpy(&set_threads, &address, sizeof address);
    set_threads(1);
}

pfo_status pfo_blas_load(const char *path, pfo_error *error)
{
    pfo_clear(error);
    if (!path) {
        atomic_store(&loaded, (const blas *)NULL);
        return PFO_OK;
    }
    void *library = open_library(path);
    if (!library)
        return pfo_fail(error, PFO_ERROR_VALUE, "path", -1, "expected a shared library that can be loaded, got %.200s",
                        path);
    void *sgemm = find_symbol(library, "cblas_sgemm"), *dgemm = find_symbol(library, "cblas_dgemm");
    blas *entry = sgemm && dgemm ? malloc(sizeof *entry) : NULL;
    if (!entry)
        return pfo_fail(error, PFO_ERROR_VALUE, "path", -1,
                        "expected a library with cblas_sgemm and cblas_dgemm: %.200s", path);
    memcpy(&entry->sgemm, &sgemm, sizeof sgemm);
    memcpy(&entry->dgemm, &dgemm, sizeof dgemm);
    snprintf(entry->name, sizeof entry->name, "%s", path);
    use_one_thread(library);
    atomic_store(&loaded, (const blas *)entry);
    return PFO_OK;
}

const char *pfo_blas_name(void)
{
    const blas *now = atomic_load(&loaded);
    return now ? now->name : "";
}

int pfo_blas_gemm(const pfo_gemm *p, int wide)
{
    const blas *now = atomic_load(&loaded);
    if (!now || p->m > INT_MAX || p->n > INT_MAX || p->k > INT_MAX || p->lda > INT_MAX || p->ldb > INT_MAX ||
        p->ldc > INT_MAX)
        return 0;
    const int trans_a = p->trans_a ? CBLAS_TRANS : CBLAS_NO_TRANS, trans_b = p->trans_b ? CBLAS_TRANS : CBLAS_NO_TRANS;
    if (wide)
        now->dgemm(CBLAS_ROW_MAJOR, trans_a, trans_b, (int)p->m, (int)p->n, (int)p->k, p->alpha, (const double *)p->a,
                   (int)p->lda, (const double *)p->b, (int)p->ldb, p->beta, (double *)p->c, (int)p->ldc);
    else
        now->sgemm(CBLAS_ROW_MAJOR, trans_a, trans_b, (int)p->m, (int)p->n, (int)p->k, (float)p->alpha,
                   (const float *)p->a, (int)p->lda, (const float *)p->b, (int)p->ldb, (float)p->beta, (float *)p->c,
                   (int)p->ldc);
    return 1;
}
