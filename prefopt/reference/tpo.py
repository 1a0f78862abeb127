"""Triple preference optimisation: pairs without a reference, and the NLL of a third, gold answer.

    Saeidi et al. 2024, Triple Preference Optimization, arXiv 2405.16681                (TPO)

The forms are CPO's (`cpo.py`); gold_nll [B] are sums of -log p over the gold answers' tokens. hinge
and ipo are those of huggingface/trl.
"""

from __future__ import annotations

import numpy.typing as npt

from prefopt._loss_types import DefaultNumber, PairLoss
from prefopt.reference._call import Terms, call, row
from prefopt.reference.cpo import Lengths, by_sums, plus_nll, shaped_margin
from prefopt.reference.scalar import (
    Float64,
    hinge_loss,
    hinge_slope,
    logistic_loss,
    logistic_slope,
)

ArrayLike = npt.ArrayLike


def tpo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    *,
    gold_nll: ArrayLike | None = None,
    gold_lengths: ArrayLike | None = None,
    chosen_lengths: ArrayLike | None = None,
    rejected_lengths: ArrayLike | None = None,
    loss_type: str = "sigmoid",
    beta: float = DefaultNumber(0.1),
    tpo_alpha: float = DefaultNumber(1.0),
    nll_tokens: float | None = None,
    label_smoothing: float = DefaultNumber(0.0),
    tpo_l_gamma: float = DefaultNumber(0.5),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """TPO and TPO-L, per pair [B]; every array is [B]. ipo and tpo_l divide by given lengths."""
    return call("tpo", PairLoss, locals())


@row("tpo.sigmoid")
def sigmoid_loss(
    g: Float64,
    pi_w: Float64,
    pi_l: Float64,
    gold_nll: Float64 | None = None,
    gold_lengths: Lengths = None,
    *,
    beta: float = 0.1,
    tpo_alpha: float = 1.0,
    nll_tokens: float | None = None,
    label_smoothing: float = 0.0,
) -> Terms:
    """-log sigma(beta (pi_w - pi_l)) + alpha NLL(gold): TPO eq. 8, smoothed as in cDPO."""
    u, rewards = shaped_margin(pi_w, pi_l, None, None, 0.0, beta)
    x, e = beta * u.value, label_smoothing
    slope = beta * logistic_slope(x, e)
    terms = Terms(logistic_loss(x, e), by_sums(g, slope, u), rewards)
    return plus_nll(terms, g, tpo_alpha, {"gold_nll": gold_nll}, gold_lengths, nll_tokens)


@row("tpo.hinge")
def hinge(
    g: Float64,
    pi_w: Float64,
    pi_l: Float64,
    gold_nll: Float64 | None = None,
    gold_lengths: Lengths = None,
    *,
    beta: float = 0.1,
    tpo_alpha: float = 1.0,
    nll_tokens: float | None = None,
) -> Terms:
    """max(0, 1 - beta (pi_w - pi_l)) + alpha NLL(gold): TRL's hinge. Gradient 0 at the kink."""
    u, rewards = shaped_margin(pi_w, pi_l, None, None, 0.0, beta)
    x = beta * u.value
    terms = Terms(hinge_loss(x), by_sums(g, beta * hinge_slope(x), u), rewards)
    return plus_nll(terms, g, tpo_alpha, {"gold_nll": gold_nll}, gold_lengths, nll_tokens)


@row("tpo.ipo")
def ipo(
    g: Float64,
    pi_w: Float64,
    pi_l: Float64,
    gold_nll: Float64 | None = None,
    gold_lengths: Lengths = None,
    N_w: Lengths = None,
    N_l: Lengths = None,
    *,
    beta: float = 0.1,
    tpo_alpha: float = 1.0,
    nll_tokens: float | None = None,
) -> Terms:
    """(a_w - a_l - 1 / (2 beta))^2 + alpha NLL(gold): TRL's ipo."""
    u, rewards = shaped_margin(pi_w, pi_l, N_w, N_l, 0.0, beta)
    residual = u.value - 1 / (2 * beta)
    terms = Terms(residual**2, by_sums(g, 2 * residual, u), rewards)
    return plus_nll(terms, g, tpo_alpha, {"gold_nll": gold_nll}, gold_lengths, nll_tokens)


@row("tpo.tpo_l")
def tpo_l(
    g: Float64,
    pi_w: Float64,
    pi_l: Float64,
    gold_nll: Float64 | None = None,
    gold_lengths: Lengths = None,
    N_w: Lengths = None,
    N_l: Lengths = None,
    *,
    beta: float = 0.1,
    tpo_alpha: float = 1.0,
    nll_tokens: float | None = None,
    label_smoothing: float = 0.0,
    tpo_l_gamma: float = 0.5,
) -> Terms:
    """-log sigma(beta (a_w - a_l) - gamma) + alpha NLL(gold): TPO-L, eq. 10."""
    u, rewards = shaped_margin(pi_w, pi_l, N_w, N_l, 0.0, beta)
    x, e = beta * u.value - tpo_l_gamma, label_smoothing
    slope = beta * logistic_slope(x, e)
    terms = Terms(logistic_loss(x, e), by_sums(g, slope, u), rewards)
    return plus_nll(terms, g, tpo_alpha, {"gold_nll": gold_nll}, gold_lengths, nll_tokens)
