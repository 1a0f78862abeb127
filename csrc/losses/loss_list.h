/* The losses, one row each.  Include this file with LOSS defined; it is undefined at the end.
 *
 * LOSS(family, variant, kind, tokens, coupling,
 *      INPUTS(...), PARAMS(...), REWARDS(...), STATE(...), FORMULA(...), KINK(...), SOURCE(...))
 *
 *   kind, tokens  the part of pfo_loss_kind, pfo_loss_tokens after PFO_KIND_, PFO_TOKENS_
 *   coupling      how the batch is coupled, a row of batch.inc; NONE: each loss is a function of its own inputs
 *   INPUTS        GRAD(name) differentiable, FIXED(name) a constant; GRAD_OR(name, absent) and FIXED_OR(name, absent)
 *                 the same but optional, with the value that an absent one counts as; types, meanings: field_list.h
 *   PARAMS        REAL(name, default, low end, high end); ends: ABOVE(x), BELOW(x) exclude x, FROM(x), UP_TO(x)
 *                 include it; a default of PFO_NO_DEFAULT is made from the inputs
 *   REWARDS       REWARD(name), or NO_REWARD
 *   STATE         names of explicit state that goes in and out
 *   KINK          where there is no derivative, and what is returned there
 *
 * To add a loss: a row here, family_variant() in its family's .inc, one function in tests/oracle/losses.py and in
 * prefopt/reference.  The enum, the descriptor table, the C switch, Python's names, defaults and range checks, the docs
 * table and the tests' cases all come from this row.
 */
/* clang-format off: a row is laid out by hand */

LOSS(dpo, sigmoid, PAIR, SUM, NONE,
     INPUTS(GRAD(policy_chosen_logps), GRAD(policy_rejected_logps), FIXED(ref_chosen_logps), FIXED(ref_rejected_logps)),
     PARAMS(REAL(beta, 0.1, ABOVE(0), BELOW(INFINITY)), REAL(label_smoothing, 0.0, FROM(0), BELOW(0.5))),
     REWARDS(REWARD(chosen_rewards), REWARD(rejected_rewards)), STATE(""),
     FORMULA("-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h), h = (pi_w - ref_w) - (pi_l - ref_l)"), KINK(""),
     SOURCE("Rafailov et al. 2023, arXiv 2305.18290, eq. 7; label smoothing: Mitchell 2023, cDPO note, eq. 3"))

LOSS(dpo, ipo, PAIR, LENGTHS, NONE,
     INPUTS(GRAD(policy_chosen_logps), GRAD(policy_rejected_logps), FIXED(ref_chosen_logps), FIXED(ref_rejected_logps),
            FIXED_OR(chosen_lengths, 1), FIXED_OR(rejected_lengths, 1)),
     PARAMS(REAL(beta, 0.1, ABOVE(0), BELOW(INFINITY))), REWARDS(REWARD(chosen_rewards), REWARD(rejected_rewards)),
     STATE(""), FORMULA("(h - 1 / (2 beta))^2, h = (pi_w - ref_w) / N_w - (pi_l - ref_l) / N_l; no lengths: N = 1"),
     KINK(""), SOURCE("Azar et al. 2023, arXiv 2310.12036, eq. 17; lengths: its authors, see huggingface/trl#1265"))

LOSS(kto, kto, UNPAIRED, SUM, NONE, INPUTS(GRAD(policy_logps), FIXED(ref_logps), FIXED(desirable), FIXED(kl)),
     PARAMS(REAL(beta, 0.1, ABOVE(0), BELOW(INFINITY)), REAL(desirable_weight, 1.0, FROM(0), BELOW(INFINITY)),
            REAL(undesirable_weight, 1.0, FROM(0), BELOW(INFINITY))),
     REWARDS(REWARD(rewards)), STATE(""),
     FORMULA("desirable: lambda_D (1 - sigmoid(beta (r - z0))); undesirable: lambda_U (1 - sigmoid(beta (z0 - r))); "
             "r = pi - ref, z0 = kl"),
     KINK(""), SOURCE("Ethayarajh et al. 2024, arXiv 2402.01306, section 4.1"))

LOSS(cpo, sigmoid, PAIR, SUM, CHOSEN_NLL,
     INPUTS(GRAD(policy_chosen_logps), GRAD(policy_rejected_logps), GRAD_OR(chosen_nll, 0),
            FIXED_OR(chosen_lengths, 0)),
     PARAMS(REAL(beta, 0.1, ABOVE(0), BELOW(INFINITY)), REAL(label_smoothing, 0.0, FROM(0), BELOW(0.5)),
            REAL(cpo_alpha, 1.0, FROM(0), BELOW(INFINITY)),
            REAL(nll_tokens, PFO_NO_DEFAULT, ABOVE(0), BELOW(INFINITY))),
     REWARDS(REWARD(chosen_rewards), REWARD(rejected_rewards)), STATE(""),
     FORMULA("-(1 - e) log sigmoid(beta u) - e log sigmoid(-beta u) + cpo_alpha sum(chosen_nll) / nll_tokens, "
             "u = pi_w - pi_l"),
     KINK(""), SOURCE("Xu et al. 2024, arXiv 2401.08417, eq. 3, and its NLL regulariser"))

LOSS(sft, nll, UNPAIRED, SUM, TOKEN_MEAN, INPUTS(GRAD(policy_logps), FIXED_OR(lengths, 0)),
     PARAMS(REAL(nll_tokens, PFO_NO_DEFAULT, ABOVE(0), BELOW(INFINITY))), REWARDS(NO_REWARD), STATE(""),
     FORMULA("-pi B / nll_tokens: the mean over the batch is the mean over its tokens"), KINK(""),
     SOURCE("maximum likelihood; the token mean of huggingface/trl 1.16"))

#undef LOSS
