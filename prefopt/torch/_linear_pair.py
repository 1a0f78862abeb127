"""linear_pair_token_stats: a policy's and a reference's logits together, from hidden states.

Losses over whole rows (TDPO's divergences, eps-DPO's perturbed logits) need both models' logits of a
token at once. They are made for a chunk of the tokens that count, read by the kernels of
`pair_token_stats`, and dropped; backward makes them again. The products are torch's own; memory
stays at a few [chunk, V] arrays whatever [tokens, V] is. The reference is a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prefopt._pair import PAIR_STATS, wanted_stats

from . import _pair, _token
from ._arrays import takes_gpu_arrays
from ._bridge import (
    refuse_double_backward,
    refuse_forward_mode,
    refuse_transforms,
    refuse_vmap,
    result_dtype,
    runs_directly,
    wide_dtype,
)
from ._dtensor import localise
from ._head import Head, HeadGradients, Options, as_given, chunks, logits_of, product_gradient
from ._linear_check import check_head, check_types, take_options
from ._linear_kernels import PARAMETERS
from ._linear_operator import HEAD_SCHEMA, OPTIONS_SCHEMA
from ._pair import PairTokenStats

_BOTH = ("policy_logps", "ref_logps", "policy_lse", "ref_lse")
_TEMPORARIES = 4  # [chunk, V] arrays that are alive together
_TENSORS, _NUMBERS = 9, 10
_by_logits: Any = _pair._backward  # which mypy does not follow through starred arguments
_ARGUMENTS = _TENSORS + _NUMBERS + 2


class _Call(NamedTuple):
    """The operators' first arguments, taken apart."""

    policy: Head
    ref: Head
    options: Options

    @classmethod
    def take(cls, arguments: Sequence[Any]) -> _Call:
        policy = Head(*arguments[:6])
        ref = Head(arguments[6], arguments[7], policy.labels, arguments[8], None, None)
        options = Options(*arguments[_TENSORS : _TENSORS + _NUMBERS])
        return cls(policy.rounded(options.rounding), ref.rounded(options.rounding), options)

    def logits(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """For each chunk: rows [n] of the flattened tokens, the policy's hidden [n, H], both logits
        [n, V], labels [n].
        """
        ref_hidden = self.ref.hidden.reshape(-1, self.ref.hidden.shape[-1])
        for rows, hidden, labels in chunks(self.policy, self.options, _TEMPORARIES):
            x = logits_of(self.policy, self.options, hidden)
            y = logits_of(self.ref, self.options, ref_hidden[rows].to(hidden.dtype))
            yield rows, hidden, x, y, labels


# ---- the bodies ----------------------------------------------------------------------------------


def _forward(*arguments: Any) -> list[Tensor]:
    """[*_BOTH, *stats]: PAIR_STATS, and of the policy alone those of `token_logps`."""
    call = _Call.take(arguments)
    perturbation, names = arguments[-2], arguments[-1].split()
    of_pairs = [name for name in PAIR_STATS if name in names]
    of_policy = _token.ordered([name for name in names if name not in PAIR_STATS])
    results = dict(zip((*_BOTH, *names), _fake_forward(*arguments), strict=True))
    for each in results.values():
        each.zero_()
    ignored = call.options.ignore_index
    with as_given(call.policy.hidden):
        for rows, _, x, y, labels in call.logits():
            found = _pair._forward(x, y, labels, ignored, 1.0, perturbation, " ".join(of_pairs))
            values = dict(zip((*_BOTH, *of_pairs), found, strict=True))
            if of_policy:
                alone = _token._forward(x, labels, ignored, 1.0, " ".join(of_policy))
                values.update(zip(of_policy, alone[2:], strict=True))
            for name, value in values.items():
                results[name].view(-1)[rows] = value
    return list(results.values())


def _backward(*arguments: Any) -> list[Tensor]:
    """The gradients that `needs`, the last argument, names, in the dtypes of their inputs."""
    call = _Call.take(arguments)
    *vectors, needs = arguments[_TENSORS + _NUMBERS :]
    names = needs.split()
    sums = HeadGradients(call.policy, names)
    with as_given(call.policy.hidden):
        for rows, hidden, x, y, labels in call.logits():
            of_rows = (None if each is None else each.reshape(-1)[rows] for each in vectors)
            grad = _by_logits(x, y, labels, *of_rows, call.options.ignore_index, 1.0)
            sums.add(rows, hidden, product_gradient(x, grad, call.options))
    given = Head(*arguments[:6])
    return [
        each.to(getattr(given, name).dtype) for name, each in zip(names, sums.result(), strict=True)
    ]


# ---- autograd ------------------------------------------------------------------------------------


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    names = inputs[-1].split()
    ctx.set_materialize_grads(False)
    ctx.options = inputs[_TENSORS : _TENSORS + _NUMBERS]
    ctx.places = {name: len(_BOTH) + k for k, name in enumerate(names)}
    # As in `_pair`: of both lse callers get copies, the divergence is copied here.
    kl = output[ctx.places["policy_ref_kl"]].clone() if "policy_ref_kl" in ctx.places else None
    ctx.save_for_backward(*inputs[:_TENSORS], output[2], output[3], kl)
    differentiable = {0, ctx.places.get("ref_policy_kl"), ctx.places.get("policy_ref_kl")}
    ctx.mark_non_differentiable(*(each for k, each in enumerate(output) if k not in differentiable))


def _gradient(ctx: Any, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    by_kl = [
        grads[ctx.places[name]] if name in ctx.places else None
        for name in ("ref_policy_kl", "policy_ref_kl")
    ]
    needed = [
        place
        for place in (Head._fields.index(name) for name in PARAMETERS)
        if ctx.needs_input_grad[place]
    ]
    gradients: list[Tensor | None] = [None] * _ARGUMENTS
    if (grads[0] is None and by_kl == [None, None]) or not needed:
        return gradients
    *tensors, policy_lse, ref_lse, kl = ctx.saved_tensors
    vectors = (policy_lse, ref_lse, None if by_kl[1] is None else kl, grads[0], *by_kl)
    needs = " ".join(Head._fields[place] for place in needed)
    present = [each for each in tensors if each is not None]
    direct = not torch.is_grad_enabled() and runs_directly(*present)
    found = (_backward if direct else gradient_operator)(*tensors, *ctx.options, *vectors, needs)
    for place, each in zip(needed, found, strict=True):
        gradients[place] = each
    return gradients


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = _forward(*inputs)
        _setup(ctx, inputs, output)
        return tuple(output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return tuple(_gradient(ctx, grads))


_apply: Callable[..., Any] = _Direct.apply  # which torch leaves untyped


# ---- operators -----------------------------------------------------------------------------------


def _fake_forward(*arguments: Any) -> list[Tensor]:
    hidden, labels = arguments[0], arguments[2]
    dtype, wide = result_dtype(hidden.dtype), wide_dtype(hidden)
    names = arguments[-1].split()
    kinds = [torch.bool if name == "correct" else dtype for name in names]
    return [
        hidden.new_empty(labels.shape, dtype=each) for each in (dtype, dtype, wide, wide, *kinds)
    ]


def _fake_backward(*arguments: Any) -> list[Tensor]:
    given = Head(*arguments[:6])
    return [
        getattr(given, name).new_empty(getattr(given, name).shape) for name in arguments[-1].split()
    ]


_INPUTS = f"{HEAD_SCHEMA}, Tensor ref_hidden, Tensor ref_weight, Tensor? ref_bias, {OPTIONS_SCHEMA}"
operator = torch.library.custom_op(
    "prefopt::linear_pair_token_stats",
    _forward,
    mutates_args=(),
    schema=f"({_INPUTS}, float perturbation, str stats) -> Tensor[]",
)
gradient_operator = torch.library.custom_op(
    "prefopt::linear_pair_token_stats_grad",
    _backward,
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor policy_lse, Tensor ref_lse, Tensor? policy_ref_kl, "
    "Tensor? grad_policy_logps, Tensor? grad_ref_policy_kl, Tensor? grad_policy_ref_kl, str needs) "
    "-> Tensor[]",
)
operator.register_fake(_fake_forward)
operator.register_autograd(lambda ctx, grads: tuple(_gradient(ctx, grads)), setup_context=_setup)
operator.register_vmap(refuse_vmap("linear_pair_token_stats"))
gradient_operator.register_fake(_fake_backward)
gradient_operator.register_autograd(refuse_double_backward("linear_pair_token_stats"))
gradient_operator.register_vmap(refuse_vmap("linear_pair_token_stats"))


# ---- the public function -------------------------------------------------------------------------


def _outputs(
    policy: Head, ref: Head, options: Options, perturbation: float, stats: Sequence[str]
) -> dict[str, Tensor]:
    """By the way that is open. Both lse are what backward reads."""
    arguments = (
        *policy, ref.hidden.detach(), ref.weight.detach(),
        None if ref.bias is None else ref.bias.detach(), *options, perturbation, " ".join(stats),
    )  # fmt: skip
    tensors = [each for each in (*policy, *ref) if each is not None]
    if runs_directly(*tensors):
        refuse_forward_mode(*tensors)
        needs = torch.is_grad_enabled() and any(e is not None and e.requires_grad for e in policy)
        values = (_apply if needs else _forward)(*arguments)
    else:
        refuse_transforms(*tensors)
        values = operator(*arguments)
    return dict(zip((*_BOTH, *stats), values, strict=True))


def _check_ref(policy: Head, ref: Head) -> None:
    """The reference's hidden size is its own affair; tokens, vocabulary and precision are shared."""
    check_head(ref, "ref_")
    if ref.weight.shape[0] != policy.weight.shape[0]:
        raise ValueError(
            f"ref_weight: expected weight's vocabulary of {policy.weight.shape[0]}, "
            f"got {ref.weight.shape[0]}"
        )
    if (ref.hidden.dtype is torch.float64) != (policy.hidden.dtype is torch.float64):
        raise TypeError(
            f"ref_hidden: expected float64 with float64 hidden only, got {ref.hidden.dtype}"
        )


def pair_values(
    policy: Head, ref: Head, perturbation: float, stats: Sequence[str], **options: Any
) -> dict[str, Tensor]:
    """_BOTH and the named statistics: PAIR_STATS, and of the policy alone those of `token_logps`."""
    if not 0.0 < perturbation < 1.0:
        raise ValueError(f"perturbation: expected a number in (0, 1), got {perturbation}")
    check_types(policy)
    check_types(ref, "ref_")
    policy, _, _ = localise(policy, "", None)
    ref, _, _ = localise(ref, "", None)
    taken = take_options(policy, **options)
    check_head(policy)
    _check_ref(policy, ref)
    values = _outputs(policy, ref, taken, float(perturbation), stats)
    for name in ("policy_lse", "ref_lse"):
        values[name] = values[name].to(values["policy_logps"].dtype, copy=True)
    return values


@takes_gpu_arrays
def linear_pair_token_stats(
    hidden: Tensor,
    weight: Tensor,
    ref_hidden: Tensor,
    ref_weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    ref_bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    lora_a: Tensor | None = None,
    lora_b: Tensor | None = None,
    ignore_index: int = -100,
    perturbation: float = 0.01,
    stats: Sequence[str] = (),
    memory_limit: int | None = None,
) -> PairTokenStats:
    """`pair_token_stats` of the logits that two heads make from hidden states, without [tokens, V].

    Args:
        hidden, weight, labels, bias, lora_a, lora_b: the policy's [..., H], [V, H], [...], [V],
            [r, H], [V, r], as in `linear_token_logps`.
        ref_hidden, ref_weight, ref_bias: the reference's [..., H'], [V, H'], [V]; constants.
        logit_scale, softcap, temperature: of both.
        ignore_index, perturbation, stats: as in `pair_token_stats`.
        memory_limit: bytes of workspace, None for 64 MiB.

    Returns:
        `PairTokenStats`, results [...] in float32 (float64 for float64 hidden). policy_logps,
        ref_policy_kl and policy_ref_kl carry gradients to the policy's tensors. There is no second
        derivative.

    Raises:
        TypeError, ValueError, NotImplementedError: as `linear_token_logps`.
    """
    names = [name for name, flag in zip(PAIR_STATS, wanted_stats(stats), strict=True) if flag]
    values = pair_values(
        Head(hidden, weight, labels, bias, lora_a, lora_b),
        Head(ref_hidden, ref_weight, labels, ref_bias, None, None),
        perturbation,
        names,
        ignore_index=ignore_index,
        logit_scale=logit_scale,
        softcap=softcap,
        temperature=temperature,
        memory_limit=memory_limit,
    )
    return PairTokenStats(**values)
