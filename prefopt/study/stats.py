"""Intervals for shares, and the verdict that is read off them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution
CHANCE = 0.5
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """'no signal' when the interval holds chance, else the side of chance it lies on."""
        if self.low <= CHANCE <= self.high:
            return "no signal"
        return "above chance" if self.low > CHANCE else "below chance"


def wilson(hits: float, count: int) -> Interval:
    """Wilson's score interval (1927) of a share; ties counted as half a hit are allowed."""
    if count == 0:
        return Interval(float("nan"), 0.0, 1.0)
    share = hits / count
    scale = 1.0 + Z95**2 / count
    middle = (share + Z95**2 / (2 * count)) / scale
    half = Z95 / scale * np.sqrt(share * (1.0 - share) / count + Z95**2 / (4.0 * count**2))
    return Interval(share, float(max(0.0, middle - half)), float(min(1.0, middle + half)))


def bootstrap(per_pair: NDArray[np.float64], seed: int = 0) -> Interval:
    """Percentile interval of the mean of per_pair [pairs], pairs drawn with replacement.

    Several seeds are scored on the same held-out pairs, so their hits are averaged per pair first
    and the pairs are what is drawn: more seeds steady the estimate, they do not add pairs.
    """
    count = len(per_pair)
    if count == 0:
        return Interval(float("nan"), 0.0, 1.0)
    generator = np.random.default_rng(seed)
    means = per_pair[generator.integers(0, count, (RESAMPLES, count))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(per_pair.mean()), float(low), float(high))


def hits(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """1 where first > second, 0.5 at ties, else 0."""
    return np.where(first == second, 0.5, np.where(first > second, 1.0, 0.0))
