"""An output head as plain torch works with it: logits of a chunk of tokens, and their gradients.

Logits x [n, V] of rows hidden [n, H]:

    z = hidden @ weight.T + hidden @ lora_a.T @ lora_b.T + bias
    x = softcap(logit_scale * z) / temperature

Everything is in float32, float64 for float64 inputs; a half-precision head is widened by pieces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._bridge import result_dtype

ANY_VOCAB = 1 << 62  # more entries than any vocabulary: a part's labels may stand anywhere
DEFAULT_MEMORY = 64 << 20
_WEIGHT_ROWS = 8192  # of a half-precision head that are widened at a time
_CONTIGUOUS = torch.contiguous_format


class Head(NamedTuple):
    """What logits are made from."""

    hidden: Tensor  # [..., H]
    weight: Tensor  # [V, H]
    labels: Tensor  # [...]
    bias: Tensor | None  # [V]
    lora_a: Tensor | None  # [r, H]
    lora_b: Tensor | None  # [V, r]

    def rounded(self, dtype: str) -> Head:
        """As autocast to `dtype` hands them to a linear layer; "" for no autocast."""
        if not dtype:
            return self
        narrow = getattr(torch, dtype)
        return Head(
            *(each if each is None or each is self.labels else each.to(narrow) for each in self)  # type: ignore[arg-type]
        )


class Options(NamedTuple):
    """How logits are made, and how much memory that may take."""

    ignore_index: int
    logit_scale: float
    softcap: float  # 0: none
    temperature: float
    memory_limit: int  # bytes; 0: the default
    grad_filter: float  # 0: exact
    rounding: str  # the dtype that autocast rounds inputs to; "": none
    vocab_start: int
    group: str  # the process group that holds the whole vocabulary; "": this process does


@contextlib.contextmanager
def as_given(tensor: Tensor) -> Iterator[None]:
    """No autocast within: inputs have been rounded, products are not."""
    kind = tensor.device.type
    if torch.amp.is_autocast_available(kind):
        with torch.autocast(kind, enabled=False):
            yield
    else:
        yield


# ---- products with the head ----------------------------------------------------------------------


def _pieces(weight: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the head in `dtype`: all together where nothing has to be converted."""
    step = weight.shape[0] if weight.dtype is dtype else _WEIGHT_ROWS
    for first in range(0, weight.shape[0], step):
        rows = slice(first, first + step)
        yield rows, weight[rows].to(dtype)


def logits_of(head: Head, options: Options, hidden: Tensor) -> Tensor:
    """x [n, V] of rows hidden [n, H] that have the arithmetic's dtype."""
    x = hidden.new_empty(hidden.shape[0], head.weight.shape[0])
    for rows, weight in _pieces(head.weight, hidden.dtype):
        torch.mm(hidden, weight.t(), out=x[:, rows])
    if head.lora_a is not None and head.lora_b is not None:
        x.addmm_(hidden @ head.lora_a.to(hidden.dtype).t(), head.lora_b.to(hidden.dtype).t())
    if head.bias is not None:
        x += head.bias
    x *= options.logit_scale
    if options.softcap:
        x.div_(options.softcap).tanh_().mul_(options.softcap)
    return x.div_(options.temperature)


def product_gradient(x: Tensor, grad: Tensor, options: Options) -> Tensor:
    """d loss / d (the product with the head), in place of grad [n, V] = d loss / d x."""
    if options.softcap:
        grad *= 1 - (x * (options.temperature / options.softcap)).square_()
    return grad.mul_(options.logit_scale / options.temperature)


def times_head(head: Head, grad: Tensor) -> Tensor:
    """grad [n, V] times the whole head, weight + lora_b lora_a: [n, H]."""
    total = grad.new_zeros(grad.shape[0], head.weight.shape[1])
    for rows, weight in _pieces(head.weight, grad.dtype):
        total.addmm_(grad[:, rows], weight)
    if head.lora_a is not None and head.lora_b is not None:
        total.addmm_(grad @ head.lora_b.to(grad.dtype), head.lora_a.to(grad.dtype))
    return total


def label_rows(
    options: Options,
    dtype: torch.dtype,
    labels: Tensor,
    weight: Tensor,
    lora_a: Tensor | None,
    lora_b: Tensor | None,
    target: Tensor | None,
) -> Tensor:
    """d x[label] / d hidden [..., H] in `dtype`: the label's row of the whole head, scaled; 0 where
    the label is ignored or stands in another part. target: x[label], for a softcap's sake.
    """
    narrow = getattr(torch, options.rounding) if options.rounding else None

    def read(tensor: Tensor) -> Tensor:
        return tensor.to(narrow or tensor.dtype).to(dtype)

    local = labels.long() - options.vocab_start
    here = (labels != options.ignore_index) & (local >= 0) & (local < weight.shape[0])
    local = local.masked_fill(~here, 0)
    rows = read(weight[local])
    if lora_a is not None and lora_b is not None:
        with as_given(weight):
            rows += read(lora_b[local]) @ read(lora_a)
    slope = torch.full_like(rows[..., 0], options.logit_scale / options.temperature)
    if options.softcap and target is not None:
        slope *= 1 - (target.to(dtype) * (options.temperature / options.softcap)).square()
    return rows.mul_(slope.unsqueeze(-1)).masked_fill_(~here.unsqueeze(-1), 0)


class HeadGradients:
    """Gradients of the head and of hidden, added up over chunks in the arithmetic's dtype."""

    def __init__(self, head: Head, needs: Sequence[str]) -> None:
        self._head = head
        dtype = result_dtype(head.hidden.dtype)
        self._sums = {
            name: torch.zeros_like(getattr(head, name), dtype=dtype, memory_format=_CONTIGUOUS)
            for name in needs
        }

    def add(self, rows: Tensor, hidden: Tensor, grad: Tensor) -> None:
        """rows [n] of the flattened hidden, their values [n, H], and the gradient [n, V] of their
        product with the head.
        """
        sums, head = self._sums, self._head
        if "hidden" in sums:
            sums["hidden"].view(-1, hidden.shape[1])[rows] = times_head(head, grad)
        if "weight" in sums:
            sums["weight"].addmm_(grad.t(), hidden)
        if "bias" in sums:
            sums["bias"] += grad.sum(dim=0)
        if head.lora_a is None or head.lora_b is None:
            return
        if "lora_a" in sums:
            sums["lora_a"].addmm_((grad @ head.lora_b.to(grad.dtype)).t(), hidden)
        if "lora_b" in sums:
            sums["lora_b"].addmm_(grad.t(), hidden @ head.lora_a.to(grad.dtype).t())

    def result(self) -> list[Tensor]:
        """In the order of needs."""
        return list(self._sums.values())


def live_rows(labels: Tensor, ignore_index: int) -> Tensor:
    """The positions in flattened labels that count."""
    return (labels.reshape(-1) != ignore_index).nonzero().squeeze(1)


def chunks(
    head: Head, options: Options, temporaries: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each chunk of the tokens that count: rows [n] of the flattened hidden, their values
    [n, H] in the arithmetic's dtype, their labels [n].

    temporaries: [n, V] arrays that the memory limit has to hold.
    """
    dtype = result_dtype(head.hidden.dtype)
    hidden = head.hidden.reshape(-1, head.hidden.shape[-1])
    labels = head.labels.reshape(-1)
    row_bytes = temporaries * head.weight.shape[0] * dtype.itemsize
    size = max(1, (options.memory_limit or DEFAULT_MEMORY) // row_bytes)
    for rows in torch.split(live_rows(labels, options.ignore_index), size):
        yield rows, hidden[rows].to(dtype), labels[rows].long()
