"""`prefopt.testing.explain` and `python -m prefopt explain`: numbers of known losses are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prefopt
from prefopt.__main__ import main
from prefopt.testing import Explanation, Finding, explain, golden

PAIRS: dict[str, Any] = {
    "policy_chosen_logps": [-12.5, -40.0, -7.0],
    "policy_rejected_logps": [-13.0, -38.0, -9.0],
    "ref_chosen_logps": [-12.0, -41.0, -8.0],
    "ref_rejected_logps": [-12.0, -39.0, -8.5],
}
LENGTHS = {"chosen_lengths": [5, 7, 9], "rejected_lengths": [4, 9, 3]}


def first(found: Explanation) -> Finding:
    assert found.found
    return found.matches[0]


# ---- what is found -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "convention"),
    sorted({(c.loss, c.convention) for c in golden(set="ordinary") if c.losses.size}),
)
def test_every_published_mean(loss: str, convention: str) -> None:
    """The mean of a published case: the row and the convention are among the matches."""
    case = golden(loss, convention, "ordinary")[0]
    found = explain(case.losses.mean(), losses=loss, **case.inputs, **case.parameters)
    names = [name for each in found.matches if not each.change for name in each.conventions]
    # The paper's numbers are prefopt's own where no other are published for it.
    assert convention in names
    assert any(each.reduction == "mean" for each in found.matches)


def test_reductions() -> None:
    losses = prefopt.loss("dpo.hinge", **PAIRS, beta=0.3).losses
    for value, reduction in (
        (losses.mean(), "mean"),
        (losses.sum(), "sum"),
        (losses[1], "[1]"),
        (losses, "each"),
        (list(losses), "each"),
    ):
        match = first(explain(value, **PAIRS, beta=0.3))
        assert (match.loss, match.reduction) == ("dpo.hinge", reduction)
        assert match.difference < 1e-12
        assert {"default", "paper", "trl-1.16", "liger-0.8.5"} <= set(match.conventions)


def test_the_convention_is_told() -> None:
    """IPO over sums and over averages; NeMo-RL's default beta."""
    sums = prefopt.loss("dpo.ipo", **PAIRS).losses.mean()
    match = first(explain(sums, **PAIRS, **LENGTHS, losses="dpo.ipo"))
    assert match.conventions == ("openrlhf-3c3be62",)
    assert match.ignored == ("chosen_lengths", "rejected_lengths")
    assert "summed" in match.differs
    averages = prefopt.loss("dpo.ipo", **PAIRS, **LENGTHS).losses.mean()
    assert "trl-1.16" in first(explain(averages, **PAIRS, **LENGTHS)).conventions
    nemo = prefopt.loss("dpo.sigmoid", **PAIRS, convention="nemo-rl-7ea279a").losses.mean()
    assert first(explain(nemo, **PAIRS)).conventions == ("nemo-rl-7ea279a",)


def test_one_thing_otherwise() -> None:
    """The number of another beta, or without the smoothing that was given."""
    value = prefopt.loss("dpo.sigmoid", **PAIRS, beta=0.5).losses.mean()
    assert first(explain(value, **PAIRS, losses="dpo.sigmoid")).change == "default beta=0.5"
    assert first(explain(value, **PAIRS, beta=0.3, losses="dpo.sigmoid")).change == "beta=0.5"
    plain = prefopt.loss("dpo.robust", **PAIRS).losses.mean()
    found = explain(plain, **PAIRS, label_smoothing=0.2, losses="dpo.robust")
    assert first(found).change == "without label_smoothing"


def test_digits_count() -> None:
    mean = prefopt.loss("dpo.sigmoid", **PAIRS).losses.mean()  # 0.66085
    assert first(explain("0.661", **PAIRS)).loss == "dpo.sigmoid"
    assert first(explain("6.6085e-1", **PAIRS)).loss == "dpo.sigmoid"
    assert explain(f"{mean:.7f}", **PAIRS).found
    for text in ("0.66100", "0.6605", "0.6612"):
        assert not explain(text, **PAIRS, losses="dpo.sigmoid").found
    assert not explain(0.661, **PAIRS, losses="dpo.sigmoid").found
    assert explain(0.661, **PAIRS, losses="dpo.sigmoid", rtol=1e-3).found
    float32 = np.float32(mean)
    assert explain(float(float32), **PAIRS, losses="dpo.sigmoid").found


def test_nothing_and_how_far() -> None:
    found = explain(0.123456789, **PAIRS)
    assert not found.found
    distances = [each.difference for each in found.others]
    assert distances == sorted(distances)
    hinge = next(each for each in found.others if each.loss == "dpo.hinge")
    value = prefopt.loss("dpo.hinge", **PAIRS).losses.mean()
    assert hinge.value == pytest.approx(value, rel=1e-15)
    assert hinge.difference == pytest.approx(value - 0.123456789, rel=1e-15)
    assert "rdpo.sigmoid" in found.unavailable
    assert "lengths" in found.unavailable["rdpo.sigmoid"]


def test_infinity_is_near_nothing_else() -> None:
    assert not explain(np.inf, **PAIRS, losses="dpo").found
    far = {**PAIRS, "policy_chosen_logps": [-2000.0, -40.0, -7.0]}
    match = first(explain("inf", **far, f_divergence_type="forward_kl", losses="dpo"))
    assert (match.loss, match.reduction, match.value) == ("dpo.sigmoid", "mean", np.inf)
    assert match.difference == 0


def test_text() -> None:
    text = str(explain(prefopt.loss("dpo.sigmoid", **PAIRS).losses.mean(), **PAIRS))
    lines = text.splitlines()
    assert lines[0].endswith(" is")
    assert lines[1].startswith("  0.660854625: mean of dpo.sigmoid@default (also paper, trl-1.16")
    assert "the same here: dpo.robust" in lines[2]
    assert any(line.startswith("      off by ") for line in lines)
    nothing = str(explain("0.123456789", **PAIRS)).splitlines()
    assert nothing[:2] == ["0.123456789 is none of the known losses", "nearest"]


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "given", "message"),
    [
        (0.5, {"policy_chosen_logp": [1.0]}, "did you mean policy_chosen_logps"),
        (0.5, {**PAIRS, "bta": 1.0}, "did you mean beta"),
        (0.5, {**PAIRS, "beta": -1.0}, "beta: expected a number in"),
        (0.5, {**PAIRS, "f_divergence_type": "js"}, "unknown 'js'"),
        (0.5, {**PAIRS, "losses": "dpo.sigmod"}, "did you mean dpo.sigmoid"),
        (0.5, {**PAIRS, "ref_chosen_logps": [1.0]}, "of one batch size"),
        (0.5, {"ref_chosen_logps": [1.0]}, "no loss can be computed from ref_chosen_logps"),
        (0.5, {}, "expected log-probabilities"),
        (0.5, {"policy_chosen_logps": 1.0}, "expected an array"),
        ("x", PAIRS, "expected a number"),
        (float("nan"), PAIRS, "expected numbers"),
        ([], PAIRS, "expected numbers"),
        (0.5, {**PAIRS, "rtol": -1.0}, "rtol: expected"),
    ],
)
def test_bad_input(value: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        explain(value, **given)


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "batch.json").write_text(json.dumps({**PAIRS, "beta": 0.3}))
    arrays = {name: np.array(value, np.float32) for name, value in PAIRS.items()}
    np.savez(tmp_path / "batch.npz", **arrays, beta=0.3)
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.npz").write_text("no")
    (tmp_path / "batch.txt").write_text("")
    return tmp_path


@pytest.mark.parametrize("name", ["batch.json", "batch.npz"])
def test_command_found(name: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = prefopt.loss("dpo.sigmoid", **PAIRS, beta=0.3).losses.mean()
    assert main(["explain", str(files / name), "--value", f"{value:.5f}"]) == 0
    assert "mean of dpo.sigmoid@default (also paper, trl-1.16" in capsys.readouterr().out


def test_command_options(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = prefopt.loss("dpo.hinge", **PAIRS, beta=0.7).losses
    command = ["explain", str(files / "batch.json"), "--set", "beta=0.7", "--losses", "dpo"]
    values = ",".join(f"{each:.4f}" for each in losses)
    assert main([*command, "--json", "--value", values]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["matches"][0]["loss"] == "dpo.hinge"
    assert report["matches"][0]["reduction"] == "each"
    assert main([*command, "--set", "f_divergence_type=js_divergence", "--value", "3.14159"]) == 1
    assert "3.14159 is none of the known losses" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.json", "--value", "1"], "No such file"),
        (["list.json", "--value", "1"], "expected an object of names and numbers"),
        (["broken.json", "--value", "1"], "not JSON"),
        (["broken.npz", "--value", "1"], "broken.npz"),
        (["batch.txt", "--value", "1"], "expected a .json or .npz file"),
        (["batch.json", "--value", "one"], "expected a number"),
        (["batch.json", "--value", "1", "--set", "beta"], "expected NAME=VALUE"),
        (["batch.json", "--value", "1", "--set", "bta=1"], "did you mean beta"),
        (["batch.json", "--value", "1", "--losses", "dop"], "no loss is called 'dop'"),
    ],
)
def test_command_bad_input(
    arguments: list[str], message: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(files / arguments[0]), *arguments[1:]]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert output.err.startswith("prefopt explain: ")
    assert output.err.count("\n") == 1


def test_command_needs_a_value(files: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["explain", str(files / "batch.json")])
    assert stop.value.code == 2
