"""Token log-probabilities, their statistics and gradients, straight from the definitions.

With x = logits / temperature, y = label and p = softmax(x), per row:

    lse = log sum exp(x)         logps = x[y] - lse         entropy = -sum p log p
    lse2 = log sum exp(2 x)      max_logit = max(x)         mean_logit = mean(x)
    correct = (first index of max(x)) == y

    d logps / d logits = (onehot(y) - p) / temperature
    d lse / d logits = p / temperature
    d entropy / d logits = -p (log p + entropy) / temperature

Two forms that check each other: vectorised NumPy in float64 or long double, and one row at a time
in mpmath with 50 digits. Neither imports prefopt, and neither shares its algorithm (no blocks, no
running maximum, no float32).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

STATS = ("logps", "lse", "entropy", "correct", "mean_logit", "max_logit", "lse2")
OPTIONAL_STATS = STATS[2:]
FLOAT_STATS = tuple(name for name in STATS if name != "correct")


@dataclass(frozen=True)
class TokenStats:
    """Every statistic of every row, shape [...] each, in the precision asked for."""

    logps: np.ndarray
    lse: np.ndarray
    entropy: np.ndarray
    correct: np.ndarray
    mean_logit: np.ndarray
    max_logit: np.ndarray
    lse2: np.ndarray
    mean_abs_logit: np.ndarray  # not a result of prefopt: the condition of mean_logit


def _log_sum_exp(x: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """log sum exp(x - shift) over the last axis; shift is finite."""
    result: np.ndarray = np.log(np.exp(x - shift[:, None]).sum(axis=-1))
    return result


def token_stats(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    temperature: float = 1.0,
    ignore_index: int = -100,
    precision: Any = np.float64,
) -> TokenStats:
    """Statistics of `logits` [..., V] (exact values in any float type) at `labels` [...]."""
    lead = logits.shape[:-1]
    vocab = logits.shape[-1]
    flat_labels = np.asarray(labels).astype(np.int64).reshape(-1)
    x = np.asarray(logits, dtype=precision).reshape(len(flat_labels), vocab) / precision(
        temperature
    )
    ignored = flat_labels == ignore_index
    index = np.where(ignored, 0, flat_labels)
    with np.errstate(all="ignore"):
        maximum = x.max(axis=-1)
        # Relative to the maximum, so that log p of two values near 1e36 does not cancel.
        shift = np.where(np.isfinite(maximum), maximum, 0)
        log_sum = _log_sum_exp(x, shift)
        lse, lse2 = log_sum + shift, _log_sum_exp(2 * x, 2 * shift) + 2 * shift
        target = np.take_along_axis(x, index[:, None], axis=-1)[:, 0]
        log_p = (x - shift[:, None]) - log_sum[:, None]
        p = np.exp(log_p)
        # The definition 0 log 0 = 0, for masked logits only: an all -inf row is NaN throughout.
        terms = np.where((p == 0) & (x == -np.inf), 0, -p * log_p)
        terms = np.where((maximum == -np.inf)[:, None], np.nan, terms)
        entropy = terms.sum(axis=-1)
        # A row that holds +inf has no distribution; an all -inf row gives -inf - -inf = NaN here.
        logps = np.where(maximum == np.inf, np.nan, (target - shift) - log_sum)
        first = (x == maximum[:, None]).argmax(axis=-1)
        correct = (first == index) & (maximum > -np.inf)
        mean = x.sum(axis=-1) / precision(vocab)
        mean_abs = np.abs(x).sum(axis=-1) / precision(vocab)
    values = {
        "logps": logps,
        "lse": lse,
        "entropy": entropy,
        "correct": correct,
        "mean_logit": mean,
        "max_logit": maximum,
        "lse2": lse2,
        "mean_abs_logit": mean_abs,
    }
    zeroed = {
        name: np.where(ignored, np.zeros((), dtype=value.dtype), value).reshape(lead)
        for name, value in values.items()
    }
    return TokenStats(**zeroed)


def token_grad(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    grad_logps: np.ndarray | None = None,
    grad_entropy: np.ndarray | None = None,
    grad_lse: np.ndarray | None = None,
    lse: np.ndarray | None = None,
    entropy: np.ndarray | None = None,
    temperature: float = 1.0,
    ignore_index: int = -100,
    precision: Any = np.float64,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient with respect to logits [..., V], and its condition: the scale that a relative
    rounding error acts on.

    `lse` and `entropy` are computed here unless given; given ones (rounded to float32, say) are
    taken as exact, so that the error of the backward pass is told apart from the error that its
    inputs brought along. The scale of an element is sum of |term| (1 + |log p|): the rounding of x
    - lse alone costs |log p| half-units of p.
    """
    vocab = logits.shape[-1]
    flat_labels = np.asarray(labels).astype(np.int64).reshape(-1)
    rows = len(flat_labels)
    stats = token_stats(
        logits, labels, temperature=temperature, ignore_index=ignore_index, precision=precision
    )
    x = np.asarray(logits, dtype=precision).reshape(rows, vocab) / precision(temperature)

    def column(value: np.ndarray | None, default: np.ndarray | float) -> np.ndarray:
        chosen = default if value is None else value
        return np.broadcast_to(np.asarray(chosen, dtype=precision).reshape(-1, 1), (rows, 1))

    ignored = (flat_labels == ignore_index)[:, None]
    onehot = np.arange(vocab)[None, :] == flat_labels[:, None]
    with np.errstate(all="ignore"):
        log_p = x - column(lse, stats.lse)
        p = np.exp(log_p)
        g_logps, g_lse = column(grad_logps, 0.0), column(grad_lse, 0.0)
        grad = g_logps * (onehot - p) + g_lse * p
        magnitude = np.abs(g_logps) * onehot + (np.abs(g_logps) + np.abs(g_lse)) * p * (
            1 + np.where(p > 0, np.abs(log_p), 0)
        )
        if grad_entropy is not None:
            h = column(entropy, stats.entropy)
            g_entropy = column(grad_entropy, 0.0)
            masked = (p == 0) & (x == -np.inf)
            grad = grad - g_entropy * np.where(masked, 0, p * (log_p + h))
            size = (1 + np.abs(log_p) + np.abs(h)) * (1 + np.abs(log_p))
            magnitude = magnitude + np.abs(g_entropy) * np.where(masked, 0, p * size)
        grad = np.where(np.isfinite(column(lse, stats.lse)), grad, np.nan)
        grad = np.where(ignored, 0, grad / precision(temperature))
        magnitude = np.where(ignored, 0, magnitude / precision(temperature))
    return grad.reshape(logits.shape), magnitude.reshape(logits.shape)


def mp_row(
    logits: np.ndarray, label: int, temperature: float = 1.0, digits: int = 50
) -> dict[str, Any]:
    """All statistics and the three gradients of one row of finite or -inf logits, in mpmath
    numbers.

    Returns the STATS by name and "d_logps", "d_entropy", "d_lse": lists of V derivatives each.
    """
    import mpmath

    with mpmath.workdps(digits):
        t = mpmath.mpf(float(temperature))
        x = [mpmath.mpf(float(value)) / t for value in logits]
        weights = [mpmath.exp(value) if value != -mpmath.inf else mpmath.mpf(0) for value in x]
        total = mpmath.fsum(weights)
        lse = mpmath.log(total)
        lse2 = mpmath.log(mpmath.fsum(w * w for w in weights))
        p = [w / total for w in weights]
        entropy = -mpmath.fsum(q * mpmath.log(q) for q in p if q > 0)
        first = max(range(len(x)), key=lambda i: (x[i], -i))
        return {
            "logps": x[label] - lse,
            "lse": lse,
            "entropy": entropy,
            "correct": first == label,
            "mean_logit": mpmath.fsum(x) / len(x),
            "max_logit": x[first],
            "lse2": lse2,
            "d_logps": [((i == label) - q) / t for i, q in enumerate(p)],
            "d_lse": [q / t for q in p],
            "d_entropy": [-q * (mpmath.log(q) + entropy) / t if q > 0 else q for q in p],
        }


def sequence_sums(
    logps: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    cu_seqlens: np.ndarray | None = None,
    average: bool = False,
    normalizer: np.ndarray | None = None,
) -> np.ndarray:
    """Masked sum (or average) per sequence, exact to one rounding of float64: math.fsum over exact
    products.
    """
    return np.array(
        [
            _one_sequence(
                values, weights, average, None if normalizer is None else float(normalizer[b])
            )
            for b, (values, weights) in enumerate(_split(logps, mask, cu_seqlens))
        ],
        dtype=np.float64,
    )


def sequence_grad(
    grad: np.ndarray,
    logps: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    cu_seqlens: np.ndarray | None = None,
    average: bool = False,
    normalizer: np.ndarray | None = None,
) -> np.ndarray:
    """d (grad . sequence_sums) / d logps, in the shape of logps."""
    pieces = []
    for b, (values, weights) in enumerate(_split(logps, mask, cu_seqlens)):
        divisor = 1.0
        if average:
            divisor = float(weights.sum()) if normalizer is None else float(normalizer[b])
        scale = float(grad[b]) / divisor if divisor != 0 else 0.0
        pieces.append(weights * scale + np.zeros(len(values)))
    return np.concatenate(pieces or [np.zeros(0)]).reshape(np.shape(logps))


def _split(
    logps: np.ndarray, mask: np.ndarray | None, cu_seqlens: np.ndarray | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    values = np.asarray(logps, dtype=np.float64)
    weights = np.ones(values.shape) if mask is None else np.asarray(mask, dtype=np.float64)
    if cu_seqlens is None:
        return [(values[b], weights[b]) for b in range(values.shape[0])]
    return [
        (values[start:stop], weights[start:stop]) for start, stop in itertools.pairwise(cu_seqlens)
    ]


def _one_sequence(
    values: np.ndarray, weights: np.ndarray, average: bool, normalizer: float | None
) -> float:
    import math

    counted = weights != 0  # a masked position is not read: 0 * inf must not become NaN
    products = (values * weights)[counted]
    total = math.fsum(products) if np.isfinite(products).all() else float(products.sum())
    if not average:
        return total
    divisor = float(weights.sum()) if normalizer is None else normalizer
    return total / divisor if divisor != 0 else 0.0


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """float32 values rounded to the nearest bfloat16 (ties to even), as raw uint16."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    nan = np.isnan(np.asarray(values, dtype=np.float32))
    return np.where(nan, 0x7FC0, rounded).astype(np.uint16)


def bfloat16_values(bits: np.ndarray) -> np.ndarray:
    """The exact values of raw bfloat16 bits, as float64."""
    wide: np.ndarray = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return wide


def spacing(values: np.ndarray, kind: str) -> np.ndarray:
    """Distance between neighbouring numbers of `kind` at |values|, down to its smallest denormal;
    float64.
    """
    digits, minimum = {
        "float16": (10, -24),
        "bfloat16": (7, -133),
        "float32": (23, -149),
        "float64": (52, -1074),
    }[kind]
    with np.errstate(all="ignore"):
        exponent = np.frexp(np.abs(np.asarray(values, dtype=np.float64)))[1] - 1
    result: np.ndarray = np.ldexp(1.0, np.maximum(exponent - digits, minimum))
    return result
