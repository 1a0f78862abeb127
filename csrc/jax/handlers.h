/* Every handler: one XLA target each, "prefopt_" and the name without its prefix. */
#ifndef PFO_JAX_HANDLERS_H
#define PFO_JAX_HANDLERS_H

#include "ffi.h"

XLA_FFI_Error *pfo_ffi_token_logps(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *pfo_ffi_token_logps_grad(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *pfo_ffi_pair_token_stats(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *pfo_ffi_pair_token_stats_grad(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *pfo_ffi_linear_token_logps(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *pfo_ffi_linear_token_logps_grad(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *pfo_ffi_sequence_logps(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *pfo_ffi_sequence_logps_grad(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *pfo_ffi_kto_kl(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *pfo_ffi_scaled_rewards(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *pfo_ffi_loss(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *pfo_ffi_weighted_sum(XLA_FFI_CallFrame *frame);

#endif
