"""prefopt.torch over gloo processes: DDP, FSDP2 and split vocabularies against one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch has no gloo", allow_module_level=True)
if not hasattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard"):
    pytest.skip("torch has no FSDP2", allow_module_level=True)

from torch_distributed_cases import CASES  # noqa: E402
from torch_linear_cases import within  # noqa: E402

PROGRAM = Path(__file__).with_name("torch_distributed_cases.py")
SIZES = (2, 3)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """By number of processes and rank: what each case found. A launch runs all of them."""
    found = {}
    for size in SIZES:
        folder = tmp_path_factory.mktemp(f"gloo{size}")
        files = [folder / f"{rank}.json" for rank in range(size)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if sys.platform == "linux":
            environment["GLOO_SOCKET_IFNAME"] = "lo"
        processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    str(PROGRAM),
                    str(rank),
                    str(size),
                    str(folder / "meet"),
                    str(file),
                ],
                env=environment,
            )
            for rank, file in enumerate(files)
        ]
        try:
            codes = [process.wait(timeout=300) for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert codes == [0] * size
        found[size] = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return found


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name, (sizes, _) in CASES.items() for size in sizes]
)
def test_against_one_process(results: Any, name: str, size: int) -> None:
    for errors in (each[name] for each in results[size]):
        assert isinstance(errors, dict), errors
        assert errors
        for error in errors.values():
            within(error, 7e-14)
