"""Builds for the simulated GPU, shared by the tests here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(Path(__file__).parent)]

cuda_toolkit = pytest.importorskip("cuda_toolkit", reason="tools/ is not beside the tests")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if cuda_toolkit.is_present():
        return
    skip = pytest.mark.skip(reason="no CUDA toolkit: neither on PATH nor under /usr/local/cuda*")
    for item in items:
        if item.get_closest_marker("cuda_sim"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def run_sim() -> Run:
    """run(variant, folder, arguments, sources, program, **environment): build what is out of date of
    a folder beside this file, run the program in it."""
    import cuda_sim

    def run(
        variant: str,
        folder: str,
        arguments: tuple[str, ...] = (),
        sources: str = "",
        program: str = "main.cpp",
        **env: str,
    ) -> subprocess.CompletedProcess[str]:
        path = f"tests/cuda_sim/{folder}"
        library = cuda_sim.build(variant, [f"{path}/{sources}" if sources else path], folder)
        return cuda_sim.run(
            variant,
            library,
            [f"{path}/{program}", *arguments],
            cwd=ROOT,
            env=env,
            capture_output=True,
        )

    return run
