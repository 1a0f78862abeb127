"""Inputs for any row of the list, made from what the row says of itself."""

from __future__ import annotations

from typing import Any

import numpy as np

import prefopt
from prefopt import LossInfo

ROWS = {row.name: row for row in prefopt.losses()}
LOSSES = sorted(name for name, row in ROWS.items() if row.kind != "procedure")
PROCEDURES = sorted(name for name, row in ROWS.items() if row.kind == "procedure")
WIDTH = 5

# What a row cannot do without, beside its required inputs.
EXTRA_PARAMETERS: dict[str, dict[str, float]] = {
    "sft.nll": {},
    "dpo.sft": {},
}


def inputs(
    name: str, seed: int = 0, size: int = 4, *, optional: bool = True, width: int = WIDTH
) -> dict[str, Any]:
    """Arrays like a trainer's for the row `name`; without the optional ones where they can go."""
    rng = np.random.default_rng(seed)
    row = ROWS[name]
    made: dict[str, Any] = {}
    for item in row.inputs:
        if item.type == "gathered" and item.optional:
            continue  # they must repeat the batch's own numbers: test_loss_batches has them
        if item.optional and not optional and not needed(row, item.name):
            continue
        made[item.name] = _make(item.name, item.type, rng, size, width)
    for side in ("chosen", "rejected"):
        if f"{side}_indices" in made:
            made[f"{side}_indices"] = np.tile(np.array([0, 2, -1]), (size, 1))
    return made


def needed(row: LossInfo, name: str) -> bool:
    """A token mean needs lengths, though nll_tokens may stand for them."""
    return name == {"sft.nll": "lengths", "dpo.sft": "chosen_lengths"}.get(row.name)


def _make(name: str, type_: str, rng: np.random.Generator, size: int, width: int) -> Any:
    if type_ == "scalar":
        return {"state_count": 3.0, "state_std": 1.5}.get(name, 0.75)
    if type_ == "count":
        return rng.integers(1, 90, size)
    if type_ == "flag":
        return np.arange(size) % 3 != 1
    if type_ == "mask":
        return (np.arange(width) + rng.integers(0, 2, (size, 1))) % 4 != 3
    if type_ == "indices":
        return np.zeros((size, 1), np.int64)
    if type_ == "gathered":
        return rng.uniform(0, 1, 64 * max(size, 1))
    shape: Any = (size, width) if type_ == "tokens" else size
    if name.endswith("uniforms"):
        return rng.uniform(0, 1, shape)
    if name.endswith(("weights", "win_rates", "probabilities")):
        return rng.uniform(0.1, 0.9, shape)
    if name.endswith(("_kl", "nll")):
        return rng.uniform(0, 9, shape)
    if type_ == "tokens":
        return rng.uniform(-3, 0, shape)
    if "logps" in name:
        return rng.uniform(-90, -60, shape)
    return rng.uniform(-2, 2, shape)


def run(name: str, arrays: dict[str, Any], **options: Any) -> Any:
    """prefopt.loss of the case."""
    return prefopt.loss(name, **arrays, **EXTRA_PARAMETERS.get(name, {}), **options)


def results(got: Any) -> list[Any]:
    """Every array of a result, gradients included, in a fixed order."""
    grads = getattr(got, "grads", None) or {}
    return [np.asarray(each) for each in (*got, *grads.values())]
