/* Token log-probabilities by their definitions, in long double, one element after another. */
#ifndef PREFOPT_TEST_ORACLE_H
#define PREFOPT_TEST_ORACLE_H

#include <stdint.h>

typedef struct oracle_row {
    long double logp, lse, entropy, mean, max, lse2;
    int64_t best; /* first maximum; -1 where a NaN is in the row */
    int has_nan, has_positive_infinity, all_negative_infinity;
} oracle_row;

/* values: the exact logits of one row; x = values / temperature.  Special rows as csrc/prefopt.h states them. */
oracle_row oracle_token_logps(const double *values, int64_t vocab, int64_t label, double temperature);

/* d loss / d logits[v]; lse and entropy are those handed to the library. */
long double oracle_grad(double value, int is_label, double temperature, long double lse, long double entropy,
                        long double grad_logp, long double grad_entropy, long double grad_lse);

#endif
