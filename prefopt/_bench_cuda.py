"""``python -m prefopt bench --device cuda``: the kernels' speed on a GPU, torch and TRL beside them.

Needs torch with CUDA. Milliseconds are between CUDA events; benchmarks/token_logps_cuda.py is the
full comparison.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any

import prefopt
from prefopt import _cuda

Run = Callable[[], Any]
# Peers round log-probabilities of 30 to bfloat16.
TOLERANCE = 0.13
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


def copy_bandwidth(repeats: int) -> float:
    """GB/s of a plain copy on the device, bytes read and written."""
    import torch

    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda").fill_(1)
    target = torch.empty_like(source)
    samples = milliseconds({"copy": lambda: target.copy_(source)}, repeats)["copy"]
    return 2 * COPY_BYTES / statistics.median(samples) / 1e6


def _runs(logits: Any, labels: Any) -> dict[str, Run]:
    """What is timed: log-probabilities first, by each way, and prefopt's backward."""
    import torch

    from prefopt.torch import token_logps

    leaf = logits.detach().requires_grad_()
    saved = token_logps(leaf, labels).logps
    ones = torch.ones_like(saved)
    stats = ("entropy", "correct")
    runs: dict[str, Run] = {
        "prefopt log-probs": lambda: token_logps(logits, labels).logps,
        "prefopt log-probs, entropy, accuracy": lambda: (
            token_logps(logits, labels, stats=stats).logps
        ),
        "torch log_softmax + gather": lambda: logits.log_softmax(-1).gather(-1, labels[:, None])[
            :, 0
        ],
    }
    if importlib.util.find_spec("trl") is not None:
        from trl.trainer.utils import selective_log_softmax

        runs["TRL selective_log_softmax"] = lambda: selective_log_softmax(logits, labels)
    runs["prefopt gradient"] = lambda: torch.autograd.grad(saved, leaf, ones, retain_graph=True)[0]
    return runs


def run(*, rows: int, vocab: int, repeats: int, as_json: bool) -> int:
    """Time bfloat16 logits [rows, vocab]. Returns 0; 1: a result is wrong; 2: no device."""
    state = prefopt.cuda_available()
    if not state:
        return _say(f"no CUDA library: {state.reason}", 2)
    if importlib.util.find_spec("torch") is None:
        return _say("needs torch", 2)
    import torch

    if not torch.cuda.is_available():
        return _say("this torch has no CUDA", 2)
    logits = torch.randn(rows, vocab, device="cuda").mul_(4).bfloat16()
    labels = torch.randint(0, vocab, (rows,), device="cuda")
    runs = _runs(logits, labels)
    want = torch.log_softmax(logits.double(), -1).gather(-1, labels[:, None])[:, 0]
    for name, each in runs.items():
        result = each()
        apart = 0.0 if result.dim() > 1 else float((result.double() - want).abs().max())
        if not apart <= TOLERANCE:
            return _say(f"{name}: log-probs differ by {apart:.3g}", 1)
    del want
    medians = {k: statistics.median(v) for k, v in milliseconds(runs, repeats).items()}
    copy, size = copy_bandwidth(repeats), logits.numel() * logits.element_size()
    device = torch.cuda.get_device_properties(0).name
    if as_json:
        facts = {
            "machine": {"device": device, "library": _cuda.library().build_info()},
            "shape": [rows, vocab],
            "dtype": "bfloat16",
            "repeats": repeats,
            "copy_gb_s": copy,
            "median_seconds": {name: each / 1e3 for name, each in medians.items()},
        }
        print(json.dumps(facts, indent=1))
        return 0
    print(
        f"bfloat16 logits [{rows} x {vocab}], {size / 1e6:.0f} MB, {device}, median of {repeats}, "
        f"interleaved; a copy moves {copy:.0f} GB/s"
    )
    print(f"{'':<40}{'ms':>10}{'GB/s of logits':>16}{'of copy':>9}")
    for name, median in medians.items():
        moved = (2 if name.endswith("gradient") else 1) * size / median / 1e6  # read, and written
        print(f"{name:<40}{median:>10.3f}{moved:>16.0f}{moved / copy:>9.0%}")
    return 0


def _say(words: str, code: int) -> int:
    print(f"prefopt bench: --device cuda: {words}", file=sys.stderr)
    return code
