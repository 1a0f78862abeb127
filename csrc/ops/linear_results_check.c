/* The checks of the fused linear op's outputs and of what its backward is given, for inputs that passed. */
#include "../core/dtype.h"
#include "../core/row_state.h"
#include "checks.h"

static int32_t real_of(const pfo_linear_inputs *in) { return in->hidden.dtype == PFO_F64 ? PFO_F64 : PFO_F32; }
static int64_t hidden_size(const pfo_linear_inputs *in) { return in->hidden.shape[in->hidden.ndim - 1]; }

/* ---- forward ---------------------------------------------------------------------------------------------------- */

void pfo_linear_outputs(const pfo_linear_token_logps_args *args, const pfo_view *outputs[PFO_TOKEN_OUTPUTS])
{
    outputs[PFO_TOKEN_LOGPS] = &args->logps;
    outputs[PFO_TOKEN_LSE] = &args->lse;
    outputs[PFO_TOKEN_ENTROPY] = &args->entropy;
    outputs[PFO_TOKEN_CORRECT] = &args->correct;
    outputs[PFO_TOKEN_MEAN_LOGIT] = &args->mean_logit;
    outputs[PFO_TOKEN_MAX_LOGIT] = &args->max_logit;
    outputs[PFO_TOKEN_LSE2] = &args->lse2;
}

static pfo_status check_results(const pfo_linear_token_logps_args *args, pfo_error *error)
{
    const pfo_linear_inputs *in = &args->in;
    const int32_t real = real_of(in);
    const pfo_view *stats[PFO_TOKEN_OUTPUTS];
    pfo_linear_outputs(args, stats);
    pfo_status status = PFO_OK;
    for (int k = 0; status == PFO_OK && k < PFO_TOKEN_OUTPUTS; k++) {
        if (!pfo_present(stats[k])) continue;
        const int is_wide = k == PFO_TOKEN_LSE && stats[k]->dtype == PFO_F64;
        const int32_t dtype = k == PFO_TOKEN_CORRECT ? PFO_BOOL : is_wide ? PFO_F64 : real;
        status = pfo_check_linear_rows_out(in, stats[k], pfo_token_output_names[k], -1, dtype, error);
    }
    const pfo_view *gradients[] = {&args->grad_hidden_logps, &args->grad_hidden_lse, &args->grad_hidden_entropy};
    static const char *const names[] = {"grad_hidden_logps", "grad_hidden_lse", "grad_hidden_entropy"};
    for (int k = 0; status == PFO_OK && k < 3; k++)
        if (pfo_present(gradients[k]))
            status = pfo_check_linear_rows_out(in, gradients[k], names[k], hidden_size(in), real, error);
    if (status == PFO_OK && pfo_present(&args->states))
        status = pfo_check_linear_rows_out(in, &args->states, "states", PFO_ROW_STATE_FIELDS, PFO_F64, error);
    return status;
}

static pfo_status check_topk(const pfo_linear_token_logps_args *args, pfo_error *error)
{
    const pfo_view *ids = &args->topk_ids, *logps = &args->topk_logps;
    const int64_t vocab = args->in.weight.shape[0];
    if (pfo_present(ids) != pfo_present(logps))
        return pfo_fail(error, PFO_ERROR_MISSING, pfo_present(ids) ? "topk_logps" : "topk_ids", -1,
                        "expected topk_ids and topk_logps, or neither");
    if (!pfo_present(ids)) return PFO_OK;
    const int64_t k = ids->ndim > 0 ? ids->shape[ids->ndim - 1] : 0;
    if (k < 1 || k > vocab)
        return pfo_fail(error, PFO_ERROR_VALUE, "topk", -1, "expected 1 <= topk <= %lld, the vocabulary, got %lld",
                        (long long)vocab, (long long)k);
    pfo_status status = pfo_check_linear_rows_out(&args->in, ids, "topk_ids", k, PFO_I64, error);
    if (status == PFO_OK)
        status = pfo_check_linear_rows_out(&args->in, logps, "topk_logps", k, real_of(&args->in), error);
    return status;
}

static pfo_status check_kept(const pfo_linear_inputs *in, const pfo_view *kept, int64_t kept_rows, pfo_error *error)
{
    const int64_t shape[2] = {kept_rows, in->weight.shape[0]};
    return pfo_check_linear_out(in, kept, "kept", 2, shape, real_of(in), error);
}

static pfo_status check_combination(const pfo_linear_token_logps_args *args, int64_t kept_rows, pfo_error *error)
{
    const int gradients = pfo_present(&args->grad_hidden_logps) || pfo_present(&args->grad_hidden_lse);
    if (pfo_present(&args->grad_hidden_entropy) && !gradients)
        return pfo_fail(error, PFO_ERROR_MISSING, "grad_hidden_logps", -1,
                        "expected grad_hidden_logps or grad_hidden_lse with grad_hidden_entropy, got neither");
    const int64_t vocab = args->in.weight.shape[0];
    const int is_split = args->in.vocab_total != 0 && args->in.vocab_total != vocab;
    if (is_split && pfo_present(&args->grad_hidden_logps))
        return pfo_fail(error, PFO_ERROR_VALUE, "grad_hidden_logps", -1,
                        "expected none with a split vocabulary, whose labels stand elsewhere");
    if (!pfo_present(&args->kept)) return PFO_OK;
    if (gradients) return pfo_fail(error, PFO_ERROR_VALUE, "kept", -1, "expected none beside gradients by hidden");
    return check_kept(&args->in, &args->kept, kept_rows, error);
}

static pfo_status check_outputs_apart(const pfo_linear_token_logps_args *args, pfo_error *error)
{
    enum {
        MORE = 7
    };
    const pfo_view *outputs[PFO_TOKEN_OUTPUTS + MORE];
    const pfo_view *more[MORE] = {&args->topk_ids,
                                  &args->topk_logps,
                                  &args->grad_hidden_logps,
                                  &args->grad_hidden_lse,
                                  &args->grad_hidden_entropy,
                                  &args->states,
                                  &args->kept};
    pfo_linear_outputs(args, outputs);
    for (int k = 0; k < MORE; k++) outputs[PFO_TOKEN_OUTPUTS + k] = more[k];
    for (int k = 0; k < PFO_TOKEN_OUTPUTS + MORE; k++)
        for (int other = 0; pfo_present(outputs[k]) && other < k; other++) {
            pfo_status status = pfo_check_disjoint(outputs[k], "out", outputs[other], "another output", error);
            if (status != PFO_OK) return status;
        }
    return PFO_OK;
}

pfo_status pfo_check_linear_token_logps(const pfo_linear_token_logps_args *args, int64_t kept_rows, pfo_error *error)
{
    pfo_status status = check_results(args, error);
    if (status == PFO_OK) status = check_topk(args, error);
    if (status == PFO_OK) status = check_combination(args, kept_rows, error);
    if (status == PFO_OK) status = check_outputs_apart(args, error);
    return status;
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

static const char *const vector_names[PFO_LINEAR_VECTORS] = {"lse", "entropy", "grad_logps", "grad_entropy",
                                                             "grad_lse"};

void pfo_linear_vectors(const pfo_linear_token_logps_grad_args *args, const pfo_view *vectors[PFO_LINEAR_VECTORS])
{
    vectors[PFO_LINEAR_BY_LSE] = &args->lse;
    vectors[PFO_LINEAR_BY_ENTROPY] = &args->entropy;
    vectors[PFO_LINEAR_OF_LOGPS] = &args->grad_logps;
    vectors[PFO_LINEAR_OF_ENTROPY] = &args->grad_entropy;
    vectors[PFO_LINEAR_OF_LSE] = &args->grad_lse;
}

static pfo_status check_vectors(const pfo_linear_token_logps_grad_args *args, pfo_error *error)
{
    const pfo_view *vectors[PFO_LINEAR_VECTORS];
    pfo_linear_vectors(args, vectors);
    pfo_status status = PFO_OK;
    for (int k = 0; status == PFO_OK && k < PFO_LINEAR_VECTORS; k++) {
        if (!pfo_present(vectors[k]) && k != PFO_LINEAR_BY_LSE) continue;
        status = pfo_check_array(vectors[k], vector_names[k], PFO_SET_FLOAT, error);
        if (status == PFO_OK)
            status = pfo_check_leading(vectors[k], vector_names[k], &args->in.labels, 0, "labels", error);
    }
    if (status != PFO_OK) return status;
    if (!pfo_present(&args->grad_logps) && !pfo_present(&args->grad_entropy) && !pfo_present(&args->grad_lse))
        return pfo_fail(error, PFO_ERROR_MISSING, "grad_logps", -1,
                        "expected at least one of grad_logps, grad_entropy and grad_lse, got none");
    if (pfo_present(&args->grad_entropy) && !pfo_present(&args->entropy))
        return pfo_fail(error, PFO_ERROR_MISSING, "entropy", -1,
                        "expected the forward's entropy with grad_entropy, got none");
    if (!(args->grad_filter >= 0.0 && args->grad_filter < 1.0)) /* false for NaN */
        return pfo_fail(error, PFO_ERROR_VALUE, "grad_filter", -1, "expected a number in [0, 1), got %g",
                        args->grad_filter);
    return PFO_OK;
}

enum {
    GRAD_WEIGHT,
    GRAD_BIAS,
    GRAD_LORA_A,
    GRAD_LORA_B,
    GRAD_HIDDEN,
    GRAD_COUNT
};

static pfo_status check_grad(const pfo_linear_inputs *in, int which, const pfo_view *out, const char *name,
                             int weight_alike, pfo_error *error)
{
    const int64_t vocab = in->weight.shape[0], size = hidden_size(in);
    const int64_t rank = pfo_present(&in->lora_a) ? in->lora_a.shape[0] : 0;
    if ((which == GRAD_BIAS && !pfo_present(&in->bias)) || ((which == GRAD_LORA_A || which == GRAD_LORA_B) && !rank))
        return pfo_fail(error, PFO_ERROR_VALUE, name, -1, "expected none: the call has no such input");
    const int64_t shapes[GRAD_HIDDEN][2] = {{vocab, size}, {vocab, 0}, {rank, size}, {vocab, rank}};
    const int is_alike = weight_alike && which == GRAD_WEIGHT && out->dtype == in->weight.dtype;
    const int32_t dtype = is_alike ? in->weight.dtype : real_of(in);
    if (which == GRAD_HIDDEN) return pfo_check_linear_rows_out(in, out, name, size, dtype, error);
    return pfo_check_linear_out(in, out, name, which == GRAD_BIAS ? 1 : 2, shapes[which], dtype, error);
}

static pfo_status check_grads(const pfo_linear_token_logps_grad_args *args, int weight_alike, pfo_error *error)
{
    const pfo_view *grads[GRAD_COUNT] = {&args->grad_weight, &args->grad_bias, &args->grad_lora_a, &args->grad_lora_b,
                                         &args->grad_hidden};
    static const char *const names[GRAD_COUNT] = {"grad_weight", "grad_bias", "grad_lora_a", "grad_lora_b",
                                                  "grad_hidden"};
    const pfo_view *vectors[PFO_LINEAR_VECTORS];
    pfo_linear_vectors(args, vectors);
    int present = 0;
    for (int k = 0; k < GRAD_COUNT; k++) {
        if (!pfo_present(grads[k])) continue;
        present = 1;
        pfo_status status = check_grad(&args->in, k, grads[k], names[k], weight_alike, error);
        for (int v = 0; status == PFO_OK && v < PFO_LINEAR_VECTORS; v++)
            status = pfo_check_disjoint(grads[k], names[k], vectors[v], vector_names[v], error);
        for (int other = 0; status == PFO_OK && other < k; other++)
            if (pfo_present(grads[other]))
                status = pfo_check_disjoint(grads[k], names[k], grads[other], names[other], error);
        if (status == PFO_OK) status = pfo_check_disjoint(grads[k], names[k], &args->kept, "kept", error);
        if (status != PFO_OK) return status;
    }
    if (!present) return pfo_fail(error, PFO_ERROR_MISSING, "grad_hidden", -1, "expected at least one gradient");
    return PFO_OK;
}

pfo_status pfo_check_linear_token_logps_grad(const pfo_linear_token_logps_grad_args *args, int64_t kept_rows,
                                             int weight_alike, pfo_error *error)
{
    pfo_status status = check_vectors(args, error);
    if (status == PFO_OK) status = check_grads(args, weight_alike, error);
    if (status == PFO_OK && pfo_present(&args->kept)) status = check_kept(&args->in, &args->kept, kept_rows, error);
    return status;
}

/* ---- states of a vocabulary's parts ----------------------------------------------------------------------------- */

void pfo_row_states_outputs(const pfo_row_states_args *args, const pfo_view *outputs[PFO_TOKEN_OUTPUTS])
{
    outputs[PFO_TOKEN_LOGPS] = &args->logps;
    outputs[PFO_TOKEN_LSE] = &args->lse;
    outputs[PFO_TOKEN_ENTROPY] = &args->entropy;
    outputs[PFO_TOKEN_CORRECT] = &args->correct;
    outputs[PFO_TOKEN_MEAN_LOGIT] = &args->mean_logit;
    outputs[PFO_TOKEN_MAX_LOGIT] = &args->max_logit;
    outputs[PFO_TOKEN_LSE2] = &args->lse2;
}

static pfo_status check_states(const pfo_view *states, const pfo_view *labels, pfo_error *error)
{
    pfo_status status = pfo_check_array(labels, "labels", PFO_SET_INTEGER, error);
    if (status == PFO_OK) status = pfo_check_array(states, "states", PFO_SET_FLOAT, error);
    if (status == PFO_OK) status = pfo_check_dtype_is(states, "states", PFO_F64, error);
    if (status != PFO_OK) return status;
    int fits = states->ndim == labels->ndim + 2 && states->shape[states->ndim - 1] == PFO_ROW_STATE_FIELDS;
    for (int32_t axis = 0; fits && axis < labels->ndim; axis++) fits = states->shape[axis + 1] == labels->shape[axis];
    if (!fits)
        return pfo_fail(error, PFO_ERROR_SHAPE, "states", -1, "expected [parts, *labels, %d]", PFO_ROW_STATE_FIELDS);
    return pfo_check_contiguous(states, "states", error);
}

pfo_status pfo_check_row_states(const pfo_row_states_args *args, pfo_error *error)
{
    const pfo_view *states = &args->states, *labels = &args->labels;
    const pfo_view *stats[PFO_TOKEN_OUTPUTS];
    pfo_row_states_outputs(args, stats);
    pfo_status status = check_states(states, labels, error);
    for (int k = 0; status == PFO_OK && k < PFO_TOKEN_OUTPUTS; k++) {
        if (!pfo_present(stats[k])) continue;
        const int sets = k == PFO_TOKEN_CORRECT ? PFO_SET_BOOL : PFO_SET_FLOAT;
        status = pfo_check_array(stats[k], pfo_token_output_names[k], sets, error);
        if (status == PFO_OK)
            status = pfo_check_leading(stats[k], pfo_token_output_names[k], labels, 0, "labels", error);
        if (status == PFO_OK) status = pfo_check_writable_strides(stats[k], pfo_token_output_names[k], error);
        if (status == PFO_OK) status = pfo_check_disjoint(stats[k], pfo_token_output_names[k], states, "states", error);
        if (status == PFO_OK) status = pfo_check_disjoint(stats[k], pfo_token_output_names[k], labels, "labels", error);
        for (int other = 0; status == PFO_OK && other < k; other++)
            status = pfo_check_disjoint(stats[k], pfo_token_output_names[k], stats[other],
                                        pfo_token_output_names[other], error);
    }
    return status;
}
