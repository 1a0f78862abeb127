/* sequence_logps: masked sums of token log-probs per sequence, in double, and the transpose.
 *
 *     out[b] = sum_t mask[b, t] logps[b, t] / divisor[b]
 *
 * divisor: 1; with average the sum of the mask (an empty sequence gives 0), or normalizer[b].  Batches are small beside
 * the logits that made them, so this runs on the calling thread, in index order: nothing here depends on threads. */
#include <math.h>

#include "../core/dtype.h"
#include "checks.h"

typedef struct layout {
    int64_t sequences, tokens_per_row; /* tokens_per_row: [B, T] only */
    int packed;
    pfo_walk logps, mask, cu_seqlens, normalizer, out;
    const pfo_sequence_logps_args *args;
} layout;

static int64_t cu_at(const layout *l, int64_t index)
{
    int fits;
    return pfo_read_int(pfo_walk_at(&l->cu_seqlens, index), l->args->cu_seqlens.dtype, &fits);
}

static void bounds(const layout *l, int64_t sequence, int64_t *begin, int64_t *end)
{
    if (l->packed) {
        *begin = cu_at(l, sequence);
        *end = cu_at(l, sequence + 1);
    } else {
        *begin = sequence * l->tokens_per_row;
        *end = *begin + l->tokens_per_row;
    }
}

static double weight_at(const layout *l, int64_t position)
{
    if (!pfo_present(&l->args->mask)) return 1.0;
    const char *address = pfo_walk_at(&l->mask, position);
    if (l->args->mask.dtype == PFO_BOOL) return *(const uint8_t *)address ? 1.0 : 0.0;
    return pfo_read_float(address, l->args->mask.dtype);
}

/* What the sum is divided by; +inf for an empty sequence under average, which makes 0 of every finite sum. */
static double divisor_of(const layout *l, int64_t sequence)
{
    if (!l->args->average) return 1.0;
    if (pfo_present(&l->args->normalizer))
        return pfo_read_float(pfo_walk_at(&l->normalizer, sequence), l->args->normalizer.dtype);
    int64_t begin, end;
    double weights = 0.0;
    bounds(l, sequence, &begin, &end);
    for (int64_t position = begin; position < end; position++) weights += weight_at(l, position);
    return weights == 0.0 ? (double)INFINITY : weights;
}

/* The values; what needs no look at them, checks.h has. */
static pfo_status check_offsets(const layout *l, pfo_error *error)
{
    const int64_t last = l->sequences, tokens = l->args->logps.shape[0];
    int64_t previous = 0;
    for (int64_t i = 0; i <= last; i++) {
        int64_t now = cu_at(l, i);
        if (now < previous || now > tokens || (i == 0 && now != 0))
            return pfo_fail(error, PFO_ERROR_VALUE, "cu_seqlens", i,
                            "expected offsets from 0 up to %lld, never falling, got %lld at index %lld",
                            (long long)tokens, (long long)now, (long long)i);
        previous = now;
    }
    if (previous != tokens)
        return pfo_fail(error, PFO_ERROR_VALUE, "cu_seqlens", last,
                        "expected the last offset to be the number of tokens %lld, got %lld", (long long)tokens,
                        (long long)previous);
    return PFO_OK;
}

static pfo_status check_values(const layout *l, pfo_error *error)
{
    const pfo_sequence_logps_args *args = l->args;
    const int64_t positions =
        pfo_present(&args->mask) && args->mask.dtype != PFO_BOOL ? pfo_leading_size(&args->mask, 0) : 0;
    for (int64_t i = 0; i < positions; i++) {
        double weight = weight_at(l, i);
        if (!isfinite(weight))
            return pfo_fail(error, PFO_ERROR_VALUE, "mask", i, "expected finite weights, got %g at index %lld", weight,
                            (long long)i);
    }
    for (int64_t i = 0; pfo_present(&args->normalizer) && i < l->sequences; i++) {
        double value = pfo_read_float(pfo_walk_at(&l->normalizer, i), args->normalizer.dtype);
        if (!(value > 0.0) || !isfinite(value))
            return pfo_fail(error, PFO_ERROR_VALUE, "normalizer", i, "expected finite values > 0, got %g at index %lld",
                            value, (long long)i);
    }
    return l->packed ? check_offsets(l, error) : PFO_OK;
}

static pfo_status prepare(const pfo_sequence_logps_args *args, int transpose, layout *l, pfo_error *error)
{
    pfo_status status = pfo_check_sequence_logps(args, transpose, &l->sequences, error);
    if (status != PFO_OK) return status;
    l->args = args;
    l->packed = pfo_present(&args->cu_seqlens);
    l->tokens_per_row = l->packed ? 0 : args->logps.shape[1];
    l->logps = pfo_walk_leading(&args->logps, 0);
    l->out = pfo_walk_leading(&args->out, 0);
    if (pfo_present(&args->mask)) l->mask = pfo_walk_leading(&args->mask, 0);
    if (l->packed) l->cu_seqlens = pfo_walk_leading(&args->cu_seqlens, 0);
    if (pfo_present(&args->normalizer)) l->normalizer = pfo_walk_leading(&args->normalizer, 0);
    return check_values(l, error);
}

pfo_status pfo_sequence_logps(const pfo_sequence_logps_args *args, pfo_error *error)
{
    pfo_clear(error);
    layout l;
    pfo_status status = prepare(args, 0, &l, error);
    if (status != PFO_OK) return status;
    pfo_fpenv saved = pfo_fpenv_enter();
    for (int64_t sequence = 0; sequence < l.sequences; sequence++) {
        int64_t begin, end;
        double sum = 0.0;
        bounds(&l, sequence, &begin, &end);
        for (int64_t position = begin; position < end; position++) {
            double weight = weight_at(&l, position);
            if (weight != 0.0) sum += weight * pfo_read_float(pfo_walk_at(&l.logps, position), args->logps.dtype);
        }
        pfo_write_float(pfo_walk_at(&l.out, sequence), args->out.dtype, sum / divisor_of(&l, sequence));
    }
    pfo_fpenv_leave(saved);
    return PFO_OK;
}

pfo_status pfo_sequence_logps_grad(const pfo_sequence_logps_args *args, pfo_error *error)
{
    pfo_clear(error);
    layout l;
    pfo_status status = prepare(args, 1, &l, error);
    if (status != PFO_OK) return status;
    pfo_fpenv saved = pfo_fpenv_enter();
    for (int64_t sequence = 0; sequence < l.sequences; sequence++) {
        int64_t begin, end;
        bounds(&l, sequence, &begin, &end);
        double grad = pfo_read_float(pfo_walk_at(&l.out, sequence), args->out.dtype) / divisor_of(&l, sequence);
        for (int64_t position = begin; position < end; position++) {
            double weight = weight_at(&l, position);
            pfo_write_float(pfo_walk_at(&l.logps, position), args->logps.dtype, weight == 0.0 ? 0.0 : grad * weight);
        }
    }
    pfo_fpenv_leave(saved);
    return PFO_OK;
}
