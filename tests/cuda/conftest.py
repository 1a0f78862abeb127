"""Tests of the CUDA library that PREFOPT_CUDA_LIB names, which has to be a simulated one:

python tools/cuda_sim.py run source python -m pytest tests/cuda
"""

from __future__ import annotations

from collections.abc import Iterator

import cuda_device as device
import pytest

from prefopt import _cuda


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    found = _cuda.opened()
    if found is not None and found.is_simulated:
        return
    skip = pytest.mark.skip(
        reason="PREFOPT_CUDA_LIB names no simulated library (tools/cuda_sim.py)"
    )
    for item in items:
        if "tests/cuda/" in item.path.as_posix():
            item.add_marker(skip)


@pytest.fixture(
    params=["forward", "reverse", "shuffled"] if device.VARIANT == "source" else ["shuffled"]
)
def order(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs in every order of threads and blocks."""
    device.set_order(request.param)
    yield request.param
    device.set_order("forward")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves a bad value behind."""
    yield
    _cuda.library().check()
