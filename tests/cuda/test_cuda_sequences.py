"""sequence_logps and its gradient of the CUDA library against the CPU's."""

from __future__ import annotations

from typing import Any

import cuda_device as device
import numpy as np
import pytest

import prefopt
from prefopt import _core, _cuda
from prefopt._cuda_abi import SequenceLogpsArgs

# The CPU adds 400 terms one by one. Twice the worst measured.
SUM_TOLERANCES = {np.float32: 0.0, np.float64: 3e-15}


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
