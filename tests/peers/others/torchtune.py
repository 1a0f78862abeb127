"""torchtune: DPO, RSO, PPO, GRPO losses, GAE."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from peers.others.common import (
    PAIR,
    POLICY,
    B,
    Recorder,
    Source,
    T,
    generalised,
    group,
    pair,
    rewards_of,
)


def record_all(record: Recorder, source: Source) -> None:
    masked_mean, *_, estimate, masked_sum = source.take(
        file := "torchtune/rlhf/rewards.py",
        "masked_mean",
        "masked_var",
        "whiten",
        "estimate_advantages",
        "masked_sum",
    )
    rlhf = SimpleNamespace(masked_mean=masked_mean)
    try:  # the module as it is lacks imports at this commit
        compile_and_run = (source.root / "torchtune/rlhf/loss/dpo.py").read_text()
        start = compile_and_run.index("T = TypeVar")
        exec("import torch.nn as nn\n" + compile_and_run[start:], {"torch": torch, "F": F})
    except NameError as error:
        print("torchtune/rlhf/loss/dpo.py:", error)
    dpo, rso = source.take(
        "torchtune/rlhf/loss/dpo.py", "DPOLoss", "RSOLoss", PreferenceLoss=torch.nn.Module
    )

    def pairwise(module: Any) -> Callable[..., Any]:
        def function(**x: torch.Tensor) -> Any:
            policy = SimpleNamespace(chosen_logps=x[PAIR[0]], rejected_logps=x[PAIR[1]])
            ref = SimpleNamespace(chosen_logps=x[PAIR[2]], rejected_logps=x[PAIR[3]])
            losses, chosen, rejected = module(policy, ref)
            return losses, rewards_of(chosen, rejected)

        return function

    file = "torchtune/rlhf/loss/dpo.py"
    record.add(source, "dpo.sigmoid", pairwise(dpo()), pair(), POLICY, {}, file)
    record.add(
        source,
        "dpo.sigmoid",
        pairwise(dpo(beta=0.4, label_smoothing=0.2)),
        pair(),
        POLICY,
        {"beta": 0.4, "label_smoothing": 0.2},
        file,
    )
    record.add(source, "dpo.hinge", pairwise(rso()), pair(), POLICY, {}, file)
    ppo = source.take("torchtune/rlhf/loss/ppo.py", "PPOLoss", rlhf=rlhf)()

    def policy_loss(**x: torch.Tensor) -> Any:
        zeros = torch.zeros(B, T, dtype=torch.float64)
        out = ppo(
            x["old_logps"],
            x["logps"],
            x["token_advantages"],
            zeros,
            zeros,
            zeros,
            x["mask"],
            x["mask"],
        )
        return out[0]  # the value term is 0

    def value_loss(**x: torch.Tensor) -> Any:
        zeros = torch.zeros(B, T, dtype=torch.float64)
        out = ppo(
            zeros, zeros, zeros, x["old_values"], x["values"], x["returns"], x["mask"], x["mask"]
        )
        return out[0] / ppo.value_coeff

    file, near = "torchtune/rlhf/loss/ppo.py", "denominators have + 1e-8"
    inputs = group("logps", "old_logps", "token_advantages", "mask")
    record.add(source, "ppo.clip", policy_loss, inputs, ("logps",), {}, file, near)
    inputs = group("values", "old_values", "returns", "mask")
    record.add(source, "ppo.value_clip", value_loss, inputs, ("values",), {}, file, near)
    file = "torchtune/dev/grpo/loss.py"
    grpo, simple = source.take(file, "GRPOLoss", "GRPOSimpleLoss", rlhf=rlhf, masked_sum=masked_sum)

    def grouped(module: Any) -> Callable[..., Any]:
        def function(**x: torch.Tensor) -> Any:
            old = x.get("old_logps", x["logps"].detach())
            return module(old, x["logps"], x["ref_token_logps"], x["advantages"], x["mask"])[0]

        return function

    inputs = group("logps", "old_logps", "ref_token_logps", "advantages", "mask")
    record.add(source, "grpo.bnpo", grouped(grpo()), inputs, ("logps",), {}, file, near)
    inputs = group("logps", "ref_token_logps", "advantages", "mask")
    record.add(source, "grpo.grpo", grouped(simple()), inputs, ("logps",), {}, file, near)
    generalised(
        record,
        source,
        lambda x: estimate(x["values"], x["token_rewards"], 0.99, 0.9)[1],
        "torchtune/rlhf/rewards.py",
        "no mask; only the returns: the advantages are whitened",
        mask=False,
    )
    rewards = source.take("torchtune/rlhf/rewards.py", "get_rewards_ppo")

    def estimator(logps: torch.Tensor, ref_token_logps: torch.Tensor) -> Any:
        return rewards(torch.zeros(B, dtype=torch.float64), logps, ref_token_logps, 0.1)[1]

    inputs = group("logps", "ref_token_logps")
    record.add(source, "kl.k1", estimator, inputs, ("logps",), {}, "torchtune/rlhf/rewards.py")
