"""Losses over pairs with a reference model, typed from their papers.

pi and ref are log-probabilities of whole answers, w the chosen and l the rejected one;
D_s = pi_s - ref_s, and rewards are beta D_s (DPO section 4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oracle.core import Formula, register, rows, rowwise
from oracle.dual import (
    Dual,
    dual,
    exp,
    largest_of,
    log,
    log_sigmoid,
    ordered,
    sigmoid,
    smallest_of,
    stop_gradient,
    total,
)

POLICY = "policy_chosen_logps policy_rejected_logps"
REFERENCE = "ref_chosen_logps ref_rejected_logps"
WEIGHTS = "chosen_weights? rejected_weights?"
LENGTHS = "chosen_lengths? rejected_lengths?"
REWARDS = "chosen_rewards rejected_rewards"
BETA = {"beta": 0.1}
SMOOTHING = {"label_smoothing": 0.0}
DIVERGENCE = {
    "f_divergence_type": "reverse_kl",
    "f_alpha_divergence_coef": 0.5,
    "f_exponent_cap": float("inf"),
}


# ---- what they share -----------------------------------------------------------------------------


def ratio(x: Any, side: str) -> Dual:
    """D_s = log pi(y_s) - log ref(y_s)."""
    policy: Dual = getattr(x, f"policy_{side}_logps")
    return policy - getattr(x, f"ref_{side}_logps")


def rewards(x: Any, beta: Any) -> dict[str, Dual]:
    """The implicit rewards of DPO."""
    return {f"{side}_rewards": beta * ratio(x, side) for side in ("chosen", "rejected")}


def wpo(x: Any) -> Any:
    """WPO (arXiv 2406.11827) eq. 2: each pair counts w(x, y_w) w(x, y_l)."""
    weight = dual(1)
    for given in (x.chosen_weights, x.rejected_weights):
        weight = weight if given is None else weight * given
    return weight


def average(value: Any, length: int | None) -> Any:
    """A sum over an answer's tokens per token; an empty answer has average 0 and no gradient."""
    if length is None:
        return value
    return value / length if length else dual(0)


def score(x: Any, p: Any, side: str) -> Dual:
    """f'(pi/ref) of f-DPO (arXiv 2309.16240) table 1, a constant apart; D for reverse KL."""
    d = ratio(x, side)
    if p.f_divergence_type == "forward_kl":
        return 1 - exp(smallest_of(-d, p.f_exponent_cap))
    if p.f_divergence_type == "js_divergence":
        return log(2 / (1 + exp(-d)))
    if p.f_divergence_type == "alpha_divergence" and p.f_alpha_divergence_coef != 1:
        a = p.f_alpha_divergence_coef - 1
        return (exp(smallest_of(a * d, p.f_exponent_cap)) - 1) / a
    return d


def margin(x: Any, p: Any) -> Dual:
    """What a loss of the pair compares: the difference of the scores."""
    return score(x, p, "chosen") - score(x, p, "rejected")


def smoothed(x: Any, e: Any) -> Dual:
    """cDPO (Mitchell's note, 2023) eq. 3: the label is flipped with probability e."""
    return -(1 - e) * log_sigmoid(x) - e * log_sigmoid(-dual(x))


def hinge(x: Any) -> Dual:
    """max(0, 1 - x), with derivative 0 at 1."""
    gap = 1 - dual(x)
    return gap if gap > 0 else dual(0)


def pair_loss(
    name: str, constants: str = WEIGHTS, **parameters: float | str | None
) -> Callable[[Callable[[Any, Any], Any]], Formula]:
    """Registers the formula of one pair: WPO weights its loss, the rewards are DPO's."""

    def take(function: Callable[[Any, Any], Any]) -> Formula:
        def one(x: Any, p: Any) -> tuple[Any, dict[str, Any]]:
            return wpo(x) * function(x, p), rewards(x, p.beta)

        one.__doc__ = function.__doc__
        return register(
            name,
            inputs=POLICY,
            constants=f"{REFERENCE} {constants}",
            parameters=BETA | parameters,
            rewards=REWARDS,
        )(rowwise(one))

    return take


# ---- one pair at a time --------------------------------------------------------------------------


@pair_loss("dpo.sigmoid", **SMOOTHING, **DIVERGENCE)
def _sigmoid(x: Any, p: Any) -> Dual:
    """DPO (arXiv 2305.18290) eq. 7; label smoothing: cDPO eq. 3."""
    return smoothed(p.beta * margin(x, p), p.label_smoothing)


@pair_loss("dpo.robust", **SMOOTHING, **DIVERGENCE)
def _robust(x: Any, p: Any) -> Dual:
    """Robust DPO (arXiv 2403.00409) eq. 12: unbiased where a share e of the labels is flipped."""
    e, m = p.label_smoothing, p.beta * margin(x, p)
    return ((1 - e) * -log_sigmoid(m) - e * -log_sigmoid(-m)) / (1 - 2 * e)


@pair_loss("dpo.hinge", **DIVERGENCE)
def _hinge(x: Any, p: Any) -> Dual:
    """RSO (arXiv 2309.06657) section 3: the hinge of SLiC on log-ratios."""
    return hinge(p.beta * margin(x, p))


@pair_loss("dpo.ipo", f"{LENGTHS} {WEIGHTS}", **DIVERGENCE)
def _ipo(x: Any, p: Any) -> Dual:
    """IPO (arXiv 2310.12036) eq. 17, tau = beta; per token where lengths are given."""
    chosen = average(score(x, p, "chosen"), x.chosen_lengths)
    rejected = average(score(x, p, "rejected"), x.rejected_lengths)
    return (chosen - rejected - 1 / (2 * p.beta)) ** 2


@pair_loss("dpo.exo_pair", **{**SMOOTHING, "label_smoothing": 0.001}, **DIVERGENCE)
def _exo_pair(x: Any, p: Any) -> Dual:
    """EXO (arXiv 2402.00856) eq. 16: KL of (q, 1 - q) from (1 - e, e), q = sigmoid(beta d)."""
    m, e = p.beta * margin(x, p), p.label_smoothing
    right = sigmoid(m) * (log_sigmoid(m) - log(1 - e))
    return right + sigmoid(-m) * (log_sigmoid(-m) - log(e))


@pair_loss("dpo.nca_pair")
def _nca_pair(x: Any, p: Any) -> Dual:
    """NCA (arXiv 2402.05369) eq. 11 for two answers."""
    r_w, r_l = p.beta * ratio(x, "chosen"), p.beta * ratio(x, "rejected")
    return -log_sigmoid(r_w) - (log_sigmoid(-r_w) + log_sigmoid(-r_l)) / 2


@pair_loss("dpo.sppo_hard")
def _sppo_hard(x: Any, p: Any) -> Dual:
    """SPPO (arXiv 2405.00675) eq. 4.7 with win rates 1 and 0, eta = 1 / beta; TRL's sum of both."""
    target = 1 / (2 * p.beta)
    return (ratio(x, "chosen") - target) ** 2 + (ratio(x, "rejected") + target) ** 2


@pair_loss("dpo.sppo_soft", f"chosen_win_rates rejected_win_rates {WEIGHTS}")
def _sppo_soft(x: Any, p: Any) -> Dual:
    """SPPO eq. 4.6 for each answer: (D - eta (P - 1/2))^2, eta = 1 / beta."""
    chosen = ratio(x, "chosen") - (x.chosen_win_rates - dual(0.5)) / p.beta
    rejected = ratio(x, "rejected") - (x.rejected_win_rates - dual(0.5)) / p.beta
    return chosen**2 + rejected**2


@pair_loss("dpo.bco_pair", f"delta? {WEIGHTS}")
def _bco_pair(x: Any, p: Any) -> Dual:
    """BCO (arXiv 2404.04656) eq. 10 on pairs, with the reward shift delta (TRL 1.x: none)."""
    delta = 0 if x.delta is None else x.delta
    r_w, r_l = p.beta * ratio(x, "chosen"), p.beta * ratio(x, "rejected")
    return -log_sigmoid(r_w - delta) - log_sigmoid(-(r_l - delta))


@pair_loss("dpo.apo_zero")
def _apo_zero(x: Any, p: Any) -> Dual:
    """APO (arXiv 2408.06266) eq. 7: 1 - sigmoid(r_w) + sigmoid(r_l)."""
    return sigmoid(-p.beta * ratio(x, "chosen")) + sigmoid(p.beta * ratio(x, "rejected"))


@pair_loss("dpo.apo_down")
def _apo_down(x: Any, p: Any) -> Dual:
    """APO eq. 8: sigmoid(r_w) + 1 - sigmoid(r_w - r_l)."""
    r_w, r_l = p.beta * ratio(x, "chosen"), p.beta * ratio(x, "rejected")
    return sigmoid(r_w) + sigmoid(-(r_w - r_l))


@pair_loss("dpo.discopop", **DIVERGENCE, discopop_tau=0.05)
def _discopop(x: Any, p: Any) -> Dual:
    """DiscoPOP (arXiv 2406.08414) section 4.2: logistic and exponential, mixed by sigmoid(m / tau)."""
    m = p.beta * margin(x, p)
    mix = m / p.discopop_tau
    return sigmoid(-mix) * -log_sigmoid(m) + sigmoid(mix) * exp(-m)


@pair_loss("dpo.sigmoid_norm", f"{LENGTHS} {WEIGHTS}", **SMOOTHING, **DIVERGENCE)
def _sigmoid_norm(x: Any, p: Any) -> Dual:
    """Tulu 3 (arXiv 2411.15124) eq. 6: DPO of averages."""
    chosen = average(score(x, p, "chosen"), x.chosen_lengths)
    rejected = average(score(x, p, "rejected"), x.rejected_lengths)
    return smoothed(p.beta * (chosen - rejected), p.label_smoothing)


# ---- over the batch ------------------------------------------------------------------------------


def shares(logps: list[Dual], lengths: list[int] | None, tokens: Any) -> list[Dual]:
    """-logp B / tokens: shares whose mean is the mean of -log p over the batch's tokens."""
    count = tokens if tokens is not None else sum(lengths or [])
    return [-logp * len(logps) / count if count else dual(0) for logp in logps]


@register(
    "dpo.sft",
    inputs="policy_chosen_logps",
    constants=f"policy_rejected_logps? ref_chosen_logps? ref_rejected_logps? chosen_lengths? {WEIGHTS}",
    parameters=BETA | {"nll_tokens": None},
    rewards=REWARDS,
)
def _sft(x: Any, p: Any) -> tuple[list[Any], dict[str, Any]]:
    """TRL 1.16 dpo_trainer.py, loss_type "sft": -mean of log-probs over all chosen tokens."""
    nll = shares(x.policy_chosen_logps, x.chosen_lengths, p.nll_tokens)
    named: dict[str, list[Any]] = {"chosen_rewards": [], "rejected_rewards": []}
    losses = []
    for share, row in zip(nll, rows(x), strict=True):
        losses.append(wpo(row) * share)
        for side in ("chosen", "rejected"):
            both = [getattr(row, f"{model}_{side}_logps") for model in ("policy", "ref")]
            policy, ref = (dual(0) if each is None else each for each in both)
            named[f"{side}_rewards"].append(p.beta * (policy - ref))
    return losses, named


@register(
    "dpo.kto_pair",
    inputs=POLICY,
    constants=f"{REFERENCE} chosen_kl_mean? rejected_kl_mean? {WEIGHTS}",
    parameters=BETA,
    rewards=REWARDS,
)
def _kto_pair(x: Any, p: Any) -> tuple[list[Any], dict[str, Any]]:
    """TRL 0.7 dpo_trainer.py, loss_type "kto_pair": KTO (arXiv 2402.01306) eq. 7 on both halves.

    The reference point of each half is max(0, mean D) of the other, a constant. TRL concatenates
    the 2 B losses; here a pair's loss is the mean of its two, so that the mean is the same.
    """
    given = {"chosen": x.chosen_kl_mean, "rejected": x.rejected_kl_mean}
    z = {}
    for side, value in given.items():
        mean = total(ratio(row, side) for row in rows(x)) / x.size
        z[side] = stop_gradient(value if value is not None else largest_of(mean, 0))
    losses = []
    for row in rows(x):
        desirable = sigmoid(-p.beta * (ratio(row, "chosen") - z["rejected"]))
        undesirable = sigmoid(-p.beta * (z["chosen"] - ratio(row, "rejected")))
        losses.append(wpo(row) * (desirable + undesirable) / 2)
    return losses, _all_rewards(x, p.beta)


def _all_rewards(x: Any, beta: Any) -> dict[str, list[Any]]:
    named: dict[str, list[Any]] = {}
    for row in rows(x):
        for key, value in rewards(row, beta).items():
            named.setdefault(key, []).append(value)
    return named


# ---- optimal transport ---------------------------------------------------------------------------


def sorted_losses(first: list[Dual], second: list[Dual], p: Any) -> list[Any]:
    """AOT: the k-th smallest of both samples are compared; the loss stands where the first is."""
    losses: list[Any] = [None] * len(first)
    for i, j in zip(ordered(first), ordered(second), strict=True):
        losses[i] = smoothed(p.beta * (first[i] - second[j]), p.label_smoothing)
    return losses


def gathered(own: list[Dual], everyone: list[Dual] | None, offset: int) -> list[Dual]:
    """The samples of all ranks, this batch's own numbers in their place."""
    if everyone is None:
        return own
    return [*everyone[:offset], *own, *everyone[offset + len(own) :]]


def aot(x: Any, p: Any, samples: Any, gather: tuple[Any, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Losses of this batch's part of the samples, with gradients of the sum over all of them."""
    offset = int(p.gather_offset)
    first, second = zip(*(samples(row) for row in rows(x)), strict=True)
    both = gathered(list(first), gather[0], offset), gathered(list(second), gather[1], offset)
    losses = sorted_losses(*both, p)
    own = losses[offset : offset + x.size]
    if gather[0] is not None:
        own = _with_gradients_of(own, losses, offset)
    return own, _all_rewards(x, p.beta)


def _with_gradients_of(own: list[Dual], losses: list[Dual], offset: int) -> list[Dual]:
    """The other ranks' losses add their gradient by this rank's numbers, and no value: summed over
    the ranks, gradients are those of a single process.
    """
    others = total([*losses[:offset], *losses[offset + len(own) :]])
    silent = Dual(dual(0).value, others.grad, {}, others.cross)
    return [own[0] + silent, *own[1:]]


AOT = BETA | SMOOTHING | {"gather_offset": 0.0}


@register(
    "dpo.aot",
    inputs=POLICY,
    constants=f"{REFERENCE} gathered_policy_logratios? gathered_ref_logratios?",
    parameters=AOT,
    rewards=REWARDS,
)
def _aot(x: Any, p: Any) -> tuple[list[Any], dict[str, Any]]:
    """AOT (arXiv 2406.05882) eq. 5: pi_w - pi_l against ref_w - ref_l, each sorted."""

    def samples(row: Any) -> tuple[Dual, Dual]:
        policy = row.policy_chosen_logps - row.policy_rejected_logps
        return policy, row.ref_chosen_logps - row.ref_rejected_logps

    return aot(x, p, samples, (x.gathered_policy_logratios, x.gathered_ref_logratios))


@register(
    "dpo.aot_unpaired",
    inputs=POLICY,
    constants=f"{REFERENCE} gathered_chosen_logratios? gathered_rejected_logratios?",
    parameters=AOT,
    rewards=REWARDS,
)
def _aot_unpaired(x: Any, p: Any) -> tuple[list[Any], dict[str, Any]]:
    """AOT eq. 8: D_w against D_l, each sorted."""

    def samples(row: Any) -> tuple[Dual, Dual]:
        return ratio(row, "chosen"), ratio(row, "rejected")

    return aot(x, p, samples, (x.gathered_chosen_logratios, x.gathered_rejected_logratios))
