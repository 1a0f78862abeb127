/* Losses over pairs with a reference.  Part of loss_list.h, which explains the rows. */
/* clang-format off */

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
