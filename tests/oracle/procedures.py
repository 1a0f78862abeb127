"""Procedures: what makes the state, the samples and the advantages that losses take."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from oracle.core import register, rows
from oracle.dual import Dual, clamped, dual, exp, log, ordered, sqrt, total

Result = tuple[list[Any], dict[str, Any]]


@register("bco.delta", constants="rewards state_mean? state_count?", outputs="mean count")
def _bco_delta(x: Any, p: Any) -> Result:
    """BCO (arXiv 2404.04656) section 4: the mean of all rewards so far."""
    before = x.state_count if x.state_count is not None else dual(0)
    mean = x.state_mean if x.state_mean is not None else dual(0)
    count = before + x.size
    return [], {
        "mean": (mean * before + total(x.rewards)) / count if count > 0 else dual(0),
        "count": count,
    }


@register(
    "bco.udm_weights",
    constants="desirable_probabilities",
    parameters={"min_density_ratio": 0.5, "max_density_ratio": 10.0},
    outputs="weights",
)
def _udm_weights(x: Any, p: Any) -> Result:
    """BCO section 4: underlying distribution matching; 1e-8 and the clamp as TRL's bco_trainer.py."""
    ratios = [q / (1 - q + Fraction(1, 10**8)) for q in x.desirable_probabilities]
    return [], {"weights": [clamped(r, p.min_density_ratio, p.max_density_ratio) for r in ratios]}


@register(
    "beta_dpo.state",
    constants="gaps state_mean? state_std?",
    parameters={"momentum": 0.9},
    outputs="mean std",
)
def _beta_dpo_state(x: Any, p: Any) -> Result:
    """beta-DPO (arXiv 2407.08639) eq. 9: moving averages of E[M] and sqrt(V[M]) over the batch."""
    mean = total(x.gaps) / x.size
    deviation = sqrt(total((gap - mean) ** 2 for gap in x.gaps) / x.size)
    if x.state_mean is not None:
        mean = p.momentum * x.state_mean + (1 - p.momentum) * mean
        deviation = p.momentum * x.state_std + (1 - p.momentum) * deviation
    return [], {"mean": mean, "std": deviation}


@register(
    "beta_dpo.keep",
    constants="gaps uniforms state_mean state_std",
    parameters={"keep_ratio": 0.8},
    outputs="keep",
)
def _beta_dpo_keep(x: Any, p: Any) -> Result:
    """beta-DPO eq. 10, drawn without replacement as Efraimidis and Spirakis (2006): the largest
    keys u^(1 / w), w = exp(-((M - mean) / std)^2 / 2).
    """
    keys = []
    for gap, u in zip(x.gaps, x.uniforms, strict=False):
        weight = exp(-(((gap - x.state_mean) / x.state_std) ** 2) / 2)
        keys.append(-log(u) / weight)  # -log of the key
    kept = ordered(keys)[: math.ceil(p.keep_ratio * x.size)]
    return [], {"keep": [i in kept for i in range(x.size)]}


@register(
    "eps_dpo.beta",
    constants="steps",
    parameters={"beta": 0.1, "perturbation": 0.01},
    outputs="beta",
)
def _eps_dpo_beta(x: Any, p: Any) -> Result:
    """eps-DPO (arXiv 2502.13177) eq. 13: beta / (1 + eps mean step)."""
    return [], {"beta": p.beta / (1 + p.perturbation * total(x.steps) / x.size)}


@register(
    "sampo.indices",
    constants="chosen_mask rejected_mask chosen_uniforms rejected_uniforms",
    outputs="chosen_indices rejected_indices",
)
def _sampo_indices(x: Any, p: Any) -> Result:
    """SamPO (arXiv 2406.10957) section 4: as many tokens of each answer as the shorter one has.

    Drawn without replacement: those with the smallest uniforms, in rising order, then -1.
    """
    named: dict[str, list[Any]] = {"chosen_indices": [], "rejected_indices": []}
    for row in rows(x):
        count = min(sum(row.chosen_mask), sum(row.rejected_mask))
        for side in ("chosen", "rejected"):
            mask, uniforms = getattr(row, f"{side}_mask"), getattr(row, f"{side}_uniforms")
            positions = [t for t, counts in enumerate(mask) if counts]
            drawn = ordered([uniforms[t] for t in positions])[:count]
            found = sorted(positions[k] for k in drawn)
            named[f"{side}_indices"].append(found + [-1] * (len(mask) - count))
    return [], named


@register(
    "rso.accept",
    constants="candidate_rewards uniforms",
    parameters={"rso_beta": 0.5, "num_samples": None},
    outputs="accepted",
)
def _rso_accept(x: Any, p: Any) -> Result:
    """RSO (arXiv 2309.06657) algorithm 1: passes over what is left, each with its own maximum."""
    wanted = x.size if p.num_samples is None else int(p.num_samples)
    accepted: list[int] = []
    uniforms = iter(x.uniforms)
    while len(accepted) < wanted:
        left = [i for i in range(x.size) if i not in accepted]
        largest = max((x.candidate_rewards[i] for i in left), key=lambda r: r.value)
        for i in left:
            if len(accepted) < wanted:
                threshold = exp((x.candidate_rewards[i] - largest) / p.rso_beta)
                if next(uniforms) < threshold:
                    accepted.append(i)
    return [], {"accepted": [i in accepted for i in range(x.size)]}


@register(
    "gae.gae",
    constants="token_rewards values mask? last_values?",
    parameters={"gamma": 1.0, "gae_lambda": 0.95},
    outputs="gae_advantages gae_returns",
)
def _gae(x: Any, p: Any) -> Result:
    """GAE (arXiv 1506.02438) eq. 16, from the last token back; masked tokens are skipped."""
    named: dict[str, list[Any]] = {"gae_advantages": [], "gae_returns": []}
    for row in rows(x):
        width = len(row.values)
        advantages, returns = [dual(0)] * width, [dual(0)] * width
        following = row.last_values if row.last_values is not None else dual(0)
        advantage: Dual = dual(0)
        for t in reversed(range(width)):
            if row.mask is not None and not row.mask[t]:
                continue
            delta = row.token_rewards[t] + p.gamma * following - row.values[t]
            advantage = delta + p.gamma * p.gae_lambda * advantage
            following = row.values[t]
            advantages[t], returns[t] = advantage, advantage + row.values[t]
        named["gae_advantages"].append(advantages)
        named["gae_returns"].append(returns)
    return [], named


@register(
    "tr_dpo.mix",
    constants="policy_parameters ref_parameters",
    parameters={"mix_alpha": 0.6},
    outputs="mixed",
)
def _mix(x: Any, p: Any) -> Result:
    """TR-DPO (arXiv 2404.09656) eq. 4, the soft update."""
    pairs = zip(x.policy_parameters, x.ref_parameters, strict=True)
    return [], {"mixed": [p.mix_alpha * a + (1 - p.mix_alpha) * b for a, b in pairs]}
