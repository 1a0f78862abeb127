"""token_logps on a GPU: checked against float64, then timed beside torch, torch.compile and TRL.

    python benchmarks/token_logps_cuda.py                       # all shapes, a table
    python benchmarks/token_logps_cuda.py --quick --json out.json

A line is one way to compute one shape: median and least milliseconds between CUDA events, the
logits' bytes (read once; for a backward read and written) over the median as GB/s, that as a share
of what a plain copy on the same device moves, and the most memory that the call had beside its
inputs. Ways take turns, so that clocks and neighbours fall on all alike. A peer that is not
installed, or fails, is listed with its reason.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.append(str(Path(__file__).parent.parent))

import prefopt
from prefopt import _cuda
from prefopt import torch as prefopt_torch
from prefopt._bench_cuda import Gpu, milliseconds

STATS = ("entropy", "correct", "mean_logit", "max_logit", "lse2")


class Shape(NamedTuple):
    """One batch; torch.compile takes its seconds for the shapes that ask for it."""

    rows: int
    vocab: int
    dtype: str
    compiled: bool = False


# Long batches of today's vocabularies, few rows, small vocabularies.
SHAPES = (
    Shape(8192, 151936, "bfloat16", compiled=True),
    Shape(8192, 128256, "bfloat16"),
    Shape(16384, 32000, "bfloat16"),
    Shape(4096, 151936, "float32"),
    Shape(16, 151936, "bfloat16"),
    Shape(65536, 1024, "bfloat16"),
)
QUICK = SHAPES[:1]
CHECKED_ROWS = 256  # from either end of the batch
# float32 sums and a hardware 2^x against float64; a peer that rounds results to bfloat16 is off by
# up to 2^-9 of a log-probability of 30.
OWN_TOLERANCE, PEER_TOLERANCE = 1e-5, 0.13
REPEATS = 15


@dataclass
class Way:
    """One way to compute the shape's numbers; run returns log-probabilities or a gradient."""

    name: str
    run: Callable[[], Any]
    passes: float = 1.0  # times that the logits' bytes have to move
    tolerance: float = PEER_TOLERANCE
    is_backward: bool = False
    samples: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    error: float | None = None
    problem: str | None = None


# ---- the ways ------------------------------------------------------------------------------------


def _forward_ways(logits: Any, labels: Any, compiles: bool) -> list[Way]:
    index = labels.unsqueeze(-1)

    def own(stats: tuple[str, ...]) -> Callable[[], Any]:
        return lambda: prefopt_torch.token_logps(logits, labels, stats=stats).logps

    def log_softmax() -> Any:
        return torch.log_softmax(logits, -1).gather(-1, index).squeeze(-1)

    def in_float32() -> Any:
        return torch.log_softmax(logits.float(), -1).gather(-1, index).squeeze(-1)

    def with_entropy() -> Any:
        log_p = torch.log_softmax(logits.float(), -1)
        return log_p.gather(-1, index).squeeze(-1), -(log_p.exp() * log_p).sum(-1)

    def cross_entropy() -> Any:
        return -torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    compiled, compiled_entropy = torch.compile(in_float32), torch.compile(with_entropy)
    ways = [
        Way("prefopt logps", own(()), tolerance=OWN_TOLERANCE),
        Way("prefopt logps, entropy", own(("entropy",)), tolerance=OWN_TOLERANCE),
        Way("prefopt every statistic", own(STATS), tolerance=OWN_TOLERANCE),
        Way("torch log_softmax + gather", log_softmax),
        Way("torch cross_entropy", cross_entropy),
    ]
    if compiles:
        ways += [
            Way("torch.compile logps", compiled),
            Way("torch.compile logps, entropy", lambda: compiled_entropy()[0]),
        ]
    try:
        from trl.trainer.utils import entropy_from_logits, selective_log_softmax
    except Exception as problem:  # whatever an import of trl raises is its reason
        ways.append(Way("TRL", log_softmax, problem=f"not importable: {problem}"))
        return ways
    return [
        *ways,
        Way("TRL selective_log_softmax", lambda: selective_log_softmax(logits, labels)),
        Way("TRL entropy", lambda: (entropy_from_logits(logits), None)[1]),
    ]


def _backward_ways(logits: Any, labels: Any, compiles: bool) -> list[Way]:
    """d sum(logps) / d logits, forward and backward together, with the gradient's memory."""
    leaf = logits.detach().requires_grad_()
    ones = torch.ones(labels.shape, device=labels.device)

    def gradient(forward: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            result = forward()
            return torch.autograd.grad(result, leaf, ones.to(result.dtype))[0]

        return run

    def cross_entropy() -> Any:
        return -torch.nn.functional.cross_entropy(leaf, labels, reduction="none")

    def in_float32() -> Any:
        return torch.log_softmax(leaf.float(), -1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)

    saved = prefopt_torch.token_logps(leaf, labels).logps
    compiled = torch.compile(in_float32)

    def own() -> Any:
        return prefopt_torch.token_logps(leaf, labels).logps

    def alone() -> Any:
        return torch.autograd.grad(saved, leaf, ones, retain_graph=True)[0]

    ways = [
        ("prefopt backward alone", alone, 2),
        ("prefopt forward + backward", gradient(own), 3),
        ("torch cross_entropy forward + backward", gradient(cross_entropy), 3),
        *([("torch.compile forward + backward", gradient(compiled), 3)] if compiles else []),
    ]
    return [Way(name, run, passes, is_backward=True) for name, run, passes in ways]


# ---- checks --------------------------------------------------------------------------------------


def _ends(tensor: Any) -> Any:
    rows = min(CHECKED_ROWS, tensor.shape[0])
    return torch.cat([tensor[:rows], tensor[-rows:]])


def _check(way: Way, logits: Any, labels: Any) -> None:
    """Runs it, which also compiles it; the worst error against float64 over the checked rows."""
    result = way.run()
    torch.cuda.synchronize()
    if result is None:
        return
    x, y = _ends(logits).double(), _ends(labels).unsqueeze(-1)
    log_p = torch.log_softmax(x, -1)
    if not way.is_backward:
        way.error = float((_ends(result).double() - log_p.gather(-1, y).squeeze(-1)).abs().max())
    else:
        want = (-log_p.exp()).scatter_add_(-1, y, torch.ones_like(x[:, :1]))
        way.error = float((_ends(result).double() - want).abs().max())
    own = way.name.startswith("prefopt")
    limit = (2**-8 if own else 2**-6) if way.is_backward else way.tolerance
    if not way.error <= limit:
        way.problem = f"wrong: off by {way.error:.3g}"


# ---- times ---------------------------------------------------------------------------------------


def _peak(run: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def measure(shape: Shape, copy: float, repeats: int) -> dict[str, Any]:
    """Every way of one shape."""
    rows, vocab, dtype, compiles = shape
    torch._dynamo.reset()
    generator = torch.Generator(device="cuda").manual_seed(0)
    logits = torch.empty(rows, vocab, dtype=getattr(torch, dtype), device="cuda")
    logits.normal_(0, 4, generator=generator)
    labels = torch.randint(0, vocab, (rows,), device="cuda", generator=generator)
    size = logits.numel() * logits.element_size()
    lines = []
    for make in (_forward_ways, _backward_ways):
        ways = make(logits, labels, compiles)
        for way in ways:
            if way.problem is None:
                try:
                    _check(way, logits, labels)
                    way.peak_bytes = _peak(way.run)
                except Exception as problem:  # a peer's failure is a line of the table
                    way.problem = f"{type(problem).__name__}: {str(problem)[:200]}"
        good = [way for way in ways if way.problem is None]
        samples = milliseconds({way.name: way.run for way in good}, repeats)
        for way in good:
            way.samples = samples[way.name]
        lines += [_line(way, size, copy) for way in ways]
        del ways, good
        gc.collect()
    prefopt.cuda_check()
    return {"rows": rows, "vocab": vocab, "dtype": dtype, "logits_bytes": size, "ways": lines}


def profile() -> int:
    """Forwards and backwards of the first shape, twice."""
    rows, vocab, dtype, _ = SHAPES[0]
    logits = torch.randn(rows, vocab, device="cuda", dtype=getattr(torch, dtype)).requires_grad_()
    labels = torch.randint(0, vocab, (rows,), device="cuda")
    for _ in range(2):
        for stats in ((), STATS):
            result = prefopt_torch.token_logps(logits, labels, stats=stats)
        torch.autograd.grad(result.logps.sum(), logits)
    torch.cuda.synchronize()
    return 0


def _line(way: Way, size: int, copy: float) -> dict[str, Any]:
    line: dict[str, Any] = {"name": way.name, "problem": way.problem, "max_error": way.error}
    if way.samples:
        median = statistics.median(way.samples)
        rate = way.passes * size / median / 1e6
        line |= {"median_ms": median, "minimum_ms": min(way.samples), "gb_s": rate}
        line |= {"share_of_copy": rate / copy, "peak_bytes": way.peak_bytes}
    return line


def call_times(calls: int = 200) -> dict[str, float]:
    """Microseconds a call of work too small to matter, forward and backward: the host's share."""
    logits = torch.randn(16, 1000, device="cuda", requires_grad=True)
    labels = torch.randint(0, 1000, (16,), device="cuda")
    sums = [torch.randn(64, device="cuda", requires_grad=True) for _ in range(2)]
    refs = [torch.randn(64, device="cuda") for _ in range(2)]

    def dpo_in_torch() -> Any:
        return -torch.nn.functional.logsigmoid(
            0.1 * ((sums[0] - sums[1]) - (refs[0] - refs[1]))
        ).mean()

    bodies: dict[str, Callable[[], Any]] = {
        "prefopt token_logps": lambda: prefopt_torch.token_logps(logits, labels).logps.sum(),
        "torch log_softmax + gather": lambda: (
            torch.log_softmax(logits, -1).gather(-1, labels.unsqueeze(-1)).sum()
        ),
        "prefopt dpo_loss": lambda: prefopt_torch.dpo_loss(*sums, *refs).losses.mean(),
        "torch dpo": dpo_in_torch,
    }
    times = {}
    for name, body in bodies.items():
        for part, run in (("", body), (" and backward", lambda: body().backward())):  # noqa: B023
            for _ in range(20):
                run()
            torch.cuda.synchronize()
            begin = time.perf_counter()
            for _ in range(calls):
                run()
            torch.cuda.synchronize()
            times[name + part] = (time.perf_counter() - begin) / calls * 1e6
    return times


def _print(shape: dict[str, Any]) -> None:
    print(
        f"\n{shape['rows']} x {shape['vocab']} {shape['dtype']}, {shape['logits_bytes'] / 1e9:.3f} GB"
    )
    print(f"{'':<40}{'ms':>9}{'least':>9}{'GB/s':>8}{'of copy':>9}{'peak MB':>9}{'error':>10}")
    for line in shape["ways"]:
        if "median_ms" not in line:
            print(f"{line['name']:<40}  {line['problem']}")
            continue
        error = "" if line["max_error"] is None else f"{line['max_error']:.1e}"
        print(
            f"{line['name']:<40}{line['median_ms']:>9.3f}{line['minimum_ms']:>9.3f}"
            f"{line['gb_s']:>8.0f}{line['share_of_copy']:>8.0%} {line['peak_bytes'] / 1e6:>8.1f}"
            f"{error:>10}  {line['problem'] or ''}",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Time token_logps on a GPU.")
    parser.add_argument("--quick", action="store_true", help="the first shape alone")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="the kernels of the first shape alone, for a profiler",
    )
    options = parser.parse_args()
    if not (torch.cuda.is_available() and prefopt.cuda_available()):
        print(f"token_logps_cuda: no CUDA: {prefopt.cuda_available().reason}", file=sys.stderr)
        return 2
    if options.profile:
        return profile()
    device = torch.cuda.get_device_properties(0)
    copy = Gpu().copy_gb_s(options.repeats)
    report: dict[str, Any] = {
        "device": device.name,
        "multiprocessors": device.multi_processor_count,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "library": _cuda.library().build_info(),
        "copy_gb_s": copy,
        "repeats": options.repeats,
        "call_us": call_times(),
        "shapes": [],
    }
    print(f"{device.name}, torch {torch.__version__}; a copy moves {copy:.0f} GB/s")
    for name, microseconds in report["call_us"].items():
        print(f"{name:<40}{microseconds:>9.1f} us a call")
    for shape in QUICK if options.quick else SHAPES:
        report["shapes"].append(measure(shape, copy, options.repeats))
        _print(report["shapes"][-1])
        if options.json:  # after every shape, so that what was measured is kept
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    own = [w for s in report["shapes"] for w in s["ways"] if w["name"].startswith("prefopt")]
    return 1 if any(way["problem"] for way in own) else 0


if __name__ == "__main__":
    sys.exit(main())
