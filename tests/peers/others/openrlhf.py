"""OpenRLHF: DPO, reward model, PPO, GSPO losses, KL estimators, GAE."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

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
    rng,
)


def record_all(record: Recorder, source: Source) -> None:
    file = "openrlhf/models/loss.py"
    masked_mean = source.take("openrlhf/models/utils.py", "masked_mean")
    aggregate = source.take(file, "aggregate_loss", masked_mean=masked_mean)
    scope = {"masked_mean": masked_mean, "aggregate_loss": aggregate}
    dpo, policy, value, ranking = source.take(
        file, "DPOLoss", "PolicyLoss", "ValueLoss", "PairWiseLoss", **scope
    )

    def pairwise(module: Any) -> Callable[..., Any]:
        def function(**x: torch.Tensor) -> Any:
            loss, chosen, rejected = module(*(x[name] for name in PAIR))
            return loss, rewards_of(chosen, rejected)

        return function

    record.add(source, "dpo.sigmoid", pairwise(dpo(0.1)), pair(), POLICY, {}, file)
    record.add(
        source,
        "dpo.sigmoid",
        pairwise(dpo(0.3, 0.15)),
        pair(),
        POLICY,
        {"beta": 0.3, "label_smoothing": 0.15},
        file,
    )
    record.add(source, "dpo.ipo", pairwise(dpo(0.1, 0.0, True)), pair(), POLICY, {}, file)
    record.add(
        source, "dpo.ipo", pairwise(dpo(0.4, 0.0, True)), pair(), POLICY, {"beta": 0.4}, file
    )
    scores = {name: rng.normal(0, 2, B) for name in ("chosen_scores", "rejected_scores")}
    scores["margins"] = rng.uniform(0, 1, B)
    module = ranking()
    record.add(
        source,
        "reward_model.bradley_terry",
        lambda chosen_scores, rejected_scores, margins: module(
            chosen_scores, rejected_scores, margins
        ),
        scores,
        ("chosen_scores", "rejected_scores"),
        {},
        file,
    )
    inputs = group("logps", "old_logps", "token_advantages", "mask")

    def clipped(module: Any) -> Callable[..., Any]:
        def function(**x: torch.Tensor) -> Any:
            advantages = x.get("token_advantages")
            if advantages is None:
                advantages = x["advantages"][:, None].expand(B, T)
            return module(x["logps"], x["old_logps"], advantages, x["mask"].double())[0]

        return function

    record.add(source, "ppo.clip", clipped(policy()), inputs, ("logps",), {}, file)
    far = dict(inputs)
    far["old_logps"] = inputs["logps"] - np.where(np.arange(T) == 1, 25.0, 0.1)
    record.add(
        source, "ppo.clip", clipped(policy()), far, ("logps",), {}, file, "log-ratios beyond 20"
    )
    record.add(
        source,
        "ppo.dual_clip",
        clipped(policy(dual_clip=3.0)),
        far,
        ("logps",),
        {"dual_clip": 3.0},
        file,
    )
    inputs = group("logps", "old_logps", "advantages", "mask")
    gspo = policy(policy_loss_type="gspo")
    record.add(
        source, "grpo.gspo", clipped(gspo), inputs, ("logps",), {}, file, "denominators + 1e-8"
    )
    inputs = group("values", "old_values", "returns", "mask")
    critic = value(clip_eps=0.5)

    def value_loss(**x: torch.Tensor) -> Any:
        return critic(x["values"], x["old_values"], x["returns"], x["mask"].double())

    record.add(source, "ppo.value_clip", value_loss, inputs, ("values",), {}, file)
    approximate = source.take(file := "openrlhf/models/utils.py", "compute_approx_kl")
    for name in ("k1", "k2", "k3"):
        record.add(
            source,
            f"kl.{name}",
            lambda logps, ref_token_logps, name=name: approximate(logps, ref_token_logps, name),
            group("logps", "ref_token_logps"),
            ("logps",),
            {},
            file,
            "float32 inside",
        )
    file = "openrlhf/trainer/ppo_utils/experience_maker.py"
    cls = next(
        n.name
        for n in ast.parse((source.root / file).read_text()).body
        if isinstance(n, ast.ClassDef)
        and any(
            isinstance(m, ast.FunctionDef) and m.name == "get_advantages_and_returns"
            for m in n.body
        )
    )
    advantages = source.take(file, "get_advantages_and_returns", method_of=cls)
    generalised(
        record,
        source,
        lambda x: (
            advantages(None, x["values"], x["token_rewards"], x["mask"], 0.99, 0.9)[1] * x["mask"]
        ),
        file,
        "returns of the unmasked tokens",
    )
