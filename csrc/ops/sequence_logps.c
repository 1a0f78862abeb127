/* sequence_logps: masked sums of token log-probs per sequence, in double, and the transpose.
 *
 *     out[b] = sum_t mask[b, t] logps[b, t] / divisor[b]
 *
 * divisor: 1; with average the sum of the mask (an empty sequence gives 0), or normalizer[b].  Batches are small beside
 * the logits that made them, so this runs on the calling thread, in index order: nothing here depends on threads. */
#include <math.h>

#include "../core/dtype.h"
#include "views.h"

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

static pfo_status check_packed(const layout *l, pfo_error *error)
{
    const pfo_view *cu = &l->args->cu_seqlens;
    pfo_status status = pfo_check_array(cu, "cu_seqlens", PFO_SET_INDEX, error);
    if (status != PFO_OK) return status;
    if (cu->ndim != 1 || cu->shape[0] < 1)
        return pfo_fail(error, PFO_ERROR_SHAPE, "cu_seqlens", -1, "expected [sequences + 1] with at least one entry");
    if (l->args->logps.ndim != 1)
        return pfo_fail(error, PFO_ERROR_SHAPE, "logps", -1, "expected [tokens] with cu_seqlens, got %d axes",
                        (int)l->args->logps.ndim);
    const int64_t tokens = l->args->logps.shape[0];
    int64_t previous = 0;
    for (int64_t i = 0; i < cu->shape[0]; i++) {
        int64_t now = cu_at(l, i);
        if (now < previous || now > tokens || (i == 0 && now != 0))
            return pfo_fail(error, PFO_ERROR_VALUE, "cu_seqlens", i,
                            "expected offsets from 0 up to %lld, never falling, got %lld at index %lld",
                            (long long)tokens, (long long)now, (long long)i);
        previous = now;
    }
    if (previous != tokens)
        return pfo_fail(error, PFO_ERROR_VALUE, "cu_seqlens", cu->shape[0] - 1,
                        "expected the last offset to be the number of tokens %lld, got %lld", (long long)tokens,
                        (long long)previous);
    return PFO_OK;
}

static pfo_status check_mask(const layout *l, pfo_error *error)
{
    const pfo_view *mask = &l->args->mask;
    if (!pfo_present(mask)) return PFO_OK;
    pfo_status status = pfo_check_array(mask, "mask", PFO_SET_BOOL | PFO_SET_FLOAT, error);
    if (status == PFO_OK) status = pfo_check_leading(mask, "mask", &l->args->logps, 0, "logps", error);
    if (status != PFO_OK || mask->dtype == PFO_BOOL) return status;
    const int64_t positions = pfo_leading_size(mask, 0);
    for (int64_t i = 0; i < positions; i++) {
        double weight = weight_at(l, i);
        if (!isfinite(weight))
            return pfo_fail(error, PFO_ERROR_VALUE, "mask", i, "expected finite weights, got %g at index %lld", weight,
                            (long long)i);
    }
    return PFO_OK;
}

static pfo_status check_normalizer(const layout *l, pfo_error *error)
{
    const pfo_view *normalizer = &l->args->normalizer;
    if (!pfo_present(normalizer)) return PFO_OK;
    if (!l->args->average)
        return pfo_fail(error, PFO_ERROR_VALUE, "normalizer", -1, "expected average=True with a normalizer");
    pfo_status status = pfo_check_array(normalizer, "normalizer", PFO_SET_FLOAT, error);
    if (status != PFO_OK) return status;
    if (normalizer->ndim != 1 || normalizer->shape[0] != l->sequences)
        return pfo_fail(error, PFO_ERROR_SHAPE, "normalizer", -1, "expected shape (%lld,)", (long long)l->sequences);
    for (int64_t i = 0; i < l->sequences; i++) {
        double value = pfo_read_float(pfo_walk_at(&l->normalizer, i), normalizer->dtype);
        if (!(value > 0.0) || !isfinite(value))
            return pfo_fail(error, PFO_ERROR_VALUE, "normalizer", i, "expected finite values > 0, got %g at index %lld",
                            value, (long long)i);
    }
    return PFO_OK;
}

/* Everything that the sum and its transpose check alike; out_name is grad_logps for the transpose's output. */
static pfo_status check(const pfo_sequence_logps_args *args, layout *l, pfo_error *error)
{
    l->args = args;
    l->packed = pfo_present(&args->cu_seqlens);
    pfo_status status = pfo_check_array(&args->logps, "logps", PFO_SET_FLOAT, error);
    if (status != PFO_OK) return status;
    l->logps = pfo_walk_leading(&args->logps, 0);
    if (pfo_present(&args->mask)) l->mask = pfo_walk_leading(&args->mask, 0);
    if (l->packed) l->cu_seqlens = pfo_walk_leading(&args->cu_seqlens, 0);
    if (pfo_present(&args->normalizer)) l->normalizer = pfo_walk_leading(&args->normalizer, 0);
    if (l->packed) {
        status = check_packed(l, error);
        l->sequences = args->cu_seqlens.ndim == 1 ? args->cu_seqlens.shape[0] - 1 : 0;
        l->tokens_per_row = 0;
    } else if (args->logps.ndim != 2) {
        status = pfo_fail(error, PFO_ERROR_SHAPE, "logps", -1, "expected [batch, tokens], got %d axes",
                          (int)args->logps.ndim);
    } else {
        l->sequences = args->logps.shape[0];
        l->tokens_per_row = args->logps.shape[1];
    }
    if (status == PFO_OK) status = check_mask(l, error);
    if (status == PFO_OK) status = check_normalizer(l, error);
    if (status == PFO_OK) status = pfo_check_array(&args->out, "out", PFO_SET_FLOAT, error);
    if (status != PFO_OK) return status;
    if (args->out.ndim != 1 || args->out.shape[0] != l->sequences)
        return pfo_fail(error, PFO_ERROR_SHAPE, "out", -1, "expected shape (%lld,)", (long long)l->sequences);
    l->out = pfo_walk_leading(&args->out, 0);
    return PFO_OK;
}

/* The written view must not overlap itself nor anything that is read. */
static pfo_status check_written(const pfo_view *written, const char *name, const pfo_view *read, const char *read_name,
                                const pfo_sequence_logps_args *args, pfo_error *error)
{
    pfo_status status = pfo_check_writable_strides(written, name, error);
    if (status == PFO_OK) status = pfo_check_disjoint(written, name, read, read_name, error);
    if (status == PFO_OK) status = pfo_check_disjoint(written, name, &args->mask, "mask", error);
    if (status == PFO_OK) status = pfo_check_disjoint(written, name, &args->cu_seqlens, "cu_seqlens", error);
    if (status == PFO_OK) status = pfo_check_disjoint(written, name, &args->normalizer, "normalizer", error);
    return status;
}

pfo_status pfo_sequence_logps(const pfo_sequence_logps_args *args, pfo_error *error)
{
    pfo_clear(error);
    layout l;
    pfo_status status = check(args, &l, error);
    if (status == PFO_OK) status = pfo_check_dtype_is(&args->out, "out", args->logps.dtype, error);
    if (status == PFO_OK) status = check_written(&args->out, "out", &args->logps, "logps", args, error);
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
    pfo_status status = check(args, &l, error);
    if (status == PFO_OK) status = check_written(&args->logps, "grad_logps", &args->out, "grad_out", args, error);
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
