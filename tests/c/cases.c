#include "cases.h"

#include <math.h>

int64_t size_limit(void) { return small_run ? 5003 : INT64_MAX; }

static double smallest_number(int32_t dtype) { return (double)spacing(dtype, 0.0L); }

static double element(int32_t dtype, int64_t v, int64_t vocab, row_kind kind, random_state *random)
{
    const double normal = random_normal(random);
    switch (kind) {
    case ROW_CONSTANT: return 1.5;
    case ROW_LARGE: return normal > 0.0 ? 1e4 - fabs(normal) : -1e4 + fabs(normal);
    case ROW_DENORMAL: return smallest_number(dtype) * floor(normal * 20.0);
    case ROW_MASKED: return v % 3 != 1 && vocab > 1 ? -(double)INFINITY : normal * 4.0;
    case ROW_SINGLE:
    case ROW_ALL_MASKED: return -(double)INFINITY;
    case ROW_RISING: return (double)(v / 128) * 0.25 + normal * 0.5;
    case ROW_RANDOM:
    case ROW_PEAKED:
    case ROW_TARGET_MASKED:
    case ROW_NAN:
    case ROW_POSITIVE_INFINITY:
    case ROW_KINDS: break;
    }
    return normal * 4.0;
}

void fill_row(void *base, int32_t dtype, int64_t vocab, int64_t label, row_kind kind, random_state *random)
{
    for (int64_t v = 0; v < vocab; v++) encode(base, v, dtype, element(dtype, v, vocab, kind, random));
    const int64_t place = (int64_t)(random_bits(random) % (uint64_t)vocab);
    if (kind == ROW_PEAKED) encode(base, place, dtype, 40.0);
    if (kind == ROW_SINGLE) encode(base, label, dtype, -3.0);
    if (kind == ROW_TARGET_MASKED) encode(base, label, dtype, -(double)INFINITY);
    if (kind == ROW_NAN) encode(base, place, dtype, (double)NAN);
    if (kind == ROW_POSITIVE_INFINITY) encode(base, place, dtype, (double)INFINITY);
}
