"""linear_token_logps on a GPU: checked against float64, then timed beside torch, torch.compile, TRL,
Liger and cut-cross-entropy.

    python benchmarks/linear_logps_cuda.py                        # everything, a table
    python benchmarks/linear_logps_cuda.py --quick --json out.json --seconds 60

A line is one way to compute one shape: median and least milliseconds between CUDA events, that over
the time of the bare products which it cannot do without (one for the forward, two for a frozen head,
three for a trained one, by torch in bfloat16), and the most memory that the call had beside its
inputs, results and gradients included. Ways take turns, so that clocks and neighbours fall on all
alike. A peer that is not installed, or fails, is listed with its reason; what no time is left for,
too. The last section tries sizes of the tile buffers (memory_limit).
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.append(str(Path(__file__).parent.parent))

import prefopt
from prefopt import _cublas, _cuda
from prefopt import torch as prefopt_torch
from prefopt._bench_cuda import milliseconds

Function = Callable[
    [Any, Any, Any], Any
]  # hidden, weight, labels to log-probabilities or their sum
PASSES = {"forward": 1, "frozen": 2, "trained": 3}  # bare products
CHECKED = 64  # rows and vocabulary entries
# Errors: of a log-probability (peers round logits of 30 to bfloat16); of a gradient's element, in
# units of its largest.
OWN_LOGPS, PEER_LOGPS, GRADIENT = 1e-4, 0.3, 0.05
LIMITS = (8, 16, 24, 48, 96, 192)  # MiB


class Shape(NamedTuple):
    """One batch in bfloat16."""

    tokens: int
    size: int
    vocab: int
    compiled: bool = False


SHAPES = (Shape(8192, 4096, 151936, compiled=True), Shape(1024, 576, 49152))


@dataclass
class Way:
    """One way to compute log-probabilities; `is_sum` where it gives their sum alone."""

    name: str
    function: Function | None
    is_sum: bool = False
    is_own: bool = False
    error: float | None = None
    grad_error: float | None = None
    peak_bytes: int = 0
    problem: str | None = None


@dataclass
class Case:
    """A shape's tensors, and what the results of some rows and entries have to be."""

    hidden: Any
    weight: Any
    labels: Any
    truth: dict[str, Any]

    @classmethod
    def of(cls, shape: Shape) -> Case:
        generator = torch.Generator(device="cuda").manual_seed(0)

        def normal(*sizes: int, deviation: float) -> Any:
            empty = torch.empty(*sizes, device="cuda", dtype=torch.bfloat16)
            return empty.normal_(0, deviation, generator=generator)

        hidden = normal(shape.tokens, shape.size, deviation=1.0)
        weight = normal(shape.vocab, shape.size, deviation=2 * shape.size**-0.5)
        labels = torch.randint(0, shape.vocab, (shape.tokens,), device="cuda", generator=generator)
        return cls(hidden, weight, labels, _truth(hidden, weight, labels))


def _truth(hidden: Any, weight: Any, labels: Any) -> dict[str, Any]:
    """float64: logps and grad_hidden of the first rows, grad_weight of the first entries.

    That of all rows' entries needs every lse; these are prefopt's, checked beside the first rows'.
    """
    rows = hidden[:CHECKED].double()
    log_p = torch.log_softmax(torch.cat([rows @ w.double().T for w in weight.split(16384)], 1), -1)
    index = labels[:CHECKED, None]
    slope = (-log_p.exp()).scatter_add_(1, index, torch.ones_like(log_p[:, :1]))
    pieces = zip(slope.split(16384, 1), weight.split(16384), strict=True)
    by_hidden = sum(g @ w.double() for g, w in pieces)
    lse = prefopt_torch.linear_token_logps(hidden, weight, labels).lse.double()
    entries = torch.arange(CHECKED, device="cuda")
    columns = -(hidden.double() @ weight[:CHECKED].double().T - lse[:, None]).exp()
    columns += labels[:, None] == entries
    return {
        "logps": log_p.gather(1, index)[:, 0],
        "hidden": by_hidden,
        "weight": columns.T @ hidden.double(),
    }


# ---- the ways ------------------------------------------------------------------------------------


def _own(**options: Any) -> Function:
    return lambda h, w, y: prefopt_torch.linear_token_logps(h, w, y, **options).logps


def _materialised(hidden: Any, weight: Any, labels: Any) -> Any:
    logits = (hidden @ weight.T).float()
    return torch.log_softmax(logits, -1).gather(-1, labels[:, None])[:, 0]


def _torch_fused(chunked: bool) -> Function:
    function = torch.nn.functional.linear_cross_entropy
    options = {"options": torch.nn.LinearCrossEntropyOptions()} if chunked else {}
    return lambda h, w, y: -function(h, w, y, reduction="none", **options)


def _trl(chunk: int) -> Function:
    from trl.kernels import ChunkedLogProbFunction

    return lambda h, w, y: ChunkedLogProbFunction.apply(h, w, None, y, 1.0, chunk, None, 1.0, ())[0]


def _liger() -> Function:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
    return lambda h, w, y: -loss(w, h, y)


def _cce() -> Function:
    from cut_cross_entropy import linear_cross_entropy

    return lambda h, w, y: -linear_cross_entropy(h, w, y, reduction="none")


def _ways(shape: Shape) -> list[Way]:
    ways = [
        Way("prefopt", _own(), is_own=True),
        Way("prefopt, entropy too", _own(stats=("entropy",)), is_own=True),
        Way("torch, logits held", _materialised),
    ]
    if shape.compiled:
        ways.append(Way("torch.compile, logits held", torch.compile(_materialised)))
    peers: list[tuple[str, Callable[[], Function], bool]] = [
        ("torch linear_cross_entropy", lambda: _torch_fused(False), False),
        ("torch linear_cross_entropy, chunked", lambda: _torch_fused(True), False),
        *((f"TRL, chunks of {each}", lambda each=each: _trl(each), False) for each in (256, 2048)),
        ("Liger", _liger, True),
        ("cut-cross-entropy", _cce, False),
    ]
    return [*ways, *(_peer(name, make, is_sum) for name, make, is_sum in peers)]


def _peer(name: str, make: Callable[[], Function], is_sum: bool) -> Way:
    try:
        return Way(name, make(), is_sum)
    except Exception as problem:  # whatever an import raises is the reason
        return Way(name, None, problem=f"{type(problem).__name__}: {problem}")


def _run_of(way: Way, case: Case, section: str) -> Callable[[], Any]:
    """What is timed: log-probabilities, and the gradients of their sum where the section has any."""
    function = way.function
    assert function is not None
    if section == "forward":
        return lambda: _no_grad(function, case)
    hidden = case.hidden.detach().requires_grad_()
    weight = case.weight.detach().requires_grad_(section == "trained")
    leaves = [hidden, weight] if section == "trained" else [hidden]

    def run() -> Any:
        result = function(hidden, weight, case.labels)
        return result, *torch.autograd.grad(result, leaves, torch.ones_like(result))

    return run


def _no_grad(function: Function, case: Case) -> Any:
    with torch.no_grad():
        return (function(case.hidden, case.weight, case.labels),)


def _bare(case: Case, section: str) -> Callable[[], None]:
    """The products alone, 2048 rows at a time: hidden by weight, the result by weight and hidden."""
    rows = min(2048, case.hidden.shape[0])
    logits = torch.empty(rows, case.weight.shape[0], device="cuda", dtype=torch.bfloat16)
    out, by_weight = torch.empty_like(case.hidden[:rows]), torch.empty_like(case.weight)

    def run() -> None:
        for hidden in case.hidden.split(rows):
            torch.mm(hidden, case.weight.T, out=logits)
            if section != "forward":
                torch.mm(logits, case.weight, out=out)
            if section == "trained":
                torch.mm(logits.T, hidden, out=by_weight)

    return run


# ---- checks and times ----------------------------------------------------------------------------


def _check(way: Way, case: Case, section: str, run: Callable[[], Any]) -> None:
    """Runs it, which also compiles it, and compares."""
    logps, *grads = run()
    torch.cuda.synchronize()
    if not way.is_sum:
        way.error = float((logps[:CHECKED].double() - case.truth["logps"]).abs().max())
    errors = []
    for name, grad in zip(("hidden", "weight"), grads, strict=False):
        want = case.truth[name]
        error = (grad[:CHECKED].double() - want).abs().max() / want.abs().max()
        errors.append(float(error))
    way.grad_error = max(errors) if errors else None
    limit = OWN_LOGPS if way.is_own else PEER_LOGPS
    if way.error is not None and not way.error <= limit:
        way.problem = f"wrong: a log-probability is off by {way.error:.3g}"
    if way.grad_error is not None and not way.grad_error <= GRADIENT:
        way.problem = f"wrong: {section}, a gradient is off by {way.grad_error:.3g} of its largest"


def _peak(run: Callable[[], Any]) -> int:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def _prepare(way: Way, case: Case, section: str) -> Callable[[], Any] | None:
    """The run of a way that is right."""
    if way.problem is not None:
        return None
    try:
        run = _run_of(way, case, section)
        _check(way, case, section, run)
        way.peak_bytes = _peak(run)
    except Exception as problem:  # a peer's failure is a line of the table
        way.problem = f"{type(problem).__name__}: {str(problem)[:200]}"
        torch.cuda.empty_cache()
    return None if way.problem else run


def measure(shape: Shape, section: str, ways: list[Way], repeats: int) -> dict[str, Any]:
    """Every way of one shape and section."""
    case = Case.of(shape)
    runs = {way.name: run for way in ways if (run := _prepare(way, case, section))}
    samples = milliseconds({"bare products": _bare(case, section), **runs}, repeats)
    bare = statistics.median(samples["bare products"])
    lines = [
        {"name": "bare products", "median_ms": bare, "minimum_ms": min(samples["bare products"])}
    ]
    for way in ways:
        line: dict[str, Any] = {"name": way.name, "problem": way.problem}
        line |= {"max_error": way.error, "max_grad_error": way.grad_error}
        if way.name in samples:
            median = statistics.median(samples[way.name])
            line |= {"median_ms": median, "minimum_ms": min(samples[way.name])}
            line |= {"over_bare": median / bare, "peak_bytes": way.peak_bytes}
        lines.append(line)
    prefopt.cuda_check()
    del case, runs
    gc.collect()
    torch.cuda.empty_cache()
    return {**shape._asdict(), "section": section, "ways": lines}


def _print(found: dict[str, Any]) -> None:
    sizes = f"{found['tokens']} x {found['size']} x {found['vocab']}"
    print(f"\n{found['section']}: {sizes} bfloat16")
    print(f"{'':<38}{'ms':>9}{'least':>9}{'x bare':>8}{'peak MB':>10}{'logps':>10}{'grads':>10}")
    for line in found["ways"]:
        if "median_ms" not in line:
            print(f"{line['name']:<38}  {line['problem']}")
            continue
        errors = [line.get("max_error"), line.get("max_grad_error")]
        shown = "".join(f"{'' if each is None else format(each, '.1e'):>10}" for each in errors)
        print(
            f"{line['name']:<38}{line['median_ms']:>9.2f}{line['minimum_ms']:>9.2f}"
            f"{line.get('over_bare', 1.0):>8.2f}{line.get('peak_bytes', 0) / 1e6:>10.1f}{shown}",
            flush=True,
        )


def _limits(shape: Shape) -> list[Way]:
    return [
        Way(f"prefopt, tiles of {limit} MiB", _own(memory_limit=limit << 20), is_own=True)
        for limit in LIMITS
    ]


def _sections(quick: bool) -> list[tuple[Shape, str, Callable[[Shape], list[Way]]]]:
    large, small = SHAPES
    first = [(large, section, _ways) for section in ("frozen", "trained")]
    if quick:
        return first
    more = [(large, "forward", _ways), *((small, section, _ways) for section in PASSES)]
    return [*first, *more, (large, "frozen", _limits), (large, "trained", _limits)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Time linear_token_logps on a GPU.")
    parser.add_argument("--quick", action="store_true", help="the large shape's gradients alone")
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=200, help="start nothing after so many")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    options = parser.parse_args()
    state = _cublas.cublas_available()
    if not (torch.cuda.is_available() and state):
        print(f"linear_logps_cuda: no CUDA: {state.reason}", file=sys.stderr)
        return 2
    device = torch.cuda.get_device_properties(0)
    report: dict[str, Any] = {
        "device": device.name,
        "multiprocessors": device.multi_processor_count,
        "l2_bytes": device.L2_cache_size,
        "torch": torch.__version__,
        "cublas": state.reason,
        "library": _cuda.library().build_info(),
        "repeats": options.repeats,
        "sections": [],
    }
    print(f"{device.name}, torch {torch.__version__}, {state.reason}")
    begin = time.monotonic()
    failed = False
    for shape, section, make in _sections(options.quick):
        if time.monotonic() - begin > options.seconds:
            print(f"\n{section} of {shape}: no time left")
            continue
        torch._dynamo.reset()
        try:
            found = measure(shape, section, make(shape), options.repeats)
        except Exception as problem:  # the other sections go on
            failed = True
            found = {**shape._asdict(), "section": section, "ways": [], "problem": repr(problem)}
            print(f"\n{section}: {problem!r}")
        else:
            _print(found)
        report["sections"].append(found)
        failed |= any(w["problem"] for w in found["ways"] if w["name"].startswith("prefopt"))
        if options.json:  # after every section, so that what was measured is kept
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
