/* The checks of sequence_logps and its transpose. */
#include "checks.h"

static pfo_status check_packed(const pfo_sequence_logps_args *args, pfo_error *error)
{
    const pfo_view *cu = &args->cu_seqlens;
    pfo_status status = pfo_check_array(cu, "cu_seqlens", PFO_SET_INDEX, error);
    if (status != PFO_OK) return status;
    if (cu->ndim != 1 || cu->shape[0] < 1)
        return pfo_fail(error, PFO_ERROR_SHAPE, "cu_seqlens", -1, "expected [sequences + 1] with at least one entry");
    if (args->logps.ndim != 1)
        return pfo_fail(error, PFO_ERROR_SHAPE, "logps", -1, "expected [tokens] with cu_seqlens, got %d axes",
                        (int)args->logps.ndim);
    return PFO_OK;
}

static pfo_status check_mask(const pfo_sequence_logps_args *args, pfo_error *error)
{
    if (!pfo_present(&args->mask)) return PFO_OK;
    pfo_status status = pfo_check_array(&args->mask, "mask", PFO_SET_BOOL | PFO_SET_FLOAT, error);
    if (status == PFO_OK) status = pfo_check_leading(&args->mask, "mask", &args->logps, 0, "logps", error);
    return status;
}

static pfo_status check_normalizer(const pfo_sequence_logps_args *args, int64_t sequences, pfo_error *error)
{
    const pfo_view *normalizer = &args->normalizer;
    if (!pfo_present(normalizer)) return PFO_OK;
    if (!args->average)
        return pfo_fail(error, PFO_ERROR_VALUE, "normalizer", -1, "expected average=True with a normalizer");
    pfo_status status = pfo_check_array(normalizer, "normalizer", PFO_SET_FLOAT, error);
    if (status != PFO_OK) return status;
    if (normalizer->ndim != 1 || normalizer->shape[0] != sequences)
        return pfo_fail(error, PFO_ERROR_SHAPE, "normalizer", -1, "expected shape (%lld,)", (long long)sequences);
    return PFO_OK;
}

static pfo_status check_inputs(const pfo_sequence_logps_args *args, int64_t *sequences, pfo_error *error)
{
    const int is_packed = pfo_present(&args->cu_seqlens);
    pfo_status status = pfo_check_array(&args->logps, "logps", PFO_SET_FLOAT, error);
    if (status != PFO_OK) return status;
    if (is_packed) {
        status = check_packed(args, error);
        *sequences = status == PFO_OK ? args->cu_seqlens.shape[0] - 1 : 0;
    } else if (args->logps.ndim != 2) {
        return pfo_fail(error, PFO_ERROR_SHAPE, "logps", -1, "expected [batch, tokens], got %d axes",
                        (int)args->logps.ndim);
    } else {
        *sequences = args->logps.shape[0];
    }
    if (status == PFO_OK) status = check_mask(args, error);
    if (status == PFO_OK) status = check_normalizer(args, *sequences, error);
    if (status == PFO_OK) status = pfo_check_array(&args->out, "out", PFO_SET_FLOAT, error);
    if (status != PFO_OK) return status;
    if (args->out.ndim != 1 || args->out.shape[0] != *sequences)
        return pfo_fail(error, PFO_ERROR_SHAPE, "out", -1, "expected shape (%lld,)", (long long)*sequences);
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

pfo_status pfo_check_sequence_logps(const pfo_sequence_logps_args *args, int transpose, int64_t *sequences,
                                    pfo_error *error)
{
    pfo_status status = check_inputs(args, sequences, error);
    if (status != PFO_OK) return status;
    if (transpose) return check_written(&args->logps, "grad_logps", &args->out, "grad_out", args, error);
    status = pfo_check_dtype_is(&args->out, "out", args->logps.dtype, error);
    if (status == PFO_OK) status = check_written(&args->out, "out", &args->logps, "logps", args, error);
    return status;
}
