"""TRL 0.24: dpo_loss, cpo_loss, kto_loss, bco_loss."""

from __future__ import annotations

import collections
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
    group,
    in_order,
    lengths,
    logps,
    pair,
    rewards_of,
    rng,
    unpaired,
    without_kl,
)


def record_all(record: Recorder, source: Source) -> None:
    file = "trl/trainer/dpo_trainer.py"
    divergence = enum.Enum("FDivergenceType", ["REVERSE_KL", "JS_DIVERGENCE", "ALPHA_DIVERGENCE"])
    constants = SimpleNamespace(ALPHA_DIVERGENCE_COEF_KEY="a", ALPHA_DIVERGENCE_COEF_DEFAULT=1.0)
    cap = source.take("trl/trainer/utils.py", "get_exp_cap", "cap_exp")[1]
    loss = source.take(
        file,
        "dpo_loss",
        method_of="DPOTrainer",
        FDivergenceType=divergence,
        FDivergenceConstants=constants,
        cap_exp=cap,
    )

    def me(**settings: Any) -> Any:
        defaults = {
            "beta": 0.1,
            "label_smoothing": 0.0,
            "reference_free": False,
            "f_divergence_type": divergence.REVERSE_KL,
            "f_divergence_params": {"a": 1.0},
            "accelerator": SimpleNamespace(device="cpu"),
            "args": SimpleNamespace(discopop_tau=0.05),
        }
        return SimpleNamespace(**{**defaults, **settings})

    def pairwise(kind: str, average: bool = False, **settings: Any) -> Callable[..., Any]:
        def function(**x: torch.Tensor) -> Any:
            if "delta" in x:
                settings["running"] = SimpleNamespace(mean=x["delta"], update=lambda r: None)
            given = [x[name] for name in PAIR]
            if average:  # concatenated_forward divides before this method
                n = [x["chosen_lengths"], x["rejected_lengths"]]
                given = [g / c for g, c in zip(given, [*n, *n], strict=True)]
            losses, chosen, rejected = loss(me(**settings), *given, kind)
            return losses, rewards_of(chosen, rejected)

        return function

    plain = (
        "sigmoid",
        "hinge",
        "nca_pair",
        "sppo_hard",
        "aot",
        "apo_zero",
        "apo_down",
        "discopop",
        "robust",
    )
    for kind in plain:
        record.add(source, f"dpo.{kind}", pairwise(kind), pair(), POLICY, {}, file)
    record.add(
        source, "dpo.aot_unpaired", pairwise("aot_pair"), pair(), POLICY, {}, file, "aot_pair there"
    )
    record.add(
        source,
        "dpo.exo_pair",
        pairwise("exo_pair"),
        pair(),
        POLICY,
        {},
        file,
        "label_smoothing 0 is 1e-3",
    )
    for kind in ("sigmoid", "robust", "aot"):
        record.add(
            source,
            f"dpo.{kind}",
            pairwise(kind, beta=0.4, label_smoothing=0.2),
            pair(),
            POLICY,
            {"beta": 0.4, "label_smoothing": 0.2},
            file,
        )
    inputs = pair() | lengths()
    record.add(source, "dpo.ipo", pairwise("ipo", average=True), inputs, POLICY, {}, file)
    record.add(
        source, "dpo.bco_pair", pairwise("bco_pair"), pair() | {"delta": 0.3}, POLICY, {}, file
    )
    close = {k: v / 10 for k, v in pair().items()}
    for kind in ("sigmoid", "hinge"):
        record.add(
            source,
            f"dpo.{kind}",
            pairwise(kind, f_divergence_type=divergence.JS_DIVERGENCE),
            close,
            POLICY,
            {"f_divergence_type": "js_divergence"},
            file,
        )
        for a in (1.0, 0.3):
            record.add(
                source,
                f"dpo.{kind}",
                pairwise(
                    kind,
                    f_divergence_type=divergence.ALPHA_DIVERGENCE,
                    f_divergence_params={"a": a},
                ),
                close,
                POLICY,
                {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": a},
                file,
            )
    file = "trl/trainer/cpo_trainer.py"
    cpo = source.take(file, "cpo_loss", method_of="CPOTrainer")
    for kind in ("sigmoid", "hinge", "ipo", "simpo"):
        settings = SimpleNamespace(
            alpha=0.0,
            beta=0.1,
            loss_type=kind,
            simpo_gamma=0.5,
            label_smoothing=0.0,
            accelerator=SimpleNamespace(device="cpu"),
        )
        average = kind in ("ipo", "simpo")

        def reference_free(
            settings: Any = settings, average: bool = average, **x: torch.Tensor
        ) -> Any:
            given = [x[name] for name in POLICY]
            if average:
                given = [
                    g / x[k]
                    for g, k in zip(given, ("chosen_lengths", "rejected_lengths"), strict=True)
                ]
            losses, chosen, rejected = cpo(settings, *given)
            return losses, rewards_of(chosen, rejected)

        inputs = {name: logps(B, low=5, high=60) for name in POLICY} | (
            lengths() if average else {}
        )
        record.add(source, f"cpo.{kind}", reference_free, inputs, POLICY, {"cpo_alpha": 0.0}, file)
    file = "trl/trainer/kto_trainer.py"
    kto = source.take(file, "kto_loss", method_of="KTOTrainer")
    for kind in ("kto", "apo_zero_unpaired"):
        settings = SimpleNamespace(
            beta=0.1,
            loss_type=kind,
            calculate_KL=kind == "kto",
            desirable_weight=1.0,
            undesirable_weight=1.0,
            accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x),
        )
        record.add(
            source,
            f"kto.{kind}",
            unpaired_by(kto, settings),
            without_kl(unpaired(), kind),
            ("policy_logps",),
            {},
            file,
        )
    file = "trl/trainer/bco_trainer.py"
    bco = source.take(file, "bco_loss", method_of="BCOTrainer")

    def shifted(**x: torch.Tensor) -> Any:
        labels = x["desirable"]
        settings = SimpleNamespace(
            beta=0.1, running=SimpleNamespace(mean=x["delta"]), match_underlying_distribution=False
        )
        sides = [
            x["policy_logps"][labels],
            x["policy_logps"][~labels],
            x["ref_logps"][labels],
            x["ref_logps"][~labels],
        ]
        losses, chosen, rejected, _ = bco(settings, *sides, None, None, do_train=False)
        return in_order(labels, losses), {
            "rewards": in_order(labels, torch.cat([chosen, rejected]))
        }

    inputs = without_kl(unpaired(), "bco") | {"delta": 0.3}
    record.add(source, "bco.bco", shifted, inputs, ("policy_logps",), {}, file)
    likelihood_and_odds(record, source, me, loss)
    scores(record, source)
    groups(record, source)


def likelihood_and_odds(record: Recorder, source: Source, me: Any, loss: Any) -> None:
    def likelihood(policy_chosen_logps: torch.Tensor, chosen_lengths: torch.Tensor) -> Any:
        zeros = torch.zeros(B, dtype=torch.float64)
        nll = {
            "nll_loss": -policy_chosen_logps.sum() / chosen_lengths.sum()
        }  # of concatenated_forward
        return loss(me(), policy_chosen_logps, zeros, zeros, zeros, "sft", nll)[0]

    inputs = {
        "policy_chosen_logps": logps(B, low=5, high=60),
        "chosen_lengths": rng.integers(1, 9, B),
    }
    note = "the token mean is made outside dpo_loss"
    file = "trl/trainer/dpo_trainer.py"
    record.add(source, "dpo.sft", likelihood, inputs, POLICY[:1], {}, file, note)
    file = "trl/trainer/orpo_trainer.py"
    odds = source.take(file, "odds_ratio_loss", method_of="ORPOTrainer")
    settings = SimpleNamespace(beta=0.1, accelerator=SimpleNamespace(device="cpu"))

    def odds_loss(**x: torch.Tensor) -> Any:
        given = [
            x[s] / x[n] for s, n in zip(POLICY, ("chosen_lengths", "rejected_lengths"), strict=True)
        ]
        losses, chosen, rejected, *_ = odds(settings, *given)
        return -losses, rewards_of(chosen, rejected)

    inputs = {name: logps(B, low=5, high=60) for name in POLICY} | lengths()
    note = "the odds term alone; the trainer adds the NLL"
    params = {"nll_weight": 0.0, "nll_tokens": 1.0}
    record.add(source, "orpo.orpo", odds_loss, inputs, POLICY, params, file, note)


def scores(record: Recorder, source: Source) -> None:
    file = "trl/trainer/reward_trainer.py"
    ranking = source.take(file, "compute_loss", method_of="RewardTrainer")
    for coefficient in (None, 0.05):
        me = SimpleNamespace(
            model=SimpleNamespace(training=False),
            _metrics={"eval": collections.defaultdict(list)},
            args=SimpleNamespace(center_rewards_coefficient=coefficient),
            _total_train_tokens=0,
            accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        )

        def scored(me: Any = me, **x: torch.Tensor) -> Any:
            logits = torch.cat([x["chosen_scores"], x["rejected_scores"]])[:, None]
            return ranking(me, lambda **_: SimpleNamespace(logits=logits), {"margin": x["margins"]})

        inputs = {name: rng.normal(0, 2, B) for name in ("chosen_scores", "rejected_scores")}
        params = {} if coefficient is None else {"center_coefficient": coefficient}
        leaves = tuple(inputs)
        inputs["margins"] = rng.uniform(0, 1, B)
        record.add(source, "reward_model.bradley_terry", scored, inputs, leaves, params, file)


def groups(record: Recorder, source: Source) -> None:
    file = "trl/trainer/grpo_trainer.py"
    extreme = {"nanmin": torch.min, "nanmax": torch.max}  # of metrics only
    method = source.take(file, "_compute_loss", method_of="GRPOTrainer", **extreme)
    for kind in ("grpo", "bnpo", "dr_grpo", "dapo", "gspo"):
        me = SimpleNamespace(
            top_entropy_quantile=1.0,
            beta=0.04,
            epsilon_low=0.2,
            epsilon_high=0.2,
            use_vllm=False,
            importance_sampling_level="sequence" if kind == "gspo" else "token",
            loss_type="grpo" if kind == "gspo" else kind,
            args=SimpleNamespace(delta=None),
            current_gradient_accumulation_steps=1,
            max_completion_length=7,
            accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x),
            model=SimpleNamespace(training=False),
            _metrics={"eval": collections.defaultdict(list)},
        )

        def grouped(me: Any = me, **x: torch.Tensor) -> Any:
            me._get_per_token_logps_and_entropies = lambda *a, **k: (
                x["logps"],
                x["logps"].detach(),
            )
            mask = x["mask"].long()
            batch = {
                "prompt_ids": mask[:, :1],
                "prompt_mask": mask[:, :1],
                "completion_ids": mask,
                "completion_mask": mask,
                "advantages": x["advantages"],
                "old_per_token_logps": x["old_logps"],
                "ref_per_token_logps": x["ref_token_logps"],
                "num_items_in_batch": torch.tensor(11.0),
            }
            return method(me, None, batch)

        inputs = group("logps", "old_logps", "ref_token_logps", "advantages", "mask")
        sizes = {"dapo": {"num_tokens": 11.0}, "dr_grpo": {"max_completion_length": 7.0}}
        params = {"kl_beta": 0.04} | sizes.get(kind, {})
        record.add(source, f"grpo.{kind}", grouped, inputs, ("logps",), params, file)


def unpaired_by(kto: Any, settings: Any) -> Callable[..., Any]:
    def function(**x: torch.Tensor) -> Any:
        labels, policy, ref = x["desirable"], x["policy_logps"], x["ref_logps"]
        kl = x["kl"].reshape(1) if "kl" in x else torch.zeros(1, dtype=torch.float64)
        sides = [policy[labels], policy[~labels], kl, ref[labels], ref[~labels]]
        losses, chosen, rejected, _ = kto(settings, *sides, torch.zeros_like(kl))
        rewards = torch.cat([chosen, rejected])
        return in_order(labels, losses), {"rewards": in_order(labels, rewards)}

    return function
