/* The fused linear op: what is refused before anything is written. */
#include <math.h>
#include <string.h>

#include "../core/dtype.h"
#include "linear.h"

static pfo_status check_rows(const pfo_view *view, const char *name, int64_t rows, int64_t columns, int wide,
                             pfo_error *error)
{
    pfo_status status = pfo_check_array(view, name, PFO_SET_LOGITS, error);
    if (status != PFO_OK) return status;
    if ((view->dtype == PFO_F64) != wide)
        return pfo_fail(error, PFO_ERROR_DTYPE, name, -1, "expected %s as hidden, got %s",
                        wide ? "float64" : "float16, bfloat16 or float32", pfo_dtype_name(view->dtype));
    const int is_vector = columns < 0;
    if (view->ndim != (is_vector ? 1 : 2))
        return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected %d axes, got %d", is_vector ? 1 : 2,
                        (int)view->ndim);
    if ((rows >= 0 && view->shape[0] != rows) || (!is_vector && view->shape[1] != columns))
        return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected shape (%lld, %lld), got (%lld, %lld)",
                        (long long)(rows < 0 ? view->shape[0] : rows), (long long)(is_vector ? 1 : columns),
                        (long long)view->shape[0], (long long)(is_vector ? 1 : view->shape[1]));
    const int last = view->ndim - 1;
    if (view->shape[last] > 1 && pfo_leading_size(view, 1) > 0 &&
        view->strides_bytes[last] != pfo_dtype_size(view->dtype))
        return pfo_fail(error, PFO_ERROR_STRIDE, name, -1, "expected a contiguous last axis, got a step of %lld bytes",
                        (long long)view->strides_bytes[last]);
    return PFO_OK;
}

static pfo_status check_scalars(const pfo_linear_inputs *in, pfo_error *error)
{
    pfo_status status = pfo_check_temperature(in->temperature, error);
    if (status != PFO_OK) return status;
    if (!isfinite(in->logit_scale) || in->logit_scale == 0.0)
        return pfo_fail(error, PFO_ERROR_VALUE, "logit_scale", -1, "expected a finite number that is not 0, got %g",
                        in->logit_scale);
    if (!isfinite(in->softcap) || in->softcap < 0.0)
        return pfo_fail(error, PFO_ERROR_VALUE, "softcap", -1, "expected a finite number > 0, or none, got %g",
                        in->softcap);
    if (in->memory_limit < 0)
        return pfo_fail(error, PFO_ERROR_VALUE, "memory_limit", -1, "expected bytes > 0, or none, got %lld",
                        (long long)in->memory_limit);
    return PFO_OK;
}

static pfo_status check_parts(const pfo_linear_inputs *in, int wide, pfo_error *error)
{
    const int64_t hidden_size = in->hidden.shape[in->hidden.ndim - 1];
    pfo_status status = check_rows(&in->weight, "weight", -1, hidden_size, wide, error);
    if (status != PFO_OK) return status;
    const int64_t vocab = in->weight.shape[0];
    if (vocab < 1) return pfo_fail(error, PFO_ERROR_SHAPE, "weight", -1, "expected a vocabulary of 1 or more, got 0");
    if (pfo_present(&in->bias)) status = check_rows(&in->bias, "bias", vocab, -1, wide, error);
    if (status != PFO_OK) return status;
    if (pfo_present(&in->lora_a) != pfo_present(&in->lora_b))
        return pfo_fail(error, PFO_ERROR_MISSING, pfo_present(&in->lora_a) ? "lora_b" : "lora_a", -1,
                        "expected lora_a and lora_b, or neither");
    if (!pfo_present(&in->lora_a)) return PFO_OK;
    status = check_rows(&in->lora_a, "lora_a", -1, hidden_size, wide, error);
    if (status == PFO_OK) status = check_rows(&in->lora_b, "lora_b", vocab, in->lora_a.shape[0], wide, error);
    return status;
}

static pfo_status check_split(const pfo_linear_inputs *in, pfo_error *error)
{
    const int64_t vocab = in->weight.shape[0];
    if (in->vocab_total == 0 && in->vocab_start == 0) return PFO_OK;
    if (in->vocab_start < 0)
        return pfo_fail(error, PFO_ERROR_VALUE, "vocab_start", -1, "expected a vocabulary index >= 0, got %lld",
                        (long long)in->vocab_start);
    if (in->vocab_total < vocab || in->vocab_start > in->vocab_total - vocab)
        return pfo_fail(error, PFO_ERROR_VALUE, "vocab_total", -1,
                        "expected at least vocab_start + %lld entries of weight, got %lld", (long long)vocab,
                        (long long)in->vocab_total);
    return PFO_OK;
}

/* pfo_check_labels checks against the last axis of logits: here a view that has only a shape. */
static pfo_status check_labels(const pfo_linear_inputs *in, int64_t vocab_total, int64_t *live, pfo_error *error)
{
    pfo_view like = in->hidden;
    like.shape[like.ndim - 1] = vocab_total;
    return pfo_check_labels(&in->labels, &like, "hidden", in->ignore_index, live, error);
}

static pfo_status check_hidden(const pfo_linear_inputs *in, pfo_error *error)
{
    pfo_status status = pfo_check_array(&in->hidden, "hidden", PFO_SET_LOGITS, error);
    if (status != PFO_OK) return status;
    if (in->hidden.ndim < 1)
        return pfo_fail(error, PFO_ERROR_SHAPE, "hidden", -1, "expected [..., hidden], got a scalar");
    const int32_t last = in->hidden.ndim - 1;
    if (in->hidden.shape[last] < 1)
        return pfo_fail(error, PFO_ERROR_SHAPE, "hidden", -1, "expected a hidden size of 1 or more, got 0");
    if (in->hidden.shape[last] > 1 && pfo_leading_size(&in->hidden, 1) > 0 &&
        in->hidden.strides_bytes[last] != pfo_dtype_size(in->hidden.dtype))
        return pfo_fail(error, PFO_ERROR_STRIDE, "hidden", -1,
                        "expected a contiguous last axis, got a step of %lld bytes",
                        (long long)in->hidden.strides_bytes[last]);
    return PFO_OK;
}

pfo_status pfo_linear_check(pfo_linear *l, const pfo_linear_inputs *in, pfo_error *error)
{
    memset(l, 0, sizeof *l);
    pfo_status status = check_scalars(in, error);
    if (status == PFO_OK) status = check_hidden(in, error);
    l->wide = in->hidden.dtype == PFO_F64;
    if (status == PFO_OK) status = check_parts(in, l->wide, error);
    if (status == PFO_OK) status = check_split(in, error);
    if (status != PFO_OK) return status;
    l->vocab = in->weight.shape[0];
    l->vocab_start = in->vocab_start;
    l->vocab_total = in->vocab_total ? in->vocab_total : l->vocab;
    status = check_labels(in, l->vocab_total, &l->live, error);
    if (status != PFO_OK) return status;
    l->kernels = pfo_kernels_now(error);
    if (!l->kernels) return PFO_ERROR_ISA;
    l->real_size = l->wide ? 8 : 4;
    l->tokens = pfo_leading_size(&in->labels, 0);
    l->hidden_size = in->hidden.shape[in->hidden.ndim - 1];
    l->rank = pfo_present(&in->lora_a) ? in->lora_a.shape[0] : 0;
    l->scale = (pfo_linear_scale){in->logit_scale, in->softcap, in->temperature};
    l->has_transform = pfo_present(&in->bias) || in->logit_scale != 1.0 || in->softcap > 0.0 || in->temperature != 1.0;
    l->hidden = pfo_walk_leading(&in->hidden, 1);
    l->hidden_dtype = in->hidden.dtype;
    l->weight = &in->weight;
    l->bias = pfo_present(&in->bias) ? &in->bias : NULL;
    l->lora_a = l->rank > 0 ? &in->lora_a : NULL;
    l->lora_b = l->rank > 0 ? &in->lora_b : NULL;
    return PFO_OK;
}

pfo_status pfo_linear_live(const pfo_linear_inputs *in, int64_t *live, pfo_error *error)
{
    pfo_linear l;
    pfo_clear(error);
    const pfo_status status = pfo_linear_check(&l, in, error);
    if (status == PFO_OK) *live = l.live;
    return status;
}

/* ---- outputs --------------------------------------------------------------------------------------------------- */

static pfo_status check_apart(const pfo_linear_inputs *in, const pfo_view *out, const char *name, pfo_error *error)
{
    const pfo_view *inputs[] = {&in->hidden, &in->weight, &in->labels, &in->bias, &in->lora_a, &in->lora_b};
    static const char *const names[] = {"hidden", "weight", "labels", "bias", "lora_a", "lora_b"};
    for (int k = 0; k < 6; k++) {
        pfo_status status = pfo_check_disjoint(out, name, inputs[k], names[k], error);
        if (status != PFO_OK) return status;
    }
    return PFO_OK;
}

pfo_status pfo_linear_check_out(const pfo_linear_inputs *in, const pfo_view *out, const char *name, int32_t ndim,
                                const int64_t *shape, int32_t dtype, pfo_error *error)
{
    pfo_view like = pfo_view_none();
    like.ndim = ndim;
    memcpy(like.shape, shape, (size_t)ndim * sizeof shape[0]);
    const int sets = dtype == PFO_I64 ? PFO_SET_INTEGER : dtype == PFO_BOOL ? PFO_SET_BOOL : PFO_SET_FLOAT;
    pfo_status status = pfo_check_array(out, name, sets, error);
    if (status == PFO_OK) status = pfo_check_dtype_is(out, name, dtype, error);
    if (status == PFO_OK) status = pfo_check_leading(out, name, &like, 0, "the call", error);
    if (status == PFO_OK) status = pfo_check_contiguous(out, name, error);
    if (status == PFO_OK) status = check_apart(in, out, name, error);
    return status;
}

pfo_status pfo_linear_check_rows_out(const pfo_linear_inputs *in, const pfo_view *out, const char *name, int64_t last,
                                     int32_t dtype, pfo_error *error)
{
    int64_t shape[PFO_MAX_NDIM + 1];
    const int32_t axes = in->labels.ndim + (last >= 0);
    if (axes > PFO_MAX_NDIM)
        return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected at most %d axes", PFO_MAX_NDIM);
    memcpy(shape, in->labels.shape, (size_t)in->labels.ndim * sizeof shape[0]);
    if (last >= 0) shape[in->labels.ndim] = last;
    return pfo_linear_check_out(in, out, name, axes, shape, dtype, error);
}
