"""Relatives of DPO: -log sigma(beta D) with something added or changed, per pair [B].

D_s = pi_s - ref_s, D = D_w - D_l; rewards beta D_s unless said otherwise.

    Park et al. 2024, Disentangling Length from Quality in DPO, arXiv 2403.19159         (R-DPO)
    Pal et al. 2024, Smaug: Fixing Failure Modes of Preference ..., arXiv 2402.13228     (DPOP)
    Amini et al. 2024, Direct Preference Optimization with an Offset, arXiv 2402.10571   (ODPO)
    Xiao et al. 2024, Cal-DPO: Calibrated Direct Preference ..., arXiv 2412.14516        (Cal-DPO)
    Chen et al. 2024, Self-Play Fine-Tuning ..., arXiv 2401.01335                        (SPIN)
    Wu et al. 2024, beta-DPO: DPO with Dynamic beta, arXiv 2407.08639                    (beta-DPO)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prefopt._loss_types import DefaultNumber, PairLoss
from prefopt.reference._call import Terms, call, row
from prefopt.reference.scalar import (
    Float64,
    Number,
    logistic_loss,
    logistic_slope,
    per_token,
    times,
)

ArrayLike = npt.ArrayLike


def rdpo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    *,
    chosen_weights: ArrayLike | None = None,
    rejected_weights: ArrayLike | None = None,
    beta: float = DefaultNumber(0.1),
    rdpo_alpha: float = DefaultNumber(0.1),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """R-DPO, DPO regularised by length; every array is [B]."""
    return call("rdpo", PairLoss, locals())


@row("rdpo.sigmoid", wpo=True)
def rdpo(
    g: Float64,
    D_w: Float64,
    D_l: Float64,
    N_w: Float64,
    N_l: Float64,
    *,
    beta: float = 0.1,
    rdpo_alpha: float = 0.1,
) -> Terms:
    """-log sigma(beta D + alpha (N_w - N_l)): R-DPO eq. 9. A longer winner is pushed less."""
    x = beta * (D_w - D_l) + rdpo_alpha * (N_w - N_l)
    slope = g * beta * logistic_slope(x)
    return Terms(logistic_loss(x), {"D_w": slope, "D_l": -slope}, (beta * D_w, beta * D_l))


def dpop_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    chosen_weights: ArrayLike | None = None,
    rejected_weights: ArrayLike | None = None,
    beta: float = DefaultNumber(0.1),
    dpop_lambda: float = DefaultNumber(50.0),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """DPO-positive, which punishes a chosen answer that falls; every array is [B]."""
    return call("dpop", PairLoss, locals())


@row("dpop.sigmoid", wpo=True)
def dpop(
    g: Float64, D_w: Float64, D_l: Float64, *, beta: float = 0.1, dpop_lambda: float = 50.0
) -> Terms:
    """-log sigma(beta (D - lambda max(0, ref_w - pi_w))): DPOP eq. 3. Gradient 0 at the kink."""
    x = beta * (D_w - D_l - times(dpop_lambda, np.maximum(0.0, -D_w)))
    slope = g * beta * logistic_slope(x)
    by_w = slope * np.where(D_w < 0, 1 + dpop_lambda, 1.0)
    return Terms(logistic_loss(x), {"D_w": by_w, "D_l": -slope}, (beta * D_w, beta * D_l))


def odpo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    margins: ArrayLike,
    *,
    chosen_weights: ArrayLike | None = None,
    rejected_weights: ArrayLike | None = None,
    beta: float = DefaultNumber(0.1),
    odpo_alpha: float = DefaultNumber(1.0),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """DPO with an offset; margins [B] are f(score_w - score_l), the logarithm in the paper."""
    return call("odpo", PairLoss, locals())


@row("odpo.sigmoid", wpo=True)
def odpo(
    g: Float64,
    D_w: Float64,
    D_l: Float64,
    margins: Float64,
    *,
    beta: float = 0.1,
    odpo_alpha: float = 1.0,
) -> Terms:
    """-log sigma(beta D - alpha margin): ODPO eq. 7."""
    x = beta * (D_w - D_l) - times(odpo_alpha, margins)
    slope = g * beta * logistic_slope(x)
    return Terms(logistic_loss(x), {"D_w": slope, "D_l": -slope}, (beta * D_w, beta * D_l))


def cal_dpo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    chosen_weights: ArrayLike | None = None,
    rejected_weights: ArrayLike | None = None,
    beta: float = DefaultNumber(0.1),
    cal_weight: float = DefaultNumber(0.5),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """Cal-DPO, DPO with its rewards calibrated to +-1/2; every array is [B]."""
    return call("cal_dpo", PairLoss, locals())


@row("cal_dpo.sigmoid", wpo=True)
def cal_dpo(
    g: Float64, D_w: Float64, D_l: Float64, *, beta: float = 0.1, cal_weight: float = 0.5
) -> Terms:
    """-log sigma(D) + weight [(D_w - 1 / (2 beta))^2 + (D_l + 1 / (2 beta))^2]: Cal-DPO eq. 11.

    No beta in the first term.
    """
    e_w, e_l = D_w - 1 / (2 * beta), D_l + 1 / (2 * beta)
    slope = logistic_slope(D_w - D_l)
    losses = logistic_loss(D_w - D_l) + times(cal_weight, e_w**2 + e_l**2)
    by_w, by_l = slope + times(2 * cal_weight, e_w), -slope + times(2 * cal_weight, e_l)
    return Terms(losses, {"D_w": g * by_w, "D_l": g * by_l}, (beta * D_w, beta * D_l))


def spin_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    chosen_weights: ArrayLike | None = None,
    rejected_weights: ArrayLike | None = None,
    beta: float = DefaultNumber(0.1),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """SPIN: DPO against the model's own answers, with its last iterate as reference."""
    return call("spin", PairLoss, locals())


@row("spin.sigmoid", wpo=True)
def spin(g: Float64, D_w: Float64, D_l: Float64, *, beta: float = 0.1) -> Terms:
    """-log sigma(beta D): SPIN eq. 4.7 with l(t) = log(1 + exp(-t))."""
    x = beta * (D_w - D_l)
    slope = g * beta * logistic_slope(x)
    return Terms(logistic_loss(x), {"D_w": slope, "D_l": -slope}, (beta * D_w, beta * D_l))


def beta_dpo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    keep: ArrayLike | None = None,
    gap_mean: ArrayLike | None = None,
    beta: float = DefaultNumber(0.1),
    beta_dpo_alpha: float = DefaultNumber(0.6),
    min_beta: float = DefaultNumber(0.001),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """beta-DPO; keep [B] comes from `beta_dpo_keep`, gap_mean from `beta_dpo_state`."""
    return call("beta_dpo", PairLoss, locals())


@row("beta_dpo.sigmoid")
def beta_dpo(
    g: Float64,
    D_w: Float64,
    D_l: Float64,
    keep: npt.NDArray[np.bool_] | None = None,
    gap_mean: Number | None = None,
    *,
    beta: float = 0.1,
    beta_dpo_alpha: float = 0.6,
    min_beta: float = 0.001,
) -> Terms:
    """-log sigma(b D) B / kept on the kept pairs, 0 on the others: beta-DPO eq. 6-8.

    b = max(beta (1 + alpha (mean_kept(beta D) - gap_mean)), min_beta), one constant for the batch.
    The mean over the batch is the mean over its kept pairs. The authors' code leaves beta out of the
    gaps: its numbers come with alpha / beta for alpha.
    """
    gaps = beta * (D_w - D_l)
    kept = np.ones(len(gaps), dtype=bool) if keep is None else keep
    mean = per_token(gaps.sum(), np.float64(len(gaps))) if gap_mean is None else gap_mean
    excess = np.mean(gaps[kept]) - mean if kept.any() else 0.0
    b = np.maximum(beta * (1 + beta_dpo_alpha * excess), min_beta)
    share = np.where(kept, per_token(np.float64(len(gaps)), kept.sum()), 0.0)
    slope = g * share * b * logistic_slope(b * (D_w - D_l))
    losses = times(share, logistic_loss(b * (D_w - D_l)))
    return Terms(losses, {"D_w": slope, "D_l": -slope}, (beta * D_w, beta * D_l))
