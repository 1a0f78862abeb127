"""The study end to end on few pairs: its files, the same bytes again, going on after a kill."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prefopt
from prefopt.study import data, main
from prefopt.study.config import PRESETS, Cell, Plan, fingerprint, training_from_dict
from prefopt.study.results import versions

TRAIN, HELDOUT = 120, 40  # text enough for the base model to leave the unigram behind
OPTIONS = ["--sizes", "8,16", "--seeds", "0", "--methods", "dpo,kto,cpo", "--scenarios", "sft,base"]
CELLS = 12


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short real pairs, in the format of HH-RLHF's rows given as messages."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    shipped = data.load_shipped()
    train, heldout = (
        [pair for pair in side if pair.source.startswith("hh")]
        for side in (shipped.train, shipped.heldout)
    )
    rows = []
    for pair in (*train[:TRAIN], *heldout[:HELDOUT]):
        prompt = [{"role": role, "content": text} for role, text in pair.prompt]
        rows.append(
            {"prompt": prompt}
            | {
                name: [{"role": "assistant", "content": getattr(pair, name)}]
                for name in ("chosen", "rejected")
            }
        )
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, pairs_file: Path) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("study")
    assert main(["--data", str(pairs_file), "--out", str(out), *OPTIONS]) == 0
    return out


def results(out: Path) -> dict[str, Any]:
    loaded = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_results_csv_has_a_row_per_cell(finished: Path) -> None:
    with open(finished / "results.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == CELLS
    assert not any("second" in name or "time" in name for name in rows[0])
    for row in rows:
        low, value, high = (float(row[f"reward_{name}"]) for name in ("low", "accuracy", "high"))
        assert 0.0 <= low <= value <= high <= 1.0
        assert row["verdict"] == ("no signal" if low <= 0.5 <= high else row["verdict"])
        drift = float(row["chosen_drift"]) - float(row["rejected_drift"])
        assert float(row["margin"]) == pytest.approx(drift, abs=1e-4)
        assert float(row["kl"]) > 0.0
        first = {"dpo": 0.693147, "kto": 0.5}.get(row["method"])
        assert first is None or float(row["first_loss"]) == pytest.approx(first, abs=1e-5)


def test_results_json_says_what_was_run(finished: Path) -> None:
    whole = results(finished)
    assert whole["versions"]["prefopt"] == prefopt.__version__
    assert whole["config"]["seeds"] == [0]
    assert len(whole["summaries"]) == CELLS
    assert whole["data"]["train_pairs"] == TRAIN
    assert whole["data"]["heldout_pairs"] == HELDOUT
    assert 0.0 <= whole["data"]["longer_wins"]["low"] <= whole["data"]["longer_wins"]["high"] <= 1.0
    assert {start["start"] for start in whole["start_models"]} == {"base", "sft"}


def test_versions_of_a_numpy_that_only_prints_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """1.24, the oldest that is taken, knows no mode="dicts"."""
    monkeypatch.setattr(np, "show_config", lambda: None)
    assert versions()["blas"] == "unknown"


def test_the_base_model_is_below_the_unigram(finished: Path) -> None:
    facts = results(finished)["language_model"]
    assert facts["trigram"] < facts["unigram"]
    assert facts["base"]["0"] < facts["unigram"] - 0.2


def test_sft_lowers_the_nll_of_chosen_answers(finished: Path) -> None:
    nll = {start["start"]: start["chosen_nll"] for start in results(finished)["start_models"]}
    assert nll["sft"] < nll["base"]


def test_the_report_stands_alone(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") > 6
    words = ("no signal", "chance", "Longer answer wins", "1  SFT, then align", "+ KTO")
    for word in (*words, "loss of the start model"):
        assert word in page
    for outside in ("http://", "https://", "<script", "<link", "src="):
        assert outside not in page
    assert page.count("<table") == page.count("</table>")


def test_the_same_command_makes_nothing_again(finished: Path, pairs_file: Path) -> None:
    before = (finished / "results.csv").read_bytes()
    assert main(["--data", str(pairs_file), "--out", str(finished), *OPTIONS]) == 0
    assert (finished / "results.csv").read_bytes() == before
    timing = results(finished)["timing"]
    assert timing["resumed"] == timing["tasks"]


def test_no_matplotlib_still_gives_the_report(
    finished: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    (finished / "report.html").unlink()
    assert main(["--data", str(pairs_file), "--out", str(finished), *OPTIONS]) == 0
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "matplotlib is not installed" in page
    assert page.count("<svg") > 6


def test_a_result_that_cannot_be_written(
    finished: Path, pairs_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = (finished / "results.csv").read_bytes()
    (finished / "results.csv").unlink()
    (finished / "results.csv").mkdir()
    try:
        assert main(["--data", str(pairs_file), "--out", str(finished), *OPTIONS]) == 2
        assert "results.csv" in capfd.readouterr().err.splitlines()[-1]
    finally:
        (finished / "results.csv").rmdir()
        (finished / "results.csv").write_bytes(kept)


def test_a_killed_run_goes_on_to_the_same_bytes(
    finished: Path, pairs_file: Path, tmp_path: Path
) -> None:
    """Killed after its first cell, continued with one worker: the bytes of the whole run."""
    options = ["--data", str(pairs_file), "--out", str(tmp_path), *OPTIONS, "--jobs", "1"]
    command = [
        sys.executable,
        "-c",
        "import sys; from prefopt.study import main; main(sys.argv[1:])",
    ]
    root = str(Path(prefopt.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [*command, *options], env=dict(os.environ) | {"PYTHONPATH": path}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/cells/[!.]*.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "results.csv").exists()
    assert main(options) == 0
    timing = results(tmp_path)["timing"]
    assert 4 <= timing["resumed"] < timing["tasks"]
    assert (tmp_path / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


def test_another_beta_is_another_folder(finished: Path, pairs_file: Path) -> None:
    """A changed configuration takes up nothing of the earlier one (checked on the fingerprint)."""
    digest = results(finished)["data"]["digest"]
    training = PRESETS["quick"].training
    folder = finished / "runs" / fingerprint(training, digest)
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))["training"]
    assert training_from_dict(values) == training
    changed = training_from_dict(values | {"beta": 0.2})
    assert fingerprint(changed, digest) != fingerprint(training, digest)
    assert fingerprint(training, "other data") != fingerprint(training, digest)


def test_a_worker_that_fails_is_reported(
    finished: Path, pairs_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A broken start model: exit code 1, the cell named, nothing half written."""
    run = next((finished / "runs").iterdir())
    good = (run / "s0-base.npy").read_bytes()
    cell = run / "cells" / f"{Cell('base', 'ipo', 8, 0).name}.json"
    try:
        (run / "s0-base.npy").write_bytes(good[:1000])
        options = ["--methods", "ipo", "--scenarios", "base", "--sizes", "8", "--seeds", "0"]
        assert main(["--data", str(pairs_file), "--out", str(finished), *options]) == 1
        assert "prefopt study: base-ipo-n8-s0: " in capfd.readouterr().err
        assert not cell.exists()
    finally:
        (run / "s0-base.npy").write_bytes(good)


def test_a_damaged_token_cache_is_made_again(finished: Path, pairs_file: Path) -> None:
    cache = next((finished / "cache").glob("tokens-*.npz"))
    good, before = cache.read_bytes(), (finished / "results.csv").read_bytes()
    for damaged in (b"", good[:1000]):
        cache.write_bytes(damaged)
        assert main(["--data", str(pairs_file), "--out", str(finished), *OPTIONS]) == 0
        assert cache.stat().st_size == len(good)
        assert (finished / "results.csv").read_bytes() == before


def test_a_damaged_cell_is_named(
    finished: Path, pairs_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cell = next(finished.glob("runs/*/cells/*.json"))
    good = cell.read_bytes()
    try:
        for damaged in (b"", good[:100]):
            cell.write_bytes(damaged)
            assert main(["--data", str(pairs_file), "--out", str(finished), *OPTIONS]) == 2
            last = capfd.readouterr().err.splitlines()[-1]
            assert last.startswith(f"prefopt study: {cell}: damaged")
    finally:
        cell.write_bytes(good)


def test_a_training_that_diverges_is_one_line(
    finished: Path, pairs_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """IPO's target 1 / (2 beta), squared, is beyond any number at this beta: exit code 1."""
    options = ["--methods", "ipo", "--scenarios", "base", "--sizes", "8", "--seeds", "0"]
    options += ["--beta", "1e-300", "--data", str(pairs_file), "--out", str(finished)]
    assert main(options) == 1
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("prefopt study: base-ipo-n8-s0: training diverged")


def test_a_worker_whose_parent_is_gone_is_silent(finished: Path) -> None:
    """It ends at its next message; nothing of it is seen on the terminal."""
    setup = {
        "folder": str(next((finished / "runs").iterdir())),
        "token_file": str(next((finished / "cache").glob("tokens-*.npz"))),
        "training": asdict(PRESETS["quick"].training),
    }
    worker = subprocess.Popen(
        [sys.executable, "-m", "prefopt.study.worker"],
        env=dict(os.environ) | {"PYTHONPATH": str(Path(prefopt.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(setup) + "\n")
    worker.stdin.flush()
    assert json.loads(worker.stdout.readline()) == {"event": "done"}
    worker.stdout.close()
    worker.stdin.write(json.dumps({"kind": "text"}) + "\n")
    worker.stdin.flush()
    assert worker.wait(60) == 1
    assert worker.stderr is not None
    assert worker.stderr.read() == ""


def test_sizes_beyond_the_data_become_the_whole_set() -> None:
    training = PRESETS["quick"].training
    plan = Plan("quick", training, ("base",), ("dpo",), (8, 100, 200), (0,)).fit_to(50)
    assert plan.sizes == (8, 50)
    assert len(plan.cells) == 2
