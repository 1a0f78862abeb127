"""Statistics of a policy's and a reference's logits over one vocabulary, read together: NumPy.

What losses over whole rows need: TDPO's divergences (arXiv 2404.11999, eq. 13) and eps-DPO's
log-probabilities under perturbed logits (arXiv 2502.13177, eq. 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from . import _core
from ._loss_call import nearest

Array = NDArray[Any]

__all__ = ["PAIR_STATS", "PairTokenStats", "pair_token_stats", "pair_token_stats_grad"]

PAIR_STATS = ("ref_policy_kl", "policy_ref_kl", "plus_logps", "minus_logps")


class PairTokenStats(NamedTuple):
    """Statistics of each pair of rows x = policy_logits / temperature, y = ref_logits / temperature.

    With p = softmax(x) and r = softmax(y). Every array is [...], float32 (float64 for float64
    logits), or None if not asked for. Ignored rows hold 0.
    """

    policy_logps: Array
    """log p[label]"""
    ref_logps: Array
    """log r[label]"""
    policy_lse: Array
    """log sum exp x"""
    ref_lse: Array
    """log sum exp y"""
    ref_policy_kl: Array | None
    """KL(r || p) = sum r (log r - log p), >= 0"""
    policy_ref_kl: Array | None
    """KL(p || r) = sum p (log p - log r), >= 0"""
    plus_logps: Array | None
    """log softmax(x + perturbation (x - y))[label]"""
    minus_logps: Array | None
    """log softmax(x - perturbation (x - y))[label]"""


def wanted_stats(stats: Sequence[str]) -> tuple[bool, ...]:
    """A flag for each of PAIR_STATS."""
    if isinstance(stats, str):
        raise TypeError('stats: expected a sequence of names such as ("ref_policy_kl",), got str')
    for index, name in enumerate(stats):
        if name not in PAIR_STATS:
            hint = nearest(str(name), PAIR_STATS)
            raise ValueError(f"stats: unknown {name!r} at index {index}; {hint}")
    return tuple(name in stats for name in PAIR_STATS)


def pair_token_stats(
    policy_logits: Any,
    ref_logits: Any,
    labels: Any,
    *,
    dtype: str | None = None,
    ignore_index: int = -100,
    temperature: float = 1.0,
    perturbation: float = 0.01,
    stats: Sequence[str] = (),
) -> PairTokenStats:
    """Both log-probabilities of each label, and divergences of the two rows, in one read of both.

    Parameters
    ----------
    policy_logits, ref_logits : [..., V] of one shape and one dtype
        float16, bfloat16, float32 or float64, taken as `token_logps` takes logits.
    labels : [...] of any integer type, aligned with the logits: ``ignore_index``, or 0 <= label < V.
    dtype, ignore_index, temperature : as in `token_logps`; both logits are divided by temperature.
    perturbation : eps in (0, 1) of plus_logps and minus_logps.
    stats : names out of "ref_policy_kl", "policy_ref_kl", "plus_logps", "minus_logps" to return as
        well.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected, what came and the first bad index.

    Notes
    -----
    An entry of probability 0 under the first distribution of a divergence adds nothing to it; one
    of probability 0 under the second alone makes it inf. Entries that the policy rules out (-inf)
    are ruled out of the perturbed softmaxes; one that the reference alone rules out makes
    plus_logps NaN. Rows that are all -inf, or hold +inf or NaN, give NaN where they enter.

    TDPO's ``chosen_kl`` is ``sequence_logps(ref_policy_kl, mask)`` of the chosen answers, eps-DPO's
    ``chosen_plus_logps`` likewise of plus_logps.
    """
    return PairTokenStats._make(
        _core.pair_token_stats(
            policy_logits,
            ref_logits,
            labels,
            dtype,
            ignore_index,
            temperature,
            perturbation,
            wanted_stats(stats),
            False,
        )
    )


def pair_token_stats_grad(
    policy_logits: Any,
    ref_logits: Any,
    labels: Any,
    policy_lse: Any,
    ref_lse: Any,
    *,
    grad_policy_logps: Any = None,
    grad_ref_policy_kl: Any = None,
    grad_policy_ref_kl: Any = None,
    policy_ref_kl: Any = None,
    dtype: str | None = None,
    ignore_index: int = -100,
    temperature: float = 1.0,
    out: Any = None,
) -> Array:
    """Gradient of a loss with respect to policy_logits; the reference is a constant.

    With g1, g2, g3 the gradients by policy_logps, ref_policy_kl and policy_ref_kl, y the label::

        out[v] = (g1 ([v == y] - p[v]) + g2 (p[v] - r[v])
                  + g3 p[v] (log p[v] - log r[v] - KL(p || r))) / temperature

    Parameters
    ----------
    policy_logits, ref_logits, labels, dtype, ignore_index, temperature : as given to
        `pair_token_stats`.
    policy_lse, ref_lse : [...] float32 or float64, its results.
    grad_policy_logps, grad_ref_policy_kl, grad_policy_ref_kl : [...] float32 or float64, at least
        one of them.
    policy_ref_kl : [...] its result; needed with grad_policy_ref_kl.
    out : [..., V] array of the logits' dtype to write into
        policy_logits or ref_logits itself is allowed. None allocates.

    Returns
    -------
    out. Ignored rows are 0, rows whose lse is not finite are NaN.

    Raises
    ------
    TypeError, ValueError
        Naming the argument; nothing has been written then.
    """
    return _core.pair_token_stats_grad(
        policy_logits,
        ref_logits,
        labels,
        policy_lse,
        ref_lse,
        policy_ref_kl,
        grad_policy_logps,
        grad_ref_policy_kl,
        grad_policy_ref_kl,
        dtype,
        ignore_index,
        temperature,
        out,
    )
