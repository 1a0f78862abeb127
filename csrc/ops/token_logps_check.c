/* The checks of token_logps and its gradient. */
#include "checks.h"

const char *const pfo_token_output_names[PFO_TOKEN_OUTPUTS] = {"logps",      "lse",       "entropy", "correct",
                                                               "mean_logit", "max_logit", "lse2"};

void pfo_token_outputs(const pfo_token_logps_args *args, const pfo_view *outputs[PFO_TOKEN_OUTPUTS])
{
    outputs[PFO_TOKEN_LOGPS] = &args->logps;
    outputs[PFO_TOKEN_LSE] = &args->lse;
    outputs[PFO_TOKEN_ENTROPY] = &args->entropy;
    outputs[PFO_TOKEN_CORRECT] = &args->correct;
    outputs[PFO_TOKEN_MEAN_LOGIT] = &args->mean_logit;
    outputs[PFO_TOKEN_MAX_LOGIT] = &args->max_logit;
    outputs[PFO_TOKEN_LSE2] = &args->lse2;
}

static pfo_status check_outputs(const pfo_token_logps_args *args, pfo_error *error)
{
    const int32_t result = args->logits.dtype == PFO_F64 ? PFO_F64 : PFO_F32;
    const pfo_view *outputs[PFO_TOKEN_OUTPUTS];
    pfo_token_outputs(args, outputs);
    for (int k = 0; k < PFO_TOKEN_OUTPUTS; k++) {
        if (!pfo_present(outputs[k])) continue;
        const char *name = pfo_token_output_names[k];
        pfo_status status =
            pfo_check_array(outputs[k], name, k == PFO_TOKEN_CORRECT ? PFO_SET_BOOL : PFO_SET_FLOAT, error);
        /* lse may be asked for in double: a gradient from it is exact to the last bit of p (see token_logps_grad). */
        const int any_float = k == PFO_TOKEN_LSE && outputs[k]->dtype == PFO_F64;
        if (status == PFO_OK && k != PFO_TOKEN_CORRECT && !any_float)
            status = pfo_check_dtype_is(outputs[k], name, result, error);
        if (status == PFO_OK) status = pfo_check_leading(outputs[k], name, &args->logits, 1, "logits", error);
        if (status == PFO_OK) status = pfo_check_writable_strides(outputs[k], name, error);
        if (status == PFO_OK) status = pfo_check_disjoint(outputs[k], name, &args->logits, "logits", error);
        if (status == PFO_OK) status = pfo_check_disjoint(outputs[k], name, &args->labels, "labels", error);
        for (int other = 0; status == PFO_OK && other < k; other++)
            status = pfo_check_disjoint(outputs[k], name, outputs[other], pfo_token_output_names[other], error);
        if (status != PFO_OK) return status;
    }
    return PFO_OK;
}

pfo_status pfo_check_token_logps(const pfo_token_logps_args *args, pfo_error *error)
{
    pfo_status status = pfo_check_temperature(args->temperature, error);
    if (status == PFO_OK) status = pfo_check_logits(&args->logits, "logits", error);
    if (status == PFO_OK) status = pfo_check_label_array(&args->labels, &args->logits, "logits", error);
    if (status == PFO_OK) status = check_outputs(args, error);
    return status;
}

/* ---- the gradient ---------------------------------------------------------------------------------------------- */

static const char *const vector_names[PFO_TOKEN_GRAD_VECTORS] = {"lse",        "logps",        "entropy",
                                                                 "grad_logps", "grad_entropy", "grad_lse"};

void pfo_token_grad_vectors(const pfo_token_logps_grad_args *args, const pfo_view *vectors[PFO_TOKEN_GRAD_VECTORS])
{
    vectors[PFO_TOKEN_GRAD_BY_LSE] = &args->lse;
    vectors[PFO_TOKEN_GRAD_BY_LOGPS] = &args->logps;
    vectors[PFO_TOKEN_GRAD_BY_ENTROPY] = &args->entropy;
    vectors[PFO_TOKEN_GRAD_OF_LOGPS] = &args->grad_logps;
    vectors[PFO_TOKEN_GRAD_OF_ENTROPY] = &args->grad_entropy;
    vectors[PFO_TOKEN_GRAD_OF_LSE] = &args->grad_lse;
}

static pfo_status check_vectors(const pfo_token_logps_grad_args *args, const pfo_view *vectors[], pfo_error *error)
{
    pfo_status status = PFO_OK;
    for (int k = 0; status == PFO_OK && k < PFO_TOKEN_GRAD_VECTORS; k++) {
        if (!pfo_present(vectors[k]) && k != PFO_TOKEN_GRAD_BY_LSE) continue;
        status = pfo_check_array(vectors[k], vector_names[k], PFO_SET_FLOAT, error);
        if (status == PFO_OK)
            status = pfo_check_leading(vectors[k], vector_names[k], &args->logits, 1, "logits", error);
    }
    if (status != PFO_OK) return status;
    if (!pfo_present(&args->grad_logps) && !pfo_present(&args->grad_entropy) && !pfo_present(&args->grad_lse))
        return pfo_fail(error, PFO_ERROR_MISSING, "grad_logps", -1,
                        "expected at least one of grad_logps, grad_entropy and grad_lse, got none");
    if (pfo_present(&args->grad_entropy) && !pfo_present(&args->entropy))
        return pfo_fail(error, PFO_ERROR_MISSING, "entropy", -1,
                        "expected the forward's entropy with grad_entropy, got none");
    return PFO_OK;
}

static pfo_status check_out(const pfo_token_logps_grad_args *args, const pfo_view *vectors[], pfo_error *error)
{
    const pfo_view *out = &args->out, *logits = &args->logits;
    pfo_status status = pfo_check_logits(out, "out", error);
    if (status == PFO_OK) status = pfo_check_dtype_is(out, "out", logits->dtype, error);
    if (status == PFO_OK) status = pfo_check_leading(out, "out", logits, 0, "logits", error);
    if (status == PFO_OK) status = pfo_check_writable_strides(out, "out", error);
    if (status == PFO_OK && !pfo_same_view(out, logits))
        status = pfo_check_disjoint(out, "out", logits, "logits", error);
    if (status == PFO_OK) status = pfo_check_disjoint(out, "out", &args->labels, "labels", error);
    for (int k = 0; status == PFO_OK && k < PFO_TOKEN_GRAD_VECTORS; k++)
        status = pfo_check_disjoint(out, "out", vectors[k], vector_names[k], error);
    return status;
}

pfo_status pfo_check_token_logps_grad(const pfo_token_logps_grad_args *args, pfo_error *error)
{
    const pfo_view *vectors[PFO_TOKEN_GRAD_VECTORS];
    pfo_token_grad_vectors(args, vectors);
    pfo_status status = pfo_check_temperature(args->temperature, error);
    if (status == PFO_OK) status = pfo_check_logits(&args->logits, "logits", error);
    if (status == PFO_OK) status = pfo_check_label_array(&args->labels, &args->logits, "logits", error);
    if (status == PFO_OK) status = check_vectors(args, vectors, error);
    if (status == PFO_OK) status = check_out(args, vectors, error);
    return status;
}
