/* The formulas for double, the only instance that is used: batches are small, on a GPU as well. */
#ifndef PFO_FORMULAS_F64_H
#define PFO_FORMULAS_F64_H

#include <float.h>
#include <math.h>

#include "loss_table.h"

#define PFO_REAL double
#define PFO_FN(name) pfo_##name##_f64
#if defined(__CUDACC__)
#define PFO_HD __host__ __device__
#else
#define PFO_HD
#endif
#define PFO_EXP exp
#define PFO_LOG1P log1p
#define PFO_FABS fabs
#define PFO_EXPM1 expm1
#define PFO_LOG log
#define PFO_LARGEST DBL_MAX
#include "formulas.inc"
#undef PFO_REAL
#undef PFO_FN
#undef PFO_HD
#undef PFO_EXP
#undef PFO_LOG1P
#undef PFO_FABS
#undef PFO_EXPM1
#undef PFO_LOG
#undef PFO_LARGEST

#endif
