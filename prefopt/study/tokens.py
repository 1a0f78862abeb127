"""Tokenised study data: encoded once, kept on disk, cut into windows on demand.

A dialogue is written ``<user> text <end> <assistant> text <end>``, the paper's chat template in
miniature. What is scored or learnt is a Sequences batch: for each sequence the `context` tokens
before it (padded at the left) and its target tokens, so that row r of a batch is (window [context],
label) and nothing is padded at the right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .atomic import replace_file
from .bpe import ASSISTANT, END, PAD, ROLE_ID, Bpe
from .data import StudyData
from .formats import Turn

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """A packed batch: windows [rows, context], labels [rows], cu_seqlens [sequences + 1]."""

    windows: Ints
    labels: Ints
    cu_seqlens: Longs

    @property
    def lengths(self) -> Longs:
        """Target tokens of each sequence."""
        return np.diff(self.cu_seqlens)


class Sequences:
    """Ragged (context tail, targets) sequences in one buffer."""

    def __init__(self, tails: Sequence[Ints], targets: Sequence[Ints], context: int) -> None:
        self.context = context
        pieces: list[Ints] = []
        for tail, target in zip(tails, targets, strict=True):
            padded = np.full(context, PAD, np.int32)
            kept = tail[-context:]
            padded[context - len(kept) :] = kept
            pieces += [padded, np.asarray(target, np.int32)]
        self._buffer = np.concatenate(pieces) if pieces else np.zeros(0, np.int32)
        self.lengths = np.array([len(target) for target in targets], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths + context)[:-1]]).astype(
            np.int64
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Number of target tokens."""
        return int(self.lengths.sum())

    def tail(self, index: int) -> Ints:
        """The context [context] before a sequence's first target."""
        start = self._starts[index]
        return self._buffer[start : start + self.context]

    def target(self, index: int) -> Ints:
        """The target tokens of a sequence."""
        start = self._starts[index] + self.context
        return self._buffer[start : start + self.lengths[index]]

    def rows(self, indices: NDArray[np.integer]) -> Rows:
        """The batch of the named sequences, in that order."""
        lengths = self.lengths[indices]
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        within = np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)
        first = np.repeat(self._starts[indices], lengths) + within
        windows = self._buffer[first[:, None] + np.arange(self.context)]
        return Rows(windows, self._buffer[first + self.context], cu_seqlens)

    def mismatched(self, indices: NDArray[np.integer], answers: NDArray[np.integer]) -> Sequences:
        """The prompts of `indices` with the targets of `answers`: KTO's mismatched pairs."""
        return Sequences(
            [self.tail(i) for i in indices], [self.target(i) for i in answers], self.context
        )


@dataclass(frozen=True)
class EncodedSide:
    """One split as token ids, ragged: prompts end with <assistant>, answers with <end>."""

    prompts: list[Ints]
    chosen: list[Ints]
    rejected: list[Ints]


@dataclass(frozen=True)
class Encoded:
    """All of the study's data as token ids. instruct.rejected is empty."""

    train: EncodedSide
    heldout: EncodedSide
    instruct: EncodedSide


def encode_turns(bpe: Bpe, turns: Iterable[Turn]) -> list[int]:
    """Turns with their markers, then the marker that opens the answer."""
    ids: list[int] = []
    for role, text in turns:
        ids += [ROLE_ID[role], *bpe.encode(text), END]
    return [*ids, ASSISTANT]


def encode(bpe: Bpe, data: StudyData) -> Encoded:
    """Tokenise everything."""

    def answers(texts: Iterable[str]) -> list[Ints]:
        return [np.array([*bpe.encode(text), END], np.int32) for text in texts]

    def prompts(rows: Iterable[tuple[Turn, ...]]) -> list[Ints]:
        return [np.array(encode_turns(bpe, turns), np.int32) for turns in rows]

    sides = [
        EncodedSide(
            prompts(pair.prompt for pair in pairs),
            answers(pair.chosen for pair in pairs),
            answers(pair.rejected for pair in pairs),
        )
        for pairs in (data.train, data.heldout)
    ]
    instruct = EncodedSide(
        prompts(d.prompt for d in data.instruct), answers(d.answer for d in data.instruct), []
    )
    return Encoded(sides[0], sides[1], instruct)


def encoded_digest(data: StudyData, merges: Path) -> str:
    """Names the token cache: the texts and the merges decide it."""
    return hashlib.sha256(data.digest().encode() + merges.read_bytes()).hexdigest()[:16]


def save_encoded(path: Path, encoded: Encoded) -> None:
    """Write the cache in one atomic step."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for side_name in ("train", "heldout", "instruct"):
        side = getattr(encoded, side_name)
        for part in ("prompts", "chosen", "rejected"):
            ragged: list[Ints] = getattr(side, part)
            arrays[f"{side_name}_{part}"] = np.concatenate([np.zeros(0, np.int32), *ragged])
            arrays[f"{side_name}_{part}_lengths"] = np.array(
                [len(piece) for piece in ragged], np.int64
            )
    replace_file(path, lambda stream: np.savez(stream, **arrays))  # type: ignore[arg-type]


def load_encoded(path: Path) -> Encoded:
    """Read what save_encoded wrote."""
    with np.load(path) as arrays:

        def ragged(name: str) -> list[Ints]:
            ends = np.cumsum(arrays[f"{name}_lengths"])
            return np.split(arrays[name], ends[:-1]) if len(ends) else []

        sides = [
            EncodedSide(*(ragged(f"{side}_{part}") for part in ("prompts", "chosen", "rejected")))
            for side in ("train", "heldout", "instruct")
        ]
    return Encoded(*sides)
