"""NeMo-RL: DPO, reward model, clipped policy gradients, value loss, KL estimators, GAE."""

from __future__ import annotations

import enum
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
    pair,
    rng,
    spread,
)


def record_all(record: Recorder, source: Source) -> None:
    file, utilities = "nemo_rl/algorithms/loss/loss_functions.py", "nemo_rl/algorithms/utils.py"
    masked_mean, kl = source.take(utilities, "masked_mean", "calculate_kl")
    kinds = enum.Enum("LossType", ["TOKEN_LEVEL", "SEQUENCE_LEVEL"])
    counts = enum.Enum("MetricNormalizer", ["TOKENS", "SEQUENCES", "NONE"])
    outputs = enum.Enum("LossInputType", ["LOGIT", "LOGPROB"])
    scope = {
        "masked_mean": masked_mean,
        "calculate_kl": kl,
        "LossFunction": object,
        "LossType": kinds,
        "MetricNormalizer": counts,
        "LossInputType": outputs,
        "BatchedDataDict": dict,
    }
    names = ("ClippedPGLossFn", "NLLLossFn", "PreferenceLossFn", "DPOLossFn", "MseValueLossFn")
    clipped, _, preference, dpo, value = source.take(file, *names, **scope)
    near = "denominators have + 1e-8"
    base = {
        "reference_policy_kl_penalty": 0.05,
        "preference_loss_weight": 1.0,
        "sft_loss_weight": 0.0,
        "preference_average_log_probs": False,
        "sft_average_log_probs": False,
    }

    def pairwise(average: bool, beta: float) -> Callable[..., Any]:
        changes = {"preference_average_log_probs": average, "reference_policy_kl_penalty": beta}
        module = dpo(SimpleNamespace(**{**base, **changes}))

        def function(**x: torch.Tensor) -> Any:
            n = [x.get(k, torch.full((B,), T)) for k in ("chosen_lengths", "rejected_lengths")]
            rows = [spread(x[name], c) for name, c in zip(PAIR, [*n, *n], strict=True)]
            policy, ref = (torch.stack(p, 1).reshape(2 * B, T) for p in (rows[:2], rows[2:]))
            mask = (torch.arange(T) < torch.stack(n, 1).reshape(-1)[:, None]).double()
            pad = torch.zeros(2 * B, 1, dtype=torch.float64)
            data = {
                "token_mask": torch.cat([pad, mask], 1),
                "sample_mask": torch.ones(2 * B, dtype=torch.float64),
                "reference_policy_logprobs": torch.cat([ref, pad], 1),
            }
            total, metrics = module(policy, data, torch.tensor(2.0 * B), None)
            return total, {
                f"{s}_rewards": torch.tensor(metrics[f"rewards_{s}_mean"])
                for s in ("chosen", "rejected")
            }

        return function

    record.add(source, "dpo.sigmoid", pairwise(False, 0.05), pair(), POLICY, {}, file, near)
    record.add(
        source, "dpo.sigmoid", pairwise(False, 0.3), pair(), POLICY, {"beta": 0.3}, file, near
    )
    inputs = pair() | lengths()
    record.add(source, "dpo.sigmoid_norm", pairwise(True, 0.05), inputs, POLICY, {}, file, near)
    ranking = preference()

    def scored(chosen_scores: torch.Tensor, rejected_scores: torch.Tensor) -> Any:
        logits = torch.stack([chosen_scores, rejected_scores], 1).reshape(-1, 1)
        ones = torch.ones(2 * B, dtype=torch.float64)
        return ranking(logits, {"sample_mask": ones}, torch.tensor(2.0 * B), None)[0]

    inputs = {name: rng.normal(0, 2, B) for name in ("chosen_scores", "rejected_scores")}
    record.add(source, "reward_model.bradley_terry", scored, inputs, tuple(inputs), {}, file, near)
    settings = {
        "disable_ppo_ratio": False,
        "token_level_loss": True,
        "sequence_level_importance_ratios": False,
        "ratio_clip_min": 0.2,
        "ratio_clip_max": 0.2,
        "ratio_clip_c": None,
        "use_kl_in_reward": False,
        "reference_policy_kl_penalty": 0.0,
        "reference_policy_kl_type": "k3",
        "kl_input_clamp_value": 20.0,
        "kl_output_clamp_value": 10.0,
        "use_importance_sampling_correction": False,
        "truncated_importance_sampling_type": None,
        "truncated_importance_sampling_ratio": None,
        "truncated_importance_sampling_ratio_min": None,
        "use_on_policy_kl_approximation": False,
        "force_on_policy_ratio": False,
        "use_cispo": False,
        "positive_example_nll_weight": 0.0,
    }

    def grouped(**changes: Any) -> Callable[..., Any]:
        module = clipped(SimpleNamespace(**{**settings, **changes}))

        def function(**x: torch.Tensor) -> Any:
            pad = torch.zeros(B, 1, dtype=torch.float64)
            advantages = x.get("token_advantages")
            if advantages is None:
                advantages = x["advantages"][:, None].expand(B, T)
            mask = x["mask"].double()
            data = {
                "token_mask": torch.cat([pad, mask], 1),
                "sample_mask": torch.ones(B, dtype=torch.float64),
                "advantages": torch.cat([pad, advantages], 1),
                "prev_logprobs": torch.cat([pad, x["old_logps"]], 1),
                "generation_logprobs": torch.cat([pad, x["old_logps"]], 1),
            }
            if "ref_token_logps" in x:
                data["reference_policy_logprobs"] = torch.cat([pad, x["ref_token_logps"]], 1)
            return module(x["logps"], data, torch.tensor(float(B)), mask.sum())[0]

        return function

    inputs = group("logps", "old_logps", "token_advantages", "mask")
    record.add(source, "ppo.clip", grouped(), inputs, ("logps",), {}, file, near)
    record.add(
        source,
        "ppo.dual_clip",
        grouped(ratio_clip_c=3.0),
        inputs,
        ("logps",),
        {"dual_clip": 3.0},
        file,
        near,
    )
    inputs = group("logps", "old_logps", "advantages", "mask")
    for loss, changes in (
        ("dapo", {}),
        ("grpo", {"token_level_loss": False}),
        ("cispo", {"use_cispo": True}),
        ("gspo", {"token_level_loss": False, "sequence_level_importance_ratios": True}),
    ):
        record.add(
            source,
            f"grpo.{loss}",
            grouped(**changes),
            inputs,
            ("logps",),
            {"kl_beta": 0.0},
            file,
            near,
        )
    inputs = group("logps", "old_logps", "ref_token_logps", "advantages", "mask")
    record.add(
        source,
        "grpo.dapo",
        grouped(reference_policy_kl_penalty=0.01),
        inputs,
        (),
        {"kl_beta": 0.01},
        file,
        near + "; gradient left out: NeMo's KL term has one more part",
    )
    critic = value(SimpleNamespace(scale=1.0, cliprange=0.2))

    def value_loss(**x: torch.Tensor) -> Any:
        mask = x["mask"].double()
        data = {
            "token_mask": mask,
            "sample_mask": torch.ones(B, dtype=torch.float64),
            "returns": x["returns"],
            "values": x["old_values"],
        }
        return critic(x["values"], data, torch.tensor(float(B)), mask.sum())[0]

    inputs = group("values", "old_values", "returns", "mask")
    record.add(source, "ppo.value_clip", value_loss, inputs, ("values",), {}, file, near)
    for name in ("k1", "k2", "k3"):
        record.add(
            source,
            f"kl.{name}",
            lambda logps, ref_token_logps, name=name: kl(logps, ref_token_logps, name),
            group("logps", "ref_token_logps"),
            ("logps",),
            {},
            utilities,
        )
    file = "nemo_rl/algorithms/advantage_estimator.py"
    gae = source.take(file, "_compute_gae", method_of="GeneralizedAdvantageEstimator")
    me = SimpleNamespace(gae_gamma=0.99, gae_lambda=0.9)
    generalised(
        record,
        source,
        lambda x: gae(me, x["token_rewards"], x["values"], x["mask"])[1] * x["mask"],
        file,
        "returns of the unmasked tokens",
    )
