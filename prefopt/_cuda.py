"""The CUDA half: this release has none, and says so."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CudaState", "cuda_available", "cuda_check"]


class CudaState(NamedTuple):
    """Whether CUDA kernels can run here; false in a condition unless they can."""

    available: bool
    reason: str

    def __bool__(self) -> bool:
        return self.available


def cuda_available() -> CudaState:
    """State of the CUDA kernels, with the reason in words.

    This release was built without them: "not built".
    """
    return CudaState(False, "not built")


def cuda_check() -> None:
    """Raise if a CUDA kernel met a bad label since the last call.

    Without CUDA kernels there is nothing to report.
    """
