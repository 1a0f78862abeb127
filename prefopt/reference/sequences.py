"""From tokens to sequences: sums and averages of log-probabilities, and weights of them.

Liu et al. 2024, Length Desensitization in DPO, arXiv 2409.06411                    (LD-DPO)
Zhou et al. 2024, WPO: Weighted Preference Optimization, arXiv 2406.11827           (WPO)
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from prefopt.reference.scalar import Float64, per_token


def sequence_logps(
    logps: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    cu_seqlens: npt.ArrayLike | None = None,
    average: bool = False,
    normalizer: npt.ArrayLike | None = None,
) -> Float64:
    """sum_t mask_t logps_t of each sequence, or its average: [B, T] (or packed [T]) to [B].

    Packed sequence b is logps[cu_seqlens[b] : cu_seqlens[b + 1]]. The average divides by the sum of
    the mask, or by `normalizer` [B]. A token whose mask is 0 is not read, so that 0 * inf cannot
    spoil a sum; an empty sequence has sum 0 and average 0.
    """
    values = np.asarray(logps, dtype=np.float64)
    weights = np.ones_like(values) if mask is None else np.asarray(mask, dtype=np.float64)
    terms = np.where(weights == 0.0, 0.0, weights * np.where(weights == 0.0, 0.0, values))
    if cu_seqlens is None:
        sums: Float64 = terms.sum(axis=-1)
        counts: Float64 = weights.sum(axis=-1)
    else:
        cuts = np.asarray(cu_seqlens)
        spans = [slice(int(a), int(b)) for a, b in itertools.pairwise(cuts)]
        sums = np.array([terms[span].sum() for span in spans], dtype=np.float64)
        counts = np.array([weights[span].sum() for span in spans], dtype=np.float64)
    if not average:
        return sums
    if normalizer is not None:
        counts = np.asarray(normalizer, dtype=np.float64)
    return per_token(sums, counts)


def ld_weights(mask: npt.ArrayLike, other_lengths: npt.ArrayLike, alpha: float) -> Float64:
    """LD-DPO: weight 1 for the first M tokens of an answer and alpha for the others, [B, T].

    M is the length of the shorter answer of the pair, so that the tokens beyond it are those that
    the longer one has more: mask [B, T] is of one side, other_lengths [B] of the other. For
    `sequence_logps`; the weights of tokens outside the mask are 0.
    """
    counts = np.asarray(mask, dtype=bool)
    position = np.cumsum(counts, axis=1)  # 1 for the first token of the answer
    is_public = position <= np.asarray(other_lengths)[:, None]
    return np.where(counts, np.where(is_public, 1.0, alpha), 0.0)


def wpo_weights(
    logps: npt.ArrayLike,
    lse: npt.ArrayLike,
    lse2: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
) -> Float64:
    """WPO with sampled alignment: exp((1 / N) sum_t (log p(y_t) - log sum_v p(v)^2)), [B].

    log sum_v p_v^2 = lse(2 z) - 2 lse(z). logps, lse and lse2 [B, T] are `token_logps`' with
    stats=("lse2",). A constant: nothing flows through it. 1 for an empty answer. The authors clamp
    the product of a pair's two weights at 1, TRL 1.x does not.
    """
    logps, lse, lse2 = (np.asarray(each, dtype=np.float64) for each in (logps, lse, lse2))
    excess = logps - (lse2 - 2 * lse)
    counts = np.ones(excess.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    sums = np.where(counts, excess, 0.0).sum(axis=1)
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(per_token(sums, counts.sum(axis=1))))
