"""The losses for NumPy: names, defaults and checks come from the C list, arithmetic from C.

Every function takes [B] arrays of sequence log-probabilities, float32 or float64 (float16 and
bfloat16 are taken as float32), computes in float64 and returns the widest dtype that came in. With
`return_grads=True`, or `grad_losses` [B], the result carries `.grads`, a dict from the name of each
differentiable input to sum_i grad_losses[i] * d losses[i] / d input, in the same dtype.

An empty batch gives empty results. NaN and inf follow IEEE arithmetic and stay in their own element
(the NLL terms, means over the batch, carry them to every element). For finite log-ratios up to 1e4
the result is the float64 value of the formula, or inf with its sign where that exceeds the dtype,
and never NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy.typing as npt

from prefopt import _core
from prefopt._conventions import Convention, conventions
from prefopt._loss_arrays import take_array
from prefopt._loss_call import (
    LIST,
    evaluate,
    find,
    nearest,
    prepare,
    run_procedure,
    take_number,
)
from prefopt._loss_functions import dpo_loss
from prefopt._loss_types import (
    AnyLoss,
    DefaultNumber,
    LossInfo,
    PairLoss,
    SequenceLoss,
    StepPairLoss,
    UnpairedLoss,
)

__all__ = [
    "Convention",
    "LossInfo",
    "PairLoss",
    "SequenceLoss",
    "StepPairLoss",
    "UnpairedLoss",
    "conventions",
    "ipo_loss",
    "kto_kl",
    "loss",
    "losses",
]

ArrayLike = npt.ArrayLike


def losses() -> tuple[LossInfo, ...]:
    """Every row there is: name, inputs, parameters with default and range, formula, source."""
    return tuple(LIST.values())


def loss(name: str, **inputs: Any) -> AnyLoss:
    """Any row by its name in `losses()`, such as "dpo.sigmoid".

    Inputs and parameters go by the names of that row; `grad_losses`, `return_grads` and
    `convention` are as for the other functions. A procedure ("gae.gae") returns the named tuple of
    its outputs. An unknown name raises ValueError, an unknown keyword TypeError; both name the
    nearest valid ones.
    """
    info = find(name)
    options: dict[str, Any] = {"grad_losses": None, "return_grads": False, "convention": None}
    if info.kind == "procedure":
        options = {}
    given = {key: inputs.pop(key, value) for key, value in options.items()}
    known = {item.name for item in info.inputs} | {item.name for item in info.parameters}
    for key in inputs:
        if key not in known:
            hint = nearest(key, [*known, *options])
            raise TypeError(f"{key}: {name} takes no such argument; {hint}")
    for item in info.inputs:
        if not item.optional and inputs.get(item.name) is None:
            raise TypeError(f"{item.name}: {name} needs this input")
    arrays = {item.name: inputs.get(item.name) for item in info.inputs}
    numbers_ = {p.name: inputs[p.name] for p in info.parameters if p.name in inputs}
    if info.kind == "procedure":
        return cast(AnyLoss, run_procedure(name, arrays, numbers_))
    call = prepare(info, arrays, numbers_, given["convention"])
    return evaluate(call, given["grad_losses"], given["return_grads"])


def ipo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: float = DefaultNumber(0.1),
    chosen_lengths: ArrayLike | None = None,
    rejected_lengths: ArrayLike | None = None,
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """`dpo_loss(..., loss_type="ipo")`: of sums as its paper has it, of averages given lengths."""
    return dpo_loss(
        policy_chosen_logps,
        policy_rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        loss_type="ipo",
        beta=beta,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
        convention=convention,
        grad_losses=grad_losses,
        return_grads=return_grads,
    )


def kto_kl(
    policy_kl_logps: ArrayLike | None = None,
    ref_kl_logps: ArrayLike | None = None,
    *,
    state: Iterable[float] | None = None,
) -> float:
    """KTO's reference point z0 = max(0, mean(policy_kl_logps - ref_kl_logps)), a constant.

    The inputs are [B] sums of log-probabilities of answers that belong to other prompts (mismatched
    pairs). The mean of a batch is noisy and depends on how the batch was cut: with `state`, (sum,
    count) of policy - ref that the caller reduced over ranks and steps, this batch included, the
    mean is sum / count, and the clamp at 0 comes only after; the arrays may then be left out. An
    empty batch gives 0, NaN stays NaN. Returns a float.
    """
    total = None
    if state is not None:
        if not isinstance(state, Iterable) or isinstance(state, str):
            raise TypeError(f"state: expected (sum, count), got {type(state).__name__}")
        total = tuple(take_number("state", item) for item in state)
        if len(total) != 2:
            raise ValueError(f"state: expected (sum, count), got {len(total)} numbers")
    policy = None if policy_kl_logps is None else take_array(policy_kl_logps)
    ref = None if ref_kl_logps is None else take_array(ref_kl_logps)
    return float(_core.kto_kl(policy, ref, total))
