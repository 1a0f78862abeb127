"""Functions of one number that the formulas share, each in the form that cannot overflow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Number = Float64 | float


def sigmoid(x: Number) -> Float64:
    """sigma(x) = 1 / (1 + exp(-x)), in the form whose exp never overflows."""
    t = np.exp(-np.abs(x))
    return np.where(np.asarray(x) >= 0, 1.0, t) / (1.0 + t)


def minus_log_sigmoid(x: Number) -> Float64:
    """-log sigma(x) = log(1 + exp(-x)) = max(-x, 0) + log1p(exp(-|x|))."""
    return np.asarray(np.maximum(-np.asarray(x), 0.0) + np.log1p(np.exp(-np.abs(x))))


def sigmoid_slope(x: Number) -> Float64:
    """d sigma / dx = sigma(x) sigma(-x)."""
    return sigmoid(x) * sigmoid(-np.asarray(x))


def logistic_loss(x: Number, e: float = 0.0) -> Float64:
    """-(1 - e) log sigma(x) - e log sigma(-x): the cross-entropy with a share e of flipped labels."""
    return times(1 - e, minus_log_sigmoid(x)) + times(e, minus_log_sigmoid(-np.asarray(x)))


def logistic_slope(x: Number, e: float = 0.0) -> Float64:
    """d logistic_loss / dx = e sigma(x) - (1 - e) sigma(-x)."""
    return e * sigmoid(x) - (1 - e) * sigmoid(-np.asarray(x))


def hinge_loss(x: Number) -> Float64:
    """max(0, 1 - x)."""
    return np.asarray(np.maximum(0.0, 1 - np.asarray(x)))


def hinge_slope(x: Number) -> Float64:
    """d hinge_loss / dx: -1 where 1 - x > 0, and 0 at the kink."""
    return np.where(1 - np.asarray(x) <= 0, 0.0, -1.0)


def times(a: Any, b: Any) -> Float64:
    """a b, but 0 where a factor is 0: the other is then an overflow that the 0 outruns, or unused."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def exp_difference(a: Number, b: Number) -> Float64:
    """exp(a) - exp(b); where both overflow, inf with the sign of a - b, and 0 at a = b."""
    a, b = np.asarray(a), np.asarray(b)
    difference = np.expm1(a) - np.expm1(b)
    is_overflow = np.isnan(difference) & np.isfinite(a) & np.isfinite(b)
    return np.where(is_overflow, times(np.sign(a - b), np.inf), difference)


def per_token(sums: Number, lengths: Number | None) -> Float64:
    """The average over `lengths` tokens, 0 for no tokens; None: `sums` is returned."""
    if lengths is None:
        return np.asarray(sums, dtype=np.float64)
    n = np.asarray(lengths, dtype=np.float64)
    return np.where(n > 0, sums, 0.0) / np.where(n > 0, n, 1.0)
