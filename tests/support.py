"""What several test files share: the dtypes of logits, bitwise comparison, scripts run in a fresh
interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from oracle import logps as oracle


@dataclass(frozen=True)
class Dtype:
    """One way to hand over logits: how arrays are made, read back exactly, and announced to
    prefopt.
    """

    name: str  # of the test parameter
    kind: str  # float16 | bfloat16 | float32 | float64
    make: Callable[[np.ndarray], np.ndarray]  # float64 values -> array, rounded to the dtype
    exact: Callable[[np.ndarray], np.ndarray]  # array -> the exact values, as float64
    keyword: str | None = None  # for dtype=

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments that every token op takes for this dtype."""
        return {"dtype": self.keyword}

    @property
    def result(self) -> np.dtype[Any]:
        """The dtype of the results."""
        return np.dtype(np.float64 if self.kind == "float64" else np.float32)


def _native(kind: str) -> Dtype:
    return Dtype(kind, kind, lambda v: v.astype(kind), lambda a: a.astype(np.float64))


def _ml_dtypes_bfloat16() -> Dtype:
    def make(values: np.ndarray) -> np.ndarray:
        import ml_dtypes

        return oracle.bfloat16_bits(values.astype(np.float32)).view(ml_dtypes.bfloat16)

    return Dtype(
        "bfloat16",
        "bfloat16",
        make,
        lambda a: oracle.bfloat16_values(np.asarray(a).view(np.uint16)),
    )


DTYPES = {
    "float16": _native("float16"),
    "bfloat16": _ml_dtypes_bfloat16(),
    "bfloat16_raw": Dtype(
        "bfloat16_raw",
        "bfloat16",
        lambda v: oracle.bfloat16_bits(v.astype(np.float32)),
        oracle.bfloat16_values,
        keyword="bfloat16",
    ),
    "float32": _native("float32"),
    "float64": _native("float64"),
}


def same_bits(left: Any, right: Any) -> bool:
    """Equal dtype, shape and bits, so that NaNs compare equal and zeros of different sign do
    not.
    """
    a, b = np.ascontiguousarray(left), np.ascontiguousarray(right)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def same_results(left: Any, right: Any) -> bool:
    """same_bits for two TokenLogps (or tuples): field by field, None only beside None."""
    return all(
        a is None and b is None if a is None or b is None else same_bits(a, b)
        for a, b in zip(tuple(left), tuple(right), strict=True)
    )


def run_script(
    source: str, *, env: dict[str, str] | None = None, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run Python source in a fresh interpreter that sees this prefopt and tests/; env overrides, ""
    unsets.

    A hang becomes a failure: subprocess.TimeoutExpired after `timeout` seconds.
    """
    import prefopt

    variables = dict(os.environ)
    package_root = str(Path(prefopt.__file__).resolve().parent.parent)
    paths = [package_root, str(Path(__file__).resolve().parent), variables.get("PYTHONPATH", "")]
    variables["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    variables["PYTHONWARNINGS"] = "ignore"  # fork in a threaded process warns from Python 3.12 on
    for name, value in (env or {}).items():
        variables.pop(name, None)
        if value:
            variables[name] = value
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        env=variables,
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
    )
