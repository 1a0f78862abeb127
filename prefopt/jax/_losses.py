"""The losses of prefopt for JAX: the NumPy functions' keywords, defaults and formulas.

Inputs are float32 or float64 arrays [B] (mixed promotes; bfloat16 and float16 promote to float32);
results have that dtype. Gradients flow into the policy's log-probabilities and into `chosen_nll`,
never into the reference's. Parameters are constants of a program, but one that is traced is an
input of it. See the NumPy functions of the same name for equations, sources, ranges and errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import prefopt
from prefopt._loss_call import call_by_name
from prefopt._loss_types import DefaultNumber

from . import _loss_functions
from ._bridge import as_array, call, remembered, result_like, shape_of, signature
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
    policy_chosen_logps: Array,
    policy_rejected_logps: Array,
    ref_chosen_logps: Array,
    ref_rejected_logps: Array,
    *,
    beta: float = DefaultNumber(0.1),
    chosen_lengths: Array | None = None,
    rejected_lengths: Array | None = None,
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


@remembered
def _check_kl(policy: Any, ref: Any, state: Any) -> Any:
    """The dtype of the result, from stand-ins."""
    arrays = [None if each is None else np.zeros(*each) for each in (policy, ref)]
    total = None if state is None else np.zeros(*state)
    prefopt.kto_kl(*arrays, state=total)
    is_wide = any(each is not None and each.dtype == np.float64 for each in (*arrays, total))
    return result_like(np.zeros((), np.float64 if is_wide else np.float32)).dtype


def kto_kl(
    policy_kl_logps: Array | None = None,
    ref_kl_logps: Array | None = None,
    *,
    state: Array | Sequence[Array | float] | None = None,
) -> Array:
    """z0 of KTO: max(0, mean(policy - ref)) over mismatched pairs, [] without gradient; see
    `prefopt.kto_kl`.

    `state` is (sum, count) that the caller reduced over devices and steps: nothing else is read
    then. Empty: 0. NaN passes through.
    """
    inputs: dict[str, Array | None] = {
        name: None if each is None else jax.lax.stop_gradient(as_array(name, each))
        for name, each in (("policy_kl_logps", policy_kl_logps), ("ref_kl_logps", ref_kl_logps))
    }
    if isinstance(state, (tuple, list)):
        if not any(isinstance(each, Array) for each in state):  # numbers, in double
            return jnp.asarray(prefopt.kto_kl(state=state))
        state = jnp.stack([jnp.asarray(each, float) for each in state])
    inputs["state"] = None if state is None else jax.lax.stop_gradient(as_array("state", state))
    dtype = _check_kl(*(signature(each) for each in inputs.values()))
    return call("kto_kl", inputs, {"kl": shape_of((), dtype)})["kl"]


def loss(name: str, **inputs: Any) -> Any:
    """Any row of the list by name ("dpo.sigmoid"), with its inputs and parameters."""
    return call_by_name(name, inputs, _loss_functions, run_procedure)
