"""Relatives of DPO that add something to the margin, to beta, or to the loss."""

from __future__ import annotations

from typing import Any

from oracle.core import register, rows, rowwise
from oracle.dpo import BETA, POLICY, REFERENCE, REWARDS, WEIGHTS, pair_loss, ratio, wpo
from oracle.dual import Dual, dual, largest_of, log_sigmoid, stop_gradient, total


def log_ratio_difference(x: Any) -> Dual:
    """D = D_w - D_l."""
    return ratio(x, "chosen") - ratio(x, "rejected")


@pair_loss("rdpo.sigmoid", f"chosen_lengths rejected_lengths {WEIGHTS}", rdpo_alpha=0.1)
def _rdpo(x: Any, p: Any) -> Dual:
    """R-DPO (arXiv 2403.19159) eq. 9; its sign as "lenN" of LuJunru/SamPO dpo_trainer.py:906."""
    longer = x.chosen_lengths - x.rejected_lengths
    return -log_sigmoid(p.beta * log_ratio_difference(x) + p.rdpo_alpha * longer)


@pair_loss("dpop.sigmoid", dpop_lambda=50.0)
def _dpop(x: Any, p: Any) -> Dual:
    """DPOP (arXiv 2402.13228) eq. 3; at pi_w = ref_w the penalty has no gradient."""
    penalty = largest_of(0, -ratio(x, "chosen"))
    return -log_sigmoid(p.beta * (log_ratio_difference(x) - p.dpop_lambda * penalty))


@pair_loss("odpo.sigmoid", f"margins {WEIGHTS}", odpo_alpha=1.0)
def _odpo(x: Any, p: Any) -> Dual:
    """ODPO (arXiv 2402.10571) eq. 7: the margin is the offset that scores ask for."""
    return -log_sigmoid(p.beta * log_ratio_difference(x) - p.odpo_alpha * x.margins)


@pair_loss("cal_dpo.sigmoid", cal_weight=0.5)
def _cal_dpo(x: Any, p: Any) -> Dual:
    """Cal-DPO (arXiv 2412.14516) eq. 11; beta only in the targets, as tengxiao1/Cal-DPO has it."""
    target = 1 / (2 * p.beta)
    calibration = (ratio(x, "chosen") - target) ** 2 + (ratio(x, "rejected") + target) ** 2
    return -log_sigmoid(log_ratio_difference(x)) + p.cal_weight * calibration


@pair_loss("spin.sigmoid")
def _spin(x: Any, p: Any) -> Dual:
    """SPIN (arXiv 2401.01335) eq. 4.7, l logistic, lambda = beta."""
    return -log_sigmoid(p.beta * log_ratio_difference(x))


# ---- TDPO ----------------------------------------------------------------------------------------

TDPO = {
    "inputs": f"{POLICY} chosen_kl rejected_kl",
    "constants": f"{REFERENCE} {WEIGHTS}",
    "rewards": REWARDS,
}


def _tdpo_rewards(x: Any, p: Any) -> dict[str, Any]:
    """Vance0124/Token-level-Direct-Preference-Optimization trainers.py:68: beta (D_s + K_s)."""
    return {
        "chosen_rewards": p.beta * (ratio(x, "chosen") + x.chosen_kl),
        "rejected_rewards": p.beta * (ratio(x, "rejected") + x.rejected_kl),
    }


@register("tdpo.tdpo1", **TDPO, parameters=BETA)
@rowwise
def _tdpo1(x: Any, p: Any) -> tuple[Any, dict[str, Any]]:
    """TDPO (arXiv 2404.11999) eq. 15: beta (D - (K_l - K_w)), K_s sequential KL(ref || pi)."""
    logits = log_ratio_difference(x) - (x.rejected_kl - x.chosen_kl)
    return wpo(x) * -log_sigmoid(p.beta * logits), _tdpo_rewards(x, p)


@register("tdpo.tdpo2", **TDPO, parameters=BETA | {"tdpo_alpha": 0.5})
@rowwise
def _tdpo2(x: Any, p: Any) -> tuple[Any, dict[str, Any]]:
    """TDPO eq. 17: beta (D - alpha (K_l - sg(K_w)))."""
    difference = x.rejected_kl - stop_gradient(x.chosen_kl)
    logits = log_ratio_difference(x) - p.tdpo_alpha * difference
    return wpo(x) * -log_sigmoid(p.beta * logits), _tdpo_rewards(x, p)


# ---- a beta of the batch's or of the pair's own --------------------------------------------------


@register(
    "beta_dpo.sigmoid",
    inputs=POLICY,
    constants=f"{REFERENCE} keep? gap_mean?",
    parameters=BETA | {"beta_dpo_alpha": 0.6, "min_beta": 0.001},
    rewards=REWARDS,
)
def _beta_dpo(x: Any, p: Any) -> tuple[list[Any], dict[str, Any]]:
    """beta-DPO (arXiv 2407.08639) eq. 6-8, rewards as junkangwu/beta-DPO trainers.py:93.

    Gaps are rewards, beta0 D. One beta for the batch, a constant: beta0 (1 + alpha (mean of the
    kept gaps - M0)), at least min_beta. Pairs that are not kept cost nothing; the others B / kept, so
    that the mean over the batch is the mean over the kept.
    """
    pairs = list(rows(x))
    kept = [pair.keep is None or pair.keep for pair in pairs]
    gaps = [p.beta * log_ratio_difference(pair) for pair in pairs]
    mean = x.gap_mean if x.gap_mean is not None else total(gaps) / x.size
    used = sum(kept)
    chosen = [gap for gap, keep in zip(gaps, kept, strict=True) if keep]
    excess = total(chosen) / used - mean if used else dual(0)
    beta = stop_gradient(largest_of(p.beta * (1 + p.beta_dpo_alpha * excess), p.min_beta))
    losses = [
        -log_sigmoid(beta * log_ratio_difference(pair)) * x.size / used if keep else dual(0)
        for pair, keep in zip(pairs, kept, strict=True)
    ]
    named = {
        f"{side}_rewards": [p.beta * ratio(pair, side) for pair in pairs]
        for side in ("chosen", "rejected")
    }
    return losses, named


@register(
    "eps_dpo.sigmoid",
    inputs=POLICY,
    constants=f"{REFERENCE} chosen_plus_logps rejected_plus_logps chosen_minus_logps"
    " rejected_minus_logps",
    parameters=BETA | {"perturbation": 0.01},
    rewards=REWARDS,
    outputs="steps",
)
@rowwise
def _eps_dpo(x: Any, p: Any) -> tuple[Any, dict[str, Any]]:
    """eps-DPO (arXiv 2502.13177) eq. 11-13; rewards with the pair's beta as oddqueue/e-dpo has them.

    The step is 1 where the log-ratio rises with the perturbed logits, -1 where it falls, else 0.
    """
    now = x.policy_chosen_logps - x.policy_rejected_logps
    plus = x.chosen_plus_logps - x.rejected_plus_logps
    minus = x.chosen_minus_logps - x.rejected_minus_logps
    step = (1 if plus > now and now > minus else 0) - (1 if minus > now and now > plus else 0)
    beta = p.beta / (1 + p.perturbation * step)
    named = {f"{side}_rewards": beta * ratio(x, side) for side in ("chosen", "rejected")}
    return -log_sigmoid(beta * log_ratio_difference(x)), named | {"steps": dual(step)}


# ---- SamPO ---------------------------------------------------------------------------------------


@register(
    "sampo.sigmoid",
    inputs="policy_chosen_token_logps policy_rejected_token_logps",
    constants="ref_chosen_token_logps ref_rejected_token_logps chosen_indices rejected_indices",
    parameters=BETA,
    rewards=REWARDS,
)
@rowwise
def _sampo(x: Any, p: Any) -> tuple[Any, dict[str, Any]]:
    """SamPO (arXiv 2406.10957) eq. 6: DPO of log-ratios summed over sampled positions."""
    ratios = {}
    for side in ("chosen", "rejected"):
        policy, ref = (getattr(x, f"{model}_{side}_token_logps") for model in ("policy", "ref"))
        positions = [t for t in getattr(x, f"{side}_indices") if t >= 0]
        ratios[side] = total(policy[t] - ref[t] for t in positions)
    loss = -log_sigmoid(p.beta * (ratios["chosen"] - ratios["rejected"]))
    return loss, {f"{side}_rewards": p.beta * d for side, d in ratios.items()}
