"""What the C-backed losses and `prefopt.reference` share: result tuples, marks of defaults."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]


class DefaultNumber(float):
    """A default in a signature: a number that says that the caller did not give it."""


class DefaultText(str):
    """The same for a word."""


class _PairFields(NamedTuple):
    losses: Array
    chosen_rewards: Array
    rejected_rewards: Array


class _StepFields(NamedTuple):
    losses: Array
    chosen_rewards: Array
    rejected_rewards: Array
    steps: Array


class _UnpairedFields(NamedTuple):
    losses: Array
    rewards: Array


class _SequenceFields(NamedTuple):
    losses: Array


class PairLoss(_PairFields):
    """Loss over (chosen, rejected) pairs; unpacks as `losses, chosen_rewards, rejected_rewards`.

    Each is [B], the order that TRL's classic `dpo_loss` and `cpo_loss` return. `grads` is None, or
    where gradients were asked for a dict from the name of each differentiable input to [B], the
    vector-Jacobian product sum_i grad_losses[i] * d losses[i] / d input[j].
    """

    grads: dict[str, Array] | None = None


class StepPairLoss(_StepFields):
    """`PairLoss` and eps-DPO's `steps` [B], which `eps_dpo_beta` turns into the next beta."""

    grads: dict[str, Array] | None = None


class UnpairedLoss(_UnpairedFields):
    """Loss over single labelled answers; unpacks as `losses, rewards`, each [B].

    `grads` is as for `PairLoss`.
    """

    grads: dict[str, Array] | None = None


class SequenceLoss(_SequenceFields):
    """Loss that has no reward; unpacks as `(losses,)`, [B] ([B, T] for `kl_loss`).

    `grads` is as for `PairLoss`; by token inputs they are [B, T].
    """

    grads: dict[str, Array] | None = None


AnyLoss = PairLoss | StepPairLoss | UnpairedLoss | SequenceLoss


class LossInput(NamedTuple):
    """One array that a row takes.

    `type` is "real" ([B] float), "count" ([B], >= 0), "flag" ([B] bool), "scalar" (one number),
    "tokens" ([B, T] float), "mask" ([B, T] bool), "indices" ([B, K] integer, -1 for none) or
    "gathered" ([N] float).
    """

    name: str
    type: str
    differentiable: bool
    optional: bool
    meaning: str


class LossParameter(NamedTuple):
    """One number, or one of the words `choices`, that a row takes.

    `default` is None where it is made from the inputs.
    """

    name: str
    default: float | str | None
    low: float
    low_open: bool
    high: float
    high_open: bool
    meaning: str
    choices: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """The legal values as an interval, such as "(0, inf)", or as words."""
        if self.choices:
            return " | ".join(self.choices)
        left, right = "[("[self.low_open], "])"[self.high_open]
        return f"{left}{self.low:g}, {self.high:g}{right}"


class LossInfo(NamedTuple):
    """One row of the list of losses and procedures.

    `kind` is "pair", "unpaired", "token" or "procedure"; `tokens` says how token log-probabilities
    become the inputs: "sum", or "lengths" (sums with lengths, averages without). `rewards` are the
    names of a loss's rewards, `outputs` (name, shape) of everything beside the losses: shape is
    "rows" [B], "number" [], "flags" [B] bool, "tokens" [B, T] or "positions" [B, T] int64.
    `tokenwise`: the losses are [B, T]. `state` names explicit state that goes in and out ("" for
    none), `kink` the points without a derivative and what is returned there ("" for none), `source`
    the paper and equation.
    """

    name: str
    family: str
    variant: str
    kind: str
    tokens: str
    inputs: tuple[LossInput, ...]
    parameters: tuple[LossParameter, ...]
    rewards: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]
    tokenwise: bool
    state: str
    formula: str
    kink: str
    source: str
