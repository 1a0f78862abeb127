"""pair_token_stats for tensors: the operators, their autograd, and the public function.

Forward reads a policy's and a reference's logits once, together; backward reads them once more and
writes the policy's gradient. The reference is a constant. Saved for backward: both logits and
labels (the caller's own tensors), both lse in double, and KL(p || r) if it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prefopt import _core
from prefopt._pair import PAIR_STATS, wanted_stats

from . import _cuda, _plain_pair
from ._arrays import takes_gpu_arrays
from ._bridge import (
    as_array,
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
from ._token import check_logits_and_labels

_FIRST_STAT = 4  # outputs are [policy_logps, ref_logps, policy_lse, ref_lse, *stats in order]


class PairTokenStats(NamedTuple):
    """Results of `pair_token_stats`, each [...]; None where a statistic was not named."""

    policy_logps: Tensor
    ref_logps: Tensor
    policy_lse: Tensor
    ref_lse: Tensor
    ref_policy_kl: Tensor | None = None
    policy_ref_kl: Tensor | None = None
    plus_logps: Tensor | None = None
    minus_logps: Tensor | None = None


# ---- the two bodies ------------------------------------------------------------------------------


def _forward(
    policy_logits: Tensor,
    ref_logits: Tensor,
    labels: Tensor,
    ignore_index: int,
    temperature: float,
    perturbation: float,
    stats: str,
) -> list[Tensor]:
    """[policy_logps, ref_logps, policy_lse, ref_lse, *stats]; both lse in `wide_dtype`."""
    policy, ref = contiguous_rows(policy_logits), contiguous_rows(ref_logits)
    names = stats.split()
    if runs_plain(policy):
        results = _plain_pair.pair_token_stats(
            policy, ref, labels, ignore_index, temperature, perturbation, names
        )
        results[2:_FIRST_STAT] = [each.to(wide_dtype(policy)) for each in results[2:_FIRST_STAT]]
        return results
    if runs_cuda(policy):
        return _cuda.pair_token_stats(
            policy, ref, labels, ignore_index, temperature, perturbation, names
        )
    arrays = _core.pair_token_stats(
        as_array(policy),
        as_array(ref),
        as_array(labels),
        core_dtype(policy),
        ignore_index,
        temperature,
        perturbation,
        wanted_stats(names),
        True,
    )
    return [torch.from_numpy(array) for array in arrays if array is not None]


def _backward(
    policy_logits: Tensor,
    ref_logits: Tensor,
    labels: Tensor,
    policy_lse: Tensor,
    ref_lse: Tensor,
    policy_ref_kl: Tensor | None,
    grad_policy_logps: Tensor | None,
    grad_ref_policy_kl: Tensor | None,
    grad_policy_ref_kl: Tensor | None,
    ignore_index: int,
    temperature: float,
) -> Tensor:
    policy, ref = contiguous_rows(policy_logits), contiguous_rows(ref_logits)
    if runs_plain(policy) or runs_cuda(policy):
        form: Any = _plain_pair if runs_plain(policy) else _cuda
        gradient: Tensor = form.pair_token_stats_grad(
            policy,
            ref,
            labels,
            policy_lse,
            ref_lse,
            policy_ref_kl,
            grad_policy_logps,
            grad_ref_policy_kl,
            grad_policy_ref_kl,
            ignore_index,
            temperature,
        )
        return gradient
    gradient = empty_gradient(policy)
    _core.pair_token_stats_grad(
        as_array(policy),
        as_array(ref),
        as_array(labels),
        as_array(policy_lse),
        as_array(ref_lse),
        optional_array(policy_ref_kl),
        optional_array(grad_policy_logps),
        optional_array(grad_ref_policy_kl),
        optional_array(grad_policy_ref_kl),
        core_dtype(policy),
        ignore_index,
        temperature,
        as_array(gradient),
    )
    return gradient


# ---- autograd, shared by the operator and the direct way -----------------------------------------


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    policy, ref, labels, ignore_index, temperature, _perturbation, stats = inputs
    ctx.set_materialize_grads(False)
    ctx.ignore_index, ctx.temperature = ignore_index, temperature
    ctx.places = {name: _FIRST_STAT + k for k, name in enumerate(stats.split())}
    # Callers may change results in place: the divergence is copied (4 bytes a row), and of the two
    # lse they get copies from `pair_token_stats`.
    kl = output[ctx.places["policy_ref_kl"]].clone() if "policy_ref_kl" in ctx.places else None
    ctx.save_for_backward(policy, ref, labels, output[2], output[3], kl)
    differentiable = {0, ctx.places.get("ref_policy_kl"), ctx.places.get("policy_ref_kl")}
    ctx.mark_non_differentiable(*(each for k, each in enumerate(output) if k not in differentiable))


def _gradient(ctx: Any, grads: Sequence[Tensor | None]) -> Tensor | None:
    policy, ref, labels, policy_lse, ref_lse, kl = ctx.saved_tensors
    by_kl = [
        grads[ctx.places[name]] if name in ctx.places else None
        for name in ("ref_policy_kl", "policy_ref_kl")
    ]
    if grads[0] is None and by_kl == [None, None]:
        return None
    arguments = (
        policy,
        ref,
        labels,
        policy_lse,
        ref_lse,
        kl if by_kl[1] is not None else None,
        grads[0],
        *by_kl,
        ctx.ignore_index,
        ctx.temperature,
    )
    # With grad mode on (create_graph) the operator is taken: it carries the refusal of a second
    # derivative.
    if torch.is_grad_enabled() or not runs_directly(policy):
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
        return _gradient(ctx, grads), None, None, None, None, None, None


def _operator_backward(ctx: Any, grads: Sequence[Tensor | None]) -> Any:
    return _gradient(ctx, grads), None, None, None, None, None, None


_apply: Callable[..., Any] = _Direct.apply  # which torch leaves untyped


# ---- operators -----------------------------------------------------------------------------------


def _fake_forward(
    policy_logits: Tensor,
    _ref_logits: Tensor,
    _labels: Tensor,
    _ignore_index: int,
    _temperature: float,
    _perturbation: float,
    stats: str,
) -> list[Tensor]:
    dtype, wide = result_dtype(policy_logits.dtype), wide_dtype(policy_logits)
    dtypes = [dtype, dtype, wide, wide, *(dtype for _ in stats.split())]
    return [policy_logits.new_empty(policy_logits.shape[:-1], dtype=each) for each in dtypes]


def _fake_backward(policy_logits: Tensor, *_: Any) -> Tensor:
    return policy_logits.new_empty(policy_logits.shape)


operator = torch.library.custom_op(
    "prefopt::pair_token_stats",
    _forward,
    mutates_args=(),
    schema="(Tensor policy_logits, Tensor ref_logits, Tensor labels, int ignore_index, "
    "float temperature, float perturbation, str stats) -> Tensor[]",
)
gradient_operator = torch.library.custom_op(
    "prefopt::pair_token_stats_grad",
    _backward,
    mutates_args=(),
    schema="(Tensor policy_logits, Tensor ref_logits, Tensor labels, Tensor policy_lse, "
    "Tensor ref_lse, Tensor? policy_ref_kl, Tensor? grad_policy_logps, Tensor? grad_ref_policy_kl, "
    "Tensor? grad_policy_ref_kl, int ignore_index, float temperature) -> Tensor",
)
operator.register_fake(_fake_forward)
operator.register_autograd(_operator_backward, setup_context=_setup)
operator.register_vmap(refuse_vmap("pair_token_stats"))
gradient_operator.register_fake(_fake_backward)
gradient_operator.register_autograd(refuse_double_backward("pair_token_stats"))
gradient_operator.register_vmap(refuse_vmap("pair_token_stats"))


# ---- the public function -------------------------------------------------------------------------


def _outputs(policy: Tensor, ref: Tensor, labels: Tensor, *options: Any) -> Sequence[Tensor]:
    if runs_directly(policy, ref, labels):
        refuse_forward_mode(policy)
        if torch.is_grad_enabled() and policy.requires_grad:
            tensors: tuple[Tensor, ...] = _apply(policy, ref, labels, *options)
            return tensors
        return _forward(policy, ref, labels, *options)
    refuse_transforms(policy)
    results: list[Tensor] = operator(policy, ref, labels, *options)
    return results


@takes_gpu_arrays
def pair_token_stats(
    policy_logits: Tensor,
    ref_logits: Tensor,
    labels: Tensor,
    *,
    dtype: str | torch.dtype | None = None,
    ignore_index: int = -100,
    temperature: float = 1.0,
    perturbation: float = 0.01,
    stats: Sequence[str] = (),
) -> PairTokenStats:
    """Both log-probabilities of each label, and divergences of the two rows, in one read of both:
    `prefopt.pair_token_stats` with autograd.

    Args:
        policy_logits, ref_logits: [..., V] of one shape and dtype, as `token_logps` takes logits.
        labels, dtype, ignore_index, temperature: as in `token_logps`.
        perturbation: eps in (0, 1) of plus_logps and minus_logps.
        stats: any of "ref_policy_kl", "policy_ref_kl", "plus_logps", "minus_logps".

    Returns:
        `PairTokenStats`, results [...] in float32 (float64 for float64 logits). policy_logps,
        ref_policy_kl and policy_ref_kl carry gradients to policy_logits; the others carry none, and
        the reference gets none. There is no second derivative.

    Raises:
        TypeError, ValueError, NotImplementedError: as `token_logps`.
    """
    policy = check_logits_and_labels(policy_logits, labels, dtype, "policy_logits")
    if isinstance(ref_logits, Tensor) and (
        ref_logits.shape != policy.shape or ref_logits.dtype is not policy_logits.dtype
    ):
        raise ValueError(
            f"ref_logits: expected shape {tuple(policy.shape)} and {policy_logits.dtype} like "
            f"policy_logits, got {tuple(ref_logits.shape)} and {ref_logits.dtype}"
        )
    ref = check_logits_and_labels(ref_logits, labels, dtype, "ref_logits")
    temperature = take_temperature(temperature)
    if not 0.0 < perturbation < 1.0:
        raise ValueError(f"perturbation: expected a number in (0, 1), got {perturbation}")
    names = [name for name, flag in zip(PAIR_STATS, wanted_stats(stats), strict=True) if flag]
    options = (ignore_index, temperature, float(perturbation), " ".join(names))
    results = _outputs(contiguous_rows(policy), contiguous_rows(ref).detach(), labels, *options)
    policy_logps, ref_logps, policy_lse, ref_lse, *rest = results
    # Backward reads the double ones: the caller gets copies, to change at will.
    both_lse = (each.to(policy_logps.dtype, copy=True) for each in (policy_lse, ref_lse))
    return PairTokenStats(policy_logps, ref_logps, *both_lse, **dict(zip(names, rest, strict=True)))
