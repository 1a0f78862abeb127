"""Losses over the tokens of sampled answers, [B, T]: PPO, estimates of the KL, value loss.

rho = exp(logp - old) is a token's ratio to the policy that sampled it, A its advantage. Where the
mask is False a token is not read, costs nothing and has gradient 0.

    Schulman et al. 2017, Proximal Policy Optimization Algorithms, arXiv 1707.06347     (PPO)
    Ye et al. 2020, Mastering Complex Control in MOBA Games ..., arXiv 1912.09729       (dual clip)
    Schulman 2020, Approximating KL Divergence, joschu.net/blog/kl-approx.html          (k1, k2, k3)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefopt._loss_types import DefaultNumber, SequenceLoss
from prefopt.reference._call import Terms, call, row
from prefopt.reference.scalar import Float64, Number, per_token, times

ArrayLike = npt.ArrayLike
Mask = npt.NDArray[np.bool_] | None


class Tokens(NamedTuple):
    """A loss of each token, and its derivative by that token's log-probability (or value)."""

    value: Float64
    slope: Float64


def read(mask: Mask, *arrays: Float64) -> tuple[Float64, ...]:
    """Each array with 0 in place of what the mask leaves out."""
    return arrays if mask is None else tuple(np.where(mask, each, 0.0) for each in arrays)


def count(mask: Mask, like: Float64) -> Float64:
    """[B]: the tokens of each row that count."""
    counts = np.ones_like(like) if mask is None else np.asarray(mask, dtype=np.float64)
    return np.asarray(counts.sum(axis=1))


def sum_tokens(g: Float64, weight: Number, tokens: Tokens, mask: Mask, symbol: str) -> Terms:
    """losses[i] = weight_i sum_t value[i, t]."""
    value, slope = read(mask, *tokens)
    scale = np.broadcast_to(g * weight, g.shape)
    grads = {symbol: scale[:, None] * slope}
    return Terms(times(weight, value.sum(axis=1)), grads)


def batch_weight(mask: Mask, like: Float64, num_tokens: float | None) -> Float64:
    """B / num_tokens: the mean of the losses is then a mean over the tokens."""
    tokens = num_tokens if num_tokens is not None else count(mask, like).sum()
    return per_token(np.float64(len(like)), tokens)


def clipped(
    rho: Float64, A: Float64, epsilon: float, epsilon_high: float | None, cap: float = math.inf
) -> Tokens:
    """-min(min(rho, cap) A, clip(rho, 1 - eps, 1 + eps_high) A): PPO eq. 7.

    d rho / d logp = rho. The slope is that of the first branch where it is the minimum, ties
    included; where the second is strictly smaller it is constant.
    """
    high = epsilon if epsilon_high is None else epsilon_high
    plain = times(np.minimum(rho, cap), A)
    bounded = times(np.clip(rho, 1 - epsilon, 1 + high), A)
    slope = np.where((plain <= bounded) & (rho <= cap), -plain, 0.0)
    return Tokens(0 - np.minimum(plain, bounded), slope)


def ppo_loss(
    *,
    logps: ArrayLike | None = None,
    old_logps: ArrayLike | None = None,
    token_advantages: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    values: ArrayLike | None = None,
    old_values: ArrayLike | None = None,
    returns: ArrayLike | None = None,
    loss_type: str = "clip",
    epsilon: float = DefaultNumber(0.2),
    epsilon_high: float | None = None,
    log_ratio_limit: float = DefaultNumber(math.inf),
    num_tokens: float | None = None,
    dual_clip: float = DefaultNumber(3.0),
    value_clip: float = DefaultNumber(0.2),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> SequenceLoss:
    """PPO's policy losses of log-probabilities and its value loss, [B, T] to [B].

    The mean of the losses is the mean over the tokens that count.
    """
    return call("ppo", SequenceLoss, locals())


def _clip_tokens(
    logps: Float64,
    old_logps: Float64,
    A: Float64,
    epsilon: float,
    epsilon_high: float | None,
    limit: float,
) -> Tokens:
    """PPO eq. 7 with rho = exp(logp - old), the exponent clamped to +-limit (slope 0 beyond)."""
    exponent = logps - old_logps
    rho = np.exp(np.clip(exponent, -limit, limit))
    value, slope = clipped(rho, A, epsilon, epsilon_high)
    return Tokens(value, np.where(np.abs(exponent) > limit, 0.0, slope))


@row("ppo.clip")
def clip(
    g: Float64,
    logps: Float64,
    old_logps: Float64,
    token_advantages: Float64,
    mask: Mask = None,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    log_ratio_limit: float = math.inf,
    num_tokens: float | None = None,
) -> Terms:
    """B / num_tokens sum_t -min(rho A, clip(rho, 1 - eps, 1 + eps_high) A): PPO eq. 7."""
    logps, old_logps, A = read(mask, logps, old_logps, token_advantages)
    tokens = _clip_tokens(logps, old_logps, A, epsilon, epsilon_high, log_ratio_limit)
    return sum_tokens(g, batch_weight(mask, logps, num_tokens), tokens, mask, "logps")


@row("ppo.dual_clip")
def dual_clip_loss(
    g: Float64,
    logps: Float64,
    old_logps: Float64,
    token_advantages: Float64,
    mask: Mask = None,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    dual_clip: float = 3.0,
    log_ratio_limit: float = math.inf,
    num_tokens: float | None = None,
) -> Terms:
    """The same, but for A < 0 -max(min(rho A, clip(rho) A), c A), at most c |A|: Ye et al. eq. 5."""
    logps, old_logps, A = read(mask, logps, old_logps, token_advantages)
    value, slope = _clip_tokens(logps, old_logps, A, epsilon, epsilon_high, log_ratio_limit)
    is_bound = (A < 0) & (value >= -dual_clip * A)
    tokens = Tokens(np.where(is_bound, -dual_clip * A, value), np.where(is_bound, 0.0, slope))
    return sum_tokens(g, batch_weight(mask, logps, num_tokens), tokens, mask, "logps")


@row("ppo.value_clip")
def value_clip_loss(
    g: Float64,
    V: Float64,
    old_values: Float64,
    returns: Float64,
    mask: Mask = None,
    *,
    value_clip: float = 0.2,
    num_tokens: float | None = None,
) -> Terms:
    """B / num_tokens sum_t 1/2 max((V - R)^2, (old + clip(V - old, -c, c) - R)^2): PPO2's code.

    At a tie the first branch gives the gradient.
    """
    V, old, R = read(mask, V, old_values, returns)
    plain = V - R
    bounded = old + np.clip(V - old, -value_clip, value_clip) - R
    is_bounded = (bounded**2 > plain**2) & (np.abs(V - old) > value_clip)
    error = np.where(is_bounded, bounded, plain)
    tokens = Tokens(error**2 / 2, np.where(is_bounded, 0.0, plain))
    return sum_tokens(g, batch_weight(mask, V, num_tokens), tokens, mask, "V")


# ---- KL estimates: of r = logp - ref, clamped to +-limit, [B, T] to [B, T] -----------------------


def kl_loss(
    logps: ArrayLike,
    ref_token_logps: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    loss_type: str = "k1",
    log_ratio_limit: float = DefaultNumber(math.inf),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> SequenceLoss:
    """Schulman's estimates of KL(policy || ref) from the policy's own samples, per token [B, T]."""
    return call("kl", SequenceLoss, locals())


def k3_tokens(r: Float64) -> Tokens:
    """exp(-r) - 1 + r: unbiased like k1 and never negative."""
    return Tokens(np.expm1(-r) + r, -np.expm1(-r))


def _estimate(g: Float64, r: Float64, tokens: Tokens, mask: Mask, limit: float) -> Terms:
    """Losses [B, T] of the clamped r; no gradient where the clamp acts."""
    value, slope = read(mask, *tokens)
    return Terms(value, {"logps": np.where(np.abs(r) > limit, 0.0, g * slope)})


@row("kl.k1", tokenwise=True)
def k1(
    g: Float64,
    logps: Float64,
    ref_token_logps: Float64,
    mask: Mask = None,
    *,
    log_ratio_limit: float = math.inf,
) -> Terms:
    """r: unbiased, of either sign."""
    logps, ref = read(mask, logps, ref_token_logps)
    r = np.clip(logps - ref, -log_ratio_limit, log_ratio_limit)
    return _estimate(g, logps - ref, Tokens(r, np.ones_like(r)), mask, log_ratio_limit)


@row("kl.k2", tokenwise=True)
def k2(
    g: Float64,
    logps: Float64,
    ref_token_logps: Float64,
    mask: Mask = None,
    *,
    log_ratio_limit: float = math.inf,
) -> Terms:
    """r^2 / 2: biased, of low variance."""
    logps, ref = read(mask, logps, ref_token_logps)
    r = np.clip(logps - ref, -log_ratio_limit, log_ratio_limit)
    return _estimate(g, logps - ref, Tokens(r**2 / 2, r), mask, log_ratio_limit)


@row("kl.k3", tokenwise=True)
def k3(
    g: Float64,
    logps: Float64,
    ref_token_logps: Float64,
    mask: Mask = None,
    *,
    log_ratio_limit: float = math.inf,
) -> Terms:
    """exp(-r) - 1 + r, which is exp(ref - logp) - 1 - (ref - logp)."""
    logps, ref = read(mask, logps, ref_token_logps)
    r = np.clip(logps - ref, -log_ratio_limit, log_ratio_limit)
    return _estimate(g, logps - ref, k3_tokens(r), mask, log_ratio_limit)
