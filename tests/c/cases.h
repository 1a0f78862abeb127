/* Rows of logits to test with: kinds, sizes and why. */
#ifndef PREFOPT_TEST_CASES_H
#define PREFOPT_TEST_CASES_H

#include <stdint.h>

#include "check.h"

typedef enum row_kind {
    ROW_RANDOM,            /* normal, standard deviation 4: an ordinary model */
    ROW_PEAKED,            /* one logit far above the rest */
    ROW_CONSTANT,          /* entropy is exactly log V; the first index is the best */
    ROW_LARGE,             /* +-1e4: exp overflows unless the maximum is taken off */
    ROW_DENORMAL,          /* smallest numbers of the dtype: flush-to-zero would show */
    ROW_MASKED,            /* two thirds -inf, as after top-k */
    ROW_SINGLE,            /* all -inf but the label */
    ROW_TARGET_MASKED,     /* the label itself is -inf: logp is -inf */
    ROW_ALL_MASKED,        /* all -inf */
    ROW_NAN,               /* one NaN */
    ROW_POSITIVE_INFINITY, /* one +inf */
    ROW_RISING,            /* a new maximum in every block */
    ROW_KINDS
} row_kind;

/* 1 and 2; lanes (8, 16) and twice that, each -1, 0, +1; a block of 4096 and a segment of 32768 likewise; odd ones. */
#define CASE_SIZES \
    {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 100, 1000, 4095, 4096, 4097, 5003, 32767, 32768, 33001}

static const int32_t FLOAT_DTYPES[] = {PFO_F16, PFO_BF16, PFO_F32, PFO_F64};
#define FLOAT_DTYPE_COUNT 4

/* Fills one row of dtype at base (elements), label in [0, vocab). */
void fill_row(void *base, int32_t dtype, int64_t vocab, int64_t label, row_kind kind, random_state *random);

/* Largest size tested in this run. */
int64_t size_limit(void);

#endif
