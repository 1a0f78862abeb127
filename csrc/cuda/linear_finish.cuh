/* The fused linear op's forward, its end: row states to results, sums to gradients by hidden. */
#ifndef PFO_CUDA_LINEAR_FINISH_CUH
#define PFO_CUDA_LINEAR_FINISH_CUH

#include "linear.cuh"
#include "row_state.cuh"

namespace pfo
{

/* The k largest of a span's rows so far, by falling value, equal ones by rising id. */
struct TopRows {
    float *values; /* [token_span, k] */
    int32_t *ids;  /* [token_span, k] in the whole vocabulary */
    int32_t *held; /* [token_span] of them in use */
    int k;
};

/* What makes a row's sums its gradients. */
struct HiddenRow {
    float share, mean, at_label;
    int32_t is_live;
};

enum HiddenGrad {
    HIDDEN_LOGPS,
    HIDDEN_LSE,
    HIDDEN_ENTROPY,
    HIDDEN_GRADS
};

struct FinishRows {
    RowArray outputs[PFO_TOKEN_OUTPUTS], states_out, topk_ids, topk_logps, grads[HIDDEN_GRADS];
    TopRows top;
    HiddenRow *hidden; /* [token_span], NULL without gradients */
    double chain;      /* logit_scale / temperature */
    double cap_slope;  /* temperature / softcap, or 0 */
    /* The span in hand. */
    const LinearRow *rows;
    const pfo_row_state *states; /* of row r [r * states_per_row] */
    int64_t states_per_row;
    int count;
    Rows token_rows;
};

constexpr int FINISH_VIEWS = PFO_TOKEN_OUTPUTS + 3 + HIDDEN_GRADS;

/* The outputs as views that linear_setup steps through; fills what depends on the arguments alone. */
int finish_views(const pfo_linear_token_logps_args *args, FinishRows *finish, RowView *views);
void take_finish(const Linear *l, int topk, int64_t token_span, FinishRows *finish, Arena *arena);
/* The results of a span of rows, whose states, and sums for gradients, are complete. */
pfo_status finish_span(const Linear *l, FinishRows finish, const float *sums, const float *moments, pfo_error *error);
/* The results of tokens that are no rows: ignored, or too many. */
pfo_status finish_rest(const Linear *l, FinishRows finish, pfo_error *error);

} // namespace pfo

#endif
