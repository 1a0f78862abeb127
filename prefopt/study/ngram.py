"""Baselines for the language model: unigram and interpolated trigram, in NumPy.

Witten-Bell interpolation (Bell, Cleary and Witten 1990; Chen and Goodman 1998, section 2.4): with
c(h, w) the count of w after h, c(h) its sum over w and t(h) the number of different w,

    p(w | h) = (c(h, w) + t(h) * p(w | h')) / (c(h) + t(h)),      h' = h without its oldest token,

down to the uniform distribution. No parameter to tune, and every token has a probability.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .tokens import Sequences

Longs = NDArray[np.int64]
Doubles = NDArray[np.float64]


class NgramModel:
    """Counts of 1-, 2- and 3-grams over (two tokens before, token) triples."""

    def __init__(self, triples: Longs, vocab: int) -> None:
        self._vocab = vocab
        self._orders = [_Counts(_keys(triples, order, vocab), vocab) for order in (1, 2, 3)]

    def log_probs(self, triples: Longs, order: int) -> Doubles:
        """ln p of the last token of each triple [rows, 3], with order - 1 tokens of context."""
        probability = np.full(len(triples), 1.0 / self._vocab)
        for counts, level in zip(self._orders[:order], (1, 2, 3), strict=False):
            probability = counts.interpolate(_keys(triples, level, self._vocab), probability)
        logs: Doubles = np.log(probability)
        return logs

    def unigram(self) -> Doubles:
        """ln p of every token [V], the start of the neural model's output bias."""
        every = np.zeros((self._vocab, 3), np.int64)
        every[:, 2] = np.arange(self._vocab)
        return self.log_probs(every, 1)


class _Counts:
    """Sorted n-gram keys with counts; per context its count and its number of successors."""

    def __init__(self, keys: Longs, vocab: int) -> None:
        self._vocab = vocab
        self._keys, self._count = np.unique(keys, return_counts=True)
        contexts = self._keys // vocab
        self._contexts, first, self._kinds = np.unique(
            contexts, return_index=True, return_counts=True
        )
        self._total = np.add.reduceat(self._count, first)

    def interpolate(self, keys: Longs, shorter: Doubles) -> Doubles:
        count = _look_up(self._keys, self._count, keys)
        total = _look_up(self._contexts, self._total, keys // self._vocab)
        kinds = _look_up(self._contexts, self._kinds, keys // self._vocab)
        seen = total > 0
        return np.where(seen, (count + kinds * shorter) / np.where(seen, total + kinds, 1), shorter)


def _look_up(keys: Longs, values: Longs, wanted: Longs) -> Longs:
    position = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[position] == wanted, values[position], 0)


def _keys(triples: Longs, order: int, vocab: int) -> Longs:
    key = np.zeros(len(triples), np.int64)
    for column in range(3 - order, 3):
        key = key * vocab + triples[:, column]
    return key


def triples_of(sequences: Sequences) -> Longs:
    """(two tokens before, target) of every target token [rows, 3]; the same rows the neural model
    is scored on.
    """
    rows = sequences.rows(np.arange(len(sequences)))
    return np.column_stack([rows.windows[:, -2:], rows.labels]).astype(np.int64)
