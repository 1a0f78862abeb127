"""What csrc/cuda/cublas.cu declares of cuBLAS against its own header, by nvcc: types and values.

The header comes with the 440 MB wheel nvidia-cublas, which CI does without. PREFOPT_CUBLAS_INCLUDE
names its folder where it is not beside Python's packages or the CUDA toolkit's headers.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import cuda_toolkit
import pytest

pytestmark = pytest.mark.cuda_sim

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "csrc" / "cuda" / "cublas.cu"


def header_folder() -> Path | None:
    places = [Path(each) for each in [os.environ.get("PREFOPT_CUBLAS_INCLUDE")] if each]
    places += sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/include"))
    if cuda_toolkit.is_present():
        places.append(cuda_toolkit.include())
    return next((place for place in places if (place / "cublas_api.h").is_file()), None)


def compiles(source: str, tmp_path: Path, folder: Path) -> tuple[bool, str]:
    copy = tmp_path / "cublas.cu"
    copy.write_text(source, encoding="utf-8")
    command = [
        *(cuda_toolkit.nvcc(), *cuda_toolkit.NVCC_FLAGS, "-arch=compute_75", "-ptx"),
        *(f"-I{SOURCE.parent}", f"-I{folder}", copy, "-o", tmp_path / "cublas.ptx"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stderr


@pytest.fixture
def folder() -> Path:
    if not cuda_toolkit.is_present():
        pytest.skip("no nvcc")
    found = header_folder()
    if found is None:
        pytest.skip("no cublas_api.h: PREFOPT_CUBLAS_INCLUDE names no folder that has it")
    return found


def test_the_header_agrees(tmp_path: Path, folder: Path) -> None:
    good, words = compiles(SOURCE.read_text(encoding="utf-8"), tmp_path, folder)
    assert good, words


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("R_16BF = 14", "R_16BF = 15", "cudaDataType"),
        ("OP_T = 1", "OP_T = 2", "cublasOperation_t"),
        ("COMPUTE_32F = 68", "COMPUTE_32F = 69", "cublasComputeType_t"),
        ("GEMM_DEFAULT = -1", "GEMM_DEFAULT = 0", "cublasGemmAlgo_t"),
        ("void *workspace, size_t bytes", "void *workspace, int bytes", "cublasSetWorkspace"),
        ("int c_type, int ldc", "int ldc", "cublasGemmEx"),
        ("int lda, const void *b", "int lda, int b", "cublasGemmEx"),
    ],
)
def test_a_difference_is_found(
    before: str, after: str, named: str, tmp_path: Path, folder: Path
) -> None:
    text = SOURCE.read_text(encoding="utf-8")
    assert before in text
    good, words = compiles(text.replace(before, after, 1), tmp_path, folder)
    assert not good
    assert f'static assertion failed with "{named}"' in words, words
