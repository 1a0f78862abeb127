"""The losses of prefopt for tensors: the NumPy functions' keywords, defaults and formulas.

Inputs are float32 or float64 tensors [B] (mixed promotes; bfloat16 and float16 promote to float32);
results have that dtype and device. Gradients flow into the policy's log-probabilities and into
`chosen_nll`, never into the reference's. See the NumPy functions of the same name for equations,
sources, ranges and errors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prefopt._loss_call import call_by_name
from prefopt._loss_types import DefaultNumber

from . import _loss_functions
from ._bridge import wide_dtype
from ._loss_functions import dpo_loss
from ._loss_operator import (
    PairLoss,
    SequenceLoss,
    StepPairLoss,
    UnpairedLoss,
    run_procedure,
)

__all__ = [
    "PairLoss",
    "SequenceLoss",
    "StepPairLoss",
    "UnpairedLoss",
    "ipo_loss",
    "kto_kl",
    "loss",
]


def ipo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float = DefaultNumber(0.1),
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    convention: str | None = None,
) -> PairLoss:
    """IPO per pair [B]: `dpo_loss(loss_type="ipo")`, of sums as its paper has it; of averages when
    lengths are given.
    """
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
    )


def kto_kl(
    policy_kl_logps: Tensor | None = None,
    ref_kl_logps: Tensor | None = None,
    *,
    state: Tensor | None = None,
) -> Tensor:
    """z0 of KTO: max(0, mean(policy - ref)) over mismatched pairs, [] without gradient; see
    `prefopt.kto_kl`.

    `state` [2] is (sum, count) that the caller reduced over ranks and steps: nothing else is read
    then. Empty: 0. Plain torch, so that it stays on its device and compiles. NaN passes through.
    """
    if state is not None:
        if state.shape != (2,):
            raise ValueError(
                f"state: expected (sum, count) of shape (2,), got {tuple(state.shape)}"
            )
        total, count = state.detach().to(wide_dtype(state)).unbind()
        dtype = state.dtype
    else:
        if policy_kl_logps is None or ref_kl_logps is None:
            raise ValueError("policy_kl_logps, ref_kl_logps: expected both, or state")
        if policy_kl_logps.shape != ref_kl_logps.shape:
            raise ValueError(
                "ref_kl_logps: expected the shape of policy_kl_logps "
                f"{tuple(policy_kl_logps.shape)}, got {tuple(ref_kl_logps.shape)}"
            )
        wide = wide_dtype(policy_kl_logps)
        difference = policy_kl_logps.detach().to(wide) - ref_kl_logps.detach().to(wide)
        total, count = difference.sum(), torch.full_like(difference.sum(), difference.numel())
        dtype = torch.promote_types(policy_kl_logps.dtype, ref_kl_logps.dtype)
    mean = torch.where(count == 0, 0.0, total / count)
    return mean.clamp(min=0.0).to(torch.float64 if dtype is torch.float64 else torch.float32)


def loss(name: str, **inputs: Any) -> Any:
    """Any row of the list by name ("dpo.sigmoid"), with its inputs and parameters."""
    return call_by_name(name, inputs, _loss_functions, run_procedure)
