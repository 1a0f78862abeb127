/* Matrix products for the fused kernels: a BLAS that was loaded at run time, or the plain kernel. */
#ifndef PFO_BLAS_H
#define PFO_BLAS_H

#include "core.h"

/* c [m, n] = alpha a b + beta c, row-major, float (wide 0) or double (wide 1).  a is [m, k] with row stride lda, or its
 * transpose [k, m] where trans_a; b is [k, n], or [n, k] where trans_b.  beta 0 does not read c.  Runs on the calling
 * thread. */
typedef struct pfo_gemm {
    int trans_a, trans_b;
    int64_t m, n, k;
    double alpha, beta;
    const void *a, *b;
    void *c;
    int64_t lda, ldb, ldc;
} pfo_gemm;

/* The loaded BLAS's product, 0 if none is loaded or a size does not fit its integers. */
int pfo_blas_gemm(const pfo_gemm *product, int wide);

#endif
