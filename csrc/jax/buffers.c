/* XLA's buffers as views: names, dtypes, and the axes that vmap puts in front. */
#include <stdlib.h>
#include <string.h>

#include "../core/dtype.h"
#include "ffi.h"

enum {
    MAX_BUFFERS = 48,
    MAX_MAPPED = 16 /* nested vmaps */
};

typedef struct bound_array {
    pfo_view *view; /* where the op looks */
    char *base;
    enum pfo_ffi_kind kind;
    int64_t mapped_steps[MAX_MAPPED]; /* bytes from one mapped element to the next, 0 where the axis has size 1 */
} bound_array;

typedef struct bound_frame {
    const XLA_FFI_CallFrame *frame;
    int32_t mapped; /* axes */
    int64_t mapped_shape[MAX_MAPPED];
    int64_t elements; /* product of mapped_shape */
    bound_array arrays[MAX_BUFFERS];
    int count;
    int runs_once; /* mapped axes are rows of every array */
} bound_frame;

static int32_t dtype_of(XLA_FFI_DataType dtype)
{
    static const int32_t dtypes[] = {
        [XLA_FFI_DataType_PRED] = PFO_BOOL, [XLA_FFI_DataType_S8] = PFO_I8,   [XLA_FFI_DataType_S16] = PFO_I16,
        [XLA_FFI_DataType_S32] = PFO_I32,   [XLA_FFI_DataType_S64] = PFO_I64, [XLA_FFI_DataType_U8] = PFO_U8,
        [XLA_FFI_DataType_U16] = PFO_U16,   [XLA_FFI_DataType_U32] = PFO_U32, [XLA_FFI_DataType_U64] = PFO_U64,
        [XLA_FFI_DataType_F16] = PFO_F16,   [XLA_FFI_DataType_F32] = PFO_F32, [XLA_FFI_DataType_F64] = PFO_F64,
        [XLA_FFI_DataType_BF16] = PFO_BF16,
    };
    const size_t index = (size_t)dtype;
    return index < sizeof dtypes / sizeof dtypes[0] ? dtypes[index] : PFO_NONE;
}

/* ---- one buffer -------------------------------------------------------------------------------------------------- */

/* A contiguous view of all axes of the buffer. */
static pfo_status view_of(const XLA_FFI_Buffer *buffer, const char *name, enum pfo_ffi_kind kind, pfo_view *view,
                          pfo_error *error)
{
    int64_t axes = buffer->rank;
    view->data = buffer->data;
    view->dtype = dtype_of(buffer->dtype);
    if (view->dtype == PFO_NONE)
        return pfo_fail(error, PFO_ERROR_DTYPE, name, -1, "XLA's dtype %d is not one of prefopt's", (int)buffer->dtype);
    if (kind == PFO_FFI_WORDS) {
        if (axes < 1 || view->dtype != PFO_U32 || buffer->dims[axes - 1] != 2)
            return pfo_fail(error, PFO_ERROR_DTYPE, name, -1, "expected pairs of uint32 words");
        view->dtype = PFO_F64;
        axes--;
    }
    if (axes > PFO_MAX_NDIM)
        return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected at most %d axes, got %lld", PFO_MAX_NDIM,
                        (long long)axes);
    view->ndim = (int32_t)axes;
    int64_t step = pfo_dtype_size(view->dtype);
    for (int32_t axis = view->ndim - 1; axis >= 0; axis--) {
        view->shape[axis] = buffer->dims[axis];
        view->strides_bytes[axis] = step;
        step *= buffer->dims[axis];
    }
    return PFO_OK;
}

/* Takes the mapped axes out of the array's view into mapped_steps. */
static pfo_status take_mapped(bound_frame *bound, bound_array *array, const char *name, pfo_error *error)
{
    pfo_view *view = array->view;
    if (view->ndim < bound->mapped)
        return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected %d mapped axes", (int)bound->mapped);
    for (int32_t axis = 0; axis < bound->mapped; axis++) {
        const int64_t size = view->shape[axis];
        array->mapped_steps[axis] = size == 1 ? 0 : view->strides_bytes[axis];
        if (size != 1 && size != bound->mapped_shape[axis])
            return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected %lld mapped elements, got %lld",
                            (long long)bound->mapped_shape[axis], (long long)size);
        if (array->kind == PFO_FFI_WHOLE && size != 1) bound->runs_once = 0;
    }
    view->ndim -= bound->mapped;
    memmove(view->shape, view->shape + bound->mapped, (size_t)view->ndim * sizeof view->shape[0]);
    memmove(view->strides_bytes, view->strides_bytes + bound->mapped,
            (size_t)view->ndim * sizeof view->strides_bytes[0]);
    return PFO_OK;
}

static pfo_status bind(bound_frame *bound, const XLA_FFI_Buffer *buffer, XLA_FFI_ByteSpan word, int is_output,
                       void *args, pfo_ffi_find find, pfo_error *error)
{
    bound_array *array = &bound->arrays[bound->count];
    char name[64] = {0};
    memcpy(name, word.ptr, word.len < sizeof name ? word.len : sizeof name - 1);
    array->view = find(args, word, is_output, &array->kind);
    if (!array->view) return pfo_fail(error, PFO_ERROR_VALUE, name, -1, "the op has no such array");
    pfo_status status = view_of(buffer, name, array->kind, array->view, error);
    if (status == PFO_OK) status = take_mapped(bound, array, name, error);
    array->base = array->view->data;
    bound->count++;
    return status;
}

/* ---- the frame --------------------------------------------------------------------------------------------------- */

/* Binds the inputs or the outputs, whose names are the words of `attribute`. */
static pfo_status bind_named(bound_frame *bound, const char *attribute, int is_output, void *args, pfo_ffi_find find,
                             pfo_error *error)
{
    const int64_t buffers = is_output ? bound->frame->rets.size : bound->frame->args.size;
    void *const *given = is_output ? bound->frame->rets.rets : bound->frame->args.args;
    XLA_FFI_ByteSpan names, word;
    if (pfo_ffi_text(bound->frame, attribute, &names, error) < 0) return PFO_ERROR_DTYPE;
    for (int64_t k = 0; k < buffers; k++) {
        if (!pfo_ffi_next_word(&names, &word) || bound->count == MAX_BUFFERS)
            return pfo_fail(error, PFO_ERROR_MISSING, attribute, -1, "expected a name for each of %lld buffers",
                            (long long)buffers);
        pfo_status status = bind(bound, given[k], word, is_output, args, find, error);
        if (status != PFO_OK) return status;
    }
    if (!pfo_ffi_next_word(&names, &word)) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_MISSING, attribute, -1, "more names than the %lld buffers", (long long)buffers);
}

/* The mapped axes are those that the first input has beyond `rank`; every output has them in full. */
static pfo_status take_mapped_shape(bound_frame *bound, pfo_error *error)
{
    const XLA_FFI_CallFrame *frame = bound->frame;
    int64_t rank = -1;
    if (pfo_ffi_integer(frame, "rank", &rank, error) < 0) return PFO_ERROR_DTYPE;
    if (frame->args.size < 1 || frame->rets.size < 1 || rank < 0)
        return pfo_fail(error, PFO_ERROR_MISSING, "rank", -1, "expected it, an input and an output");
    const XLA_FFI_Buffer *input = frame->args.args[0], *output = frame->rets.rets[0];
    const int64_t mapped = input->rank - rank;
    if (mapped < 0 || mapped > MAX_MAPPED || mapped > output->rank)
        return pfo_fail(error, PFO_ERROR_SHAPE, "rank", -1, "expected at most %d nested vmaps, got %lld", MAX_MAPPED,
                        (long long)mapped);
    bound->mapped = (int32_t)mapped;
    bound->elements = 1;
    for (int32_t axis = 0; axis < bound->mapped; axis++) {
        bound->mapped_shape[axis] = output->dims[axis];
        bound->elements *= output->dims[axis];
    }
    return PFO_OK;
}

/* Puts the mapped axes in front of every array that has rows. */
static void lead_with_mapped(const bound_frame *bound)
{
    const size_t mapped = (size_t)bound->mapped;
    for (int k = 0; k < bound->count; k++) {
        const bound_array *array = &bound->arrays[k];
        if (array->kind == PFO_FFI_WHOLE) continue;
        pfo_view *view = array->view;
        memmove(view->shape + mapped, view->shape, (size_t)view->ndim * sizeof view->shape[0]);
        memmove(view->strides_bytes + mapped, view->strides_bytes, (size_t)view->ndim * sizeof view->strides_bytes[0]);
        memcpy(view->shape, bound->mapped_shape, mapped * sizeof view->shape[0]);
        memcpy(view->strides_bytes, array->mapped_steps, mapped * sizeof view->strides_bytes[0]);
        view->ndim += bound->mapped;
    }
}

/* Points every array at mapped element `index`, counted in C order. */
static void point_at(const bound_frame *bound, int64_t index)
{
    for (int k = 0; k < bound->count; k++) {
        const bound_array *array = &bound->arrays[k];
        int64_t rest = index, offset = 0;
        for (int32_t axis = bound->mapped - 1; axis >= 0; axis--) {
            offset += rest % bound->mapped_shape[axis] * array->mapped_steps[axis];
            rest /= bound->mapped_shape[axis];
        }
        array->view->data = array->base + offset;
    }
}

pfo_status pfo_ffi_run_bound(const XLA_FFI_CallFrame *frame, void *args, pfo_ffi_find find, pfo_ffi_run run,
                             pfo_error *error)
{
    bound_frame bound;
    bound.frame = frame;
    bound.count = 0;
    bound.runs_once = 1;
    pfo_status status = take_mapped_shape(&bound, error);
    if (status == PFO_OK) status = bind_named(&bound, "inputs", 0, args, find, error);
    if (status == PFO_OK) status = bind_named(&bound, "outputs", 1, args, find, error);
    if (status != PFO_OK) return status;
    if (bound.runs_once) {
        lead_with_mapped(&bound);
        return run(args, error);
    }
    for (int64_t index = 0; status == PFO_OK && index < bound.elements; index++) {
        point_at(&bound, index);
        status = run(args, error);
    }
    return status;
}

/* ---- narrower outputs -------------------------------------------------------------------------------------------- */

static int64_t elements_of(const pfo_view *view)
{
    int64_t elements = 1;
    for (int32_t axis = 0; axis < view->ndim; axis++) elements *= view->shape[axis];
    return elements;
}

pfo_status pfo_ffi_widen(pfo_view *view, int32_t dtype, pfo_view *narrow, pfo_error *error)
{
    *narrow = *view;
    const int64_t size = pfo_dtype_size(dtype), ratio = size / pfo_dtype_size(view->dtype);
    const int64_t bytes = elements_of(view) * size;
    view->data = malloc(bytes > 0 ? (size_t)bytes : 1);
    if (!view->data)
        return pfo_fail(error, PFO_ERROR_MEMORY, "output", -1, "no memory for %lld bytes", (long long)bytes);
    view->dtype = dtype;
    for (int32_t axis = 0; axis < view->ndim; axis++) view->strides_bytes[axis] *= ratio;
    return PFO_OK;
}

void pfo_ffi_round(const pfo_view *wide, const pfo_view *narrow)
{
    const int64_t elements = elements_of(narrow);
    if (wide->dtype == PFO_I64) {
        const int64_t *from = wide->data;
        int32_t *to = narrow->data;
        for (int64_t k = 0; k < elements; k++) to[k] = (int32_t)from[k];
    } else {
        const double *from = wide->data;
        float *to = narrow->data;
        for (int64_t k = 0; k < elements; k++) to[k] = (float)from[k];
    }
}
