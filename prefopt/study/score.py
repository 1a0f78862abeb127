"""Scores of an aligned model on pairs, against the model it started from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import prefopt

from .bpe import END, FIRST_BYTE, Bpe
from .corpus import PairTokens
from .model import WindowModel
from .stats import hits
from .tokens import Ints, Sequences
from .train import SCORE_ROWS, Floats, sequence_sums

KL_ROWS = 1024  # positions at which the KL is taken: evenly spread over the held-out chosen answers
SAMPLE_TOKENS = 40
SAMPLE_TEMPERATURE = 0.7


@dataclass(frozen=True)
class PairSums:
    """Log-prob sums [pairs] of the two answers under one model."""

    chosen: Floats
    rejected: Floats


@dataclass(frozen=True)
class PairScores:
    """What a set of pairs says about a model and its start. All log-probs are sums over the answer,
    in nats.
    """

    reward_hits: NDArray[
        np.float64
    ]  # [pairs] 1 where beta * (log p - start log p) is higher for the chosen answer
    logp_hits: NDArray[np.float64]  # [pairs] 1 where log p itself is higher for the chosen answer
    margin: float  # mean of the chosen minus the rejected log-ratio
    chosen_drift: float  # mean log-ratio of the chosen answers to the start
    rejected_drift: float
    chosen_nll: float  # nats a token


def pair_sums(model: WindowModel, pairs: PairTokens) -> PairSums:
    """Log-prob sums of both answers."""
    return PairSums(sequence_sums(model, pairs.chosen), sequence_sums(model, pairs.rejected))


def score_pairs(now: PairSums, start: PairSums, chosen_tokens: int) -> PairScores:
    """All scores that follow from the sums."""
    chosen = now.chosen.astype(np.float64) - start.chosen
    rejected = now.rejected.astype(np.float64) - start.rejected
    return PairScores(
        reward_hits=hits(chosen, rejected),
        logp_hits=hits(now.chosen, now.rejected),
        margin=float((chosen - rejected).mean()),
        chosen_drift=float(chosen.mean()),
        rejected_drift=float(rejected.mean()),
        chosen_nll=float(-now.chosen.sum(dtype=np.float64) / chosen_tokens),
    )


def longer_wins(lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Hits [pairs] of the rule that the longer answer is the preferred one; lengths [pairs, 2] of
    the whole answers.
    """
    return hits(lengths[:, 0], lengths[:, 1])


def kl_from_start(model: WindowModel, start: WindowModel, chosen: Sequences) -> float:
    """Mean over positions of KL(model || start), over the whole vocabulary, in nats a token."""
    rows = chosen.rows(np.arange(len(chosen)))
    step = max(1, len(rows.labels) // KL_ROWS)
    windows, labels = rows.windows[::step], rows.labels[::step]
    total = 0.0
    for first in range(0, len(windows), SCORE_ROWS):
        part = slice(first, first + SCORE_ROWS)
        log_p = _log_softmax(model, windows[part], labels[part])
        log_q = _log_softmax(start, windows[part], labels[part])
        log_q -= log_p
        total -= float(np.einsum("rv,rv->", np.exp(log_p), log_q, dtype=np.float64))
    return max(0.0, total / len(windows))


def _log_softmax(model: WindowModel, windows: Ints, labels: Ints) -> Floats:
    logits, _ = model.forward(windows)
    logits -= prefopt.token_logps(logits, labels).lse[:, None]
    return logits


def sample(model: WindowModel, bpe: Bpe, tail: Ints, seed: int) -> str:
    """An answer drawn token by token at SAMPLE_TEMPERATURE after the window `tail` [C], up to
    SAMPLE_TOKENS tokens.
    """
    generator = np.random.default_rng([seed, 4])
    window = tail.copy()
    ids: list[int] = []
    for _ in range(SAMPLE_TOKENS):
        logits, _ = model.forward(window[None, :])
        scaled = logits[0].astype(np.float64) / SAMPLE_TEMPERATURE
        scaled[np.arange(len(scaled)) < FIRST_BYTE] = np.where(
            np.arange(FIRST_BYTE) == END, scaled[END], -np.inf
        )
        weights = np.cumsum(np.exp(scaled - scaled.max()))
        token = int(np.searchsorted(weights, generator.random() * weights[-1], side="right"))
        if token == END:
            break
        ids.append(token)
        window = np.append(window[1:], np.int32(token))
    return bpe.decode(ids)
