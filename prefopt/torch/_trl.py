"""TRL 1.16's log-probability functions by name and signature (trl/trainer/utils.py), over the same
kernels.

What differs, on purpose: results are float32 for bfloat16 and float16 logits (TRL rounds them to
the logits' dtype), and logits of -inf contribute 0 to the entropy (NaN there). As in TRL, a result
may be changed in place before backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _token
from ._bridge import (
    check_logits,
    check_tensor,
    contiguous_rows,
    refuse_double_backward,
    refuse_forward_mode,
    refuse_transforms,
    refuse_vmap,
    result_dtype,
    runs_directly,
    runs_plain,
    take_temperature,
    wide_dtype,
)

# Marks a row as skipped. TRL has no ignored index: -100 is out of range there, so it must not be
# taken for one here.
_SKIPPED = -(2**63)


def _row_labels(index: Tensor, row_mask: Tensor | None) -> Tensor:
    """index [...], with the rows that row_mask [...] holds a zero for marked as skipped."""
    if row_mask is None:
        return index
    return index.long().masked_fill(row_mask == 0, _SKIPPED)


def _outputs(logits: Tensor, labels: Tensor, temperature: float, stats: str) -> Sequence[Tensor]:
    """`_token.outputs`, whose complaints about `labels` are about what is called `index` here and
    knows no ignored one.
    """
    _token.check_logits_and_labels(logits, labels, None)
    if torch.compiler.is_compiling():
        return _token.outputs(logits, labels, _SKIPPED, temperature, stats)
    try:
        return _token.outputs(logits, labels, _SKIPPED, temperature, stats)
    except ValueError as error:
        message = str(error).replace("labels", "index")
        raise ValueError(message.replace(f"{_SKIPPED} (ignored) or ", "")) from None


# ---- K log-probabilities per row: logits [..., V], index [..., K] --------------------------------


def _safe_index(logits: Tensor, index: Tensor, row_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """index [..., K] as int64 that is safe to gather at, and labels [...] that skip rows masked
    throughout.
    """
    index = index.long()
    if row_mask is not None:
        index = index.masked_fill(row_mask == 0, 0)
    if logits.is_cpu and index.numel():
        bad = (index < 0) | (index >= logits.shape[-1])
        if bad.any():
            first = int(bad.reshape(-1).nonzero()[0])
            raise ValueError(
                f"index: expected 0 <= label < {logits.shape[-1]}, "
                f"got {int(index.reshape(-1)[first])} at index {first}"
            )
    labels = torch.zeros(index.shape[:-1], dtype=torch.int64, device=index.device)
    if row_mask is not None:
        labels = labels.masked_fill((row_mask == 0).all(dim=-1), _SKIPPED)
    return index, labels


def _forward(
    logits: Tensor, index: Tensor, row_mask: Tensor | None, temperature: float
) -> list[Tensor]:
    index, labels = _safe_index(logits, index, row_mask)
    lse = _token._forward(logits, labels, _SKIPPED, temperature, "")[1]
    x = logits.gather(-1, index).to(lse.dtype) / temperature
    logps = (x - lse.unsqueeze(-1)).masked_fill(lse.unsqueeze(-1) == torch.inf, torch.nan)
    logps = logps.to(result_dtype(logits.dtype))
    if row_mask is not None:
        logps = logps.masked_fill(row_mask == 0, 0)
    return [logps, lse]


def _backward(
    logits: Tensor,
    index: Tensor,
    row_mask: Tensor | None,
    lse: Tensor,
    grad: Tensor,
    temperature: float,
) -> Tensor:
    """d logp[k] / d x = onehot(index[k]) - p: the common -p part by the kernel, then one addition
    per selected entry.
    """
    index, labels = _safe_index(logits, index, row_mask)
    if row_mask is not None:
        grad = grad.masked_fill(row_mask == 0, 0)
    total = -grad.sum(dim=-1)
    gradient = _token._backward(logits, labels, lse, None, None, total, None, _SKIPPED, temperature)
    return gradient.scatter_add_(-1, index, (grad / temperature).to(gradient.dtype))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    logits, index, row_mask, temperature = inputs
    ctx.set_materialize_grads(False)
    ctx.temperature = temperature
    ctx.save_for_backward(logits, index, row_mask, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradient(ctx: Any, grad: Tensor | None) -> Any:
    if grad is None:
        return None, None, None, None
    logits, index, row_mask, lse = ctx.saved_tensors
    direct = not torch.is_grad_enabled() and runs_directly(logits)
    backward = _backward if direct else gradient_operator
    return backward(logits, index, row_mask, lse, grad, ctx.temperature), None, None, None


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = _forward(*inputs)
        _setup(ctx, inputs, output)
        return tuple(output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _gradient(ctx, grads[0])


_apply: Callable[..., Any] = _Direct.apply  # which torch leaves untyped


def _fake_forward(
    logits: Tensor, index: Tensor, _row_mask: Tensor | None, _temperature: float
) -> list[Tensor]:
    return [
        logits.new_empty(index.shape, dtype=result_dtype(logits.dtype)),
        logits.new_empty(index.shape[:-1], dtype=wide_dtype(logits)),
    ]


operator = torch.library.custom_op(
    "prefopt::selected_logps",
    _forward,
    mutates_args=(),
    schema="(Tensor logits, Tensor index, Tensor? row_mask, float temperature) -> Tensor[]",
)
gradient_operator = torch.library.custom_op(
    "prefopt::selected_logps_grad",
    _backward,
    mutates_args=(),
    schema="(Tensor logits, Tensor index, Tensor? row_mask, Tensor lse, Tensor grad, "
    "float temperature) -> Tensor",
)
operator.register_fake(_fake_forward)
operator.register_autograd(lambda ctx, grads: _gradient(ctx, grads[0]), setup_context=_setup)
operator.register_vmap(refuse_vmap("selective_log_softmax"))
gradient_operator.register_fake(lambda logits, *_: logits.new_empty(logits.shape))
gradient_operator.register_autograd(refuse_double_backward("selective_log_softmax"))
gradient_operator.register_vmap(refuse_vmap("selective_log_softmax"))


def _selected(logits: Tensor, index: Tensor, row_mask: Tensor | None, temperature: float) -> Tensor:
    logits = contiguous_rows(logits)
    if runs_directly(logits, index) and not runs_plain(logits):
        refuse_forward_mode(logits)
        if torch.is_grad_enabled() and logits.requires_grad:
            logps: Tensor = _apply(logits, index, row_mask, temperature)[0]
            return logps
        return _forward(logits, index, row_mask, temperature)[0]
    refuse_transforms(logits)
    return operator(logits, index, row_mask, temperature)[0]  # type: ignore[no-any-return]


# ---- the public functions ------------------------------------------------------------------------


def _check(logits: Tensor, index: Tensor, temperature: float, row_mask: Tensor | None) -> float:
    check_logits(logits)
    check_tensor("index", index)
    if row_mask is not None:
        check_tensor("row_mask", row_mask)
    if index.is_floating_point() or index.is_complex() or index.dtype is torch.bool:
        raise TypeError(f"index: expected an integer dtype, got {index.dtype}")
    lead = index.shape if index.dim() == logits.dim() - 1 else index.shape[:-1]
    if lead != logits.shape[:-1]:
        raise ValueError(
            f"index: expected [...] or [..., K] beside logits {tuple(logits.shape)}, "
            f"got {tuple(index.shape)}"
        )
    if row_mask is not None and row_mask.shape != index.shape:
        raise ValueError(
            f"row_mask: expected the shape of index {tuple(index.shape)}, "
            f"got {tuple(row_mask.shape)}"
        )
    return take_temperature(temperature)


def selective_log_softmax(
    logits: Tensor, index: Tensor, temperature: float = 1.0, row_mask: Tensor | None = None
) -> Tensor:
    """`log_softmax(logits / temperature, -1).gather(-1, index)` in one read of the logits.

    Args:
        logits: [..., V] float16, bfloat16, float32 or float64.
        index: [...] one log-probability per row, or [..., K] of them; any integer dtype, in [0, V).
        temperature: > 0.
        row_mask: the shape of index, bool or integer. Where it is zero the result is 0, carries no
            gradient, and index is not looked at; rows that are masked throughout are not read.

    Returns:
        The shape of index, float32 (float64 for float64 logits).
    """
    temperature = _check(logits, index, temperature, row_mask)
    if index.dim() == logits.dim():
        return _selected(logits, index, row_mask, temperature)
    return _outputs(logits, _row_labels(index, row_mask), temperature, "")[0]


def entropy_from_logits(logits: Tensor, chunk_size: int = 128) -> Tensor:
    """Shannon entropy in nats of softmax(logits) per row, [..., V] to [...], in one read of the
    logits.

    `chunk_size` is accepted for the sake of TRL's signature: nothing is held that would need
    cutting in chunks.
    """
    check_logits(logits)
    if chunk_size < 1:
        raise ValueError(f"chunk_size: expected a number >= 1, got {chunk_size}")
    labels = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    return _outputs(logits, labels, 1.0, "entropy")[2]


def selective_log_softmax_and_entropy(
    logits: Tensor,
    index: Tensor,
    entropy_requires_grad: bool = True,
    temperature: float = 1.0,
    row_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Both of the above out of one read: log-probabilities [...] of index [...], and entropies
    [...].

    Entropy is of softmax(logits / temperature). `row_mask` [...] as in `selective_log_softmax`, for
    both results.
    """
    temperature = _check(logits, index, temperature, row_mask)
    if index.dim() == logits.dim():
        raise ValueError(f"index: expected {tuple(logits.shape[:-1])}, got {tuple(index.shape)}")
    logps, _, entropy = _outputs(logits, _row_labels(index, row_mask), temperature, "entropy")
    return logps, entropy if entropy_requires_grad else entropy.detach()
