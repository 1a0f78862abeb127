"""Relatives of DPO that look at single tokens or at whole rows of the vocabulary, per pair [B].

D_s = pi_s - ref_s, D = D_w - D_l.

    Zeng et al. 2024, Token-level Direct Preference Optimization, arXiv 2404.11999       (TDPO)
    Lu et al. 2024, Eliminating Biased Length Reliance of DPO ..., arXiv 2406.10957      (SamPO)
    Lee et al. 2025, KL Penalty Control via Perturbation for DPO, arXiv 2502.13177       (eps-DPO)

`pair_token_stats` makes the inputs of TDPO and eps-DPO, `sampo_indices` those of SamPO.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prefopt._loss_types import DefaultNumber, PairLoss, StepPairLoss
from prefopt.reference._call import Terms, call, row
from prefopt.reference.scalar import Float64, logistic_loss, logistic_slope

ArrayLike = npt.ArrayLike
Indices = npt.NDArray[np.int64]


def tdpo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    chosen_kl: ArrayLike,
    rejected_kl: ArrayLike,
    *,
    chosen_weights: ArrayLike | None = None,
    rejected_weights: ArrayLike | None = None,
    loss_type: str = "tdpo1",
    beta: float = DefaultNumber(0.1),
    tdpo_alpha: float = DefaultNumber(0.5),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """TDPO; every array is [B], the KLs summed over the tokens of an answer."""
    return call("tdpo", PairLoss, locals())


@row("tdpo.tdpo1", wpo=True)
def tdpo1(
    g: Float64, D_w: Float64, D_l: Float64, K_w: Float64, K_l: Float64, *, beta: float = 0.1
) -> Terms:
    """-log sigma(beta (D - (K_l - K_w))), K_s = sum_t KL(ref(.|t) || pi(.|t)): TDPO eq. 15.

    The rewards are beta (D_s + K_s), as the authors log them.
    """
    x = beta * (D_w - D_l - (K_l - K_w))
    slope = g * beta * logistic_slope(x)
    grads = {"D_w": slope, "D_l": -slope, "K_w": slope, "K_l": -slope}
    return Terms(logistic_loss(x), grads, (beta * (D_w + K_w), beta * (D_l + K_l)))


@row("tdpo.tdpo2", wpo=True)
def tdpo2(
    g: Float64,
    D_w: Float64,
    D_l: Float64,
    K_w: Float64,
    K_l: Float64,
    *,
    beta: float = 0.1,
    tdpo_alpha: float = 0.5,
) -> Terms:
    """-log sigma(beta (D - alpha (K_l - sg(K_w)))): TDPO eq. 17; sg(x) is x as a constant."""
    x = beta * (D_w - D_l - tdpo_alpha * (K_l - K_w))
    slope = g * beta * logistic_slope(x)
    grads = {"D_w": slope, "D_l": -slope, "K_w": 0 * slope, "K_l": -tdpo_alpha * slope}
    return Terms(logistic_loss(x), grads, (beta * (D_w + K_w), beta * (D_l + K_l)))


def sampo_loss(
    policy_chosen_token_logps: ArrayLike,
    policy_rejected_token_logps: ArrayLike,
    ref_chosen_token_logps: ArrayLike,
    ref_rejected_token_logps: ArrayLike,
    chosen_indices: ArrayLike,
    rejected_indices: ArrayLike,
    *,
    beta: float = DefaultNumber(0.1),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """SamPO; log-probabilities are [B, T], positions [B, K] rising and then -1 (`sampo_indices`)."""
    return call("sampo", PairLoss, locals())


@row("sampo.sigmoid")
def sampo(
    g: Float64,
    policy_chosen_token_logps: Float64,
    policy_rejected_token_logps: Float64,
    ref_chosen_token_logps: Float64,
    ref_rejected_token_logps: Float64,
    chosen_indices: Indices,
    rejected_indices: Indices,
    *,
    beta: float = 0.1,
) -> Terms:
    """-log sigma(beta D), D_s the sum of log pi - log ref over the sampled tokens: SamPO eq. 6."""
    sampled_w = _is_sampled(chosen_indices, policy_chosen_token_logps.shape)
    sampled_l = _is_sampled(rejected_indices, policy_rejected_token_logps.shape)
    D_w = _sum_where(sampled_w, policy_chosen_token_logps, ref_chosen_token_logps)
    D_l = _sum_where(sampled_l, policy_rejected_token_logps, ref_rejected_token_logps)
    x = beta * (D_w - D_l)
    slope = (g * beta * logistic_slope(x))[:, None]
    grads = {
        "policy_chosen_token_logps": np.where(sampled_w, slope, 0.0),
        "policy_rejected_token_logps": np.where(sampled_l, -slope, 0.0),
    }
    return Terms(logistic_loss(x), grads, (beta * D_w, beta * D_l))


def _is_sampled(indices: Indices, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """[B, T]: whether position t is among the row's indices."""
    return np.asarray((indices[:, :, None] == np.arange(shape[1])).any(axis=1))


def _sum_where(sampled: npt.NDArray[np.bool_], policy: Float64, ref: Float64) -> Float64:
    policy, ref = np.where(sampled, policy, 0.0), np.where(sampled, ref, 0.0)
    return np.asarray(policy.sum(axis=1) - ref.sum(axis=1))


def eps_dpo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    chosen_plus_logps: ArrayLike,
    rejected_plus_logps: ArrayLike,
    chosen_minus_logps: ArrayLike,
    rejected_minus_logps: ArrayLike,
    *,
    beta: float = DefaultNumber(0.1),
    perturbation: float = DefaultNumber(0.01),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> StepPairLoss:
    """eps-DPO; every array is [B]. `steps` of the result go to `eps_dpo_beta`."""
    return call("eps_dpo", StepPairLoss, locals())


@row("eps_dpo.sigmoid")
def eps_dpo(
    g: Float64,
    D_w: Float64,
    D_l: Float64,
    pi_w: Float64,
    pi_l: Float64,
    chosen_plus_logps: Float64,
    rejected_plus_logps: Float64,
    chosen_minus_logps: Float64,
    rejected_minus_logps: Float64,
    *,
    beta: float = 0.1,
    perturbation: float = 0.01,
) -> Terms:
    """-log sigma(b D), b = beta / (1 + eps step), a constant: eps-DPO eq. 11-13.

    step = 1[u+ > u > u-] - 1[u- > u > u+], u = pi_w - pi_l under the policy's logits z and under
    z+ = (1 + eps) z - eps z_ref, z- = (1 - eps) z + eps z_ref: those are the policies that a beta of
    beta / (1 + eps) and of beta / (1 - eps) would lead to. Rewards b D_s, as the authors log them.
    """
    u, u_plus = pi_w - pi_l, chosen_plus_logps - rejected_plus_logps
    u_minus = chosen_minus_logps - rejected_minus_logps
    step = 1.0 * ((u_plus > u) & (u > u_minus)) - 1.0 * ((u_minus > u) & (u > u_plus))
    b = beta / (1 + perturbation * step)
    slope = g * b * logistic_slope(b * (D_w - D_l))
    grads = {"D_w": slope, "D_l": -slope}
    return Terms(logistic_loss(b * (D_w - D_l)), grads, (b * D_w, b * D_l, step))
