"""cuBLAS for the CUDA library: found where it is, opened at first need."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path

from . import _cuda
from ._cuda import CudaState
from ._cuda_abi import Error

__all__ = ["cublas_available"]

# Where NVIDIA's wheels put it, below the package `nvidia`.
_FILES = ("cu13/lib/libcublas.so.13", "cublas/lib/libcublas.so.12")


def _wheel_file() -> str | None:
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for name in _FILES:
            if (path := Path(folder) / name).exists():
                return str(path)
    return None


@functools.cache
def _opened(path: str) -> CudaState:
    """By the library at `path`."""
    library = _cuda.opened()
    assert library is not None
    open_it = library.handle.pfo_cuda_cublas_open
    open_it.argtypes, open_it.restype = [ctypes.c_char_p, ctypes.c_void_p], ctypes.c_int32
    error, wheel = Error(), _wheel_file()
    version = open_it(wheel.encode() if wheel else None, ctypes.byref(error))
    if not version:
        return CudaState(False, error.text().removeprefix("cublas: "))
    return CudaState(True, f"cuBLAS {version // 10000}.{version // 100 % 100}")


def cublas_available() -> CudaState:
    """Whether the fused linear operation can run on CUDA, which needs cuBLAS as well.

    A libcublas that the process has loaded (PyTorch's) is taken, else that of NVIDIA's wheels, else
    the system's. The answer is kept.
    """
    state, library = _cuda.cuda_available(), _cuda.opened()
    if not state or library is None:
        return state
    return _opened(library.path)
