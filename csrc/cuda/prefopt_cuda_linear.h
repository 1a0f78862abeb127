/* The fused linear op on CUDA: part of prefopt_cuda.h, which includes this file.
 *
 * The arguments of prefopt_linear.h, whose word on results holds here too, with these differences:
 *   - float32, float16 and bfloat16 inputs; not float64, grad_filter or kept.
 *   - Products are cuBLAS's, opened at first need (pfo_cuda_cublas_open).  x is float32 from exact input values, never
 *     rounded to a half type.  What is multiplied by the head again for gradients, e^(x - m) and d loss / d z, is
 *     rounded to bfloat16 where hidden and weight are bfloat16, and to TF32 where both are half types otherwise
 *     (PFO_CUDA_PRODUCTS_TF32 does so for bfloat16 too); the label's term of a frozen head's gradient is not rounded.
 *     Sums are float32.  With a float32 input products are float32's own, unless _TF32 is asked for.  LoRA's always
 *     are.
 *   - memory_limit bounds the buffers that hold x in tiles; 0: what stays in half the device's second-level cache.
 *   - num_tokens, where it is not 0: at most so many labels are not ignored, and so many rows are multiplied.
 *     If there are more, nobody can know when the call is made: every result is NaN then, correct false, and
 *     pfo_cuda_check names num_tokens.  0: all rows are multiplied, the ignored ones too.
 *   - A bad label: logps NaN, correct false; no gradient.
 *   - grad_weight may have the dtype of weight; it is summed in float32 all the same.
 *   - Row starts and the number of multiprocessors decide nothing: the same call gives the same bits on one kind of
 *     device with one cuBLAS.
 *
 * cuBLAS makes its handle at the first call on a device: call once before a stream is captured. */
#ifndef PREFOPT_CUDA_LINEAR_H
#define PREFOPT_CUDA_LINEAR_H

/* Opens cuBLAS and returns its version (130000), or 0 with the reason in error->message.  Taken is a libcublas.so.13
 * or .12 that the process has loaded, else `path` (NULL: none), else one that the system finds.  The first success
 * holds. */
PFO_API int32_t pfo_cuda_cublas_open(const char *path, pfo_error *error);

typedef enum pfo_cuda_products {
    PFO_CUDA_PRODUCTS_DEFAULT = 0,
    PFO_CUDA_PRODUCTS_TF32 = 1, /* TF32 for products of gradients, and for float32 inputs everywhere */
    PFO_CUDA_PRODUCTS_F32 = 2   /* float32 for products of gradients, whatever the inputs */
} pfo_cuda_products;

typedef struct pfo_cuda_linear_token_logps_args {
    pfo_linear_token_logps_args linear;
    int64_t num_tokens;
    int32_t products; /* pfo_cuda_products */
} pfo_cuda_linear_token_logps_args;

typedef struct pfo_cuda_linear_token_logps_grad_args {
    pfo_linear_token_logps_grad_args linear;
    int64_t num_tokens;
    int32_t products;
} pfo_cuda_linear_token_logps_grad_args;

PFO_API int64_t pfo_cuda_linear_token_logps_workspace(const pfo_cuda_linear_token_logps_args *args,
                                                      const pfo_cuda_call *call);
PFO_API pfo_status pfo_cuda_linear_token_logps(const pfo_cuda_linear_token_logps_args *args, const pfo_cuda_call *call,
                                               pfo_error *error);

PFO_API int64_t pfo_cuda_linear_token_logps_grad_workspace(const pfo_cuda_linear_token_logps_grad_args *args,
                                                           const pfo_cuda_call *call);
PFO_API pfo_status pfo_cuda_linear_token_logps_grad(const pfo_cuda_linear_token_logps_grad_args *args,
                                                    const pfo_cuda_call *call, pfo_error *error);

/* No workspace.  A bad label: logps NaN, correct false. */
PFO_API pfo_status pfo_cuda_row_states_finish(const pfo_row_states_args *args, const pfo_cuda_call *call,
                                              pfo_error *error);

#endif
