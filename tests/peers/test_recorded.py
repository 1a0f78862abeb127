"""Numbers that other projects gave once (recorded.json, made by record_others.py) against ours.

HALOs, LLaMA-Factory, OpenRLHF, torchtune, NeMo-RL and TRL 0.24, at the commit or version in the
convention's name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prefopt

ROWS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("recorded.json").read_text())
# LLaMA-Factory asks TRL's dpo_loss for these without naming them, and gets the sigmoid loss.
LLAMA = "llamafactory-ff6d4d1"
MISNAMED = [
    row for row in ROWS if row["convention"] == LLAMA and row["loss"] in ("dpo.hinge", "dpo.ipo")
]
GAE = [row for row in ROWS if row["loss"] == "gae.gae"]
NEMO_KL = [
    row
    for row in ROWS
    if row["convention"] == "nemo-rl-7ea279a" and row["params"].get("kl_beta", 0) != 0
]
LOSSES = [row for row in ROWS if row not in (*MISNAMED, *GAE, *NEMO_KL)]
# Losses in the order of a sort, or with a mean over the batch in each: only the means are compared.
BY_MEAN = ("dpo.aot", "dpo.aot_unpaired", "dpo.sft", "orpo.orpo")


def name(row: dict[str, Any]) -> str:
    settings = "-".join(f"{key}={value}" for key, value in row["params"].items())
    return f"{row['convention']}-{row['loss']}-{settings}"


def tolerance(row: dict[str, Any]) -> float:
    if "float32" in row["note"]:
        return 2e-6
    return 1e-7 if "1e-8" in row["note"] else 1e-12


def arrays(row: dict[str, Any]) -> dict[str, Any]:
    return {key: np.array(x) if isinstance(x, list) else x for key, x in row["inputs"].items()}


@pytest.mark.parametrize("row", [pytest.param(row, id=name(row)) for row in LOSSES])
def test_value_gradient_and_rewards(row: dict[str, Any]) -> None:
    given = arrays(row)
    average_nll = row["convention"] == LLAMA and row["loss"] == "orpo.orpo"
    if average_nll:
        given["chosen_nll"] = -given["policy_chosen_logps"] / given["chosen_lengths"]
    elif row["loss"] == "orpo.orpo":  # recorded without the NLL
        given["chosen_nll"] = np.zeros(len(given["policy_chosen_logps"]))
    shape = np.shape(row["losses"]) or np.shape(next(iter(given.values())))[:1]
    ours = prefopt.loss(
        row["loss"], **given, **row["params"], convention=row["convention"],
        grad_losses=np.full(shape, 1 / np.prod(shape)),
    )  # fmt: skip
    rtol = tolerance(row)
    scale = np.abs(ours.losses).max()
    np.testing.assert_allclose(ours.losses.mean(), row["mean"], rtol=rtol, atol=rtol * scale)
    if np.ndim(row["losses"]) and row["loss"] not in BY_MEAN:
        np.testing.assert_allclose(ours.losses, row["losses"], rtol=rtol, atol=rtol * scale)
    assert row["grads"] or "gradient left out" in row["note"]
    for key, wanted in row["grads"].items():
        got = ours.grads[key]
        if average_nll and key == "policy_chosen_logps":
            got = got - ours.grads["chosen_nll"] / given["chosen_lengths"]
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol * np.abs(wanted).max())
    for key, wanted in row["rewards"].items():
        reward = getattr(ours, key)
        got = reward if np.ndim(wanted) else reward.mean()
        np.testing.assert_allclose(got, wanted, rtol=max(rtol, 1e-6 if not np.ndim(wanted) else 0))


@pytest.mark.parametrize("row", [pytest.param(row, id=name(row)) for row in NEMO_KL])
def test_nemo_rl_kl_term_has_our_value_and_another_gradient(row: dict[str, Any]) -> None:
    """So the convention refuses it, while the plain loss gives the value."""
    given = arrays(row)
    with pytest.raises(ValueError, match="KL term"):
        prefopt.loss(row["loss"], **given, **row["params"], convention=row["convention"])
    ours = prefopt.loss(row["loss"], **given, **row["params"])
    np.testing.assert_allclose(ours.losses.mean(), row["mean"], rtol=tolerance(row))


@pytest.mark.parametrize("row", [pytest.param(row, id=name(row)) for row in MISNAMED])
def test_what_llama_factory_calls_by_these_names_is_the_sigmoid_loss(row: dict[str, Any]) -> None:
    given = arrays(row)
    with pytest.raises(ValueError, match="sigmoid"):
        prefopt.loss(row["loss"], **given, convention=row["convention"])
    sums = {key: value for key, value in given.items() if key.endswith("logps")}
    if row["loss"] == "dpo.ipo":
        sums = {key: value / given[f"{key.split('_')[1]}_lengths"] for key, value in sums.items()}
    ours = prefopt.loss("dpo.sigmoid", **sums)
    np.testing.assert_allclose(ours.losses, row["losses"], rtol=1e-12)


@pytest.mark.parametrize("row", [pytest.param(row, id=name(row)) for row in GAE])
def test_generalised_advantages(row: dict[str, Any]) -> None:
    """Only A + V is recorded: torchtune and HALOs whiten A. The masks end each row, as ours."""
    given = arrays(row)
    result = prefopt.gae(given.pop("token_rewards"), **given, **row["params"])
    returns = np.where(given.get("mask", True), result.gae_returns, 0)
    np.testing.assert_allclose(returns, row["losses"], rtol=1e-12, atol=1e-14)


def test_every_project_is_recorded() -> None:
    """Each loss that a convention of these projects has was recorded, but for what is listed."""
    recorded = {(row["convention"], row["loss"]) for row in ROWS}
    projects = {convention for convention, _ in recorded}
    offered = {
        (known.name, info.name)
        for info in prefopt.losses()
        for known in prefopt.conventions(info.name)
        if known.name in projects
    }
    assert {pair for pair in offered - recorded if pair not in NOT_RECORDED} == set()
    assert set() == NOT_RECORDED - offered


NOT_RECORDED = {
    *(
        ("trl-0.24", loss) for loss in ("ppo.clip", "ppo.value_clip", "kl.k1", "kl.k3")
    ),  # in train()
    *(
        (project, "kl.k3") for project in ("halos-4831988", "torchtune-bd2a0fc")
    ),  # in the GRPO losses
    (LLAMA, "kto.kto"),  # TRL's kto_loss, recorded for trl-0.24
}
