"""LLaMA-Factory's preference losses, with dpo_loss of trl 0.24.0, the newest that it allows."""

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
    lengths,
    logps,
    pair,
    rewards_of,
    rng,
)


def record_all(record: Recorder, source: Source) -> None:
    file = "src/llamafactory/train/dpo/trainer.py"
    names = ("odds_ratio_loss", "simpo_loss", "bco_loss", "compute_preference_loss")
    methods = dict(zip(names, source.take(file, *names, method_of="CustomDPOTrainer"), strict=True))
    divergence = enum.Enum("FDivergenceType", ["ALPHA_DIVERGENCE", "JS_DIVERGENCE"])
    trl = Source(source.root.parent, "trl_0_24")
    dpo_loss = trl.take(
        "trl/trainer/dpo_trainer.py", "dpo_loss", method_of="DPOTrainer", FDivergenceType=divergence
    )

    def trainer(kind: str, ref: bool, **settings: Any) -> Any:
        defaults = {
            "beta": 0.1,
            "loss_type": kind,
            "label_smoothing": 0.0,
            "simpo_gamma": 0.5,
            "bco_gemma": 0.0,
            "reference_free": False,
            "f_divergence_type": "reverse_kl",
            "accelerator": SimpleNamespace(device="cpu"),
            "finetuning_args": SimpleNamespace(use_ref_model=ref),
        }
        me = SimpleNamespace(**{**defaults, **settings})
        for name, method in (*methods.items(), ("dpo_loss", dpo_loss)):
            setattr(me, name, lambda *a, method=method: method(me, *a))
        return me

    def pairwise(kind: str, ref: bool = True, **settings: Any) -> Callable[..., Any]:
        def function(**x: torch.Tensor) -> Any:
            if "delta" in x:
                settings["running"] = SimpleNamespace(mean=x["delta"], update=lambda r: None)
            me = trainer(kind, ref, **settings)
            given = [x.get(name) for name in PAIR]
            if kind in ("ipo", "orpo", "simpo"):  # concatenated_forward divides before
                n = [x["chosen_lengths"], x["rejected_lengths"]]
                given = [g if g is None else g / c for g, c in zip(given, [*n, *n], strict=True)]
            losses, chosen, rejected = me.compute_preference_loss(*given)
            return losses, rewards_of(chosen, rejected)

        return function

    with_trl = "with dpo_loss of trl 0.24.0"
    record.add(source, "dpo.sigmoid", pairwise("sigmoid"), pair(), POLICY, {}, file, with_trl)
    record.add(
        source,
        "dpo.sigmoid",
        pairwise("sigmoid", beta=0.3, label_smoothing=0.1),
        pair(),
        POLICY,
        {"beta": 0.3, "label_smoothing": 0.1},
        file,
        with_trl,
    )
    record.add(
        source, "dpo.hinge", pairwise("hinge"), pair(), POLICY, {}, file, with_trl + ": sigmoid"
    )
    inputs = pair() | lengths()
    record.add(
        source,
        "dpo.ipo",
        pairwise("ipo"),
        inputs,
        POLICY,
        {},
        file,
        with_trl + ": sigmoid of averages",
    )

    def shifted(**x: torch.Tensor) -> Any:
        running = SimpleNamespace(mean=x["delta"], update=lambda r: None)
        return trainer("sigmoid", True, running=running).bco_loss(*(x[name] for name in PAIR))

    record.add(source, "dpo.bco_pair", shifted, pair() | {"delta": 0.3}, POLICY, {}, file)
    free = {name: logps(B, low=5, high=60) for name in POLICY} | lengths()
    record.add(source, "cpo.simpo", pairwise("simpo", ref=False), free, POLICY, {}, file)
    record.add(
        source,
        "cpo.simpo",
        pairwise("simpo", ref=False, beta=2.0, simpo_gamma=1.0),
        free,
        POLICY,
        {"beta": 2.0, "simpo_gamma": 1.0},
        file,
    )
    record.add(
        source, "orpo.orpo", pairwise("orpo", ref=False), free, POLICY, {}, file, "NLL: -a_w"
    )
    file = "src/llamafactory/train/rm/trainer.py"
    ranking = source.take(file, "compute_loss", method_of="PairwiseTrainer")

    def scored(chosen_scores: torch.Tensor, rejected_scores: torch.Tensor) -> Any:
        values = torch.cat([chosen_scores, rejected_scores])[:, None]
        ones = torch.ones(2 * B, 1, dtype=torch.long)
        batch = {"input_ids": ones, "attention_mask": ones}
        return ranking(None, lambda **_: (None, None, values), batch)

    inputs = {name: rng.normal(0, 2, B) for name in ("chosen_scores", "rejected_scores")}
    note = "float32 inside"
    record.add(source, "reward_model.bradley_terry", scored, inputs, tuple(inputs), {}, file, note)
