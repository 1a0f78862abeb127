"""Losses and procedures of the CUDA library against the CPU's."""

from __future__ import annotations

from typing import Any

import cuda_device as device
import numpy as np
import pytest
import row_cases
from row_cases import EXTRA_PARAMETERS, LOSSES, PROCEDURES, ROWS, WIDTH

import prefopt
from prefopt import _cuda

# Double throughout, rounded once; sums are made in another order. Twice the worst measured.
TOLERANCES = {np.float32: 0.0, np.float64: 6.6e-16}
# One thread's share, a block's, more than a block's, of several blocks.
# The thread sanitizer may have all blocks' threads at a time: few rows, of which each has a block.
SIZES = (1, 4, 127, 300)
if device.SMALL:
    SIZES = (4,) if "tsan" in device.VARIANT else (130,)
# One loss of each program (csrc/losses/program_list.h).
OF_PROGRAMS = (
    *("dpo.sigmoid", "dpo.sft", "dpo.aot", "dpo.aot_unpaired", "dpo.kto_pair", "beta_dpo.sigmoid"),
    *("cpo.simpo", "tpo.tpo_l", "sft.nll", "sampo.sigmoid", "kl.k3", "ppo.clip", "grpo.gspo"),
    *("grpo.grpo", "grpo.dr_grpo"),
)
CASES = OF_PROGRAMS if device.SMALL else LOSSES


def shapes(size: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Of outputs by what the row says they are."""
    return {
        "rows": ((size,), None),
        "number": ((), np.float64),
        "flags": ((size,), np.bool_),
        "tokens": ((size, WIDTH), None),
        "positions": ((size, WIDTH), np.int64),
    }


def run(name: str, inputs: dict[str, Any], dtype: Any, grad_losses: Any = None) -> dict[str, Any]:
    """Every output and gradient, in memory full of NaN."""
    row = ROWS[name]
    arrays = {key: np.asarray(value) for key, value in inputs.items()}
    size = next(len(a) for k, a in arrays.items() if a.ndim)
    kinds = shapes(size)

    def empty(kind: str) -> np.ndarray:
        shape, fixed = kinds[kind]
        return np.full(shape, 7).astype(fixed) if fixed else np.full(shape, np.nan, dtype)

    outputs = {key: empty(kind) for key, kind in row.outputs}
    grads = {
        i.name: empty("tokens" if i.type == "tokens" else "rows")
        for i in row.inputs
        if i.differentiable and i.name in arrays and row.kind != "procedure"
    }
    losses = None
    if row.kind != "procedure":
        losses = empty("tokens" if row.tokenwise else "rows")
    device.run_loss(
        name, arrays, EXTRA_PARAMETERS.get(name, {}), losses, outputs, grads, grad_losses
    )
    named = {f"d/d {key}": each for key, each in grads.items()}
    return {**({} if losses is None else {"losses": losses}), **outputs, **named}


def cast(arrays: dict[str, Any], dtype: Any) -> dict[str, Any]:
    return {
        key: value.astype(dtype)
        if isinstance(value, np.ndarray) and value.dtype == np.float64
        else value
        for key, value in arrays.items()
    }


def close(got: Any, want: Any, dtype: Any) -> None:
    tolerance = TOLERANCES[dtype]
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("dtype", "optional"),
    [(np.float64, True)] if device.SMALL else [(np.float64, True), (np.float32, False)],
)
def test_losses(name: str, dtype: Any, optional: bool, order: str) -> None:
    for size in SIZES:
        arrays = cast(row_cases.inputs(name, size=size, optional=optional), dtype)
        shape = (size, WIDTH) if ROWS[name].tokenwise else size
        weights = np.linspace(0.5, 2, np.prod(shape)).reshape(shape).astype(dtype)
        want = row_cases.run(name, arrays, grad_losses=weights)
        got = run(name, arrays, dtype, weights)
        for key, each in want._asdict().items():
            close(got[key], each, dtype)
        for key, each in want.grads.items():
            close(got[f"d/d {key}"], each, dtype)


@pytest.mark.parametrize("name", PROCEDURES)
@pytest.mark.parametrize("size", SIZES)
def test_procedures(name: str, size: int, order: str) -> None:
    """Sorts included: which pairs are kept, which positions are sampled."""
    inputs = row_cases.inputs(name, size=size)
    want = row_cases.run(name, inputs)
    got = run(name, inputs, np.float64)
    for key, each in want._asdict().items():
        close(got[key], each, np.float64)


def test_gathered_samples(order: str) -> None:
    """AOT against the samples of all ranks, ties and NaN among them."""
    inputs = row_cases.inputs("dpo.aot", size=6)
    rng = np.random.default_rng(0)
    for side in ("policy", "ref"):
        own = inputs[f"{side}_chosen_logps"] - inputs[f"{side}_rejected_logps"]
        others = rng.uniform(-20, 20, 301).round(0)
        others[17] = np.nan
        inputs[f"gathered_{side}_logratios"] = np.concatenate([others[:4], own, others[4:]])
    options = {"gather_offset": 4.0}
    want = prefopt.loss("dpo.aot", **inputs, **options)
    got = np.full(6, np.nan)
    device.run_loss("dpo.aot", inputs, options, got, {}, {})
    close(got, want.losses, np.float64)


BAD = {
    "cpo.simpo": ("chosen_lengths", -1),
    "kto.kto": ("desirable", 2),
    "grpo.grpo": ("mask", 3),
    "sampo.sigmoid": ("chosen_indices", 77),
    "rso.accept": ("uniforms", 1.5),
    "beta_dpo.keep": ("uniforms", -0.5),
    "bco.delta": ("state_count", -1.0),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_noted(name: str, order: str) -> None:
    """NaN or 0 in all outputs, and the argument's name."""
    key, value = BAD[name]
    inputs = {k: np.array(v) for k, v in row_cases.inputs(name).items()}
    if inputs[key].dtype == np.bool_:
        inputs[key] = inputs[key].astype(np.int32)
    inputs[key].reshape(-1)[-1] = value
    for each in run(name, inputs, np.float64).values():
        assert np.isnan(each).all() if each.dtype.kind == "f" else not each.any()
    with pytest.raises(ValueError, match=f"{key}: got a value out of its range"):
        _cuda.library().check()


def test_empty_batches() -> None:
    for name in ("dpo.sigmoid", "kto.kto", "grpo.grpo"):
        got = run(name, row_cases.inputs(name, size=0), np.float64)
        assert got["losses"].shape == (0,)
