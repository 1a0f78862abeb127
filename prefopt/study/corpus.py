"""What each phase learns from and is scored on, cut out of the encoded data.

- base: every train prompt with its chosen answer as running text, and the rejected answers: the
  text of the train split with no word about which answer was preferred.
- SFT: the chosen answers of the train split; instruction tuning: the desirable answers of the KTO
  data; both cut.
- pairs: both answers, cut to `answer_tokens` tokens; a pair whose answers are equal after the cut
  is left out.
- held-out text: the held-out prompts with their chosen answers, each cut to `text_tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .tokens import Encoded, EncodedSide, Ints, Sequences

PIECE = 128  # long texts are learnt in pieces of so many tokens, each after the tokens before it
SAMPLE_PROMPT = 16


@dataclass(frozen=True)
class PairTokens:
    """The pairs of a side that stay different after the cut, in the side's order."""

    chosen: Sequences
    rejected: Sequences
    rows: NDArray[np.int64]  # [pairs], positions in the side
    whole_lengths: NDArray[np.int64]  # [pairs, 2], tokens of the uncut chosen and rejected answers

    def __len__(self) -> int:
        return len(self.rows)

    def first(self, count: int) -> PairTokens:
        """The first `count` pairs: training sets of growing size contain each other."""
        indices = np.arange(min(count, len(self)))
        return self.select(indices)

    def select(self, indices: NDArray[np.int64]) -> PairTokens:
        """The named pairs in that order."""
        return PairTokens(
            self.chosen.mismatched(indices, indices),
            self.rejected.mismatched(indices, indices),
            self.rows[indices],
            self.whole_lengths[indices],
        )


def pair_tokens(side: EncodedSide, context: int, answer_tokens: int) -> PairTokens:
    """Both answers of every pair, cut."""
    kept = [
        i
        for i, (chosen, rejected) in enumerate(zip(side.chosen, side.rejected, strict=True))
        if not np.array_equal(chosen[:answer_tokens], rejected[:answer_tokens])
    ]
    tails = [side.prompts[i] for i in kept]
    return PairTokens(
        Sequences(tails, [side.chosen[i][:answer_tokens] for i in kept], context),
        Sequences(tails, [side.rejected[i][:answer_tokens] for i in kept], context),
        np.array(kept, np.int64),
        np.array([[len(side.chosen[i]), len(side.rejected[i])] for i in kept], np.int64).reshape(
            -1, 2
        ),
    )


def sample_pair(side: EncodedSide, pairs: PairTokens) -> int:
    """The pair whose prompt the generation samples answer: the first with a prompt of at most
    SAMPLE_PROMPT tokens.
    """
    lengths = np.array([len(side.prompts[row]) for row in pairs.rows])
    short = np.flatnonzero(lengths <= SAMPLE_PROMPT)
    return int(short[0]) if len(short) else int(lengths.argmin())


def base_text(encoded: Encoded, context: int, text_tokens: int | None) -> Sequences:
    """The text of the train split, unlabelled; each text cut to `text_tokens` (None: whole)."""
    side = encoded.train
    nothing = np.zeros(0, np.int32)
    texts = [
        (nothing, np.concatenate([p, c])[:text_tokens])
        for p, c in zip(side.prompts, side.chosen, strict=True)
    ]
    texts += [(p, r[:text_tokens]) for p, r in zip(side.prompts, side.rejected, strict=True)]
    return _pieces(texts, context)


def answers(side: EncodedSide, context: int, answer_tokens: int) -> Sequences:
    """The chosen answers after their prompts, cut as those of the pairs are: SFT's data."""
    return Sequences(side.prompts, [answer[:answer_tokens] for answer in side.chosen], context)


def heldout_text(encoded: Encoded, context: int, text_tokens: int) -> Sequences:
    """The running text on which the language model is compared with the n-gram baselines."""
    side, nothing = encoded.heldout, np.zeros(0, np.int32)
    whole = (np.concatenate([p, c]) for p, c in zip(side.prompts, side.chosen, strict=True))
    return _pieces([(nothing, text[:text_tokens]) for text in whole], context)


def _pieces(texts: list[tuple[Ints, Ints]], context: int) -> Sequences:
    """(before, text) in pieces of PIECE tokens, each with the tokens before it as context."""
    tails, targets = [], []
    for before, text in texts:
        whole = np.concatenate([before[-context:], text])
        offset = len(whole) - len(text)
        for start in range(0, len(text), PIECE):
            tails.append(whole[max(0, offset + start - context) : offset + start])
            targets.append(text[start : start + PIECE])
    return Sequences(tails, targets, context)
