"""The study's preference pairs: the shipped file or the user's, deduplicated by prompt, split by
name.

Shipped (written by cut.py, read here): ``prefopt/data/study_pairs.jsonl`` with the split of every
row in it, and ``prefopt/data/study_instruct.jsonl``, the desirable answers that make scenario 3's
instruction-tuned model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import StudyError
from .formats import Pair, RowError, Turn, pair_from_row

# a prompt's side is decided by a hash of this name and the prompt: adding rows moves none
SPLIT_NAME = "prefopt-study-v1"
HELDOUT_PERCENT = 30
DATA_FOLDER = Path(__file__).resolve().parent.parent / "data"
PAIRS_FILE = DATA_FOLDER / "study_pairs.jsonl"
INSTRUCT_FILE = DATA_FOLDER / "study_instruct.jsonl"
MERGES_FILE = DATA_FOLDER / "study_bpe.txt"
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Dialogue:
    """A prompt and one good answer: what scenario 3's instruction tuning learns from."""

    prompt: tuple[Turn, ...]
    answer: str


@dataclass(frozen=True)
class StudyData:
    """Everything the study learns from or is scored on; the three prompt sets are disjoint."""

    name: str
    train: tuple[Pair, ...]
    heldout: tuple[Pair, ...]
    instruct: tuple[Dialogue, ...]
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        """A hash of all texts in order, for the guard against mixing runs."""
        whole = hashlib.sha256()
        for pair in (*self.train, *self.heldout):
            whole.update(json.dumps([pair.prompt, pair.chosen, pair.rejected]).encode())
        whole.update(str(len(self.train)).encode())
        for dialogue in self.instruct:
            whole.update(json.dumps([dialogue.prompt, dialogue.answer]).encode())
        return whole.hexdigest()


def prompt_key(text: str) -> str:
    """A prompt without case, punctuation and spacing."""
    return " ".join(_WORD.findall(text.lower()))


def split_of(key: str) -> str:
    """'train' or 'heldout' for a prompt key, by hash."""
    digest = hashlib.sha256(f"{SPLIT_NAME}:{key}".encode()).digest()
    return "heldout" if int.from_bytes(digest[:4], "big") % 100 < HELDOUT_PERCENT else "train"


class PromptIndex:
    """Prompts seen so far, to find the same or nearly the same prompt again.

    Two prompts are duplicates when their keys are equal or their sets of five-word shingles overlap
    with a Jaccard index of 0.5 or more (prompts of under five words: equality only).
    """

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._shingles: list[frozenset[str]] = []
        self._holders: dict[str, list[int]] = {}

    def add(self, text: str) -> bool:
        """Take the prompt in; False when it duplicates an earlier one (it is then not added)."""
        key = prompt_key(text)
        shingles = _shingles_of(key)
        if key in self._keys or self._near(shingles):
            return False
        self._keys.add(key)
        for shingle in shingles:
            self._holders.setdefault(shingle, []).append(len(self._shingles))
        self._shingles.append(shingles)
        return True

    def _near(self, shingles: frozenset[str]) -> bool:
        shared: dict[int, int] = {}
        for shingle in shingles:
            for holder in self._holders.get(shingle, ()):
                shared[holder] = shared.get(holder, 0) + 1
        return any(
            2 * count >= len(shingles) + len(self._shingles[holder]) - count
            for holder, count in shared.items()
        )


def _shingles_of(key: str) -> frozenset[str]:
    words = key.split()
    return frozenset(" ".join(words[i : i + 5]) for i in range(len(words) - 4))


def load_shipped() -> StudyData:
    """The pairs that come with the package."""
    sides: dict[str, list[Pair]] = {"train": [], "heldout": []}
    for number, row in read_rows(PAIRS_FILE):
        try:
            sides[row["split"]].append(pair_from_row(row, row["source"]))
        except (RowError, KeyError, TypeError) as error:  # noqa: PERF203
            raise StudyError(f"{PAIRS_FILE}, row {number}: {error}") from None
    return StudyData(SPLIT_NAME, tuple(sides["train"]), tuple(sides["heldout"]), _load_instruct())


def _load_instruct() -> tuple[Dialogue, ...]:
    rows = []
    for _, row in read_rows(INSTRUCT_FILE):
        prompt = tuple((turn["role"], turn["content"]) for turn in row["prompt"])
        rows.append(Dialogue(prompt, row["answer"]))
    return tuple(rows)


def load_user_file(path: Path, skip_bad_rows: bool = False) -> StudyData:
    """A user's JSON or JSONL file: parsed, deduplicated by prompt, split by hash.

    StudyError for a missing or malformed file, a row that is no pair (unless skip_bad_rows), fewer
    than 8 prompts on either side. Scenario 3's dialogues that duplicate one of the user's prompts
    are dropped.
    """
    index = PromptIndex()
    sides: dict[str, list[Pair]] = {"train": [], "heldout": []}
    bad = duplicates = 0
    for number, row in read_rows(path):
        try:
            pair = pair_from_row(row, path.name)
        except RowError as error:
            if skip_bad_rows:
                bad += 1
                continue
            raise StudyError(f"{path}, row {number}: {error}") from None
        if index.add(_pair_text(pair)):
            sides[split_of(prompt_key(_pair_text(pair)))].append(pair)
        else:
            duplicates += 1
    if min(map(len, sides.values())) < 8:
        counts = f"{len(sides['train'])} train, {len(sides['heldout'])} held-out"
        skipped = f", {bad} bad rows were skipped" if bad else ""
        raise StudyError(
            f"{path}: too few different prompts ({counts}; at least 8 on each side are needed)"
            + skipped
        )
    instruct = tuple(d for d in _load_instruct() if index.add(dialogue_text(d.prompt)))
    notes = [
        f"{count} {what}"
        for count, what in ((bad, "bad rows skipped"), (duplicates, "duplicate prompts dropped"))
        if count
    ]
    return StudyData(
        path.name, tuple(sides["train"]), tuple(sides["heldout"]), instruct, tuple(notes)
    )


def _pair_text(pair: Pair) -> str:
    return dialogue_text(pair.prompt)


def dialogue_text(prompt: Iterable[Turn]) -> str:
    """The text by which a prompt is compared: its first user turn (a dialogue that goes on from it
    is the same).
    """
    turns = list(prompt)
    for role, text in turns:
        if role == "user" and prompt_key(text):
            return text
    return " ".join(text for _, text in turns)


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(row number from 1, decoded value) of a JSON list or of JSON lines; StudyError on anything
    else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: not UTF-8 text (byte {error.start})") from None
    if not text.strip():
        raise StudyError(f"{path}: the file is empty")
    if text.lstrip()[0] == "[":
        yield from enumerate(_json_list(path, text), start=1)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        hint = "; expected a JSON list or one JSON object a line" if number == 1 else ""
        yield number, _decoded(line, f"{path}, row {number}", hint)


def _decoded(text: str, where: str, hint: str = "") -> Any:
    """One JSON value; StudyError for whatever the decoder cannot make one of."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        reason = f"{error.msg}, {line}column {error.colno}"
    except RecursionError:
        reason = "nested too deeply"
    except ValueError:  # Python's limit on the digits of an int
        reason = "a number of too many digits"
    raise StudyError(f"{where}: not JSON ({reason}){hint}")


def _json_list(path: Path, text: str) -> list[Any]:
    rows = _decoded(text, str(path))
    if not isinstance(rows, list) or not rows:
        raise StudyError(f"{path}: expected a list of rows, got an empty list")
    return rows
