/* Statistics of two rows of logits, a policy's and a reference's: part of prefopt.h, which includes this file. */
#ifndef PREFOPT_PAIR_H
#define PREFOPT_PAIR_H

typedef struct pfo_pair_token_stats_args {
    pfo_view policy_logits, ref_logits; /* [..., V] f16|bf16|f32|f64, one shape and dtype, any strides but a contiguous
                                           last axis; x = policy_logits / temperature, y = ref_logits / temperature */
    pfo_view labels;                    /* [...] any integer type; ignore_index marks rows that are not read */
    int64_t ignore_index;
    double temperature;  /* from 1e-30 to 1e30 */
    double perturbation; /* eps in (0, 1) of the perturbed logits; used with plus_logps or minus_logps only */
    /* Outputs, each [...] f32 (f64 for f64 logits; the two lse may be f64 always), or pfo_view_none().  Ignored rows
     * get 0.  They may not overlap each other or an input. */
    pfo_view policy_logps, ref_logps; /* log p[label], log r[label], p = softmax(x), r = softmax(y) */
    pfo_view policy_lse, ref_lse;
    pfo_view ref_policy_kl; /* KL(r || p) = sum r (log r - log p), never negative */
    pfo_view policy_ref_kl; /* KL(p || r) */
    pfo_view plus_logps;    /* log-probability of label under softmax(x + eps (x - y)) */
    pfo_view minus_logps;   /* the same under softmax(x - eps (x - y)) */
} pfo_pair_token_stats_args;

/* One read of both logits (TDPO, arXiv 2404.11999; eps-DPO, arXiv 2502.13177).  An entry of probability 0 under the
 * first argument of a divergence adds nothing to it; one of probability 0 only under the second makes it inf.  An
 * entry that the policy rules out (-inf) is ruled out of the perturbed softmaxes; one that the reference alone rules
 * out makes plus_logps NaN.  A row whose x or y is all -inf or holds +inf or NaN has NaN where that row enters.
 * Returns PFO_OK or any of DTYPE, SHAPE, STRIDE, LABEL, VALUE, OVERLAP, ISA, MISSING. */
PFO_API pfo_pair_token_stats_args pfo_pair_token_stats_args_default(void);
PFO_API pfo_status pfo_pair_token_stats(const pfo_pair_token_stats_args *args, pfo_error *error);

typedef struct pfo_pair_token_stats_grad_args {
    pfo_view policy_logits, ref_logits, labels; /* as in pfo_pair_token_stats */
    pfo_view policy_lse, ref_lse;               /* [...] f32|f64: what it returned; f64 is exact to the last bit of p */
    pfo_view policy_ref_kl;                     /* [...] what it returned; needed with grad_policy_ref_kl only */
    /* d loss / d output, each [...] f32|f64 or pfo_view_none(); at least one is present. */
    pfo_view grad_policy_logps, grad_ref_policy_kl, grad_policy_ref_kl;
    int64_t ignore_index;
    double temperature;
    pfo_view
        out; /* [..., V], dtype of the logits, last axis contiguous; policy_logits or ref_logits itself is allowed */
} pfo_pair_token_stats_grad_args;

/* out = d loss / d policy_logits; the reference has no gradient.  With g1, g2, g3 the three gradients:
 *     out[v] = (g1 ([v == label] - p_v) + g2 (p_v - r_v) + g3 p_v (log p_v - log r_v - KL(p || r))) / temperature
 * Ignored rows become 0; a row whose lse is infinite or NaN becomes NaN. */
PFO_API pfo_pair_token_stats_grad_args pfo_pair_token_stats_grad_args_default(void);
PFO_API pfo_status pfo_pair_token_stats_grad(const pfo_pair_token_stats_grad_args *args, pfo_error *error);

#endif
