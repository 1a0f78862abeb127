/* linear_token_logps and its gradients. */
#include <stdlib.h>

#include "handlers.h"
#include "table.h"

/* What both directions read; the head and its like have no axis of rows. */
#define LINEAR_INPUTS(type)                                                                            \
    PFO_FFI_ROWS_OF(type, "hidden", args.in.hidden), PFO_FFI_WHOLE_OF(type, "weight", args.in.weight), \
        PFO_FFI_ROWS_OF(type, "labels", args.in.labels), PFO_FFI_WHOLE_OF(type, "bias", args.in.bias), \
        PFO_FFI_WHOLE_OF(type, "lora_a", args.in.lora_a), PFO_FFI_WHOLE_OF(type, "lora_b", args.in.lora_b)
#define LINEAR_NUMBERS(type)                                                                                          \
    PFO_FFI_INTEGER_OF(type, "ignore_index", args.in.ignore_index),                                                   \
        PFO_FFI_REAL_OF(type, "logit_scale", args.in.logit_scale), PFO_FFI_REAL_OF(type, "softcap", args.in.softcap), \
        PFO_FFI_REAL_OF(type, "temperature", args.in.temperature),                                                    \
        PFO_FFI_INTEGER_OF(type, "memory_limit", args.in.memory_limit)

/* ---- forward ----------------------------------------------------------------------------------------------------- */

typedef struct linear_call {
    const pfo_ffi_table *table;
    pfo_linear_token_logps_args args;
    pfo_view exact_lse;
} linear_call;

/* JAX without x64 has no int64: the ids come in int32 then. */
static pfo_status run_linear(void *call, pfo_error *error)
{
    linear_call *c = call;
    pfo_view ids = c->args.topk_ids;
    const int is_narrow = ids.dtype == PFO_I32;
    if (is_narrow && pfo_ffi_widen(&c->args.topk_ids, PFO_I64, &ids, error) != PFO_OK) return error->status;
    const pfo_ffi_lse lse = pfo_ffi_begin_lse(&c->args.lse, &c->exact_lse);
    const pfo_status status = pfo_linear_token_logps(&c->args, error);
    pfo_ffi_end_lse(&lse, status);
    if (!is_narrow) return status;
    if (status == PFO_OK) pfo_ffi_round(&c->args.topk_ids, &ids);
    free(c->args.topk_ids.data);
    c->args.topk_ids = ids;
    return status;
}

XLA_FFI_Error *pfo_ffi_linear_token_logps(XLA_FFI_CallFrame *frame)
{
    static const pfo_ffi_array inputs[] = {LINEAR_INPUTS(linear_call), PFO_FFI_END};
    static const pfo_ffi_array outputs[] = {
        PFO_FFI_ROWS_OF(linear_call, "logps", args.logps),
        PFO_FFI_ROWS_OF(linear_call, "lse", args.lse),
        PFO_FFI_ROWS_OF(linear_call, "entropy", args.entropy),
        PFO_FFI_ROWS_OF(linear_call, "correct", args.correct),
        PFO_FFI_ROWS_OF(linear_call, "mean_logit", args.mean_logit),
        PFO_FFI_ROWS_OF(linear_call, "max_logit", args.max_logit),
        PFO_FFI_ROWS_OF(linear_call, "lse2", args.lse2),
        PFO_FFI_ROWS_OF(linear_call, "topk_ids", args.topk_ids),
        PFO_FFI_ROWS_OF(linear_call, "topk_logps", args.topk_logps),
        PFO_FFI_ROWS_OF(linear_call, "grad_hidden", args.grad_hidden_logps),
        PFO_FFI_ROWS_OF(linear_call, "grad_hidden_lse", args.grad_hidden_lse),
        PFO_FFI_ROWS_OF(linear_call, "grad_hidden_entropy", args.grad_hidden_entropy),
        PFO_FFI_WORDS_OF(linear_call, "exact_lse", exact_lse),
        PFO_FFI_END};
    static const pfo_ffi_number numbers[] = {LINEAR_NUMBERS(linear_call), PFO_FFI_END};
    static const pfo_ffi_table table = {"linear_token_logps", inputs, outputs, numbers, run_linear};
    linear_call call = {&table, pfo_linear_token_logps_args_default(), pfo_view_none()};
    return pfo_ffi_handle(frame, &call);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

typedef struct linear_grad_call {
    const pfo_ffi_table *table;
    pfo_linear_token_logps_grad_args args;
} linear_grad_call;

static pfo_status run_linear_grad(void *call, pfo_error *error)
{
    return pfo_linear_token_logps_grad(&((linear_grad_call *)call)->args, error);
}

XLA_FFI_Error *pfo_ffi_linear_token_logps_grad(XLA_FFI_CallFrame *frame)
{
    static const pfo_ffi_array inputs[] = {LINEAR_INPUTS(linear_grad_call),
                                           PFO_FFI_ROWS_OF(linear_grad_call, "lse", args.lse),
                                           PFO_FFI_WORDS_OF(linear_grad_call, "exact_lse", args.lse),
                                           PFO_FFI_ROWS_OF(linear_grad_call, "entropy", args.entropy),
                                           PFO_FFI_ROWS_OF(linear_grad_call, "grad_logps", args.grad_logps),
                                           PFO_FFI_ROWS_OF(linear_grad_call, "grad_entropy", args.grad_entropy),
                                           PFO_FFI_ROWS_OF(linear_grad_call, "grad_lse", args.grad_lse),
                                           PFO_FFI_END};
    static const pfo_ffi_array outputs[] = {PFO_FFI_ROWS_OF(linear_grad_call, "grad_hidden", args.grad_hidden),
                                            PFO_FFI_WHOLE_OF(linear_grad_call, "grad_weight", args.grad_weight),
                                            PFO_FFI_WHOLE_OF(linear_grad_call, "grad_bias", args.grad_bias),
                                            PFO_FFI_WHOLE_OF(linear_grad_call, "grad_lora_a", args.grad_lora_a),
                                            PFO_FFI_WHOLE_OF(linear_grad_call, "grad_lora_b", args.grad_lora_b),
                                            PFO_FFI_END};
    static const pfo_ffi_number numbers[] = {LINEAR_NUMBERS(linear_grad_call),
                                             PFO_FFI_REAL_OF(linear_grad_call, "grad_filter", args.grad_filter),
                                             PFO_FFI_END};
    static const pfo_ffi_table table = {"linear_token_logps", inputs, outputs, numbers, run_linear_grad};
    linear_grad_call call = {&table, pfo_linear_token_logps_grad_args_default()};
    return pfo_ffi_handle(frame, &call);
}
