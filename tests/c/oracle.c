#include "oracle.h"

#include <math.h>

static void scan_row(const double *values, int64_t vocab, oracle_row *row)
{
    row->best = 0;
    row->all_negative_infinity = 1;
    for (int64_t v = 0; v < vocab; v++) {
        if (isnan(values[v])) row->has_nan = 1;
        if (isinf(values[v]) && values[v] > 0.0) row->has_positive_infinity = 1;
        if (!(isinf(values[v]) && values[v] < 0.0)) row->all_negative_infinity = 0;
        if (values[v] > values[row->best]) row->best = v;
    }
}

oracle_row oracle_token_logps(const double *values, int64_t vocab, int64_t label, double temperature)
{
    oracle_row row = {0};
    scan_row(values, vocab, &row);
    const long double nan_value = (long double)NAN;
    long double sum_x = 0.0L, sum = 0.0L, sum2 = 0.0L, weighted = 0.0L;
    for (int64_t v = 0; v < vocab; v++) sum_x += (long double)values[v] / (long double)temperature;
    row.mean = sum_x / (long double)vocab;
    row.max = (long double)values[row.best] / (long double)temperature;
    if (row.has_nan) {
        row.logp = row.lse = row.entropy = row.mean = row.max = row.lse2 = nan_value;
        row.best = -1;
        return row;
    }
    if (row.has_positive_infinity || row.all_negative_infinity) {
        row.lse = row.lse2 = row.max;
        row.logp = row.entropy = nan_value;
        return row;
    }
    for (int64_t v = 0; v < vocab; v++) {
        const long double difference = (long double)values[v] / (long double)temperature - row.max;
        const long double share = expl(difference);
        sum += share;
        sum2 += expl(2.0L * difference);
        if (share > 0.0L) weighted += difference * share;
    }
    row.lse = row.max + logl(sum);
    row.lse2 = 2.0L * row.max + logl(sum2);
    row.entropy = logl(sum) - weighted / sum;
    row.logp = (long double)values[label] / (long double)temperature - row.lse;
    return row;
}

long double oracle_grad(double value, int is_label, double temperature, long double lse, long double entropy,
                        long double grad_logp, long double grad_entropy, long double grad_lse)
{
    const long double log_share = (long double)value / (long double)temperature - lse;
    const long double share = expl(log_share);
    const long double spread = share > 0.0L ? share * (log_share + entropy) : 0.0L;
    const long double sum = (grad_lse - grad_logp) * share - grad_entropy * spread + (is_label ? grad_logp : 0.0L);
    return sum / (long double)temperature;
}
