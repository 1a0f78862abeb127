"""Losses over single answers, desirable or not (KTO, BCO), and over scores and likelihoods."""

from __future__ import annotations

from typing import Any

from oracle.core import register, rowwise
from oracle.dpo import BETA, shares
from oracle.dual import dual, log_sigmoid, sigmoid

CLASS_WEIGHTS = {"desirable_weight": 1.0, "undesirable_weight": 1.0}


def class_weight(x: Any, p: Any) -> Any:
    """lambda_D or lambda_U."""
    return p.desirable_weight if x.desirable else p.undesirable_weight


@register(
    "kto.kto",
    inputs="policy_logps",
    constants="ref_logps desirable kl",
    parameters=BETA | CLASS_WEIGHTS,
    rewards="rewards",
)
@rowwise
def _kto(x: Any, p: Any) -> tuple[Any, dict[str, Any]]:
    """KTO (arXiv 2402.01306) section 4.1: lambda_y - v(x, y).

    v = lambda_D sigmoid(beta (r - z0)) or lambda_U sigmoid(beta (z0 - r)); z0 is a constant.
    """
    r = x.policy_logps - x.ref_logps
    gain = p.beta * (r - x.kl) if x.desirable else p.beta * (x.kl - r)
    return class_weight(x, p) * sigmoid(-gain), {"rewards": p.beta * r}


@register(
    "kto.apo_zero_unpaired",
    inputs="policy_logps",
    constants="ref_logps desirable",
    parameters=BETA | CLASS_WEIGHTS,
    rewards="rewards",
)
@rowwise
def _apo_zero_unpaired(x: Any, p: Any) -> tuple[Any, dict[str, Any]]:
    """APO (arXiv 2408.06266) eq. 7 by halves: 1 - sigmoid(r) if desirable, else sigmoid(r)."""
    r = p.beta * (x.policy_logps - x.ref_logps)
    return class_weight(x, p) * sigmoid(-r if x.desirable else r), {"rewards": r}


@register(
    "bco.bco",
    inputs="policy_logps",
    constants="ref_logps desirable delta? udm_weights?",
    parameters=BETA,
    rewards="rewards",
)
@rowwise
def _bco(x: Any, p: Any) -> tuple[Any, dict[str, Any]]:
    """BCO (arXiv 2404.04656) eq. 8-10: a classifier with shift delta; UDM weighs the undesirable."""
    r = p.beta * (x.policy_logps - x.ref_logps)
    shifted = r if x.delta is None else r - x.delta
    if x.desirable:
        return -log_sigmoid(shifted), {"rewards": r}
    weight = dual(1) if x.udm_weights is None else x.udm_weights
    return weight * -log_sigmoid(-shifted), {"rewards": r}


@register("sft.nll", inputs="policy_logps", constants="lengths?", parameters={"nll_tokens": None})
def _nll(x: Any, p: Any) -> tuple[list[Any], dict[str, Any]]:
    """The mean over tokens of -log p, as B shares whose mean it is."""
    return shares(x.policy_logps, x.lengths, p.nll_tokens), {}


@register(
    "reward_model.bradley_terry",
    inputs="chosen_scores rejected_scores",
    constants="margins?",
    parameters={"center_coefficient": 0.0},
)
@rowwise
def _bradley_terry(x: Any, p: Any) -> tuple[Any, dict[str, Any]]:
    """InstructGPT (arXiv 2203.02155) eq. 1; Llama 2's margin; TRL's centring c (r_w + r_l)^2."""
    gap = x.chosen_scores - x.rejected_scores
    if x.margins is not None:
        gap = gap - x.margins
    centre = (x.chosen_scores + x.rejected_scores) ** 2
    return -log_sigmoid(gap) + p.center_coefficient * centre, {}
