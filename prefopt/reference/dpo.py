"""Direct preference optimisation and the losses of its family, per pair [B].

With D_w = pi_w - ref_w and D_l = pi_l - ref_l, the log-ratios of the chosen (winning) and rejected
(losing) answer, sigma the logistic function, e = label_smoothing; d = g(D_w) - g(D_l) is the margin
under an f-divergence (`divergence.py`), D_w - D_l for reverse_kl. The rewards are beta D_w and
beta D_l (DPO section 4), from the sums, whatever the loss averages.

    Rafailov et al. 2023, Direct Preference Optimization, arXiv 2305.18290               (DPO)
    Mitchell 2023, A note on DPO with noisy preferences & relationship to IPO            (cDPO)
    Chowdhury et al. 2024, Provably Robust DPO, arXiv 2403.00409                         (rDPO)
    Zhao et al. 2023, SLiC-HF, arXiv 2305.10425; Liu et al. 2023, arXiv 2309.06657       (hinge, RSO)
    Azar et al. 2023, A General Theoretical Paradigm ..., arXiv 2310.12036               (IPO)
    Ji et al. 2024, Efficient Exact Optimization ..., arXiv 2402.00856                   (EXO)
    Chen et al. 2024, Noise Contrastive Alignment, arXiv 2402.05369                      (NCA)
    Wu et al. 2024, Self-Play Preference Optimization, arXiv 2405.00675                  (SPPO)
    Jung et al. 2024, Binary Classifier Optimization, arXiv 2404.04656                   (BCO)
    D'Oosterlinck et al. 2024, Anchored Preference Optimization, arXiv 2408.06266        (APO)
    Lu et al. 2024, Discovering Preference Optimization Algorithms, arXiv 2406.08414     (DiscoPOP)
    Lambert et al. 2024, Tulu 3, arXiv 2411.15124                                        (sigmoid_norm)

`dpo_batch.py` has the variants that couple the pairs of a batch: aot, aot_unpaired, sft, kto_pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import prefopt.reference.dpo_batch  # noqa: F401  formulas of this family
from prefopt._loss_types import DefaultNumber, DefaultText, PairLoss
from prefopt.reference._call import Terms, call, row
from prefopt.reference.divergence import by_ratios, margin
from prefopt.reference.scalar import (
    Float64,
    Number,
    hinge_loss,
    hinge_slope,
    logistic_loss,
    logistic_slope,
    minus_log_sigmoid,
    sigmoid,
    sigmoid_slope,
    times,
)

ArrayLike = npt.ArrayLike


def dpo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    chosen_weights: ArrayLike | None = None,
    rejected_weights: ArrayLike | None = None,
    chosen_lengths: ArrayLike | None = None,
    rejected_lengths: ArrayLike | None = None,
    chosen_win_rates: ArrayLike | None = None,
    rejected_win_rates: ArrayLike | None = None,
    delta: ArrayLike | None = None,
    gathered_policy_logratios: ArrayLike | None = None,
    gathered_ref_logratios: ArrayLike | None = None,
    gathered_chosen_logratios: ArrayLike | None = None,
    gathered_rejected_logratios: ArrayLike | None = None,
    chosen_kl_mean: ArrayLike | None = None,
    rejected_kl_mean: ArrayLike | None = None,
    loss_type: str | Sequence[str] = "sigmoid",
    loss_weights: Sequence[float] | None = None,
    beta: float = DefaultNumber(0.1),
    label_smoothing: float = DefaultNumber(0.0),
    f_divergence_type: str = DefaultText("reverse_kl"),
    f_alpha_divergence_coef: float = DefaultNumber(0.5),
    f_exponent_cap: float = DefaultNumber(math.inf),
    gather_offset: float = DefaultNumber(0.0),
    discopop_tau: float = DefaultNumber(0.05),
    nll_tokens: float | None = None,
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """DPO and its family, per pair [B]: `loss_type` names a formula of this file or of `dpo_batch`.

    Each of the four log-probabilities is [B]. A sequence of types is the sum of the losses, each
    times its `loss_weights`: RPO is ("sigmoid", "sft"), MPO ("sigmoid", "bco_pair", "sft") with
    weights (0.8, 0.2, 1). WPO's weights [B] multiply loss and gradient and are constants.
    """
    return call("dpo", PairLoss, locals())


def ipo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: float = DefaultNumber(0.1),
    chosen_lengths: ArrayLike | None = None,
    rejected_lengths: ArrayLike | None = None,
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """`dpo_loss(..., loss_type="ipo")`: IPO eq. 17."""
    return dpo_loss(loss_type="ipo", **locals())


@row("dpo.sigmoid", wpo=True, passes_to=margin)
def sigmoid_loss(
    g: Float64,
    D_w: Float64,
    D_l: Float64,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    **f: Any,
) -> Terms:
    """-(1 - e) log sigma(beta d) - e log sigma(-beta d): DPO eq. 7 (e = 0), cDPO eq. 3.

    dL/dd = beta (e sigma(beta d) - (1 - e) sigma(-beta d)): DPO section 4, the gradient.
    """
    d = margin(D_w, D_l, **f)
    x = beta * d.value
    slope = beta * logistic_slope(x, label_smoothing)
    grads = by_ratios(g, slope, d)
    return Terms(logistic_loss(x, label_smoothing), grads, (beta * D_w, beta * D_l))


@row("dpo.robust", wpo=True, passes_to=margin)
def robust(
    g: Float64,
    D_w: Float64,
    D_l: Float64,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    **f: Any,
) -> Terms:
    """[-(1 - e) log sigma(beta d) + e log sigma(-beta d)] / (1 - 2 e): rDPO eq. 12.

    Its mean over labels that are flipped with probability e is the loss of the true labels.
    """
    d = margin(D_w, D_l, **f)
    x, e = beta * d.value, label_smoothing
    kept, flipped = times(1 - e, minus_log_sigmoid(x)), times(e, minus_log_sigmoid(-x))
    slope = -((1 - e) * sigmoid(-x) + e * sigmoid(x)) / (1 - 2 * e)
    grads = by_ratios(g, beta * slope, d)
    return Terms((kept - flipped) / (1 - 2 * e), grads, (beta * D_w, beta * D_l))


@row("dpo.hinge", wpo=True, passes_to=margin)
def hinge(g: Float64, D_w: Float64, D_l: Float64, *, beta: float = 0.1, **f: Any) -> Terms:
    """max(0, 1 - beta d): SLiC's hinge on log-ratios, RSO section 3. Gradient 0 at the kink."""
    d = margin(D_w, D_l, **f)
    x = beta * d.value
    grads = by_ratios(g, beta * hinge_slope(x), d)
    return Terms(hinge_loss(x), grads, (beta * D_w, beta * D_l))


@row("dpo.ipo", wpo=True, passes_to=margin)
def ipo(
    g: Float64,
    D_w: Float64,
    D_l: Float64,
    N_w: Float64 | None = None,
    N_l: Float64 | None = None,
    *,
    beta: float = 0.1,
    **f: Any,
) -> Terms:
    """(d - 1 / (2 beta))^2: IPO eq. 17 with tau = beta.

    Given lengths d = g(D_w) / N_w - g(D_l) / N_l, as its authors confirmed to huggingface/trl#1265.
    """
    d = margin(D_w, D_l, N_w, N_l, **f)
    residual = d.value - 1 / (2 * beta)
    return Terms(residual**2, by_ratios(g, 2 * residual, d), (beta * D_w, beta * D_l))


@row("dpo.exo_pair", wpo=True, passes_to=margin)
def exo_pair(
    g: Float64,
    D_w: Float64,
    D_l: Float64,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.001,
    **f: Any,
) -> Terms:
    """KL((q, 1 - q) || (1 - e, e)), q = sigma(beta d): EXO eq. 16, the reverse KL for two answers.

    = q (log q - log(1 - e)) + (1 - q) (log(1 - q) - log e)
    d/dx of it, x = beta d, is q (1 - q) (x + log e - log(1 - e)): the terms of log q cancel.
    """
    d = margin(D_w, D_l, **f)
    x = beta * d.value
    log_kept, log_flipped = np.log1p(-label_smoothing), np.log(label_smoothing)
    losses = times(sigmoid(x), -minus_log_sigmoid(x) - log_kept)
    losses = losses + times(sigmoid(-x), -minus_log_sigmoid(-x) - log_flipped)
    slope = times(sigmoid_slope(x), x + log_flipped - log_kept)
    return Terms(losses, by_ratios(g, beta * slope, d), (beta * D_w, beta * D_l))


@row("dpo.nca_pair", wpo=True)
def nca_pair(g: Float64, D_w: Float64, D_l: Float64, *, beta: float = 0.1) -> Terms:
    """-log sigma(r_w) - 1/2 log sigma(-r_w) - 1/2 log sigma(-r_l), r = beta D: NCA eq. 11, K = 2."""
    r_w, r_l = beta * D_w, beta * D_l
    losses = minus_log_sigmoid(r_w) + (minus_log_sigmoid(-r_w) + minus_log_sigmoid(-r_l)) / 2
    by_w = beta * (sigmoid(r_w) / 2 - sigmoid(-r_w))
    by_l = beta * sigmoid(r_l) / 2
    return Terms(losses, {"D_w": g * by_w, "D_l": g * by_l}, (r_w, r_l))


@row("dpo.sppo_hard", wpo=True)
def sppo_hard(g: Float64, D_w: Float64, D_l: Float64, *, beta: float = 0.1) -> Terms:
    """(D_w - 1 / (2 beta))^2 + (D_l + 1 / (2 beta))^2: SPPO eq. 4.7, win rates 1 and 0, eta = 1/beta.

    The authors' code halves it.
    """
    return sppo_soft(g, D_w, D_l, np.float64(1), np.float64(0), beta=beta)


@row("dpo.sppo_soft", wpo=True)
def sppo_soft(
    g: Float64, D_w: Float64, D_l: Float64, P_w: Number, P_l: Number, *, beta: float = 0.1
) -> Terms:
    """(D_w - (P_w - 1/2) / beta)^2 + (D_l - (P_l - 1/2) / beta)^2: SPPO eq. 4.6, P the win rates."""
    e_w, e_l = D_w - (P_w - 0.5) / beta, D_l - (P_l - 0.5) / beta
    grads = {"D_w": g * 2 * e_w, "D_l": g * 2 * e_l}
    return Terms(e_w**2 + e_l**2, grads, (beta * D_w, beta * D_l))


@row("dpo.bco_pair", wpo=True)
def bco_pair(
    g: Float64, D_w: Float64, D_l: Float64, delta: Number = 0.0, *, beta: float = 0.1
) -> Terms:
    """-log sigma(r_w - delta) - log sigma(-(r_l - delta)), r = beta D: BCO eq. 10 on the two halves.

    delta is the running mean of all rewards, a constant (`bco_delta`).
    """
    r_w, r_l = beta * D_w, beta * D_l
    losses = minus_log_sigmoid(r_w - delta) + minus_log_sigmoid(-(r_l - delta))
    by_w, by_l = -beta * sigmoid(-(r_w - delta)), beta * sigmoid(r_l - delta)
    return Terms(losses, {"D_w": g * by_w, "D_l": g * by_l}, (r_w, r_l))


@row("dpo.apo_zero", wpo=True)
def apo_zero(g: Float64, D_w: Float64, D_l: Float64, *, beta: float = 0.1) -> Terms:
    """1 - sigma(r_w) + sigma(r_l), r = beta D: APO eq. 7, one up and the other down."""
    r_w, r_l = beta * D_w, beta * D_l
    losses = sigmoid(-r_w) + sigmoid(r_l)  # 1 - sigma(x) = sigma(-x), which keeps its digits
    by_w, by_l = -beta * sigmoid_slope(r_w), beta * sigmoid_slope(r_l)
    return Terms(losses, {"D_w": g * by_w, "D_l": g * by_l}, (r_w, r_l))


@row("dpo.apo_down", wpo=True)
def apo_down(g: Float64, D_w: Float64, D_l: Float64, *, beta: float = 0.1) -> Terms:
    """sigma(r_w) + 1 - sigma(r_w - r_l), r = beta D: APO eq. 8, both down, the rejected more."""
    r_w, r_l = beta * D_w, beta * D_l
    gap = beta * (D_w - D_l)
    losses = sigmoid(r_w) + sigmoid(-gap)
    by_w, by_l = sigmoid_slope(r_w) - sigmoid_slope(gap), sigmoid_slope(gap)
    return Terms(losses, {"D_w": g * beta * by_w, "D_l": g * beta * by_l}, (r_w, r_l))


@row("dpo.discopop", wpo=True, passes_to=margin)
def discopop(
    g: Float64,
    D_w: Float64,
    D_l: Float64,
    *,
    beta: float = 0.1,
    discopop_tau: float = 0.05,
    **f: Any,
) -> Terms:
    """-log sigma(x) (1 - m) + exp(-x) m, x = beta d, m = sigma(x / tau): DiscoPOP section 4.2.

    exp(-x) m, whose factors overflow and underflow, is exp(-x + log sigma(x / tau)), below
    exp(x (1 / tau - 1)) for x < 0. By x, with m' = m (1 - m) / tau:
        -sigma(-x) (1 - m) + log sigma(x) m' + exp(-x) m ((1 - m) / tau - 1)
    """
    d = margin(D_w, D_l, **f)
    x, tau = beta * d.value, discopop_tau
    rest = sigmoid(-x / tau)  # 1 - m
    tail = np.log1p(np.exp(-np.abs(x) / tau))
    product = np.exp(np.where(x < 0, x * (1 / tau - 1) - tail, -x - tail))
    losses = times(minus_log_sigmoid(x), rest) + product
    modulation = times(minus_log_sigmoid(x), sigmoid_slope(x / tau) / tau)
    slope = -sigmoid(-x) * rest - modulation + product * (rest / tau - 1)
    return Terms(losses, by_ratios(g, beta * slope, d), (beta * D_w, beta * D_l))


@row("dpo.sigmoid_norm", wpo=True, passes_to=margin)
def sigmoid_norm(
    g: Float64,
    D_w: Float64,
    D_l: Float64,
    N_w: Float64 | None = None,
    N_l: Float64 | None = None,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    **f: Any,
) -> Terms:
    """-log sigma(beta (g(D_w) / N_w - g(D_l) / N_l)): Tulu 3 eq. 6, smoothed as in cDPO."""
    d = margin(D_w, D_l, N_w, N_l, **f)
    x = beta * d.value
    grads = by_ratios(g, beta * logistic_slope(x, label_smoothing), d)
    return Terms(logistic_loss(x, label_smoothing), grads, (beta * D_w, beta * D_l))
