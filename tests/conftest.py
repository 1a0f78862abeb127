"""Fixtures shared by every test: isa, dtype, threads, rng. Markers: peers, gpu, nightly."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

import prefopt
from prefopt import _blas, _core

sys.path.insert(0, str(Path(__file__).parent))  # oracle and support, under every import mode

from support import DTYPES, Dtype

MARKERS = {
    "peers": "runs another project's own code (torch, TRL, Liger) beside ours",
    "gpu": "needs a CUDA device",
    "nightly": "exhaustive or slow; runs only when asked for with -m nightly",
}


# A gate that draws other cases each time fails whoever comes next: the default draws the same ones,
# `pytest --hypothesis-profile=explore` draws anew.
hypothesis.settings.register_profile("repeat", derandomize=True)
hypothesis.settings.register_profile("explore", derandomize=False)
hypothesis.settings.load_profile("repeat")


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "nightly" in (config.getoption("-m") or ""):
        return
    skip = pytest.mark.skip(reason="nightly: run with -m nightly")
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(skip)


@pytest.fixture(params=prefopt.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs once on every ISA row that this machine and build have."""
    with prefopt.using_isa(request.param):
        yield request.param


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> Dtype:
    """The test runs once for every dtype of logits, bfloat16 in both of its NumPy forms."""
    if request.param == "bfloat16" and importlib.util.find_spec("ml_dtypes") is None:
        pytest.skip("ml_dtypes is not installed")
    return DTYPES[request.param]


@pytest.fixture(params=(1, 2, 3, 7))
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The test runs with 1, 2, 3 and 7 threads; the setting is put back."""
    before = prefopt.get_num_threads()
    prefopt.set_num_threads(request.param)
    yield request.param
    prefopt.set_num_threads(before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240423)


@pytest.fixture(params=["blas", "plain"])
def products(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs with the BLAS and with the plain C loop."""
    _blas.ensure_loaded()
    name = _core.blas_name()
    if request.param == "blas" and not name:
        pytest.skip("no BLAS is installed: the plain loop is tested")
    _core.blas_load(name if request.param == "blas" else None)
    yield request.param
    _core.blas_load(name or None)
