"""Other losses without a reference, per pair [B]: ORPO, SLiC-HF, SimPER, ARPO, and reward models'.

a_s = pi_s / N_s is the average log-probability of an answer (pi_s itself without lengths).

    Hong et al. 2024, ORPO: Monolithic Preference Optimization ..., arXiv 2403.07691     (ORPO)
    Zhao et al. 2023, SLiC-HF: Sequence Likelihood Calibration ..., arXiv 2305.10425     (SLiC-HF)
    Xiao et al. 2025, SimPER: A Minimalist Approach ..., arXiv 2502.00883                (SimPER)
    Xu et al. 2024, X-ALMA: Plug & Play Modules ..., arXiv 2410.03115                    (ARPO)
    Ouyang et al. 2022, Training language models to follow instructions ..., arXiv 2203.02155
    Touvron et al. 2023, Llama 2, arXiv 2307.09288                                       (margin)
    Eisenstein et al. 2023, Helping or Herding?, arXiv 2312.09244                        (centring)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prefopt._loss_types import DefaultNumber, PairLoss, SequenceLoss
from prefopt.reference._call import Terms, call, row
from prefopt.reference.cpo import Lengths, plus_nll
from prefopt.reference.scalar import (
    Float64,
    Number,
    logistic_loss,
    logistic_slope,
    minus_log_sigmoid,
    per_token,
    times,
)

ArrayLike = npt.ArrayLike


def orpo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    *,
    chosen_nll: ArrayLike | None = None,
    chosen_lengths: ArrayLike | None = None,
    rejected_lengths: ArrayLike | None = None,
    beta: float = DefaultNumber(0.1),
    nll_weight: float = DefaultNumber(1.0),
    nll_tokens: float | None = None,
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """ORPO, per pair [B]; beta is the paper's lambda. chosen_nll as for `cpo_loss`."""
    return call("orpo", PairLoss, locals())


@row("orpo.orpo")
def orpo(
    g: Float64,
    pi_w: Float64,
    pi_l: Float64,
    chosen_nll: Float64 | None = None,
    N_w: Lengths = None,
    N_l: Lengths = None,
    *,
    beta: float = 0.1,
    nll_weight: float = 1.0,
    nll_tokens: float | None = None,
) -> Terms:
    """-beta log sigma(log(odds_w / odds_l)) + NLL, odds = p / (1 - p), p = exp(a): ORPO eq. 6-7."""
    a_w, a_l = per_token(pi_w, N_w), per_token(pi_l, N_l)
    losses, by_w, by_l = _odds_ratio_loss(np.minimum(a_w, 0.0), np.minimum(a_l, 0.0))
    grads = {"pi_w": per_token(g * beta * by_w, N_w), "pi_l": per_token(g * beta * by_l, N_l)}
    terms = Terms(beta * losses, grads, (beta * a_w, beta * a_l))
    return plus_nll(terms, g, nll_weight, {"chosen_nll": chosen_nll}, N_w, nll_tokens)


def _odds_ratio_loss(a_w: Float64, a_l: Float64) -> tuple[Float64, Float64, Float64]:
    """-log sigma(o), o = log odds_w - log odds_l, and its derivatives by a_w and a_l.

    With q = 1 - p and p_w / odds_l = exp(a_w - a_l) q_l:
        dL/da_w = -1 / (exp(a_w - a_l) q_l + q_w),  dL/da_l = (q_w / q_l) / (the same)
    which have their limits at p = 1: a_w = 0 > a_l costs 0 with slope -odds_l, a_l = 0 > a_w costs
    inf. At p_w = p_l = 1 there is no limit; the one along a_w = a_l is taken: ln 2, slopes -inf, inf.
    """
    q_w, q_l = np.abs(np.expm1(a_w)), np.abs(np.expm1(a_l))
    both_sure = (a_w == 0) & (a_l == 0)
    o = (a_w - a_l) - (np.log(q_w) - np.log(q_l))
    losses = minus_log_sigmoid(np.where(both_sure, 0.0, o))
    denominator = np.exp(a_w - a_l) * q_l + q_w
    by_l = np.where(both_sure, np.inf, q_w / denominator / q_l)
    return losses, -1 / denominator, by_l


def slic_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    *,
    target_nll: ArrayLike | None = None,
    slic_delta: float = DefaultNumber(1.0),
    slic_lambda: float = DefaultNumber(1.0),
    beta: float = DefaultNumber(0.1),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """SLiC-HF, per pair [B]; target_nll [B] is -log p of the regulariser's target. beta: rewards."""
    return call("slic", PairLoss, locals())


@row("slic.hinge")
def slic(
    g: Float64,
    pi_w: Float64,
    pi_l: Float64,
    target_nll: Number = 0.0,
    *,
    slic_delta: float = 1.0,
    slic_lambda: float = 1.0,
    beta: float = 0.1,
) -> Terms:
    """max(0, delta - pi_w + pi_l) + lambda target_nll: SLiC-HF eq. 4, and its regulariser.

    Gradient 0 at the kink.
    """
    gap = slic_delta - pi_w + pi_l
    slope = np.where(gap <= 0, 0.0, g)
    losses = np.maximum(0.0, gap) + times(slic_lambda, target_nll)
    grads = {"pi_w": -slope, "pi_l": slope, "target_nll": g * slic_lambda}
    return Terms(losses, grads, (beta * pi_w, beta * pi_l))


def simper_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    *,
    chosen_lengths: ArrayLike | None = None,
    rejected_lengths: ArrayLike | None = None,
    beta: float = DefaultNumber(0.1),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """SimPER, per pair [B]; without hyperparameters: beta scales the rewards only."""
    return call("simper", PairLoss, locals())


@row("simper.simper")
def simper(
    g: Float64,
    pi_w: Float64,
    pi_l: Float64,
    N_w: Lengths = None,
    N_l: Lengths = None,
    *,
    beta: float = 0.1,
) -> Terms:
    """-exp(a_w) + exp(a_l), inverse perplexities: SimPER eq. 5."""
    a_w, a_l = per_token(pi_w, N_w), per_token(pi_l, N_l)
    grads = {"pi_w": per_token(-g * np.exp(a_w), N_w), "pi_l": per_token(g * np.exp(a_l), N_l)}
    return Terms(np.exp(a_l) - np.exp(a_w), grads, (beta * a_w, beta * a_l))


def arpo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    *,
    chosen_nll: ArrayLike | None = None,
    beta: float = DefaultNumber(0.1),
    label_smoothing: float = DefaultNumber(0.0),
    relax_coefficient_1: float = DefaultNumber(0.9),
    relax_coefficient_2: float = DefaultNumber(0.4),
    cpo_alpha: float = DefaultNumber(1.0),
    nll_tokens: float | None = None,
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """ARPO, CPO that rejects less what is close to the chosen answer; every array is [B]."""
    return call("arpo", PairLoss, locals())


@row("arpo.sigmoid")
def arpo(
    g: Float64,
    pi_w: Float64,
    pi_l: Float64,
    N_w: Float64,
    N_l: Float64,
    chosen_nll: Float64 | None = None,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    relax_coefficient_1: float = 0.9,
    relax_coefficient_2: float = 0.4,
    cpo_alpha: float = 1.0,
    nll_tokens: float | None = None,
) -> Terms:
    """-log sigma(beta (pi_w - p pi_l)) + NLL: ARPO, section 4.3 and fe1ixxu/ALMA's code.

    p = min(1, c1 exp(c2 |a_w - a_l|) - 1) carries gradient: 0 where it is 1 and at a_w = a_l.
    """
    gap = per_token(pi_w, N_w) - per_token(pi_l, N_l)
    growth = relax_coefficient_1 * np.exp(relax_coefficient_2 * np.abs(gap))
    factor = np.minimum(growth - 1, 1.0)
    by_gap = np.where(growth - 1 < 1, np.sign(gap) * relax_coefficient_2 * growth, 0.0)
    x = beta * (pi_w - factor * pi_l)
    slope = g * beta * logistic_slope(x, label_smoothing)
    grads = {
        "pi_w": slope * (1 - per_token(pi_l * by_gap, N_w)),
        "pi_l": slope * (-factor + per_token(pi_l * by_gap, N_l)),
    }
    terms = Terms(logistic_loss(x, label_smoothing), grads, (beta * pi_w, beta * pi_l))
    return plus_nll(terms, g, cpo_alpha, {"chosen_nll": chosen_nll}, N_w, nll_tokens)


def reward_model_loss(
    chosen_scores: ArrayLike,
    rejected_scores: ArrayLike,
    *,
    margins: ArrayLike | None = None,
    center_coefficient: float = DefaultNumber(0.0),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> SequenceLoss:
    """The Bradley-Terry loss of a reward model's scores, per pair [B]."""
    return call("reward_model", SequenceLoss, locals())


@row("reward_model.bradley_terry")
def bradley_terry(
    g: Float64,
    s_w: Float64,
    s_l: Float64,
    margins: Number = 0.0,
    *,
    center_coefficient: float = 0.0,
) -> Terms:
    """-log sigma(s_w - s_l - margin) + c (s_w + s_l)^2.

    Ouyang et al. eq. 1; the margin: Llama 2 eq. 2; c keeps scores centred: Eisenstein et al.
    """
    c, total = center_coefficient, s_w + s_l
    slope = logistic_slope(s_w - s_l - margins)
    pull = times(2 * c, total)
    losses = logistic_loss(s_w - s_l - margins) + times(c, total**2)
    return Terms(losses, {"s_w": g * (slope + pull), "s_l": g * (pull - slope)})
