"""The ways to get log-probabilities out of hidden states that benchmarks/linear_logps.py compares,
and their checks.

Every peer returns (logps or losses [N], grad_hidden or None, grad_weight or None); each is checked
against float64 before it is timed.
"""

from __future__ import annotations

import ctypes
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import Peer
from torch import Tensor

import prefopt
import prefopt.torch as prefopt_torch
from prefopt._blas import library_path

CHUNKS = (4096, 16384, 32768, 49152)  # vocabulary entries a tile: TRL's chunk_size
GIB = 1 << 30
ERRORS = {torch.float32: 2e-4, torch.bfloat16: 5e-2}
CHECKED_TOKENS, CHECKED_ENTRIES = 8, 64
Results = tuple[Tensor, Tensor | None, Tensor | None]


class Case:
    """hidden [tokens, width], weight [vocab, width], labels, and what float64 makes of them."""

    def __init__(
        self, tokens: int, width: int, vocab: int, dtype: torch.dtype = torch.float32
    ) -> None:
        generator = torch.Generator().manual_seed(tokens + vocab)
        self.tokens, self.width, self.vocab, self.dtype = tokens, width, vocab, dtype
        self.hidden = torch.randn(tokens, width, generator=generator).to(dtype)
        self.weight = (torch.randn(vocab, width, generator=generator) * 2 / width**0.5).to(dtype)
        self.labels = torch.randint(0, vocab, (tokens,), generator=generator)
        self.upstream = torch.randn(tokens, generator=generator)
        self._measure_exactly()

    def _measure_exactly(self) -> None:
        hidden, weight = self.hidden.double(), self.weight.double()
        logps, lse = [], []
        for part, labels in zip(hidden.split(64), self.labels.split(64), strict=True):
            z = part @ weight.T
            lse.append(z.logsumexp(-1))
            logps.append(z.gather(-1, labels[:, None])[:, 0] - lse[-1])
        self.logps, total = torch.cat(logps), torch.cat(lse)
        few = slice(0, CHECKED_TOKENS)
        p = (hidden[few] @ weight.T - total[few, None]).exp()
        onehot = F.one_hot(self.labels[few], self.vocab)
        self.grad_hidden = (self.upstream[few, None] * (onehot - p)) @ weight
        self.entries = self.labels[:CHECKED_ENTRIES].unique()
        p = (hidden @ weight[self.entries].T - total[:, None]).exp()
        onehot = (self.labels[:, None] == self.entries).double()
        self.grad_weight = (self.upstream[:, None] * (onehot - p)).T @ hidden

    @property
    def shape(self) -> str:
        return f"[{self.tokens} x {self.width} x {self.vocab}]"

    def error(self, results: Results) -> float:
        """The largest error, relative to the largest value; AssertionError beyond the bound."""
        logps, by_hidden, by_weight = results
        pairs = [(logps, self.logps)]
        if by_hidden is not None:
            pairs.append((by_hidden[:CHECKED_TOKENS], self.grad_hidden))
        if by_weight is not None:
            pairs.append((by_weight[self.entries], self.grad_weight))
        worst = 0.0
        for got, exact in pairs:
            difference = (got.detach().double() - exact).abs().max() / exact.abs().max()
            worst = max(worst, difference.item())
        assert worst <= ERRORS[self.dtype], f"error {worst:.2e} beyond {ERRORS[self.dtype]:.0e}"
        return worst


LogProbs = Callable[[Tensor, Tensor, Tensor], Tensor]


# ---- one function for each project ---------------------------------------------------------------


def ours(**options: Any) -> LogProbs:
    return lambda h, w, y: prefopt_torch.linear_token_logps(h, w, y, **options).logps


def trl(chunk: int, outputs: tuple[str, ...] = ()) -> LogProbs:
    from trl.kernels import ChunkedLogProbFunction

    def run(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        arguments = (hidden, weight, None, labels, 1.0, chunk, None, 1.0, outputs)
        logps: Tensor = ChunkedLogProbFunction.apply(*arguments)[0]
        return logps

    return run


def torch_holding(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return -F.linear_cross_entropy(hidden, weight, labels, reduction="none")


def torch_chunked(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions()
    return -F.linear_cross_entropy(hidden, weight, labels, reduction="none", options=options)


def cce(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    from cut_cross_entropy import linear_cross_entropy

    return -linear_cross_entropy(hidden, weight, labels, reduction="none", impl="torch_compile")


def materialised(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    from trl.trainer.utils import selective_log_softmax

    logps: Tensor = selective_log_softmax(hidden @ weight.T, labels)
    return logps


# ---- what of it is timed -------------------------------------------------------------------------


def forward(case: Case, function: LogProbs) -> Callable[[], Results]:
    def run() -> Results:
        with torch.no_grad():
            return function(case.hidden, case.weight, case.labels), None, None

    return run


def backward(case: Case, function: LogProbs, *, trained: bool) -> Callable[[], Results]:
    """Forward and backward of a weighted sum; the head gets a gradient if it is `trained`."""

    def run() -> Results:
        hidden = case.hidden.detach().requires_grad_()
        weight = case.weight.detach().requires_grad_(trained)
        logps = function(hidden, weight, case.labels)
        (case.upstream * logps).sum().backward()
        return logps, hidden.grad, weight.grad

    return run


def peer(case: Case, name: str, run: Callable[[], Results], pages: str = "fresh") -> Peer:
    return Peer(name, case.shape, run, case.error, pages=pages)


def best_chunk(case: Case, timed: Callable[[LogProbs], Callable[[], Results]]) -> int:
    """TRL's fastest chunk size of CHUNKS here, each timed once after a run to warm it."""
    seconds = {}
    for chunk in (each for each in CHUNKS if each <= case.vocab):
        run = timed(trl(chunk))
        run()
        start = time.perf_counter()
        run()
        seconds[chunk] = time.perf_counter() - start
    shown = ", ".join(f"{chunk}: {value * 1e3:.0f} ms" for chunk, value in seconds.items())
    print(f"TRL chunk sizes {shown}")
    return min(seconds, key=lambda chunk: seconds[chunk])


# ---- floors --------------------------------------------------------------------------------------


def openblas_gemm(case: Case, threads: int) -> Peer | None:
    """One product hidden @ weight.T by the same OpenBLAS, on `threads` of its own, into touched
    memory; None where there is none.
    """
    path = library_path()
    if path is None or case.dtype is not torch.float32:
        return None
    with tempfile.TemporaryDirectory() as folder:  # a copy: the private one stays at one thread
        library = ctypes.CDLL(shutil.copy2(path, Path(folder) / "own.so"))
    library.scipy_openblas_set_num_threads(threads)
    sgemm = library.scipy_cblas_sgemm
    sgemm.restype = None
    out = torch.zeros(case.tokens, case.vocab)
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    m, n, k = case.tokens, case.vocab, case.width
    row_major, plain, transposed = 101, 111, 112
    tensors = (case.hidden, case.weight, out)  # held by run

    def run() -> None:
        a, b, c = (ctypes.c_void_p(each.data_ptr()) for each in tensors)
        sgemm(row_major, plain, transposed, m, n, k, one, a, k, b, k, zero, c, n)

    return Peer("bare GEMM, OpenBLAS", case.shape, run)


def mkl_gemm(case: Case) -> Peer:
    out = torch.zeros(case.tokens, case.vocab, dtype=case.dtype)
    transposed = case.weight.T
    return Peer(
        "bare GEMM, torch.mm", case.shape, lambda: torch.mm(case.hidden, transposed, out=out)
    )


# ---- a DPO step ----------------------------------------------------------------------------------


class Step:
    """Eight sequences of 256 tokens, chosen first: policy and reference hidden states and heads,
    `unmasked` of the labels completion tokens.
    """

    SEQUENCES, LENGTH, BETA = 8, 256, 0.1

    def __init__(self, width: int, vocab: int, unmasked: float) -> None:
        generator = torch.Generator().manual_seed(vocab)
        shape = (self.SEQUENCES, self.LENGTH)
        self.hidden = torch.randn(*shape, width, generator=generator)
        self.ref_hidden = self.hidden + 0.1 * torch.randn(*shape, width, generator=generator)
        self.weight = torch.randn(vocab, width, generator=generator) * 2 / width**0.5
        self.ref_weight = self.weight.clone()
        self.labels = torch.randint(0, vocab, shape, generator=generator)
        self.labels[:, : int(self.LENGTH * (1 - unmasked))] = -100
        self.unmasked = unmasked
        both = [
            self._sums(h.double(), w.double())
            for h, w in ((self.hidden, self.weight), (self.ref_hidden, self.ref_weight))
        ]
        self.loss = self._dpo(*both).item()

    def _sums(self, hidden: Tensor, weight: Tensor) -> Tensor:
        sums = []
        for h, y in zip(hidden, self.labels, strict=True):
            keep = y != -100
            log_p = (h[keep] @ weight.T).log_softmax(-1)
            sums.append(log_p.gather(-1, y[keep][:, None]).sum())
        return torch.stack(sums)

    def _dpo(self, policy: Tensor, ref: Tensor) -> Tensor:
        ratio = policy - ref
        half = len(ratio) // 2
        return -F.logsigmoid(self.BETA * (ratio[:half] - ratio[half:])).mean()

    def error(self, results: Any) -> float:
        worst = abs(float(results[0]) - self.loss)
        assert worst <= 1e-3 * max(1.0, abs(self.loss)), f"loss {float(results[0])}, {self.loss}"
        return worst

    def _leaves(self, trained: bool) -> tuple[Tensor, Tensor]:
        return self.hidden.detach().requires_grad_(), self.weight.detach().requires_grad_(trained)

    def ours(self, trained: bool, **options: Any) -> Any:
        loss_of = prefopt_torch.LinearPreferenceLoss("dpo.sigmoid", beta=self.BETA, **options)

        def run() -> Any:
            hidden, weight = self._leaves(trained)
            loss, _metrics = loss_of(
                hidden,
                weight,
                self.labels,
                ref_hidden=self.ref_hidden,
                ref_weight=self.ref_weight,
            )
            loss.backward()
            return loss.detach(), hidden.grad, weight.grad

        return run

    def liger(self, trained: bool, compiled: bool) -> Any:
        from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

        loss_of = LigerFusedLinearDPOLoss(beta=self.BETA, compiled=compiled, chunk_size=1)

        def run() -> Any:
            hidden, weight = self._leaves(trained)
            loss = loss_of(
                weight,
                hidden,
                self.labels,
                ref_input=self.ref_hidden,
                ref_weight=self.ref_weight,
            )[0]
            loss.backward()
            return loss.detach(), hidden.grad, weight.grad

        return run

    def materialised(self, trained: bool) -> Any:
        """The trainer's way: all logits, TRL's selective_log_softmax, masked sums."""
        from trl.trainer.utils import selective_log_softmax

        mask = self.labels != -100
        index = self.labels.clamp(min=0)

        def run() -> Any:
            hidden, weight = self._leaves(trained)
            policy = (selective_log_softmax(hidden @ weight.T, index) * mask).sum(-1)
            with torch.no_grad():
                logits = self.ref_hidden @ self.ref_weight.T
                ref = (selective_log_softmax(logits, index) * mask).sum(-1)
            loss = self._dpo(policy, ref)
            loss.backward()
            return loss.detach(), hidden.grad, weight.grad

        return run

    def peers(self, trained: bool) -> Sequence[Peer]:
        layout = f"[{self.SEQUENCES} x {self.LENGTH}]"

        def each(name: str, run: Callable[[], Any]) -> Peer:
            return Peer(name, layout, run, self.error, pages="fresh", unmasked=self.unmasked)

        peers = [
            each("prefopt", self.ours(trained)),
            each("Liger, compiled", self.liger(trained, True)),
            each("Liger, eager", self.liger(trained, False)),
            each("materialised, TRL", self.materialised(trained)),
        ]
        if trained:
            kept = self.ours(trained, memory_limit=GIB)
            peers.insert(1, each("prefopt, memory_limit 1 GiB", kept))
        return peers


def numpy_forward(case: Case) -> Callable[[], Results]:
    hidden, weight, labels = case.hidden.numpy(), case.weight.numpy(), case.labels.numpy()

    def run() -> Results:
        logps = prefopt.linear_token_logps(hidden, weight, labels).logps
        return torch.from_numpy(logps), None, None

    return run
