/* prefopt on CUDA: the C interface of libprefopt_cuda, a library beside the CPU's that needs nothing of it.
 *
 * The operations of prefopt.h on device memory, by prefopt.h's own argument structs: every pfo_view of theirs holds a
 * pointer into the memory of one device.  What prefopt.h says of shapes, dtypes, overlaps and special values holds
 * here too.  What differs:
 *   - A call queues kernels on call->stream and returns.  It never waits and allocates nothing, so that it may be
 *     captured in a graph; scratch memory is the caller's, and pfo_cuda_<operation>_workspace says how much.
 *   - Arguments are checked before anything is queued, but nobody looks at the values of device arrays then.  A bad
 *     one gives what its operation says below and is noted in device memory, where pfo_cuda_check finds it.
 *   - Leading axes step as at most two: [B, T] cut out of a larger array does, more may need a copy
 *     (PFO_ERROR_STRIDE).  Rows and vocabulary are below 2^31; offsets are 64 bits wide.
 *   - float16, bfloat16 and float32 logits: float32 arithmetic, and exp by the hardware's 2^x (2 ulp); sums over the
 *     threads of a row, and all that follows, in double.  docs/cuda.md has the error budgets.
 *   - Results are the same bits for the same call on the same kind of device; no float atomics.  Where a row starts
 *     (modulo 16 bytes) and how many multiprocessors there are decide who adds what: the last bits may follow them.
 *
 * Thread safe, as far as calls do not share a stream, outputs or a workspace.  If a kernel cannot be queued the status
 * is PFO_ERROR_DEVICE, the message has CUDA's words, and what was queued before may have written some outputs.
 *
 * Example (C):
 *     pfo_token_logps_args args = {.ignore_index = -100, .temperature = 1.0};
 *     args.logits = (pfo_view){.data = logits, .dtype = PFO_BF16, .ndim = 2, .shape = {rows, vocab},
 *                              .strides_bytes = {2 * vocab, 2}};       // likewise labels, logps, lse
 *     pfo_cuda_call call = {.device = 0, .stream = stream};
 *     call.workspace_bytes = pfo_cuda_token_logps_workspace(&args, &call);
 *     cudaMallocAsync(&call.workspace, call.workspace_bytes, stream);
 *     pfo_error error;
 *     if (pfo_cuda_token_logps(&args, &call, &error) != PFO_OK) fprintf(stderr, "%s\n", error.message);
 */
#ifndef PREFOPT_CUDA_H
#define PREFOPT_CUDA_H

#include "../prefopt.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the library and its device -------------------------------------------------------------------------------- */

/* "version=0.1.0 nvcc=13.0 architectures=75_80_90_100_120" */
PFO_API const char *pfo_cuda_build_info(void);

typedef enum pfo_cuda_state {
    PFO_CUDA_OK = 0,
    PFO_CUDA_NO_DRIVER = 1,
    PFO_CUDA_DRIVER_TOO_OLD = 2, /* for the runtime that is linked in */
    PFO_CUDA_NO_DEVICE = 3,
    PFO_CUDA_UNUSABLE = 4 /* anything else; the message says what */
} pfo_cuda_state;

/* Whether kernels can run here; the reason goes into error->message.  Initialises CUDA where it can. */
PFO_API pfo_cuda_state pfo_cuda_probe(int32_t *devices, pfo_error *error);

/* ---- what every operation takes --------------------------------------------------------------------------------- */

typedef struct pfo_cuda_call {
    void *stream;            /* cudaStream_t of `device`; NULL: the legacy default stream */
    void *workspace;         /* 256-byte aligned device memory, in use until the stream has passed the call */
    int64_t workspace_bytes; /* at least what pfo_cuda_<operation>_workspace returns for the same arguments */
    int32_t device;          /* the arrays' device; made current for the call */
} pfo_cuda_call;

/* Whether an operation on `device` (-1: on any) has met a bad value since the last call.  Waits for the device, reads
 * its note and clears it.  PFO_OK, or PFO_ERROR_LABEL or PFO_ERROR_VALUE with the argument and the index of its first
 * bad element.  Not while a stream is captured. */
PFO_API pfo_status pfo_cuda_check(int32_t device, pfo_error *error);

/* Bytes of workspace of each operation (0 is possible), for arguments that it accepts; -1 for others. */
PFO_API int64_t pfo_cuda_token_logps_workspace(const pfo_token_logps_args *args, const pfo_cuda_call *call);
PFO_API int64_t pfo_cuda_token_logps_grad_workspace(const pfo_token_logps_grad_args *args, const pfo_cuda_call *call);
PFO_API int64_t pfo_cuda_pair_token_stats_workspace(const pfo_pair_token_stats_args *args, const pfo_cuda_call *call);
PFO_API int64_t pfo_cuda_pair_token_stats_grad_workspace(const pfo_pair_token_stats_grad_args *args,
                                                         const pfo_cuda_call *call);
PFO_API int64_t pfo_cuda_loss_workspace(const pfo_loss_args *args, const pfo_cuda_call *call);

/* ---- the operations --------------------------------------------------------------------------------------------- */

/* One read of the logits of the rows that are not ignored.  A bad label: logps NaN, correct false; the other statistics
 * do not depend on it. */
PFO_API pfo_status pfo_cuda_token_logps(const pfo_token_logps_args *args, const pfo_cuda_call *call, pfo_error *error);

/* One read, one write; out may be logits.  A bad label: a row of 0. */
PFO_API pfo_status pfo_cuda_token_logps_grad(const pfo_token_logps_grad_args *args, const pfo_cuda_call *call,
                                             pfo_error *error);

/* As the two above, on two rows of logits. */
PFO_API pfo_status pfo_cuda_pair_token_stats(const pfo_pair_token_stats_args *args, const pfo_cuda_call *call,
                                             pfo_error *error);
PFO_API pfo_status pfo_cuda_pair_token_stats_grad(const pfo_pair_token_stats_grad_args *args, const pfo_cuda_call *call,
                                                  pfo_error *error);

/* No workspace.  A bad value of cu_seqlens, mask or normalizer: NaN for that sequence, and a gradient of 0. */
PFO_API pfo_status pfo_cuda_sequence_logps(const pfo_sequence_logps_args *args, const pfo_cuda_call *call,
                                           pfo_error *error);
PFO_API pfo_status pfo_cuda_sequence_logps_grad(const pfo_sequence_logps_args *args, const pfo_cuda_call *call,
                                                pfo_error *error);

/* Every row of the list, procedures included, in double.  A bad value of an input (a negative count, a flag that is
 * neither 0 nor 1, ...): NaN in every float output, 0 in the others. */
PFO_API pfo_status pfo_cuda_loss(const pfo_loss_args *args, const pfo_cuda_call *call, pfo_error *error);

#include "prefopt_cuda_linear.h"

#ifdef __cplusplus
}
#endif

#endif
