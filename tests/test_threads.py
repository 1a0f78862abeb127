"""Calls from many threads, thread counts, ISA selection per context, and the caller's
floating-point control word.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import ctypes.util
import platform
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from oracle import logps as oracle
from support import run_script, same_bits, same_results

import prefopt
from prefopt import _core
from prefopt._pair import PAIR_STATS

ALL = oracle.OPTIONAL_STATS
ROWS = ("scalar", "avx2", "avx512", "neon")


@pytest.fixture(autouse=True)
def threads_are_put_back() -> Iterator[None]:
    before = prefopt.get_num_threads()
    yield
    prefopt.set_num_threads(before)


def make_logits(rows: int = 12, vocab: int = 5003, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, vocab)).astype(np.float32), rng.integers(0, vocab, rows)


# ---- many callers --------------------------------------------------------------------------------


def test_many_callers_at_once() -> None:
    """Eight Python threads, forward and backward, same bits as alone."""
    prefopt.set_num_threads(2)
    problems = [make_logits(seed=seed) for seed in range(8)]

    def work(problem: tuple[np.ndarray, np.ndarray]) -> tuple[prefopt.TokenLogps, np.ndarray]:
        logits, labels = problem
        forward = prefopt.token_logps(logits, labels, stats=ALL)
        ones = np.ones(len(labels), np.float32)
        return forward, prefopt.token_logps_grad(logits, labels, forward.lse, grad_logps=ones)

    want = [work(problem) for problem in problems]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for (forward, grad), (want_forward, want_grad) in zip(
                pool.map(work, problems), want, strict=True
            ):
                assert same_results(forward, want_forward)
                assert same_bits(grad, want_grad)


def test_the_gil_is_released() -> None:
    """Another Python thread runs while one kernel call does: with the GIL held through the call it
    could not.

    The switch interval is set so long that the interpreter never takes the GIL from a thread by
    itself; whoever runs must give it up. The other thread counts, giving way by sleep(0), and can
    only count during the call if it let go.
    """
    logits, labels = make_logits(4, 2_000_000)
    prefopt.set_num_threads(1)
    ticks = 0
    stop = False

    def tick() -> None:
        nonlocal ticks
        while not stop:
            ticks += 1
            time.sleep(0)

    thread = threading.Thread(target=tick)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread.start()
        time.sleep(0.01)
        counted = ticks
        for _ in range(50):  # on a busy machine the other thread may miss a call of a few ms
            prefopt.token_logps(logits, labels)
            during = ticks - counted
            if during:
                break
    finally:
        stop = True
        sys.setswitchinterval(before)
        thread.join()
    assert during > 0


def test_set_num_threads() -> None:
    for count in (1, 2, 3, 7, 64):
        prefopt.set_num_threads(count)
        assert prefopt.get_num_threads() == count
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(prefopt.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [64]  # process-wide


@pytest.mark.parametrize("count", [0, -1, 2**31, 2**64, 1.5, "2", None, [2]], ids=repr)
def test_bad_thread_counts(count: object) -> None:
    prefopt.set_num_threads(3)
    with pytest.raises((ValueError, TypeError), match="n"):
        prefopt.set_num_threads(count)  # type: ignore[arg-type]
    assert prefopt.get_num_threads() == 3


@pytest.mark.parametrize(
    ("value", "expected"), [("1", 1), ("3", 3), ("4,2", 4), ("nonsense", None), ("0", None)]
)
def test_omp_num_threads(value: str, expected: int | None) -> None:
    done = run_script(
        "import prefopt; print(prefopt.get_num_threads())", env={"OMP_NUM_THREADS": value}
    )
    assert done.returncode == 0, done.stderr
    if expected is None:
        assert int(done.stdout) >= 1
    else:
        assert int(done.stdout) == expected


# ---- ISA rows ------------------------------------------------------------------------------------


def test_isas() -> None:
    names = prefopt.isas()
    assert "scalar" in names
    assert len(set(names)) == len(names)
    assert set(names) <= set(ROWS)
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        assert "neon" in names
    assert _core.isa() in names


def test_using_isa_nests() -> None:
    outside = _core.isa()
    names = prefopt.isas()
    with prefopt.using_isa(names[0]):
        assert _core.isa() == names[0]
        with prefopt.using_isa(names[-1]):
            assert _core.isa() == names[-1]
        assert _core.isa() == names[0]
        with pytest.raises(RuntimeError), prefopt.using_isa(names[-1]):
            raise RuntimeError("leaves by an exception")
        assert _core.isa() == names[0]
    assert _core.isa() == outside


@pytest.mark.parametrize(
    "name",
    ["sse9", "AVX2 ", "", "neon" if "neon" not in prefopt.isas() else "avx512"],
)
def test_unknown_isa_names_the_valid_ones(name: str) -> None:
    outside = _core.isa()
    with pytest.raises(ValueError) as caught, prefopt.using_isa(name):
        raise AssertionError("entered")
    message = str(caught.value)
    assert all(valid in message for valid in prefopt.isas()), message
    assert repr(name)[1:-1] in message
    assert _core.isa() == outside


@pytest.mark.parametrize("name", [None, 5, b"avx2", ["avx2"], "scalar\0", "\ud800"], ids=repr)
def test_isa_that_is_no_name(name: object) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^isa: "), prefopt.using_isa(name):  # type: ignore[arg-type]
        raise AssertionError("entered")


def test_using_isa_is_per_thread() -> None:
    """A row forced in one thread is not seen in another, at the same time."""
    names = prefopt.isas()
    barrier = threading.Barrier(len(names))
    logits, labels = make_logits(2, 100)

    def work(name: str) -> list[str]:
        seen = []
        with prefopt.using_isa(name):
            for _ in range(20):
                barrier.wait(timeout=20)
                prefopt.token_logps(logits, labels)
                seen.append(_core.isa())
        return seen

    with ThreadPoolExecutor(len(names)) as pool:
        for name, seen in zip(names, pool.map(work, names), strict=True):
            assert set(seen) == {name}


def test_using_isa_is_per_context() -> None:
    """Two asyncio tasks on one thread, each with its own row; a copied context carries its row
    along.
    """
    logits, labels = make_logits(1, 50)

    def current() -> str:
        prefopt.token_logps(logits, labels)  # the row in force is the one that a kernel call takes
        return str(_core.isa())

    async def task(name: str, turns: list[bool]) -> None:
        with prefopt.using_isa(name):
            for _ in range(3):
                turns.append(current() == name)
                await asyncio.sleep(0)

    async def both() -> list[bool]:
        turns: list[bool] = []
        names = prefopt.isas()
        await asyncio.gather(task(names[0], turns), task(names[-1], turns))
        return turns

    assert set(asyncio.run(both())) == {True}
    with prefopt.using_isa("scalar"):
        context = contextvars.copy_context()
    assert context.run(current) == "scalar"


def test_prefopt_isa_forces_a_row() -> None:
    for name in prefopt.isas():
        done = run_script(
            """
            import numpy as np, prefopt
            from prefopt import _core
            prefopt.token_logps(np.zeros((1, 4), np.float32), np.array([0]))
            print(_core.isa())
            """,
            env={"PREFOPT_ISA": name},
        )
        assert done.stdout.strip() == name, done.stderr


@pytest.mark.parametrize("name", ["sse9", "AVX-512", "avx2,avx512"])
def test_bad_prefopt_isa_raises_at_the_first_call(name: str) -> None:
    """Import, isas() and the thread functions work; every kernel call raises and names variable and
    valid rows.
    """
    done = run_script(
        """
        import numpy as np, prefopt
        from prefopt import _core
        print(prefopt.isas(), prefopt.get_num_threads())
        logits, labels = np.zeros((1, 4), np.float32), np.array([0])
        zero = logits[:, 0]
        for call in (lambda: prefopt.token_logps(logits, labels),
                     lambda: prefopt.token_logps(logits, labels),
                     lambda: prefopt.token_logps_grad(logits, labels, zero, grad_logps=zero),
                     lambda: _core.exp_f32(logits[0])):
            try:
                call()
            except ValueError as error:
                assert "PREFOPT_ISA" in str(error) and "scalar" in str(error), error
            else:
                raise AssertionError("the call went through")
        with prefopt.using_isa("scalar"):
            prefopt.token_logps(logits, labels)
        print("done")
        """,
        env={"PREFOPT_ISA": name},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")


# ---- the floating-point control word -------------------------------------------------------------

X86 = platform.machine().lower() in ("x86_64", "amd64")
UPWARD = 0x800 if X86 else 0x400000  # FE_UPWARD of x86-64 and aarch64
LINUX = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
needs_fenv = pytest.mark.skipif(
    not LINUX, reason="knows the floating-point environment of Linux only"
)


def pair_and_linear(
    logits: np.ndarray, labels: np.ndarray, upstream: np.ndarray, temperature: float
) -> list[np.ndarray]:
    ref = logits[::-1].copy()
    pair = prefopt.pair_token_stats(logits, ref, labels, temperature=temperature, stats=PAIR_STATS)
    pair_grad = prefopt.pair_token_stats_grad(
        logits,
        ref,
        labels,
        pair.policy_lse,
        pair.ref_lse,
        grad_policy_logps=upstream,
        grad_ref_policy_kl=upstream,
        temperature=temperature,
    )
    hidden, weight = logits[:, :16].copy(), logits[:8, :4096].reshape(-1, 16).copy()
    labels = labels % len(weight)
    linear = prefopt.linear_token_logps(
        hidden, weight, labels, temperature=temperature, stats=ALL, return_grad_hidden=True, topk=3
    )
    needed = prefopt.linear_token_logps_grad(
        hidden, weight, labels, linear.lse, grad_logps=upstream, temperature=temperature
    )
    results = [*pair, pair_grad, *linear, *needed]
    return [value for value in results if value is not None]


class FloatEnvironment:
    """fegetenv/fesetenv of the C library, with flush-to-zero and denormals-are-zero set by hand."""

    def __init__(self) -> None:
        self.libm = ctypes.CDLL(ctypes.util.find_library("m"))
        self.saved = (ctypes.c_uint32 * 16)()
        # glibc's fenv_t: x86-64 ends with MXCSR (word 7), aarch64 begins with FPCR.
        self.word = 7 if X86 else 0
        self.flush = 0x8040 if X86 else 1 << 24

    def read(self) -> int:
        now = (ctypes.c_uint32 * 16)()
        self.libm.fegetenv(now)
        mask = 0xFFC0 if X86 else 0xFFFFFFFF  # without the sticky exception flags
        return int(now[self.word]) & mask

    def enter(self, *, flush: bool, upward: bool) -> None:
        self.libm.fegetenv(self.saved)
        changed = (ctypes.c_uint32 * 16)(*self.saved)
        if flush:
            changed[self.word] |= self.flush
        self.libm.fesetenv(changed)
        if upward:
            self.libm.fesetround(UPWARD)

    def leave(self) -> None:
        self.libm.fesetenv(self.saved)


@needs_fenv
@pytest.mark.parametrize(("flush", "upward"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_control_word(isa: str, threads: int, name: str, flush: bool, upward: bool) -> None:
    """Flush-to-zero or another rounding mode of the caller changes no bit of the results, and is
    back afterwards.
    """
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(12, 4099)).astype(name)
    smallest = np.finfo(name).smallest_subnormal
    logits[::2] = rng.integers(-99, 99, (6, 4099)) * smallest  # denormals: a flush would lose them
    labels = rng.integers(0, 4099, 12)
    upstream = (rng.integers(-99, 99, 12) * smallest).astype(name)
    few = -rng.random((3, 50)).astype(name)

    def everything() -> list[np.ndarray]:
        results: list[np.ndarray] = []
        for temperature in (1.7, 0.7):  # the inverse of only the second rounds to another double
            forward = prefopt.token_logps(logits, labels, temperature=temperature, stats=ALL)
            results += [value for value in forward if value is not None]
            grad = prefopt.token_logps_grad(
                logits, labels, forward.lse, grad_logps=upstream, temperature=temperature
            )
            results.append(grad)
            results += pair_and_linear(logits, labels, upstream, temperature)
        state = prefopt.RowState.read(logits[1, :777], 5)
        state = state.merge(prefopt.RowState.read(logits[1, 777:], 5, first_vocab=777))
        results.append(np.array(list(state.finish().values())))
        results.append(prefopt.sequence_logps(few, average=True))
        results.append(np.array(prefopt.kto_kl(few[0], few[1])))
        loss = prefopt.dpo_loss(few[0], few[1], few[1], few[2], return_grads=True)
        return [*results, *loss, *loss.grads.values()]

    want = everything()
    environment = FloatEnvironment()
    environment.enter(flush=flush, upward=upward)
    try:
        inside = environment.read()
        got = everything()
        after = environment.read()
    finally:
        environment.leave()
    assert inside != environment.read(), (
        "the environment was not changed: the test would show nothing"
    )
    assert after == inside
    assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))
