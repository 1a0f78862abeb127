/* The losses, one row each.  Include this file with LOSS defined; it is undefined at the end.
 *
 * LOSS(family, variant, kind, tokens, program,
 *      INPUTS(...), PARAMS(...), OUTPUTS(...), STATE(...), FORMULA(...), KINK(...), SOURCE(...))
 *
 *   kind, tokens  the part of pfo_loss_kind, pfo_loss_tokens after PFO_KIND_, PFO_TOKENS_
 *   program       how elements are put together, a row of program_list.h; NONE: each loss depends on its own inputs
 *   INPUTS        GRAD(name) differentiable, FIXED(name) a constant; GRAD_OR(name, absent) and FIXED_OR(name, absent)
 *                 the same but optional, with the value that an absent one counts as; types, meanings: field_list.h
 *   PARAMS        REAL(name, default, low end, high end); ends: ABOVE(x), BELOW(x) exclude x, FROM(x), UP_TO(x)
 *                 include it; a default of PFO_NO_DEFAULT is made from the inputs; CHOICE(name, default) is one of the
 *                 words of field_list.h
 *   OUTPUTS       REWARD(name): the rewards of a loss, or what a procedure makes; NO_OUTPUT
 *   STATE         names of explicit state that goes in and out, or what makes it
 *   KINK          where there is no derivative, and what is returned there
 *
 * Notation: pi policy, ref reference, w chosen, l rejected; D_s = pi_s - ref_s, D = D_w - D_l; N_s answer tokens;
 * a_s = pi_s / N_s; g(D) the log-ratio under the chosen f-divergence (D itself for reverse_kl); e label_smoothing;
 * sg(x) a constant.
 *
 * To add a loss: a row here, family_variant() in its family's .inc, one function in tests/oracle and in
 * prefopt/reference, and a line in tools/loss_tex.py.  The enum, the descriptor table, the C switch, Python's
 * functions, defaults and range checks, the docs and the tests' cases all come from this row.
 */
/* A row is laid out by hand. */
/* clang-format off */

#define PFO_POLICY GRAD(policy_chosen_logps), GRAD(policy_rejected_logps)
#define PFO_PAIR PFO_POLICY, FIXED(ref_chosen_logps), FIXED(ref_rejected_logps)
#define PFO_LENGTHS FIXED(chosen_lengths), FIXED(rejected_lengths)
#define PFO_LENGTHS_OR_ONE FIXED_OR(chosen_lengths, 1), FIXED_OR(rejected_lengths, 1)
#define PFO_WEIGHTS FIXED_OR(chosen_weights, 1), FIXED_OR(rejected_weights, 1)
#define PFO_BETA REAL(beta, 0.1, ABOVE(0), BELOW(INFINITY))
#define PFO_SMOOTHING REAL(label_smoothing, 0.0, FROM(0), BELOW(0.5))
#define PFO_DIVERGENCE CHOICE(f_divergence_type, 0), \
    REAL(f_alpha_divergence_coef, 0.5, ABOVE(-INFINITY), BELOW(INFINITY)), \
    REAL(f_exponent_cap, INFINITY, ABOVE(0), UP_TO(INFINITY))
#define PFO_PAIR_REWARDS OUTPUTS(REWARD(chosen_rewards), REWARD(rejected_rewards))
#define PFO_CHOSEN_NLL GRAD_OR(chosen_nll, 0)
#define PFO_NLL_TOKENS REAL(nll_tokens, PFO_NO_DEFAULT, ABOVE(0), BELOW(INFINITY))
#define PFO_CPO_PARAMS PFO_BETA, REAL(alpha, 0.0, ABOVE(-INFINITY), BELOW(INFINITY)), \
    REAL(cpo_alpha, 1.0, FROM(0), BELOW(INFINITY)), PFO_NLL_TOKENS
#define PFO_TPO_NLL GRAD_OR(gold_nll, 0), FIXED_OR(gold_lengths, 0)
#define PFO_TPO_PARAMS PFO_BETA, REAL(tpo_alpha, 1.0, FROM(0), BELOW(INFINITY)), PFO_NLL_TOKENS
#define PFO_GROUP GRAD(logps), FIXED(advantages), FIXED_OR(old_logps, NAN), FIXED_OR(ref_token_logps, NAN), \
    FIXED_OR(mask, 1)
#define PFO_CLIP REAL(epsilon, 0.2, FROM(0), UP_TO(INFINITY)), \
    REAL(epsilon_high, PFO_NO_DEFAULT, FROM(0), UP_TO(INFINITY))
#define PFO_GROUP_KL REAL(kl_beta, 0.0, FROM(0), BELOW(INFINITY))
#define PFO_CAP REAL(delta, INFINITY, ABOVE(0), UP_TO(INFINITY))

#include "rows_pairs.h"
#include "rows_singles.h"
#include "rows_tokens.h"

#undef PFO_POLICY
#undef PFO_PAIR
#undef PFO_LENGTHS
#undef PFO_LENGTHS_OR_ONE
#undef PFO_WEIGHTS
#undef PFO_BETA
#undef PFO_SMOOTHING
#undef PFO_DIVERGENCE
#undef PFO_PAIR_REWARDS
#undef PFO_CHOSEN_NLL
#undef PFO_NLL_TOKENS
#undef PFO_CPO_PARAMS
#undef PFO_TPO_NLL
#undef PFO_TPO_PARAMS
#undef PFO_GROUP
#undef PFO_CLIP
#undef PFO_GROUP_KL
#undef PFO_CAP
#undef LOSS
