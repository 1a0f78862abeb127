"""Every binding function, success and error paths, called many times: no reference is kept.

    python3-dbg setup.py build_ext --inplace && python3-dbg tests/refleak_dbg.py

Counts the references to every object that exists (see References), which is exact on any Python and
finds a reference kept to anything. sys.gettotalrefcount() of a debug build would not do: it misses
what a NumPy wheel, compiled for release, decrements (one for each array), so it grows without a
leak. What a debug build adds are its own checks: a count below zero, or a result with an exception
set, aborts. Exit code 0: no growth, 1: a leak (named). tests/test_refleak.py makes the same calls.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import row_cases

import prefopt
from prefopt import _core

Call = Callable[[], Any]


def expect_error(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Call:
    """A call that must raise: error paths leak first."""

    def call() -> None:
        try:
            function(*arguments, **keywords)
        except (ValueError, TypeError, RuntimeError):
            return
        raise AssertionError(f"{function.__name__} took what it should refuse")

    return call


class OnlyDLPack:
    """Hands its array over by DLPack, so that the capsule's deleter is exercised."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class BrokenDLPack(OnlyDLPack):
    def __dlpack__(self, **arguments: Any) -> Any:
        raise RuntimeError("no")


def token_calls() -> Iterator[tuple[str, Call]]:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 9)).astype(np.float32)
    labels = np.array([0, 8, -100])
    forward = prefopt.token_logps(logits, labels, stats=("entropy",))
    ones = np.ones(3, np.float32)
    out = np.empty_like(logits)
    stats = ("entropy", "correct", "mean_logit", "max_logit", "lse2")
    raw = np.zeros((3, 9), np.uint16)
    token, grad = prefopt.token_logps, prefopt.token_logps_grad
    yield "token_logps", lambda: token(logits, labels, stats=stats, temperature=2.0)
    yield "token_logps, list of stats", lambda: token(logits, labels, stats=["entropy"])
    yield "token_logps, raw bfloat16", lambda: token(raw, labels, dtype="bfloat16")
    yield "token_logps, int8 labels", lambda: token(logits, labels.astype(np.int8))
    yield "token_logps, buffer", lambda: token(memoryview(logits), memoryview(labels))
    yield "token_logps, DLPack", lambda: token(OnlyDLPack(logits), OnlyDLPack(labels))
    yield "token_logps, one row", lambda: token(logits[0], np.array(3))
    yield "token_logps_grad", lambda: grad(logits, labels, forward.lse, grad_logps=ones)
    yield (
        "token_logps_grad, everything",
        lambda: grad(
            logits,
            labels,
            forward.lse,
            grad_logps=ones,
            grad_entropy=ones,
            grad_lse=ones,
            entropy=forward.entropy,
            logps=forward.logps,
            out=out,
        ),
    )
    fortran = np.asfortranarray(logits)
    read_only = logits.copy()
    read_only.flags.writeable = False
    wrong: tuple[tuple[str, Any, Any, dict[str, Any]], ...] = (
        ("object logits", logits.astype(object), labels, {}),
        ("big-endian", logits.astype(">f4"), labels, {}),
        ("masked", np.ma.masked_array(logits), labels, {}),
        ("no array", "x", labels, {}),
        ("integer logits", labels[:, None], labels, {}),
        ("float labels", logits, ones, {}),
        ("object labels", logits, labels.astype(object), {}),
        ("bad label", logits, np.array([0, 9, 1]), {}),
        ("shape of labels", logits, labels[:2], {}),
        ("Fortran order", fortran, labels, {}),
        ("broken DLPack", BrokenDLPack(logits), labels, {}),
        ("broken DLPack labels", logits, BrokenDLPack(labels), {}),
        ("temperature", logits, labels, {"temperature": 0.0}),
        ("temperature type", logits, labels, {"temperature": "x"}),
        ("ignore_index", logits, labels, {"ignore_index": 2**70}),
        ("unknown stat", logits, labels, {"stats": ("x",)}),
        ("stats type", logits, labels, {"stats": (1,)}),
        ("dtype", logits, labels, {"dtype": "float8"}),
    )
    for name, bad_logits, bad_labels, keywords in wrong:
        yield f"token_logps: {name}", expect_error(token, bad_logits, bad_labels, **keywords)
        if "stats" not in keywords:
            yield (
                f"token_logps_grad: {name}",
                expect_error(grad, bad_logits, bad_labels, ones, grad_logps=ones, **keywords),
            )
    for name, wrong_out in (
        ("shape", out[:2]),
        ("read-only", read_only),
        ("type", "x"),
        ("dtype", out.astype("f8")),
    ):
        yield (
            f"token_logps_grad: {name} of out",
            expect_error(grad, logits, labels, ones, grad_logps=ones, out=wrong_out),
        )
    yield "token_logps_grad: lse", expect_error(grad, logits, labels, None, grad_logps=ones)
    yield (
        "token_logps_grad: no entropy",
        expect_error(grad, logits, labels, ones, grad_entropy=ones),
    )
    yield "token_logps_grad: nothing asked", expect_error(grad, logits, labels, ones)


def sequence_calls() -> Iterator[tuple[str, Call]]:
    logps = -np.ones((2, 3))
    packed = -np.ones(5)
    mask = np.ones((2, 3), bool)
    cu_seqlens = np.array([0, 2, 5])
    out, packed_out = np.empty_like(logps), np.empty_like(packed)
    twos, weights = np.full(2, 2.0), np.ones(5)
    sums, grad = prefopt.sequence_logps, _core.sequence_logps_grad
    yield "sequence_logps", lambda: sums(logps, mask, average=True)
    yield "sequence_logps, normalizer", lambda: sums(logps, average=True, normalizer=twos)
    yield "sequence_logps, packed", lambda: sums(packed, weights, cu_seqlens=cu_seqlens)
    yield "sequence_logps_grad", lambda: grad(twos, out, mask, None, True, None)
    yield (
        "sequence_logps_grad, packed",
        lambda: grad(twos, packed_out, None, cu_seqlens, False, None),
    )
    yield "sequence_logps: mask", expect_error(sums, logps, mask[:1])
    yield "sequence_logps: mask type", expect_error(sums, logps, "x")
    yield "sequence_logps: dtype", expect_error(sums, logps.astype(int))
    yield "sequence_logps: cu_seqlens", expect_error(sums, packed, cu_seqlens=np.array([0, 9, 5]))
    yield (
        "sequence_logps: normalizer",
        expect_error(sums, logps, average=True, normalizer=np.zeros(2)),
    )
    yield (
        "sequence_logps_grad: grad",
        expect_error(grad, np.ones(3), out, None, None, False, None),
    )
    yield "sequence_logps_grad: mask", expect_error(grad, np.ones(2), out, "x", None, False, None)


def other_calls() -> Iterator[tuple[str, Call]]:
    floats, doubles = np.ones(20, np.float32), np.ones(20)
    count = prefopt.get_num_threads()

    def force_isa() -> None:
        with prefopt.using_isa("scalar"):
            pass

    def force_unknown_isa() -> None:
        with contextlib.suppress(ValueError), prefopt.using_isa("sse9"):
            raise AssertionError("entered")

    yield "set_num_threads", lambda: prefopt.set_num_threads(count)
    yield "get_num_threads", prefopt.get_num_threads
    yield "isas", prefopt.isas
    yield "isa", _core.isa
    yield "build_info", _core.build_info
    yield "using_isa", force_isa
    yield "using_isa: unknown", force_unknown_isa
    yield "set_num_threads: zero", expect_error(prefopt.set_num_threads, 0)
    yield "set_num_threads: type", expect_error(prefopt.set_num_threads, "x")
    yield "exp_f32", lambda: _core.exp_f32(floats)
    yield "exp_f64", lambda: _core.exp_f64(doubles)
    yield "log_f64", lambda: _core.log_f64(doubles)
    for name in ("exp_f32", "exp_f64", "log_f64", "advise_huge_pages", "check_isa"):
        yield f"{name}: type", expect_error(getattr(_core, name), object())
        yield f"{name}: count", expect_error(getattr(_core, name))
    state = _core.row_state_read(doubles, None, 0, 3, 1.0)
    yield "row_state_read", lambda: _core.row_state_read(floats, None, 0, 3, 1.0)
    yield "row_state_merge", lambda: _core.row_state_merge(state, state)
    yield "row_state_finish", lambda: _core.row_state_finish(state)
    yield "row_state_read: shape", expect_error(_core.row_state_read, floats[None], None, 0, 3, 1.0)
    yield "row_state_merge: fields", expect_error(_core.row_state_merge, state, state[:5])
    yield "row_state_merge: type", expect_error(_core.row_state_merge, state, ("x",) * 9)
    yield "row_state_finish: type", expect_error(_core.row_state_finish, 5)
    yield "advise_huge_pages", lambda: _core.advise_huge_pages(doubles)
    yield "losses", _core.losses
    yield "loss: unknown", expect_error(prefopt.loss, "no such loss")


def loss_calls() -> Iterator[tuple[str, Call]]:
    """Every row of the loss list, value and gradients, and what a caller can get wrong."""
    for info in prefopt.losses():
        inputs = row_cases.inputs(info.name)
        first = info.inputs[0].name
        name, loss, core = info.name, prefopt.loss, _core.loss
        ones, grid = np.ones(4), np.ones((4, 5))
        # Bound as defaults: the calls are made after the loop has moved on.
        yield f"loss {name}", lambda n=name, a=inputs: prefopt.loss(n, **a)
        if info.kind == "procedure":
            continue
        yield (
            f"loss {name}, gradients",
            lambda n=name, a=inputs: prefopt.loss(n, **a, return_grads=True),
        )
        yield (
            f"loss {name}, grad_losses",
            lambda n=name, a=inputs, g=grid if info.tokenwise else ones: prefopt.loss(
                n, **a, grad_losses=g
            ),
        )
        yield f"loss {name}: no inputs", expect_error(loss, name)
        yield f"loss {name}: unknown input", expect_error(loss, name, nonsense=1, **inputs)
        for what, bad in (
            ("shape", np.ones((2, 3))),
            ("objects", np.array([None] * 4)),
            ("type", "x"),
        ):
            yield f"loss {name}: {what}", expect_error(loss, name, **{**inputs, first: bad})
        yield (
            f"loss {name}: shape of grad_losses",
            expect_error(loss, name, **inputs, grad_losses=np.ones(3)),
        )
        yield (
            f"_core.loss {name}: parameter",
            expect_error(core, name, inputs, {"x": 1.0}, None, True),
        )
        yield (
            f"_core.loss {name}: number",
            expect_error(core, name, inputs, {"beta": "x"}, None, True),
        )
        yield f"_core.loss {name}: key", expect_error(core, name, {1: ones}, {}, None, True)
        yield f"_core.loss {name}: no dict", expect_error(core, name, None, {}, None, True)
    three = np.ones(3)
    yield "kto_kl", lambda: prefopt.kto_kl(three, three)
    yield "kto_kl: shape", expect_error(prefopt.kto_kl, np.ones(3), np.zeros(2))
    yield "kto_kl: type", expect_error(prefopt.kto_kl, "x", np.zeros(2))


def calls() -> Iterator[tuple[str, Call]]:
    """Every call by name; each may be made any number of times.

    Arrays are made beforehand: np.ones and np.empty themselves keep a reference to their dtype.
    """
    yield from token_calls()
    yield from sequence_calls()
    yield from other_calls()
    yield from loss_calls()


class References:
    """The sum of the reference counts of all objects that exist when it is made.

    Objects of types without references of their own (None, dtypes, strings, numbers) are reached as
    referents of the others. The snapshot holds one reference to each, the same at every sum.
    """

    def __init__(self) -> None:
        gc.collect()
        tracked = gc.get_objects()
        unique = {id(value): value for value in tracked}
        unique |= {id(value): value for value in gc.get_referents(*tracked)}
        own = {id(tracked), id(unique), id(self), id(sys._getframe())}
        self.objects = [value for key, value in unique.items() if key not in own]

    def __call__(self) -> int:
        return sum(map(sys.getrefcount, self.objects))


def growth(call: Call, count: Callable[[], int], repeats: int = 50) -> float:
    """How much `count` grows per call: least of several, as caches fill once, what other threads
    do comes to an end, and leaks go on.
    """
    for _ in range(3):
        call()
    tries = []
    for pause in (0.0, 0.0, 0.1, 0.3, 1.0):
        time.sleep(pause)
        gc.collect()
        before = count()
        for _ in range(repeats):
            call()
        gc.collect()
        tries.append(abs(count() - before) / repeats)
        if tries[-1] < 0.5:
            break
    return min(tries)


def main() -> int:
    every = list(calls())
    for _, call in every:
        call()
    references = References()
    gc.freeze()  # what exists now is no garbage: collections stay short
    leaks = 0
    for name, call in every:
        grown = growth(call, references)
        if grown >= 0.5:
            leaks += 1
            print(f"LEAK {name}: {grown:+.2f} references per call")
    build = "debug" if hasattr(sys, "gettotalrefcount") else "release"
    print(f"refleak_dbg: {len(every)} calls on a {build} build of Python, {leaks} leaking")
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
