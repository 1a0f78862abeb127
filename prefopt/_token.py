"""Token log-probabilities from logits, their gradient, and sequence reductions: NumPy in, NumPy
out.

Source of the formulas: arXiv 2305.18290 (DPO), whose objective needs log pi(y_t | x, y_<t) summed
over an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _core

Array = NDArray[Any]

__all__ = ["RowState", "TokenLogps", "sequence_logps", "token_logps", "token_logps_grad"]


class TokenLogps(NamedTuple):
    """Statistics of each row of ``x = logits / temperature``; every array is [...] or None if not
    asked for.

    float32, or float64 for float64 logits; ``correct`` is bool. Ignored rows hold 0.
    """

    logps: Array
    """log softmax(x)[label]"""
    lse: Array
    """log sum exp x"""
    entropy: Array | None
    """-sum p log p, in nats, with p log p = 0 at p = 0"""
    correct: Array | None
    """label is the (first) maximum"""
    mean_logit: Array | None
    max_logit: Array | None
    lse2: Array | None
    """log sum exp 2x; ``lse2 - 2 * lse`` is log sum p^2"""
    topk_ids: Array | None = None
    """[..., k] int64, `linear_token_logps` only, as all that follow"""
    topk_logps: Array | None = None
    grad_hidden: Array | None = None
    """[..., H] d logps / d hidden"""
    grad_hidden_lse: Array | None = None
    grad_hidden_entropy: Array | None = None
    kept: Array | None = None
    """[unmasked tokens, V] x, for `linear_token_logps_grad`"""


def token_logps(
    logits: Any,
    labels: Any,
    *,
    dtype: str | None = None,
    ignore_index: int = -100,
    temperature: float = 1.0,
    stats: Sequence[str] = (),
) -> TokenLogps:
    """Log-probability of each label under softmax(logits / temperature), in one read of the logits.

    Parameters
    ----------
    logits : [..., V] float16, bfloat16, float32 or float64
        Any strides, the last axis contiguous; read in place, also read-only and memory-mapped.
        NumPy arrays, the buffer protocol and DLPack on the CPU. bfloat16 comes as
        ``ml_dtypes.bfloat16``, through DLPack, or as uint16 with ``dtype="bfloat16"``.
    labels : [...] of any integer type
        Aligned with logits (nothing is shifted): ``ignore_index``, or 0 <= label < V.
    dtype : what the bits of ``logits`` are where their own dtype does not say ("bfloat16").
    ignore_index : rows with this label are not read; all their results are 0.
    temperature : from 1e-30 to 1e30.
    stats : names out of "entropy", "correct", "mean_logit", "max_logit", "lse2" to return as well.

    Returns
    -------
    TokenLogps of float32 arrays (float64 for float64 logits), computed from the exact input values:
    bfloat16 and float16 logits give float32 results that are not rounded to their dtype.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected, what came and the first bad index; nothing has been
        computed then.

    Notes
    -----
    -inf logits have probability 0. A row of -inf has lse, lse2, max_logit, mean_logit -inf, logps
    and entropy NaN and correct False. NaN makes every statistic of its row NaN and correct False. A
    row with +inf has lse, lse2, max_logit +inf, logps and entropy NaN.
    """
    return tuple.__new__(
        TokenLogps,
        _core.token_logps(logits, labels, dtype, ignore_index, temperature, stats, False),
    )


def token_logps_grad(
    logits: Any,
    labels: Any,
    lse: Any,
    *,
    grad_logps: Any = None,
    grad_entropy: Any = None,
    grad_lse: Any = None,
    entropy: Any = None,
    logps: Any = None,
    dtype: str | None = None,
    ignore_index: int = -100,
    temperature: float = 1.0,
    out: Any = None,
) -> Array:
    """Gradient of a loss with respect to logits, from its gradients with respect to their results.

    With x = logits / temperature, p = softmax(x), H the entropy and y the label::

        out[v] = ((grad_lse - grad_logps) p[v] - grad_entropy p[v] (log p[v] + H)
                  + grad_logps [v == y]) / temperature

    Parameters
    ----------
    logits, labels, dtype, ignore_index, temperature : as given to `token_logps`.
    lse : [...] float32 or float64, its result.
    grad_logps, grad_entropy, grad_lse : [...] float32 or float64, at least one of them
        d loss / d result of that name.
    entropy : [...] the forward's entropy; needed with grad_entropy.
    logps : [...] the forward's logps, optional and worth giving
        A float32 lse near 12 carries a rounding of 5e-7 that every probability of its row
        inherits; ``logits[label] - logps`` is the same number, more exact where |logps| < |lse|.
    out : [..., V] array of logits' dtype to write into, ``logits`` itself included
        In place there is half the memory traffic and no page fault. It may not overlap an input in
        any other way, nor lie between its rows. None allocates.

    Returns
    -------
    out : [..., V] in the dtype of logits. Ignored rows are 0, -inf logits get 0, rows whose lse is
    not finite are NaN.

    Raises
    ------
    TypeError, ValueError
        Naming the argument; nothing has been written then.
    """
    return _core.token_logps_grad(
        logits,
        labels,
        lse,
        grad_logps,
        grad_entropy,
        grad_lse,
        entropy,
        logps,
        dtype,
        ignore_index,
        temperature,
        out,
    )


def sequence_logps(
    logps: Any,
    mask: Any = None,
    *,
    cu_seqlens: Any = None,
    average: bool = False,
    normalizer: Any = None,
) -> Array:
    """Sum (or average) of token log-probs over each sequence, accumulated in double.

    Parameters
    ----------
    logps : [B, T], or packed [N] with ``cu_seqlens``; float32 or float64, any strides
    mask : of the same shape, bool or float weights
        None counts every position (pass ``labels != ignore_index``). Positions of weight 0 are not
        used: NaN or inf there does not matter.
    cu_seqlens : [B + 1] int32 or int64 offsets from 0 to N, never falling
        The layout of flash-attention's varlen calls.
    average : divide by the sum of the mask; an empty sequence gives 0.
    normalizer : [B] float32 or float64, > 0, with ``average``
        Divide by this instead (global lengths of a split sequence).

    Returns
    -------
    [B] in the dtype of logps. An empty sequence has sum 0 and average 0.

    Raises
    ------
    TypeError, ValueError
        Naming the argument and the first bad index.
    """
    return _core.sequence_logps(logps, mask, cu_seqlens, average, normalizer)


class RowState(NamedTuple):
    """What is known of one row of x = logits / temperature after a part of its vocabulary was read.

    Parts are read by `RowState.read`, joined in vocabulary order by `merge` (any grouping) and
    turned into statistics by `finish`: how a vocabulary split over processes gives the numbers of
    one process. All fields are float64 or int.
    """

    max: float
    """m, the largest x; -inf for an empty part"""
    sum_exp: float
    """sum exp(x - m)"""
    sum_x_exp: float
    """sum (x - m) exp(x - m)"""
    sum_exp2: float
    """sum exp(2 (x - m))"""
    sum_x: float
    """sum x"""
    target: float
    """x[label] if this part holds it, else -inf"""
    best: int
    """global index of the first maximum, -1 if there is none"""
    count: int  # type: ignore[assignment]  # hides tuple.count, as the C field is named
    """vocabulary entries read"""
    has_target: int
    """1 if target was seen"""

    @classmethod
    def empty(cls) -> RowState:
        """The state of a part of no entries."""
        return cls(-np.inf, 0.0, 0.0, 0.0, 0.0, -np.inf, -1, 0, 0)

    @classmethod
    def read(
        cls,
        logits: Any,
        label: int,
        *,
        first_vocab: int = 0,
        temperature: float = 1.0,
        dtype: str | None = None,
    ) -> RowState:
        """State of ``logits`` [count], whose first entry has vocabulary index ``first_vocab``.

        ``label`` is a global id; it counts as seen if it falls inside this part.
        """
        return cls._make(_core.row_state_read(logits, dtype, first_vocab, label, temperature))

    def merge(self, later: RowState) -> RowState:
        """The state of both parts, ``later`` coming after this one in the vocabulary."""
        return RowState._make(_core.row_state_merge(self, later))

    def finish(self) -> dict[str, float]:
        """logp, lse, entropy, mean_logit, max_logit, lse2 and best of a complete row."""
        names = ("logp", "lse", "entropy", "mean_logit", "max_logit", "lse2", "best")
        return dict(zip(names, _core.row_state_finish(self), strict=True))
