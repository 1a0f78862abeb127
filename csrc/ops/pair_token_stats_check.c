/* The checks of pair_token_stats and its gradient. */
#include "checks.h"

static const char *const output_names[PFO_PAIR_OUTPUTS] = {"policy_logps", "ref_logps",     "policy_lse",
                                                           "ref_lse",      "ref_policy_kl", "policy_ref_kl",
                                                           "plus_logps",   "minus_logps"};

void pfo_pair_outputs(const pfo_pair_token_stats_args *args, const pfo_view *outputs[PFO_PAIR_OUTPUTS])
{
    outputs[PFO_PAIR_POLICY_LOGPS] = &args->policy_logps;
    outputs[PFO_PAIR_REF_LOGPS] = &args->ref_logps;
    outputs[PFO_PAIR_POLICY_LSE] = &args->policy_lse;
    outputs[PFO_PAIR_REF_LSE] = &args->ref_lse;
    outputs[PFO_PAIR_REF_POLICY_KL] = &args->ref_policy_kl;
    outputs[PFO_PAIR_POLICY_REF_KL] = &args->policy_ref_kl;
    outputs[PFO_PAIR_PLUS_LOGPS] = &args->plus_logps;
    outputs[PFO_PAIR_MINUS_LOGPS] = &args->minus_logps;
}

/* Two rows of logits that are read together have one shape and one dtype. */
static pfo_status check_logits(const pfo_view *policy, const pfo_view *ref, const pfo_view *labels, pfo_error *error)
{
    pfo_status status = pfo_check_logits(policy, "policy_logits", error);
    if (status == PFO_OK) status = pfo_check_logits(ref, "ref_logits", error);
    if (status == PFO_OK) status = pfo_check_dtype_is(ref, "ref_logits", policy->dtype, error);
    if (status == PFO_OK) status = pfo_check_leading(ref, "ref_logits", policy, 0, "policy_logits", error);
    if (status == PFO_OK) status = pfo_check_label_array(labels, policy, "policy_logits", error);
    return status;
}

static pfo_status check_outputs(const pfo_pair_token_stats_args *args, pfo_error *error)
{
    const int32_t result = args->policy_logits.dtype == PFO_F64 ? PFO_F64 : PFO_F32;
    const pfo_view *inputs[] = {&args->policy_logits, &args->ref_logits, &args->labels};
    static const char *const input_names[] = {"policy_logits", "ref_logits", "labels"};
    const pfo_view *outputs[PFO_PAIR_OUTPUTS];
    pfo_pair_outputs(args, outputs);
    for (int k = 0; k < PFO_PAIR_OUTPUTS; k++) {
        if (!pfo_present(outputs[k])) continue;
        const char *name = output_names[k];
        pfo_status status = pfo_check_array(outputs[k], name, PFO_SET_FLOAT, error);
        const int is_lse = k == PFO_PAIR_POLICY_LSE || k == PFO_PAIR_REF_LSE;
        if (status == PFO_OK && !(is_lse && outputs[k]->dtype == PFO_F64))
            status = pfo_check_dtype_is(outputs[k], name, result, error);
        if (status == PFO_OK)
            status = pfo_check_leading(outputs[k], name, &args->policy_logits, 1, "policy_logits", error);
        if (status == PFO_OK) status = pfo_check_writable_strides(outputs[k], name, error);
        for (int other = 0; status == PFO_OK && other < 3; other++)
            status = pfo_check_disjoint(outputs[k], name, inputs[other], input_names[other], error);
        for (int other = 0; status == PFO_OK && other < k; other++)
            status = pfo_check_disjoint(outputs[k], name, outputs[other], output_names[other], error);
        if (status != PFO_OK) return status;
    }
    return PFO_OK;
}

pfo_status pfo_check_pair_token_stats(const pfo_pair_token_stats_args *args, pfo_error *error)
{
    pfo_status status = pfo_check_temperature(args->temperature, error);
    if (status == PFO_OK && !(args->perturbation > 0.0 && args->perturbation < 1.0)) /* false for NaN */
        status = pfo_fail(error, PFO_ERROR_VALUE, "perturbation", -1, "expected a number in (0, 1), got %g",
                          args->perturbation);
    if (status == PFO_OK) status = check_logits(&args->policy_logits, &args->ref_logits, &args->labels, error);
    if (status == PFO_OK) status = check_outputs(args, error);
    return status;
}

/* ---- the gradient ---------------------------------------------------------------------------------------------- */

static const char *const vector_names[PFO_PAIR_GRAD_VECTORS] = {
    "policy_lse", "ref_lse", "policy_ref_kl", "grad_policy_logps", "grad_ref_policy_kl", "grad_policy_ref_kl"};

void pfo_pair_grad_vectors(const pfo_pair_token_stats_grad_args *args, const pfo_view *vectors[PFO_PAIR_GRAD_VECTORS])
{
    vectors[PFO_PAIR_GRAD_BY_POLICY_LSE] = &args->policy_lse;
    vectors[PFO_PAIR_GRAD_BY_REF_LSE] = &args->ref_lse;
    vectors[PFO_PAIR_GRAD_BY_POLICY_REF_KL] = &args->policy_ref_kl;
    vectors[PFO_PAIR_GRAD_OF_POLICY_LOGPS] = &args->grad_policy_logps;
    vectors[PFO_PAIR_GRAD_OF_REF_POLICY_KL] = &args->grad_ref_policy_kl;
    vectors[PFO_PAIR_GRAD_OF_POLICY_REF_KL] = &args->grad_policy_ref_kl;
}

static pfo_status check_vectors(const pfo_pair_token_stats_grad_args *args, const pfo_view *vectors[], pfo_error *error)
{
    pfo_status status = PFO_OK;
    for (int k = 0; status == PFO_OK && k < PFO_PAIR_GRAD_VECTORS; k++) {
        const int required = k == PFO_PAIR_GRAD_BY_POLICY_LSE || k == PFO_PAIR_GRAD_BY_REF_LSE;
        if (!pfo_present(vectors[k]) && !required) continue;
        status = pfo_check_array(vectors[k], vector_names[k], PFO_SET_FLOAT, error);
        if (status == PFO_OK)
            status = pfo_check_leading(vectors[k], vector_names[k], &args->policy_logits, 1, "policy_logits", error);
    }
    if (status != PFO_OK) return status;
    if (!pfo_present(&args->grad_policy_logps) && !pfo_present(&args->grad_ref_policy_kl) &&
        !pfo_present(&args->grad_policy_ref_kl))
        return pfo_fail(
            error, PFO_ERROR_MISSING, "grad_policy_logps", -1,
            "expected at least one of grad_policy_logps, grad_ref_policy_kl and grad_policy_ref_kl, got none");
    if (pfo_present(&args->grad_policy_ref_kl) && !pfo_present(&args->policy_ref_kl))
        return pfo_fail(error, PFO_ERROR_MISSING, "policy_ref_kl", -1,
                        "expected the forward's policy_ref_kl with grad_policy_ref_kl, got none");
    return PFO_OK;
}

static pfo_status check_out(const pfo_pair_token_stats_grad_args *args, const pfo_view *vectors[], pfo_error *error)
{
    const pfo_view *out = &args->out, *policy = &args->policy_logits, *ref = &args->ref_logits;
    pfo_status status = pfo_check_logits(out, "out", error);
    if (status == PFO_OK) status = pfo_check_dtype_is(out, "out", policy->dtype, error);
    if (status == PFO_OK) status = pfo_check_leading(out, "out", policy, 0, "policy_logits", error);
    if (status == PFO_OK) status = pfo_check_writable_strides(out, "out", error);
    if (status == PFO_OK && !pfo_same_view(out, policy))
        status = pfo_check_disjoint(out, "out", policy, "policy_logits", error);
    if (status == PFO_OK && !pfo_same_view(out, ref)) status = pfo_check_disjoint(out, "out", ref, "ref_logits", error);
    if (status == PFO_OK) status = pfo_check_disjoint(out, "out", &args->labels, "labels", error);
    for (int k = 0; status == PFO_OK && k < PFO_PAIR_GRAD_VECTORS; k++)
        status = pfo_check_disjoint(out, "out", vectors[k], vector_names[k], error);
    return status;
}

pfo_status pfo_check_pair_token_stats_grad(const pfo_pair_token_stats_grad_args *args, pfo_error *error)
{
    const pfo_view *vectors[PFO_PAIR_GRAD_VECTORS];
    pfo_pair_grad_vectors(args, vectors);
    pfo_status status = pfo_check_temperature(args->temperature, error);
    if (status == PFO_OK) status = check_logits(&args->policy_logits, &args->ref_logits, &args->labels, error);
    if (status == PFO_OK) status = check_vectors(args, vectors, error);
    if (status == PFO_OK) status = check_out(args, vectors, error);
    return status;
}
