"""The floating-point control word: results do not depend on the caller's, and the caller's is kept.

A caller may round upwards (interval arithmetic does) or flush denormals to zero (torch, fast-math
libraries); the word is per thread, so the calling thread and the workers are two cases.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from support import DTYPES

import prefopt

UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}.get(platform.machine())
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or UPWARD is None, reason="the rounding modes of glibc are known here"
)


@contextmanager
def rounding_upwards() -> Iterator[ctypes.CDLL]:
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    before = libm.fegetround()
    assert libm.fesetround(UPWARD) == 0
    try:
        yield libm
    finally:
        libm.fesetround(before)


def flat(value: Any) -> bytes:
    """The bits of every number in a result."""
    if isinstance(value, dict):
        return b"".join(flat(value[key]) for key in sorted(value))
    if isinstance(value, tuple):
        return b"".join(map(flat, value)) + flat(getattr(value, "grads", None))
    return b"" if value is None else np.asarray(value).tobytes()


def calls() -> dict[str, Callable[[], Any]]:
    rng = np.random.default_rng(0)
    results: dict[str, Callable[[], Any]] = {}
    labels = rng.integers(0, 20011, 16)
    for kind in ("float16", "bfloat16_raw", "float32", "float64"):
        dtype = DTYPES[kind]
        logits = dtype.make(3 * rng.normal(size=(16, 20011)))
        options = {"temperature": 0.7, **dtype.arguments}
        forward = prefopt.token_logps(logits, labels, stats=("entropy",), **options)
        upstream = rng.normal(size=16).astype(dtype.result)
        results[f"token_logps {kind}"] = lambda x=logits, o=options: prefopt.token_logps(
            x, labels, stats=("entropy", "lse2", "mean_logit"), **o
        )
        results[f"token_logps_grad {kind}"] = lambda x=logits, f=forward, u=upstream, o=options: (
            prefopt.token_logps_grad(
                x, labels, f.lse, entropy=f.entropy, grad_logps=u, grad_entropy=u, **o
            )
        )
    row = 3 * rng.normal(size=3001)

    def state() -> Any:
        parts = [
            prefopt.RowState.read(row[a:b], 5, first_vocab=a) for a, b in ((0, 777), (777, 3001))
        ]
        return tuple(parts[0].merge(parts[1]).finish().values())

    results["RowState"] = state
    sums = -40 * rng.random((4, 9))
    results["sequence_logps"] = lambda: prefopt.sequence_logps(sums, average=True)
    results["dpo_loss"] = lambda: prefopt.dpo_loss(*sums, beta=0.1, return_grads=True)
    results["kto_kl"] = lambda: prefopt.kto_kl(sums[0], sums[1])
    return results


CALLS = calls()


@pytest.mark.parametrize("name", CALLS)
def test_the_callers_rounding_changes_nothing(isa: str, threads: int, name: str) -> None:
    want = flat(CALLS[name]())
    with rounding_upwards() as libm:
        got = flat(CALLS[name]())
        kept = libm.fegetround()
    assert kept == UPWARD
    assert got == want
