"""Liger's loss functions, unmodified, on a row's inputs. Runs inside worker.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from liger_kernel.chunked_loss.cpo_loss import LigerFusedLinearCPOFunction
from liger_kernel.chunked_loss.dpo_loss import LigerFusedLinearDPOFunction
from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction
from liger_kernel.chunked_loss.kto_loss import LigerFusedLinearKTOFunction
from liger_kernel.chunked_loss.orpo_loss import LigerFusedLinearORPOFunction
from liger_kernel.chunked_loss.simpo_loss import LigerFusedLinearSimPOFunction

Inputs = dict[str, Any]
Answer = dict[str, Any]


def run(loss: str, inputs: Inputs, params: Inputs, dtype: str) -> Answer:
    """See peers.peer_value. The NLL term, which Liger adds outside these functions, is left out."""
    family, variant = loss.split(".")
    torch.set_num_threads(1)
    return FAMILIES[family](variant, inputs, params, getattr(torch, dtype))


def leaf(values: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def finish(loss: torch.Tensor, leaves: dict[str, torch.Tensor], **rewards: Any) -> Answer:
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return {
        "mean": loss.item(),
        "grads": {name: g.tolist() for name, g in zip(leaves, grads, strict=True)},
        "rewards": {name: r.detach().tolist() for name, r in rewards.items()},
    }


def no_nll(params: Inputs) -> Inputs:
    if params.get("cpo_alpha") or params.get("nll_weight"):
        raise ValueError("stub: the NLL term is not part of preference_loss_fn")
    return {key: value for key, value in params.items() if key not in ("cpo_alpha", "nll_weight")}


def pair(inputs: Inputs, dtype: torch.dtype, average: bool) -> Any:
    leaves = {
        key: leaf(inputs[key], dtype) for key in ("policy_chosen_logps", "policy_rejected_logps")
    }
    chosen, rejected = leaves.values()
    if average:
        chosen = chosen / torch.tensor(inputs["chosen_lengths"])
        rejected = rejected / torch.tensor(inputs["rejected_lengths"])
    target = torch.zeros(2 * len(chosen), 1, dtype=torch.long)
    return leaves, chosen, rejected, target


def dpo(variant: str, inputs: Inputs, params: Inputs, dtype: torch.dtype) -> Answer:
    leaves, chosen, rejected, target = pair(inputs, dtype, average=False)
    loss, chosen_rewards, rejected_rewards = LigerFusedLinearDPOFunction.preference_loss_fn(
        chosen,
        rejected,
        target,
        torch.tensor(inputs["ref_chosen_logps"], dtype=dtype),
        torch.tensor(inputs["ref_rejected_logps"], dtype=dtype),
        loss_type=variant,
        **params,
    )
    return finish(loss, leaves, chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)


def kto(variant: str, inputs: Inputs, params: Inputs, dtype: torch.dtype) -> Answer:
    leaves = {"policy_logps": leaf(inputs["policy_logps"], dtype)}
    policy = leaves["policy_logps"]
    kl = torch.tensor(inputs["kl"], dtype=dtype) if variant == "kto" else None
    labels = torch.tensor(inputs["desirable"], dtype=torch.bool)
    loss, chosen, rejected = LigerFusedLinearKTOFunction.preference_loss_fn(
        policy,
        labels,
        torch.zeros(len(policy), 1),
        torch.tensor(inputs["ref_logps"], dtype=dtype),
        kl=kl,
        **params,
    )
    rewards = {}
    if labels.any():
        rewards["chosen"] = chosen / labels.sum()
    if (~labels).any():
        rewards["rejected"] = rejected / (~labels).sum()
    return finish(loss, leaves, **rewards)


def cpo(variant: str, inputs: Inputs, params: Inputs, dtype: torch.dtype) -> Answer:
    params = no_nll(params)
    leaves, chosen, rejected, target = pair(inputs, dtype, average=variant == "simpo")
    if variant == "simpo":
        if "simpo_gamma" in params:
            params["gamma"] = params.pop("simpo_gamma")
        function = LigerFusedLinearSimPOFunction
    elif variant == "sigmoid":
        function = LigerFusedLinearCPOFunction
    else:
        raise ValueError(f"stub: Liger has no cpo.{variant}")
    loss, chosen_rewards, rejected_rewards = function.preference_loss_fn(
        chosen, rejected, target, **params
    )
    return finish(loss, leaves, chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)


def orpo(variant: str, inputs: Inputs, params: Inputs, dtype: torch.dtype) -> Answer:
    params = no_nll(params)
    leaves, chosen, rejected, target = pair(inputs, dtype, average=True)
    loss, chosen_rewards, rejected_rewards, *_ = LigerFusedLinearORPOFunction.preference_loss_fn(
        chosen, rejected, target, **params
    )
    return finish(loss, leaves, chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)


def grpo(variant: str, inputs: Inputs, params: Inputs, dtype: torch.dtype) -> Answer:
    leaves = {"logps": leaf(inputs["logps"], dtype)}
    tokens = leaves["logps"]
    mask = torch.tensor(inputs["mask"]) if "mask" in inputs else torch.ones_like(tokens)
    mask = mask.to(dtype)
    given = {
        key: torch.tensor(inputs[name], dtype=dtype) if name in inputs else None
        for key, name in (
            ("ref_per_token_logps", "ref_token_logps"),
            ("old_per_token_logps", "old_logps"),
        )
    }
    names = {"kl_beta": "beta", "epsilon": "epsilon_low", "num_tokens": "num_items_in_batch"}
    sizes = {"max_completion_length": tokens.shape[1]}
    loss, _ = LigerFusedLinearGRPOFunction.ppo_loss_fn(
        tokens,
        mask,
        torch.tensor(inputs["advantages"], dtype=dtype),
        mask,
        **given,
        loss_type="grpo" if variant == "gspo" else variant,
        importance_sampling_level="sequence" if variant == "gspo" else "token",
        **sizes | {names.get(key, key): value for key, value in params.items()},
    )
    return finish(loss, leaves)


FAMILIES: dict[str, Callable[[str, Inputs, Inputs, torch.dtype], Answer]] = {
    "dpo": dpo,
    "kto": kto,
    "cpo": cpo,
    "orpo": orpo,
    "grpo": grpo,
}
