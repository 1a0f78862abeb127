"""The worked example of the loss pages: every loss, under every convention, of one small batch.

Numbers are shown to six digits, which no machine's rounding changes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import prefopt
from prefopt import Convention, LossInfo

# Three pairs, four single answers, two sampled answers of four tokens.
BATCH: dict[str, Any] = {
    "policy_chosen_logps": [-35.0, -62.0, -48.0],
    "policy_rejected_logps": [-41.0, -57.0, -52.0],
    "ref_chosen_logps": [-38.0, -61.0, -50.0],
    "ref_rejected_logps": [-39.0, -58.0, -51.5],
    "chosen_lengths": [10, 24, 16],
    "rejected_lengths": [14, 20, 18],
    "chosen_nll": [35.0, 62.0, 48.0],
    "gold_nll": [30.0, 55.0, 40.0],
    "gold_lengths": [9, 20, 15],
    "target_nll": [30.0, 55.0, 40.0],
    "chosen_win_rates": [0.7, 0.4, 0.6],
    "rejected_win_rates": [0.3, 0.6, 0.4],
    "margins": [1.0, 0.5, 0.25],
    "delta": 0.25,
    "chosen_kl": [3.0, 5.0, 4.0],
    "rejected_kl": [4.0, 4.5, 3.0],
    "chosen_plus_logps": [-34.5, -62.5, -48.25],
    "rejected_plus_logps": [-41.5, -56.5, -51.5],
    "chosen_minus_logps": [-35.5, -61.5, -47.75],
    "rejected_minus_logps": [-40.5, -57.5, -52.25],
    "chosen_scores": [1.2, 0.3, -0.4],
    "rejected_scores": [0.2, 0.6, -0.9],
    "policy_logps": [-35.0, -62.0, -48.0, -41.0],
    "ref_logps": [-38.0, -61.0, -50.0, -39.0],
    "desirable": [True, False, True, False],
    "lengths": [10, 24, 16, 14],
    "kl": 0.5,
    "policy_chosen_token_logps": [[-1.2, -0.3, -2.1, -0.7], [-0.5, -1.6, -0.9, -1.1]],
    "policy_rejected_token_logps": [[-0.9, -1.4, -0.6, -2.2], [-1.3, -0.8, -1.7, -0.4]],
    "ref_chosen_token_logps": [[-1.5, -0.4, -2.0, -0.9], [-0.6, -1.4, -1.2, -1.0]],
    "ref_rejected_token_logps": [[-1.0, -1.1, -0.7, -1.9], [-1.2, -0.9, -1.3, -0.5]],
    "chosen_indices": [[0, 1, 3], [0, 2, -1]],
    "rejected_indices": [[0, 2, 3], [1, 2, -1]],
    "logps": [[-1.2, -0.3, -2.1, -0.7], [-0.5, -1.6, -0.9, -1.1]],
    "old_logps": [[-1.6, -0.4, -2.0, -0.8], [-0.9, -1.4, -1.0, -1.1]],
    "ref_token_logps": [[-1.5, -0.4, -2.0, -0.9], [-0.6, -1.4, -1.2, -1.0]],
    "mask": [[True, True, True, True], [True, True, True, False]],
    "advantages": [1.0, -0.5],
    "token_advantages": [[1.0, 0.5, -0.25, 0.75], [-0.5, -1.0, 0.25, 0.5]],
    "values": [[0.9, 0.2, 0.4, 0.1], [-0.3, 0.6, 0.0, 0.2]],
    "old_values": [[0.5, 0.3, 0.4, 0.2], [-0.2, 0.2, 0.1, 0.2]],
    "returns": [[1.2, 0.6, 0.3, 0.1], [0.4, 0.3, -0.2, 0.1]],
    "rewards": [0.3, -0.1, 0.2, -0.2],
    "desirable_probabilities": [0.25, 0.5, 0.75, 0.95],
    "gaps": [0.5, -0.4, 0.25, 0.1],
    "steps": [1.0, -1.0, 0.0, 1.0],
    "state_mean": 0.1,
    "state_std": 0.3,
    "state_count": 12.0,
    "uniforms": [0.61, 0.08, 0.93, 0.34, 0.72, 0.15, 0.44, 0.27],
    "candidate_rewards": [1.0, 0.4, 0.8, -0.5],
    "chosen_mask": [[True, True, True, False], [True, False, False, False]],
    "rejected_mask": [[True, True, False, False], [True, True, True, True]],
    "chosen_uniforms": [[0.6, 0.1, 0.3, 0.9], [0.5, 0.2, 0.7, 0.4]],
    "rejected_uniforms": [[0.3, 0.8, 0.2, 0.5], [0.9, 0.1, 0.6, 0.4]],
    "token_rewards": [[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.5, 0.0]],
    "last_values": [0.0, 0.3],
    "policy_parameters": [1.0, -2.0],
    "ref_parameters": [2.0, 4.0],
}
# Optional inputs that a trainer gives: NLL terms with their lengths, masks, the other policies.
GIVEN = ("chosen_nll", "gold_nll", "gold_lengths", "mask", "old_logps", "ref_token_logps")
GIVEN_LENGTHS = ("cpo", "orpo", "arpo", "tpo", "simper", "sft")
# For parameters that a convention cannot do without and that have no default.
PARAMETERS = {"nll_tokens": 50.0, "num_tokens": 7.0, "max_completion_length": 8.0}
# For procedures that select: not all.
SELECTIONS = {"beta_dpo.keep": {"keep_ratio": 0.5}, "rso.accept": {"num_samples": 2.0}}


class Outcome(NamedTuple):
    """What a loss makes of the batch: means over its losses and rewards."""

    loss: float
    rewards: tuple[float, ...]


def outcome(info: LossInfo, convention: Convention | None) -> Outcome:
    """The batch under a convention, with what that needs and without what it refuses."""
    arguments = _inputs(info, convention)
    if convention is not None:
        arguments["convention"] = convention.name
    got = prefopt.loss(info.name, **arguments)
    rewards = tuple(float(np.mean(getattr(got, name))) for name in info.rewards)
    return Outcome(float(np.mean(got.losses)), rewards)


def _inputs(info: LossInfo, convention: Convention | None) -> dict[str, Any]:
    required = () if convention is None else convention.required
    refused = () if convention is None else convention.refused
    arguments: dict[str, Any] = {}
    for item in info.inputs:
        has_lengths = info.family in GIVEN_LENGTHS or info.name == "dpo.sft"
        is_given = item.name in GIVEN or (item.name.endswith("lengths") and has_lengths)
        if item.name in refused or not (not item.optional or is_given or item.name in required):
            continue
        arguments[item.name] = np.asarray(BATCH[item.name])
    for item in info.parameters:
        if item.name in required:
            arguments[item.name] = PARAMETERS.get(item.name, item.default)
    project = "" if convention is None else convention.name.split("-")[0]
    if project == "llamafactory" and "chosen_nll" in arguments:  # it averages each answer first
        arguments["chosen_nll"] = arguments["chosen_nll"] / BATCH["chosen_lengths"]
    return arguments


def procedure(info: LossInfo) -> str:
    """What a procedure makes of the batch, in words."""
    arguments = {item.name: np.asarray(BATCH[item.name]) for item in info.inputs}
    chosen = SELECTIONS.get(info.name, {})
    got = prefopt.loss(info.name, **arguments, **chosen)
    results = [f"`{name}` {text(value)}" for name, value in zip(got._fields, got, strict=True)]
    given = [f"`{name}` {value:g}" for name, value in chosen.items()]
    return ", ".join(results) + (f", with {', '.join(given)}" if given else "")


def number(value: float) -> str:
    """Six digits; what is a rounding away from 0 is 0."""
    return f"{0.0 if abs(value) < 1e-12 else value:.6g}"


def text(value: Any) -> str:
    """An array, a number, flags."""
    if isinstance(value, float):
        return number(value)
    array = np.asarray(value)
    if array.ndim > 0:
        return "[" + ", ".join(text(each) for each in array) + "]"
    if array.dtype == bool:
        return "true" if array else "false"
    return number(float(array))
