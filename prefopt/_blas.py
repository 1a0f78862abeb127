"""The BLAS of the fused linear kernels: a private OpenBLAS, found at the first call that multiplies.

It comes from the `scipy-openblas32` wheel, is set to one thread (each of prefopt's own threads
calls it), and is never one that another package has loaded: then a copy of its file is. Without it
a plain C loop multiplies. `PREFOPT_BLAS` names another library with `cblas_sgemm` and
`cblas_dgemm`, or `none`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

from . import _core

PACKAGE = "scipy_openblas32"

_lock = threading.Lock()
_state: str | None = None  # what came of looking, None before


def library_path() -> Path | None:
    """The library inside the scipy-openblas32 wheel, found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "lib"
    names = sorted(
        path for path in folder.glob("*scipy_openblas*") if path.suffix in (".so", ".dylib", ".dll")
    )
    return names[0] if names else None


def _is_loaded(path: Path) -> bool:
    """True if this process has the library open already: its thread count is somebody else's."""
    if not hasattr(os, "RTLD_NOLOAD"):
        return sys.platform == "win32"  # no way to ask without loading: take a copy
    try:
        ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return False
    return True


def _load(path: Path) -> str:
    if not _is_loaded(path):
        _core.blas_load(str(path))
        return f"{path} (one thread a call)"
    folder = tempfile.mkdtemp(prefix="prefopt-blas-")
    try:
        copy = Path(shutil.copy2(path, folder))
        _core.blas_load(str(copy))
    finally:
        if sys.platform != "win32":  # there an open file stays
            shutil.rmtree(folder, ignore_errors=True)
    return f"a copy of {path}, which another package has loaded (one thread a call)"


def ensure_loaded() -> str:
    """Look once; return what multiplies, in words. Thread safe."""
    global _state
    if _state is not None:
        return _state
    with _lock:
        if _state is None:
            _state = _find()
        return _state


def _find() -> str:
    wanted = os.environ.get("PREFOPT_BLAS", "")
    if wanted == "none":
        return "none (PREFOPT_BLAS=none): a plain C loop multiplies"
    if wanted:
        _core.blas_load(wanted)
        return f"{wanted} (PREFOPT_BLAS)"
    path = library_path()
    if path is None:
        return f"none: {PACKAGE} is not installed; a plain C loop multiplies, several times slower"
    try:
        return _load(path)
    except (OSError, ValueError) as error:
        return f"none: {error}; a plain C loop multiplies, several times slower"
