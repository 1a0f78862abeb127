"""Losses over single answers, per answer [B]: KTO, BCO and supervised fine-tuning.

D = pi - ref is the log-ratio of an answer; rewards beta D.

    Ethayarajh et al. 2024, Model Alignment as Prospect Theoretic ..., arXiv 2402.01306 (KTO)
    D'Oosterlinck et al. 2024, Anchored Preference Optimization, arXiv 2408.06266       (APO)
    Jung et al. 2024, Binary Classifier Optimization, arXiv 2404.04656                  (BCO)
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from prefopt._loss_types import DefaultNumber, SequenceLoss, UnpairedLoss
from prefopt.reference._call import Terms, call, row
from prefopt.reference.scalar import (
    Float64,
    Number,
    minus_log_sigmoid,
    per_token,
    sigmoid,
    sigmoid_slope,
    times,
)

ArrayLike = npt.ArrayLike
Bool = npt.NDArray[np.bool_]


def kto_loss(
    policy_logps: ArrayLike,
    ref_logps: ArrayLike,
    desirable: ArrayLike,
    *,
    kl: ArrayLike | None = None,
    loss_type: str = "kto",
    beta: float = DefaultNumber(0.1),
    desirable_weight: float = DefaultNumber(1.0),
    undesirable_weight: float = DefaultNumber(1.0),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> UnpairedLoss:
    """KTO, or APO-zero by halves ("apo_zero_unpaired"), per answer [B]; kl is `kto_kl`'s number."""
    return call("kto", UnpairedLoss, locals())


@row("kto.kto")
def kto(
    g: Float64,
    D: Float64,
    desirable: Bool,
    z0: Number,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Terms:
    """lambda_y - v(x, y): KTO eq. 7-8 with the reference point z0 = kl, a constant.

    desirable     lambda_D (1 - sigma(beta (D - z0)))
    undesirable   lambda_U (1 - sigma(beta (z0 - D)))
    """
    sign = np.where(desirable, 1.0, -1.0)
    weight = np.where(desirable, desirable_weight, undesirable_weight)
    gain = sign * beta * (D - z0)
    losses = weight * sigmoid(-gain)  # 1 - sigma(x) = sigma(-x), which keeps its digits
    by_D = -weight * sign * beta * sigmoid_slope(gain)
    return Terms(losses, {"D": g * by_D}, (beta * D,))


@row("kto.apo_zero_unpaired")
def apo_zero_unpaired(
    g: Float64,
    D: Float64,
    desirable: Bool,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Terms:
    """KTO with z0 = 0: APO eq. 7, 1 - sigma(beta D_w) + sigma(beta D_l), by halves."""
    return kto(
        g,
        D,
        desirable,
        0.0,
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
    )


def kto_kl(
    policy_kl_logps: ArrayLike | None = None,
    ref_kl_logps: ArrayLike | None = None,
    *,
    state: Iterable[float] | None = None,
) -> float:
    """z0 of KTO, section 4.1: max(0, mean(pi(y'|x) - ref(y'|x))) over mismatched (x, y').

    The KL estimate over a microbatch whose answers belong to other prompts, clamped at 0 since a KL
    is; no gradient flows through it. `state` is (sum, count) over all ranks and steps: the mean is
    then sum / count, and is clamped only after. An empty batch has z0 = 0.
    """
    if state is not None:
        total, count = (float(each) for each in state)
    else:
        policy = np.asarray(policy_kl_logps, dtype=np.float64)
        total = float(np.sum(policy - np.asarray(ref_kl_logps, dtype=np.float64)))
        count = float(np.size(policy))
    mean = total / count if count else 0.0
    return float(np.maximum(mean, 0.0))  # unlike max(), keeps a NaN


def bco_loss(
    policy_logps: ArrayLike,
    ref_logps: ArrayLike,
    desirable: ArrayLike,
    *,
    delta: ArrayLike | None = None,
    udm_weights: ArrayLike | None = None,
    beta: float = DefaultNumber(0.1),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> UnpairedLoss:
    """BCO, per answer [B]; delta comes from `bco_delta`, udm_weights [B] from `bco_udm_weights`."""
    return call("bco", UnpairedLoss, locals())


@row("bco.bco")
def bco(
    g: Float64,
    D: Float64,
    desirable: Bool,
    delta: Number = 0.0,
    udm_weights: Number = 1.0,
    *,
    beta: float = 0.1,
) -> Terms:
    """Cross-entropy of a classifier with logit beta D - delta: BCO eq. 8-10.

    desirable     -log sigma(beta D - delta)
    undesirable   -w log sigma(-(beta D - delta)), w = udm_weights
    """
    sign = np.where(desirable, 1.0, -1.0)
    weight = np.where(desirable, 1.0, udm_weights)
    logit = sign * (beta * D - delta)
    by_D = -weight * sign * beta * sigmoid(-logit)
    return Terms(times(weight, minus_log_sigmoid(logit)), {"D": g * by_D}, (beta * D,))


def sft_loss(
    policy_logps: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    nll_tokens: float | None = None,
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> SequenceLoss:
    """Negative log-likelihood per token, as B shares [B] whose mean is the mean over the tokens."""
    return call("sft", SequenceLoss, locals())


@row("sft.nll")
def nll(
    g: Float64, pi: Float64, N: Float64 | None = None, *, nll_tokens: float | None = None
) -> Terms:
    """-pi B / tokens, tokens = sum N unless given: mean(losses) = -sum pi / tokens."""
    tokens = nll_tokens if nll_tokens is not None else np.sum(N)  # type: ignore[arg-type]
    share = per_token(np.float64(len(pi)), tokens)
    return Terms(times(share, 0 - pi), {"pi": g * -share})
