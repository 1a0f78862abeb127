"""What a trainer logs of a preference loss, under the names of TRL 1.16.

Means over the tokens that count or over the answers of this call, [] without gradient; 0 where there
are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ._preference_inputs import SIDES, Tokens

TOKEN_STATS = ("entropy", "correct", "mean_logit")
_ALL = slice(None)


@torch.no_grad()
def metrics(
    tokens: Tokens, inputs: Mapping[str, Any], rewards: Sequence[Tensor], paired: bool
) -> dict[str, Tensor]:
    """inputs, rewards: of the first loss."""
    half = tokens.layout.size // 2
    parts = {"chosen": slice(0, half), "rejected": slice(half, None)} if paired else {}
    found = _of_pairs(rewards) if paired and len(rewards) > 1 else {}
    if "desirable" in inputs:
        found = _of_single_answers(tokens, inputs, rewards)
    found.update(_of_tokens(tokens, parts))
    for side in parts:
        if f"policy_{side}_logps" in inputs:
            found[f"logps/{side}"] = _mean(inputs[f"policy_{side}_logps"])
    for name in ("chosen_nll", "gold_nll", "target_nll"):
        if name in inputs and name in tokens.nlls:
            sums, lengths = tokens.nlls[name]
            found["nll_loss"] = _ratio(sums.sum(), lengths.sum())
    if isinstance(inputs.get("kl"), (Tensor, float, int)):
        found["kl"] = torch.as_tensor(inputs["kl"]).detach()
    elif "ref_token_logps" in inputs and not paired:
        found["kl"] = _estimated_kl(inputs["logps"], inputs["ref_token_logps"], inputs["mask"])
    for side in SIDES:
        if f"{side}_kl" in inputs:
            found[f"kl/{side}"] = _mean(inputs[f"{side}_kl"])
    return {name: each.detach() for name, each in found.items()}


def _ratio(total: Tensor, count: Tensor) -> Tensor:
    return total / count.clamp(min=1)


def _mean(values: Tensor, kept: Tensor | None = None) -> Tensor:
    if kept is None:
        return values.sum() / max(values.numel(), 1)
    return _ratio(values.masked_fill(~kept, 0).sum(), kept.sum())


def _of_pairs(rewards: Sequence[Tensor]) -> dict[str, Tensor]:
    chosen, rejected = rewards[:2]
    return {
        "rewards/chosen": _mean(chosen),
        "rewards/rejected": _mean(rejected),
        "rewards/accuracies": _mean((chosen > rejected).to(chosen.dtype)),
        "rewards/margins": _mean(chosen - rejected),
    }


def _of_single_answers(
    tokens: Tokens, inputs: Mapping[str, Any], rewards: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Desirable answers under "chosen", the others under "rejected"."""
    desirable = inputs["desirable"]
    found = {}
    for side, kept in zip(SIDES, (desirable, ~desirable), strict=True):
        found[f"rewards/{side}"] = _mean(rewards[0], kept)
        found[f"logps/{side}"] = _mean(inputs["policy_logps"], kept)
        logits = tokens.layout.sums(tokens.values["mean_logit"])
        count = tokens.layout.lengths.masked_fill(~kept, 0).sum()
        found[f"logits/{side}"] = _ratio(logits.masked_fill(~kept, 0).sum(), count)
    found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    return found


def _of_tokens(tokens: Tokens, parts: Mapping[str, slice]) -> dict[str, Tensor]:
    """Accuracy is that of the chosen answers, where there are pairs."""
    layout, values = tokens.layout, tokens.values
    found = {"entropy": _ratio(layout.total(values["entropy"]), layout.count())}
    judged = parts.get("chosen", _ALL)
    correct = values["correct"].to(values["logps"].dtype)
    found["mean_token_accuracy"] = _ratio(layout.total(correct, judged), layout.count(judged))
    for side, part in parts.items():
        logits = layout.total(values["mean_logit"], part)
        found[f"logits/{side}"] = _ratio(logits, layout.count(part))
    return found


def _estimated_kl(logps: Tensor, ref_logps: Tensor, mask: Tensor) -> Tensor:
    """The mean over tokens of exp(-d) + d - 1, d = logp - ref_logp: kl.k3."""
    difference = logps - ref_logps
    return _mean((-difference).exp() + difference - 1, mask)
