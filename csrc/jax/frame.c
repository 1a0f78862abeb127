/* The call frame of XLA: versions, attributes, errors. */
#include <stdio.h>
#include <string.h>

#include "ffi.h"

/* Later minor versions add to the interface; what is used here was in this one, the oldest that XLA takes. */
enum {
    MINOR_VERSION = 1
};

/* ---- errors ------------------------------------------------------------------------------------------------------ */

static XLA_FFI_Error *make_error(const XLA_FFI_CallFrame *frame, XLA_FFI_Error_Code code, const char *message)
{
    XLA_FFI_Error_Create_Args args = {
        .struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE, .message = message, .errc = code};
    return frame->api->XLA_FFI_Error_Create(&args);
}

static XLA_FFI_Error_Code code_of(pfo_status status)
{
    switch (status) {
    case PFO_ERROR_MEMORY: return XLA_FFI_Error_Code_RESOURCE_EXHAUSTED;
    case PFO_ERROR_ISA:
    case PFO_ERROR_DEVICE: return XLA_FFI_Error_Code_FAILED_PRECONDITION;
    case PFO_OK:
    case PFO_ERROR_DTYPE:
    case PFO_ERROR_SHAPE:
    case PFO_ERROR_STRIDE:
    case PFO_ERROR_LABEL:
    case PFO_ERROR_VALUE:
    case PFO_ERROR_OVERLAP:
    case PFO_ERROR_MISSING:
    default: return XLA_FFI_Error_Code_INVALID_ARGUMENT;
    }
}

XLA_FFI_Error *pfo_ffi_error(const XLA_FFI_CallFrame *frame, const char *function, const pfo_error *error)
{
    char message[sizeof error->message + 64];
    snprintf(message, sizeof message, "prefopt.jax.%s: %s", function, error->message);
    return make_error(frame, code_of(error->status), message);
}

/* ---- versions ---------------------------------------------------------------------------------------------------- */

static XLA_FFI_Metadata *wanted_metadata(const XLA_FFI_CallFrame *frame)
{
    for (XLA_FFI_Extension_Base *each = frame->extension_start; each; each = each->next)
        if (each->type == XLA_FFI_Extension_Metadata) return ((XLA_FFI_Metadata_Extension *)(void *)each)->metadata;
    return NULL;
}

int pfo_ffi_answered(XLA_FFI_CallFrame *frame, XLA_FFI_Error **error)
{
    *error = NULL;
    const int major = frame->api->api_version.major_version;
    if (major != XLA_FFI_API_MAJOR) {
        char message[160];
        snprintf(message, sizeof message,
                 "prefopt.jax: built for version %d of XLA's FFI, this jaxlib has %d; "
                 "install a prefopt or a jaxlib that match",
                 XLA_FFI_API_MAJOR, major);
        *error = make_error(frame, XLA_FFI_Error_Code_UNIMPLEMENTED, message);
        return 1;
    }
    XLA_FFI_Metadata *metadata = wanted_metadata(frame);
    if (metadata) {
        metadata->api_version.major_version = XLA_FFI_API_MAJOR;
        metadata->api_version.minor_version = MINOR_VERSION;
        metadata->traits = 0;
        return 1;
    }
    return frame->stage != XLA_FFI_ExecutionStage_EXECUTE;
}

XLA_FFI_Error *pfo_ffi_refuse_platform(XLA_FFI_CallFrame *frame)
{
    XLA_FFI_Error *error;
    if (pfo_ffi_answered(frame, &error)) return error;
    return make_error(frame, XLA_FFI_Error_Code_UNIMPLEMENTED,
                      "prefopt.jax: runs on the CPU only, there are no kernels for this device yet; "
                      "put the arrays on jax.devices(\"cpu\")[0], or compile under jax.default_device of it");
}

/* ---- attributes -------------------------------------------------------------------------------------------------- */

int pfo_ffi_is(XLA_FFI_ByteSpan word, const char *name)
{
    return strlen(name) == word.len && memcmp(word.ptr, name, word.len) == 0;
}

int pfo_ffi_next_word(XLA_FFI_ByteSpan *text, XLA_FFI_ByteSpan *word)
{
    while (text->len > 0 && *text->ptr == ' ') {
        text->ptr++;
        text->len--;
    }
    word->ptr = text->ptr;
    while (text->len > 0 && *text->ptr != ' ') {
        text->ptr++;
        text->len--;
    }
    word->len = (size_t)(text->ptr - word->ptr);
    return word->len > 0;
}

/* 1 and *attribute if it is there and of that type, 0 if absent, -1 with the record filled otherwise. */
static int find(const XLA_FFI_CallFrame *frame, const char *name, XLA_FFI_AttrType type, const void **attribute,
                pfo_error *error)
{
    const XLA_FFI_Attrs *attrs = &frame->attrs;
    for (int64_t k = 0; k < attrs->size; k++) {
        if (!pfo_ffi_is(*attrs->names[k], name)) continue;
        *attribute = attrs->attrs[k];
        if (attrs->types[k] == type) return 1;
        pfo_fail(error, PFO_ERROR_DTYPE, name, -1, "attribute of type %d, expected %d", (int)attrs->types[k],
                 (int)type);
        return -1;
    }
    return 0;
}

static int find_scalar(const XLA_FFI_CallFrame *frame, const char *name, XLA_FFI_DataType dtype, const void **value,
                       pfo_error *error)
{
    const void *attribute;
    const int found = find(frame, name, XLA_FFI_AttrType_SCALAR, &attribute, error);
    if (found <= 0) return found;
    const XLA_FFI_Scalar *scalar = attribute;
    *value = scalar->value;
    if (scalar->dtype == dtype) return 1;
    pfo_fail(error, PFO_ERROR_DTYPE, name, -1, "number of dtype %d, expected %d", (int)scalar->dtype, (int)dtype);
    return -1;
}

int pfo_ffi_text(const XLA_FFI_CallFrame *frame, const char *name, XLA_FFI_ByteSpan *text, pfo_error *error)
{
    const void *attribute;
    *text = (XLA_FFI_ByteSpan){"", 0};
    const int found = find(frame, name, XLA_FFI_AttrType_STRING, &attribute, error);
    if (found > 0) *text = *(const XLA_FFI_ByteSpan *)attribute;
    return found < 0 ? -1 : 0;
}

int pfo_ffi_doubles(const XLA_FFI_CallFrame *frame, const char *name, const double **values, int64_t *count,
                    pfo_error *error)
{
    const void *attribute;
    *values = NULL;
    *count = 0;
    const int found = find(frame, name, XLA_FFI_AttrType_ARRAY, &attribute, error);
    if (found <= 0) return found;
    const XLA_FFI_Array *array = attribute;
    *values = array->data;
    *count = (int64_t)array->size;
    if (array->dtype == XLA_FFI_DataType_F64) return 0;
    pfo_fail(error, PFO_ERROR_DTYPE, name, -1, "expected float64 numbers");
    return -1;
}

int pfo_ffi_real(const XLA_FFI_CallFrame *frame, const char *name, double *value, pfo_error *error)
{
    const void *stored;
    const int found = find_scalar(frame, name, XLA_FFI_DataType_F64, &stored, error);
    if (found > 0) memcpy(value, stored, sizeof *value);
    return found < 0 ? -1 : 0;
}

int pfo_ffi_integer(const XLA_FFI_CallFrame *frame, const char *name, int64_t *value, pfo_error *error)
{
    const void *stored;
    const int found = find_scalar(frame, name, XLA_FFI_DataType_S64, &stored, error);
    if (found > 0) memcpy(value, stored, sizeof *value);
    return found < 0 ? -1 : 0;
}
