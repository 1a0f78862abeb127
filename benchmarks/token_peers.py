"""The ways to compute token log-probabilities that benchmarks/token_logps.py compares, and their
checks.

TRL loops over its first axis, so each of its functions is registered in three layouts: [N, V],
[8, N/8, V] (how a trainer calls it) and [1, N, V].
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from common import Peer

import prefopt
import prefopt.torch as prefopt_torch

TRAINER = "[8, N/8, V]"
STATS = ("entropy", "correct")
# Largest error allowed against float64: float32 arithmetic on values near 20, bfloat16 results.
FLOAT32_BOUND, BFLOAT16_BOUND = 1e-4, 0.2
GRADIENT_BOUND = 1e-5
CHECKED_GRADIENT_ROWS = 8


class Case:
    """Logits [rows, vocab] with touched pages, labels, and what float64 makes of them."""

    def __init__(self, rows: int, vocab: int, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(rows + vocab)
        self.rows, self.vocab, self.dtype = rows, vocab, dtype
        self.logits = torch.empty(rows, vocab, dtype=dtype)
        for part in torch.split(self.logits, 64):
            part.copy_(2 * torch.randn(part.shape, generator=generator))
        self.labels = torch.randint(0, vocab, (rows,), generator=generator)
        self.weights = torch.randn(rows, generator=generator)
        parts = [self._exact(rows) for rows in torch.split(self.logits, 32)]
        log_p = torch.cat([part[0] for part in parts])
        self.entropy = torch.cat([part[1] for part in parts])
        self.logps = log_p
        first = self.logits[:CHECKED_GRADIENT_ROWS].double().softmax(-1)
        onehot = torch.nn.functional.one_hot(self.labels[:CHECKED_GRADIENT_ROWS], vocab)
        self.gradient = self.weights[:CHECKED_GRADIENT_ROWS].double().unsqueeze(-1) * (
            onehot - first
        )

    def _exact(self, part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        start = (part.data_ptr() - self.logits.data_ptr()) // (self.vocab * part.element_size())
        log_p = part.double().log_softmax(-1)
        index = self.labels[start : start + len(part)].unsqueeze(-1)
        return log_p.gather(-1, index).squeeze(-1), -(log_p.exp() * log_p).sum(-1)

    @property
    def bytes(self) -> int:
        return self.logits.numel() * self.logits.element_size()

    def layouts(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"[N, V]": (self.rows,), TRAINER: (8, self.rows // 8)}
        return {**shapes, "[1, N, V]": (1, self.rows)}

    def error(self, bound: float, rows: slice = slice(None)) -> Callable[[Any], float]:
        """Checks (logps, entropy or None): the largest error, or AssertionError beyond `bound`."""

        def check(result: Any) -> float:
            logps, entropy = result
            worst = 0.0
            for got, exact in ((logps, self.logps), (entropy, self.entropy)):
                if got is not None:
                    got = torch.as_tensor(got).detach().double().reshape(-1)
                    worst = max(worst, (got[rows] - exact[rows]).abs().max().item())
            assert worst <= bound, f"error {worst:.2e} beyond {bound:.0e}"
            return worst

        return check

    def gradient_error(self, result: Any) -> float:
        """Checks the first rows of a gradient [..., V] of sum(weights * logps)."""
        got = (
            torch.as_tensor(result).detach().reshape(self.rows, self.vocab)[:CHECKED_GRADIENT_ROWS]
        )
        worst = (got.double() - self.gradient).abs().max().item()
        assert worst <= GRADIENT_BOUND, f"gradient error {worst:.2e} beyond {GRADIENT_BOUND:.0e}"
        return worst


# ---- forward -------------------------------------------------------------------------------------


def numpy_arguments(case: Case) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], str | None]:
    """The case's memory as NumPy sees it; bfloat16 as raw words."""
    if case.dtype is torch.bfloat16:
        return case.logits.view(torch.uint16).numpy(), case.labels.numpy(), "bfloat16"
    return case.logits.numpy(), case.labels.numpy(), None


def ours(case: Case, rows: Sequence[str] = ()) -> list[Peer]:
    """prefopt in NumPy (every ISA row named in `rows` besides the default), and prefopt.torch."""
    logits, labels, dtype = numpy_arguments(case)
    what = "logps, lse, entropy, correct"
    check = case.error(FLOAT32_BOUND)

    def run(labels: Any = labels, stats: tuple[str, ...] = STATS) -> Any:
        result = prefopt.token_logps(logits, labels, dtype=dtype, stats=stats)
        return result.logps, result.entropy

    def on(row: str) -> Callable[[], Any]:
        def run_on_row() -> Any:
            with prefopt.using_isa(row):
                return run()

        return run_on_row

    half = labels.copy()
    half[::2] = -100

    def tensor() -> Any:
        result = prefopt_torch.token_logps(case.logits, case.labels, stats=STATS)
        return result.logps, result.entropy

    peers = [Peer(f"prefopt NumPy: {what}", "[N, V]", run, check, read_bytes=case.bytes)]
    peers += [
        Peer(f"prefopt NumPy, {row}: {what}", "[N, V]", on(row), check, read_bytes=case.bytes)
        for row in rows
    ]
    return [
        *peers,
        Peer(
            "prefopt NumPy: logps, lse",
            "[N, V]",
            lambda: run(stats=()),
            check,
            read_bytes=case.bytes,
        ),
        Peer(
            f"prefopt NumPy: {what}",
            "[N, V]",
            lambda: run(half),
            case.error(FLOAT32_BOUND, slice(1, None, 2)),
            unmasked=1 - len(half[::2]) / len(half),
            read_bytes=case.bytes // 2,
        ),
        Peer(f"prefopt.torch: {what}", "[N, V]", tensor, check, read_bytes=case.bytes),
    ]


def trl(case: Case) -> list[Peer]:
    """TRL's three functions in three layouts (entropy_from_logits flattens: once)."""
    from trl.trainer import utils

    check = case.error(BFLOAT16_BOUND if case.dtype is torch.bfloat16 else FLOAT32_BOUND)
    peers = []
    for layout, lead in case.layouts().items():
        logits, labels = case.logits.view(*lead, case.vocab), case.labels.view(lead)
        alone = lambda x=logits, y=labels: (utils.selective_log_softmax(x, y), None)  # noqa: E731
        both = partial(utils.selective_log_softmax_and_entropy, logits, labels)
        peers.append(Peer("TRL logps", layout, alone, check, read_bytes=case.bytes))
        peers.append(Peer("TRL logps + entropy", layout, both, check, read_bytes=case.bytes))
    return peers


def eager(case: Case) -> list[Peer]:
    """What one writes in torch, and the bandwidth line."""
    check = case.error(BFLOAT16_BOUND if case.dtype is torch.bfloat16 else FLOAT32_BOUND)
    x, y = case.logits, case.labels

    def gather() -> Any:
        return torch.log_softmax(x, -1).gather(-1, y.unsqueeze(-1)).squeeze(-1), None

    def cross_entropy() -> Any:
        return -torch.nn.functional.cross_entropy(x, y, reduction="none"), None

    return [
        Peer("torch log_softmax + gather", "[N, V]", gather, check, read_bytes=case.bytes),
        Peer("torch cross_entropy", "[N, V]", cross_entropy, check, read_bytes=case.bytes),
        bandwidth(case),
    ]


def bandwidth(case: Case) -> Peer:
    """One read of the logits by torch.sum."""
    return Peer("torch.sum (bandwidth)", "[N, V]", case.logits.sum, read_bytes=case.bytes)


def read_write(case: Case) -> Peer:
    """One read and one write of the logits, in place."""
    run = lambda: case.logits.mul_(1.0)  # noqa: E731
    return Peer("torch.mul_ (read + write)", "[N, V]", run, read_bytes=2 * case.bytes)


def huge_touch(case: Case) -> Peer:
    """To allocate a gradient on huge pages, write all of it, and give it back."""

    def run() -> None:
        fresh = torch.empty(case.rows, case.vocab, dtype=case.dtype)
        prefopt._core.advise_huge_pages(fresh.numpy())
        fresh.fill_(0)

    name = "allocate, advise huge pages, fill"
    return Peer(name, "[N, V]", run, pages="fresh", read_bytes=case.bytes)


def _log_softmax_gather(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(x.float(), -1).gather(-1, y.unsqueeze(-1)).squeeze(-1)


def _logit_minus_logsumexp(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    chosen = x.gather(-1, y.unsqueeze(-1)).squeeze(-1).float()
    return chosen - torch.logsumexp(x.float(), -1)


COMPILED_FORMS = {"log_softmax": _log_softmax_gather, "logsumexp": _logit_minus_logsumexp}


def compiled(case: Case, forms: Sequence[str] = tuple(COMPILED_FORMS)) -> list[Peer]:
    """torch.compile of log-probs alone, shapes static; checking a peer compiles it."""
    torch._dynamo.reset()
    check = case.error(FLOAT32_BOUND)
    peers = []
    for form in forms:
        function = torch.compile(COMPILED_FORMS[form], dynamic=False)
        run = lambda f=function: (f(case.logits, case.labels), None)  # noqa: E731
        peers.append(
            Peer(f"torch.compile logps ({form})", "[N, V]", run, check, read_bytes=case.bytes)
        )
    return peers


# ---- forward and backward of sum(weights * logps), with respect to logits ------------------------


def _autograd(
    case: Case, name: str, layout: str, logps: Callable[[Any, Any], Any], leads: tuple[int, ...]
) -> Peer:
    """Everything included: forward, backward into a fresh gradient, and giving that back."""
    leaf = case.logits.view(*leads, case.vocab).detach().requires_grad_()
    labels, weights = case.labels.view(leads), case.weights.view(leads)

    def run() -> Any:
        (logps(leaf, labels) * weights).sum().backward()
        gradient, leaf.grad = leaf.grad, None
        return gradient

    return Peer(
        name, layout, run, case.gradient_error, pages="fresh gradient", read_bytes=2 * case.bytes
    )


def backward(case: Case, forms: Sequence[str] = tuple(COMPILED_FORMS)) -> list[Peer]:
    """The autograd peers: prefopt.torch, TRL in three layouts, torch eager and compiled."""
    from trl.trainer import utils

    torch._dynamo.reset()
    flat = (case.rows,)
    peers = [
        _autograd(
            case,
            "prefopt.torch fwd+bwd",
            "[N, V]",
            lambda x, y: prefopt_torch.token_logps(x, y).logps,
            flat,
        ),
        _autograd(case, "torch log_softmax + gather fwd+bwd", "[N, V]", _log_softmax_gather, flat),
    ]
    for layout, lead in case.layouts().items():
        peers.append(
            _autograd(case, "TRL logps fwd+bwd", layout, utils.selective_log_softmax, lead)
        )
    for form in forms:
        function = torch.compile(COMPILED_FORMS[form], dynamic=False)
        peers.append(
            _autograd(case, f"torch.compile logps ({form}) fwd+bwd", "[N, V]", function, flat)
        )
    return peers


def in_place(case: Case) -> Peer:
    """NumPy forward, then the gradient over the logits themselves; they are restored outside the
    timing.
    """
    kept = case.logits.numpy().copy()
    logits, labels, dtype = numpy_arguments(case)
    weights = case.weights.numpy()

    def restore() -> None:
        np.copyto(case.logits.numpy(), kept)

    def run() -> Any:
        result = prefopt.token_logps(logits, labels, dtype=dtype)
        return prefopt.token_logps_grad(
            logits,
            labels,
            result.lse,
            grad_logps=weights,
            logps=result.logps,
            dtype=dtype,
            out=logits,
        )

    return Peer(
        "prefopt NumPy fwd+bwd, out=logits",
        "[N, V]",
        run,
        case.gradient_error,
        after=restore,
        pages="warm, in place",
        read_bytes=2 * case.bytes,
    )


def first_touch(case: Case, threads: int) -> Peer:
    """To allocate a gradient, write one byte of each page with all threads, and give it back."""

    def touch(part: np.ndarray[Any, Any]) -> None:
        part[::4096] = 0  # NumPy releases the GIL here

    def run() -> None:
        fresh = torch.empty(case.rows, case.vocab, dtype=case.dtype).view(torch.uint8)
        parts = np.array_split(fresh.view(-1).numpy(), threads)
        workers = [threading.Thread(target=touch, args=(part,)) for part in parts]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return Peer("allocate and first touch a gradient", "[N, V]", run, pages="fresh")
