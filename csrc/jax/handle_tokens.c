/* token_logps and pair_token_stats with their gradients. */
#include "handlers.h"
#include "table.h"

/* ---- token_logps ------------------------------------------------------------------------------------------------- */

typedef struct token_call {
    const pfo_ffi_table *table;
    pfo_token_logps_args args;
    pfo_view exact_lse;
} token_call;

static pfo_status run_token_logps(void *call, pfo_error *error)
{
    token_call *c = call;
    const pfo_ffi_lse lse = pfo_ffi_begin_lse(&c->args.lse, &c->exact_lse);
    const pfo_status status = pfo_token_logps(&c->args, error);
    pfo_ffi_end_lse(&lse, status);
    return status;
}

XLA_FFI_Error *pfo_ffi_token_logps(XLA_FFI_CallFrame *frame)
{
    static const pfo_ffi_array inputs[] = {PFO_FFI_ROWS_OF(token_call, "logits", args.logits),
                                           PFO_FFI_ROWS_OF(token_call, "labels", args.labels), PFO_FFI_END};
    static const pfo_ffi_array outputs[] = {PFO_FFI_ROWS_OF(token_call, "logps", args.logps),
                                            PFO_FFI_ROWS_OF(token_call, "lse", args.lse),
                                            PFO_FFI_ROWS_OF(token_call, "entropy", args.entropy),
                                            PFO_FFI_ROWS_OF(token_call, "correct", args.correct),
                                            PFO_FFI_ROWS_OF(token_call, "mean_logit", args.mean_logit),
                                            PFO_FFI_ROWS_OF(token_call, "max_logit", args.max_logit),
                                            PFO_FFI_ROWS_OF(token_call, "lse2", args.lse2),
                                            PFO_FFI_WORDS_OF(token_call, "exact_lse", exact_lse),
                                            PFO_FFI_END};
    static const pfo_ffi_number numbers[] = {PFO_FFI_INTEGER_OF(token_call, "ignore_index", args.ignore_index),
                                             PFO_FFI_REAL_OF(token_call, "temperature", args.temperature), PFO_FFI_END};
    static const pfo_ffi_table table = {"token_logps", inputs, outputs, numbers, run_token_logps};
    token_call call = {&table, pfo_token_logps_args_default(), pfo_view_none()};
    return pfo_ffi_handle(frame, &call);
}

typedef struct token_grad_call {
    const pfo_ffi_table *table;
    pfo_token_logps_grad_args args;
} token_grad_call;

static pfo_status run_token_logps_grad(void *call, pfo_error *error)
{
    return pfo_token_logps_grad(&((token_grad_call *)call)->args, error);
}

XLA_FFI_Error *pfo_ffi_token_logps_grad(XLA_FFI_CallFrame *frame)
{
    static const pfo_ffi_array inputs[] = {PFO_FFI_ROWS_OF(token_grad_call, "logits", args.logits),
                                           PFO_FFI_ROWS_OF(token_grad_call, "labels", args.labels),
                                           PFO_FFI_ROWS_OF(token_grad_call, "lse", args.lse),
                                           PFO_FFI_WORDS_OF(token_grad_call, "exact_lse", args.lse),
                                           PFO_FFI_ROWS_OF(token_grad_call, "entropy", args.entropy),
                                           PFO_FFI_ROWS_OF(token_grad_call, "grad_logps", args.grad_logps),
                                           PFO_FFI_ROWS_OF(token_grad_call, "grad_entropy", args.grad_entropy),
                                           PFO_FFI_ROWS_OF(token_grad_call, "grad_lse", args.grad_lse),
                                           PFO_FFI_END};
    static const pfo_ffi_array outputs[] = {PFO_FFI_ROWS_OF(token_grad_call, "grad_logits", args.out), PFO_FFI_END};
    static const pfo_ffi_number numbers[] = {PFO_FFI_INTEGER_OF(token_grad_call, "ignore_index", args.ignore_index),
                                             PFO_FFI_REAL_OF(token_grad_call, "temperature", args.temperature),
                                             PFO_FFI_END};
    static const pfo_ffi_table table = {"token_logps", inputs, outputs, numbers, run_token_logps_grad};
    token_grad_call call = {&table, pfo_token_logps_grad_args_default()};
    return pfo_ffi_handle(frame, &call);
}

/* ---- pair_token_stats -------------------------------------------------------------------------------------------- */

typedef struct pair_call {
    const pfo_ffi_table *table;
    pfo_pair_token_stats_args args;
    pfo_view exact_policy_lse, exact_ref_lse;
} pair_call;

static pfo_status run_pair_token_stats(void *call, pfo_error *error)
{
    pair_call *c = call;
    const pfo_ffi_lse policy_lse = pfo_ffi_begin_lse(&c->args.policy_lse, &c->exact_policy_lse);
    const pfo_ffi_lse ref_lse = pfo_ffi_begin_lse(&c->args.ref_lse, &c->exact_ref_lse);
    const pfo_status status = pfo_pair_token_stats(&c->args, error);
    pfo_ffi_end_lse(&policy_lse, status);
    pfo_ffi_end_lse(&ref_lse, status);
    return status;
}

XLA_FFI_Error *pfo_ffi_pair_token_stats(XLA_FFI_CallFrame *frame)
{
    static const pfo_ffi_array inputs[] = {PFO_FFI_ROWS_OF(pair_call, "policy_logits", args.policy_logits),
                                           PFO_FFI_ROWS_OF(pair_call, "ref_logits", args.ref_logits),
                                           PFO_FFI_ROWS_OF(pair_call, "labels", args.labels), PFO_FFI_END};
    static const pfo_ffi_array outputs[] = {PFO_FFI_ROWS_OF(pair_call, "policy_logps", args.policy_logps),
                                            PFO_FFI_ROWS_OF(pair_call, "ref_logps", args.ref_logps),
                                            PFO_FFI_ROWS_OF(pair_call, "policy_lse", args.policy_lse),
                                            PFO_FFI_ROWS_OF(pair_call, "ref_lse", args.ref_lse),
                                            PFO_FFI_ROWS_OF(pair_call, "ref_policy_kl", args.ref_policy_kl),
                                            PFO_FFI_ROWS_OF(pair_call, "policy_ref_kl", args.policy_ref_kl),
                                            PFO_FFI_ROWS_OF(pair_call, "plus_logps", args.plus_logps),
                                            PFO_FFI_ROWS_OF(pair_call, "minus_logps", args.minus_logps),
                                            PFO_FFI_WORDS_OF(pair_call, "exact_policy_lse", exact_policy_lse),
                                            PFO_FFI_WORDS_OF(pair_call, "exact_ref_lse", exact_ref_lse),
                                            PFO_FFI_END};
    static const pfo_ffi_number numbers[] = {PFO_FFI_INTEGER_OF(pair_call, "ignore_index", args.ignore_index),
                                             PFO_FFI_REAL_OF(pair_call, "temperature", args.temperature),
                                             PFO_FFI_REAL_OF(pair_call, "perturbation", args.perturbation),
                                             PFO_FFI_END};
    static const pfo_ffi_table table = {"pair_token_stats", inputs, outputs, numbers, run_pair_token_stats};
    pair_call call = {&table, pfo_pair_token_stats_args_default(), pfo_view_none(), pfo_view_none()};
    return pfo_ffi_handle(frame, &call);
}

typedef struct pair_grad_call {
    const pfo_ffi_table *table;
    pfo_pair_token_stats_grad_args args;
} pair_grad_call;

static pfo_status run_pair_token_stats_grad(void *call, pfo_error *error)
{
    return pfo_pair_token_stats_grad(&((pair_grad_call *)call)->args, error);
}

XLA_FFI_Error *pfo_ffi_pair_token_stats_grad(XLA_FFI_CallFrame *frame)
{
    static const pfo_ffi_array inputs[] = {
        PFO_FFI_ROWS_OF(pair_grad_call, "policy_logits", args.policy_logits),
        PFO_FFI_ROWS_OF(pair_grad_call, "ref_logits", args.ref_logits),
        PFO_FFI_ROWS_OF(pair_grad_call, "labels", args.labels),
        PFO_FFI_ROWS_OF(pair_grad_call, "policy_lse", args.policy_lse),
        PFO_FFI_ROWS_OF(pair_grad_call, "ref_lse", args.ref_lse),
        PFO_FFI_WORDS_OF(pair_grad_call, "exact_policy_lse", args.policy_lse),
        PFO_FFI_WORDS_OF(pair_grad_call, "exact_ref_lse", args.ref_lse),
        PFO_FFI_ROWS_OF(pair_grad_call, "policy_ref_kl", args.policy_ref_kl),
        PFO_FFI_ROWS_OF(pair_grad_call, "grad_policy_logps", args.grad_policy_logps),
        PFO_FFI_ROWS_OF(pair_grad_call, "grad_ref_policy_kl", args.grad_ref_policy_kl),
        PFO_FFI_ROWS_OF(pair_grad_call, "grad_policy_ref_kl", args.grad_policy_ref_kl),
        PFO_FFI_END};
    static const pfo_ffi_array outputs[] = {PFO_FFI_ROWS_OF(pair_grad_call, "grad_policy_logits", args.out),
                                            PFO_FFI_END};
    static const pfo_ffi_number numbers[] = {PFO_FFI_INTEGER_OF(pair_grad_call, "ignore_index", args.ignore_index),
                                             PFO_FFI_REAL_OF(pair_grad_call, "temperature", args.temperature),
                                             PFO_FFI_END};
    static const pfo_ffi_table table = {"pair_token_stats", inputs, outputs, numbers, run_pair_token_stats_grad};
    pair_grad_call call = {&table, pfo_pair_token_stats_grad_args_default()};
    return pfo_ffi_handle(frame, &call);
}
