"""The operators of the fused linear operation and their autograd, in two forms.

- `linear_token_logps`: logps, lse and statistics. Backward makes the logits again, tile by tile, or
  reads them where the forward kept them; saved are the caller's own tensors and [...] vectors.
- `linear_token_logps_frozen`: the same, and in the same sweep d logps / d hidden, float32, which is
  what is saved: with a frozen head backward is one multiplication by a column. A gradient through
  the entropy costs one more product in the sweep, so it is made only where it is asked for; one
  through lse is had from the label's row of the head, d logps = d x[label] - d lse. `anchor` is
  empty: it ties the gradient to hidden, which is not saved, for the refusal of a second derivative.

An operator's body cannot know whether a gradient will be wanted: `_linear` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _linear_split
from ._bridge import (
    refuse_double_backward,
    refuse_vmap,
    result_dtype,
    runs_directly,
    wide_dtype,
)
from ._head import Head, Options, label_rows
from ._linear_kernels import PARAMETERS, kernels_for

# Arguments of both operators: a Head, Options, and what is wanted.
HEAD_SCHEMA = (
    "Tensor hidden, Tensor weight, Tensor labels, Tensor? bias, Tensor? lora_a, Tensor? lora_b"
)
OPTIONS_SCHEMA = (
    "int ignore_index, float logit_scale, float softcap, float temperature, SymInt memory_limit, "
    "float grad_filter, str rounding, SymInt vocab_start, str group"
)
_TENSORS, _NUMBERS = 6, 9
_ARGUMENTS = _TENSORS + _NUMBERS + 3


def _taken(arguments: Sequence[Any]) -> tuple[Head, Options]:
    return Head(*arguments[:_TENSORS]), Options(*arguments[_TENSORS : _TENSORS + _NUMBERS])


def output_names(stats: str, topk: int, gradients: str) -> list[str]:
    """The outputs of an operator in order. Names come with spaces between: autograd for operators
    takes no empty list.
    """
    names = ["logps", "lse", *stats.split()]
    if topk:
        names += ["topk_ids", "topk_logps"]
    return [*names, *(f"grad_hidden_{name}" for name in gradients.split())]


# ---- the bodies ----------------------------------------------------------------------------------


def run(arguments: Sequence[Any], *extra: str) -> list[Tensor]:
    """The operators' forward; `extra` names further results."""
    head, options = _taken(arguments)
    stats, topk, gradients = arguments[-3:]
    names = [*output_names(stats, topk, gradients), *extra]
    kernels = kernels_for(head.hidden)
    head = head.rounded(options.rounding)
    if options.group:
        results = _linear_split.sweep(kernels, head, options, names)
    else:
        swept = [name for name in names if not name.startswith("topk")]
        results = kernels.sweep(head, options, swept, topk)
    return [results[name] for name in names]


def _forward(*arguments: Any) -> list[Tensor]:
    return run(arguments)


def _backward(*arguments: Any, kept: Tensor | None = None) -> list[Tensor]:
    """The gradients that `needs`, the last argument, names, in the dtypes of their inputs."""
    head, options = _taken(arguments)
    lse, entropy, *grads, needs = arguments[_TENSORS + _NUMBERS :]
    names = needs.split()
    found = kernels_for(head.hidden).gradients(
        head.rounded(options.rounding),
        options,
        {"lse": lse, "entropy": entropy},
        dict(zip(("logps", "entropy", "lse"), grads, strict=True)),
        kept,
        names,
    )
    if options.group:
        _linear_split.add_over_parts(
            options.group,
            [each for name, each in zip(names, found, strict=True) if name in ("hidden", "lora_a")],
        )
    return [each.to(getattr(head, name).dtype) for name, each in zip(names, found, strict=True)]


def _frozen_forward(_anchor: Tensor, *arguments: Any) -> list[Tensor]:
    return run(arguments)


def _frozen_backward(_anchor: Tensor, *arguments: Any) -> Tensor:
    """d loss / d hidden from what the sweep left; `target` is x at the labels, for softcap's sake."""
    labels, weight, lora_a, lora_b, target, by_logps, by_entropy = arguments[:7]
    grads, options, dtype = arguments[7:10], Options(*arguments[10:-1]), arguments[-1]
    grad_logps, grad_entropy, grad_lse = (
        None if each is None else each.masked_fill(labels == options.ignore_index, 0).unsqueeze(-1)
        for each in grads
    )
    total = torch.zeros_like(by_logps) if grad_logps is None else by_logps * grad_logps
    if grad_entropy is not None:
        total.addcmul_(by_entropy, grad_entropy)
    if grad_lse is not None:
        by_label = label_rows(options, by_logps.dtype, labels, weight, lora_a, lora_b, target)
        total.addcmul_(by_label.sub_(by_logps), grad_lse)
    if options.group:
        _linear_split.add_over_parts(options.group, [total])
    result: Tensor = total.to(dtype)
    return result


# ---- autograd: the logits made again --------------------------------------------------------------


def _setup(
    ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor], kept: Tensor | None = None
) -> None:
    stats = inputs[-3].split()
    ctx.set_materialize_grads(False)
    ctx.options = inputs[_TENSORS : _TENSORS + _NUMBERS]
    # Callers may change results in place: logps is not needed, the entropy is copied, and of this
    # lse they get a copy.
    ctx.entropy_place = 2 + stats.index("entropy") if "entropy" in stats else None
    entropy = None if ctx.entropy_place is None else output[ctx.entropy_place].clone()
    ctx.save_for_backward(*inputs[:_TENSORS], output[1], entropy, kept)
    differentiable = {0, 1, ctx.entropy_place}
    ctx.mark_non_differentiable(*(each for k, each in enumerate(output) if k not in differentiable))


def _gradient(ctx: Any, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    *head, lse, entropy, kept = ctx.saved_tensors
    by_entropy = None if ctx.entropy_place is None else grads[ctx.entropy_place]
    vectors = (grads[0], by_entropy, grads[1])
    places = [Head._fields.index(name) for name in PARAMETERS]
    needed = [place for place in places if ctx.needs_input_grad[place]]
    gradients: list[Tensor | None] = [None] * _ARGUMENTS
    if all(each is None for each in vectors) or not needed:
        return gradients
    needs = " ".join(Head._fields[place] for place in needed)
    arguments = (*head, *ctx.options, lse, entropy, *vectors, needs)
    # With grad mode on (create_graph) the operator is taken: it carries the refusal of a second
    # derivative.
    if torch.is_grad_enabled() or not runs_directly(*(each for each in head if each is not None)):
        found = gradient_operator(*arguments)
    else:
        # The kernels write over kept logits: a second backward makes them again.
        found = _backward(*arguments, kept=None if getattr(ctx, "spent", False) else kept)
        ctx.spent = True
    for place, each in zip(needed, found, strict=True):
        gradients[place] = each
    return gradients


# ---- autograd: gradients by hidden from the sweep --------------------------------------------------


def _frozen_setup(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    anchor, hidden, weight, labels, _bias, lora_a, lora_b, *rest = inputs
    places = {name: place for place, name in enumerate(output_names(*rest[_NUMBERS:]))}
    ctx.set_materialize_grads(False)
    ctx.options, ctx.dtype = rest[:_NUMBERS], hidden.dtype
    by_entropy = places.get("grad_hidden_entropy")
    ctx.entropy_place = None if by_entropy is None else places.get("entropy")
    target = output[0] + output[1] if Options(*ctx.options).softcap else None
    ctx.save_for_backward(
        anchor,
        labels,
        weight,
        lora_a,
        lora_b,
        target,
        output[places["grad_hidden_logps"]],
        None if by_entropy is None else output[by_entropy],
    )
    differentiable = {0, 1, ctx.entropy_place}
    ctx.mark_non_differentiable(*(each for k, each in enumerate(output) if k not in differentiable))


def _frozen_gradient(ctx: Any, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    by_entropy = None if ctx.entropy_place is None else grads[ctx.entropy_place]
    vectors = (grads[0], by_entropy, grads[1])
    gradients: list[Tensor | None] = [None] * (1 + _ARGUMENTS)
    if any(each is not None for each in vectors):
        saved = ctx.saved_tensors
        arguments = (*saved, *vectors, *ctx.options, ctx.dtype)
        direct = not torch.is_grad_enabled() and runs_directly(*saved[:3])
        gradients[1] = (_frozen_backward if direct else frozen_gradient_operator)(*arguments)
    return gradients


# ---- the direct way -------------------------------------------------------------------------------


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        *inputs, keep = arguments
        output = run(inputs, *(("kept",) if keep else ()))
        kept = output.pop() if keep else None
        _setup(ctx, tuple(inputs), output, kept)
        return tuple(output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return *_gradient(ctx, grads), None


class _DirectFrozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = run(inputs[1:])
        _frozen_setup(ctx, inputs, output)
        return tuple(output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return tuple(_frozen_gradient(ctx, grads))


apply: Callable[..., Any] = _Direct.apply  # which torch leaves untyped
apply_frozen: Callable[..., Any] = _DirectFrozen.apply


# ---- operators -----------------------------------------------------------------------------------


def _fake_forward(*arguments: Any) -> list[Tensor]:
    hidden, labels = arguments[0], arguments[2]
    stats, topk, gradients = arguments[-3:]
    real, wide = result_dtype(hidden.dtype), wide_dtype(hidden)

    def fake(name: str) -> Tensor:
        dtype = {"lse": wide, "correct": torch.bool, "topk_ids": torch.int64}.get(name, real)
        last = (topk,) if name.startswith("topk") else ()
        shape = hidden.shape if name.startswith("grad_hidden") else (*labels.shape, *last)
        result: Tensor = hidden.new_empty(shape, dtype=dtype)
        return result

    return [fake(name) for name in output_names(stats, topk, gradients)]


def _fake_frozen_forward(_anchor: Tensor, *arguments: Any) -> list[Tensor]:
    return _fake_forward(*arguments)


def _fake_backward(*arguments: Any) -> list[Tensor]:
    head, _ = _taken(arguments)
    given = (getattr(head, name) for name in arguments[-1].split())
    return [each.new_empty(each.shape) for each in given]


def _fake_frozen_backward(*arguments: Any) -> Tensor:
    by_logps = arguments[6]
    result: Tensor = by_logps.new_empty(by_logps.shape, dtype=arguments[-1])
    return result


_WANTED = "str stats, int topk, str gradients"
operator = torch.library.custom_op(
    "prefopt::linear_token_logps",
    _forward,
    mutates_args=(),
    schema=f"({HEAD_SCHEMA}, {OPTIONS_SCHEMA}, {_WANTED}) -> Tensor[]",
)
frozen_operator = torch.library.custom_op(
    "prefopt::linear_token_logps_frozen",
    _frozen_forward,
    mutates_args=(),
    schema=f"(Tensor anchor, {HEAD_SCHEMA}, {OPTIONS_SCHEMA}, {_WANTED}) -> Tensor[]",
)
gradient_operator = torch.library.custom_op(
    "prefopt::linear_token_logps_grad",
    _backward,
    mutates_args=(),
    schema=f"({HEAD_SCHEMA}, {OPTIONS_SCHEMA}, Tensor lse, Tensor? entropy, Tensor? grad_logps, "
    "Tensor? grad_entropy, Tensor? grad_lse, str needs) -> Tensor[]",
)
frozen_gradient_operator = torch.library.custom_op(
    "prefopt::linear_token_logps_frozen_grad",
    _frozen_backward,
    mutates_args=(),
    schema="(Tensor anchor, Tensor labels, Tensor weight, Tensor? lora_a, Tensor? lora_b, "
    "Tensor? target, Tensor by_logps, Tensor? by_entropy, Tensor? grad_logps, Tensor? grad_entropy, "
    f"Tensor? grad_lse, {OPTIONS_SCHEMA}, ScalarType dtype) -> Tensor",
)
operator.register_fake(_fake_forward)
frozen_operator.register_fake(_fake_frozen_forward)
gradient_operator.register_fake(_fake_backward)
frozen_gradient_operator.register_fake(_fake_frozen_backward)
operator.register_autograd(lambda ctx, grads: tuple(_gradient(ctx, grads)), setup_context=_setup)
frozen_operator.register_autograd(
    lambda ctx, grads: tuple(_frozen_gradient(ctx, grads)), setup_context=_frozen_setup
)
for _each in (gradient_operator, frozen_gradient_operator):
    _each.register_autograd(refuse_double_backward("linear_token_logps"))
for _each in (operator, frozen_operator, gradient_operator, frozen_gradient_operator):
    _each.register_vmap(refuse_vmap("linear_token_logps"))
