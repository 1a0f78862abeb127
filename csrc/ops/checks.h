/* What an op checks before it reads an element: all that a library which cannot look at the values (csrc/cuda) checks,
 * and the first part of what the CPU's ops check.  And the [...] arrays of each op's arguments as lists, in their order
 * there. */
#ifndef PFO_CHECKS_H
#define PFO_CHECKS_H

#include "views.h"

enum pfo_token_output {
    PFO_TOKEN_LOGPS,
    PFO_TOKEN_LSE,
    PFO_TOKEN_ENTROPY,
    PFO_TOKEN_CORRECT, /* bool; the others are floats */
    PFO_TOKEN_MEAN_LOGIT,
    PFO_TOKEN_MAX_LOGIT,
    PFO_TOKEN_LSE2,
    PFO_TOKEN_OUTPUTS
};
extern const char *const pfo_token_output_names[PFO_TOKEN_OUTPUTS];
void pfo_token_outputs(const pfo_token_logps_args *args, const pfo_view *outputs[PFO_TOKEN_OUTPUTS]);
pfo_status pfo_check_token_logps(const pfo_token_logps_args *args, pfo_error *error);

enum pfo_token_grad_vector {
    PFO_TOKEN_GRAD_BY_LSE, /* the forward's lse */
    PFO_TOKEN_GRAD_BY_LOGPS,
    PFO_TOKEN_GRAD_BY_ENTROPY,
    PFO_TOKEN_GRAD_OF_LOGPS, /* the gradients that come in */
    PFO_TOKEN_GRAD_OF_ENTROPY,
    PFO_TOKEN_GRAD_OF_LSE,
    PFO_TOKEN_GRAD_VECTORS
};
void pfo_token_grad_vectors(const pfo_token_logps_grad_args *args, const pfo_view *vectors[PFO_TOKEN_GRAD_VECTORS]);
pfo_status pfo_check_token_logps_grad(const pfo_token_logps_grad_args *args, pfo_error *error);

enum pfo_pair_output {
    PFO_PAIR_POLICY_LOGPS,
    PFO_PAIR_REF_LOGPS,
    PFO_PAIR_POLICY_LSE,
    PFO_PAIR_REF_LSE,
    PFO_PAIR_REF_POLICY_KL,
    PFO_PAIR_POLICY_REF_KL,
    PFO_PAIR_PLUS_LOGPS,
    PFO_PAIR_MINUS_LOGPS,
    PFO_PAIR_OUTPUTS
};
void pfo_pair_outputs(const pfo_pair_token_stats_args *args, const pfo_view *outputs[PFO_PAIR_OUTPUTS]);
pfo_status pfo_check_pair_token_stats(const pfo_pair_token_stats_args *args, pfo_error *error);

enum pfo_pair_grad_vector {
    PFO_PAIR_GRAD_BY_POLICY_LSE,
    PFO_PAIR_GRAD_BY_REF_LSE,
    PFO_PAIR_GRAD_BY_POLICY_REF_KL,
    PFO_PAIR_GRAD_OF_POLICY_LOGPS,
    PFO_PAIR_GRAD_OF_REF_POLICY_KL,
    PFO_PAIR_GRAD_OF_POLICY_REF_KL,
    PFO_PAIR_GRAD_VECTORS
};
void pfo_pair_grad_vectors(const pfo_pair_token_stats_grad_args *args, const pfo_view *vectors[PFO_PAIR_GRAD_VECTORS]);
pfo_status pfo_check_pair_token_stats_grad(const pfo_pair_token_stats_grad_args *args, pfo_error *error);

/* The fused linear op.  Inputs first, all but the values of labels; then outputs, of inputs that passed.
 * kept_rows: how many rows `kept` has to have.  weight_alike: grad_weight may also have the dtype of weight. */
pfo_status pfo_check_linear_inputs(const pfo_linear_inputs *in, pfo_error *error);
void pfo_linear_outputs(const pfo_linear_token_logps_args *args, const pfo_view *outputs[PFO_TOKEN_OUTPUTS]);
pfo_status pfo_check_linear_token_logps(const pfo_linear_token_logps_args *args, int64_t kept_rows, pfo_error *error);

enum pfo_linear_vector {
    PFO_LINEAR_BY_LSE, /* the forward's lse */
    PFO_LINEAR_BY_ENTROPY,
    PFO_LINEAR_OF_LOGPS, /* the gradients that come in */
    PFO_LINEAR_OF_ENTROPY,
    PFO_LINEAR_OF_LSE,
    PFO_LINEAR_VECTORS
};
void pfo_linear_vectors(const pfo_linear_token_logps_grad_args *args, const pfo_view *vectors[PFO_LINEAR_VECTORS]);
pfo_status pfo_check_linear_token_logps_grad(const pfo_linear_token_logps_grad_args *args, int64_t kept_rows,
                                             int weight_alike, pfo_error *error);

/* An output [..., last] of a dtype: its leading shape that of labels, C contiguous, apart from the inputs.
 * last < 0: no last axis. */
pfo_status pfo_check_linear_rows_out(const pfo_linear_inputs *in, const pfo_view *out, const char *name, int64_t last,
                                     int32_t dtype, pfo_error *error);
/* An output of the given shape, C contiguous, apart from the inputs. */
pfo_status pfo_check_linear_out(const pfo_linear_inputs *in, const pfo_view *out, const char *name, int32_t ndim,
                                const int64_t *shape, int32_t dtype, pfo_error *error);

void pfo_row_states_outputs(const pfo_row_states_args *args, const pfo_view *outputs[PFO_TOKEN_OUTPUTS]);
pfo_status pfo_check_row_states(const pfo_row_states_args *args, pfo_error *error);

/* The sum, or with `transpose` its gradient, where args->logps is written and args->out read.  *sequences gets B. */
pfo_status pfo_check_sequence_logps(const pfo_sequence_logps_args *args, int transpose, int64_t *sequences,
                                    pfo_error *error);

#endif
