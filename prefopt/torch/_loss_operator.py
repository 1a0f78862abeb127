"""The way from tensors into the C losses and back, with autograd.

One operator serves every loss: `inputs` are its tensors, `call` says which function and which
keyword each of them and each number is. Backward asks the same function for its vector-Jacobian
product, so that losses that couple the batch (an NLL term shared by all pairs) need nothing of
their own. CUDA tensors stay where they are; those on other devices are computed on the CPU and brought
back: B numbers go each way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from prefopt._loss_arrays import HOST, Arrays
from prefopt._loss_call import FAMILIES, LIST, procedure_type
from prefopt._loss_call import call_family as call_numpy_family
from prefopt._loss_call import run_procedure as run_numpy_procedure
from prefopt._loss_types import DefaultNumber, DefaultText

from ._arrays import take_gpu_arrays
from ._bridge import (
    as_array,
    refuse_double_backward,
    refuse_forward_mode,
    refuse_transforms,
    refuse_vmap,
    runs_cuda,
    runs_directly,
)
from ._cuda import DeviceArrays

# What may carry a gradient; reference log-probabilities, lengths and kl never do.
DIFFERENTIABLE = frozenset(
    item.name for info in LIST.values() for item in info.inputs if item.differentiable
)


class PairLoss(NamedTuple):
    """Losses over (chosen, rejected) pairs, each [B]; the rewards carry no gradient."""

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


class StepPairLoss(NamedTuple):
    """`PairLoss` and eps-DPO's steps [B], without gradient, for `eps_dpo_beta`."""

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor
    steps: Tensor


class UnpairedLoss(NamedTuple):
    """Losses over single labelled answers, each [B]; the rewards carry no gradient."""

    losses: Tensor
    rewards: Tensor


class SequenceLoss(NamedTuple):
    """Losses that have no reward, [B] ([B, T] of `kl_loss`)."""

    losses: Tensor


_PLAIN = torch.contiguous_format


class _Call(NamedTuple):
    """`family:outputs:names:texts`, a constant in a compiled graph, taken apart.

    names are the keywords of the tensors and then of the numbers; texts are key=value, lists
    separated by commas.
    """

    family: str
    outputs: int
    names: list[str]
    texts: dict[str, Any]
    tokenwise: bool

    @classmethod
    @functools.lru_cache(256)
    def parse(cls, call: str) -> _Call:
        family, outputs, names, texts = call.split(":")
        pairs: dict[str, Any] = dict(text.split("=", 1) for text in texts.split())
        if "," in pairs.get("loss_type", ""):
            pairs["loss_type"] = pairs["loss_type"].rstrip(",").split(",")
        if "loss_weights" in pairs:
            pairs["loss_weights"] = [float(each) for each in pairs["loss_weights"].split(",")]
        return cls(family, int(outputs), names.split(), pairs, FAMILIES[family][0].tokenwise)

    def differentiable(self, count: int) -> list[bool]:
        """For each of the `count` tensors whether it has a gradient in this loss."""
        types = self.texts.get("loss_type", FAMILIES[self.family][0].variant)
        types = [types] if isinstance(types, str) else types
        rows = [info for info in FAMILIES[self.family] if info.variant in types]
        mine = {item.name for info in rows for item in info.inputs if item.differentiable}
        return [name in mine for name in self.names[:count]]


def _run(inputs: Sequence[Tensor], call: str, numbers: Sequence[float], grad: Tensor | None) -> Any:
    parsed = _Call.parse(call)
    host = _arrays_of(inputs)
    arrays: Sequence[Any] = inputs
    if host is HOST:
        arrays = [as_array(each if each.is_cpu else each.cpu()) for each in inputs]
        grad = None if grad is None else grad.cpu()
    keywords: dict[str, Any] = dict(zip(parsed.names, [*arrays, *numbers], strict=True))
    texts = dict(parsed.texts)
    loss_type = texts.pop("loss_type", FAMILIES[parsed.family][0].variant)
    convention, weights = texts.pop("convention", None), texts.pop("loss_weights", None)
    taken = {item.name for info in FAMILIES[parsed.family] for item in info.inputs}
    given = {name: each for name, each in keywords.items() if name in taken}
    params = {name: each for name, each in keywords.items() if name not in taken} | texts
    grad_losses: Any = as_array(grad) if grad is not None and host is HOST else grad
    return call_numpy_family(
        parsed.family, loss_type, given, params, convention, grad_losses, False, weights, host
    )


def _arrays_of(tensors: Iterable[Any]) -> Arrays:
    """Who computes on these: the CUDA library if it can read one, and then it has to read all."""
    for each in tensors:
        if isinstance(each, Tensor) and runs_cuda(each):
            return DeviceArrays(each.device)
    return HOST


def _forward(inputs: Sequence[Tensor], call: str, numbers: Sequence[float]) -> list[Tensor]:
    results = _run(inputs, call, numbers, None)
    return [_on_device_of(inputs[0], each) for each in results]


def _backward(
    inputs: Sequence[Tensor], call: str, numbers: Sequence[float], grad: Tensor
) -> list[Tensor]:
    grads = _run(inputs, call, numbers, grad).grads
    parsed = _Call.parse(call)
    flags = parsed.differentiable(len(inputs))
    names = [name for name, flag in zip(parsed.names, flags, strict=False) if flag]
    return [_on_device_of(grad, grads[name]) for name in names]


def _on_device_of(tensor: Tensor, array: npt.NDArray[Any] | Tensor) -> Tensor:
    if isinstance(array, Tensor):
        return array
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
    flags = _Call.parse(ctx.call).differentiable(len(inputs))
    return [next(grads) if flag else None for flag in flags]


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
    parsed = _Call.parse(call)
    policy = next(
        each for each, flag in zip(inputs, parsed.differentiable(len(inputs)), strict=True) if flag
    )
    like = policy if parsed.tokenwise or policy.dim() < 2 else policy[:, 0]
    return [torch.empty_like(like, memory_format=_PLAIN) for _ in range(parsed.outputs)]


def _fake_backward(
    inputs: Sequence[Tensor], call: str, _numbers: Sequence[float], _grad: Tensor
) -> list[Tensor]:
    flags = _Call.parse(call).differentiable(len(inputs))
    return [
        torch.empty_like(each, memory_format=_PLAIN)
        for flag, each in zip(flags, inputs, strict=True)
        if flag
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


def call_family(
    family: str,
    loss_type: str | Sequence[str],
    tensors: Mapping[str, Tensor | float | None],
    params: Mapping[str, Any],
    convention: str | None,
    loss_weights: Sequence[float] | None = None,
) -> Sequence[Tensor]:
    """The results of one loss of `family`. None, and what stands at its default, is left out."""
    given: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    scalars = {i.name for info in FAMILIES[family] for i in info.inputs if i.type == "scalar"}
    for name, each in take_gpu_arrays(tensors).items():
        if isinstance(each, Tensor):
            given[name] = each
        elif each is not None:
            if name not in scalars or not isinstance(each, (int, float)):
                raise TypeError(f"{name}: expected a torch.Tensor, got {type(each).__name__}")
            numbers[name] = each
    texts: dict[str, str] = {}
    if len(FAMILIES[family]) > 1:
        texts["loss_type"] = _joined(loss_type)
    if loss_weights is not None:
        texts["loss_weights"] = _joined([repr(float(each)) for each in loss_weights])
    if convention is not None:
        texts["convention"] = convention
    for name, option in params.items():
        if option is None or isinstance(option, (DefaultNumber, DefaultText)):
            continue
        if isinstance(option, str):
            texts[name] = option
        else:
            numbers[name] = option
    names = " ".join([*given, *numbers])
    pairs = " ".join(f"{name}={text}" for name, text in texts.items())
    outputs = 1 + len(FAMILIES[family][0].outputs)
    key = f"{family}:{outputs}:{names}:{pairs}"
    results: Sequence[Tensor] = _apply_call(key, given, numbers)
    return results


def _joined(words: str | Sequence[str]) -> str:
    if isinstance(words, str):
        return words
    return ",".join(words) + "," if len(words) == 1 else ",".join(words)


def _apply_call(key: str, given: Mapping[str, Tensor], numbers: Mapping[str, float]) -> Any:
    values = [float(each) for each in numbers.values()]
    inputs = _promote(given)
    if runs_directly(*inputs):
        refuse_forward_mode(*inputs)
        if torch.is_grad_enabled() and any(each.requires_grad for each in inputs):
            return _apply(key, values, *inputs)
        return _forward(inputs, key, values)
    refuse_transforms(*inputs)
    return operator(inputs, key, values)


def run_procedure(
    name: str, inputs: Mapping[str, Tensor | float | None], params: Mapping[str, Any]
) -> Any:
    """A procedure on tensors: a named tuple of tensors without gradient."""
    inputs = take_gpu_arrays(inputs)
    first = next(each for each in inputs.values() if isinstance(each, Tensor))
    host = _arrays_of(inputs.values())
    if host is not HOST:
        return run_numpy_procedure(name, inputs, params, host)
    arrays = {
        key: as_array(each.cpu()) if isinstance(each, Tensor) else each
        for key, each in inputs.items()
    }
    result = run_numpy_procedure(name, arrays, params)
    tensors = (
        torch.tensor(each, dtype=torch.float64)
        if isinstance(each, float)
        else torch.as_tensor(each)
        for each in result
    )
    return procedure_type(name)(*(each.to(first.device) for each in tensors))
