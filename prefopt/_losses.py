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
from prefopt._loss_call import (
    LIST,
    evaluate,
    find,
    must_be_default,
    nearest,
    no_convention,
    take_array,
    take_number,
    take_text,
)
from prefopt._loss_types import LossInfo, PairLoss, SequenceLoss, UnpairedLoss

__all__ = [
    "LossInfo",
    "PairLoss",
    "SequenceLoss",
    "UnpairedLoss",
    "cpo_loss",
    "dpo_loss",
    "ipo_loss",
    "kto_kl",
    "kto_loss",
    "loss",
    "losses",
    "sft_loss",
]

ArrayLike = npt.ArrayLike


def losses() -> tuple[LossInfo, ...]:
    """Every loss there is: name, inputs, parameters with default and range, formula, source."""
    return tuple(LIST.values())


def loss(name: str, **inputs: Any) -> PairLoss | UnpairedLoss | SequenceLoss:
    """Any loss by its name in `losses()`, such as "dpo.sigmoid".

    Inputs and parameters go by the names of that row; `grad_losses`, `return_grads` and
    `convention` are as for the other functions. An unknown name raises ValueError, an unknown
    keyword TypeError; both name the nearest valid ones.
    """
    info = find(name)
    grad_losses = inputs.pop("grad_losses", None)
    return_grads = inputs.pop("return_grads", False)
    convention = inputs.pop("convention", None)
    known = {item.name for item in info.inputs} | {item.name for item in info.parameters}
    extra = [*known, "grad_losses", "return_grads", "convention"]
    for key in inputs:
        if key not in known:
            raise TypeError(f"{key}: {name} takes no such argument; {nearest(key, extra)}")
    for item in info.inputs:
        if not item.optional and inputs.get(item.name) is None:
            raise TypeError(f"{item.name}: {name} needs this input")
    arrays = {item.name: inputs.get(item.name) for item in info.inputs}
    numbers_ = {p.name: inputs[p.name] for p in info.parameters if p.name in inputs}
    return evaluate(info, arrays, numbers_, convention, grad_losses, return_grads)


def dpo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    loss_type: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 0.5,
    discopop_tau: float = 0.05,
    chosen_lengths: ArrayLike | None = None,
    rejected_lengths: ArrayLike | None = None,
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """Direct preference optimisation over pairs, with a reference model.

    With h_s = policy_s_logps - ref_s_logps (s: chosen, rejected) and e = label_smoothing:

    - "sigmoid": -(1 - e) log sigmoid(beta (h_chosen - h_rejected)) - e log sigmoid(beta (h_rejected
      - h_chosen)). DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7); e > 0 is Mitchell's cDPO,
      eq. 3. Where policy and reference agree it is exactly ln 2.
    - "ipo": (h_chosen - h_rejected - 1 / (2 beta))^2, IPO (Azar et al. 2023, arXiv 2310.12036,
      eq. 17) with beta for its tau. Given lengths, each h is divided by its own; without, the
      inputs are taken as they are. The two differ by the length in their margin: do not share a
      tuned beta.

    The four inputs are [B] sums over answer tokens, the lengths [B] counts of answer tokens >= 0
    (an answer of length 0 has average 0 and gradient 0). beta > 0, 0 <= label_smoothing < 0.5.
    Rewards are beta * h_s, of the sums for either loss. Returns `PairLoss`.
    A keyword that the chosen loss does not use raises ValueError unless it has its default.
    """
    info = find(f"dpo.{take_text('loss_type', loss_type)}", "loss_type")
    no_convention(convention)
    must_be_default(
        info,
        f_divergence_type=(f_divergence_type, "reverse_kl"),
        f_alpha_divergence_coef=(f_alpha_divergence_coef, 0.5),
        discopop_tau=(discopop_tau, 0.05),
        label_smoothing=(label_smoothing, 0.0),
    )
    arrays = {
        "policy_chosen_logps": policy_chosen_logps,
        "policy_rejected_logps": policy_rejected_logps,
        "ref_chosen_logps": ref_chosen_logps,
        "ref_rejected_logps": ref_rejected_logps,
        "chosen_lengths": chosen_lengths,
        "rejected_lengths": rejected_lengths,
    }
    params = {"beta": beta, "label_smoothing": label_smoothing}
    result = evaluate(info, arrays, params, convention, grad_losses, return_grads)
    return cast(PairLoss, result)


def ipo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    ref_chosen_logps: ArrayLike,
    ref_rejected_logps: ArrayLike,
    *,
    beta: float = 0.1,
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


def kto_loss(
    policy_logps: ArrayLike,
    ref_logps: ArrayLike,
    desirable: ArrayLike,
    *,
    kl: ArrayLike,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    loss_type: str = "kto",
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> UnpairedLoss:
    """Kahneman-Tversky optimisation over single answers, with a reference model.

    With r = policy_logps - ref_logps and z0 = kl, a constant through which no gradient flows:
    desirable answers cost desirable_weight * (1 - sigmoid(beta (r - z0))), the others
    undesirable_weight * (1 - sigmoid(beta (z0 - r))) (Ethayarajh et al. 2024, arXiv 2402.01306,
    section 4.1). A batch may hold one class only.

    policy_logps, ref_logps: [B] sums over answer tokens. desirable: [B] bool, or integers 0 and 1.
    kl: one number, from `kto_kl`. beta > 0, weights >= 0. Rewards are beta * r. Returns
    `UnpairedLoss`.
    """
    info = find(f"kto.{take_text('loss_type', loss_type)}", "loss_type")
    arrays = {
        "policy_logps": policy_logps,
        "ref_logps": ref_logps,
        "desirable": desirable,
        "kl": kl,
    }
    params = {
        "beta": beta,
        "desirable_weight": desirable_weight,
        "undesirable_weight": undesirable_weight,
    }
    result = evaluate(info, arrays, params, convention, grad_losses, return_grads)
    return cast(UnpairedLoss, result)


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


def cpo_loss(
    policy_chosen_logps: ArrayLike,
    policy_rejected_logps: ArrayLike,
    *,
    loss_type: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    simpo_gamma: float = 0.5,
    alpha: float = 0.0,
    chosen_lengths: ArrayLike | None = None,
    rejected_lengths: ArrayLike | None = None,
    chosen_nll: ArrayLike | None = None,
    nll_tokens: float | None = None,
    cpo_alpha: float = 1.0,
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> PairLoss:
    """Contrastive preference optimisation over pairs, without a reference model.

    With u = policy_chosen_logps - policy_rejected_logps and e = label_smoothing:
    -(1 - e) log sigmoid(beta u) - e log sigmoid(-beta u) (Xu et al. 2024, arXiv 2401.08417, eq. 3;
    e > 0 as in cDPO), and, where chosen_nll is given, + cpo_alpha * sum(chosen_nll) / nll_tokens in
    every one of the B losses, so that losses.mean() is the preference term's mean plus cpo_alpha
    times the NLL per chosen token.

    The log-probabilities are [B] sums over answer tokens, chosen_nll [B] sums of -log p over the
    chosen answer's tokens. nll_tokens is the number of tokens the NLL is averaged over, across
    ranks and accumulation steps if wanted (default: the sum of chosen_lengths; neither raises).
    beta > 0, 0 <= label_smoothing < 0.5, cpo_alpha >= 0, nll_tokens > 0; a batch without a token
    has NLL 0.
    Rewards are beta * policy_s_logps. Returns `PairLoss`.
    A keyword that the chosen loss does not use raises ValueError unless it has its default.
    """
    info = find(f"cpo.{take_text('loss_type', loss_type)}", "loss_type")
    no_convention(convention)
    must_be_default(info, simpo_gamma=(simpo_gamma, 0.5), alpha=(alpha, 0.0))
    arrays = {
        "policy_chosen_logps": policy_chosen_logps,
        "policy_rejected_logps": policy_rejected_logps,
        "chosen_lengths": chosen_lengths,
        "rejected_lengths": rejected_lengths,
        "chosen_nll": chosen_nll,
    }
    params = {
        "beta": beta,
        "label_smoothing": label_smoothing,
        "cpo_alpha": cpo_alpha,
        "nll_tokens": nll_tokens,
    }
    result = evaluate(info, arrays, params, convention, grad_losses, return_grads)
    return cast(PairLoss, result)


def sft_loss(
    policy_logps: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    nll_tokens: float | None = None,
    convention: str | None = None,
    grad_losses: ArrayLike | None = None,
    return_grads: bool = False,
) -> SequenceLoss:
    """Negative log-likelihood per token, as B shares: losses.mean() is the mean over the tokens.

    losses[i] = -policy_logps[i] * B / nll_tokens. policy_logps: [B] sums over answer tokens.
    nll_tokens: their number, across ranks and accumulation steps if wanted (default: the sum of
    `lengths` [B]; neither raises), > 0; a batch whose lengths are all 0 has loss 0. Returns
    `SequenceLoss`, a tuple of one.
    """
    info = find("sft.nll")
    arrays = {"policy_logps": policy_logps, "lengths": lengths}
    params = {"nll_tokens": nll_tokens}
    result = evaluate(info, arrays, params, convention, grad_losses, return_grads)
    return cast(SequenceLoss, result)
