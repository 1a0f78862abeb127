/* sequence_logps with its gradient, kto_kl, and the rewards of a convention. */
#include "../core/dtype.h"
#include "handlers.h"
#include "table.h"

/* ---- sequence_logps ---------------------------------------------------------------------------------------------- */

typedef struct sequence_call {
    const pfo_ffi_table *table;
    pfo_sequence_logps_args args;
    int64_t average;
} sequence_call;

static pfo_status run_sequence_logps(void *call, pfo_error *error)
{
    sequence_call *c = call;
    c->args.average = c->average != 0;
    return pfo_sequence_logps(&c->args, error);
}

static pfo_status run_sequence_logps_grad(void *call, pfo_error *error)
{
    sequence_call *c = call;
    c->args.average = c->average != 0;
    return pfo_sequence_logps_grad(&c->args, error);
}

static const pfo_ffi_number sequence_numbers[] = {PFO_FFI_INTEGER_OF(sequence_call, "average", average), PFO_FFI_END};

#define SEQUENCE_INPUTS                                                 \
    PFO_FFI_WHOLE_OF(sequence_call, "mask", args.mask),                 \
        PFO_FFI_WHOLE_OF(sequence_call, "cu_seqlens", args.cu_seqlens), \
        PFO_FFI_WHOLE_OF(sequence_call, "normalizer", args.normalizer)

XLA_FFI_Error *pfo_ffi_sequence_logps(XLA_FFI_CallFrame *frame)
{
    static const pfo_ffi_array inputs[] = {PFO_FFI_WHOLE_OF(sequence_call, "logps", args.logps), SEQUENCE_INPUTS,
                                           PFO_FFI_END};
    static const pfo_ffi_array outputs[] = {PFO_FFI_WHOLE_OF(sequence_call, "sums", args.out), PFO_FFI_END};
    static const pfo_ffi_table table = {"sequence_logps", inputs, outputs, sequence_numbers, run_sequence_logps};
    sequence_call call = {.table = &table};
    return pfo_ffi_handle(frame, &call);
}

/* The op's own arguments are those of the forward, read and written the other way round. */
XLA_FFI_Error *pfo_ffi_sequence_logps_grad(XLA_FFI_CallFrame *frame)
{
    static const pfo_ffi_array inputs[] = {PFO_FFI_WHOLE_OF(sequence_call, "grad_sums", args.out), SEQUENCE_INPUTS,
                                           PFO_FFI_END};
    static const pfo_ffi_array outputs[] = {PFO_FFI_WHOLE_OF(sequence_call, "grad_logps", args.logps), PFO_FFI_END};
    static const pfo_ffi_table table = {"sequence_logps", inputs, outputs, sequence_numbers, run_sequence_logps_grad};
    sequence_call call = {.table = &table};
    return pfo_ffi_handle(frame, &call);
}

/* ---- kto_kl ------------------------------------------------------------------------------------------------------ */

typedef struct kl_call {
    const pfo_ffi_table *table;
    pfo_view policy, ref, state, kl; /* state: [2] any float dtype */
} kl_call;

static pfo_status run_kto_kl(void *call, pfo_error *error)
{
    const kl_call *c = call;
    const pfo_fpenv saved = pfo_fpenv_enter();
    double state[2], kl = 0;
    for (int k = 0; k < 2 && pfo_present(&c->state); k++)
        state[k] = pfo_read_float((const char *)c->state.data + k * c->state.strides_bytes[0], c->state.dtype);
    const pfo_status status =
        pfo_kto_kl(pfo_present(&c->policy) ? &c->policy : NULL, pfo_present(&c->ref) ? &c->ref : NULL,
                   pfo_present(&c->state) ? state : NULL, &kl, error);
    if (status == PFO_OK) pfo_write_float(c->kl.data, c->kl.dtype, kl);
    pfo_fpenv_leave(saved);
    return status;
}

XLA_FFI_Error *pfo_ffi_kto_kl(XLA_FFI_CallFrame *frame)
{
    static const pfo_ffi_array inputs[] = {PFO_FFI_WHOLE_OF(kl_call, "policy_kl_logps", policy),
                                           PFO_FFI_WHOLE_OF(kl_call, "ref_kl_logps", ref),
                                           PFO_FFI_WHOLE_OF(kl_call, "state", state), PFO_FFI_END};
    static const pfo_ffi_array outputs[] = {PFO_FFI_WHOLE_OF(kl_call, "kl", kl), PFO_FFI_END};
    static const pfo_ffi_number numbers[] = {PFO_FFI_END};
    static const pfo_ffi_table table = {"kto_kl", inputs, outputs, numbers, run_kto_kl};
    kl_call call = {.table = &table};
    return pfo_ffi_handle(frame, &call);
}

/* ---- rewards as a project logs them ------------------------------------------------------------------------------ */

typedef struct rewards_call {
    const pfo_ffi_table *table;
    pfo_view rewards, lengths, scaled; /* [B]; lengths: integer or float, optional */
    double scale;
} rewards_call;

static double length_at(const pfo_view *lengths, int64_t index)
{
    const char *address = (const char *)lengths->data + index * lengths->strides_bytes[0];
    int fits;
    const double length = pfo_is_int(lengths->dtype) ? (double)pfo_read_int(address, lengths->dtype, &fits)
                                                     : pfo_read_float(address, lengths->dtype);
    return length > 1.0 ? length : 1.0;
}

/* scaled = rewards / (scale * max(lengths, 1)), in double, rounded once: as prefopt/_loss_call.py has it. */
static pfo_status run_scaled_rewards(void *call, pfo_error *error)
{
    (void)error;
    const rewards_call *c = call;
    const pfo_fpenv saved = pfo_fpenv_enter();
    for (int64_t i = 0; i < c->rewards.shape[0]; i++) {
        const int64_t offset = i * c->rewards.strides_bytes[0];
        const double divisor = pfo_present(&c->lengths) ? c->scale * length_at(&c->lengths, i) : c->scale;
        pfo_write_float((char *)c->scaled.data + offset, c->scaled.dtype,
                        pfo_read_float((const char *)c->rewards.data + offset, c->rewards.dtype) / divisor);
    }
    pfo_fpenv_leave(saved);
    return PFO_OK;
}

XLA_FFI_Error *pfo_ffi_scaled_rewards(XLA_FFI_CallFrame *frame)
{
    static const pfo_ffi_array inputs[] = {PFO_FFI_WHOLE_OF(rewards_call, "rewards", rewards),
                                           PFO_FFI_WHOLE_OF(rewards_call, "lengths", lengths), PFO_FFI_END};
    static const pfo_ffi_array outputs[] = {PFO_FFI_WHOLE_OF(rewards_call, "scaled", scaled), PFO_FFI_END};
    static const pfo_ffi_number numbers[] = {PFO_FFI_REAL_OF(rewards_call, "scale", scale), PFO_FFI_END};
    static const pfo_ffi_table table = {"loss", inputs, outputs, numbers, run_scaled_rewards};
    rewards_call call = {.table = &table, .scale = 1.0};
    return pfo_ffi_handle(frame, &call);
}
