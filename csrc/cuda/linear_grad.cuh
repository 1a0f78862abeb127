/* What the fused linear op's backward consists of: one call. */
#ifndef PFO_CUDA_LINEAR_GRAD_CUH
#define PFO_CUDA_LINEAR_GRAD_CUH

#include "linear.cuh"

namespace pfo
{

/* One row. y = (x - high) + low is log p; floats for most entries, doubles for the label's, which cancels. */
struct SlopeRow {
    float high, low, a, b;
    double lse, exact_a, exact_b, at_label;
    int64_t label;
    int32_t kind, is_valid; /* ROW_LIVE or not; whether lse is finite */
};

struct Backward {
    Linear l;
    const pfo_linear_token_logps_grad_args *args;
    RowArray vectors[PFO_LINEAR_VECTORS], grad_hidden_out;

    /* Workspace. */
    SlopeRow *slopes;        /* [rows] */
    float *lora_hidden;      /* [rows, r] */
    float *lora_grad;        /* [rows, r] */
    float *grad_hidden;      /* [rows, H], or the output itself */
    float *grad_weight_span; /* [vocab_span, H] where the output has a half type */
    float *bias_parts;       /* [BIAS_PARTS, vocab_span] */
};

/* What follows the last tile of a span of the vocabulary: grad_weight's rows in their dtype. */
pfo_status finish_weight(const Backward *b, int64_t entry, int64_t count, pfo_error *error);
/* What follows the last tile: what goes through hidden lora_a^T, and grad_hidden at its tokens. */
pfo_status finish_lora(const Backward *b, const Cublas &cublas, pfo_error *error);
pfo_status finish_hidden(const Backward *b, pfo_error *error);

} // namespace pfo

#endif
