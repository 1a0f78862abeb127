/* View constructors, walking, and the checks that every op makes before it writes. */
#include "views.h"

#include <stdio.h>
#include <string.h>

#include "../core/dtype.h"

pfo_view pfo_view_none(void)
{
    pfo_view view;
    memset(&view, 0, sizeof view);
    return view;
}

pfo_view pfo_view_3d(void *data, pfo_dtype dtype, int64_t outer, int64_t rows, int64_t columns)
{
    pfo_view view = pfo_view_none();
    int64_t size = pfo_dtype_size(dtype);
    view.data = data;
    view.dtype = dtype;
    view.ndim = 3;
    view.shape[0] = outer;
    view.shape[1] = rows;
    view.shape[2] = columns;
    view.strides_bytes[0] = rows * columns * size;
    view.strides_bytes[1] = columns * size;
    view.strides_bytes[2] = size;
    return view;
}

pfo_view pfo_view_2d(void *data, pfo_dtype dtype, int64_t rows, int64_t columns)
{
    pfo_view view = pfo_view_none();
    view.data = data;
    view.dtype = dtype;
    view.ndim = 2;
    view.shape[0] = rows;
    view.shape[1] = columns;
    view.strides_bytes[0] = columns * pfo_dtype_size(dtype);
    view.strides_bytes[1] = pfo_dtype_size(dtype);
    return view;
}

pfo_view pfo_view_1d(void *data, pfo_dtype dtype, int64_t size)
{
    pfo_view view = pfo_view_none();
    view.data = data;
    view.dtype = dtype;
    view.ndim = 1;
    view.shape[0] = size;
    view.strides_bytes[0] = pfo_dtype_size(dtype);
    return view;
}

pfo_walk pfo_walk_leading(const pfo_view *view, int32_t trailing)
{
    pfo_walk walk;
    walk.base = (char *)view->data;
    walk.ndim = 0;
    for (int32_t axis = 0; axis < view->ndim - trailing; axis++) {
        int64_t size = view->shape[axis], stride = view->strides_bytes[axis];
        if (size == 1) continue;
        if (walk.ndim > 0 && walk.strides_bytes[walk.ndim - 1] == size * stride) {
            walk.shape[walk.ndim - 1] *= size;
            walk.strides_bytes[walk.ndim - 1] = stride;
            continue;
        }
        walk.shape[walk.ndim] = size;
        walk.strides_bytes[walk.ndim++] = stride;
    }
    return walk;
}

char *pfo_walk_slow(const pfo_walk *walk, int64_t index)
{
    char *address = walk->base;
    for (int32_t axis = walk->ndim - 1; axis >= 0; axis--) {
        address += (index % walk->shape[axis]) * walk->strides_bytes[axis];
        index /= walk->shape[axis];
    }
    return address;
}

int64_t pfo_leading_size(const pfo_view *view, int32_t trailing)
{
    int64_t total = 1;
    for (int32_t axis = 0; axis < view->ndim - trailing; axis++)
        if (view->shape[axis] == 0) return 0;
    for (int32_t axis = 0; axis < view->ndim - trailing; axis++) {
        total = pfo_mul_size(total, view->shape[axis]);
        if (total < 0) return -1;
    }
    return total;
}

/* First and one-past-last byte that the view reaches, or 0 if it is empty or does not fit the address space. */
static int memory_range(const pfo_view *view, uintptr_t *low, uintptr_t *high)
{
    int64_t below = 0, above = pfo_dtype_size(view->dtype);
    for (int32_t axis = 0; axis < view->ndim; axis++) {
        int64_t steps = view->shape[axis] - 1;
        if (steps < 0) return 0;
        int64_t stride = view->strides_bytes[axis];
        int64_t reach = pfo_mul_size(steps, stride < 0 ? -stride : stride);
        if (reach < 0 || reach > INT64_MAX / 4 - above || reach > INT64_MAX / 4 - below) return 0;
        if (stride < 0)
            below += reach;
        else
            above += reach;
    }
    *low = (uintptr_t)view->data - (uintptr_t)below;
    *high = (uintptr_t)view->data + (uintptr_t)above;
    return 1;
}

static int dtype_in(int32_t dtype, int sets)
{
    if ((sets & PFO_SET_LOGITS) && dtype >= PFO_F16 && dtype <= PFO_F64) return 1;
    if ((sets & PFO_SET_FLOAT) && (dtype == PFO_F32 || dtype == PFO_F64)) return 1;
    if ((sets & PFO_SET_INTEGER) && pfo_is_int(dtype)) return 1;
    if ((sets & PFO_SET_BOOL) && dtype == PFO_BOOL) return 1;
    if ((sets & PFO_SET_INDEX) && (dtype == PFO_I32 || dtype == PFO_I64)) return 1;
    return 0;
}

static const char *describe_sets(int sets)
{
    switch (sets) {
    case PFO_SET_LOGITS: return "float16, bfloat16, float32 or float64";
    case PFO_SET_FLOAT: return "float32 or float64";
    case PFO_SET_INTEGER: return "an integer dtype";
    case PFO_SET_BOOL: return "bool";
    case PFO_SET_INDEX: return "int32 or int64";
    case PFO_SET_BOOL | PFO_SET_FLOAT: return "bool, float32 or float64";
    default: return "another dtype";
    }
}

pfo_status pfo_check_array(const pfo_view *view, const char *name, int sets, pfo_error *error)
{
    if (!pfo_present(view)) return pfo_fail(error, PFO_ERROR_MISSING, name, -1, "expected an array, got none");
    if (!dtype_in(view->dtype, sets))
        return pfo_fail(error, PFO_ERROR_DTYPE, name, -1, "expected %s, got %s", describe_sets(sets),
                        pfo_dtype_name(view->dtype));
    if (view->ndim < 0 || view->ndim > PFO_MAX_NDIM)
        return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected at most %d axes, got %d", PFO_MAX_NDIM,
                        (int)view->ndim);
    int64_t size = pfo_dtype_size(view->dtype), misaligned = (int64_t)((uintptr_t)view->data % (uintptr_t)size);
    int empty = 0;
    for (int32_t axis = 0; axis < view->ndim; axis++) {
        if (view->shape[axis] < 0)
            return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected sizes >= 0, got %lld on axis %d",
                            (long long)view->shape[axis], (int)axis);
        if (view->shape[axis] == 0) empty = 1;
        if (view->shape[axis] > 1) misaligned |= view->strides_bytes[axis] % size;
    }
    if (empty) return PFO_OK;
    if (misaligned)
        return pfo_fail(error, PFO_ERROR_STRIDE, name, -1, "expected elements aligned to %lld bytes", (long long)size);
    int64_t elements = pfo_leading_size(view, 0);
    uintptr_t low, high;
    if (elements < 0 || pfo_mul_size(elements, size) < 0 || !memory_range(view, &low, &high))
        return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "the product of its sizes overflows 64 bits");
    if (!view->data) return pfo_fail(error, PFO_ERROR_MISSING, name, -1, "expected data, got a NULL pointer");
    return PFO_OK;
}

static void format_shape(char *text, size_t room, const pfo_view *view, int32_t trailing)
{
    size_t used = 0;
    int32_t axes = view->ndim - trailing;
    used += (size_t)snprintf(text, room, "(");
    for (int32_t axis = 0; axis < axes && used + 24 < room; axis++)
        used += (size_t)snprintf(text + used, room - used, "%s%lld", axis ? ", " : "", (long long)view->shape[axis]);
    snprintf(text + used, room - used, axes == 1 ? ",)" : ")");
}

pfo_status pfo_check_leading(const pfo_view *view, const char *name, const pfo_view *like, int32_t trailing,
                             const char *like_name, pfo_error *error)
{
    int same = view->ndim == like->ndim - trailing;
    for (int32_t axis = 0; same && axis < view->ndim; axis++) same = view->shape[axis] == like->shape[axis];
    if (same) return PFO_OK;
    char expected[128], got[128];
    format_shape(expected, sizeof expected, like, trailing);
    format_shape(got, sizeof got, view, 0);
    return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected shape %s%s%s, got %s", expected,
                    trailing ? ", the leading axes of " : ", that of ", like_name, got);
}

pfo_status pfo_check_dtype_is(const pfo_view *view, const char *name, int32_t dtype, pfo_error *error)
{
    if (view->dtype == dtype) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_DTYPE, name, -1, "expected %s, got %s", pfo_dtype_name(dtype),
                    pfo_dtype_name(view->dtype));
}

pfo_status pfo_check_writable_strides(const pfo_view *view, const char *name, pfo_error *error)
{
    /* Axes from the smallest step up: each step must clear everything that the smaller ones reach. */
    int32_t order[PFO_MAX_NDIM], axes = 0;
    for (int32_t axis = 0; axis < view->ndim; axis++) {
        if (view->shape[axis] == 0) return PFO_OK;
        if (view->shape[axis] > 1) order[axes++] = axis;
    }
    int64_t reach = pfo_dtype_size(view->dtype);
    for (int32_t i = 0; i < axes; i++) {
        int32_t best = i;
        for (int32_t j = i + 1; j < axes; j++) {
            int64_t a = view->strides_bytes[order[j]], b = view->strides_bytes[order[best]];
            if ((a < 0 ? -a : a) < (b < 0 ? -b : b)) best = j;
        }
        int32_t axis = order[best];
        order[best] = order[i];
        int64_t step = view->strides_bytes[axis] < 0 ? -view->strides_bytes[axis] : view->strides_bytes[axis];
        if (step < reach)
            return pfo_fail(error, PFO_ERROR_STRIDE, name, -1,
                            "expected an output whose elements do not overlap, got stride %lld on axis %d",
                            (long long)view->strides_bytes[axis], (int)axis);
        reach += step * (view->shape[axis] - 1);
    }
    return PFO_OK;
}

pfo_status pfo_check_contiguous(const pfo_view *view, const char *name, pfo_error *error)
{
    for (int32_t axis = 0; axis < view->ndim; axis++)
        if (view->shape[axis] == 0) return PFO_OK; /* strides of no elements mean nothing */
    int64_t step = pfo_dtype_size(view->dtype);
    for (int32_t axis = view->ndim - 1; axis >= 0; axis--) {
        if (view->shape[axis] > 1 && view->strides_bytes[axis] != step)
            return pfo_fail(error, PFO_ERROR_STRIDE, name, -1,
                            "expected a C-contiguous array, got stride %lld on axis %d",
                            (long long)view->strides_bytes[axis], (int)axis);
        step *= view->shape[axis];
    }
    return PFO_OK;
}

pfo_status pfo_check_disjoint(const pfo_view *out, const char *name, const pfo_view *other, const char *other_name,
                              pfo_error *error)
{
    uintptr_t low, high, other_low, other_high;
    if (!pfo_present(other) || !memory_range(out, &low, &high) || !memory_range(other, &other_low, &other_high))
        return PFO_OK;
    if (high <= other_low || other_high <= low) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_OVERLAP, name, -1, "the range of memory it spans overlaps that of %s", other_name);
}

int pfo_same_view(const pfo_view *a, const pfo_view *b)
{
    if (a->data != b->data || a->dtype != b->dtype || a->ndim != b->ndim) return 0;
    for (int32_t axis = 0; axis < a->ndim; axis++) {
        if (a->shape[axis] != b->shape[axis]) return 0;
        if (a->shape[axis] > 1 && a->strides_bytes[axis] != b->strides_bytes[axis]) return 0;
    }
    return 1;
}

pfo_status pfo_check_temperature(double value, pfo_error *error)
{
    if (value >= 1e-30 && value <= 1e30) return PFO_OK; /* false for NaN */
    return pfo_fail(error, PFO_ERROR_VALUE, "temperature", -1, "expected a number from 1e-30 to 1e30, got %g", value);
}

pfo_status pfo_check_logits(const pfo_view *logits, const char *name, pfo_error *error)
{
    pfo_status status = pfo_check_array(logits, name, PFO_SET_LOGITS, error);
    if (status != PFO_OK) return status;
    if (logits->ndim < 1) return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected [..., vocab], got a scalar");
    int32_t last = logits->ndim - 1;
    if (logits->shape[last] < 1)
        return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected a vocabulary of 1 or more, got 0");
    if (logits->shape[last] > 1 && pfo_leading_size(logits, 1) > 0 && /* strides of no rows mean nothing */
        logits->strides_bytes[last] != pfo_dtype_size(logits->dtype))
        return pfo_fail(error, PFO_ERROR_STRIDE, name, -1, "expected a contiguous last axis, got a step of %lld bytes",
                        (long long)logits->strides_bytes[last]);
    return PFO_OK;
}

static pfo_status fail_label(const char *address, int32_t dtype, int64_t row, int64_t ignore_index, int64_t vocab,
                             pfo_error *error)
{
    int fits;
    int64_t label = pfo_read_int(address, dtype, &fits);
    uint64_t magnitude = label < 0 ? 0 - (uint64_t)label : (uint64_t)label;
    if (!fits) memcpy(&magnitude, address, sizeof magnitude); /* a uint64 that no int64 holds */
    return pfo_fail(error, PFO_ERROR_LABEL, "labels", row,
                    "expected %lld (ignored) or 0 <= label < %lld, got %s%llu at index %lld", (long long)ignore_index,
                    (long long)vocab, fits && label < 0 ? "-" : "", (unsigned long long)magnitude, (long long)row);
}

pfo_status pfo_check_labels(const pfo_view *labels, const pfo_view *logits, const char *logits_name,
                            int64_t ignore_index, int64_t *live, pfo_error *error)
{
    pfo_status status = pfo_check_array(labels, "labels", PFO_SET_INTEGER, error);
    if (status == PFO_OK) status = pfo_check_leading(labels, "labels", logits, 1, logits_name, error);
    if (status != PFO_OK) return status;
    const int64_t vocab = logits->shape[logits->ndim - 1];
    const int64_t rows = pfo_leading_size(labels, 0);
    const pfo_walk walk = pfo_walk_leading(labels, 0);
    *live = 0;
    for (int64_t row = 0; row < rows; row++) {
        int fits;
        int64_t label = pfo_read_int(pfo_walk_at(&walk, row), labels->dtype, &fits);
        if (fits && label == ignore_index) continue;
        if (!fits || label < 0 || label >= vocab)
            return fail_label(pfo_walk_at(&walk, row), labels->dtype, row, ignore_index, vocab, error);
        ++*live;
    }
    return PFO_OK;
}
