"""The CUDA library: found and opened at first need, asked whether it can run here.

`libprefopt_cuda.so` stands beside the C core in the package when the package was built with nvcc.
It needs no CUDA to be opened, so that what is missing can be told apart. PREFOPT_CUDA_LIB names
another file: a build elsewhere, or the simulated GPU of tests/cuda_sim, whose device memory is the
host's.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

from ._cuda_abi import OPERATIONS, Call, Error

__all__ = ["CudaState", "Library", "cuda_available", "cuda_check", "library"]


class CudaState(NamedTuple):
    """Whether CUDA kernels can run here; false in a condition unless they can.

    `reason` is "ok", or begins with what is missing: "not built", "no driver", "driver too old",
    "no device".
    """

    available: bool
    reason: str

    def __bool__(self) -> bool:
        return self.available


class Library:
    """The opened library."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.handle = ctypes.CDLL(path)
        self.handle.pfo_cuda_build_info.restype = ctypes.c_char_p
        self.handle.pfo_cuda_build_info.argtypes = []
        self.handle.pfo_cuda_probe.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self.handle.pfo_cuda_check.argtypes = [ctypes.c_int32, ctypes.c_void_p]
        for name, has_workspace in OPERATIONS.items():
            getattr(self.handle, name).argtypes = [ctypes.c_void_p] * 3
            if has_workspace:
                query = getattr(self.handle, f"{name}_workspace")
                query.argtypes, query.restype = [ctypes.c_void_p] * 2, ctypes.c_int64

    @property
    def is_simulated(self) -> bool:
        """True for the simulated GPU: its device memory is the host's."""
        return hasattr(self.handle, "cuda_sim_set_order")

    def build_info(self) -> str:
        """Version, nvcc and architectures."""
        return self.handle.pfo_cuda_build_info().decode()  # type: ignore[no-any-return]

    def probe(self) -> CudaState:
        """Asks CUDA for a device."""
        devices, error = ctypes.c_int32(), Error()
        state = self.handle.pfo_cuda_probe(ctypes.byref(devices), ctypes.byref(error))
        if state == 0:
            return CudaState(True, "ok")
        return CudaState(False, error.text().removeprefix("cuda: "))

    def workspace(self, name: str, args: Any, call: Call) -> int:
        """Bytes of scratch that an operation needs; 0 where its arguments are wrong, as it says."""
        if not OPERATIONS[name]:
            return 0
        query = getattr(self.handle, f"{name}_workspace")
        needed: int = query(ctypes.byref(args), ctypes.byref(call))
        return max(0, needed)

    def run(self, name: str, args: Any, call: Call) -> None:
        """Queues an operation, or raises."""
        error = Error()
        status = getattr(self.handle, name)(
            ctypes.byref(args), ctypes.byref(call), ctypes.byref(error)
        )
        if status:
            raise error.exception()

    def check(self, device: int = -1) -> None:
        """Waits, and raises for a bad value that a kernel met."""
        error = Error()
        if self.handle.pfo_cuda_check(device, ctypes.byref(error)):
            raise error.exception()


@functools.cache
def _path() -> str | None:
    """The library's file: what PREFOPT_CUDA_LIB names, or the package's own if it was built."""
    if named := os.environ.get("PREFOPT_CUDA_LIB"):
        return named
    own = Path(__file__).with_name("libprefopt_cuda.so")
    return str(own) if own.exists() else None


@functools.cache
def _opened(path: str) -> Library | str:
    """The library, or why it cannot be opened."""
    try:
        return Library(path)
    except (OSError, AttributeError) as error:
        return f"cannot open {path}: {error}"


@functools.cache
def _state(path: str | None) -> CudaState:
    if path is None:
        return CudaState(False, "not built")
    opened = _opened(path)
    return CudaState(False, opened) if isinstance(opened, str) else opened.probe()


def cuda_available() -> CudaState:
    """Whether the CUDA kernels can run here, with the reason in words where they cannot.

    The first call initialises CUDA where there is a driver; the answer is kept.
    """
    return _state(_path())


def opened() -> Library | None:
    """The library, whether it can run here or not; None if there is none or it does not open."""
    path = _path()
    found = None if path is None else _opened(path)
    return found if isinstance(found, Library) else None


def library() -> Library:
    """The library, where `cuda_available()`; else RuntimeError with its reason."""
    state, found = cuda_available(), opened()
    if not state or found is None:
        raise RuntimeError(f"prefopt has no CUDA kernels here: {state.reason}")
    return found


def cuda_check() -> None:
    """Raise ValueError if a CUDA kernel met a bad label or another bad value since the last call.

    Kernels run later than their call, so that nobody looks at labels before: a bad one gives NaN
    and a gradient of 0, and is noted on the device. This waits for the devices, reads the note and
    clears it. PREFOPT_CHECK=1 does so after each operation. Without CUDA there is nothing to check.
    """
    if cuda_available():
        library().check()


def checks_at_once() -> bool:
    """True where PREFOPT_CHECK asks for `cuda_check` after each operation."""
    return os.environ.get("PREFOPT_CHECK", "") not in ("", "0")
