/* Token log-probabilities from hidden states, without the logits: part of prefopt.h, which includes this file.
 *
 *     z[t, v] = hidden[t] . weight[v] + (hidden[t] lora_a^T) . lora_b[v] + bias[v]
 *     x[t, v] = cap(logit_scale z) / temperature,   cap(u) = softcap tanh(u / softcap), or u without softcap
 *
 * and every result is of x as in pfo_token_logps.  x is made in tiles by a BLAS, in float32 (float64 for float64
 * inputs) from the exact input values, never rounded to a half type, reduced into row states and dropped.  Tokens whose
 * label is ignore_index are not multiplied.  Memory beyond the arrays of the call stays under memory_limit whatever
 * tokens x vocab is; the BLAS's own buffers (about 32 MiB a thread for OpenBLAS) are not counted.
 *
 * A BLAS is loaded by pfo_blas_load; without one a plain C loop multiplies, several times slower.  Results are the same
 * bits for any number of threads with one BLAS kernel. */
#ifndef PREFOPT_LINEAR_H
#define PREFOPT_LINEAR_H

/* What x is made from. */
typedef struct pfo_linear_inputs {
    pfo_view hidden; /* [..., H] f16|bf16|f32|f64, last axis contiguous, other axes any stride */
    pfo_view weight; /* [V, H] any of those dtypes, rows contiguous; f64 where hidden is, and only there */
    pfo_view labels; /* [...] any integer type: ignore_index, or 0 <= label < vocab_total */
    pfo_view bias;   /* [V], contiguous, or none; -inf rules an entry out */
    pfo_view lora_a; /* [r, H] and */
    pfo_view lora_b; /* [V, r], rows contiguous, both or none; any scale is folded in by the caller */
    int64_t ignore_index;
    double logit_scale;   /* finite, not 0 */
    double softcap;       /* > 0, or 0 for none */
    double temperature;   /* from 1e-30 to 1e30 */
    int64_t memory_limit; /* bytes of workspace; 0: 64 MiB */
    /* A vocabulary split over processes: weight holds the entries [vocab_start, vocab_start + V) of vocab_total; labels
     * are global.  vocab_total 0: V, and nothing is split. */
    int64_t vocab_start, vocab_total;
} pfo_linear_inputs;

/* Checks the inputs and counts the tokens that are not ignored: what `kept` below is made for. */
PFO_API pfo_status pfo_linear_live(const pfo_linear_inputs *in, int64_t *live, pfo_error *error);

typedef struct pfo_linear_token_logps_args {
    pfo_linear_inputs in;
    /* Outputs as in pfo_token_logps, each [...] C contiguous or pfo_view_none(). */
    pfo_view logps, lse, entropy, correct, mean_logit, max_logit, lse2;
    pfo_view topk_ids;   /* [..., k] i64, by falling x, ties by rising id; -1 in a row that holds a NaN; and */
    pfo_view topk_logps; /* [..., k] f32 (f64), both or none; k <= V */
    /* Gradients by hidden, made in the same sweep (no second pass over the vocabulary), each [..., H] f32 (f64), C
     * contiguous: d logp, d lse and d entropy / d hidden.  The entropy's costs one more multiplication. */
    pfo_view grad_hidden_logps, grad_hidden_lse, grad_hidden_entropy;
    /* [..., 9] f64, C contiguous: the row states (pfo_row_state, as doubles) of this part of the vocabulary, to be
     * merged by pfo_row_states_finish.  With a split vocabulary this is the only output beside the gradients, which are
     * then relative to this part: d lse / d hidden of its own lse, and no grad_hidden_logps. */
    pfo_view states;
    /* [unmasked tokens, V] f32 (f64), C contiguous, or none: x itself, kept for pfo_linear_token_logps_grad. */
    pfo_view kept;
} pfo_linear_token_logps_args;

/* Returns PFO_OK or any of DTYPE, SHAPE, STRIDE, LABEL, VALUE, OVERLAP, MEMORY, ISA, MISSING. */
PFO_API pfo_linear_token_logps_args pfo_linear_token_logps_args_default(void);
PFO_API pfo_status pfo_linear_token_logps(const pfo_linear_token_logps_args *args, pfo_error *error);

typedef struct pfo_linear_token_logps_grad_args {
    pfo_linear_inputs in;
    pfo_view lse;     /* [...] f32|f64: what the forward returned; f64 is exact to the last bit of p */
    pfo_view entropy; /* [...] likewise; needed with grad_entropy only */
    /* d loss / d result, each [...] f32|f64 or pfo_view_none(); at least one is present. */
    pfo_view grad_logps, grad_entropy, grad_lse;
    pfo_view kept; /* the forward's, or none: x is then made again.  Its contents are destroyed. */
    /* > 0: vocabulary entries that are less probable than this for every token of a span, and no label of one, are left
     * out of the sums; 0: exact. */
    double grad_filter;
    /* Outputs, each f32 (f64), C contiguous, or pfo_view_none(); at least one is present.  Accumulated in their own
     * type; ignored tokens have gradient 0. */
    pfo_view grad_hidden;                     /* [..., H] */
    pfo_view grad_weight;                     /* [V, H] */
    pfo_view grad_bias;                       /* [V] */
    pfo_view grad_lora_a;                     /* [r, H] */
    pfo_view grad_lora_b;                     /* [V, r] */
    int64_t *entries_made, *entries_left_out; /* counts for grad_filter's sake, or NULL */
} pfo_linear_token_logps_grad_args;

PFO_API pfo_linear_token_logps_grad_args pfo_linear_token_logps_grad_args_default(void);
PFO_API pfo_status pfo_linear_token_logps_grad(const pfo_linear_token_logps_grad_args *args, pfo_error *error);

/* Row states of a vocabulary's parts, in vocabulary order, to statistics.  states [parts, ..., 9] f64, C contiguous;
 * labels [...]; outputs [...] as in pfo_token_logps. */
typedef struct pfo_row_states_args {
    pfo_view states, labels;
    int64_t ignore_index;
    pfo_view logps, lse, entropy, correct, mean_logit, max_logit, lse2;
} pfo_row_states_args;
PFO_API pfo_status pfo_row_states_finish(const pfo_row_states_args *args, pfo_error *error);

/* Loads a shared library with cblas_sgemm and cblas_dgemm (32-bit integers; names may begin with scipy_), sets it to
 * one thread, and multiplies with it from then on.  Load a copy of your own: its thread count is changed.  Thread safe;
 * NULL goes back to the plain C loop.  pfo_blas_name: what is loaded, "" for none. */
PFO_API pfo_status pfo_blas_load(const char *path, pfo_error *error);
PFO_API const char *pfo_blas_name(void);

#endif
