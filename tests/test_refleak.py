"""No call keeps a reference or memory: every binding function, success and error paths.

The calls and the count of references are those of tests/refleak_dbg.py; objects known to the
garbage collector and the bytes that tracemalloc sees (Python objects and NumPy's data) are counted
as well.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from refleak_dbg import OnlyDLPack, References, calls, growth
from support import run_script

import prefopt

CALLS = list(calls())


@pytest.fixture(scope="module")
def references() -> References:
    """Made after every call was made once; what other tests left behind is out of the count."""
    for _, call in CALLS:
        call()
    return References()


@pytest.fixture(autouse=True)
def short_collections() -> Iterator[None]:
    """What exists before a test is no garbage of it."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize(("name", "call"), CALLS, ids=[name for name, _ in CALLS])
def test_references(name: str, call: Callable[[], Any], references: References) -> None:
    assert growth(call, references, 40) < 0.5
    assert growth(call, lambda: len(gc.get_objects()), 10) < 0.5


def test_the_count_sees_a_leak(references: References) -> None:
    """One reference a call kept to a dtype, to an argument, to an exception type."""
    for kept in (np.dtype("float32"), CALLS, ValueError, prefopt.TokenLogps):
        grown = growth(
            lambda value=kept: ctypes.pythonapi.Py_IncRef(ctypes.py_object(value)), references
        )
        assert 0.9 < grown < 1.1


def test_memory() -> None:
    """No call keeps memory: under 8 bytes a call under tracemalloc, half of the smallest object.

    Call by call: over a mixture of calls, NumPy's and Python's free lists take a thousand rounds to
    fill, and their growth would hide a leak. What a cache takes once (some hundred bytes were seen)
    is told from a leak by more calls: a leak grows with them.
    """
    tracemalloc.start()
    try:
        for name, call in CALLS:
            for repeats in (40, 1000):
                kept = growth(call, lambda: tracemalloc.get_traced_memory()[0], repeats)
                if kept < 8:
                    break
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
