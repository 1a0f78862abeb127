/* The ops for JAX: one XLA FFI handler each, plain C, no Python.
 *
 * A handler gets XLA's buffers and attributes.  The attributes "inputs" and "outputs" name the buffers in their order,
 * so that optional arrays are simply not there; every other attribute is a number of the op or text that it reads
 * itself.  Buffers become views, read and written in place: XLA's are contiguous and aligned.  What the op refuses
 * comes back as an XLA error with the op's own message.  Handlers run on XLA's threads, several at once; kernels start
 * OpenMP threads from there as from any other.
 *
 * vmap: jax.ffi's "expand_dims" puts an axis in front of every array, of size 1 where an array is not mapped.  The
 * attribute "rank" holds the number of axes that the first input has without.  Where every array has rows of its own
 * kind, mapped axes become more rows, an array of size 1 repeated by stride 0, and the op runs once.  Otherwise (a
 * head's gradient, a loss, whose batch is one whole) it runs once for each element. */
#ifndef PFO_JAX_FFI_H
#define PFO_JAX_FFI_H

#include "../core/core.h"
#include "xla_ffi.h"

typedef struct pfo_ffi_handler {
    const char *name; /* of the XLA target: "prefopt_" and the op */
    XLA_FFI_Handler *run;
} pfo_ffi_handler;

/* handlers.c: the list that Python registers; a NULL name ends it. */
extern const pfo_ffi_handler pfo_ffi_handlers[];

/* The handler for platforms without kernels: says so when it is run. */
XLA_FFI_Error *pfo_ffi_refuse_platform(XLA_FFI_CallFrame *frame);

/* ---- frame.c: what XLA hands over -------------------------------------------------------------------------------- */

/* Answers a call for metadata or refuses one that is not for us; 1 if the handler is then done, with *error. */
int pfo_ffi_answered(XLA_FFI_CallFrame *frame, XLA_FFI_Error **error);

/* An attribute by name: its text, its doubles, one number.  Absent: 0 (text of no characters, no doubles, the number
 * unchanged).  -1 with the record filled if it has another type. */
int pfo_ffi_text(const XLA_FFI_CallFrame *frame, const char *name, XLA_FFI_ByteSpan *text, pfo_error *error);
int pfo_ffi_doubles(const XLA_FFI_CallFrame *frame, const char *name, const double **values, int64_t *count,
                    pfo_error *error);
int pfo_ffi_real(const XLA_FFI_CallFrame *frame, const char *name, double *value, pfo_error *error);
int pfo_ffi_integer(const XLA_FFI_CallFrame *frame, const char *name, int64_t *value, pfo_error *error);

/* Cuts the next word off text, 0 at its end. */
int pfo_ffi_next_word(XLA_FFI_ByteSpan *text, XLA_FFI_ByteSpan *word);
int pfo_ffi_is(XLA_FFI_ByteSpan word, const char *name);

/* What went wrong as an XLA error: "prefopt.jax.<function>: <message>". */
XLA_FFI_Error *pfo_ffi_error(const XLA_FFI_CallFrame *frame, const char *function, const pfo_error *error);

/* ---- buffers.c: buffers to the op's views ------------------------------------------------------------------------ */

enum pfo_ffi_kind {
    PFO_FFI_WHOLE, /* no axis of rows: a head, a batch of losses */
    PFO_FFI_ROWS,  /* leading axes are rows */
    PFO_FFI_WORDS  /* [..., 2] uint32 that hold [...] doubles, rows: JAX without x64 has no float64 */
};

/* What an op does with a named array: the view to fill, NULL for an unknown name. */
typedef pfo_view *(*pfo_ffi_find)(void *args, XLA_FFI_ByteSpan name, int is_output, enum pfo_ffi_kind *kind);
typedef pfo_status (*pfo_ffi_run)(void *args, pfo_error *error);

/* Binds every buffer of the frame through `find` and runs the op once, or once for each mapped element. */
pfo_status pfo_ffi_run_bound(const XLA_FFI_CallFrame *frame, void *args, pfo_ffi_find find, pfo_ffi_run run,
                             pfo_error *error);

/* For an output in a narrower dtype than the op writes: replaces *view by scratch of `dtype`, to be rounded back. */
pfo_status pfo_ffi_widen(pfo_view *view, int32_t dtype, pfo_view *narrow, pfo_error *error);
/* Rounds (or cuts int64 to int32) wide into narrow, both contiguous and of one size. */
void pfo_ffi_round(const pfo_view *wide, const pfo_view *narrow);

#endif
