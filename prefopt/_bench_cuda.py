"""``python -m prefopt bench --device cuda``: the kernels on a GPU, torch, TRL, Liger and
cut-cross-entropy beside them where installed.

Needs torch with CUDA. Everything is compared with the CPU's kernels before it is timed. Times are
between CUDA events; memory is the most that a call had beside its inputs, results included.
benchmarks/token_logps_cuda.py and linear_logps_cuda.py are the full comparison.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import prefopt
from prefopt import _cublas, _cuda

Run = Callable[[], Any]
CHECKED = 16  # rows
# Errors against the CPU: of a log-probability, ours, and that of peers, which round logits of 30 to
# bfloat16; of a gradient, in units of its largest element.
OWN_LOGPS, PEER_LOGPS, GRADIENT = 1e-4, 0.3, 0.05
COPY_BYTES = 1 << 31


def milliseconds(runs: Mapping[str, Run], repeats: int) -> dict[str, list[float]]:
    """`repeats` samples of each, which take turns; each is run once more before it is timed."""
    import torch

    samples: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(repeats):
        for k in range(len(names)):
            name = names[(k + turn) % len(names)]
            runs[name]()  # leaves the allocator and the caches as the timed run will find them
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            runs[name]()
            end.record()
            end.synchronize()
            samples[name].append(begin.elapsed_time(end))
    return samples


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


class Gpu:
    """What is asked of the device; tests without one have their own."""

    device = "cuda"

    def name(self) -> str:
        import torch

        return str(torch.cuda.get_device_properties(0).name)

    def milliseconds(self, runs: Mapping[str, Run], repeats: int) -> dict[str, list[float]]:
        return milliseconds(runs, repeats)

    def peak_bytes(self, run: Run) -> int:
        import torch

        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)

    def copy_gb_s(self, repeats: int) -> float:
        """A plain copy on the device, bytes read and written."""
        import torch

        source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=self.device).fill_(1)
        target = torch.empty_like(source)
        samples = self.milliseconds({"copy": lambda: target.copy_(source)}, repeats)["copy"]
        return 2 * COPY_BYTES / statistics.median(samples) / 1e6


class Way(NamedTuple):
    """One thing to time. run returns log-probabilities [N] (None, or their sum [], where a project
    has no more), then the gradient by what `Comparison.truth` has first.
    """

    name: str
    run: Run


class Comparison(NamedTuple):
    """Ways to the same numbers. truth: log-probabilities [N] by the CPU's kernels, and the gradient
    of their sum by logits or hidden states, of the first CHECKED rows.
    """

    title: str
    ways: list[Way]
    truth: tuple[Any, Any]
    read_bytes: int = 0  # what the fastest way reads


# ---- from logits ---------------------------------------------------------------------------------


def _alone(function: Callable[[Any], Any], logits: Any) -> Run:
    return lambda: (function(logits),)


def _with_gradient(function: Callable[[Any], Any], leaf: Any) -> Run:
    import torch

    def run() -> Any:
        result = function(leaf)
        return result, *torch.autograd.grad(result, leaf, torch.ones_like(result))

    return run


def _logits(gpu: Gpu, rows: int, vocab: int) -> list[Comparison]:
    import torch

    from prefopt.torch import token_logps

    logits = torch.randn(rows, vocab, device=gpu.device).mul_(4).bfloat16()
    labels = torch.randint(0, vocab, (rows,), device=gpu.device)
    few, few_labels = logits[:CHECKED].cpu().requires_grad_(), labels[:CHECKED].cpu()
    exact = token_logps(few, few_labels).logps
    truth = exact.detach(), torch.autograd.grad(exact.sum(), few)[0]

    def plain(x: Any) -> Any:
        return x.log_softmax(-1).gather(-1, labels[:, None])[:, 0]

    functions: dict[str, Callable[[Any], Any]] = {
        "prefopt": lambda x: token_logps(x, labels).logps,
        "prefopt, entropy, accuracy": lambda x: (
            token_logps(x, labels, stats=("entropy", "correct")).logps
        ),
        "torch log_softmax + gather": plain,
    }
    if _is_installed("trl"):
        from trl.trainer.utils import selective_log_softmax

        functions["TRL selective_log_softmax"] = lambda x: selective_log_softmax(x, labels)
    leaf, size = logits.detach().requires_grad_(), logits.numel() * logits.element_size()
    shape = f"bfloat16 logits [{rows} x {vocab}], {size / 1e6:.0f} MB"
    forward = [Way(name, _alone(f, logits)) for name, f in functions.items()]
    both = [Way(name, _with_gradient(f, leaf)) for name, f in functions.items()]
    return [
        Comparison(f"log-probs, {shape}", forward, truth, size),
        Comparison(f"log-probs and gradient, {shape}", both, truth, 3 * size),
    ]


# ---- from hidden states --------------------------------------------------------------------------


def _linear_functions(labels: Any) -> dict[str, Callable[[Any, Any], Any]]:
    """(hidden, weight) to log-probabilities or their sum, by project."""
    import torch

    from prefopt.torch import linear_token_logps

    functions: dict[str, Callable[[Any, Any], Any]] = {
        "prefopt": lambda h, w: linear_token_logps(h, w, labels).logps,
        "torch, logits held": lambda h, w: (
            (h @ w.T).float().log_softmax(-1).gather(-1, labels[:, None])[:, 0]
        ),
    }
    if hasattr(torch.nn.functional, "linear_cross_entropy"):
        fused: Any = torch.nn.functional.linear_cross_entropy
        functions["torch linear_cross_entropy"] = lambda h, w: (
            -fused(h, w, labels, reduction="none")
        )
    if _is_installed("trl"):
        try:
            from trl.kernels import ChunkedLogProbFunction as Chunked
        except ImportError:  # older than 1.16
            pass
        else:
            chunked: Any = Chunked.apply
            functions["TRL, chunks of 2048"] = lambda h, w: chunked(
                h, w, None, labels, 1.0, 2048, None, 1.0, ()
            )[0]
    if _is_installed("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        liger = LigerFusedLinearCrossEntropyLoss(reduction="sum")
        functions["Liger"] = lambda h, w: -liger(w, h, labels)
    if _is_installed("cut_cross_entropy"):
        from cut_cross_entropy import linear_cross_entropy

        functions["cut-cross-entropy"] = lambda h, w: (
            -linear_cross_entropy(h, w, labels, reduction="none")
        )
    return functions


def _with_gradients(
    function: Callable[[Any, Any], Any], hidden: Any, weight: Any, is_trained: bool
) -> Run:
    import torch

    leaf, head = hidden.detach().requires_grad_(), weight.detach().requires_grad_(is_trained)
    leaves = [leaf, head] if is_trained else [leaf]

    def run() -> Any:
        result = function(leaf, head)
        return result, *torch.autograd.grad(result, leaves, torch.ones_like(result))

    return run


def _linear(gpu: Gpu, rows: int, width: int, vocab: int) -> list[Comparison]:
    import torch

    from prefopt.torch import linear_token_logps

    hidden = torch.randn(rows, width, device=gpu.device).bfloat16()
    weight = torch.randn(vocab, width, device=gpu.device).mul_(2 * width**-0.5).bfloat16()
    labels = torch.randint(0, vocab, (rows,), device=gpu.device)
    few = hidden[:CHECKED].cpu().requires_grad_()
    exact = linear_token_logps(few, weight.cpu(), labels[:CHECKED].cpu()).logps
    truth = exact.detach(), torch.autograd.grad(exact.sum(), few)[0]
    shape = f"bfloat16 [{rows} x {width}] by [{vocab} x {width}]"
    found = []
    for title, is_trained in (("frozen", False), ("trained", True)):
        ways = [
            Way(name, _with_gradients(f, hidden, weight, is_trained))
            for name, f in _linear_functions(labels).items()
        ]
        found.append(
            Comparison(f"linear log-probs and gradient, {title} head, {shape}", ways, truth)
        )
    return found


# ---- checks, times, output -----------------------------------------------------------------------


def _problem(way: Way, truth: tuple[Any, Any]) -> str | None:
    """What is wrong with a way's results, which this makes for the first time."""
    logps, *gradients = (each.detach() for each in way.run())
    is_own = way.name.startswith("prefopt")
    if logps.dim():
        apart = float((logps[:CHECKED].cpu().double() - truth[0].double()).abs().max())
        if not apart <= (OWN_LOGPS if is_own else PEER_LOGPS):
            return f"log-probs differ from the CPU's by {apart:.3g}"
    if gradients:
        want = truth[1].double()
        error = (gradients[0][:CHECKED].cpu().double() - want).abs().max() / want.abs().max()
        if not float(error) <= GRADIENT:
            return f"the gradient differs from the CPU's by {float(error):.3g} of its largest"
    return None


def _measure(gpu: Gpu, compared: Comparison, repeats: int) -> tuple[list[dict[str, Any]], bool]:
    """A line for each way, and whether ours are all right. What fails is left out, with its reason."""
    lines: list[dict[str, Any]] = []
    for way in compared.ways:
        line: dict[str, Any] = {"name": way.name, "problem": None}
        try:
            line["problem"] = _problem(way, compared.truth)
            line["peak_bytes"] = gpu.peak_bytes(way.run)
        except Exception as problem:  # a peer's failure is a line of the table
            line["problem"] = f"{type(problem).__name__}: {str(problem)[:200]}"
        lines.append(line)
    runs = {
        way.name: way.run
        for way, line in zip(compared.ways, lines, strict=True)
        if line["problem"] is None
    }
    samples = gpu.milliseconds(runs, repeats)
    for line in lines:
        if line["name"] in samples:
            line["median_s"] = statistics.median(samples[line["name"]]) / 1e3
    right = all(e["problem"] is None for e in lines if e["name"].startswith("prefopt"))
    return lines, right


def _print(compared: Comparison, lines: list[dict[str, Any]], copy_gb_s: float) -> None:
    print(f"\n{compared.title}")
    print(f"{'':<32}{'ms':>10}{'x prefopt':>11}{'peak MB':>10}{'of a copy':>11}")
    first = lines[0].get("median_s")
    for line in lines:
        if line["problem"] is not None:
            print(f"{line['name']:<32}  {line['problem']}")
            continue
        median = line["median_s"]
        over = f"{median / first:>11.2f}" if first else f"{'':>11}"
        text = f"{line['name']:<32}{median * 1e3:>10.3f}{over}{line['peak_bytes'] / 1e6:>10.1f}"
        if compared.read_bytes:
            text += f"{compared.read_bytes / median / 1e9 / copy_gb_s:>11.0%}"
        print(text)


def run(
    *, rows: int, vocab: int, hidden: int, repeats: int, as_json: bool, gpu: Gpu | None = None
) -> int:
    """Time bfloat16 logits [rows, vocab] and hidden states [rows, hidden]. Returns 0; 1: a result of
    ours is wrong; 2: no device.
    """
    state = prefopt.cuda_available()
    if not state:
        return _say(f"no CUDA library: {state.reason}", 2)
    if not _is_installed("torch"):
        return _say("needs torch", 2)
    import torch

    if gpu is None:
        if not torch.cuda.is_available():
            return _say("this torch has no CUDA", 2)
        gpu = Gpu()
    torch.manual_seed(0)
    makers: list[Callable[[], list[Comparison]]] = [lambda: _logits(gpu, rows, vocab)]
    cublas = _cublas.cublas_available()
    if cublas:
        makers.append(lambda: _linear(gpu, rows, hidden, vocab))
    copy = gpu.copy_gb_s(repeats)
    facts: dict[str, Any] = {
        "machine": {"device": gpu.name(), "library": _cuda.library().build_info()},
        "rows": rows,
        "vocab": vocab,
        "hidden": hidden,
        "dtype": "bfloat16",
        "repeats": repeats,
        "copy_gb_s": copy,
        "cublas": cublas.reason,
        "comparisons": [],
    }
    if not as_json:
        print(
            f"{facts['machine']['device']}, torch {torch.__version__}, {cublas.reason}; median of "
            f"{repeats}, interleaved; a copy moves {copy:.0f} GB/s"
        )
    right = True
    for make in makers:
        for compared in make():
            lines, is_right = _measure(gpu, compared, repeats)
            right &= is_right
            facts["comparisons"].append({"title": compared.title, "ways": lines})
            if not as_json:
                _print(compared, lines, copy)
    prefopt.cuda_check()
    if as_json:
        print(json.dumps(facts, indent=1))
    return 0 if right else _say("a result of prefopt is wrong", 1)


def _say(words: str, code: int) -> int:
    print(f"prefopt bench: --device cuda: {words}", file=sys.stderr)
    return code
