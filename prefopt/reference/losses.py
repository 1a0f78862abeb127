"""The losses, each beside its equation.

    Rafailov et al. 2023, Direct Preference Optimization, arXiv 2305.18290              (DPO)
    Mitchell 2023, A note on DPO with noisy preferences & relationship to IPO           (cDPO)
    Azar et al. 2023, A General Theoretical Paradigm ..., arXiv 2310.12036              (IPO)
    Ethayarajh et al. 2024, Model Alignment as Prospect Theoretic ..., arXiv 2402.01306 (KTO)
    Xu et al. 2024, Contrastive Preference Optimization, arXiv 2401.08417               (CPO)

Notation: pi_w, pi_l are the policy's sequence log-probabilities of the chosen (winning) and rejected
(losing) answer, ref_w, ref_l the reference model's; sigma is the logistic function; N_w, N_l are the
numbers of answer tokens. `grad_losses` [B] (ones with `return_grads=True`) asks for `.grads`, the
vector-Jacobian products, as everywhere in prefopt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from prefopt._loss_types import PairLoss, SequenceLoss, UnpairedLoss
from prefopt.reference.tokens import Float64, per_token


def _sigmoid(x: Float64) -> Float64:
    """sigma(x) = 1 / (1 + exp(-x)), in the form whose exp never overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def _minus_log_sigmoid(x: Float64) -> Float64:
    """-log sigma(x) = log(1 + exp(-x)) = max(-x, 0) + log1p(exp(-|x|))."""
    return np.maximum(-x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _vectors(*arrays: npt.ArrayLike | None) -> tuple[Any, ...]:
    """Each array as float64 (None stays None)."""
    return tuple(None if a is None else np.asarray(a, dtype=np.float64) for a in arrays)


def _weights(grad_losses: npt.ArrayLike | None, return_grads: bool, batch: int) -> Float64 | None:
    """The vector of the vector-Jacobian product, or None where no gradient is asked for."""
    if grad_losses is not None:
        return np.asarray(grad_losses, dtype=np.float64)
    return np.ones(batch) if return_grads else None


def dpo_loss(
    policy_chosen_logps: npt.ArrayLike,
    policy_rejected_logps: npt.ArrayLike,
    ref_chosen_logps: npt.ArrayLike,
    ref_rejected_logps: npt.ArrayLike,
    *,
    loss_type: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 0.5,
    discopop_tau: float = 0.05,
    chosen_lengths: npt.ArrayLike | None = None,
    rejected_lengths: npt.ArrayLike | None = None,
    convention: str | None = None,
    grad_losses: npt.ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """DPO, conservative DPO and IPO, per pair [B].

    sigmoid   -(1 - e) log sigma(beta h) - e log sigma(-beta h)     DPO eq. 7 (e = 0); cDPO eq. 3
    ipo       (h - 1 / (2 beta))^2                                  IPO eq. 17, tau = beta
    with h = (pi_w - ref_w) - (pi_l - ref_l) and e = label_smoothing. Given lengths, ipo takes
    h = (pi_w - ref_w) / N_w - (pi_l - ref_l) / N_l, as its authors confirmed to huggingface/trl#1265.
    Rewards are beta (pi - ref), DPO section 4, from the sums for either loss.
    """
    pi_w, pi_l, ref_w, ref_l, n_w, n_l, g = _vectors(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps,
        chosen_lengths, rejected_lengths, grad_losses,
    )  # fmt: skip
    _only(loss_type, ("sigmoid", "ipo"))
    _only(f_divergence_type, ("reverse_kl",))
    h_w, h_l = pi_w - ref_w, pi_l - ref_l
    if loss_type == "sigmoid":
        x = beta * (h_w - h_l)
        e = label_smoothing
        flipped = e * _minus_log_sigmoid(-x) if e > 0 else 0.0  # e = 0 must not make 0 * inf
        losses = (1 - e) * _minus_log_sigmoid(x) + flipped
        dloss_dh = beta * (e * _sigmoid(x) - (1 - e) * _sigmoid(-x))  # DPO section 4, the gradient
        slope_w, slope_l = dloss_dh, -dloss_dh
    else:
        residual = per_token(h_w, n_w) - per_token(h_l, n_l) - 1 / (2 * beta)
        losses = residual**2
        slope_w = per_token(2 * residual, n_w)
        slope_l = per_token(-2 * residual, n_l)
    result = PairLoss(losses, beta * h_w, beta * h_l)
    if (g := _weights(g, return_grads, len(losses))) is not None:
        result.grads = {"policy_chosen_logps": g * slope_w, "policy_rejected_logps": g * slope_l}
    return result


def ipo_loss(
    policy_chosen_logps: npt.ArrayLike,
    policy_rejected_logps: npt.ArrayLike,
    ref_chosen_logps: npt.ArrayLike,
    ref_rejected_logps: npt.ArrayLike,
    **keywords: Any,
) -> PairLoss:
    """`dpo_loss(..., loss_type="ipo")`: IPO eq. 17."""
    return dpo_loss(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps,
        loss_type="ipo", **keywords,
    )  # fmt: skip


def kto_loss(
    policy_logps: npt.ArrayLike,
    ref_logps: npt.ArrayLike,
    desirable: npt.ArrayLike,
    *,
    kl: npt.ArrayLike,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    loss_type: str = "kto",
    convention: str | None = None,
    grad_losses: npt.ArrayLike | None = None,
    return_grads: bool = False,
) -> UnpairedLoss:
    """KTO section 4.1, per answer [B], with r = pi - ref and z0 = kl (see `kto_kl`), a constant:

    desirable     lambda_D - v = lambda_D (1 - sigma(beta (r - z0)))
    undesirable   lambda_U - v = lambda_U (1 - sigma(beta (z0 - r)))
    Rewards are beta r.
    """
    _only(loss_type, ("kto",))
    pi, ref, z0, g = _vectors(policy_logps, ref_logps, kl, grad_losses)
    r = pi - ref
    good = np.asarray(desirable, dtype=bool)
    sign = np.where(good, 1.0, -1.0)
    weight = np.where(good, desirable_weight, undesirable_weight)
    x = beta * (r - z0) * sign
    # 1 - sigma(x) = sigma(-x), which keeps its digits where sigma(x) is near 1.
    losses = weight * _sigmoid(-x)
    result = UnpairedLoss(losses, beta * r)
    if (g := _weights(g, return_grads, len(losses))) is not None:
        result.grads = {"policy_logps": g * -weight * beta * sign * _sigmoid(x) * _sigmoid(-x)}
    return result


def kto_kl(
    policy_kl_logps: npt.ArrayLike | None = None,
    ref_kl_logps: npt.ArrayLike | None = None,
    *,
    state: npt.ArrayLike | None = None,
) -> float:
    """z0 of KTO, section 4.1: max(0, mean(pi(y'|x) - ref(y'|x))) over mismatched (x, y').

    The KL estimate over a microbatch whose answers belong to other prompts, clamped at 0 since a KL
    is; no gradient flows through it. `state` is (sum, count) over all ranks and steps: the mean is
    then sum / count, and is clamped only after. An empty batch has z0 = 0.
    """
    if state is not None:
        total, count = np.asarray(state, dtype=np.float64)
    else:
        policy, ref = _vectors(policy_kl_logps, ref_kl_logps)
        total, count = np.sum(policy - ref), np.size(policy)
    mean = float(total) / float(count) if count else 0.0
    return float(np.maximum(mean, 0.0))  # unlike max(), keeps a NaN


def cpo_loss(
    policy_chosen_logps: npt.ArrayLike,
    policy_rejected_logps: npt.ArrayLike,
    *,
    loss_type: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    simpo_gamma: float = 0.5,
    alpha: float = 0.0,
    chosen_lengths: npt.ArrayLike | None = None,
    rejected_lengths: npt.ArrayLike | None = None,
    chosen_nll: npt.ArrayLike | None = None,
    nll_tokens: float | None = None,
    cpo_alpha: float = 1.0,
    convention: str | None = None,
    grad_losses: npt.ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """CPO, per pair [B]: the preference term plus the NLL of the chosen answers.

    prefer  -(1 - e) log sigma(beta u) - e log sigma(-beta u),  u = pi_w - pi_l,  e = label_smoothing
    total   prefer + cpo_alpha * sum_i chosen_nll_i / nll_tokens, in every one of the B losses
    with chosen_nll [B] the sums of -log p over the chosen tokens and nll_tokens their number (default:
    the sum of chosen_lengths). The term is a mean over the batch's tokens, so the mean of the losses
    is mean(prefer) + cpo_alpha * NLL. Rewards are beta pi.
    """
    _only(loss_type, ("sigmoid",))
    pi_w, pi_l, n_w, nll, g = _vectors(
        policy_chosen_logps, policy_rejected_logps, chosen_lengths, chosen_nll, grad_losses
    )
    x = beta * (pi_w - pi_l)
    e = label_smoothing
    flipped = e * _minus_log_sigmoid(-x) if e > 0 else 0.0
    losses = (1 - e) * _minus_log_sigmoid(x) + flipped
    slope = beta * (e * _sigmoid(x) - (1 - e) * _sigmoid(-x))
    tokens = 0.0
    if nll is not None:
        tokens = float(nll_tokens) if nll_tokens is not None else float(n_w.sum())
        losses = losses + cpo_alpha * (nll.sum() / tokens if tokens > 0 else 0.0)
    result = PairLoss(losses, beta * pi_w, beta * pi_l)
    if (g := _weights(g, return_grads, len(losses))) is not None:
        result.grads = {"policy_chosen_logps": g * slope, "policy_rejected_logps": g * -slope}
        if nll is not None:
            share = cpo_alpha * g.sum() / tokens if tokens > 0 else 0.0
            result.grads["chosen_nll"] = np.full_like(nll, share)
    return result


def sft_loss(
    policy_logps: npt.ArrayLike,
    *,
    lengths: npt.ArrayLike | None = None,
    nll_tokens: float | None = None,
    convention: str | None = None,
    grad_losses: npt.ArrayLike | None = None,
    return_grads: bool = False,
) -> SequenceLoss:
    """The negative log-likelihood per token, as B shares [B] whose mean is the token mean.

    losses_i = -pi_i B / nll_tokens, so that mean(losses) = -sum_i pi_i / nll_tokens, the mean over
    every answer token of the batch. policy_logps [B] are sums over answer tokens; nll_tokens is their
    number (default: the sum of `lengths` [B]).
    """
    pi, n, g = _vectors(policy_logps, lengths, grad_losses)
    tokens = float(nll_tokens) if nll_tokens is not None else float(n.sum())
    scale = len(pi) / tokens if tokens > 0 else 0.0
    result = SequenceLoss(-pi * scale)
    if (g := _weights(g, return_grads, len(pi))) is not None:
        result.grads = {"policy_logps": g * np.full_like(pi, -scale)}
    return result


def _only(value: str, available: tuple[str, ...]) -> None:
    if value not in available:
        raise ValueError(f"{value!r} is not available; choose one of: {', '.join(available)}")
