"""Worst error of the kernels' exp over every float32, row by row, in units in the last place.

    python benchmarks/vmath.py [--quick] [--isa-rows avx2 scalar]

Every one of the 2^32 bit patterns goes through `_core.exp_f32` on each ISA row; the reference is
exp in float64 (its own error is 1e-9 of a float32 ulp). Rows must also agree bit for bit. --quick
takes every 61st pattern. The figures belong into the comment of csrc/simd/vmath.h.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parent.parent))

import prefopt

SMALLEST = 2.0**-125.5
CHUNK = 1 << 22
PATTERNS = 1 << 32


def ulps(x: np.ndarray, got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """|got - exact| in spacings of float32 at exact; inf for a wrong result without one."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(np.float32)
        spacing = np.spacing(np.abs(rounded)).astype(np.float64)
        error = np.abs(got.astype(np.float64) - exact) / spacing
    error = np.where(exact < SMALLEST, np.where(got == 0, 0.0, np.inf), error)
    error = np.where(np.isinf(rounded), np.where(np.isposinf(got), 0.0, np.inf), error)
    return np.where(np.isnan(x), np.where(np.isnan(got), 0.0, np.inf), error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="every 61st pattern")
    parser.add_argument("--isa-rows", nargs="+", default=list(prefopt.isas()), metavar="ROW")
    options = parser.parse_args()
    step = 61 if options.quick else 1
    worst = dict.fromkeys(options.isa_rows, (0.0, 0.0))
    agree = True
    for start in range(0, PATTERNS, CHUNK * step):
        stop = min(start + CHUNK * step, PATTERNS)
        x = np.arange(start, stop, step, dtype=np.uint32).view(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            exact = np.exp(x.astype(np.float64))
        first = None
        for row in options.isa_rows:
            with prefopt.using_isa(row):
                got = prefopt._core.exp_f32(x)
            error = ulps(x, got, exact)
            at = int(np.argmax(error))
            if not error[at] <= worst[row][0]:
                worst[row] = (float(error[at]), float(x[at]))
            bits = np.where(np.isnan(got), np.float32(np.nan), got).view(np.uint32)
            agree &= first is None or bool((bits == first).all())
            first = bits if first is None else first
        if sys.stdout.isatty():
            print(f"\r{stop / PATTERNS:5.1%}", end="", flush=True)
    print(f"exp over {PATTERNS // step} float32 patterns, {os.cpu_count()} CPUs")
    for row, (largest, where) in worst.items():
        print(f"  {row:8} worst {largest:.6f} ulp at {where!r} ({where.hex()})")
    print("  rows agree bit for bit" if agree else "  ROWS DISAGREE")
    return 0 if agree and all(np.isfinite(value) for value, _ in worst.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
