"""Arrays of CuPy and JAX, and of the CUDA array interface, on a real GPU.

pytest -m gpu tests/gpu/test_gpu_arrays.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import prefopt  # noqa: E402
from prefopt import torch as prefopt_torch  # noqa: E402

STATE = prefopt.cuda_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not STATE, reason=f"no CUDA: {STATE.reason}")]

ROWS, VOCAB = 64, 5003


def values() -> tuple[Any, Any]:
    generator = np.random.default_rng(1)
    return generator.normal(size=(ROWS, VOCAB)).astype(np.float32), np.arange(ROWS)


def check(logits: Any, labels: Any) -> None:
    """The same bits as of torch's own copies, three times over."""
    want = prefopt_torch.token_logps(*(torch.from_numpy(each).cuda() for each in values())).logps
    for _ in range(3):
        got = prefopt_torch.token_logps(logits, labels).logps
        assert got.is_cuda
        assert torch.equal(got, want)
    prefopt.cuda_check()


def test_cupy() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    logits, labels = map(cupy.asarray, values())
    check(logits, labels)
    result = cupy.from_dlpack(prefopt_torch.token_logps(logits, labels).logps)
    assert result.shape == (ROWS,)


def test_cupy_on_a_stream_of_its_own() -> None:
    """What a slow stream still fills is waited for."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    with cupy.cuda.Stream(non_blocking=True):
        big = cupy.random.rand(4096, 4096, dtype=cupy.float32)
        for _ in range(20):
            big = big @ big * 1e-3
        logits = cupy.asarray(values()[0]) + 0 * big[0, 0]
        labels = cupy.asarray(values()[1])
        check(logits, labels)


def test_jax() -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    if jax.default_backend() != "gpu":
        pytest.skip("JAX has no GPU here")
    check(*map(jax.numpy.asarray, values()))


class ByInterface:
    def __init__(self, tensor: Any, stream: int) -> None:
        self.tensor, self.stream = tensor, stream

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.tensor.__cuda_array_interface__, "version": 3, "stream": self.stream}


def test_the_interface_and_its_stream() -> None:
    other = torch.cuda.Stream()
    logits, labels = (torch.from_numpy(each).cuda() for each in values())
    torch.cuda.synchronize()
    with torch.cuda.stream(other):
        torch.cuda._sleep(50_000_000)
        late = logits * 1
    check(ByInterface(late, other.cuda_stream), ByInterface(labels, 1))
