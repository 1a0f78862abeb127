/* The names that losses are made of: every input, batch statistic, parameter and output that some row uses, once, with
 * its meaning.  Formulas read them as x->NAME and p->NAME and write out->grad.NAME and out->reward.NAME.
 *
 * INPUT(name, type, meaning)      type: the part of pfo_loss_input_type after PFO_INPUT_
 * PARAM(name, meaning, choices)   choices: the words of a CHOICE, separated by |, else ""
 * REWARD(name, shape)             shape: the part of pfo_loss_output_shape after PFO_OUTPUT_
 */
#ifndef PFO_FIELD_LIST_H
#define PFO_FIELD_LIST_H

/* clang-format off */
#define PFO_LOSS_INPUT_FIELDS(INPUT) \
    INPUT(policy_chosen_logps, REAL, "log-probability of the chosen answer under the policy") \
    INPUT(policy_rejected_logps, REAL, "log-probability of the rejected answer under the policy") \
    INPUT(ref_chosen_logps, REAL, "log-probability of the chosen answer under the reference") \
    INPUT(ref_rejected_logps, REAL, "log-probability of the rejected answer under the reference") \
    INPUT(policy_logps, REAL, "log-probability of the answer under the policy") \
    INPUT(ref_logps, REAL, "log-probability of the answer under the reference") \
    INPUT(desirable, FLAG, "true where the answer is desirable") \
    INPUT(kl, SCALAR, "the reference point z0, see kto_kl") \
    INPUT(chosen_lengths, COUNT, "answer tokens of the chosen") \
    INPUT(rejected_lengths, COUNT, "answer tokens of the rejected") \
    INPUT(lengths, COUNT, "answer tokens") \
    INPUT(chosen_weights, REAL, "weight of the chosen answer, see wpo_weights; the loss is multiplied by both") \
    INPUT(rejected_weights, REAL, "weight of the rejected answer, see wpo_weights") \
    INPUT(chosen_win_rates, REAL, "estimated probability that the chosen answer beats the policy") \
    INPUT(rejected_win_rates, REAL, "estimated probability that the rejected answer beats the policy") \
    INPUT(delta, SCALAR, "running mean of the rewards, see bco_delta") \
    INPUT(udm_weights, REAL, "weight of an undesirable answer, see bco_udm_weights") \
    INPUT(margins, REAL, "margin between the scores of the two answers") \
    INPUT(chosen_kl, REAL, "sum over the chosen answer of KL(ref || policy), see pair_token_stats") \
    INPUT(rejected_kl, REAL, "sum over the rejected answer of KL(ref || policy)") \
    INPUT(keep, FLAG, "true for the pairs that count, see beta_dpo_keep; default: all") \
    INPUT(gap_mean, SCALAR, "running mean of the reward gaps, see beta_dpo_state; default: this batch's") \
    INPUT(chosen_kl_mean, SCALAR, "reference point of the chosen half; default: max(0, mean) of this batch") \
    INPUT(rejected_kl_mean, SCALAR, "reference point of the rejected half; default: max(0, mean) of this batch") \
    INPUT(chosen_plus_logps, REAL, "the same under logits (1 + eps) z - eps z_ref, see pair_token_stats") \
    INPUT(rejected_plus_logps, REAL, "the same for the rejected answer") \
    INPUT(chosen_minus_logps, REAL, "the same under logits (1 - eps) z + eps z_ref") \
    INPUT(rejected_minus_logps, REAL, "the same for the rejected answer") \
    INPUT(chosen_nll, REAL, "sum of -log p over the chosen answer's tokens") \
    INPUT(gold_nll, REAL, "sum of -log p over the gold answer's tokens") \
    INPUT(gold_lengths, COUNT, "tokens of the gold answer") \
    INPUT(target_nll, REAL, "-log p of the target answer of the regulariser") \
    INPUT(chosen_scores, REAL, "reward model's score of the chosen answer") \
    INPUT(rejected_scores, REAL, "reward model's score of the rejected answer") \
    INPUT(gathered_policy_logratios, GATHERED, "pi_w - pi_l of all ranks; default: this batch's") \
    INPUT(gathered_ref_logratios, GATHERED, "ref_w - ref_l of all ranks") \
    INPUT(gathered_chosen_logratios, GATHERED, "pi_w - ref_w of all ranks; default: this batch's") \
    INPUT(gathered_rejected_logratios, GATHERED, "pi_l - ref_l of all ranks") \
    INPUT(policy_chosen_token_logps, TOKENS, "policy's log-probability of each chosen token") \
    INPUT(policy_rejected_token_logps, TOKENS, "policy's log-probability of each rejected token") \
    INPUT(ref_chosen_token_logps, TOKENS, "reference's log-probability of each chosen token") \
    INPUT(ref_rejected_token_logps, TOKENS, "reference's log-probability of each rejected token") \
    INPUT(chosen_indices, INDICES, "positions of sampled chosen tokens, -1 for none, see sampo_indices") \
    INPUT(rejected_indices, INDICES, "positions of sampled rejected tokens, -1 for none") \
    INPUT(logps, TOKENS, "log-probability of each token under the policy") \
    INPUT(old_logps, TOKENS, "the same under the policy that sampled; default: logps, as a constant") \
    INPUT(ref_token_logps, TOKENS, "the same under the reference") \
    INPUT(advantages, REAL, "advantage of the whole answer") \
    INPUT(token_advantages, TOKENS, "advantage of each token") \
    INPUT(values, TOKENS, "value head's estimate at each token") \
    INPUT(old_values, TOKENS, "the same when the answer was sampled") \
    INPUT(returns, TOKENS, "return from each token on") \
    INPUT(token_rewards, TOKENS, "reward of each token") \
    INPUT(last_values, REAL, "value after the last token, 0 where the episode ended") \
    INPUT(mask, MASK, "true for the tokens that count; default: all") \
    INPUT(chosen_mask, MASK, "true for the tokens of the chosen answer") \
    INPUT(rejected_mask, MASK, "true for the tokens of the rejected answer") \
    INPUT(chosen_uniforms, TOKENS, "a random number in [0, 1) for each token, see uniforms") \
    INPUT(rejected_uniforms, TOKENS, "a random number in [0, 1) for each token") \
    INPUT(uniforms, GATHERED, "random numbers in [0, 1), see uniforms") \
    INPUT(rewards, REAL, "rewards beta (pi - ref) of chosen and rejected, or desirable and undesirable, answers") \
    INPUT(state_mean, SCALAR, "running mean") \
    INPUT(state_count, SCALAR, "number of values behind the running mean") \
    INPUT(state_std, SCALAR, "running standard deviation") \
    INPUT(gaps, REAL, "reward gaps beta (D_w - D_l)") \
    INPUT(steps, REAL, "steps in {-1, 0, 1} of the loss") \
    INPUT(desirable_probabilities, REAL, "a classifier's probability that the prompt is of a desirable answer") \
    INPUT(candidate_rewards, REAL, "reward of each candidate answer to one prompt") \
    INPUT(policy_parameters, REAL, "parameters of the policy") \
    INPUT(ref_parameters, REAL, "parameters of the reference") \
    INPUT(chosen_nll_mean, STATISTIC, "sum of chosen_nll / nll_tokens") \
    INPUT(gold_nll_mean, STATISTIC, "sum of gold_nll / nll_tokens") \
    INPUT(batch_per_token, STATISTIC, "B / nll_tokens") \
    INPUT(partner, STATISTIC, "what the log-ratio is compared with: the same rank of the other sample") \
    INPUT(batch_beta, STATISTIC, "the batch's beta") \
    INPUT(kept_share, STATISTIC, "B / kept pairs")

#define PFO_LOSS_PARAM_FIELDS(PARAM) \
    PARAM(beta, "scale of the log-ratios; tau in IPO", "") \
    PARAM(label_smoothing, "share e of preferences taken as flipped", "") \
    PARAM(f_divergence_type, "divergence: D becomes g(D)", "reverse_kl|forward_kl|js_divergence|alpha_divergence") \
    PARAM(f_alpha_divergence_coef, "a of g(D) = (exp((a - 1) D) - 1) / (a - 1); 1 is reverse_kl", "") \
    PARAM(f_exponent_cap, "largest exponent of the divergences", "") \
    PARAM(discopop_tau, "temperature of the modulation", "") \
    PARAM(gather_offset, "position of this batch's first pair in the gathered log-ratios", "") \
    PARAM(rdpo_alpha, "weight of the length difference", "") \
    PARAM(dpop_lambda, "weight of the penalty on a falling chosen answer", "") \
    PARAM(odpo_alpha, "weight of the margin", "") \
    PARAM(cal_weight, "weight of the calibration term", "") \
    PARAM(beta_dpo_alpha, "how far the reward gap moves beta", "") \
    PARAM(min_beta, "smallest beta", "") \
    PARAM(tdpo_alpha, "weight of the KL difference", "") \
    PARAM(perturbation, "eps of the perturbed logits", "") \
    PARAM(desirable_weight, "weight lambda_D of desirable answers", "") \
    PARAM(undesirable_weight, "weight lambda_U of undesirable answers", "") \
    PARAM(alpha, "AlphaPO's reward shape; 0 is the log-probability itself", "") \
    PARAM(cpo_alpha, "weight of the NLL term", "") \
    PARAM(nll_weight, "weight of the NLL term", "") \
    PARAM(tpo_alpha, "weight of the gold answer's NLL", "") \
    PARAM(nll_tokens, "tokens that the NLL is averaged over; default: the sum of the lengths", "") \
    PARAM(simpo_gamma, "target margin gamma", "") \
    PARAM(tpo_l_gamma, "target margin gamma", "") \
    PARAM(slic_delta, "margin of the hinge", "") \
    PARAM(slic_lambda, "weight of the regulariser", "") \
    PARAM(relax_coefficient_1, "c1 of the adaptive factor", "") \
    PARAM(relax_coefficient_2, "c2 of the adaptive factor", "") \
    PARAM(center_coefficient, "weight of the penalty on uncentred scores", "") \
    PARAM(epsilon, "lower clip range of the ratio", "") \
    PARAM(epsilon_high, "upper clip range of the ratio, its cap in CISPO; default: epsilon", "") \
    PARAM(epsilon_low, "floor of CISPO's ratio", "") \
    PARAM(delta, "upper bound of the unclipped ratio", "") \
    PARAM(kl_beta, "weight of the KL term", "") \
    PARAM(dual_clip, "bound c of the loss for negative advantages, in units of the advantage", "") \
    PARAM(log_ratio_limit, "bound of the log-ratio", "") \
    PARAM(value_clip, "clip range of the value", "") \
    PARAM(num_tokens, "tokens that the loss is averaged over; default: those of the mask", "") \
    PARAM(max_completion_length, "constant number of tokens a row is divided by; default: T", "") \
    PARAM(sapo_temperature_pos, "temperature tau where the advantage is positive", "") \
    PARAM(sapo_temperature_neg, "temperature tau elsewhere", "") \
    PARAM(min_density_ratio, "lower bound of the weights", "") \
    PARAM(max_density_ratio, "upper bound of the weights", "") \
    PARAM(momentum, "share of the old state", "") \
    PARAM(keep_ratio, "share of the pairs that is kept", "") \
    PARAM(rso_beta, "temperature of the target policy", "") \
    PARAM(num_samples, "candidates to accept; default: all", "") \
    PARAM(gamma, "discount", "") \
    PARAM(gae_lambda, "lambda of the estimator", "") \
    PARAM(mix_alpha, "share of the policy", "")

#define PFO_LOSS_REWARD_FIELDS(REWARD) \
    REWARD(chosen_rewards, ROWS) \
    REWARD(rejected_rewards, ROWS) \
    REWARD(rewards, ROWS) \
    REWARD(steps, ROWS) \
    REWARD(mean, NUMBER) \
    REWARD(count, NUMBER) \
    REWARD(std, NUMBER) \
    REWARD(beta, NUMBER) \
    REWARD(weights, ROWS) \
    REWARD(keep, FLAGS) \
    REWARD(accepted, FLAGS) \
    REWARD(chosen_indices, POSITIONS) \
    REWARD(rejected_indices, POSITIONS) \
    REWARD(gae_advantages, TOKENS) \
    REWARD(gae_returns, TOKENS) \
    REWARD(mixed, ROWS)
/* clang-format on */

enum pfo_loss_input_field {
#define PFO_FIELD(name, type, meaning) PFO_FIELD_##name,
    PFO_LOSS_INPUT_FIELDS(PFO_FIELD)
#undef PFO_FIELD
    PFO_INPUT_FIELD_COUNT
};

enum pfo_loss_param_field {
#define PFO_FIELD(name, meaning, choices) PFO_PARAM_##name,
    PFO_LOSS_PARAM_FIELDS(PFO_FIELD)
#undef PFO_FIELD
    PFO_PARAM_FIELD_COUNT
};

enum pfo_loss_reward_field {
#define PFO_FIELD(name, shape) PFO_REWARD_##name,
    PFO_LOSS_REWARD_FIELDS(PFO_FIELD)
#undef PFO_FIELD
    PFO_REWARD_FIELD_COUNT
};

#endif
