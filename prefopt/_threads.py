"""Threads and instruction sets: process-wide thread count, per-context ISA row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from . import _core

__all__ = ["get_num_threads", "isas", "set_num_threads", "using_isa"]


def set_num_threads(n: int) -> None:
    """Let kernels use up to ``n`` threads (1 to 4096), process-wide. The bits of results do not
    depend on it.""" _core.set_num_threads(n)


def get_num_threads() -> int:
    """Threads that kernels use at most: OMP_NUM_THREADS, or the CPUs this process may run on, until
    set.""" return _core.get_num_threads()


def isas() -> tuple[str, ...]:
    """Names of the kernel rows usable on this machine, slowest first; the last one is taken unless
    PREFOPT_ISA says else.""" return _core.isas()


@contextmanager
def using_isa(name: str) -> Iterator[None]:
    """Run kernels on the row ``name`` ("scalar", "avx2", "avx512", "neon") inside the ``with``
    block.

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
