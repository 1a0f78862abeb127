"""Threads and instruction sets: process-wide thread count, per-context ISA row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from . import _core

__all__ = ["get_num_threads", "isas", "set_num_threads", "using_isa"]


def set_num_threads(n: int) -> None:
    """Let kernels use up to ``n`` threads (1 to 4096), process-wide; bits do not depend on it.

    Raises ValueError outside that range, TypeError for anything but an int.
    """
    _core.set_num_threads(n)


def get_num_threads() -> int:
    """Threads that kernels use at most.

    Until it is set: OMP_NUM_THREADS, or the number of CPUs that this process may run on.
    """
    return _core.get_num_threads()


def isas() -> tuple[str, ...]:
    """Names of the kernel rows usable on this machine, slowest first.

    The last one is taken unless PREFOPT_ISA or `using_isa` names another.
    """
    return _core.isas()


@contextmanager
def using_isa(name: str) -> Iterator[None]:
    """Run kernels on the row ``name``, such as "scalar" or "avx2", inside the ``with`` block.

    Holds for the current context (thread or asyncio task). All rows give the same bits.

    Raises
    ------
    ValueError
        If the row is unknown or not usable on this CPU; names those that are.
    """
    _core.check_isa(name)
    token = _core.isa_context.set(name)
    try:
        yield
    finally:
        _core.isa_context.reset(token)
