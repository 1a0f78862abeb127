/* exp and log over arrays, through the current row: what the kernels use, reachable for tests. */
#include "../core/row_state.h"
#include "../isa/isa_list.h"
#include "views.h"

static pfo_status check_pair(const pfo_view *in, const pfo_view *out, pfo_error *error)
{
    pfo_status status = pfo_check_array(in, "in", PFO_SET_FLOAT, error);
    if (status == PFO_OK) status = pfo_check_array(out, "out", PFO_SET_FLOAT, error);
    if (status == PFO_OK) status = pfo_check_dtype_is(out, "out", in->dtype, error);
    if (status == PFO_OK) status = pfo_check_leading(out, "out", in, 0, "in", error);
    if (status != PFO_OK) return status;
    const int64_t size = pfo_dtype_size(in->dtype);
    if (in->ndim != 1 || (in->shape[0] > 1 && (in->strides_bytes[0] != size || out->strides_bytes[0] != size)))
        return pfo_fail(error, PFO_ERROR_STRIDE, "in", -1, "expected contiguous one-dimensional arrays");
    return pfo_same_view(in, out) ? PFO_OK : pfo_check_disjoint(out, "out", in, "in", error);
}

pfo_status pfo_vmath_exp(const pfo_view *in, const pfo_view *out, pfo_error *error)
{
    pfo_clear(error);
    pfo_status status = check_pair(in, out, error);
    if (status != PFO_OK) return status;
    const pfo_kernels *kernels = pfo_kernels_now(error);
    if (!kernels) return PFO_ERROR_ISA;
    pfo_fpenv saved = pfo_fpenv_enter();
    if (in->dtype == PFO_F32)
        kernels->exp_f32((const float *)in->data, (float *)out->data, in->shape[0]);
    else
        kernels->exp_f64((const double *)in->data, (double *)out->data, in->shape[0]);
    pfo_fpenv_leave(saved);
    return PFO_OK;
}

pfo_status pfo_vmath_log(const pfo_view *in, const pfo_view *out, pfo_error *error)
{
    pfo_clear(error);
    pfo_status status = pfo_check_dtype_is(in, "in", PFO_F64, error);
    if (status == PFO_OK) status = check_pair(in, out, error);
    if (status != PFO_OK) return status;
    pfo_fpenv saved = pfo_fpenv_enter();
    for (int64_t i = 0; i < in->shape[0]; i++) ((double *)out->data)[i] = pfo_log_f64(((const double *)in->data)[i]);
    pfo_fpenv_leave(saved);
    return PFO_OK;
}
