"""Losses over pairs without a reference model, with their NLL terms.

Rewards are beta times the log-probability that the loss compares: a sum, or an average a = pi / N.
"""

from __future__ import annotations

from typing import Any

from oracle.core import register, rows
from oracle.dpo import BETA, LENGTHS, POLICY, REWARDS, SMOOTHING, average, hinge, smoothed
from oracle.dual import Dual, dual, exp, log1p, smallest_of, stated, total

NLL = {"nll_tokens": None}
CPO = BETA | {"alpha": 0.0, "cpo_alpha": 1.0} | NLL
TPO = BETA | {"tpo_alpha": 1.0} | NLL
Result = tuple[list[Any], dict[str, Any]]


def mean_nll(nll: list[Dual] | None, lengths: list[int] | None, tokens: Any) -> Dual:
    """sum(nll) / tokens, 0 without an NLL or without a token."""
    if nll is None:
        return dual(0)
    count = tokens if tokens is not None else sum(lengths or [])
    return total(nll) / count if count else dual(0)


def averages(x: Any) -> tuple[Any, Any]:
    """a_w and a_l; without lengths the inputs are averages already."""
    chosen = average(x.policy_chosen_logps, x.chosen_lengths)
    return chosen, average(x.policy_rejected_logps, x.rejected_lengths)


def sums(x: Any) -> tuple[Any, Any]:
    """pi_w and pi_l."""
    return x.policy_chosen_logps, x.policy_rejected_logps


def alpha_reward(logps: Any, alpha: Any) -> Any:
    """AlphaPO (arXiv 2501.03884) eq. 8: (1 - p^-alpha) / alpha; the log-probability for alpha = 0."""
    return logps if alpha == 0 else (1 - exp(-alpha * logps)) / alpha


def preference(x: Any, p: Any, parts: Any, loss: Any, nll: Any = 0) -> Result:
    """loss(r_w, r_l) of each pair + the NLL term of the batch, which each of its losses gets."""
    alpha = getattr(p, "alpha", 0)
    pairs = [[alpha_reward(each, alpha) for each in parts(row)] for row in rows(x)]
    losses = [loss(chosen, rejected) + nll for chosen, rejected in pairs]
    chosen_rewards, rejected_rewards = ([p.beta * pair[k] for pair in pairs] for k in (0, 1))
    return losses, {"chosen_rewards": chosen_rewards, "rejected_rewards": rejected_rewards}


# ---- CPO, SimPO ----------------------------------------------------------------------------------


def cpo_nll(x: Any, p: Any) -> Dual:
    """cpo_alpha times the token mean of the chosen answers' NLL (TRL cpo_trainer.py)."""
    return p.cpo_alpha * mean_nll(x.chosen_nll, x.chosen_lengths, p.nll_tokens)


SUMS = {"inputs": f"{POLICY} chosen_nll?", "constants": "chosen_lengths?", "rewards": REWARDS}
AVERAGES = {"inputs": f"{POLICY} chosen_nll?", "constants": LENGTHS, "rewards": REWARDS}


def logistic(p: Any, gamma: Any = 0) -> Any:
    """-log sigmoid(beta (r_w - r_l) - gamma), smoothed as in cDPO."""
    return lambda r_w, r_l: smoothed(p.beta * (r_w - r_l) - gamma, p.label_smoothing)


def hinged(p: Any, gamma: Any = 0) -> Any:
    """max(0, 1 - (beta (r_w - r_l) - gamma))."""
    return lambda r_w, r_l: hinge(p.beta * (r_w - r_l) - gamma)


def squared(p: Any) -> Any:
    """IPO (arXiv 2310.12036) eq. 17."""
    return lambda r_w, r_l: (r_w - r_l - 1 / (2 * p.beta)) ** 2


@register("cpo.sigmoid", **SUMS, parameters=CPO | SMOOTHING)
def _cpo_sigmoid(x: Any, p: Any) -> Result:
    """CPO (arXiv 2401.08417) eq. 3 and its NLL; label smoothing as in cDPO."""
    return preference(x, p, sums, logistic(p), cpo_nll(x, p))


@register("cpo.hinge", **SUMS, parameters=CPO)
def _cpo_hinge(x: Any, p: Any) -> Result:
    """TRL cpo_trainer.py, loss_type "hinge"."""
    return preference(x, p, sums, hinged(p), cpo_nll(x, p))


@register("cpo.ipo", **AVERAGES, parameters=CPO)
def _cpo_ipo(x: Any, p: Any) -> Result:
    """TRL cpo_trainer.py, loss_type "ipo": on averages."""
    return preference(x, p, averages, squared(p), cpo_nll(x, p))


@register("cpo.simpo", **AVERAGES, parameters=CPO | SMOOTHING | {"simpo_gamma": 0.5})
def _simpo(x: Any, p: Any) -> Result:
    """SimPO (arXiv 2405.14734) eq. 6."""
    return preference(x, p, averages, logistic(p, p.simpo_gamma), cpo_nll(x, p))


@register("cpo.simpo_hinge", **AVERAGES, parameters=CPO | {"simpo_gamma": 0.5})
def _simpo_hinge(x: Any, p: Any) -> Result:
    """princeton-nlp/SimPO scripts/simpo_trainer.py:586."""
    return preference(x, p, averages, hinged(p, p.simpo_gamma), cpo_nll(x, p))


# ---- ORPO ----------------------------------------------------------------------------------------


def odds_loss(a_w: Any, a_l: Any) -> Any:
    """-log sigmoid(log(odds_w / odds_l)) = log(1 + odds_l / odds_w), odds = p / (1 - p), p = exp(a).

    At a = 0, where odds are infinite, the limits: a_w = 0 > a_l costs 0, with the limit of the
    derivative, -odds_l; a_l = 0 > a_w costs inf; both 0 has no limit, and that along a_w = a_l is
    taken: ln 2, derivatives -inf and inf.
    """
    if a_w == 0 and a_l == 0:
        return stated(log1p(1).value, [(-INFINITE, a_w), (INFINITE, a_l)])
    if a_l == 0:
        return stated(INFINITE, [((-1 / (1 - exp(a_w))).value, a_w), (INFINITE, a_l)])
    odds_l = exp(a_l) / (1 - exp(a_l))
    if a_w == 0:
        return stated(dual(0).value, [((-odds_l).value, a_w)])
    odds_w = exp(a_w) / (1 - exp(a_w))
    return log1p(odds_l / odds_w)


INFINITE = dual(float("inf")).value


@register(
    "orpo.orpo",
    inputs=f"{POLICY} chosen_nll?",
    constants=LENGTHS,
    parameters=BETA | {"nll_weight": 1.0} | NLL,
    rewards=REWARDS,
)
def _orpo(x: Any, p: Any) -> Result:
    """ORPO (arXiv 2403.07691) eq. 6-7: NLL + lambda (-log sigmoid(log odds ratio)), beta = lambda."""
    nll = p.nll_weight * mean_nll(x.chosen_nll, x.chosen_lengths, p.nll_tokens)
    return preference(x, p, averages, lambda a_w, a_l: p.beta * odds_loss(a_w, a_l), nll)


# ---- SLiC, SimPER, ARPO --------------------------------------------------------------------------


@register(
    "slic.hinge",
    inputs=f"{POLICY} target_nll?",
    parameters={"slic_delta": 1.0, "slic_lambda": 1.0} | BETA,
    rewards=REWARDS,
)
def _slic(x: Any, p: Any) -> Result:
    """SLiC-HF (arXiv 2305.10425) eq. 4: max(0, delta - pi_w + pi_l) - lambda log pi(y_target)."""
    losses, named = preference(x, p, sums, lambda pi_w, pi_l: hinge(pi_w - pi_l - p.slic_delta + 1))
    if x.target_nll is not None:
        pairs = zip(losses, x.target_nll, strict=True)
        losses = [loss + p.slic_lambda * nll for loss, nll in pairs]
    return losses, named


@register("simper.simper", inputs=POLICY, constants=LENGTHS, parameters=BETA, rewards=REWARDS)
def _simper(x: Any, p: Any) -> Result:
    """SimPER (arXiv 2502.00883) eq. 5: inverse perplexities, without a hyperparameter."""
    return preference(x, p, averages, lambda a_w, a_l: -exp(a_w) + exp(a_l))


@register(
    "arpo.sigmoid",
    inputs=f"{POLICY} chosen_nll?",
    constants="chosen_lengths rejected_lengths",
    parameters=BETA
    | SMOOTHING
    | {"relax_coefficient_1": 0.9, "relax_coefficient_2": 0.4, "cpo_alpha": 1.0}
    | NLL,
    rewards=REWARDS,
)
def _arpo(x: Any, p: Any) -> Result:
    """X-ALMA (arXiv 2410.03115) section 4.3, fe1ixxu/ALMA utils/cpo_trainer.py:606.

    u = pi_w - f pi_l, f = min(1, c1 exp(c2 |a_w - a_l|) - 1), and f carries gradient; at a_w = a_l
    and where f reaches 1 it has none.
    """
    _, named = preference(x, p, sums, lambda pi_w, pi_l: dual(0))
    losses = []
    for row in rows(x):
        a_w, a_l = averages(row)
        factor = smallest_of(
            1, p.relax_coefficient_1 * exp(p.relax_coefficient_2 * abs(a_w - a_l)) - 1
        )
        u = row.policy_chosen_logps - factor * row.policy_rejected_logps
        losses.append(smoothed(p.beta * u, p.label_smoothing) + cpo_nll(x, p))
    return losses, named


# ---- TPO -----------------------------------------------------------------------------------------


def tpo_nll(x: Any, p: Any) -> Dual:
    """tpo_alpha times the token mean of the gold answers' NLL (TRL tpo_trainer.py)."""
    return p.tpo_alpha * mean_nll(x.gold_nll, x.gold_lengths, p.nll_tokens)


GOLD = {"inputs": f"{POLICY} gold_nll?", "constants": "gold_lengths?", "rewards": REWARDS}
GOLD_AVERAGES = {**GOLD, "constants": f"gold_lengths? {LENGTHS}"}


@register("tpo.sigmoid", **GOLD, parameters=TPO | SMOOTHING)
def _tpo_sigmoid(x: Any, p: Any) -> Result:
    """TPO (arXiv 2405.16681) eq. 8."""
    return preference(x, p, sums, logistic(p), tpo_nll(x, p))


@register("tpo.hinge", **GOLD, parameters=TPO)
def _tpo_hinge(x: Any, p: Any) -> Result:
    """TRL tpo_trainer.py, loss_type "hinge"."""
    return preference(x, p, sums, hinged(p), tpo_nll(x, p))


@register("tpo.ipo", **GOLD_AVERAGES, parameters=TPO)
def _tpo_ipo(x: Any, p: Any) -> Result:
    """TRL tpo_trainer.py, loss_type "ipo"."""
    return preference(x, p, averages, squared(p), tpo_nll(x, p))


@register("tpo.tpo_l", **GOLD_AVERAGES, parameters=TPO | SMOOTHING | {"tpo_l_gamma": 0.5})
def _tpo_l(x: Any, p: Any) -> Result:
    """TPO eq. 10: averages and a target margin."""
    return preference(x, p, averages, logistic(p, p.tpo_l_gamma), tpo_nll(x, p))
