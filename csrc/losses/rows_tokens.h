/* Losses over tokens, and the procedures.  Part of loss_list.h, which explains the rows. */
/* clang-format off */

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
     FORMULA("(B / num_tokens) sum_t (-sg(min(max(rho, epsilon_low), epsilon_high)) A logp + kl_beta k3)"),
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
