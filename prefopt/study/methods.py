"""The four methods as the study runs them: per-sequence log-probs in, loss and its gradient out,
all by prefopt.

Every function takes sums of log-probs over the answer tokens and returns the batch mean of the loss
with its gradient by those sums; train.py carries the gradient on to the tokens. Which variant each
name stands for:

- DPO: sigmoid, no label smoothing (arXiv 2305.18290, eq. 7).
- IPO: the sums, as its paper writes it (arXiv 2310.12036, eq. 17); TRL >= 0.7.11 divides by the
  lengths.
- KTO: sigmoid values with the shared KL term z0 of mismatched pairs, both weights 1 (arXiv
  2402.01306, eq. 8).
- CPO: no reference, sigmoid of the sums plus cpo_alpha times the NLL of the chosen answers (arXiv
  2401.08417, eq. 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import prefopt

METHODS = ("dpo", "ipo", "kto", "cpo")
TITLES = {"dpo": "DPO", "ipo": "IPO", "kto": "KTO", "cpo": "CPO"}
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class PairBatch:
    """Log-prob sums [B] of a batch of pairs and the chosen answers' token counts [B]."""

    policy_chosen: Floats
    policy_rejected: Floats
    ref_chosen: Floats
    ref_rejected: Floats
    chosen_lengths: NDArray[np.int64]


@dataclass(frozen=True)
class PairStep:
    """Mean loss and d mean loss / d (policy_chosen, policy_rejected), each [B]."""

    loss: float
    grad_chosen: Floats
    grad_rejected: Floats


def pair_step(method: str, batch: PairBatch, beta: float, cpo_alpha: float) -> PairStep:
    """One of dpo, ipo, cpo on a batch of pairs."""
    count = len(batch.policy_chosen)
    weights = np.full(count, 1.0 / count, batch.policy_chosen.dtype)
    policy = batch.policy_chosen, batch.policy_rejected
    if method == "cpo":
        result = prefopt.cpo_loss(
            *policy,
            beta=beta,
            chosen_lengths=batch.chosen_lengths,
            chosen_nll=-batch.policy_chosen,
            cpo_alpha=cpo_alpha,
            grad_losses=weights,
            return_grads=True,
        )
    else:
        function = {"dpo": prefopt.dpo_loss, "ipo": prefopt.ipo_loss}[method]
        result = function(
            *policy,
            batch.ref_chosen,
            batch.ref_rejected,
            beta=beta,
            grad_losses=weights,
            return_grads=True,
        )
    grads = result.grads
    assert grads is not None  # asked for
    grad_chosen = grads["policy_chosen_logps"]
    if method == "cpo":
        grad_chosen = grad_chosen - grads["chosen_nll"]  # chosen_nll is -policy_chosen
    return PairStep(float(result.losses.mean()), grad_chosen, grads["policy_rejected_logps"])


def start_loss(method: str, beta: float) -> float | None:
    """The loss where the policy is its reference, whatever the data; None without a reference."""
    return {"dpo": float(np.log(2)), "ipo": 1 / (2 * beta) ** 2, "kto": 0.5}.get(method)


def kto_step(
    policy: Floats,
    ref: Floats,
    desirable: NDArray[np.bool_],
    policy_mismatched: Floats,
    ref_mismatched: Floats,
    beta: float,
) -> tuple[float, Floats]:
    """Mean KTO loss of unpaired answers [B] and its gradient by policy [B]; z0 from the mismatched
    pairs' sums.
    """
    kl = prefopt.kto_kl(policy_mismatched, ref_mismatched)
    weights = np.full(len(policy), 1.0 / len(policy), policy.dtype)
    result = prefopt.kto_loss(
        policy, ref, desirable, kl=kl, beta=beta, grad_losses=weights, return_grads=True
    )
    assert result.grads is not None
    return float(result.losses.mean()), result.grads["policy_logps"]


def mismatch(pair_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each example of a batch the example whose answer it is shown with instead: the next of
    another prompt.

    pair_of [B] names each example's prompt. -1 where the batch holds no other prompt.
    """
    count = len(pair_of)
    partner = np.full(count, -1, np.int64)
    for i in range(count):
        for shift in range(1, count):
            j = (i + shift) % count
            if pair_of[j] != pair_of[i]:
                partner[i] = j
                break
    return partner
