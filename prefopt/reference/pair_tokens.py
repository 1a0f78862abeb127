"""Token statistics of two rows of logits, the policy's and the reference's, read together.

Zeng et al. 2024, Token-level Direct Preference Optimization, arXiv 2404.11999       (TDPO)
Lee et al. 2025, KL Penalty Control via Perturbation for DPO, arXiv 2502.13177       (eps-DPO)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefopt.reference.scalar import Float64
from prefopt.reference.tokens import logits_float64, logsumexp


class PairTokenStats(NamedTuple):
    """Statistics of each pair of rows, all with the shape of `labels`; None where not asked for."""

    policy_logps: Float64
    ref_logps: Float64
    policy_lse: Float64
    ref_lse: Float64
    ref_policy_kl: Float64 | None = None
    """KL(ref || policy), in nats"""
    policy_ref_kl: Float64 | None = None
    """KL(policy || ref)"""
    plus_logps: Float64 | None = None
    """of the label under the logits (1 + eps) z - eps z_ref"""
    minus_logps: Float64 | None = None
    """under (1 - eps) z + eps z_ref"""


def pair_token_stats(
    policy_logits: npt.ArrayLike,
    ref_logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    dtype: str | None = None,
    ignore_index: int = -100,
    temperature: float = 1.0,
    perturbation: float = 0.01,
    stats: Sequence[str] = (),
) -> PairTokenStats:
    """log softmax(z)[label] of both rows, z = logits / temperature, and what is named in `stats`.

    policy_logits, ref_logits [..., V], labels [...]; rows whose label is `ignore_index` give 0.
    KL(p || q) = sum_v p_v (log p_v - log q_v), with 0 at p_v = 0 (a logit of -inf) whatever q_v is,
    and inf where q_v = 0 < p_v; TDPO takes p = ref, q = policy. The perturbed logits are eps-DPO's,
    eps = perturbation; a token that the policy rules out (-inf) stays ruled out.
    """
    z = logits_float64(policy_logits, dtype) / temperature
    z_ref = logits_float64(ref_logits, dtype) / temperature
    y = np.asarray(labels)
    kept = y != ignore_index

    def wanted(name: str, values: Float64) -> Float64 | None:
        return np.where(kept, values, 0.0) if name in stats else None

    def log_softmax(logits: Float64) -> Float64:
        lse = logsumexp(logits)[..., None]
        return np.where(np.isinf(lse), np.nan, logits - lse)  # infinite: there is no distribution

    def at_label(values: Float64) -> Float64:
        index = np.where(kept, y, 0)[..., None].astype(np.int64)
        return np.where(kept, np.take_along_axis(values, index, -1)[..., 0], 0.0)

    with np.errstate(invalid="ignore", over="ignore"):
        log_p, log_q = log_softmax(z), log_softmax(z_ref)
        shift = np.where(z == -np.inf, 0.0, perturbation * (z - z_ref))
        return PairTokenStats(
            policy_logps=at_label(log_p),
            ref_logps=at_label(log_q),
            policy_lse=np.where(kept, logsumexp(z), 0.0),
            ref_lse=np.where(kept, logsumexp(z_ref), 0.0),
            ref_policy_kl=wanted("ref_policy_kl", _kl(log_q, log_p)),
            policy_ref_kl=wanted("policy_ref_kl", _kl(log_p, log_q)),
            plus_logps=wanted("plus_logps", at_label(log_softmax(z + shift))),
            minus_logps=wanted("minus_logps", at_label(log_softmax(z - shift))),
        )


def _kl(log_p: Float64, log_q: Float64) -> Float64:
    """sum_v p_v (log p_v - log q_v), with 0 where p_v = 0."""
    terms = np.where(log_p == -np.inf, 0.0, np.exp(log_p) * (log_p - log_q))
    return np.asarray(np.maximum(terms.sum(axis=-1), 0.0))  # a rounding may fall below
