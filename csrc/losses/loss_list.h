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

LOSS(dpo, sigmoid, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, PFO_WEIGHTS),
     PARAMS(PFO_BETA, PFO_SMOOTHING, PFO_DIVERGENCE),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d), d = g(D_w) - g(D_l)"),
     KINK(""),
     SOURCE("Rafailov et al. 2023, arXiv 2305.18290, eq. 7; label smoothing: Mitchell 2023, cDPO note, eq. 3; "
             "f-divergences: Wang et al. 2023, arXiv 2309.16240, table 1"))

LOSS(dpo, robust, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, PFO_WEIGHTS),
     PARAMS(PFO_BETA, PFO_SMOOTHING, PFO_DIVERGENCE),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("(-(1 - e) log sigmoid(beta d) + e log sigmoid(-beta d)) / (1 - 2 e), d = g(D_w) - g(D_l)"),
     KINK(""),
     SOURCE("Chowdhury et al. 2024, arXiv 2403.00409, eq. 12"))

LOSS(dpo, hinge, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, PFO_WEIGHTS),
     PARAMS(PFO_BETA, PFO_DIVERGENCE),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("max(0, 1 - beta d), d = g(D_w) - g(D_l)"),
     KINK("gradient 0 at beta d = 1"),
     SOURCE("Zhao et al. 2023, SLiC-HF, arXiv 2305.10425, on log-ratios as in RSO, Liu et al. 2023, arXiv "
             "2309.06657, section 3"))

LOSS(dpo, ipo, PAIR, LENGTHS, NONE,
     INPUTS(PFO_PAIR, PFO_LENGTHS_OR_ONE, PFO_WEIGHTS),
     PARAMS(PFO_BETA, PFO_DIVERGENCE),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("(g(D_w) / N_w - g(D_l) / N_l - 1 / (2 beta))^2; no lengths: N = 1"),
     KINK(""),
     SOURCE("Azar et al. 2023, arXiv 2310.12036, eq. 17; lengths: its authors, see huggingface/trl#1265"))

LOSS(dpo, exo_pair, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, PFO_WEIGHTS),
     PARAMS(PFO_BETA, REAL(label_smoothing, 0.001, ABOVE(0), BELOW(0.5)), PFO_DIVERGENCE),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("q (log q - log(1 - e)) + (1 - q) (log(1 - q) - log e), q = sigmoid(beta d), d = g(D_w) - g(D_l)"),
     KINK(""),
     SOURCE("Ji et al. 2024, arXiv 2402.00856, eq. 16"))

LOSS(dpo, nca_pair, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, PFO_WEIGHTS),
     PARAMS(PFO_BETA),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-log sigmoid(beta D_w) - 1/2 log sigmoid(-beta D_w) - 1/2 log sigmoid(-beta D_l)"),
     KINK(""),
     SOURCE("Chen et al. 2024, arXiv 2402.05369, eq. 11 for pairs"))

LOSS(dpo, sppo_hard, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, PFO_WEIGHTS),
     PARAMS(PFO_BETA),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("(D_w - 1 / (2 beta))^2 + (D_l + 1 / (2 beta))^2"),
     KINK(""),
     SOURCE("Wu et al. 2024, arXiv 2405.00675, eq. 4.7 with hard win rates"))

LOSS(dpo, sppo_soft, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, FIXED(chosen_win_rates), FIXED(rejected_win_rates), PFO_WEIGHTS),
     PARAMS(PFO_BETA),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("(D_w - (P_w - 1/2) / beta)^2 + (D_l - (P_l - 1/2) / beta)^2"),
     KINK(""),
     SOURCE("Wu et al. 2024, arXiv 2405.00675, eq. 4.6"))

LOSS(dpo, bco_pair, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, FIXED_OR(delta, 0), PFO_WEIGHTS),
     PARAMS(PFO_BETA),
     PFO_PAIR_REWARDS,
     STATE("delta: bco_delta"),
     FORMULA("-log sigmoid(beta D_w - delta) - log sigmoid(-(beta D_l - delta))"),
     KINK(""),
     SOURCE("Jung et al. 2024, arXiv 2404.04656, eq. 10; delta = 0: huggingface/trl 1.16"))

LOSS(dpo, aot, PAIR, SUM, AOT,
     INPUTS(PFO_PAIR, FIXED_OR(gathered_policy_logratios, NAN), FIXED_OR(gathered_ref_logratios, NAN)),
     PARAMS(PFO_BETA, PFO_SMOOTHING, REAL(gather_offset, 0, FROM(0), BELOW(9007199254740992))),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-(1 - e) log sigmoid(beta u) - e log sigmoid(-beta u), u_(k) = x_(k) - y_(k), x = sort(pi_w - pi_l),"
              " y = sort(ref_w - ref_l)"),
     KINK("ties keep the order of the batch"),
     SOURCE("Melnyk et al. 2024, arXiv 2406.05882, eq. 5 (paired)"))

LOSS(dpo, aot_unpaired, PAIR, SUM, AOT_UNPAIRED,
     INPUTS(PFO_PAIR, FIXED_OR(gathered_chosen_logratios, NAN), FIXED_OR(gathered_rejected_logratios, NAN)),
     PARAMS(PFO_BETA, PFO_SMOOTHING, REAL(gather_offset, 0, FROM(0), BELOW(9007199254740992))),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-(1 - e) log sigmoid(beta u) - e log sigmoid(-beta u), u_(k) = x_(k) - y_(k), x = sort(D_w), y = "
              "sort(D_l)"),
     KINK("ties keep the order of the batch"),
     SOURCE("Melnyk et al. 2024, arXiv 2406.05882, eq. 8 (unpaired)"))

LOSS(dpo, apo_zero, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, PFO_WEIGHTS),
     PARAMS(PFO_BETA),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("1 - sigmoid(beta D_w) + sigmoid(beta D_l)"),
     KINK(""),
     SOURCE("D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7"))

LOSS(dpo, apo_down, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, PFO_WEIGHTS),
     PARAMS(PFO_BETA),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("sigmoid(beta D_w) + 1 - sigmoid(beta (D_w - D_l))"),
     KINK(""),
     SOURCE("D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 8"))

LOSS(dpo, discopop, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, PFO_WEIGHTS),
     PARAMS(PFO_BETA, PFO_DIVERGENCE, REAL(discopop_tau, 0.05, ABOVE(0), BELOW(1))),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-log sigmoid(x) (1 - m) + exp(-x) m, x = beta d, m = sigmoid(x / tau), d = g(D_w) - g(D_l)"),
     KINK(""),
     SOURCE("Lu et al. 2024, arXiv 2406.08414, section 4.2 (log-ratio modulated loss)"))

LOSS(dpo, sigmoid_norm, PAIR, LENGTHS, NONE,
     INPUTS(PFO_PAIR, PFO_LENGTHS_OR_ONE, PFO_WEIGHTS),
     PARAMS(PFO_BETA, PFO_SMOOTHING, PFO_DIVERGENCE),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d), d = g(D_w) / N_w - g(D_l) / N_l"),
     KINK(""),
     SOURCE("Lambert et al. 2024 (Tulu 3), arXiv 2411.15124, eq. 6"))

LOSS(dpo, sft, PAIR, SUM, CHOSEN_TOKEN_MEAN,
     INPUTS(GRAD(policy_chosen_logps), FIXED_OR(policy_rejected_logps, 0), FIXED_OR(ref_chosen_logps, 0),
             FIXED_OR(ref_rejected_logps, 0), FIXED_OR(chosen_lengths, 0), PFO_WEIGHTS),
     PARAMS(PFO_BETA, PFO_NLL_TOKENS),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-pi_w B / nll_tokens: the mean over the batch is the mean over its chosen tokens"),
     KINK(""),
     SOURCE("maximum likelihood on the chosen answers; loss_type \"sft\" of huggingface/trl 1.16"))

LOSS(dpo, kto_pair, PAIR, SUM, KTO_PAIR,
     INPUTS(PFO_PAIR, FIXED_OR(chosen_kl_mean, NAN), FIXED_OR(rejected_kl_mean, NAN), PFO_WEIGHTS),
     PARAMS(PFO_BETA),
     PFO_PAIR_REWARDS,
     STATE("chosen_kl_mean, rejected_kl_mean: kto_kl of the two halves"),
     FORMULA("1/2 (1 - sigmoid(beta (D_w - z_l))) + 1/2 (1 - sigmoid(beta (z_w - D_l))), z_s = max(0, mean D_s), a"
              " constant"),
     KINK(""),
     SOURCE("loss_type \"kto_pair\" of huggingface/trl 0.7; Ethayarajh et al. 2024, arXiv 2402.01306"))

LOSS(rdpo, sigmoid, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, PFO_LENGTHS, PFO_WEIGHTS),
     PARAMS(PFO_BETA, REAL(rdpo_alpha, 0.1, ABOVE(-INFINITY), BELOW(INFINITY))),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-log sigmoid(beta D + alpha (N_w - N_l))"),
     KINK(""),
     SOURCE("Park et al. 2024, arXiv 2403.19159, eq. 9"))

LOSS(dpop, sigmoid, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, PFO_WEIGHTS),
     PARAMS(PFO_BETA, REAL(dpop_lambda, 50.0, FROM(0), BELOW(INFINITY))),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-log sigmoid(beta (D - lambda max(0, ref_w - pi_w)))"),
     KINK("penalty has gradient 0 at pi_w = ref_w"),
     SOURCE("Pal et al. 2024, arXiv 2402.13228, eq. 3"))

LOSS(odpo, sigmoid, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, FIXED(margins), PFO_WEIGHTS),
     PARAMS(PFO_BETA, REAL(odpo_alpha, 1.0, FROM(0), BELOW(INFINITY))),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-log sigmoid(beta D - alpha margin)"),
     KINK(""),
     SOURCE("Amini et al. 2024, arXiv 2402.10571, eq. 7"))

LOSS(cal_dpo, sigmoid, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, PFO_WEIGHTS),
     PARAMS(PFO_BETA, REAL(cal_weight, 0.5, FROM(0), BELOW(INFINITY))),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-log sigmoid(D) + weight ((D_w - 1 / (2 beta))^2 + (D_l + 1 / (2 beta))^2)"),
     KINK(""),
     SOURCE("Xiao et al. 2024, arXiv 2412.14516, eq. 11"))

LOSS(spin, sigmoid, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, PFO_WEIGHTS),
     PARAMS(PFO_BETA),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-log sigmoid(beta D), rejected answers made by the last iterate, which is the reference"),
     KINK(""),
     SOURCE("Chen et al. 2024, arXiv 2401.01335, eq. 4.7"))

LOSS(beta_dpo, sigmoid, PAIR, SUM, BETA_DPO,
     INPUTS(PFO_PAIR, FIXED_OR(keep, 1), FIXED_OR(gap_mean, NAN)),
     PARAMS(PFO_BETA, REAL(beta_dpo_alpha, 0.6, FROM(0), BELOW(INFINITY)), REAL(min_beta, 0.001, ABOVE(0),
             BELOW(INFINITY))),
     PFO_PAIR_REWARDS,
     STATE("gap_mean: beta_dpo_state"),
     FORMULA("-log sigmoid(b D) B / kept on kept pairs, 0 on others; b = max(beta (1 + alpha (mean A_kept - "
              "gap_mean)), min_beta), A = beta D; b a constant"),
     KINK(""),
     SOURCE("Wu et al. 2024, arXiv 2407.08639, eq. 6-8"))

LOSS(tdpo, tdpo1, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, GRAD(chosen_kl), GRAD(rejected_kl), PFO_WEIGHTS),
     PARAMS(PFO_BETA),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-log sigmoid(beta (D - (K_l - K_w))), K_s = sum_t KL(ref || pi)"),
     KINK(""),
     SOURCE("Zeng et al. 2024, arXiv 2404.11999, eq. 15"))

LOSS(tdpo, tdpo2, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, GRAD(chosen_kl), GRAD(rejected_kl), PFO_WEIGHTS),
     PARAMS(PFO_BETA, REAL(tdpo_alpha, 0.5, FROM(0), BELOW(INFINITY))),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-log sigmoid(beta (D - alpha (K_l - sg(K_w)))), K_s = sum_t KL(ref || pi)"),
     KINK("no gradient by chosen_kl: it is a constant here"),
     SOURCE("Zeng et al. 2024, arXiv 2404.11999, eq. 17"))

LOSS(sampo, sigmoid, TOKEN, SUM, SAMPO,
     INPUTS(GRAD(policy_chosen_token_logps), GRAD(policy_rejected_token_logps), FIXED(ref_chosen_token_logps),
             FIXED(ref_rejected_token_logps), FIXED(chosen_indices), FIXED(rejected_indices)),
     PARAMS(PFO_BETA),
     PFO_PAIR_REWARDS,
     STATE("chosen_indices, rejected_indices: sampo_indices"),
     FORMULA("-log sigmoid(beta D), D_s = sum over the sampled token positions of log pi - log ref"),
     KINK(""),
     SOURCE("Lu et al. 2024, arXiv 2406.10957, eq. 6"))

LOSS(eps_dpo, sigmoid, PAIR, SUM, NONE,
     INPUTS(PFO_PAIR, FIXED(chosen_plus_logps), FIXED(rejected_plus_logps), FIXED(chosen_minus_logps),
             FIXED(rejected_minus_logps)),
     PARAMS(PFO_BETA, REAL(perturbation, 0.01, FROM(0), BELOW(1))),
     OUTPUTS(REWARD(chosen_rewards), REWARD(rejected_rewards), REWARD(steps)),
     STATE("beta: eps_dpo_beta"),
     FORMULA("-log sigmoid(b D), b = beta / (1 + eps step), step = 1[u+ > u > u-] - 1[u- > u > u+], u = pi_w - "
              "pi_l; b a constant"),
     KINK("step is 0 at ties"),
     SOURCE("Lee et al. 2025, arXiv 2502.13177, eq. 11-13"))

LOSS(kto, kto, UNPAIRED, SUM, NONE,
     INPUTS(GRAD(policy_logps), FIXED(ref_logps), FIXED(desirable), FIXED(kl)),
     PARAMS(PFO_BETA, REAL(desirable_weight, 1.0, FROM(0), BELOW(INFINITY)), REAL(undesirable_weight, 1.0,
             FROM(0), BELOW(INFINITY))),
     OUTPUTS(REWARD(rewards)),
     STATE("kl: kto_kl"),
     FORMULA("desirable: lambda_D (1 - sigmoid(beta (r - z0))); undesirable: lambda_U (1 - sigmoid(beta (z0 - "
              "r))); r = pi - ref, z0 = kl"),
     KINK(""),
     SOURCE("Ethayarajh et al. 2024, arXiv 2402.01306, section 4.1"))

LOSS(kto, apo_zero_unpaired, UNPAIRED, SUM, NONE,
     INPUTS(GRAD(policy_logps), FIXED(ref_logps), FIXED(desirable)),
     PARAMS(PFO_BETA, REAL(desirable_weight, 1.0, FROM(0), BELOW(INFINITY)), REAL(undesirable_weight, 1.0,
             FROM(0), BELOW(INFINITY))),
     OUTPUTS(REWARD(rewards)),
     STATE(""),
     FORMULA("desirable: lambda_D (1 - sigmoid(beta r)); undesirable: lambda_U sigmoid(beta r); r = pi - ref"),
     KINK(""),
     SOURCE("D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7, by halves"))

LOSS(bco, bco, UNPAIRED, SUM, NONE,
     INPUTS(GRAD(policy_logps), FIXED(ref_logps), FIXED(desirable), FIXED_OR(delta, 0), FIXED_OR(udm_weights, 1)),
     PARAMS(PFO_BETA),
     OUTPUTS(REWARD(rewards)),
     STATE("delta: bco_delta"),
     FORMULA("desirable: -log sigmoid(beta r - delta); undesirable: -w log sigmoid(-(beta r - delta)); r = pi - "
              "ref, w = udm_weights"),
     KINK(""),
     SOURCE("Jung et al. 2024, arXiv 2404.04656, eq. 8-10"))

LOSS(cpo, sigmoid, PAIR, SUM, CHOSEN_NLL,
     INPUTS(PFO_POLICY, PFO_CHOSEN_NLL, FIXED_OR(chosen_lengths, 0)),
     PARAMS(PFO_CPO_PARAMS, PFO_SMOOTHING),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-(1 - e) log sigmoid(beta u) - e log sigmoid(-beta u) + cpo_alpha sum(chosen_nll) / nll_tokens, u = "
              "r_w - r_l, r = pi (alpha = 0) or (1 - exp(-alpha pi)) / alpha"),
     KINK(""),
     SOURCE("Xu et al. 2024, arXiv 2401.08417, eq. 3, and its NLL regulariser; alpha: Gupta et al. 2025, arXiv "
             "2501.03884"))

LOSS(cpo, hinge, PAIR, SUM, CHOSEN_NLL,
     INPUTS(PFO_POLICY, PFO_CHOSEN_NLL, FIXED_OR(chosen_lengths, 0)),
     PARAMS(PFO_CPO_PARAMS),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("max(0, 1 - beta u) + cpo_alpha sum(chosen_nll) / nll_tokens, u = r_w - r_l, r = pi (alpha = 0) or (1"
              " - exp(-alpha pi)) / alpha"),
     KINK("gradient 0 at beta u = 1"),
     SOURCE("Zhao et al. 2023, arXiv 2305.10425, eq. 4, as loss_type \"hinge\" of huggingface/trl"))

LOSS(cpo, ipo, PAIR, LENGTHS, CHOSEN_NLL,
     INPUTS(PFO_POLICY, PFO_CHOSEN_NLL, PFO_LENGTHS_OR_ONE),
     PARAMS(PFO_CPO_PARAMS),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("(u - 1 / (2 beta))^2 + cpo_alpha sum(chosen_nll) / nll_tokens, u = r_w - r_l of the averages a = pi "
              "/ N, r = a or (1 - exp(-alpha a)) / alpha"),
     KINK(""),
     SOURCE("Azar et al. 2023, arXiv 2310.12036, eq. 17, as loss_type \"ipo\" of huggingface/trl"))

LOSS(cpo, simpo, PAIR, LENGTHS, CHOSEN_NLL,
     INPUTS(PFO_POLICY, PFO_CHOSEN_NLL, PFO_LENGTHS_OR_ONE),
     PARAMS(PFO_CPO_PARAMS, PFO_SMOOTHING, REAL(simpo_gamma, 0.5, ABOVE(-INFINITY), BELOW(INFINITY))),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-(1 - e) log sigmoid(beta u - gamma) - e log sigmoid(gamma - beta u) + cpo_alpha sum(chosen_nll) / "
              "nll_tokens, u = r_w - r_l of the averages a = pi / N, r = a or (1 - exp(-alpha a)) / alpha"),
     KINK(""),
     SOURCE("Meng et al. 2024, arXiv 2405.14734, eq. 6; alpha: Gupta et al. 2025 (AlphaPO), arXiv 2501.03884, eq."
             " 8"))

LOSS(cpo, simpo_hinge, PAIR, LENGTHS, CHOSEN_NLL,
     INPUTS(PFO_POLICY, PFO_CHOSEN_NLL, PFO_LENGTHS_OR_ONE),
     PARAMS(PFO_CPO_PARAMS, REAL(simpo_gamma, 0.5, ABOVE(-INFINITY), BELOW(INFINITY))),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("max(0, 1 - (beta u - gamma)) + cpo_alpha sum(chosen_nll) / nll_tokens, u as in cpo.simpo"),
     KINK("gradient 0 at beta u - gamma = 1"),
     SOURCE("loss_type \"hinge\" of princeton-nlp/SimPO"))

LOSS(orpo, orpo, PAIR, LENGTHS, CHOSEN_NLL,
     INPUTS(PFO_POLICY, PFO_CHOSEN_NLL, PFO_LENGTHS_OR_ONE),
     PARAMS(PFO_BETA, REAL(nll_weight, 1.0, FROM(0), BELOW(INFINITY)), PFO_NLL_TOKENS),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-beta log sigmoid(o) + sum(chosen_nll) / nll_tokens, o = log odds(a_w) - log odds(a_l), log odds(a) "
              "= a - log(1 - exp(a)), a = pi / N"),
     KINK("at a = 0 the one-sided limit, see notes"),
     SOURCE("Hong et al. 2024, arXiv 2403.07691, eq. 6-7"))

LOSS(slic, hinge, PAIR, SUM, NONE,
     INPUTS(PFO_POLICY, GRAD_OR(target_nll, 0)),
     PARAMS(REAL(slic_delta, 1.0, FROM(0), BELOW(INFINITY)), REAL(slic_lambda, 1.0, FROM(0), BELOW(INFINITY)),
             PFO_BETA),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("max(0, delta - pi_w + pi_l) + lambda target_nll"),
     KINK("gradient 0 at pi_w - pi_l = delta"),
     SOURCE("Zhao et al. 2023, arXiv 2305.10425, eq. 4 with its regulariser"))

LOSS(simper, simper, PAIR, LENGTHS, NONE,
     INPUTS(PFO_POLICY, PFO_LENGTHS_OR_ONE),
     PARAMS(PFO_BETA),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-exp(a_w) + exp(a_l), a = pi / N"),
     KINK(""),
     SOURCE("Xiao et al. 2025, arXiv 2502.00883, eq. 5"))

LOSS(arpo, sigmoid, PAIR, SUM, CHOSEN_NLL,
     INPUTS(PFO_POLICY, PFO_LENGTHS, PFO_CHOSEN_NLL),
     PARAMS(PFO_BETA, PFO_SMOOTHING, REAL(relax_coefficient_1, 0.9, ABOVE(0), BELOW(INFINITY)),
             REAL(relax_coefficient_2, 0.4, FROM(0), BELOW(INFINITY)), REAL(cpo_alpha, 1.0, FROM(0), BELOW(INFINITY)),
             PFO_NLL_TOKENS),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-(1 - e) log sigmoid(beta u) - e log sigmoid(-beta u) + cpo_alpha sum(chosen_nll) / nll_tokens, u = "
              "pi_w - p pi_l, p = min(1, c1 exp(c2 |a_w - a_l|) - 1)"),
     KINK("p has gradient 0 at a_w = a_l and where it reaches 1"),
     SOURCE("Xu et al. 2024 (X-ALMA), arXiv 2410.03115, section 4.3; fe1ixxu/ALMA"))

LOSS(tpo, sigmoid, PAIR, SUM, GOLD_NLL,
     INPUTS(PFO_POLICY, PFO_TPO_NLL),
     PARAMS(PFO_TPO_PARAMS, PFO_SMOOTHING),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-(1 - e) log sigmoid(beta u) - e log sigmoid(-beta u) + tpo_alpha sum(gold_nll) / nll_tokens, u = "
              "pi_w - pi_l"),
     KINK(""),
     SOURCE("Saeidi et al. 2024, arXiv 2405.16681, eq. 8"))

LOSS(tpo, hinge, PAIR, SUM, GOLD_NLL,
     INPUTS(PFO_POLICY, PFO_TPO_NLL),
     PARAMS(PFO_TPO_PARAMS),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("max(0, 1 - beta u) + tpo_alpha sum(gold_nll) / nll_tokens, u = pi_w - pi_l"),
     KINK("gradient 0 at beta u = 1"),
     SOURCE("loss_type \"hinge\" of huggingface/trl's TPO"))

LOSS(tpo, ipo, PAIR, LENGTHS, GOLD_NLL,
     INPUTS(PFO_POLICY, PFO_TPO_NLL, PFO_LENGTHS_OR_ONE),
     PARAMS(PFO_TPO_PARAMS),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("(a_w - a_l - 1 / (2 beta))^2 + tpo_alpha sum(gold_nll) / nll_tokens, a = pi / N"),
     KINK(""),
     SOURCE("loss_type \"ipo\" of huggingface/trl's TPO"))

LOSS(tpo, tpo_l, PAIR, LENGTHS, GOLD_NLL,
     INPUTS(PFO_POLICY, PFO_TPO_NLL, PFO_LENGTHS_OR_ONE),
     PARAMS(PFO_TPO_PARAMS, PFO_SMOOTHING, REAL(tpo_l_gamma, 0.5, ABOVE(-INFINITY), BELOW(INFINITY))),
     PFO_PAIR_REWARDS,
     STATE(""),
     FORMULA("-(1 - e) log sigmoid(beta (a_w - a_l) - gamma) - e log sigmoid(gamma - beta (a_w - a_l)) + tpo_alpha"
              " sum(gold_nll) / nll_tokens, a = pi / N"),
     KINK(""),
     SOURCE("Saeidi et al. 2024, arXiv 2405.16681, eq. 10"))

LOSS(reward_model, bradley_terry, PAIR, SUM, NONE,
     INPUTS(GRAD(chosen_scores), GRAD(rejected_scores), FIXED_OR(margins, 0)),
     PARAMS(REAL(center_coefficient, 0.0, FROM(0), BELOW(INFINITY))),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("-log sigmoid(r_w - r_l - margin) + c (r_w + r_l)^2"),
     KINK(""),
     SOURCE("Ouyang et al. 2022, arXiv 2203.02155, eq. 1; margin: Touvron et al. 2023, arXiv 2307.09288, eq. 2; "
             "centring: Eisenstein et al. 2023, arXiv 2312.09244"))

LOSS(sft, nll, UNPAIRED, SUM, TOKEN_MEAN,
     INPUTS(GRAD(policy_logps), FIXED_OR(lengths, 0)),
     PARAMS(PFO_NLL_TOKENS),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("-pi B / nll_tokens: the mean over the batch is the mean over its tokens"),
     KINK(""),
     SOURCE("maximum likelihood; the token mean of huggingface/trl 1.16"))

LOSS(ppo, clip, TOKEN, SUM, TOKENS,
     INPUTS(GRAD(logps), FIXED(old_logps), FIXED(token_advantages), FIXED_OR(mask, 1)),
     PARAMS(PFO_CLIP, REAL(log_ratio_limit, INFINITY, ABOVE(0), UP_TO(INFINITY)), REAL(num_tokens,
             PFO_NO_DEFAULT, ABOVE(0), BELOW(INFINITY))),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("B / num_tokens sum_t -min(rho A, clip(rho, 1 - eps, 1 + eps_high) A), rho = exp(logp - old), its "
              "exponent clamped to +-log_ratio_limit"),
     KINK("clipped branch (gradient 0) only where strictly smaller; clamped exponent: gradient 0"),
     SOURCE("Schulman et al. 2017, arXiv 1707.06347, eq. 7"))

LOSS(ppo, dual_clip, TOKEN, SUM, TOKENS,
     INPUTS(GRAD(logps), FIXED(old_logps), FIXED(token_advantages), FIXED_OR(mask, 1)),
     PARAMS(PFO_CLIP, REAL(dual_clip, 3.0, ABOVE(1), BELOW(INFINITY)), REAL(log_ratio_limit, INFINITY, ABOVE(0),
             UP_TO(INFINITY)), REAL(num_tokens, PFO_NO_DEFAULT, ABOVE(0), BELOW(INFINITY))),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("as ppo.clip; for A < 0: -max(min(rho A, clip(rho, 1 - eps, 1 + eps_high) A), c A)"),
     KINK("as ppo.clip; at the dual bound gradient 0"),
     SOURCE("Ye et al. 2020, arXiv 1912.09729, eq. 5"))

LOSS(ppo, value_clip, TOKEN, SUM, TOKENS,
     INPUTS(GRAD(values), FIXED(old_values), FIXED(returns), FIXED_OR(mask, 1)),
     PARAMS(REAL(value_clip, 0.2, FROM(0), UP_TO(INFINITY)), REAL(num_tokens, PFO_NO_DEFAULT, ABOVE(0),
             BELOW(INFINITY))),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("B / num_tokens sum_t 1/2 max((v - R)^2, (old + clip(v - old, -c, c) - R)^2)"),
     KINK("ties take the unclipped branch; at the end of the clip its gradient is 1"),
     SOURCE("Schulman et al. 2017, PPO2 value clipping; eq. 9 of arXiv 1707.06347 for the squared error"))

LOSS(kl, k1, TOKEN, SUM, TOKENWISE,
     INPUTS(GRAD(logps), FIXED(ref_token_logps), FIXED_OR(mask, 1)),
     PARAMS(REAL(log_ratio_limit, INFINITY, ABOVE(0), UP_TO(INFINITY))),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("k1 = logp - ref per token, the difference clamped to +-log_ratio_limit; 0 where masked"),
     KINK("clamped difference: gradient 0"),
     SOURCE("Schulman 2020, Approximating KL divergence"))

LOSS(kl, k2, TOKEN, SUM, TOKENWISE,
     INPUTS(GRAD(logps), FIXED(ref_token_logps), FIXED_OR(mask, 1)),
     PARAMS(REAL(log_ratio_limit, INFINITY, ABOVE(0), UP_TO(INFINITY))),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("k2 = (logp - ref)^2 / 2 per token, the difference clamped to +-log_ratio_limit; 0 where masked"),
     KINK("clamped difference: gradient 0"),
     SOURCE("Schulman 2020, Approximating KL divergence"))

LOSS(kl, k3, TOKEN, SUM, TOKENWISE,
     INPUTS(GRAD(logps), FIXED(ref_token_logps), FIXED_OR(mask, 1)),
     PARAMS(REAL(log_ratio_limit, INFINITY, ABOVE(0), UP_TO(INFINITY))),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("k3 = exp(ref - logp) - 1 + (logp - ref) per token, the difference clamped to +-log_ratio_limit; 0 "
              "where masked"),
     KINK("clamped difference: gradient 0"),
     SOURCE("Schulman 2020, Approximating KL divergence"))

LOSS(grpo, grpo, TOKEN, SUM, SEQUENCE_MEAN,
     INPUTS(PFO_GROUP),
     PARAMS(PFO_CLIP, PFO_CAP, PFO_GROUP_KL),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("(1 / N) sum_t (-min(min(rho, delta) A, clip(rho, 1 - eps, 1 + eps_high) A) + kl_beta k3)"),
     KINK("as ppo.clip"),
     SOURCE("Shao et al. 2024, arXiv 2402.03300, eq. 3"))

LOSS(grpo, dr_grpo, TOKEN, SUM, FIXED_LENGTH,
     INPUTS(PFO_GROUP),
     PARAMS(PFO_CLIP, PFO_CAP, PFO_GROUP_KL, REAL(max_completion_length, PFO_NO_DEFAULT, ABOVE(0),
             BELOW(INFINITY))),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("(1 / max_completion_length) sum_t (-min(min(rho, delta) A, clip(rho, 1 - eps, 1 + eps_high) A) + "
              "kl_beta k3)"),
     KINK("as ppo.clip"),
     SOURCE("Liu et al. 2025, arXiv 2503.20783, eq. 4"))

LOSS(grpo, dapo, TOKEN, SUM, TOKENS,
     INPUTS(PFO_GROUP),
     PARAMS(PFO_CLIP, PFO_CAP, PFO_GROUP_KL, REAL(num_tokens, PFO_NO_DEFAULT, ABOVE(0), BELOW(INFINITY))),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("(B / num_tokens) sum_t (-min(min(rho, delta) A, clip(rho, 1 - eps, 1 + eps_high) A) + kl_beta k3), "
              "num_tokens of the global batch"),
     KINK("as ppo.clip"),
     SOURCE("Yu et al. 2025, arXiv 2503.14476, eq. 8"))

LOSS(grpo, bnpo, TOKEN, SUM, TOKENS,
     INPUTS(PFO_GROUP),
     PARAMS(PFO_CLIP, PFO_CAP, PFO_GROUP_KL, REAL(num_tokens, PFO_NO_DEFAULT, ABOVE(0), BELOW(INFINITY))),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("(B / num_tokens) sum_t (-min(min(rho, delta) A, clip(rho, 1 - eps, 1 + eps_high) A) + kl_beta k3), "
              "num_tokens of the local batch"),
     KINK("as ppo.clip"),
     SOURCE("loss_type \"bnpo\" of huggingface/trl 1.16"))

LOSS(grpo, gspo, TOKEN, SUM, SEQUENCE_RATIO,
     INPUTS(PFO_GROUP),
     PARAMS(PFO_CLIP, PFO_CAP, PFO_GROUP_KL),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("-min(min(s, delta) A, clip(s, 1 - eps, 1 + eps_high) A) + kl_beta mean_t k3, s = exp(mean_t (logp - "
              "old))"),
     KINK("as ppo.clip"),
     SOURCE("Zheng et al. 2025, arXiv 2507.18071, eq. 5-7"))

LOSS(grpo, cispo, TOKEN, SUM, TOKENS,
     INPUTS(PFO_GROUP),
     PARAMS(REAL(epsilon_high, 5.0, ABOVE(0), UP_TO(INFINITY)), REAL(epsilon_low, 0.0, FROM(0), BELOW(INFINITY)),
             PFO_GROUP_KL, REAL(num_tokens, PFO_NO_DEFAULT, ABOVE(0), BELOW(INFINITY))),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("(B / num_tokens) sum_t (-sg(max(min(rho, epsilon_high), epsilon_low)) A logp + kl_beta k3)"),
     KINK(""),
     SOURCE("MiniMax 2025, arXiv 2506.13585, eq. 4-5"))

LOSS(grpo, sapo, TOKEN, SUM, SEQUENCE_MEAN,
     INPUTS(PFO_GROUP),
     PARAMS(REAL(sapo_temperature_pos, 1.0, ABOVE(0), BELOW(INFINITY)), REAL(sapo_temperature_neg, 1.05,
             ABOVE(0), BELOW(INFINITY)), PFO_GROUP_KL),
     OUTPUTS(NO_OUTPUT),
     STATE(""),
     FORMULA("(1 / N) sum_t (-(4 / tau) sigmoid(tau (rho - 1)) A + kl_beta k3), tau by the sign of A"),
     KINK(""),
     SOURCE("Gao et al. 2025, arXiv 2511.20347, eq. 6"))

LOSS(bco, delta, PROCEDURE, SUM, BCO_DELTA,
     INPUTS(FIXED(rewards), FIXED_OR(state_mean, 0), FIXED_OR(state_count, 0)),
     PARAMS(NO_PARAM),
     OUTPUTS(REWARD(mean), REWARD(count)),
     STATE("running mean and count of the rewards"),
     FORMULA("mean' = (mean count + sum(rewards)) / (count + B), count' = count + B"),
     KINK(""),
     SOURCE("Jung et al. 2024, arXiv 2404.04656, section 4: the reward shift"))

LOSS(bco, udm_weights, PROCEDURE, SUM, NONE,
     INPUTS(FIXED(desirable_probabilities)),
     PARAMS(REAL(min_density_ratio, 0.5, ABOVE(0), BELOW(INFINITY)), REAL(max_density_ratio, 10.0, ABOVE(0),
             BELOW(INFINITY))),
     OUTPUTS(REWARD(weights)),
     STATE(""),
     FORMULA("clip(p / (1 - p + 1e-8), min, max)"),
     KINK(""),
     SOURCE("Jung et al. 2024, arXiv 2404.04656, section 4: underlying distribution matching"))

LOSS(beta_dpo, state, PROCEDURE, SUM, BETA_STATE,
     INPUTS(FIXED(gaps), FIXED_OR(state_mean, NAN), FIXED_OR(state_std, NAN)),
     PARAMS(REAL(momentum, 0.9, FROM(0), BELOW(1))),
     OUTPUTS(REWARD(mean), REWARD(std)),
     STATE("running mean and standard deviation of the reward gaps"),
     FORMULA("mean' = m mean + (1 - m) mean(gaps), std' = m std + (1 - m) std(gaps); the first batch sets them"),
     KINK(""),
     SOURCE("Wu et al. 2024, arXiv 2407.08639, eq. 9"))

LOSS(beta_dpo, keep, PROCEDURE, SUM, BETA_KEEP,
     INPUTS(FIXED(gaps), FIXED(uniforms), FIXED(state_mean), FIXED(state_std)),
     PARAMS(REAL(keep_ratio, 0.8, ABOVE(0), UP_TO(1))),
     OUTPUTS(REWARD(keep)),
     STATE(""),
     FORMULA("the ceil(keep_ratio B) pairs with the largest uniforms^(1 / w), w = exp(-((A - mean) / std)^2 / 2): "
              "drawn without replacement"),
     KINK(""),
     SOURCE("Wu et al. 2024, arXiv 2407.08639, eq. 10; keys: Efraimidis and Spirakis 2006"))

LOSS(eps_dpo, beta, PROCEDURE, SUM, EPS_BETA,
     INPUTS(FIXED(steps)),
     PARAMS(PFO_BETA, REAL(perturbation, 0.01, FROM(0), BELOW(1))),
     OUTPUTS(REWARD(beta)),
     STATE("beta"),
     FORMULA("beta' = beta / (1 + eps mean(steps))"),
     KINK(""),
     SOURCE("Lee et al. 2025, arXiv 2502.13177, eq. 13"))

LOSS(sampo, indices, PROCEDURE, SUM, SAMPO_INDICES,
     INPUTS(FIXED(chosen_mask), FIXED(rejected_mask), FIXED(chosen_uniforms), FIXED(rejected_uniforms)),
     PARAMS(NO_PARAM),
     OUTPUTS(REWARD(chosen_indices), REWARD(rejected_indices)),
     STATE(""),
     FORMULA("per pair min(n_w, n_l) positions of each mask: those with the smallest uniforms, in rising order, "
              "then -1"),
     KINK(""),
     SOURCE("Lu et al. 2024, arXiv 2406.10957, section 4"))

LOSS(rso, accept, PROCEDURE, SUM, RSO,
     INPUTS(FIXED(candidate_rewards), FIXED(uniforms)),
     PARAMS(REAL(rso_beta, 0.5, ABOVE(0), BELOW(INFINITY)), REAL(num_samples, PFO_NO_DEFAULT, ABOVE(0),
             BELOW(9007199254740992))),
     OUTPUTS(REWARD(accepted)),
     STATE(""),
     FORMULA("rejection sampling: pass over the remaining candidates, accept where u < exp((r - max r) / beta), "
              "until num_samples are accepted"),
     KINK(""),
     SOURCE("Liu et al. 2023, arXiv 2309.06657, algorithm 1"))

LOSS(gae, gae, PROCEDURE, SUM, GAE,
     INPUTS(FIXED(token_rewards), FIXED(values), FIXED_OR(mask, 1), FIXED_OR(last_values, 0)),
     PARAMS(REAL(gamma, 1.0, FROM(0), UP_TO(1)), REAL(gae_lambda, 0.95, FROM(0), UP_TO(1))),
     OUTPUTS(REWARD(gae_advantages), REWARD(gae_returns)),
     STATE(""),
     FORMULA("A_t = delta_t + gamma lambda A_(t+1), delta_t = r_t + gamma V_(t+1) - V_t; masked tokens are "
              "skipped; returns A + V"),
     KINK(""),
     SOURCE("Schulman et al. 2015, arXiv 1506.02438, eq. 16"))

LOSS(tr_dpo, mix, PROCEDURE, SUM, NONE,
     INPUTS(FIXED(policy_parameters), FIXED(ref_parameters)),
     PARAMS(REAL(mix_alpha, 0.6, FROM(0), UP_TO(1))),
     OUTPUTS(REWARD(mixed)),
     STATE("the reference itself"),
     FORMULA("alpha policy + (1 - alpha) ref"),
     KINK(""),
     SOURCE("Gorbatovski et al. 2024, arXiv 2404.09656, eq. 4"))

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
