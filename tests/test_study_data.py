"""The study's data: formats, shipped splits, tokens, bad files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefopt.study import data, formats, main
from prefopt.study.bpe import FIRST_MERGE, Bpe, load_merges
from prefopt.study.corpus import pair_tokens
from prefopt.study.errors import StudyError
from prefopt.study.tokens import Encoded, Sequences, encode, load_encoded, save_encoded

ROOT = Path(__file__).resolve().parent.parent
USER = {"role": "user", "content": "Two plus two?"}
GOOD = {"role": "assistant", "content": "Four."}
BAD = {"role": "assistant", "content": "Five."}
PROMPT = (("user", "Two plus two?"),)
HUMAN = "\n\nHuman: Two plus two?\n\nAssistant:"

ROWS: dict[str, dict[str, Any]] = {
    "trl standard": {"prompt": "Two plus two?", "chosen": "Four.", "rejected": "Five."},
    "trl standard, implicit": {"chosen": "Two plus two? Four.", "rejected": "Two plus two? Five."},
    "trl conversational": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "trl conversational, implicit": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "hub UltraFeedback": {
        "prompt": "Two plus two?",
        "chosen": [USER, GOOD],
        "rejected": [USER, BAD],
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Two plus two?"}],
        "chosen": {"from": "gpt", "value": "Four."},
        "rejected": {"from": "gpt", "value": "Five."},
    },
    "alpaca": {"instruction": "Two plus two?", "chosen": "Four.", "rejected": "Five."},
    "llamafactory v1": {"chosen_messages": [USER, GOOD], "rejected_messages": [USER, BAD]},
    "hh": {"chosen": HUMAN + " Four.", "rejected": HUMAN + " Five."},
}


@pytest.fixture(scope="module")
def bpe() -> Bpe:
    return Bpe(load_merges(data.MERGES_FILE))


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_every_format_gives_the_same_pair(row: dict[str, Any]) -> None:
    pair = formats.pair_from_row(row)
    assert (pair.prompt, pair.chosen, pair.rejected) == (PROMPT, "Four.", "Five.")


def test_turns_before_the_answer_are_kept() -> None:
    text = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    pair = formats.pair_from_row({"chosen": text + " d", "rejected": text + " e"})
    assert pair.prompt == (("user", "a"), ("assistant", "b"), ("user", "c"))
    system = {"from": "system", "value": "s"}
    row = ROWS["sharegpt"] | {"conversations": [system, *ROWS["sharegpt"]["conversations"]]}
    assert formats.pair_from_row(row).prompt == (("system", "s"), *PROMPT)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "expected a JSON object, got list"),
        ({"prompt": "p", "chosen": "a"}, "no 'rejected'"),
        ({"prompt": "p", "chosen": " ", "rejected": "b"}, "the chosen answer is empty"),
        ({"prompt": "p", "chosen": "a", "rejected": ""}, "the rejected answer is empty"),
        ({"prompt": "p", "chosen": "a", "rejected": "a "}, "chosen and rejected are equal"),
        ({"prompt": "p", "completion": "a", "label": True}, "unpaired"),
        ({"prompt": "p", "chosen": [3], "rejected": [GOOD]}, "chosen[0]: expected a message"),
        ({"chosen": [{"role": "judge", "content": "a"}], "rejected": [BAD]}, "unknown role"),
        ({"chosen": [{"role": ["user"], "content": "a"}], "rejected": [BAD]}, "unknown role"),
        ({"prompt": "p", "chosen": {"role": "user"}, "rejected": [BAD]}, "expected text, got"),
    ],
)
def test_rows_that_are_no_pair(row: Any, message: str) -> None:
    with pytest.raises(formats.RowError) as caught:
        formats.pair_from_row(row)
    assert message in str(caught.value)


def _run(tmp_path: Path, *arguments: str) -> int:
    return main(["--out", str(tmp_path / "out"), *arguments])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("", "the file is empty"),
        ("[]", "empty list"),
        ("[1, 2", "not JSON"),
        ('{"prompt": "p", "chosen": "a", "rejected": "b"}\n{oops\n', "row 2: not JSON"),
        ('{"prompt": "p", "chosen": "a", "rejected": "b"}\n\n7\n', "row 3: expected a JSON object"),
        (
            '[{"prompt": "p", "chosen": "a", "rejected": "a"}]',
            "row 1: chosen and rejected are equal",
        ),
        ('{"prompt": "p", "chosen": "a", "rejected": ""}', "row 1: the rejected answer is empty"),
        ('{"prompt": "p", "chosen": "a", "rejected": "b"}', "too few different prompts"),
        ("[" * 200_000, "not JSON (nested too deeply)"),
        ('{"a": ' * 200_000, "row 1: not JSON (nested too deeply)"),
        (f'{{"prompt": {"9" * 5000}}}', "row 1: not JSON (a number of too many digits)"),
        (
            '{"prompt": "p", "chosen": "a \\ud800", "rejected": "b"}',
            "row 1: chosen holds half of a surrogate pair",
        ),
        (
            '{"prompt": "p \\udfff", "chosen": "a", "rejected": "b"}',
            "row 1: prompt holds half of a surrogate pair",
        ),
    ],
)
def test_a_bad_file_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    path = tmp_path / "pairs.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert _run(tmp_path, "--data", str(path)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error
    assert message in error


def test_a_file_that_is_not_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pairs.json"
    path.write_bytes(b"[\xff\xfe]")
    assert _run(tmp_path, "--data", str(path)) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_out_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["--out", str(tmp_path / "file" / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("prefopt study: --out: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--methods", "dpo,rlhf"],
        ["--scenarios", ""],
        ["--sizes", "0"],
        ["--seeds", "a"],
        ["--beta", "-1"],
        ["--beta", "nan"],
        ["--jobs", "0"],
        ["--preset", "huge"],
    ],
)
def test_bad_options_are_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "--preset" in capsys.readouterr().out


def test_bad_rows_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    prompts = [f"question about thing number {number}" for number in range(60)]
    rows = [{"prompt": prompt, "chosen": "a", "rejected": "b"} for prompt in prompts]
    rows[4]["rejected"] = "a"
    rows.append(rows[0])
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    loaded = data.load_user_file(path, skip_bad_rows=True)
    assert len(loaded.train) + len(loaded.heldout) == 59
    assert loaded.notes == ("1 bad rows skipped", "1 duplicate prompts dropped")


def test_no_prompt_is_on_two_sides() -> None:
    shipped = data.load_shipped()
    assert len(shipped.train) >= 512
    assert len(shipped.heldout) >= 200
    assert {pair.source for pair in shipped.train} == {pair.source for pair in shipped.heldout}
    index = data.PromptIndex()
    prompts = [pair.prompt for pair in (*shipped.train, *shipped.heldout)]
    prompts += [dialogue.prompt for dialogue in shipped.instruct]
    assert all(index.add(data.dialogue_text(prompt)) for prompt in prompts)
    for side, pairs in (("train", shipped.train), ("heldout", shipped.heldout)):
        keys = [data.prompt_key(data.dialogue_text(pair.prompt)) for pair in pairs]
        assert {data.split_of(key) for key in keys} == {side}


def test_near_duplicates_are_found() -> None:
    index = data.PromptIndex()
    assert index.add("What are the ten best books about the history of Rome, please?")
    assert not index.add("what are the ten best books about the history of ROME please")
    assert not index.add("What are the ten best books about the history of Rome?")
    assert index.add("What are the ten best films about the history of Rome?")


@pytest.mark.parametrize(
    "text",
    ["", "  two  spaces\n\n\ttab ", "naïve café 東京 \U0001f600", "x_y != 12345 it's", "\x00\x7f"],
)
def test_bpe_round_trip(bpe: Bpe, text: str) -> None:
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert all(5 <= i < bpe.vocab for i in ids)


def test_bpe_round_trip_of_the_shipped_text(bpe: Bpe) -> None:
    assert bpe.vocab >= 4096
    for pair in data.load_shipped().heldout[::10]:
        assert bpe.decode(bpe.encode(pair.chosen)) == pair.chosen


def test_learnt_merges_are_the_frequent_pairs() -> None:
    spec = importlib.util.spec_from_file_location("learn_bpe", ROOT / "tools" / "learn_bpe.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    merges = tool.learn(["low low low lower newest newest"] * 3, FIRST_MERGE + 3)
    first = Bpe(merges[:1])
    assert first.decode([FIRST_MERGE]) == "lo"  # 12 times, and before "ow" by its smaller ids
    assert Bpe(merges).encode("low") == [FIRST_MERGE + 1]
    assert Bpe(merges).decode(Bpe(merges).encode("slower newest")) == "slower newest"


def test_a_merges_file_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "merges.txt"
    path.write_text("37 121\n5000 3\n")
    with pytest.raises(StudyError, match="row 2: a merge of ids that are not known"):
        load_merges(path)


def test_sequences_are_windows_and_labels() -> None:
    tails = [np.array([1, 2, 3], np.int32), np.array([9], np.int32)]
    targets = [np.array([4, 5], np.int32), np.array([6, 7, 8], np.int32)]
    rows = Sequences(tails, targets, 2).rows(np.array([1, 0]))
    assert rows.cu_seqlens.tolist() == [0, 3, 5]
    assert rows.labels.tolist() == [6, 7, 8, 4, 5]
    assert rows.windows.tolist() == [[0, 9], [9, 6], [6, 7], [2, 3], [3, 4]]


def test_encoded_data_survives_the_cache(tmp_path: Path, bpe: Bpe) -> None:
    shipped = data.load_shipped()
    small = data.StudyData("small", shipped.train[:5], shipped.heldout[:3], shipped.instruct[:2])
    encoded = encode(bpe, small)
    save_encoded(tmp_path / "tokens.npz", encoded)
    again = load_encoded(tmp_path / "tokens.npz")
    assert isinstance(again, Encoded)
    for side in ("train", "heldout", "instruct"):
        for part in ("prompts", "chosen", "rejected"):
            for one, other in zip(
                getattr(getattr(encoded, side), part),
                getattr(getattr(again, side), part),
                strict=True,
            ):
                np.testing.assert_array_equal(one, other)


def test_pairs_that_the_cut_makes_equal_are_left_out(bpe: Bpe) -> None:
    pairs = tuple(
        formats.Pair((("user", prompt),), "one two three " + end, "one two three four")
        for prompt, end in (("a", "five"), ("b", "six"))
    )
    encoded = encode(bpe, data.StudyData("cut", pairs, pairs, ()))
    assert len(pair_tokens(encoded.train, 4, 2)) == 0
    whole = pair_tokens(encoded.train, 4, 50)
    assert len(whole) == 2
    assert whole.select(np.array([1])).rows.tolist() == [1]
