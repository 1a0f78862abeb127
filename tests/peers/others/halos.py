"""HALOs: the trainers' loss methods, on per-token log-probs that add up to the given sums."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

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
    lengths,
    logps,
    pair,
    rewards_of,
    rng,
    spread,
    unpaired,
)


def record_all(record: Recorder, source: Source) -> None:
    file = "train/trainers.py"
    sequence = source.take(file, "get_sequence_rewards", method_of="BasicTrainer")
    ratios = source.take(file, "get_ratios", method_of="BasicTrainer")
    masked_mean = source.take("train/utils.py", "masked_mean")
    entropy, product = source.take(
        "train/utils.py", "entropy_from_logits", "rowwise_product", masked_mean=masked_mean
    )
    scope = {"masked_mean": masked_mean, "entropy_from_logits": entropy, "rowwise_product": product}
    accelerator = SimpleNamespace(device="cpu", reduce=lambda x, reduction: x)

    def trainer(name: str, **settings: float) -> Any:
        config = SimpleNamespace(humanline=False, loss=SimpleNamespace(**settings))
        me = SimpleNamespace(config=config, policy_dtype=torch.float64, accelerator=accelerator)
        me.get_sequence_rewards = lambda *a, **k: sequence(me, *a, **k)
        me.get_ratios = lambda *a: ratios(me, *a)
        loss = source.take(file, "loss", method_of=name, **scope)
        return lambda *a: loss(me, *a)

    def pairwise(run: Any) -> Callable[..., Any]:
        def function(**x: torch.Tensor) -> Any:
            counts = [x.get(k, torch.full((B,), T)) for k in ("chosen_lengths", "rejected_lengths")]
            sides = [*counts, *counts]
            given = [spread(x[n], c) for n, c in zip(PAIR, sides, strict=True) if n in x]
            losses, chosen, rejected, *_ = run({}, *given)
            return losses, rewards_of(chosen, rejected)

        return function

    record.add(
        source, "dpo.sigmoid", pairwise(trainer("DPOTrainer", beta=0.1)), pair(), POLICY, {}, file
    )
    record.add(
        source,
        "dpo.sigmoid",
        pairwise(trainer("CDPOTrainer", beta=0.1, epsilon=0.2)),
        pair(),
        POLICY,
        {"label_smoothing": 0.2},
        file,
        "CDPOTrainer",
    )
    inputs = pair() | lengths()
    record.add(
        source, "dpo.ipo", pairwise(trainer("IPOTrainer", tau=0.1)), inputs, POLICY, {}, file
    )
    inputs = {name: logps(B, low=5, high=20) for name in POLICY} | lengths()
    simpo = trainer("SimPOTrainer", beta=10.0, gamma_beta_ratio=0.3)
    record.add(source, "cpo.simpo", pairwise(simpo), inputs, POLICY, {}, file)
    kto = trainer("KTOTrainer", beta=0.1, desirable_weight=1.5, undesirable_weight=0.8)

    def unpaired_loss(**x: torch.Tensor) -> Any:
        labels = x["desirable"]
        count = torch.full((B,), 3)
        policy, ref = spread(x["policy_logps"], count), spread(x["ref_logps"], count)
        kl = spread(x["kl"].reshape(1), count[:1])
        losses, chosen, rejected, *_ = kto(
            {}, policy[labels], policy[~labels], kl, ref[labels], ref[~labels], torch.zeros_like(kl)
        )
        order = torch.cat([torch.nonzero(labels)[:, 0], torch.nonzero(~labels)[:, 0]])
        back = torch.argsort(order)
        return losses[back], {"rewards": torch.cat([chosen, rejected])[back]}

    record.add(
        source,
        "kto.kto",
        unpaired_loss,
        unpaired(),
        ("policy_logps",),
        {"desirable_weight": 1.5, "undesirable_weight": 0.8},
        file,
        "KL goes through float32",
    )
    ranking = trainer("BradleyTerryTrainer")

    def scored(chosen_scores: torch.Tensor, rejected_scores: torch.Tensor) -> Any:
        heads = [torch.stack([torch.zeros_like(s), s], 1) for s in (chosen_scores, rejected_scores)]
        return ranking({}, *heads)[0]

    inputs = {name: rng.normal(0, 2, B) for name in ("chosen_scores", "rejected_scores")}
    record.add(source, "reward_model.bradley_terry", scored, inputs, tuple(inputs), {}, file)
    grpo = trainer("GRPOTrainer", beta=0.01, epsilon=0.01)

    def grouped(**x: torch.Tensor) -> Any:
        labels = torch.where(x["mask"], 0, -100)
        batch = {"target_labels": torch.cat([labels[:, :1], labels], 1)}
        ones = torch.ones(B, dtype=torch.float64)
        return grpo(batch, x["logps"], x["ref_token_logps"], x["advantages"], ones)[0]

    inputs = group("logps", "ref_token_logps", "advantages", "mask")
    record.add(
        source, "grpo.bnpo", grouped, inputs, ("logps",), {}, file, "ratio against the reference"
    )
    clipped = trainer("PPOTrainer", cliprange=0.5, critic_coef=0.0, KL_coef=0.0)

    def policy_loss(**x: torch.Tensor) -> Any:
        zeros = torch.zeros(B, T, dtype=torch.float64)
        batch = {
            "advantages": x["token_advantages"],
            "logprobs": x["old_logps"],
            "masks": x["mask"].double(),
            "discounted_future_rewards": zeros,
        }
        return clipped(
            batch, {"logprobs": x["logps"], "values": zeros, "logits": zeros[..., None]}
        )[0]

    inputs = group("logps", "old_logps", "token_advantages", "mask")
    note = "the other terms' coefficients are 0"
    record.add(source, "ppo.clip", policy_loss, inputs, ("logps",), {}, file, note)
    advantages = source.take(
        file,
        "compute_advantages",
        method_of="PPOTrainer",
        masked_mean=masked_mean,
        masked_var=source.take("train/utils.py", "masked_var", masked_mean=masked_mean),
    )
    me = SimpleNamespace(config=SimpleNamespace(loss=SimpleNamespace(gamma=0.99, lam=0.9)))
    generalised(
        record,
        source,
        lambda x: advantages(me, x["values"], x["token_rewards"], x["mask"])[1] * x["mask"],
        file,
        "returns of the unmasked tokens",
    )
