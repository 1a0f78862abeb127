"""What losses take beside log-probabilities: running state, sampled positions, advantages, weights.

No gradient flows through any of it.

    Jung et al. 2024, Binary Classifier Optimization, arXiv 2404.04656                  (BCO)
    Wu et al. 2024, beta-DPO: DPO with Dynamic beta, arXiv 2407.08639                   (beta-DPO)
    Efraimidis and Spirakis 2006, Weighted random sampling with a reservoir
    Lee et al. 2025, KL Penalty Control via Perturbation for DPO, arXiv 2502.13177      (eps-DPO)
    Lu et al. 2024, Eliminating Biased Length Reliance of DPO ..., arXiv 2406.10957     (SamPO)
    Liu et al. 2023, Statistical Rejection Sampling ..., arXiv 2309.06657               (RSO)
    Schulman et al. 2015, High-Dimensional Continuous Control ..., arXiv 1506.02438     (GAE)
    Gorbatovski et al. 2024, Learn Your Reference Model ..., arXiv 2404.09656           (TR-DPO)
    Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators      (SplitMix64)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prefopt._loss_types import DefaultNumber
from prefopt.reference.scalar import Float64, times

ArrayLike = npt.ArrayLike
Bool = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


def _float64(value: ArrayLike) -> Float64:
    return np.asarray(value, dtype=np.float64)


# ---- running state -------------------------------------------------------------------------------


class BcoDelta(NamedTuple):
    """BCO's reward shift, and the number of rewards behind it."""

    mean: float
    count: float  # type: ignore[assignment]  # which tuple has as a method


def bco_delta(
    rewards: ArrayLike, *, state_mean: ArrayLike | None = None, state_count: ArrayLike | None = None
) -> BcoDelta:
    """BCO section 4: the mean of all rewards [B] so far, as (mean n + sum r) / (n + B).

    In training it is updated before it is used, so that the current batch counts.
    """
    r = _float64(rewards)
    old_count = 0.0 if state_count is None else float(_float64(state_count))
    old_sum = 0.0 if state_mean is None else float(times(_float64(state_mean), old_count))
    count = old_count + len(r)
    return BcoDelta((old_sum + float(r.sum())) / count if count > 0 else 0.0, count)


class BetaDpoState(NamedTuple):
    """Running mean and standard deviation of the reward gaps."""

    mean: float
    std: float


def beta_dpo_state(
    gaps: ArrayLike,
    *,
    state_mean: ArrayLike | None = None,
    state_std: ArrayLike | None = None,
    momentum: float = DefaultNumber(0.9),
) -> BetaDpoState:
    """beta-DPO eq. 9: m mean + (1 - m) mean(gaps), and std alike; the first batch sets them.

    The authors' code starts both at 0 and takes the deviation of a sample, over B - 1.
    """
    a = _float64(gaps)
    mean, std = (float(a.mean()), float(a.std())) if len(a) else (0.0, 0.0)
    if state_mean is None or state_std is None:
        return BetaDpoState(mean, std)
    m = momentum if len(a) else 1.0
    old_mean, old_std = float(_float64(state_mean)), float(_float64(state_std))
    return BetaDpoState(m * old_mean + (1 - m) * mean, m * old_std + (1 - m) * std)


class BetaDpoKeep(NamedTuple):
    """The pairs that count, [B]."""

    keep: Bool


def beta_dpo_keep(
    gaps: ArrayLike,
    uniforms: ArrayLike,
    state_mean: ArrayLike,
    state_std: ArrayLike,
    *,
    keep_ratio: float = DefaultNumber(0.8),
) -> BetaDpoKeep:
    """beta-DPO eq. 10: ceil(keep_ratio B) pairs drawn without replacement, with weights

    w_i = exp(-((A_i - mean) / std)^2 / 2) of the gaps A [B]. The largest keys u_i^(1 / w_i) win
    (Efraimidis and Spirakis): as log u / w, or without underflow the smallest log(-log u) - log w.
    The authors' code rounds the number of pairs down.
    """
    a = _float64(gaps)
    distance = a - _float64(state_mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(distance == 0, 0.0, distance / _float64(state_std))
        keys = np.log(-np.log(_float64(uniforms)[: len(a)])) + steps**2 / 2
    keep = np.zeros(len(a), dtype=bool)
    keep[np.argsort(keys, kind="stable")[: int(np.ceil(keep_ratio * len(a)))]] = True
    return BetaDpoKeep(keep)


class EpsDpoBeta(NamedTuple):
    """The next step's beta."""

    beta: float


def eps_dpo_beta(
    steps: ArrayLike, *, beta: float = DefaultNumber(0.1), perturbation: float = DefaultNumber(0.01)
) -> EpsDpoBeta:
    """eps-DPO eq. 13: beta / (1 + eps mean(steps)), steps [B] those of the batch's losses."""
    a = _float64(steps)
    return EpsDpoBeta(beta / (1 + perturbation * (float(a.mean()) if len(a) else 0.0)))


# ---- samples -------------------------------------------------------------------------------------


class SampoIndices(NamedTuple):
    """Positions of the sampled tokens, rising and then -1, each [B, T]."""

    chosen_indices: Indices
    rejected_indices: Indices


def sampo_indices(
    chosen_mask: ArrayLike,
    rejected_mask: ArrayLike,
    chosen_uniforms: ArrayLike,
    rejected_uniforms: ArrayLike,
) -> SampoIndices:
    """SamPO section 4: per pair min(N_w, N_l) tokens of each answer, drawn without replacement.

    Those with the smallest uniforms [B, T] (`uniforms`), so that the shorter answer keeps all.
    """
    chosen, rejected = np.asarray(chosen_mask, bool), np.asarray(rejected_mask, bool)
    counts = np.minimum(chosen.sum(axis=1), rejected.sum(axis=1))
    return SampoIndices(
        _smallest(chosen, _float64(chosen_uniforms), counts),
        _smallest(rejected, _float64(rejected_uniforms), counts),
    )


def _smallest(mask: Bool, uniforms: Float64, counts: Indices) -> Indices:
    """Per row the `count` positions in the mask with the smallest uniforms, rising, then -1."""
    out = np.full(mask.shape, -1, dtype=np.int64)
    for i, count in enumerate(counts):
        (positions,) = np.nonzero(mask[i])
        order = np.argsort(uniforms[i, positions], kind="stable")
        out[i, :count] = np.sort(positions[order[:count]])
    return out


class RsoAccept(NamedTuple):
    """The accepted candidates, [B]."""

    accepted: Bool


def rso_accept(
    candidate_rewards: ArrayLike,
    uniforms: ArrayLike,
    *,
    rso_beta: float = DefaultNumber(0.5),
    num_samples: float | None = None,
) -> RsoAccept:
    """RSO algorithm 1: samples of the optimal policy, by rejection among candidates of one prompt.

    Passes over the remaining candidates, accepting where u < exp((r - max r) / beta), until
    num_samples (default: all) are accepted. Each trial takes the next of the uniforms [N]; max r is
    that of the candidates that remained when the pass began.
    """
    r, draws = _float64(candidate_rewards), iter(_float64(uniforms))
    wanted = len(r) if num_samples is None else int(num_samples)
    accepted = np.zeros(len(r), dtype=bool)
    while accepted.sum() < wanted:
        largest = r[~accepted].max()
        for i in np.nonzero(~accepted)[0]:
            if accepted.sum() == wanted:
                break
            accepted[i] = next(draws) < np.exp((r[i] - largest) / rso_beta)
    return RsoAccept(accepted)


def uniforms(seed: int, shape: int | Sequence[int]) -> Float64:
    """Numbers in [0, 1) that depend on the seed and their own index alone: SplitMix64 by counter.

    Element i (in C order) is floor(mix(seed + (i + 1) G) / 2^11) / 2^53, G = 0x9E3779B97F4A7C15, all
    modulo 2^64, with mix(z): z ^= z >> 30; z *= 0xBF58476D1CE4E5B9; z ^= z >> 27;
    z *= 0x94D049BB133111EB; z ^= z >> 31.
    """
    size = int(np.prod(shape))
    out = np.empty(size)
    for i in range(size):
        z = (seed + (i + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        out[i] = ((z ^ (z >> 31)) >> 11) / 2**53
    return out.reshape(shape)


# ---- advantages, weights, parameters -------------------------------------------------------------


class GaeGae(NamedTuple):
    """Advantages and returns, each [B, T]."""

    gae_advantages: Float64
    gae_returns: Float64


def gae(
    token_rewards: ArrayLike,
    values: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    last_values: ArrayLike | None = None,
    gamma: float = DefaultNumber(1.0),
    gae_lambda: float = DefaultNumber(0.95),
) -> GaeGae:
    """GAE eq. 16, as the scan A_t = delta_t + gamma lambda A_(t+1), from the last token back.

    delta_t = r_t + gamma V_(t+1) - V_t (eq. 9 for one step). Rewards and values are [B, T]; the value
    after the last token is last_values [B], 0 where the episode ended. A token that the mask leaves
    out is skipped: t + 1 is the next token that counts. The returns are A + V.
    """
    r, V = _float64(token_rewards), _float64(values)
    counts = np.ones(r.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    advantages = np.zeros_like(r)
    advantage = np.zeros(len(r))
    next_value = np.zeros(len(r)) if last_values is None else _float64(last_values)
    for t in reversed(range(r.shape[1])):
        delta = r[:, t] + gamma * next_value - V[:, t]
        advantage = np.where(counts[:, t], delta + gamma * gae_lambda * advantage, advantage)
        next_value = np.where(counts[:, t], V[:, t], next_value)
        advantages[:, t] = np.where(counts[:, t], advantage, 0.0)
    return GaeGae(advantages, np.where(counts, advantages + V, 0.0))


class BcoUdmWeights(NamedTuple):
    """Weights of undesirable answers, [B]."""

    weights: Float64


def bco_udm_weights(
    desirable_probabilities: ArrayLike,
    *,
    min_density_ratio: float = DefaultNumber(0.5),
    max_density_ratio: float = DefaultNumber(10.0),
) -> BcoUdmWeights:
    """BCO section 4, underlying distribution matching: p / (1 - p), within bounds.

    p [B] is a classifier's probability that the prompt is one of a desirable answer. The authors add
    1e-8 to the denominator.
    """
    p = _float64(desirable_probabilities)
    return BcoUdmWeights(np.clip(p / (1 - p + 1e-8), min_density_ratio, max_density_ratio))


class TrDpoMix(NamedTuple):
    """The parameters of the next reference, [B]."""

    mixed: Float64


def tr_dpo_mix(
    policy_parameters: ArrayLike,
    ref_parameters: ArrayLike,
    *,
    mix_alpha: float = DefaultNumber(0.6),
) -> TrDpoMix:
    """TR-DPO eq. 4, the soft update of the reference: alpha policy + (1 - alpha) ref.

    A weight of 0 leaves its array out. The paper, and TRL's SyncRefModelCallback, do this every 512
    steps with alpha 0.6; alpha = 1 is the hard update, eq. 5.
    """
    policy = times(mix_alpha, _float64(policy_parameters))
    return TrDpoMix(policy + times(1 - mix_alpha, _float64(ref_parameters)))


def mix_reference(
    policy: ArrayLike, ref: ArrayLike, alpha: float = 0.6, *, out: Any = None
) -> npt.NDArray[Any]:
    """`tr_dpo_mix` of arrays of any one shape; `out` may be `ref` itself."""
    mixed = tr_dpo_mix(policy, ref, mix_alpha=alpha).mixed
    if out is None:
        return mixed
    out[...] = mixed
    return np.asarray(out)
