"""The result tuples of the losses, shared by the C-backed functions and by `prefopt.reference`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]


class _PairFields(NamedTuple):
    losses: Array
    chosen_rewards: Array
    rejected_rewards: Array


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


class UnpairedLoss(_UnpairedFields):
    """Loss over single labelled answers; unpacks as `losses, rewards`, each [B].

    `grads` is as for `PairLoss`.
    """

    grads: dict[str, Array] | None = None


class SequenceLoss(_SequenceFields):
    """Loss over sequences that has no reward; unpacks as `(losses,)`, [B].

    `grads` is as for `PairLoss`.
    """

    grads: dict[str, Array] | None = None
