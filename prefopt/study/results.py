"""Gathers a run's files into rows, summaries over seeds, results.csv and results.json."""

from __future__ import annotations

import csv
import io
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import prefopt
from prefopt._doctor import usable_cpus

from .config import Cell, Plan
from .data import StudyData
from .phases import read_json
from .stats import Interval, bootstrap, wilson

CSV_COLUMNS = (
    "scenario", "method", "size", "seed",
    "reward_accuracy", "reward_low", "reward_high", "verdict",
    "logp_accuracy", "logp_low", "logp_high",
    "train_reward_accuracy", "train_logp_accuracy",
    "margin", "chosen_drift", "rejected_drift", "kl", "chosen_nll",
    "start_logp_accuracy", "start_chosen_nll", "first_loss", "last_loss",
)  # fmt: skip
LAST_STEPS = 5  # last_loss is the mean over this many steps
MEANS = (
    "train_reward_accuracy", "train_logp_accuracy",
    "margin", "chosen_drift", "rejected_drift", "kl", "chosen_nll",
)  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """One scenario x method x size, over its seeds."""

    scenario: str
    method: str
    size: int
    seeds: int
    reward: Interval
    logp: Interval
    means: dict[str, float]
    ranges: dict[str, tuple[float, float]]
    loss: list[float]  # mean curve over seeds
    train_margin: list[float]
    sample: str  # of the first seed


@dataclass(frozen=True)
class Study:
    """Everything that the reports show."""

    plan: Plan
    data: dict[str, Any]
    language_model: dict[str, Any]
    starts: list[dict[str, Any]]  # per seed and start model
    rows: list[dict[str, Any]]  # per cell, the CSV's columns
    summaries: list[Summary]
    timing: dict[str, Any]
    versions: dict[str, str]
    fingerprint: str

    def summary(self, scenario: str, method: str, size: int) -> Summary:
        """The summary of one place in the table."""
        return next(
            s for s in self.summaries if (s.scenario, s.method, s.size) == (scenario, method, size)
        )

    def start_accuracy(self, scenario: str) -> Interval:
        """Held-out log-prob accuracy of the model that a scenario aligns, over its seeds."""
        hits = [start["logp_hits"] for start in self.starts if start["start"] == scenario]
        return bootstrap(np.mean(hits, axis=0))


def collect(
    plan: Plan, folder: Path, data: StudyData, lengths: Any, timing: dict[str, Any]
) -> Study:
    """Read a finished plan's files. lengths [held-out pairs, 2]: tokens of the whole answers."""
    from .score import longer_wins

    needed = dict.fromkeys(["base", *plan.scenarios])
    starts = {
        (seed, start): read_json(folder / f"s{seed}-{start}.json")
        for seed in plan.seeds
        for start in needed
    }
    cells = {cell: read_json(folder / "cells" / f"{cell.name}.json") for cell in plan.cells}
    rows = [_row(cell, result, starts[cell.seed, cell.scenario]) for cell, result in cells.items()]
    longer = longer_wins(lengths)
    text = read_json(folder / "text.json")
    data_facts = {
        "name": data.name,
        "train_pairs": len(data.train),
        "heldout_pairs": len(data.heldout),
        "heldout_scored": len(longer),
        "instruct_dialogues": len(data.instruct),
        "digest": data.digest(),
        "notes": list(data.notes),
        "longer_wins": asdict(bootstrap(longer)),
        "sources": _sources(data),
    }
    language_model = text | {
        "base": {str(seed): starts[seed, "base"]["text_nll"] for seed in plan.seeds},
        "parameters": plan.training.model.parameters,
    }
    summaries = [
        _summary(
            scenario,
            method,
            size,
            [cells[Cell(scenario, method, size, seed)] for seed in plan.seeds],
        )
        for scenario in plan.scenarios
        for method in plan.methods
        for size in plan.sizes
    ]
    timing = timing | {
        "start_models_seconds": sum(start["seconds"] for start in starts.values()),
        "cells_seconds": sum(cell["seconds"] for cell in cells.values()),
        "slowest_cell_seconds": max(cell["seconds"] for cell in cells.values()),
    }
    listed = [_start_facts(start) for start in starts.values()]
    return Study(
        plan, data_facts, language_model, listed, rows, summaries, timing, versions(), folder.name
    )


def _sources(data: StudyData) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for side, pairs in (("train", data.train), ("heldout", data.heldout)):
        for pair in pairs:
            place = counts.setdefault(pair.source, {"train": 0, "heldout": 0})
            place[side] += 1
    return counts


def _start_facts(start: dict[str, Any]) -> dict[str, Any]:
    hits = np.asarray(start["logp_hits"])
    facts = {key: value for key, value in start.items() if key not in ("logp_hits", "loss")}
    return facts | {
        "logp_accuracy": asdict(wilson(float(hits.sum()), len(hits))),
        "logp_hits": start["logp_hits"],
        "first_loss": start["loss"][0],
        "last_loss": float(np.mean(start["loss"][-LAST_STEPS:])),
    }


def _row(cell: Cell, result: dict[str, Any], start: dict[str, Any]) -> dict[str, Any]:
    heldout, train = result["heldout"], result["train"]
    count = len(heldout["reward_hits"])
    reward = wilson(sum(heldout["reward_hits"]), count)
    logp = wilson(sum(heldout["logp_hits"]), count)
    values = asdict(cell) | {
        "reward_accuracy": reward.value, "reward_low": reward.low, "reward_high": reward.high,
        "verdict": reward.verdict,
        "logp_accuracy": logp.value, "logp_low": logp.low, "logp_high": logp.high,
        "train_reward_accuracy": float(np.mean(train["reward_hits"])),
        "train_logp_accuracy": float(np.mean(train["logp_hits"])),
        "kl": result["kl"],
        "start_logp_accuracy": float(np.mean(start["logp_hits"])),
        "start_chosen_nll": start["chosen_nll"],
        "first_loss": result["loss"][0],
        "last_loss": float(np.mean(result["loss"][-LAST_STEPS:])),
    }  # fmt: skip
    for name in ("margin", "chosen_drift", "rejected_drift", "chosen_nll"):
        values[name] = heldout[name]
    return {name: values[name] for name in CSV_COLUMNS}


def _summary(scenario: str, method: str, size: int, results: list[dict[str, Any]]) -> Summary:
    def per_pair(name: str) -> Interval:
        return bootstrap(np.mean([result["heldout"][name] for result in results], axis=0))

    def values(name: str) -> list[float]:
        if name.startswith("train_"):
            key = name.removeprefix("train_").replace("accuracy", "hits")
            return [float(np.mean(result["train"][key])) for result in results]
        return [result[name] if name == "kl" else result["heldout"][name] for result in results]

    return Summary(
        scenario,
        method,
        size,
        len(results),
        per_pair("reward_hits"),
        per_pair("logp_hits"),
        {name: float(np.mean(values(name))) for name in MEANS},
        {name: (min(values(name)), max(values(name))) for name in MEANS},
        np.mean([result["loss"] for result in results], axis=0).tolist(),
        np.mean([result["train_margin"] for result in results], axis=0).tolist(),
        results[0]["sample"],
    )


def csv_text(study: Study) -> str:
    """results.csv: one row a cell, numbers to six digits, nothing that a rerun would change."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in study.rows:
        writer.writerow(
            [f"{value:.6g}" if isinstance(value, float) else value for value in row.values()]
        )
    return stream.getvalue()


def as_json(study: Study) -> dict[str, Any]:
    """results.json: what was run, on what, with which versions, and all results."""
    summaries = []
    for summary in study.summaries:
        entry = asdict(summary)
        for name in ("reward", "logp"):
            entry[name]["verdict"] = getattr(summary, name).verdict
        summaries.append(entry)
    return {
        "config": asdict(study.plan),
        "fingerprint": study.fingerprint,
        "versions": study.versions,
        "timing": study.timing,
        "data": study.data,
        "language_model": study.language_model,
        "start_models": study.starts,
        "cells": study.rows,
        "summaries": summaries,
    }


def versions() -> dict[str, str]:
    """Versions and the machine, as far as numbers or times depend on them."""
    return {
        "prefopt": prefopt.__version__,
        "isa": _isa(),
        "numpy": np.__version__,
        "blas": _blas(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": str(usable_cpus()),
    }


def _isa() -> str:
    module = getattr(prefopt, "_core", None)
    return str(module.isa()) if module is not None else "unknown"


def _blas() -> str:
    try:
        config: Any = np.show_config(mode="dicts")
    except TypeError:  # NumPy 1.24 prints it only
        return "unknown"
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
