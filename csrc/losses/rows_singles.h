/* Losses over single answers, without reference, and of reward models.  Part of loss_list.h, which explains rows. */
/* clang-format off */

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
     KINK("a_w = 0 > a_l costs 0 with slope -odds_l, a_l = 0 > a_w costs inf; at a_w = a_l = 0 the limit along a_w = "
          "a_l: ln 2, slopes -inf and inf"),
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
