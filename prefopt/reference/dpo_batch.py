"""The variants of `dpo_loss` whose losses depend on the whole batch.

    Melnyk et al. 2024, Distributional Preference Alignment ..., arXiv 2406.05882       (AOT)
    Ethayarajh et al. 2024, Model Alignment as Prospect Theoretic ..., arXiv 2402.01306 (KTO)

Notation as in `dpo.py`; a batch may be one part of a larger one, whose numbers then come as inputs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prefopt.reference._call import Terms, row
from prefopt.reference.scalar import (
    Float64,
    Number,
    logistic_loss,
    logistic_slope,
    per_token,
    sigmoid,
    sigmoid_slope,
    times,
)


def _ranks(values: Float64) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """(order, rank): values[order] rises, ties in the order of the batch, NaN last; and inversely."""
    order = np.argsort(values, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(values))
    return order, rank


@row("dpo.aot")
def aot(
    g: Float64,
    pi_w: Float64,
    pi_l: Float64,
    ref_w: Float64,
    ref_l: Float64,
    gathered_policy_logratios: Float64 | None = None,
    gathered_ref_logratios: Float64 | None = None,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    gather_offset: float = 0.0,
) -> Terms:
    """-(1 - e) log sigma(beta u) - e log sigma(-beta u), u_(k) = x_(k) - y_(k): AOT eq. 5, paired.

    x = pi_w - pi_l and y = ref_w - ref_l, each sorted: the k-th smallest of x meets the k-th
    smallest of y. losses[i] is that of the pair with x_i. The samples may be those of all ranks, in
    which this batch starts at `gather_offset`.
    """
    x, y = pi_w - pi_l, ref_w - ref_l
    all_x = x if gathered_policy_logratios is None else gathered_policy_logratios
    all_y = y if gathered_ref_logratios is None else gathered_ref_logratios
    start = int(gather_offset)
    _, rank = _ranks(all_x)
    u = x - np.sort(all_y)[rank[start : start + len(x)]]
    slope = g * beta * logistic_slope(beta * u, label_smoothing)
    rewards = beta * (pi_w - ref_w), beta * (pi_l - ref_l)
    losses = logistic_loss(beta * u, label_smoothing)
    return Terms(losses, {"pi_w": slope, "pi_l": -slope}, rewards)


@row("dpo.aot_unpaired")
def aot_unpaired(
    g: Float64,
    D_w: Float64,
    D_l: Float64,
    gathered_chosen_logratios: Float64 | None = None,
    gathered_rejected_logratios: Float64 | None = None,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    gather_offset: float = 0.0,
) -> Terms:
    """The same with x = D_w and y = D_l: AOT eq. 8, unpaired.

    The gradient by y_j goes to the rejected answer j, from the loss of the x that has its rank. With
    gathered samples that x may be of another rank; g is then one number throughout.
    """
    is_gathered = gathered_chosen_logratios is not None
    all_x = D_w if gathered_chosen_logratios is None else gathered_chosen_logratios
    all_y = D_l if gathered_rejected_logratios is None else gathered_rejected_logratios
    start = int(gather_offset)
    mine = slice(start, start + len(D_w))
    order_x, rank_x = _ranks(all_x)
    order_y, rank_y = _ranks(all_y)
    u = D_w - all_y[order_y][rank_x[mine]]
    partner = order_x[rank_y[mine]]  # the x that y_j is compared with
    u_of_y = all_x[partner] - all_y[mine]
    g_of_y = g if is_gathered else g[partner]
    by_w = g * beta * logistic_slope(beta * u, label_smoothing)
    by_l = g_of_y * -beta * logistic_slope(beta * u_of_y, label_smoothing)
    losses = logistic_loss(beta * u, label_smoothing)
    return Terms(losses, {"D_w": by_w, "D_l": by_l}, (beta * D_w, beta * D_l))


@row("dpo.sft", wpo=True)
def sft(
    g: Float64,
    pi_w: Float64,
    pi_l: Number = 0.0,
    ref_w: Number = 0.0,
    ref_l: Number = 0.0,
    N_w: Float64 | None = None,
    *,
    beta: float = 0.1,
    nll_tokens: float | None = None,
) -> Terms:
    """-pi_w B / tokens, whose mean over the batch is the mean NLL of its chosen tokens.

    tokens = sum N_w unless given: that of all ranks, say. Maximum likelihood as TRL 1.16's "sft".
    """
    tokens = nll_tokens if nll_tokens is not None else np.sum(N_w)  # type: ignore[arg-type]
    share = per_token(np.float64(len(pi_w)), tokens)
    rewards = beta * (pi_w - ref_w), np.zeros_like(pi_w) + beta * (pi_l - ref_l)
    return Terms(times(share, 0 - pi_w), {"pi_w": g * -share}, rewards)


@row("dpo.kto_pair", wpo=True)
def kto_pair(
    g: Float64,
    D_w: Float64,
    D_l: Float64,
    z_w: Number | None = None,
    z_l: Number | None = None,
    *,
    beta: float = 0.1,
) -> Terms:
    """1/2 (1 - sigma(beta (D_w - z_l))) + 1/2 (1 - sigma(beta (z_w - D_l))): KTO on halves of pairs.

    Each half's reference point is the other's z_s = max(0, mean D_s), a constant (`kto_kl`); the
    mean of the two losses, as TRL 0.7's "kto_pair" has it over 2 B answers.
    """
    z_w = _clamped_mean(D_w) if z_w is None else z_w
    z_l = _clamped_mean(D_l) if z_l is None else z_l
    gain_w, gain_l = beta * (D_w - z_l), beta * (z_w - D_l)
    losses = (sigmoid(-gain_w) + sigmoid(-gain_l)) / 2
    by_w, by_l = -beta * sigmoid_slope(gain_w) / 2, beta * sigmoid_slope(gain_l) / 2
    return Terms(losses, {"D_w": g * by_w, "D_l": g * by_l}, (beta * D_w, beta * D_l))


def _clamped_mean(D: Float64) -> Float64:
    """max(0, mean), 0 for an empty batch; a NaN stays."""
    return np.asarray(np.maximum(np.mean(D), 0.0) if len(D) else 0.0)
