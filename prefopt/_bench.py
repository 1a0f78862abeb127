"""``python -m prefopt bench``: the kernels' speed on this machine, peers beside them where
installed.

Needs NumPy only. Results are compared before anything is timed; variants are interleaved, one call
of each in turn, and medians are printed. benchmarks/ holds the full comparison (layouts, sizes,
plots).
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import prefopt
from prefopt import _bench_cuda, _core, _doctor

Array = NDArray[Any]

PEER_TOLERANCE = (
    2e-3  # float32 peers with a plain sum over 10^5 terms; a wrong result is far outside
)


class Variant(NamedTuple):
    """One thing to time. run makes the call; logps picks what is compared with prefopt's."""

    name: str
    run: Callable[[], Any]
    logps: Callable[[Any], Array] | None


def numpy_logps(logits: Array, labels: Array) -> Array:
    """What one writes with NumPy alone. logits [N, V] float32, labels [N] -> [N]."""
    top = logits.max(axis=1, keepdims=True)
    lse = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    result: Array = logits[np.arange(len(labels)), labels] - lse
    return result


def _own_variants(logits: Array, labels: Array) -> list[Variant]:
    stats = ("entropy", "correct")
    forward = prefopt.token_logps(logits, labels)
    ones = np.ones(len(labels), np.float32)
    out = np.empty_like(logits)

    def grad() -> Array:
        return prefopt.token_logps_grad(logits, labels, forward.lse, grad_logps=ones, out=out)

    return [
        Variant(
            "prefopt log-probs", lambda: prefopt.token_logps(logits, labels), lambda r: r.logps
        ),
        Variant(
            "prefopt log-probs, entropy, accuracy",
            lambda: prefopt.token_logps(logits, labels, stats=stats),
            lambda r: r.logps,
        ),
        Variant("prefopt gradient", grad, None),
        Variant("NumPy log-probs", lambda: numpy_logps(logits, labels), lambda r: r),
        Variant("NumPy sum (one read)", lambda: logits.sum(), None),
    ]


def _torch_variants(logits: Array, labels: Array) -> list[Variant]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    torch.set_num_threads(prefopt.get_num_threads())
    tensor, index = torch.from_numpy(logits), torch.from_numpy(labels)

    def eager() -> Any:
        with torch.no_grad():
            return tensor.log_softmax(-1).gather(-1, index[:, None])[:, 0]

    variants = [Variant("torch log_softmax + gather", eager, lambda r: r.numpy())]
    if importlib.util.find_spec("trl") is not None:
        from trl.trainer.utils import entropy_from_logits, selective_log_softmax

        def trl() -> Any:
            with torch.no_grad():
                return selective_log_softmax(tensor, index)

        def trl_entropy() -> Any:
            with torch.no_grad():
                return selective_log_softmax(tensor, index), entropy_from_logits(tensor)

        variants.append(Variant("TRL selective_log_softmax", trl, lambda r: r.numpy()))
        variants.append(Variant("TRL log-probs + entropy", trl_entropy, lambda r: r[0].numpy()))
    return variants


def _median_seconds(variants: list[Variant], repeats: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for _ in range(repeats):
        for variant in variants:
            begin = time.perf_counter()
            variant.run()
            seconds[variant.name].append(time.perf_counter() - begin)
    return {name: float(np.median(times)) for name, times in seconds.items()}


def _check(variants: list[Variant], want: Array) -> str | None:
    """The first variant whose log-probs differ from prefopt's, or None; warms everything up."""
    for variant in variants:
        result = variant.run()
        if variant.logps is not None:
            apart = float(np.max(np.abs(variant.logps(result) - want)))
            if not apart <= PEER_TOLERANCE:
                return f"{variant.name}: log-probs differ by {apart:.3g}"
    return None


def run(*, rows: int, vocab: int, hidden: int, repeats: int, device: str, as_json: bool) -> int:
    """Time float32 logits [rows, vocab]; on a GPU also bfloat16 hidden states [rows, hidden].

    Returns 0; 1: a result is wrong; 2: no such device.
    """
    if device == "cuda":
        return _bench_cuda.run(
            rows=rows, vocab=vocab, hidden=hidden, repeats=repeats, as_json=as_json
        )
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((rows, vocab), dtype=np.float32) * np.float32(4)
    labels = rng.integers(0, vocab, rows)
    variants = _own_variants(logits, labels) + _torch_variants(logits, labels)
    wrong = _check(variants, prefopt.token_logps(logits, labels).logps)
    if wrong is not None:
        print(f"prefopt bench: {wrong}", file=sys.stderr)
        return 1
    medians = _median_seconds(variants, repeats)
    read = {name: logits.nbytes / seconds / 1e9 for name, seconds in medians.items()}
    if as_json:
        facts = _doctor.collect()
        payload = {
            "machine": {key: facts[key] for key in ("processor", "cpus", "threads", "isa")},
            "shape": [rows, vocab],
            "dtype": "float32",
            "repeats": repeats,
            "median_seconds": medians,
        }
        json.dump(payload, sys.stdout, indent=1)
        print()
        return 0
    print(
        f"float32 logits [{rows} x {vocab}], {logits.nbytes / 1e6:.0f} MB, row {_core.isa()}, "
        f"{prefopt.get_num_threads()} threads, median of {repeats}, interleaved"
    )
    fastest = medians["prefopt log-probs"]
    print(f"{'':<40}{'ms':>10}{'GB/s of logits':>16}{'x prefopt':>11}")
    for name, seconds in medians.items():
        print(f"{name:<40}{seconds * 1e3:>10.2f}{read[name]:>16.1f}{seconds / fastest:>11.2f}")
    return 0
