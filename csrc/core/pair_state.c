/* The pair state in C. */
#include "pair_state.h"

#include <math.h>
#include <string.h>

#include "row_state.h"

#define PFO_HD
#define PFO_FN(name) pfo_##name
#include "pair_state.inc"
