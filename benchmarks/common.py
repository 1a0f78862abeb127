"""What every benchmark here shares: peers that are checked before they are timed, interleaved
rounds, the machine.

A benchmark registers `Peer`s, calls `check` (numbers against float64) and then `interleave`, which
times each peer once per round in a rotating order, so that drift of the clock or of a neighbour
falls on all of them alike. Medians are reported, minima beside them.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHORT_SECONDS = 5e-3  # a call shorter than this is timed in batches of about this length
# An installed prefopt is measured if there is one, else the checkout.
sys.path.append(str(Path(__file__).parent.parent))
# prefopt and torch each have an OpenMP pool, whose threads spin for a while after their last work.
SETTLE_SECONDS = 0.01
_MARK = "PREFOPT_BENCHMARK_CLEAN"


def clean_environment(threads: int, isa: str | None) -> None:
    """Start again without BLAS overrides (OPENBLAS_CORETYPE, OPENBLAS_L2_SIZE), with `threads` in
    every pool.

    `isa` pins prefopt and torch (kernels and compiled code) to one instruction set, for a
    comparison on a machine that has more.
    """
    count = str(threads)
    wanted = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, _MARK: "1"}
    if isa is not None:
        wanted["PREFOPT_ISA"] = isa
        wanted["ATEN_CPU_CAPABILITY"] = isa
    if os.environ.get(_MARK) == "1":
        return
    kept = {
        k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    }
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.argv], {**kept, **wanted})


def arguments(description: str, sections: Sequence[str]) -> argparse.Namespace:
    """The options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, under a minute; no target binds"
    )
    parser.add_argument(
        "--only", nargs="+", choices=sections, metavar="SECTION", help=", ".join(sections)
    )
    parser.add_argument("--rounds", type=int, help="rounds of each comparison (default 9, quick 3)")
    parser.add_argument(
        "--threads", type=int, default=2, help="for prefopt and its peers (default 2)"
    )
    parser.add_argument("--isa", help="pin prefopt and torch to this instruction set, avx2 say")
    parser.add_argument(
        "--accept", action="store_true", help="keep this result as the accepted one"
    )
    options = parser.parse_args()
    clean_environment(options.threads, options.isa)
    options.rounds = options.rounds or (3 if options.quick else 9)
    options.sections = options.only or list(sections)
    return options


# ---- peers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """One way to compute the numbers of a comparison.

    run: timed. before, after: not timed, called around every run. pages: "warm" where every page
    that run touches was touched before; "fresh..." where it allocates. Those are also run once,
    untimed, right before every timing: a virtual machine may give freed memory back to its host
    within seconds, and a first touch then costs the host's fault too, 10 times the guest's (free
    page reporting). error: from what run returned to its largest error against float64, raising
    where that is out of bounds.
    """

    name: str
    layout: str
    run: Callable[[], Any]
    error: Callable[[Any], float] | None = None
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    pages: str = "warm"
    unmasked: float = 1.0
    read_bytes: int = 0


@dataclass
class Timing:
    """Seconds per call of one peer."""

    peer: Peer
    error: float | None
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def minimum(self) -> float:
        return min(self.samples)

    def record(self, **labels: Any) -> dict[str, Any]:
        """What goes into the JSON file."""
        peer = self.peer
        return {
            **labels,
            "name": peer.name,
            "layout": peer.layout,
            "pages": peer.pages,
            "unmasked": peer.unmasked,
            "median_s": self.median,
            "minimum_s": self.minimum,
            "rounds": len(self.samples),
            "max_error": self.error,
            "read_bytes": peer.read_bytes,
        }


def _time_once(peer: Peer, calls: int) -> float:
    if peer.before is not None:
        peer.before()
    run = peer.run
    if peer.pages.startswith("fresh"):
        run()
    else:
        time.sleep(SETTLE_SECONDS)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    seconds = (time.perf_counter() - start) / calls
    if peer.after is not None:
        peer.after()
    return seconds


def measure(peers: Sequence[Peer], rounds: int) -> list[Timing]:
    """Check every peer (which warms it up and compiles it), then time all of them in `rounds`
    rounds.
    """
    timings = []
    calls = []
    for peer in peers:
        if peer.before is not None:
            peer.before()
        result = peer.run()
        timings.append(Timing(peer, peer.error(result) if peer.error else None))
        del result
        if peer.after is not None:
            peer.after()
        one = _time_once(peer, 1)
        calls.append(
            1 if peer.before or peer.after else max(1, int(SHORT_SECONDS / max(one, 1e-9)))
        )
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for i in range(len(peers)):
                k = (i + turn) % len(peers)
                timings[k].samples.append(_time_once(peers[k], calls[k]))
    finally:
        gc.enable()
    return timings


def best(timings: Sequence[Timing], *prefixes: str, layout: str | None = None) -> Timing:
    """The timing of least median among peers whose name starts with one of `prefixes`."""
    chosen = [
        each
        for each in timings
        if each.peer.name.startswith(prefixes) and layout in (None, each.peer.layout)
    ]
    if not chosen:
        raise KeyError(f"no peer named {prefixes} was timed")
    return min(chosen, key=lambda each: each.median)


# ---- targets -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A stated figure and the measured one; `at_most` turns the comparison round.

    floor: what the figure would be if ours took no longer than its memory traffic.
    """

    text: str
    figure: float
    bound: float
    unit: str = "x"
    at_most: bool = False
    binds: bool = True
    floor: float | None = None

    @property
    def passed(self) -> bool:
        return self.figure <= self.bound if self.at_most else self.figure >= self.bound

    def line(self) -> str:
        verdict = ("PASS" if self.passed else "MISS") if self.binds else "    "
        sign = "<=" if self.at_most else ">="
        bound = f"(target {sign} {self.bound:g}{self.unit})"
        floor = "" if self.floor is None else f"; at the memory floor {self.floor:.2f}{self.unit}"
        return f"{verdict}  {self.figure:8.2f}{self.unit}  {bound:18}  {self.text}{floor}"
