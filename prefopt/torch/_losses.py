"""The losses of prefopt for tensors: the NumPy functions' keywords, defaults and formulas.

Inputs are float32 or float64 tensors [B] (mixed promotes; bfloat16 and float16 promote to float32);
results have that dtype and device. Gradients flow into the policy's log-probabilities and into
`chosen_nll`, never into the reference's. See the NumPy functions of the same name for equations,
sources, ranges and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prefopt import _losses as _numpy_losses

from ._bridge import wide_dtype
from ._loss_operator import PairLoss, SequenceLoss, UnpairedLoss, call


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    loss_type: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 0.5,
    discopop_tau: float = 0.05,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    convention: str | None = None,
) -> PairLoss:
    """DPO and its relatives per pair [B]; see `prefopt.dpo_loss`."""
    tensors = {
        "policy_chosen_logps": policy_chosen_logps,
        "policy_rejected_logps": policy_rejected_logps,
        "ref_chosen_logps": ref_chosen_logps,
        "ref_rejected_logps": ref_rejected_logps,
        "chosen_lengths": chosen_lengths,
        "rejected_lengths": rejected_lengths,
    }
    options = {
        "loss_type": loss_type,
        "beta": beta,
        "label_smoothing": label_smoothing,
        "f_divergence_type": f_divergence_type,
        "f_alpha_divergence_coef": f_alpha_divergence_coef,
        "discopop_tau": discopop_tau,
        "convention": convention,
    }
    return PairLoss(*call("dpo_loss", 3, tensors, options))


def ipo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
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


def kto_loss(
    policy_logps: Tensor,
    ref_logps: Tensor,
    desirable: Tensor,
    *,
    kl: Tensor | float,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    loss_type: str = "kto",
    convention: str | None = None,
) -> UnpairedLoss:
    """KTO per answer [B], with kl from `kto_kl` (a number or a tensor []; detached); see
    `prefopt.kto_loss`.
    """
    tensors = {"policy_logps": policy_logps, "ref_logps": ref_logps, "desirable": desirable}
    if isinstance(kl, Tensor):
        tensors["kl"] = kl
    options = {
        "kl": None if isinstance(kl, Tensor) else kl,
        "beta": beta,
        "desirable_weight": desirable_weight,
        "undesirable_weight": undesirable_weight,
        "loss_type": loss_type,
        "convention": convention,
    }
    return UnpairedLoss(*call("kto_loss", 2, tensors, options))


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


def cpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    *,
    loss_type: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    simpo_gamma: float = 0.5,
    alpha: float = 0.0,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    chosen_nll: Tensor | None = None,
    nll_tokens: float | None = None,
    cpo_alpha: float = 1.0,
    convention: str | None = None,
) -> PairLoss:
    """CPO per pair [B], with the NLL term where `chosen_nll` is given; see `prefopt.cpo_loss`."""
    tensors = {
        "policy_chosen_logps": policy_chosen_logps,
        "policy_rejected_logps": policy_rejected_logps,
        "chosen_lengths": chosen_lengths,
        "rejected_lengths": rejected_lengths,
        "chosen_nll": chosen_nll,
    }
    options = {
        "loss_type": loss_type,
        "beta": beta,
        "label_smoothing": label_smoothing,
        "simpo_gamma": simpo_gamma,
        "alpha": alpha,
        "nll_tokens": nll_tokens,
        "cpo_alpha": cpo_alpha,
        "convention": convention,
    }
    return PairLoss(*call("cpo_loss", 3, tensors, options))


def sft_loss(
    policy_logps: Tensor,
    *,
    lengths: Tensor | None = None,
    nll_tokens: float | None = None,
    convention: str | None = None,
) -> SequenceLoss:
    """Negative log-likelihood, in shares [B] whose mean is the token mean (`prefopt.sft_loss`)."""
    tensors = {"policy_logps": policy_logps, "lengths": lengths}
    options = {"nll_tokens": nll_tokens, "convention": convention}
    return SequenceLoss(*call("sft_loss", 1, tensors, options))


_FUNCTIONS: dict[str, Callable[..., PairLoss | UnpairedLoss | SequenceLoss]] = {
    "dpo": dpo_loss,
    "kto": kto_loss,
    "cpo": cpo_loss,
    "sft": sft_loss,
}


def loss(name: str, **inputs: Any) -> PairLoss | UnpairedLoss | SequenceLoss:
    """Any row of the list by name ("dpo.sigmoid"), with its inputs and parameters."""
    family, _, variant = name.partition(".")
    known = {each.name for each in _numpy_losses.losses()}
    if name not in known or family not in _FUNCTIONS:
        raise ValueError(f"name: expected one of {', '.join(sorted(known))}, got {name!r}")
    if family != "sft":
        inputs["loss_type"] = variant
    return _FUNCTIONS[family](**inputs)
