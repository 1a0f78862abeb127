/* The formulas for double, the only instance that the CPU uses: batches are small. */
#ifndef PFO_FORMULAS_F64_H
#define PFO_FORMULAS_F64_H

#include <math.h>

#include "loss_table.h"

#define PFO_REAL double
#define PFO_FN(name) pfo_##name##_f64
#define PFO_HD
#define PFO_EXP exp
#define PFO_LOG1P log1p
#define PFO_FABS fabs
#include "formulas.inc"
#undef PFO_REAL
#undef PFO_FN
#undef PFO_HD
#undef PFO_EXP
#undef PFO_LOG1P
#undef PFO_FABS

#endif
