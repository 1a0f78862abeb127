/* The one handler behind every table. */
#include "table.h"

static pfo_view *find_in(const pfo_ffi_array *arrays, char *args, XLA_FFI_ByteSpan name, enum pfo_ffi_kind *kind)
{
    for (; arrays->name; arrays++) {
        if (!pfo_ffi_is(name, arrays->name)) continue;
        *kind = arrays->kind;
        return (pfo_view *)(void *)(args + arrays->offset);
    }
    return NULL;
}

static const pfo_ffi_table *table_of(const void *args) { return *(const pfo_ffi_table *const *)args; }

static pfo_view *find_array(void *args, XLA_FFI_ByteSpan name, int is_output, enum pfo_ffi_kind *kind)
{
    const pfo_ffi_table *table = table_of(args);
    return find_in(is_output ? table->outputs : table->inputs, args, name, kind);
}

static pfo_status take_numbers(const XLA_FFI_CallFrame *frame, const pfo_ffi_number *numbers, char *args,
                               pfo_error *error)
{
    for (; numbers->name; numbers++) {
        void *place = args + numbers->offset;
        const int status = numbers->is_real ? pfo_ffi_real(frame, numbers->name, place, error)
                                            : pfo_ffi_integer(frame, numbers->name, place, error);
        if (status < 0) return error->status;
    }
    return PFO_OK;
}

XLA_FFI_Error *pfo_ffi_handle(XLA_FFI_CallFrame *frame, void *args)
{
    const pfo_ffi_table *table = table_of(args);
    XLA_FFI_Error *answer;
    if (pfo_ffi_answered(frame, &answer)) return answer;
    pfo_error error;
    pfo_clear(&error);
    /* XLA may run this on a Python thread whose last call forced a row (prefopt.using_isa). */
    pfo_status status = pfo_set_isa(NULL, &error);
    if (status == PFO_OK) status = take_numbers(frame, table->numbers, args, &error);
    if (status == PFO_OK) status = pfo_ffi_run_bound(frame, args, find_array, table->run, &error);
    return status == PFO_OK ? NULL : pfo_ffi_error(frame, table->function, &error);
}

pfo_ffi_lse pfo_ffi_begin_lse(pfo_view *lse, const pfo_view *exact)
{
    const pfo_ffi_lse both = {lse, exact, *lse};
    if (pfo_present(exact)) *lse = *exact;
    return both;
}

void pfo_ffi_end_lse(const pfo_ffi_lse *both, pfo_status status)
{
    if (!pfo_present(both->exact)) return;
    if (status == PFO_OK && pfo_present(&both->rounded)) pfo_ffi_round(both->exact, &both->rounded);
    *both->lse = both->rounded;
}
