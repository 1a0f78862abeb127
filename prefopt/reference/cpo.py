"""Contrastive losses of pairs without a reference and with an NLL term: CPO, SimPO, AlphaPO, TPO.

a_s = pi_s / N_s is the average log-probability of an answer. Each of the B losses gets the same
alpha * sum_i nll_i / tokens, the mean NLL of the batch's tokens, so that the mean of the losses is
the mean preference loss plus alpha times the NLL.

    Xu et al. 2024, Contrastive Preference Optimization, arXiv 2401.08417               (CPO)
    Meng et al. 2024, SimPO: Simple Preference Optimization, arXiv 2405.14734           (SimPO)
    Gupta et al. 2025, AlphaPO: Reward Shape Matters for LLM Alignment, arXiv 2501.03884
    Azar et al. 2023, arXiv 2310.12036 (IPO); Zhao et al. 2023, arXiv 2305.10425        (hinge)
    Saeidi et al. 2024, Triple Preference Optimization, arXiv 2405.16681                (TPO)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prefopt._loss_types import DefaultNumber, PairLoss
from prefopt.reference._call import Terms, call, row
from prefopt.reference.divergence import Margin
from prefopt.reference.scalar import (
    Float64,
    exp_difference,
    hinge_loss,
    hinge_slope,
    logistic_loss,
    logistic_slope,
    per_token,
    times,
)

ArrayLike = npt.ArrayLike
Lengths = Float64 | None


def cpo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    *,
    chosen_nll: ArrayLike | None = None,
    chosen_lengths: ArrayLike | None = None,
    rejected_lengths: ArrayLike | None = None,
    loss_type: str = "sigmoid",
    beta: float = DefaultNumber(0.1),
    alpha: float = DefaultNumber(0.0),
    cpo_alpha: float = DefaultNumber(1.0),
    nll_tokens: float | None = None,
    label_smoothing: float = DefaultNumber(0.0),
    simpo_gamma: float = DefaultNumber(0.5),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """CPO, SimPO and AlphaPO, per pair [B]; every array is [B].

    ipo, simpo and simpo_hinge divide by lengths that are given. chosen_nll are sums of -log p over
    the chosen answers' tokens, nll_tokens their number (default: the sum of chosen_lengths).
    """
    return call("cpo", PairLoss, locals())


def shaped_margin(
    pi_w: Float64, pi_l: Float64, N_w: Lengths, N_l: Lengths, alpha: float, beta: float
) -> tuple[Margin, tuple[Float64, Float64]]:
    """(u, rewards): u = r_w - r_l with its derivatives, and beta r_w, beta r_l. AlphaPO eq. 8:

    r = (1 - p^-alpha) / alpha of p = exp(a); alpha -> 0: r = a. p^-alpha is exp(-alpha a), so that
    u = (exp(-alpha a_l) - exp(-alpha a_w)) / alpha; p itself, which TRL forms, may underflow.
    Without lengths the inputs stand for the averages a.
    """
    a_w, a_l = per_token(pi_w, N_w), per_token(pi_l, N_l)
    if alpha == 0:
        ones = np.ones_like(a_w)
        u = Margin(a_w - a_l, per_token(ones, N_w), per_token(-ones, N_l))
        return u, (beta * a_w, beta * a_l)
    value = exp_difference(-alpha * a_l, -alpha * a_w) / alpha
    by_w, by_l = np.exp(-alpha * a_w), np.exp(-alpha * a_l)
    r_w, r_l = -np.expm1(-alpha * a_w) / alpha, -np.expm1(-alpha * a_l) / alpha
    return Margin(value, per_token(by_w, N_w), per_token(-by_l, N_l)), (beta * r_w, beta * r_l)


def by_sums(g: Float64, slope: Float64, u: Margin) -> dict[str, Float64]:
    """Gradients of a loss of u with derivative `slope`: a slope of 0 outruns an overflow of u."""
    return {"pi_w": times(g * slope, u.by_w), "pi_l": times(g * slope, u.by_l)}


def plus_nll(
    terms: Terms,
    g: Float64,
    weight: float,
    nll: dict[str, Float64 | None],
    lengths: Lengths,
    nll_tokens: float | None,
) -> Terms:
    """Adds weight * sum(nll) / tokens to each loss; tokens = sum(lengths) unless given.

    nll is {symbol: [B] sums of -log p, or None for no such term}.
    """
    ((symbol, sums),) = nll.items()
    if sums is None:
        return terms
    tokens = nll_tokens if nll_tokens is not None else np.sum(lengths)  # type: ignore[arg-type]
    losses = terms.losses + times(weight, per_token(sums.sum(), tokens))
    share = np.full_like(sums, per_token(weight * g.sum(), tokens))
    return Terms(losses, {**terms.grads, symbol: share}, terms.rewards)


@row("cpo.sigmoid")
def sigmoid_loss(
    g: Float64,
    pi_w: Float64,
    pi_l: Float64,
    chosen_nll: Float64 | None = None,
    N_w: Lengths = None,
    *,
    beta: float = 0.1,
    alpha: float = 0.0,
    cpo_alpha: float = 1.0,
    nll_tokens: float | None = None,
    label_smoothing: float = 0.0,
) -> Terms:
    """-(1 - e) log sigma(beta u) - e log sigma(-beta u) + NLL: CPO eq. 3 (e = 0), cDPO's smoothing.

    u = pi_w - pi_l, of sums; the paper's reference is uniform and cancels. N_w counts NLL tokens.
    """
    u, rewards = shaped_margin(pi_w, pi_l, None, None, alpha, beta)
    x, e = beta * u.value, label_smoothing
    slope = beta * logistic_slope(x, e)
    terms = Terms(logistic_loss(x, e), by_sums(g, slope, u), rewards)
    return plus_nll(terms, g, cpo_alpha, {"chosen_nll": chosen_nll}, N_w, nll_tokens)


@row("cpo.hinge")
def hinge(
    g: Float64,
    pi_w: Float64,
    pi_l: Float64,
    chosen_nll: Float64 | None = None,
    N_w: Lengths = None,
    *,
    beta: float = 0.1,
    alpha: float = 0.0,
    cpo_alpha: float = 1.0,
    nll_tokens: float | None = None,
) -> Terms:
    """max(0, 1 - beta u) + NLL, u of sums: TRL's hinge, SLiC eq. 4. Gradient 0 at the kink."""
    u, rewards = shaped_margin(pi_w, pi_l, None, None, alpha, beta)
    x = beta * u.value
    terms = Terms(hinge_loss(x), by_sums(g, beta * hinge_slope(x), u), rewards)
    return plus_nll(terms, g, cpo_alpha, {"chosen_nll": chosen_nll}, N_w, nll_tokens)


@row("cpo.ipo")
def ipo(
    g: Float64,
    pi_w: Float64,
    pi_l: Float64,
    chosen_nll: Float64 | None = None,
    N_w: Lengths = None,
    N_l: Lengths = None,
    *,
    beta: float = 0.1,
    alpha: float = 0.0,
    cpo_alpha: float = 1.0,
    nll_tokens: float | None = None,
) -> Terms:
    """(u - 1 / (2 beta))^2 + NLL, u of averages: IPO eq. 17 without a reference, as TRL's CPO."""
    u, rewards = shaped_margin(pi_w, pi_l, N_w, N_l, alpha, beta)
    residual = u.value - 1 / (2 * beta)
    terms = Terms(residual**2, by_sums(g, 2 * residual, u), rewards)
    return plus_nll(terms, g, cpo_alpha, {"chosen_nll": chosen_nll}, N_w, nll_tokens)


@row("cpo.simpo")
def simpo(
    g: Float64,
    pi_w: Float64,
    pi_l: Float64,
    chosen_nll: Float64 | None = None,
    N_w: Lengths = None,
    N_l: Lengths = None,
    *,
    beta: float = 0.1,
    alpha: float = 0.0,
    cpo_alpha: float = 1.0,
    nll_tokens: float | None = None,
    label_smoothing: float = 0.0,
    simpo_gamma: float = 0.5,
) -> Terms:
    """-log sigma(beta u - gamma) + NLL, u of averages: SimPO eq. 6, AlphaPO eq. 8 for alpha != 0."""
    u, rewards = shaped_margin(pi_w, pi_l, N_w, N_l, alpha, beta)
    x, e = beta * u.value - simpo_gamma, label_smoothing
    slope = beta * logistic_slope(x, e)
    terms = Terms(logistic_loss(x, e), by_sums(g, slope, u), rewards)
    return plus_nll(terms, g, cpo_alpha, {"chosen_nll": chosen_nll}, N_w, nll_tokens)


@row("cpo.simpo_hinge")
def simpo_hinge(
    g: Float64,
    pi_w: Float64,
    pi_l: Float64,
    chosen_nll: Float64 | None = None,
    N_w: Lengths = None,
    N_l: Lengths = None,
    *,
    beta: float = 0.1,
    alpha: float = 0.0,
    cpo_alpha: float = 1.0,
    nll_tokens: float | None = None,
    simpo_gamma: float = 0.5,
) -> Terms:
    """max(0, 1 - (beta u - gamma)) + NLL, u of averages: loss_type "hinge" of princeton-nlp/SimPO."""
    u, rewards = shaped_margin(pi_w, pi_l, N_w, N_l, alpha, beta)
    x = beta * u.value - simpo_gamma
    terms = Terms(hinge_loss(x), by_sums(g, beta * hinge_slope(x), u), rewards)
    return plus_nll(terms, g, cpo_alpha, {"chosen_nll": chosen_nll}, N_w, nll_tokens)
