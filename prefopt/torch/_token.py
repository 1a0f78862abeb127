"""token_logps for tensors: the operators, their autograd, and the public function.

    logps[...] = x[..., labels] - lse,   lse = log sum_v exp(x[..., v]),   x = logits / temperature

Forward reads the logits once; backward reads them once more and writes the gradient. Saved for
backward: logits and labels (the caller's own tensors, guarded by autograd's version counters), lse
in double (a float32 lse near 12 would carry a rounding of 5e-7 into every probability of its row),
and the entropy if it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prefopt import _core

from . import _cuda, _plain
from ._arrays import takes_gpu_arrays
from ._bridge import (
    as_array,
    check_logits,
    check_tensor,
    contiguous_rows,
    core_dtype,
    empty_gradient,
    optional_array,
    refuse_double_backward,
    refuse_forward_mode,
    refuse_transforms,
    refuse_vmap,
    result_dtype,
    runs_cuda,
    runs_directly,
    runs_plain,
    take_temperature,
    wide_dtype,
)

STATS = ("entropy", "correct", "mean_logit", "max_logit", "lse2")
_ENTROPY_OUTPUT = 2  # outputs are [logps, lse, *stats in the order of STATS]


class TokenLogps(NamedTuple):
    """Results of `token_logps` and `linear_token_logps`, each [...]; None where not asked for."""

    logps: Tensor
    lse: Tensor
    entropy: Tensor | None = None
    correct: Tensor | None = None
    mean_logit: Tensor | None = None
    max_logit: Tensor | None = None
    lse2: Tensor | None = None
    topk_ids: Tensor | None = None
    topk_logps: Tensor | None = None
    grad_hidden: Tensor | None = None
    grad_hidden_lse: Tensor | None = None
    grad_hidden_entropy: Tensor | None = None
    kept: Tensor | None = None


# ---- the two bodies ------------------------------------------------------------------------------


def _forward(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int,
    temperature: float,
    stats: str,
    wide_lse: bool = True,
) -> list[Tensor]:
    """[logps, lse, *stats]; lse in `wide_dtype` for the sake of backward."""
    logits = contiguous_rows(logits)
    if runs_plain(logits):
        results = _plain.token_logps(logits, labels, ignore_index, temperature, stats.split())
        results[1] = results[1].to(wide_dtype(logits))
        return results
    if runs_cuda(logits):
        return _cuda.token_logps(logits, labels, ignore_index, temperature, stats.split(), wide_lse)
    arrays = _core.token_logps(
        as_array(logits),
        as_array(labels),
        core_dtype(logits),
        ignore_index,
        temperature,
        tuple(stats.split()),
        wide_lse,
    )
    return [torch.from_numpy(array) for array in arrays if array is not None]


def _backward(
    logits: Tensor,
    labels: Tensor,
    lse: Tensor,
    grad_logps: Tensor | None,
    grad_entropy: Tensor | None,
    grad_lse: Tensor | None,
    entropy: Tensor | None,
    ignore_index: int,
    temperature: float,
) -> Tensor:
    logits = contiguous_rows(logits)
    if grad_logps is None and grad_entropy is None and grad_lse is None:
        return torch.zeros_like(logits, memory_format=torch.contiguous_format)
    if runs_plain(logits) or runs_cuda(logits):
        form: Any = _plain if runs_plain(logits) else _cuda
        gradient: Tensor = form.token_logps_grad(
            logits,
            labels,
            lse,
            grad_logps,
            grad_entropy,
            grad_lse,
            entropy,
            ignore_index,
            temperature,
        )
        return gradient
    gradient = empty_gradient(logits)
    _core.token_logps_grad(
        as_array(logits),
        as_array(labels),
        as_array(lse),
        optional_array(grad_logps),
        optional_array(grad_entropy),
        optional_array(grad_lse),
        None if grad_entropy is None else optional_array(entropy),
        None,  # logps: a float32 lse can be had more exactly from them, a double one cannot
        core_dtype(logits),
        ignore_index,
        temperature,
        as_array(gradient),
    )
    return gradient


# ---- autograd, shared by the operator and the direct way -----------------------------------------


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    logits, labels, ignore_index, temperature, stats = inputs
    ctx.set_materialize_grads(False)
    ctx.ignore_index, ctx.temperature = ignore_index, temperature
    # Callers may change results in place: logps is not needed, the entropy is copied (4 bytes a
    # row), and of this lse they get a copy from `token_logps`.
    entropy = output[_ENTROPY_OUTPUT].clone() if "entropy" in stats else None
    ctx.save_for_backward(logits, labels, output[1], entropy)
    differentiable = 2 if entropy is None else 3
    ctx.mark_non_differentiable(*output[differentiable:])


def _gradient(ctx: Any, grads: Sequence[Tensor | None]) -> Tensor | None:
    logits, labels, lse, entropy = ctx.saved_tensors
    grad_logps, grad_lse = grads[0], grads[1]
    grad_entropy = grads[_ENTROPY_OUTPUT] if entropy is not None else None
    if grad_logps is None and grad_lse is None and grad_entropy is None:
        return None
    arguments = (
        logits,
        labels,
        lse,
        grad_logps,
        grad_entropy,
        grad_lse,
        entropy,
        ctx.ignore_index,
        ctx.temperature,
    )
    # With grad mode on (create_graph) the operator is taken: it carries the refusal of a second
    # derivative.
    if torch.is_grad_enabled() or not runs_directly(logits):
        return gradient_operator(*arguments)  # type: ignore[no-any-return]
    return _backward(*arguments)


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = _forward(*inputs)
        _setup(ctx, inputs, output)
        return tuple(output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _gradient(ctx, grads), None, None, None, None


def _operator_backward(ctx: Any, grads: Sequence[Tensor | None]) -> Any:
    return _gradient(ctx, grads), None, None, None, None


_apply: Callable[..., Any] = _Direct.apply  # which torch leaves untyped


# ---- operators -----------------------------------------------------------------------------------


def _fake_forward(
    logits: Tensor, labels: Tensor, _ignore_index: int, _temperature: float, stats: str
) -> list[Tensor]:
    dtype = result_dtype(logits.dtype)
    dtypes = [
        dtype,
        wide_dtype(logits),
        *(torch.bool if name == "correct" else dtype for name in stats.split()),
    ]
    return [logits.new_empty(logits.shape[:-1], dtype=each) for each in dtypes]


def _fake_backward(logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


operator = torch.library.custom_op(
    "prefopt::token_logps",
    _forward,
    mutates_args=(),
    schema="(Tensor logits, Tensor labels, int ignore_index, float temperature, str stats) "
    "-> Tensor[]",
)
gradient_operator = torch.library.custom_op(
    "prefopt::token_logps_grad",
    _backward,
    mutates_args=(),
    schema="(Tensor logits, Tensor labels, Tensor lse, Tensor? grad_logps, Tensor? grad_entropy, "
    "Tensor? grad_lse, Tensor? entropy, int ignore_index, float temperature) -> Tensor",
)
operator.register_fake(_fake_forward)
operator.register_autograd(_operator_backward, setup_context=_setup)
operator.register_vmap(refuse_vmap("token_logps"))
gradient_operator.register_fake(_fake_backward)
gradient_operator.register_autograd(refuse_double_backward("token_logps"))
gradient_operator.register_vmap(refuse_vmap("token_logps"))


# ---- the public function -------------------------------------------------------------------------


def outputs(
    logits: Tensor, labels: Tensor, ignore_index: int, temperature: float, stats: str
) -> Sequence[Tensor]:
    """[logps, lse, *stats] by the direct way where it is open, else by the operator.

    `stats` holds names in the order of STATS with spaces between: autograd for operators takes no
    empty list. lse may be wider than the rest, and where it carries a gradient it is what backward
    will read.
    """
    if runs_directly(logits, labels):
        refuse_forward_mode(logits)
        if torch.is_grad_enabled() and logits.requires_grad:
            tensors: tuple[Tensor, ...] = _apply(
                contiguous_rows(logits), labels, ignore_index, temperature, stats
            )
            return tensors
        return _forward(logits, labels, ignore_index, temperature, stats, False)
    refuse_transforms(logits)
    # The copy, where one is needed, belongs outside the operator: autograd then saves it in place
    # of the original.
    results: list[Tensor] = operator(
        contiguous_rows(logits), labels, ignore_index, temperature, stats
    )
    return results


def check_logits_and_labels(
    logits: Tensor,
    labels: Tensor,
    dtype: str | torch.dtype | None,
    name: str = "logits",
) -> Tensor:
    """The checks that the kernels cannot make for tensors, or that fake and remote tensors never
    reach them for. `name` is what the caller calls the logits.
    """
    check_tensor("labels", labels)
    if dtype is not None:
        check_tensor(name, logits)
        logits = _reinterpret(logits, dtype, name)
    check_logits(logits, name)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype is torch.bool:
        raise TypeError(f"labels: expected an integer dtype, got {labels.dtype}")
    if logits.device != labels.device:
        raise ValueError(f"labels: expected device {logits.device}, as {name}, got {labels.device}")
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"labels: expected the leading shape of {name} {tuple(logits.shape)}, "
            f"got {tuple(labels.shape)}"
        )
    return logits


def ordered(stats: Sequence[str]) -> tuple[str, ...]:
    """The names in the order of STATS, each once."""
    if isinstance(stats, str) or not all(name in STATS for name in stats):
        raise ValueError(f"stats: expected names out of {', '.join(STATS)}, got {stats!r}")
    return tuple(name for name in STATS if name in stats)


def _reinterpret(logits: Tensor, dtype: str | torch.dtype, name: str) -> Tensor:
    """Raw 16-bit words as bfloat16; any other dtype argument has to agree with the tensor."""
    wanted = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if wanted is logits.dtype:
        return logits
    if wanted is torch.bfloat16 and logits.dtype in (torch.uint16, torch.int16):
        return logits.view(torch.bfloat16)
    raise TypeError(
        f"dtype: expected {logits.dtype}, as {name} (or bfloat16 for 16-bit words), got {dtype!r}"
    )


@takes_gpu_arrays
def token_logps(
    logits: Tensor,
    labels: Tensor,
    *,
    dtype: str | torch.dtype | None = None,
    ignore_index: int = -100,
    temperature: float = 1.0,
    stats: Sequence[str] = (),
) -> TokenLogps:
    """Log-probabilities of `labels` under softmax(logits / temperature), with statistics of the
    same single read.

    Args:
        logits: [..., V] float16, bfloat16, float32 or float64. Read in place on the CPU when the
            last axis is contiguous (the others may have any strides). Taken as they come under
            autocast.
        labels: [...] any signed integer dtype or uint8, aligned with logits (no shift), in [0, V)
        or `ignore_index`.
        dtype: "bfloat16" for logits that hold its bits as 16-bit integers; otherwise not needed.
        ignore_index: rows with this label are not read; their results are 0 and so is their
        gradient.
        temperature: > 0; every statistic is of logits / temperature.
        stats: any of "entropy", "correct", "mean_logit", "max_logit", "lse2".

    Returns:
        `TokenLogps`, results [...] in float32 (float64 for float64 logits), computed from the exact
        input values. logps, lse and entropy carry gradients, the others none. Results may be
        changed in place before backward; logits may not (autograd raises). There is no second
        derivative.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or parameter, or a label out of range, named
        with its index.
        NotImplementedError: under vmap, for forward-mode tangents, and on differentiating the
        gradient.
    """
    logits = check_logits_and_labels(logits, labels, dtype)
    temperature = take_temperature(temperature)
    names = ordered(stats) if stats else ()
    logps, lse, *rest = outputs(logits, labels, ignore_index, temperature, " ".join(names))
    if lse.requires_grad:  # backward reads this one: the caller gets a copy, to change at will
        lse = lse.to(logps.dtype, copy=True)
    elif lse.dtype is not logps.dtype:
        lse = lse.to(logps.dtype)
    if not names:
        return TokenLogps(logps, lse)
    return TokenLogps(logps, lse, **dict(zip(names, rest, strict=True)))
