"""Learns the study's BPE merges from the train split and writes prefopt/data/study_bpe.txt.

Run once, its result is committed: ``python tools/learn_bpe.py`` (``--check`` compares instead of
writing, exit code 1 if they differ). Every prompt turn and both answers of every train pair are
counted; the held-out side and the instruction data are not read. At each step the most frequent
pair of neighbours inside words is merged; of equally frequent ones that with the smaller ids, so
the file depends on the text alone.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from prefopt.study.bpe import FIRST_BYTE, FIRST_MERGE, WORDS, merge_pair  # noqa: E402
from prefopt.study.data import MERGES_FILE, StudyData, load_shipped  # noqa: E402

DEFAULT_VOCAB = 4096
TokenPair = tuple[int, int]


def texts(data: StudyData) -> Iterator[str]:
    """All text of the train split."""
    for pair in data.train:
        for _, text in pair.prompt:
            yield text
        yield pair.chosen
        yield pair.rejected


def learn(corpus: Iterable[str], vocab: int) -> list[TokenPair]:
    """The merges that bring the vocabulary to `vocab` ids (fewer when no pair is left)."""
    counts = Counter(word for text in corpus for word in WORDS.findall(text))
    words = [[FIRST_BYTE + byte for byte in word.encode("utf-8")] for word in counts]
    frequency = list(counts.values())
    pair_count: Counter[TokenPair] = Counter()
    holders: dict[TokenPair, set[int]] = defaultdict(set)
    for number, ids in enumerate(words):
        _count_word(ids, frequency[number], number, pair_count, holders)
    merges: list[TokenPair] = []
    while FIRST_MERGE + len(merges) < vocab and pair_count:
        best = max(pair_count, key=lambda pair: (pair_count[pair], -pair[0], -pair[1]))
        if pair_count[best] < 2:
            break
        new_id = FIRST_MERGE + len(merges)
        merges.append(best)
        for number in holders.pop(best):
            _count_word(words[number], -frequency[number], number, pair_count, holders)
            words[number] = merge_pair(words[number], best, new_id)
            _count_word(words[number], frequency[number], number, pair_count, holders)
    return merges


def _count_word(
    ids: list[int],
    times: int,
    number: int,
    pair_count: Counter[TokenPair],
    holders: dict[TokenPair, set[int]],
) -> None:
    """Add (or with negative times take away) the pairs of one word."""
    for pair in pairwise(ids):
        pair_count[pair] += times
        if times > 0:
            holders[pair].add(number)
        elif pair_count[pair] <= 0:
            del pair_count[pair]


def render(merges: list[TokenPair]) -> str:
    """The file: ids to merge, and as a comment what they spell."""
    spelling = [b""] * FIRST_BYTE + [bytes([value]) for value in range(256)]
    lines = [
        "# BPE merges of the prefopt study, learnt by tools/learn_bpe.py from the train split of "
        "study_pairs.jsonl",
        f"# {len(merges)} merges over {FIRST_MERGE} ids (specials, bytes): a vocabulary of "
        f"{FIRST_MERGE + len(merges)}",
    ]
    for left, right in merges:
        spelling.append(spelling[left] + spelling[right])
        # '#' starts a comment, so what follows it may hold any sign but a line break
        lines.append(
            f"{left} {right}  # {spelling[-1].decode('utf-8', errors='backslashreplace')!a}"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write or check the merges file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=DEFAULT_VOCAB)
    parser.add_argument(
        "--check", action="store_true", help="compare with the committed file, write nothing"
    )
    options = parser.parse_args()
    content = render(learn(texts(load_shipped()), options.vocab))
    if options.check:
        same = MERGES_FILE.read_text(encoding="utf-8") == content
        print(
            "the merges file is what the train split gives" if same else "the merges file is stale"
        )
        return 0 if same else 1
    MERGES_FILE.write_text(content, encoding="utf-8", newline="\n")
    print(f"wrote {MERGES_FILE} ({content.count(chr(10)) - 2} merges)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
