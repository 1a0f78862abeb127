"""Byte-level BPE: text to token ids and back, from a file of merges.

Ids: the specials first, then the 256 bytes, then one id per merge in the order learnt. Any UTF-8
text encodes (bytes are tokens), and decode(encode(text)) == text. A word (a run of letters, of
digits, of signs, of white space, with one leading blank, as in GPT-2) is merged on its own, lowest
merge first (Sennrich et al., arXiv 1508.07909).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from .errors import StudyError

SPECIALS = ("<pad>", "<system>", "<user>", "<assistant>", "<end>")
PAD, SYSTEM, USER, ASSISTANT, END = range(len(SPECIALS))
ROLE_ID = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
FIRST_BYTE = len(SPECIALS)
FIRST_MERGE = FIRST_BYTE + 256
WORDS = re.compile(r"'(?:s|t|re|ve|m|ll|d)\b| ?[^\W\d_]+| ?\d{1,3}| ?(?:[^\w\s]|_)+|\s+(?!\S)|\s+")


class Bpe:
    """A vocabulary of merges. Encoded words are cached, so a text costs little more than its split
    into words.
    """

    def __init__(self, merges: Sequence[tuple[int, int]]) -> None:
        self._rank = {pair: FIRST_MERGE + order for order, pair in enumerate(merges)}
        self._bytes = [b""] * FIRST_BYTE + [bytes([value]) for value in range(256)]
        for left, right in merges:
            self._bytes.append(self._bytes[left] + self._bytes[right])
        self._cache: dict[str, list[int]] = {}

    @property
    def vocab(self) -> int:
        """Number of token ids."""
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; no specials are added and none can arise."""
        ids: list[int] = []
        for word in WORDS.findall(text):
            known = self._cache.get(word)
            if known is None:
                known = self._cache[word] = self._merge(
                    [FIRST_BYTE + byte for byte in word.encode("utf-8")]
                )
            ids += known
        return ids

    def _merge(self, ids: list[int]) -> list[int]:
        while len(ids) > 1:
            known = [pair for pair in pairwise(ids) if pair in self._rank]
            if not known:
                break
            best = min(known, key=self._rank.__getitem__)  # the merge learnt first
            ids = merge_pair(ids, best, self._rank[best])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; specials give nothing, broken UTF-8 (a cut character) the replacement
        sign.
        """
        return b"".join(self._bytes[i] for i in ids).decode("utf-8", errors="replace")


def merge_pair(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """Replace every occurrence of the pair, from the left."""
    merged, position = [], 0
    while position < len(ids):
        if position + 1 < len(ids) and (ids[position], ids[position + 1]) == pair:
            merged.append(new_id)
            position += 2
        else:
            merged.append(ids[position])
            position += 1
    return merged


def load_merges(path: Path) -> list[tuple[int, int]]:
    """Read what tools/learn_bpe.py wrote: one merge a line, ``left right`` as ids; ``#`` starts a
    comment.
    """
    merges: list[tuple[int, int]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror or error})") from None
    for number, line in enumerate(lines, start=1):
        fields = line.split("#")[0].split()
        if not fields:
            continue
        try:
            left, right = map(int, fields)
        except ValueError:
            raise StudyError(f"{path}, row {number}: expected two token ids") from None
        if not 0 <= min(left, right) <= max(left, right) < FIRST_MERGE + len(merges):
            raise StudyError(f"{path}, row {number}: a merge of ids that are not known yet")
        merges.append((left, right))
    return merges
