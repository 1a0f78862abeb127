"""No call keeps a reference or memory: every binding function, success and error paths
(tests/refleak_dbg.py).

An ordinary Python has no total reference count, so three coarser counts stand in for it: the
references to what every call touches (arguments, None, True, dtypes), the objects known to the
garbage collector, and the bytes that tracemalloc sees (Python objects and NumPy's data).
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from refleak_dbg import OnlyDLPack, calls, growth
from support import run_script

import prefopt
from prefopt import _core

CALLS = list(calls())


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """What other tests left behind must not be collected in the middle of a count."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def shared_references() -> int:
    """References to the objects that bindings touch most; immortal ones (None from 3.12 on) do not
    move.
    """
    shared = (
        np.dtype("float32"),
        np.dtype("float64"),
        np.dtype("bool"),
        None,
        True,
        False,
        np.ndarray,
        _core,
        (),
    )
    return sum(sys.getrefcount(value) for value in shared)


@pytest.mark.parametrize(("name", "call"), CALLS, ids=[name for name, _ in CALLS])
def test_shared_references_and_objects(name: str, call: Callable[[], Any]) -> None:
    assert abs(growth(call, shared_references, 20)) < 0.5
    assert abs(growth(call, lambda: len(gc.get_objects()), 10)) < 0.5


def test_memory() -> None:
    """No call keeps memory: under 8 bytes a call under tracemalloc, half of the smallest object.

    Call by call: over a mixture of calls, NumPy's and Python's free lists take a thousand rounds to
    fill, and their growth would hide a leak.
    """
    tracemalloc.start()
    try:
        for name, call in CALLS:
            kept = growth(call, lambda: tracemalloc.get_traced_memory()[0], 40)
            assert kept < 8, name
    finally:
        tracemalloc.stop()


def test_arguments_are_released() -> None:
    """The reference counts of arguments are what they were, after success and after a refusal."""
    logits = np.zeros((3, 5), np.float32)
    labels = np.zeros(3, np.int8)  # converted, so that the temporary is in play
    ones = np.ones(3, np.float32)
    bad = np.full(3, 99)
    out = np.empty_like(logits)
    stats = ("entropy", "lse2")
    watched = (logits, labels, ones, bad, out, stats)
    before = [sys.getrefcount(value) for value in watched]
    for _ in range(100):
        prefopt.token_logps(logits, labels, stats=stats)
        prefopt.token_logps_grad(logits, labels, ones, grad_logps=ones, out=out)
        prefopt.token_logps(OnlyDLPack(logits), labels)
        prefopt.token_logps(memoryview(logits), labels)
        prefopt.sequence_logps(ones[None, :], normalizer=ones[:1], average=True)
        for call in (
            lambda: prefopt.token_logps(logits, bad, stats=stats),
            lambda: prefopt.token_logps_grad(logits, bad, ones, grad_logps=ones, out=out),
            lambda: prefopt.token_logps_grad(logits, labels, ones[:2], grad_logps=ones, out=out),
        ):
            with pytest.raises(ValueError):
                call()
    gc.collect()
    assert [sys.getrefcount(value) for value in watched] == before


def test_exports_are_released() -> None:
    """A buffer that was handed over may be resized again: no export is kept, after success or
    failure.
    """
    data = bytearray(5 * 4)
    view = memoryview(data).cast("f")
    prefopt.token_logps(view, np.array(0))
    with pytest.raises(ValueError):
        prefopt.token_logps(view, np.array(77))
    view.release()
    data.append(0)


def test_large_results_are_freed() -> None:
    """Resident memory does not climb with calls whose results would fill it."""
    done = run_script(
        """
        import resource
        import numpy as np, prefopt
        logits = np.zeros((4096, 8), np.float32)
        labels = np.zeros(4096, np.int16)
        def some(count):
            for _ in range(count):
                forward = prefopt.token_logps(logits, labels, stats=("entropy", "lse2"))
                prefopt.token_logps_grad(logits, labels, forward.lse, grad_logps=forward.logps)
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before, after = some(100), some(1000)
        assert after - before < 16 * 1024, (before, after)  # a leak would be 200 MiB
        """
    )
    assert done.returncode == 0, done.stderr


def test_module_can_be_imported_again() -> None:
    """Multi-phase init: a second module object from the same extension works beside the first, and
    is freed.
    """
    done = run_script(
        """
        import gc, importlib.util, sys, weakref
        import numpy as np
        from prefopt import _core
        spec = importlib.util.find_spec("prefopt._core")
        def again():
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            assert module is not _core
            assert module.isas() == _core.isas()
            assert (module.exp_f32(np.zeros(3, np.float32)) == 1).all()
            return weakref.ref(module)
        first = again()
        gc.collect()
        assert first() is None, "the second module is kept alive"
        for _ in range(20):
            again()
        assert _core.exp_f32(np.zeros(1, np.float32))[0] == 1
        """
    )
    assert done.returncode == 0, done.stderr
