"""Group methods: one advantage for each sampled answer, [B, T] to [B], and losses.mean() the loss.

rho_t = exp(logp_t - old_t); without old log-probabilities old = logp as a constant, so that rho = 1.
A is the advantage of the whole answer, k3 = exp(ref - logp) - 1 - (ref - logp) the KL estimate.

    Shao et al. 2024, DeepSeekMath, arXiv 2402.03300                                    (GRPO)
    Liu et al. 2025, Understanding R1-Zero-Like Training, arXiv 2503.20783              (Dr. GRPO)
    Yu et al. 2025, DAPO, arXiv 2503.14476                                              (DAPO)
    Zheng et al. 2025, Group Sequence Policy Optimization, arXiv 2507.18071             (GSPO)
    MiniMax 2025, MiniMax-M1, arXiv 2506.13585                                          (CISPO)
    Gao et al. 2025, Soft Adaptive Policy Optimization, arXiv 2511.20347                (SAPO)
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from prefopt._loss_types import DefaultNumber, SequenceLoss
from prefopt.reference._call import Terms, call, row
from prefopt.reference.ppo import (
    Mask,
    Tokens,
    batch_weight,
    clipped,
    count,
    k3_tokens,
    read,
    sum_tokens,
)
from prefopt.reference.scalar import Float64, per_token, sigmoid, sigmoid_slope, times

ArrayLike = npt.ArrayLike
Optional = Float64 | None


def grpo_loss(
    logps: ArrayLike,
    advantages: ArrayLike,
    *,
    old_logps: ArrayLike | None = None,
    ref_token_logps: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    loss_type: str = "grpo",
    epsilon: float = DefaultNumber(0.2),
    epsilon_high: float | None = None,
    delta: float = DefaultNumber(math.inf),
    kl_beta: float = DefaultNumber(0.0),
    max_completion_length: float | None = None,
    num_tokens: float | None = None,
    epsilon_low: float = DefaultNumber(0.0),
    sapo_temperature_pos: float = DefaultNumber(1.0),
    sapo_temperature_neg: float = DefaultNumber(1.05),
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> SequenceLoss:
    """GRPO and its relatives; log-probabilities [B, T], advantages [B], losses [B]."""
    return call("grpo", SequenceLoss, locals())


def _read(
    mask: Mask, logps: Float64, old_logps: Optional, ref_token_logps: Optional
) -> tuple[Float64, Float64, Optional]:
    """(logp, rho, logp - ref or None), masked tokens being 0, 1, 0."""
    old = logps if old_logps is None else old_logps
    logp, ratio = read(mask, logps, logps - old)
    r = None if ref_token_logps is None else read(mask, logps - ref_token_logps)[0]
    return logp, np.exp(ratio), r


def _plus_kl(tokens: Tokens, r: Optional, kl_beta: float) -> Tokens:
    """kl_beta k3 for each token."""
    if kl_beta == 0 or r is None:
        return tokens
    value, slope = k3_tokens(r)
    return Tokens(tokens.value + kl_beta * value, tokens.slope + kl_beta * slope)


def _grpo_tokens(
    mask: Mask,
    logps: Float64,
    advantages: Float64,
    old_logps: Optional,
    ref_token_logps: Optional,
    epsilon: float,
    epsilon_high: float | None,
    delta: float,
    kl_beta: float,
) -> Tokens:
    """-min(min(rho, delta) A, clip(rho, 1 - eps, 1 + eps_high) A) + kl_beta k3: GRPO eq. 3.

    delta bounds rho for negative A from above (INTELLECT-2's two-sided clip), inf in the paper.
    """
    _, rho, r = _read(mask, logps, old_logps, ref_token_logps)
    tokens = clipped(rho, advantages[:, None], epsilon, epsilon_high, delta)
    return _plus_kl(tokens, r, kl_beta)


@row("grpo.grpo")
def grpo(
    g: Float64,
    logps: Float64,
    advantages: Float64,
    old_logps: Optional = None,
    ref_token_logps: Optional = None,
    mask: Mask = None,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float = math.inf,
    kl_beta: float = 0.0,
) -> Terms:
    """(1 / N_i) sum_t of GRPO's token losses: eq. 3, a mean over sequences of means over tokens."""
    tokens = _grpo_tokens(
        mask, logps, advantages, old_logps, ref_token_logps, epsilon, epsilon_high, delta, kl_beta
    )
    return sum_tokens(g, per_token(np.ones_like(g), count(mask, logps)), tokens, mask, "logps")


@row("grpo.dr_grpo")
def dr_grpo(
    g: Float64,
    logps: Float64,
    advantages: Float64,
    old_logps: Optional = None,
    ref_token_logps: Optional = None,
    mask: Mask = None,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float = math.inf,
    kl_beta: float = 0.0,
    max_completion_length: float | None = None,
) -> Terms:
    """(1 / L) sum_t of the same with one L for all: Dr. GRPO eq. 4. L is T unless given."""
    tokens = _grpo_tokens(
        mask, logps, advantages, old_logps, ref_token_logps, epsilon, epsilon_high, delta, kl_beta
    )
    length = logps.shape[1] if max_completion_length is None else max_completion_length
    return sum_tokens(g, per_token(1.0, length), tokens, mask, "logps")


@row("grpo.dapo")
@row("grpo.bnpo")
def dapo(
    g: Float64,
    logps: Float64,
    advantages: Float64,
    old_logps: Optional = None,
    ref_token_logps: Optional = None,
    mask: Mask = None,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float = math.inf,
    kl_beta: float = 0.0,
    num_tokens: float | None = None,
) -> Terms:
    """(B / num_tokens) sum_t of the same: DAPO eq. 8, a mean over the tokens of the global batch.

    TRL's "bnpo" is the mean over those of the local batch, which num_tokens is unless given.
    """
    tokens = _grpo_tokens(
        mask, logps, advantages, old_logps, ref_token_logps, epsilon, epsilon_high, delta, kl_beta
    )
    return sum_tokens(g, batch_weight(mask, logps, num_tokens), tokens, mask, "logps")


@row("grpo.gspo")
def gspo(
    g: Float64,
    logps: Float64,
    advantages: Float64,
    old_logps: Optional = None,
    ref_token_logps: Optional = None,
    mask: Mask = None,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float = math.inf,
    kl_beta: float = 0.0,
) -> Terms:
    """-min(min(s, delta) A, clip(s, ...) A) + kl_beta mean_t k3, s = exp(mean_t log rho_t): eq. 5-7.

    One ratio an answer: the mean over its tokens of one and the same loss. d s / d logp_t = s / N.
    """
    old = logps if old_logps is None else old_logps
    (ratios,) = read(mask, logps - old)
    n = count(mask, logps)
    s = np.exp(per_token(ratios.sum(axis=1), n))
    each = clipped(s, advantages, epsilon, epsilon_high, delta)
    value, slope = (np.broadcast_to(array[:, None], logps.shape) for array in each)
    r = None if ref_token_logps is None else read(mask, logps - ref_token_logps)[0]
    tokens = _plus_kl(Tokens(value, slope), r, kl_beta)
    return sum_tokens(g, per_token(np.ones_like(g), n), tokens, mask, "logps")


@row("grpo.cispo")
def cispo(
    g: Float64,
    logps: Float64,
    advantages: Float64,
    old_logps: Optional = None,
    ref_token_logps: Optional = None,
    mask: Mask = None,
    *,
    epsilon_high: float = 5.0,
    epsilon_low: float = 0.0,
    kl_beta: float = 0.0,
    num_tokens: float | None = None,
) -> Terms:
    """(B / num_tokens) sum_t (-sg(clip(rho, eps_low, eps_high)) A logp + kl_beta k3): eq. 4-5.

    The clipped ratio is a constant weight: no token loses its gradient. Bounds are absolute.
    """
    logp, rho, r = _read(mask, logps, old_logps, ref_token_logps)
    weight = times(np.clip(rho, epsilon_low, epsilon_high), advantages[:, None])
    tokens = _plus_kl(Tokens(-times(weight, logp), -weight), r, kl_beta)
    return sum_tokens(g, batch_weight(mask, logps, num_tokens), tokens, mask, "logps")


@row("grpo.sapo")
def sapo(
    g: Float64,
    logps: Float64,
    advantages: Float64,
    old_logps: Optional = None,
    ref_token_logps: Optional = None,
    mask: Mask = None,
    *,
    sapo_temperature_pos: float = 1.0,
    sapo_temperature_neg: float = 1.05,
    kl_beta: float = 0.0,
) -> Terms:
    """(1 / N_i) sum_t (-(4 / tau) sigma(tau (rho - 1)) A + kl_beta k3): SAPO eq. 6.

    tau is the one of positive advantages where A > 0. The gate's slope is 4 sigma'(tau (rho - 1)),
    which is 1 on policy.
    """
    _, rho, r = _read(mask, logps, old_logps, ref_token_logps)
    A = advantages[:, None]
    tau = np.where(A > 0, sapo_temperature_pos, sapo_temperature_neg)
    x = tau * (rho - 1)
    slope = -4 * times(sigmoid_slope(x), rho) * A
    tokens = _plus_kl(Tokens(-4 / tau * sigmoid(x) * A, slope), r, kl_beta)
    return sum_tokens(g, per_token(np.ones_like(g), count(mask, logps)), tokens, mask, "logps")
