/* Handlers made of a table: an op's arrays and numbers by name, and where its arguments have them. */
#ifndef PFO_JAX_TABLE_H
#define PFO_JAX_TABLE_H

#include <stddef.h>

#include "../ops/views.h"
#include "ffi.h"

typedef struct pfo_ffi_array {
    const char *name;
    size_t offset; /* of its view in the arguments */
    enum pfo_ffi_kind kind;
} pfo_ffi_array;

typedef struct pfo_ffi_number {
    const char *name;
    size_t offset; /* of a double or an int64_t in the arguments */
    int is_real;
} pfo_ffi_number;

/* A NULL name ends each list.  The arguments of an op begin with a pointer to its table. */
typedef struct pfo_ffi_table {
    const char *function; /* of prefopt.jax, for messages */
    const pfo_ffi_array *inputs, *outputs;
    const pfo_ffi_number *numbers;
    pfo_ffi_run run;
} pfo_ffi_table;

#define PFO_FFI_ROWS_OF(type, name, member) {name, offsetof(type, member), PFO_FFI_ROWS}
#define PFO_FFI_WHOLE_OF(type, name, member) {name, offsetof(type, member), PFO_FFI_WHOLE}
#define PFO_FFI_WORDS_OF(type, name, member) {name, offsetof(type, member), PFO_FFI_WORDS}
#define PFO_FFI_REAL_OF(type, name, member) {name, offsetof(type, member), 1}
#define PFO_FFI_INTEGER_OF(type, name, member) {name, offsetof(type, member), 0}
#define PFO_FFI_END {NULL, 0, 0}

/* Answers the frame with the op of the table that args begins with; args holds the op's defaults. */
XLA_FFI_Error *pfo_ffi_handle(XLA_FFI_CallFrame *frame, void *args);

/* An lse asked for in double beside the caller's float32: the op writes the double one, the other is that rounded.
 * begin puts `exact` in place of *lse where it is bound; end rounds, and leaves *lse as it was for the next element. */
typedef struct pfo_ffi_lse {
    pfo_view *lse;
    const pfo_view *exact;
    pfo_view rounded;
} pfo_ffi_lse;
pfo_ffi_lse pfo_ffi_begin_lse(pfo_view *lse, const pfo_view *exact);
void pfo_ffi_end_lse(const pfo_ffi_lse *both, pfo_status status);

#endif
