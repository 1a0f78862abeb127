"""Statistics of two rows of logits over one vocabulary, straight from the definitions.

With x = policy / temperature, y = ref / temperature, p = softmax(x), r = softmax(y), per row:

    KL(r || p) = sum_{r > 0} r (log r - log p)           TDPO, arXiv 2404.11999, eq. 13
    plus, minus: log softmax(x +- eps (x - y))[label]     eps-DPO, arXiv 2502.13177, eq. 9
    d log p[label] / dx = onehot(label) - p
    d KL(r || p) / dx = p - r
    d KL(p || r) / dx = p (log p - log r - KL(p || r))

In NumPy long double, whole rows at once: no blocks, no running maximum, no float32. `exact` is one
row in mpmath with 50 digits. Neither imports prefopt.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NAMES = (
    "policy_logps",
    "ref_logps",
    "policy_lse",
    "ref_lse",
    "ref_policy_kl",
    "policy_ref_kl",
    "plus_logps",
    "minus_logps",
)


def _log_softmax(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    top = x.max(axis=-1, keepdims=True)
    lse = np.log(np.exp(x - top).sum(axis=-1, keepdims=True))
    return (x - top) - lse, (top + lse)[..., 0]


def _divergence(log_a: np.ndarray, log_b: np.ndarray) -> np.ndarray:
    a = np.exp(log_a)
    return np.where(a == 0, 0, a * (log_a - log_b)).sum(axis=-1)


def _at(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, labels[..., None], axis=-1)[..., 0]


def pair_stats(
    policy: np.ndarray, ref: np.ndarray, labels: np.ndarray, temperature: float, eps: float
) -> dict[str, np.ndarray]:
    """Every statistic [...] of exact values [..., V]."""
    x, y = (np.asarray(each, np.longdouble) / np.longdouble(temperature) for each in (policy, ref))
    with np.errstate(all="ignore"):
        (log_p, policy_lse), (log_r, ref_lse) = _log_softmax(x), _log_softmax(y)
        gap = np.where(x == -np.inf, 0, np.longdouble(eps) * (x - y))
        plus, minus = _log_softmax(x + gap)[0], _log_softmax(x - gap)[0]
        return dict(
            zip(
                NAMES,
                (
                    _at(log_p, labels),
                    _at(log_r, labels),
                    policy_lse,
                    ref_lse,
                    _divergence(log_r, log_p),
                    _divergence(log_p, log_r),
                    _at(plus, labels),
                    _at(minus, labels),
                ),
                strict=True,
            )
        )


def pair_grad(
    policy: np.ndarray,
    ref: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    by_logps: np.ndarray,
    by_ref_policy_kl: np.ndarray,
    by_policy_ref_kl: np.ndarray,
) -> np.ndarray:
    """d loss / d policy [..., V] from the three gradients [...]."""
    x, y = (np.asarray(each, np.longdouble) / np.longdouble(temperature) for each in (policy, ref))
    with np.errstate(all="ignore"):
        log_p, log_r = _log_softmax(x)[0], _log_softmax(y)[0]
        p, r = np.exp(log_p), np.exp(log_r)
        onehot = np.arange(x.shape[-1]) == labels[..., None]
        kl = _divergence(log_p, log_r)[..., None]
        slope = np.where(p == 0, 0, p * (log_p - log_r - kl))
        grad = by_logps[..., None] * (onehot - p) + by_ref_policy_kl[..., None] * (p - r)
        return (grad + by_policy_ref_kl[..., None] * slope) / np.longdouble(temperature)


def exact(policy: Any, ref: Any, label: int, temperature: float, eps: float) -> dict[str, float]:
    """One row in mpmath with 50 digits, of finite values; rounded to double at the end."""
    import mpmath as mp

    with mp.workdps(50):
        t, e = mp.mpf(temperature), mp.mpf(eps)
        x = [mp.mpf(float(v)) / t for v in policy]
        y = [mp.mpf(float(v)) / t for v in ref]

        def lse(z: list[Any]) -> Any:
            top = max(z)
            return top + mp.log(mp.fsum(mp.exp(v - top) for v in z))

        lx, ly = lse(x), lse(y)
        plus = [a + e * (a - b) for a, b in zip(x, y, strict=True)]
        minus = [a - e * (a - b) for a, b in zip(x, y, strict=True)]
        terms = list(zip(x, y, strict=True))
        values = (
            x[label] - lx,
            y[label] - ly,
            lx,
            ly,
            mp.fsum(mp.exp(b - ly) * ((b - ly) - (a - lx)) for a, b in terms),
            mp.fsum(mp.exp(a - lx) * ((a - lx) - (b - ly)) for a, b in terms),
            plus[label] - lse(plus),
            minus[label] - lse(minus),
        )
        return {name: float(value) for name, value in zip(NAMES, values, strict=True)}
