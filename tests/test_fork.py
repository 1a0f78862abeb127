"""fork: the child computes the same bits on its own thread and never waits for OpenMP's, which did
not survive.

Each case runs in a fresh interpreter with a time limit, so that a hang is a failure and not a stuck
test run.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import run_script

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")

PROLOGUE = """
import os, signal, sys, threading, time
import numpy as np, prefopt

prefopt.set_num_threads(2)
rng = np.random.default_rng(0)
logits = rng.normal(size=(64, 20011)).astype(np.float32)
labels = rng.integers(0, 20011, 64)
ones = np.ones(64, np.float32)

def compute():
    forward = prefopt.token_logps(logits, labels, stats=("entropy", "correct", "lse2"))
    grad = prefopt.token_logps_grad(logits, labels, forward.lse, grad_logps=ones)
    sums = prefopt.sequence_logps(forward.logps.reshape(8, 8))
    return b"".join(np.asarray(a).tobytes() for a in (*forward, grad, sums) if a is not None)

def in_child(body):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # a hang ends the child, and its parent sees that it did
        try:
            os._exit(0 if body() else 3)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(4)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"child status {status}"

want = compute()
"""


def run(body: str, timeout: float = 90.0) -> subprocess.CompletedProcess[str]:
    done = run_script(PROLOGUE + body + "\nprint('all children done')\n", timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all children done" in done.stdout
    return done


def test_fork_after_openmp_ran() -> None:
    """The plain case: a pool exists in the parent, the child must not wait for it; nor a
    grandchild.
    """
    run(
        """
def grandchild():
    in_child(lambda: compute() == want)
    return compute() == want

in_child(lambda: compute() == want)
in_child(grandchild)
assert compute() == want  # the parent goes on in parallel
"""
    )


def test_fork_while_another_thread_is_in_a_kernel() -> None:
    """Several forks, each while a kernel runs in parallel on another thread, at another moment of
    it.
    """
    run(
        """
stop = threading.Event()
inside = threading.Event()

def keep_busy():
    while not stop.is_set():
        inside.set()
        compute()

thread = threading.Thread(target=keep_busy)
thread.start()
inside.wait()
for attempt in range(6):
    time.sleep(0.003 * attempt)
    in_child(lambda: compute() == want)
stop.set()
thread.join()
assert compute() == want
"""
    )


def test_threads_in_the_child() -> None:
    """Python threads of the child call at once; the thread setting may be changed and read."""
    run(
        """
def several():
    from concurrent.futures import ThreadPoolExecutor
    prefopt.set_num_threads(3)
    assert prefopt.get_num_threads() == 3
    with ThreadPoolExecutor(3) as pool:
        return all(result == want for result in pool.map(lambda _: compute(), range(3)))

in_child(several)
"""
    )


def test_multiprocessing_fork() -> None:
    """The pool of a data loader, started by fork after the parent used OpenMP."""
    run(
        """
import multiprocessing

def work(_):
    return compute() == want

with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(work, range(4)).get(timeout=40) == [True] * 4
"""
    )


def test_every_isa_row_in_the_child() -> None:
    run(
        """
def rows():
    for isa in prefopt.isas():
        with prefopt.using_isa(isa):
            if compute() != want:
                return False
    return True

in_child(rows)
"""
    )
