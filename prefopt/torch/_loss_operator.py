"""The way from tensors into the C losses and back, with autograd.

One operator serves every loss: `inputs` are its tensors, `call` says which function and which
keyword each of them and each number is. Backward asks the same function for its vector-Jacobian
product, so that losses that couple the batch (an NLL term shared by all pairs) need nothing of
their own. B numbers go each way: tensors on other devices are computed on the CPU and brought back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from prefopt import _losses

from ._bridge import (
    as_array,
    refuse_double_backward,
    refuse_forward_mode,
    refuse_transforms,
    refuse_vmap,
    runs_directly,
)

# What may carry a gradient; reference log-probabilities, lengths and kl never do. A test compares
# it with `.grads`.
DIFFERENTIABLE = frozenset(
    {"policy_chosen_logps", "policy_rejected_logps", "policy_logps", "chosen_nll"}
)


class PairLoss(NamedTuple):
    """Losses over (chosen, rejected) pairs, each [B]; the rewards carry no gradient."""

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


class UnpairedLoss(NamedTuple):
    """Losses over single labelled answers, each [B]; the rewards carry no gradient."""

    losses: Tensor
    rewards: Tensor


class SequenceLoss(NamedTuple):
    """Losses over sequences that have no reward, [B]."""

    losses: Tensor


class _Call(NamedTuple):
    """`function:outputs:names:texts`, a constant in a compiled graph, taken apart.

    names are the keywords of the tensors and then of the numbers; texts are key=value.
    """

    function: str
    outputs: int
    names: list[str]
    texts: dict[str, str]

    @classmethod
    @functools.lru_cache(256)
    def parse(cls, call: str) -> _Call:
        function, outputs, names, texts = call.split(":")
        pairs = dict(text.split("=", 1) for text in texts.split())
        return cls(function, int(outputs), names.split(), pairs)


def _run(inputs: Sequence[Tensor], call: str, numbers: Sequence[float], grad: Tensor | None) -> Any:
    function, _, names, texts = _Call.parse(call)
    arrays = [as_array(each if each.is_cpu else each.cpu()) for each in inputs]
    keywords: dict[str, Any] = dict(zip(names, [*arrays, *numbers], strict=True))
    if grad is not None:
        keywords["grad_losses"] = as_array(grad if grad.is_cpu else grad.cpu())
    return getattr(_losses, function)(**keywords, **texts)


def _forward(inputs: Sequence[Tensor], call: str, numbers: Sequence[float]) -> list[Tensor]:
    results = _run(inputs, call, numbers, None)
    return [_on_device_of(inputs[0], each) for each in results]


def _backward(
    inputs: Sequence[Tensor], call: str, numbers: Sequence[float], grad: Tensor
) -> list[Tensor]:
    grads = _run(inputs, call, numbers, grad).grads
    names = [name for name in _Call.parse(call).names if name in DIFFERENTIABLE]
    return [_on_device_of(grad, grads[name]) for name in names]


def _on_device_of(tensor: Tensor, array: npt.NDArray[Any]) -> Tensor:
    result = torch.from_numpy(array)
    return result if tensor.is_cpu else result.to(tensor.device)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    tensors, ctx.call, ctx.numbers = inputs
    ctx.save_for_backward(*tensors)
    ctx.mark_non_differentiable(*output[1:])


def _input_gradients(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    """One gradient for each input, None for those that carry none."""
    inputs = ctx.saved_tensors
    direct = not torch.is_grad_enabled() and runs_directly(grad, *inputs)
    backward = _backward if direct else gradient_operator
    grads = iter(backward(list(inputs), ctx.call, ctx.numbers, grad))
    names = _Call.parse(ctx.call).names[: len(inputs)]
    return [next(grads) if name in DIFFERENTIABLE else None for name in names]


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: str, numbers: list[float], *inputs: Tensor) -> Any:
        output = _forward(inputs, call, numbers)
        _setup(ctx, (inputs, call, numbers), output)
        return tuple(output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, None, *_input_gradients(ctx, grads[0])


_apply: Callable[..., Any] = _Direct.apply  # which torch leaves untyped


def _operator_backward(ctx: Any, grads: Sequence[Tensor]) -> Any:
    # Autograd for operators takes an empty list for an empty list, None for any other list of
    # numbers.
    return _input_gradients(ctx, grads[0]), None, None if ctx.numbers else []


def _fake_forward(inputs: Sequence[Tensor], call: str, _numbers: Sequence[float]) -> list[Tensor]:
    return [torch.empty_like(inputs[0]) for _ in range(_Call.parse(call).outputs)]


def _fake_backward(
    inputs: Sequence[Tensor], call: str, _numbers: Sequence[float], _grad: Tensor
) -> list[Tensor]:
    names = _Call.parse(call).names
    return [
        torch.empty_like(each)
        for name, each in zip(names, inputs, strict=False)
        if name in DIFFERENTIABLE
    ]


operator = torch.library.custom_op(
    "prefopt::loss",
    _forward,
    mutates_args=(),
    schema="(Tensor[] inputs, str call, float[] numbers) -> Tensor[]",
)
gradient_operator = torch.library.custom_op(
    "prefopt::loss_grad",
    _backward,
    mutates_args=(),
    schema="(Tensor[] inputs, str call, float[] numbers, Tensor grad) -> Tensor[]",
)
operator.register_fake(_fake_forward)
operator.register_autograd(_operator_backward, setup_context=_setup)
operator.register_vmap(refuse_vmap("loss"))
gradient_operator.register_fake(_fake_backward)
gradient_operator.register_autograd(refuse_double_backward("loss"))
gradient_operator.register_vmap(refuse_vmap("loss"))


# ---- from keywords to an operator call and back --------------------------------------------------


def _promote(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Floating inputs in one dtype: float64 if any is, else float32."""
    dtypes = [each.dtype for each in tensors.values()]
    dtype = torch.float64 if torch.float64 in dtypes else torch.float32
    return [
        each if each.dtype is dtype or not each.is_floating_point() else each.to(dtype)
        for each in tensors.values()
    ]


def call(
    function: str, outputs: int, tensors: Mapping[str, Tensor | None], options: Mapping[str, Any]
) -> Sequence[Tensor]:
    """The `outputs` results of the loss `function`. None among its arguments means left out."""
    given = {name: each for name, each in tensors.items() if each is not None}
    for name, each in given.items():
        if not isinstance(each, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(each).__name__}")
    texts = {name: each for name, each in options.items() if isinstance(each, str)}
    numbers = {
        name: each for name, each in options.items() if each is not None and name not in texts
    }
    names = " ".join([*given, *numbers])
    pairs = " ".join(f"{name}={text}" for name, text in texts.items())
    key = f"{function}:{outputs}:{names}:{pairs}"
    values = [float(each) for each in numbers.values()]
    inputs = _promote(given)
    if runs_directly(*inputs):
        refuse_forward_mode(*inputs)
        if torch.is_grad_enabled() and any(each.requires_grad for each in inputs):
            results: tuple[Tensor, ...] = _apply(key, values, *inputs)
            return results
        return _forward(inputs, key, values)
    refuse_transforms(*inputs)
    return operator(inputs, key, values)  # type: ignore[no-any-return]
