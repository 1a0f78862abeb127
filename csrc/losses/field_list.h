/* The names that losses are made of: every input, batch statistic, parameter and reward that some row uses, once, with
 * its meaning.  Formulas read them as x->NAME and p->NAME and write out->grad.NAME and out->reward.NAME.
 *
 * INPUT(name, type, meaning)   type: the part of pfo_loss_input_type after PFO_INPUT_
 * PARAM(name, meaning)
 * REWARD(name)
 */
#ifndef PFO_FIELD_LIST_H
#define PFO_FIELD_LIST_H

#define PFO_LOSS_INPUT_FIELDS(INPUT)                                                              \
    INPUT(policy_chosen_logps, REAL, "log-probability of the chosen answer under the policy")     \
    INPUT(policy_rejected_logps, REAL, "log-probability of the rejected answer under the policy") \
    INPUT(ref_chosen_logps, REAL, "log-probability of the chosen answer under the reference")     \
    INPUT(ref_rejected_logps, REAL, "log-probability of the rejected answer under the reference") \
    INPUT(policy_logps, REAL, "log-probability of the answer under the policy")                   \
    INPUT(ref_logps, REAL, "log-probability of the answer under the reference")                   \
    INPUT(desirable, FLAG, "true where the answer is desirable")                                  \
    INPUT(kl, SCALAR, "the reference point z0, see kto_kl")                                       \
    INPUT(chosen_lengths, COUNT, "answer tokens of the chosen")                                   \
    INPUT(rejected_lengths, COUNT, "answer tokens of the rejected")                               \
    INPUT(lengths, COUNT, "answer tokens")                                                        \
    INPUT(chosen_nll, REAL, "sum of -log p over the chosen answer's tokens")                      \
    INPUT(chosen_nll_mean, STATISTIC, "sum of chosen_nll / nll_tokens")                           \
    INPUT(batch_per_token, STATISTIC, "B / nll_tokens")

#define PFO_LOSS_PARAM_FIELDS(PARAM)                                    \
    PARAM(beta, "scale of the log-ratios; tau in IPO")                  \
    PARAM(label_smoothing, "share e of preferences taken as flipped")   \
    PARAM(desirable_weight, "weight lambda_D of desirable answers")     \
    PARAM(undesirable_weight, "weight lambda_U of undesirable answers") \
    PARAM(cpo_alpha, "weight of the NLL term")                          \
    PARAM(nll_tokens, "tokens that the NLL is averaged over; default: the sum of the lengths")

#define PFO_LOSS_REWARD_FIELDS(REWARD) \
    REWARD(chosen_rewards)             \
    REWARD(rejected_rewards)           \
    REWARD(rewards)

enum pfo_loss_input_field {
#define PFO_FIELD(name, type, meaning) PFO_FIELD_##name,
    PFO_LOSS_INPUT_FIELDS(PFO_FIELD)
#undef PFO_FIELD
    PFO_INPUT_FIELD_COUNT
};

enum pfo_loss_param_field {
#define PFO_FIELD(name, meaning) PFO_PARAM_##name,
    PFO_LOSS_PARAM_FIELDS(PFO_FIELD)
#undef PFO_FIELD
    PFO_PARAM_FIELD_COUNT
};

enum pfo_loss_reward_field {
#define PFO_FIELD(name) PFO_REWARD_##name,
    PFO_LOSS_REWARD_FIELDS(PFO_FIELD)
#undef PFO_FIELD
    PFO_REWARD_FIELD_COUNT
};

#endif
