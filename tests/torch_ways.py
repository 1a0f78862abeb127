"""The ways from prefopt.torch into the kernels, which its tests take in turn.

`cuda` gives CPU tensors to the CUDA library built for the simulated GPU (tools/cuda_sim.py), or to
the one that PREFOPT_CUDA_LIB names; those tests run with -m cuda_sim.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefopt import _cuda
from prefopt.torch import _bridge

ROOT = Path(__file__).resolve().parent.parent


def _simulated_library() -> str:
    """The file that PREFOPT_CUDA_LIB names, or a build of the present sources."""
    if named := os.environ.get("PREFOPT_CUDA_LIB"):
        return named
    if not (ROOT / "tools" / "cuda_sim.py").exists():
        pytest.skip("tools/ is not beside the tests")
    sys.path.insert(0, str(ROOT / "tools"))
    import cuda_sim
    import cuda_toolkit

    if not cuda_toolkit.is_present():
        pytest.skip("no CUDA toolkit: neither on PATH nor under /usr/local/cuda*")
    return str(cuda_sim.build("source"))


@contextlib.contextmanager
def _simulated_gpu() -> Iterator[None]:
    library = _simulated_library()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cuda, "_path", lambda: library)
        with _bridge.force_cuda():
            yield
            _cuda.library().check()  # no test leaves a bad value behind


WAYS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "direct": contextlib.nullcontext,
    "operators": _bridge.force_operators,
    "plain": _bridge.force_plain,
    "cuda": _simulated_gpu,
}


def parameters(*names: str) -> list[Any]:
    """For a fixture `way`: these, and the simulated GPU."""
    return [*names, pytest.param("cuda", marks=pytest.mark.cuda_sim)]


def agree(ours: Any, theirs: Any, way: str) -> None:
    """The same dtype and bits; from a GPU, which sums in another order, within an ulp or two."""
    got = ours.detach().numpy()
    assert got.dtype == np.asarray(theirs).dtype
    if way != "cuda":
        np.testing.assert_array_equal(got, theirs)
        return
    tolerance = 2 * np.finfo(got.dtype).eps if got.dtype.kind == "f" else 0
    np.testing.assert_allclose(got, theirs, rtol=tolerance, atol=tolerance)
