"""sequence_logps, losses and procedures of the CUDA library against the CPU's."""

from __future__ import annotations

from typing import Any

import cuda_device as device
import numpy as np
import pytest
import row_cases
from row_cases import EXTRA_PARAMETERS, LOSSES, PROCEDURES, ROWS, WIDTH

import prefopt
from prefopt import _core, _cuda
from prefopt._cuda_abi import SequenceLogpsArgs

# Double throughout, rounded once; sums are made in another order. Twice the worst measured.
TOLERANCES = {np.float32: 2.5e-7, np.float64: 2e-15}
# One thread's share, a block's, more than a block's, of several blocks.
SIZES = (1, 4, 130) if device.SMALL else (1, 4, 127, 300)


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


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optional", [True, False])
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


# The CPU adds 400 terms one by one.
SUM_TOLERANCES = {np.float32: 2.5e-7, np.float64: 4e-15}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mask", [None, np.bool_, np.float32, np.float64])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sequence_logps(packed: bool, mask: Any, average: bool, dtype: Any, order: str) -> None:
    """Sums, averages and the transpose; an empty sequence and one of masked NaN."""
    rng = np.random.default_rng(4)
    shape = (700,) if packed else (4, 301)
    logps = rng.uniform(-5, 0, shape).astype(dtype)
    cuts = np.array([0, 3, 3, 400, 700], np.int32) if packed else None
    weights = None
    if mask is not None:
        weights = (rng.uniform(size=shape) * (rng.uniform(size=shape) < 0.7)).astype(mask)
        logps[weights == 0] = np.nan
    normalizer = np.array([2.0, 1.0, 30.0, 4.0]) if average and mask is None else None
    args = SequenceLogpsArgs(average=average)
    got, given = np.full(4, np.nan, dtype), {"mask": weights, "cu_seqlens": cuts}
    given["normalizer"] = normalizer
    device.run("pfo_cuda_sequence_logps", args, logps=logps, out=got, **given)
    want = prefopt.sequence_logps(
        logps, weights, cu_seqlens=cuts, average=average, normalizer=normalizer
    )
    np.testing.assert_allclose(got, want, rtol=SUM_TOLERANCES[dtype])
    sums = rng.normal(size=4).astype(dtype)
    grad, expected = np.full(shape, np.nan, dtype), np.empty(shape, dtype)
    args = SequenceLogpsArgs(average=average)
    device.run("pfo_cuda_sequence_logps_grad", args, logps=grad, out=sums, **given)
    _core.sequence_logps_grad(sums, expected, weights, cuts, average, normalizer)
    np.testing.assert_allclose(grad, expected, rtol=SUM_TOLERANCES[dtype])


@pytest.mark.parametrize("cuts", [[0, 2], [1, 3], [0, 2, 1, 3], [0, 4], [-1, 3]])
def test_bad_cuts(cuts: list[int]) -> None:
    """NaN for what they bound, and a gradient without it."""
    offsets = np.array(cuts)
    out = np.zeros(len(cuts) - 1, np.float32)
    args = SequenceLogpsArgs(average=False)
    device.run(
        "pfo_cuda_sequence_logps", args, logps=np.ones(3, np.float32), cu_seqlens=offsets, out=out
    )
    assert np.isnan(out).any()
    with pytest.raises(ValueError, match="cu_seqlens: got a value out of its range"):
        _cuda.library().check()
    grad = np.full(3, np.nan, np.float32)
    args = SequenceLogpsArgs(average=False)
    device.run("pfo_cuda_sequence_logps_grad", args, logps=grad, cu_seqlens=offsets, out=out)
    assert np.isfinite(grad).all()
    with pytest.raises(ValueError, match="cu_seqlens"):
        _cuda.library().check()


@pytest.mark.parametrize("key", ["mask", "normalizer"])
def test_bad_weights(key: str) -> None:
    given: dict[str, Any] = {"mask": np.ones((2, 3)), "normalizer": np.ones(2)}
    given[key].reshape(-1)[-1] = np.nan
    out = np.zeros(2, np.float32)
    args = SequenceLogpsArgs(average=True)
    device.run("pfo_cuda_sequence_logps", args, logps=np.ones((2, 3), np.float32), out=out, **given)
    assert np.isnan(out).tolist() == [False, True]
    with pytest.raises(ValueError, match=f"{key}: got a value out of its range"):
        _cuda.library().check()
