"""sequence_logps for tensors: sums or averages of token log-probabilities per sequence, and their
gradient.

    out[b] = sum_t mask[b, t] logps[b, t], divided with average=True by sum_t mask[b, t] or by
    normalizer[b]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from prefopt import _core

from . import _cuda
from ._arrays import takes_gpu_arrays
from ._bridge import (
    as_array,
    check_tensor,
    optional_array,
    refuse_double_backward,
    refuse_forward_mode,
    refuse_transforms,
    refuse_vmap,
    result_dtype,
    runs_cuda,
    runs_directly,
    runs_plain,
    wide_dtype,
)

# ---- plain torch, for other devices --------------------------------------------------------------


def _weights(shape: Sequence[int], mask: Tensor | None, like: Tensor) -> Tensor:
    if mask is None:
        return torch.ones(tuple(shape), dtype=wide_dtype(like), device=like.device)
    return mask.to(wide_dtype(like))


def _segments(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """The sequence that each packed token belongs to."""
    positions = torch.arange(tokens, device=cu_seqlens.device)
    return torch.searchsorted(cu_seqlens[1:].long().contiguous(), positions, right=True)


def _sums(values: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    if cu_seqlens is None:
        return values.sum(dim=-1)
    out = values.new_zeros(cu_seqlens.shape[0] - 1)
    return out.index_add(0, _segments(cu_seqlens, values.shape[0]), values)


def _divisor(weights: Tensor, cu_seqlens: Tensor | None, normalizer: Tensor | None) -> Tensor:
    """What an average divides by; inf where that is 0, so that an empty sequence gives 0."""
    counts = _sums(weights, cu_seqlens) if normalizer is None else normalizer.to(weights.dtype)
    return counts.masked_fill(counts == 0, torch.inf)


def _plain_forward(
    logps: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    average: bool,
    normalizer: Tensor | None,
) -> Tensor:
    weights = _weights(logps.shape, mask, logps)
    terms = torch.where(
        weights == 0, weights, weights * logps.to(weights.dtype)
    )  # 0 * inf is 0 here
    out = _sums(terms, cu_seqlens)
    return (out / _divisor(weights, cu_seqlens, normalizer) if average else out).to(logps.dtype)


def _plain_backward(
    grad: Tensor,
    shape: Sequence[int],
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    average: bool,
    normalizer: Tensor | None,
) -> Tensor:
    weights = _weights(shape, mask, grad)
    scale = grad.to(weights.dtype)
    if average:
        scale = scale / _divisor(weights, cu_seqlens, normalizer)
    scale = scale.unsqueeze(-1) if cu_seqlens is None else scale[_segments(cu_seqlens, shape[0])]
    return (weights * scale).to(grad.dtype)


# ---- the two bodies ------------------------------------------------------------------------------


def _forward(
    logps: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    average: bool,
    normalizer: Tensor | None,
) -> Tensor:
    if runs_plain(logps):
        return _plain_forward(logps, mask, cu_seqlens, average, normalizer)
    if runs_cuda(logps):
        return _cuda.sequence_logps(logps, mask, cu_seqlens, average, normalizer)
    arrays = (optional_array(each) for each in (mask, cu_seqlens, normalizer))
    mask_array, cuts, lengths = arrays
    return torch.from_numpy(
        _core.sequence_logps(as_array(logps), mask_array, cuts, average, lengths)
    )


def _backward(
    grad: Tensor,
    shape: Sequence[int],
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    average: bool,
    normalizer: Tensor | None,
) -> Tensor:
    if runs_plain(grad):
        return _plain_backward(grad, shape, mask, cu_seqlens, average, normalizer)
    if runs_cuda(grad):
        return _cuda.sequence_logps_grad(grad, shape, mask, cu_seqlens, average, normalizer)
    gradient = torch.empty(tuple(shape), dtype=grad.dtype)
    arrays = (optional_array(each) for each in (mask, cu_seqlens, normalizer))
    mask_array, cuts, lengths = arrays
    return torch.from_numpy(
        _core.sequence_logps_grad(
            as_array(grad), as_array(gradient), mask_array, cuts, average, lengths
        )
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logps, mask, cu_seqlens, average, normalizer = inputs
    ctx.save_for_backward(
        mask, cu_seqlens, normalizer
    )  # linear: the log-probabilities themselves are not needed
    ctx.shape, ctx.average = logps.shape, average


def _gradient(ctx: Any, grad: Tensor) -> Any:
    mask, cu_seqlens, normalizer = ctx.saved_tensors
    arguments = (grad, ctx.shape, mask, cu_seqlens, ctx.average, normalizer)
    direct = not torch.is_grad_enabled() and runs_directly(grad)
    return (_backward if direct else gradient_operator)(*arguments), None, None, None, None


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = _forward(*inputs)
        _setup(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _gradient(ctx, grads[0])


_apply: Callable[..., Any] = _Direct.apply  # which torch leaves untyped


# ---- operators -----------------------------------------------------------------------------------


def _fake_forward(
    logps: Tensor, _mask: Tensor | None, cu_seqlens: Tensor | None, *_: Any
) -> Tensor:
    return logps.new_empty(logps.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1)


def _fake_backward(grad: Tensor, shape: Sequence[int], *_: Any) -> Tensor:
    return grad.new_empty(tuple(shape))


operator = torch.library.custom_op(
    "prefopt::sequence_logps",
    _forward,
    mutates_args=(),
    schema="(Tensor logps, Tensor? mask, Tensor? cu_seqlens, bool average, Tensor? normalizer) "
    "-> Tensor",
)
gradient_operator = torch.library.custom_op(
    "prefopt::sequence_logps_grad",
    _backward,
    mutates_args=(),
    schema="(Tensor grad, SymInt[] shape, Tensor? mask, Tensor? cu_seqlens, bool average, "
    "Tensor? normalizer) -> Tensor",
)
operator.register_fake(_fake_forward)
operator.register_autograd(_gradient, setup_context=_setup)
operator.register_vmap(refuse_vmap("sequence_logps"))
gradient_operator.register_fake(_fake_backward)
gradient_operator.register_autograd(refuse_double_backward("sequence_logps"))
gradient_operator.register_vmap(refuse_vmap("sequence_logps"))


# ---- the public function -------------------------------------------------------------------------


@takes_gpu_arrays
def sequence_logps(
    logps: Tensor,
    mask: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    average: bool = False,
    normalizer: Tensor | None = None,
) -> Tensor:
    """Sums (or averages) of token log-probabilities over the tokens of each sequence, in double.

    Args:
        logps: [B, T], or packed [N] with `cu_seqlens`; float32 or float64, bfloat16 and float16 are
        widened to float32.
        mask: the same shape, bool or float weights; None counts every position (pass labels !=
            ignore_index). Where it is 0 the log-probability is not read: NaN and inf there do no
            harm.
        cu_seqlens: [B + 1] int32 or int64, from 0 to N, non-decreasing.
        average: divide by the sum of the mask; an empty sequence gives 0.
        normalizer: [B] > 0, with average=True only: divide by these (global lengths, say) instead.

    Returns:
        [B], differentiable in `logps`; a gradient of the gradient is refused.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or value, named.
    """
    for name, value in (
        ("logps", logps),
        ("mask", mask),
        ("cu_seqlens", cu_seqlens),
        ("normalizer", normalizer),
    ):
        if value is not None or name == "logps":
            check_tensor(name, value)
    _check_shapes(logps, mask, cu_seqlens)
    if normalizer is not None and not average:
        raise ValueError("normalizer: expected average=True with it, got average=False")
    if logps.dtype is not result_dtype(logps.dtype):
        logps = logps.float()
    if runs_directly(*(each for each in (logps, mask, cu_seqlens, normalizer) if each is not None)):
        refuse_forward_mode(logps)
        if torch.is_grad_enabled() and logps.requires_grad:
            result: Tensor = _apply(logps, mask, cu_seqlens, average, normalizer)
            return result
        return _forward(logps, mask, cu_seqlens, average, normalizer)
    refuse_transforms(logps)
    return operator(logps, mask, cu_seqlens, average, normalizer)  # type: ignore[no-any-return]


def _check_shapes(logps: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> None:
    """Shapes alone: what fake and remote tensors can be asked. The kernels check values."""
    if not logps.is_floating_point():
        raise TypeError(f"logps: expected a floating dtype, got {logps.dtype}")
    dimensions = 2 if cu_seqlens is None else 1
    if logps.dim() != dimensions:
        expected = "[B, T]" if dimensions == 2 else "[N] with cu_seqlens"
        raise ValueError(f"logps: expected {expected}, got {tuple(logps.shape)}")
    if mask is not None and mask.shape != logps.shape:
        raise ValueError(
            f"mask: expected the shape of logps {tuple(logps.shape)}, got {tuple(mask.shape)}"
        )
    if cu_seqlens is not None and (cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1):
        raise ValueError(f"cu_seqlens: expected [B + 1], got {tuple(cu_seqlens.shape)}")
