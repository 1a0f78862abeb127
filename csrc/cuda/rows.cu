/* Views as rows: which two axes the leading ones of all arrays can be seen as. */
#include "rows.cuh"

namespace pfo
{

/* The step of axes [first, end) of a view taken as one; false if they do not step as one. */
static bool step_of(const pfo_view *view, int first, int end, int64_t *step)
{
    int64_t span = 0; /* elements of the axes merged so far; 0: none yet */
    *step = 0;
    for (int axis = end - 1; axis >= first; axis--) {
        const int64_t size = view->shape[axis], stride = view->strides_bytes[axis];
        if (size == 1) continue;
        if (span == 0)
            *step = stride;
        else if (stride != *step * span)
            return false;
        span = span == 0 ? size : span * size;
    }
    return true;
}

static bool splits_at(const RowView *views, int count, int split)
{
    int64_t step;
    for (int k = 0; k < count; k++) {
        const pfo_view *view = views[k].view;
        if (!pfo_present(view)) continue;
        if (!step_of(view, 0, split, &step) || !step_of(view, split, view->ndim - views[k].trailing, &step))
            return false;
    }
    return true;
}

static int64_t elements(const pfo_view *view, int first, int end)
{
    int64_t total = 1;
    for (int axis = first; axis < end; axis++) total *= view->shape[axis];
    return total;
}

pfo_status split_rows(const RowView *views, int count, Rows *rows, pfo_error *error)
{
    const pfo_view *first = views[0].view;
    const int axes = first->ndim - views[0].trailing;
    if (pfo_leading_size(first, views[0].trailing) > INT32_MAX)
        return pfo_fail(error, PFO_ERROR_SHAPE, "labels", -1, "expected fewer than 2^31 rows");
    int split = 0;
    while (split < axes && !splits_at(views, count, split)) split++;
    if (!splits_at(views, count, split))
        return pfo_fail(error, PFO_ERROR_STRIDE, "logits", -1,
                        "expected leading axes that step as two at most: make a contiguous copy");
    *rows = {unsigned(elements(first, 0, axes)), unsigned(elements(first, split, axes))};
    for (int k = 0; k < count; k++) {
        const pfo_view *view = views[k].view;
        RowArray *out = views[k].out;
        *out = {};
        if (!pfo_present(view)) continue;
        out->data = static_cast<char *>(view->data);
        out->dtype = view->dtype;
        step_of(view, 0, split, &out->strides[0]);
        step_of(view, split, view->ndim - views[k].trailing, &out->strides[1]);
    }
    return PFO_OK;
}

pfo_status vocab_of(const pfo_view *logits, const char *name, int *vocab, pfo_error *error)
{
    const int64_t size = logits->shape[logits->ndim - 1];
    if (size > INT32_MAX)
        return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected fewer than 2^31 vocabulary entries, got %lld",
                        (long long)size);
    *vocab = int(size);
    return PFO_OK;
}

} // namespace pfo
