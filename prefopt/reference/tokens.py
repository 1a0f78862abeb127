"""Token log-probabilities: log softmax of a row of logits, and what one row yields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prefopt.reference.scalar import Float64


class TokenLogps(NamedTuple):
    """Statistics of each row of logits, all with the shape of `labels`; None where not asked for."""

    logps: Float64
    lse: Float64
    entropy: Float64 | None = None
    correct: npt.NDArray[np.bool_] | None = None
    mean_logit: Float64 | None = None
    max_logit: Float64 | None = None
    lse2: Float64 | None = None


def logits_float64(logits: npt.ArrayLike, dtype: str | None) -> Float64:
    """The exact values of the logits. A bfloat16 is the upper half of a float32."""
    array = np.asarray(logits)
    if dtype == "bfloat16" and array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def logsumexp(x: Float64) -> Float64:
    """log sum_v exp(x[..., v]); -inf where every x is -inf, +inf where one is, NaN where one is."""
    largest = x.max(axis=-1, keepdims=True)
    shift = np.where(np.isinf(largest), 0.0, largest)
    with np.errstate(divide="ignore", over="ignore"):
        lse: Float64 = np.log(np.exp(x - shift).sum(axis=-1)) + shift[..., 0]
    return lse


def token_logps(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    dtype: str | None = None,
    ignore_index: int = -100,
    temperature: float = 1.0,
    stats: Sequence[str] = (),
) -> TokenLogps:
    """log softmax(x)[label] for each row of x = logits / temperature, and statistics of the row.

    logits [..., V] of any float type (uint16 with dtype="bfloat16"), labels [...] of any integer
    type. Rows whose label is `ignore_index` give 0 everywhere (False in `correct`).
    """
    x = logits_float64(logits, dtype) / temperature
    y = np.asarray(labels)
    kept = y != ignore_index
    target = np.take_along_axis(x, np.where(kept, y, 0)[..., None].astype(np.int64), -1)[..., 0]

    def result(name: str, values: npt.NDArray[Any]) -> Any:
        return np.where(kept, values, np.zeros_like(values)) if name in stats else None

    with np.errstate(invalid="ignore", over="ignore"):
        lse = logsumexp(x)
        logp = x - lse[..., None]
        p = np.exp(logp)
        # H = -sum p log p, and p log p = 0 at p = 0 (a logit of -inf)
        entropy = -np.where(x == -np.inf, 0.0, p * logp).sum(axis=-1)
        # An infinite lse leaves no distribution to speak of: logps and entropy are NaN.
        entropy = np.where(np.isinf(lse), np.nan, entropy)
        logps = np.where(np.isinf(lse), np.nan, target - lse)
        largest = x.max(axis=-1)
        # The first maximum wins; a row of -inf or with a NaN has no winner.
        correct = (x.argmax(axis=-1) == y) & (largest > -np.inf)
        return TokenLogps(
            logps=np.where(kept, logps, 0.0),
            lse=np.where(kept, lse, 0.0),
            entropy=result("entropy", entropy),
            correct=result("correct", correct),
            mean_logit=result("mean_logit", x.mean(axis=-1)),
            max_logit=result("max_logit", largest),
            lse2=result("lse2", logsumexp(2.0 * x)),
        )


def token_logps_grad(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    lse: npt.ArrayLike,
    *,
    grad_logps: npt.ArrayLike | None = None,
    grad_entropy: npt.ArrayLike | None = None,
    grad_lse: npt.ArrayLike | None = None,
    entropy: npt.ArrayLike | None = None,
    dtype: str | None = None,
    ignore_index: int = -100,
    temperature: float = 1.0,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """d(sum grad_logps*logps + grad_entropy*entropy + grad_lse*lse) / d logits, [..., V] float64.

    With p = exp(x - lse), x = logits / temperature, per row:
        d logp    / d x_v = [v == label] - p_v
        d lse     / d x_v = p_v
        d entropy / d x_v = -p_v (log p_v + entropy)
    and d x / d logits = 1 / temperature. Rows whose label is `ignore_index` become 0; where lse is
    infinite or NaN the row has no distribution and becomes NaN.
    """
    x = logits_float64(logits, dtype) / temperature
    y = np.asarray(labels)
    kept = y != ignore_index
    with np.errstate(invalid="ignore", over="ignore"):
        logp = x - np.asarray(lse, dtype=np.float64)[..., None]
        p = np.exp(logp)
        grad = np.zeros_like(x)
        if grad_logps is not None:
            onehot = np.arange(x.shape[-1]) == y[..., None]
            grad += np.asarray(grad_logps, dtype=np.float64)[..., None] * (onehot - p)
        if grad_lse is not None:
            grad += np.asarray(grad_lse, dtype=np.float64)[..., None] * p
        if grad_entropy is not None:
            p_logp = np.where(x == -np.inf, 0.0 * p, p * logp)
            h = -p_logp.sum(axis=-1) if entropy is None else np.asarray(entropy, dtype=np.float64)
            slope = p_logp + p * h[..., None]
            grad -= np.asarray(grad_entropy, dtype=np.float64)[..., None] * slope
    grad = np.where(np.isfinite(lse)[..., None], grad / temperature, np.nan)
    grad = np.where(kept[..., None], grad, 0.0)
    if out is None:
        return grad
    out[...] = grad
    return out
