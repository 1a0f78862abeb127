"""Calls of every row for comparing two implementations: inputs, parameters, conventions.

A call is (label, arguments of `loss`). Ordinary calls have finite results away from kinks; extreme
ones are the ends of the ranges of inputs, where overflow, underflow and 0 / 0 wait.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from row_cases import PROCEDURES, ROWS, inputs, needed

import prefopt

Arguments = dict[str, Any]
Call = tuple[str, Arguments]

# A value off the default for every parameter of the list.
OFF_DEFAULTS: dict[str, Any] = {
    "beta": 0.35,
    "label_smoothing": 0.15,
    "f_divergence_type": "js_divergence",
    "f_alpha_divergence_coef": 0.3,
    "f_exponent_cap": 4.0,
    "discopop_tau": 0.4,
    "gather_offset": 3.0,
    "rdpo_alpha": 0.02,
    "dpop_lambda": 0.7,
    "odpo_alpha": 0.6,
    "cal_weight": 0.3,
    "beta_dpo_alpha": 0.2,
    "min_beta": 0.004,
    "tdpo_alpha": 0.7,
    "perturbation": 0.2,
    "desirable_weight": 1.4,
    "undesirable_weight": 0.6,
    "alpha": -0.03,
    "cpo_alpha": 0.4,
    "nll_weight": 0.6,
    "tpo_alpha": 0.7,
    "nll_tokens": 96.0,
    "simpo_gamma": 0.9,
    "tpo_l_gamma": 0.2,
    "slic_delta": 2.5,
    "slic_lambda": 0.3,
    "relax_coefficient_1": 1.05,
    "relax_coefficient_2": 0.25,
    "center_coefficient": 0.03,
    "epsilon": 0.3,
    "epsilon_high": 0.45,
    "epsilon_low": 0.9,
    "delta": 1.85,
    "kl_beta": 0.07,
    "dual_clip": 1.6,
    "log_ratio_limit": 1.1,
    "value_clip": 0.5,
    "num_tokens": 23.0,
    "max_completion_length": 7.0,
    "sapo_temperature_pos": 1.3,
    "sapo_temperature_neg": 0.8,
    "min_density_ratio": 0.9,
    "max_density_ratio": 1.7,
    "momentum": 0.6,
    "keep_ratio": 0.45,
    "rso_beta": 0.9,
    "num_samples": 3.0,
    "gamma": 0.93,
    "gae_lambda": 0.8,
    "mix_alpha": 0.35,
}


def off_defaults(name: str, arrays: Arguments) -> Arguments:
    """Every parameter of the row off its default, but for those that go with an absent input."""
    names = {item.name for item in ROWS[name].parameters}
    absent = set()
    if (
        "chosen_nll" not in arrays
        and "gold_nll" not in arrays
        and not name.endswith(("sft", "nll"))
    ):
        absent.add("nll_tokens")
    if "ref_token_logps" not in arrays:
        absent.add("kl_beta")
    if not any(key.startswith("gathered") for key in arrays):
        absent.add("gather_offset")
    return {key: value for key, value in OFF_DEFAULTS.items() if key in names - absent}


def gathered(name: str, arrays: Arguments) -> Arguments:
    """AOT's samples of three ranks, of which `arrays` are the second, from position 3 on."""
    rng = np.random.default_rng(5)
    pi_w, pi_l = arrays["policy_chosen_logps"], arrays["policy_rejected_logps"]
    ref_w, ref_l = arrays["ref_chosen_logps"], arrays["ref_rejected_logps"]
    own = {
        "gathered_policy_logratios": pi_w - pi_l,
        "gathered_ref_logratios": ref_w - ref_l,
        "gathered_chosen_logratios": pi_w - ref_w,
        "gathered_rejected_logratios": pi_l - ref_l,
    }
    takes = {item.name for item in ROWS[name].inputs}
    return {
        key: np.concatenate([rng.uniform(-20, 20, 3), each, rng.uniform(-20, 20, 5)])
        for key, each in own.items()
        if key in takes
    }


def ordinary_calls(name: str) -> list[Call]:
    """With and without optional inputs, parameters at and off their defaults, every choice."""
    calls = []
    for seed, optional in enumerate((True, False)):
        arrays = inputs(name, seed=seed + 10, size=6, optional=optional)
        label = "all inputs" if optional else "needed inputs"
        calls.append((f"{label}, defaults", arrays))
        calls.append((f"{label}, off defaults", {**arrays, **off_defaults(name, arrays)}))
    arrays = inputs(name, seed=3, size=6)
    for parameter in ROWS[name].parameters:
        for word in parameter.choices[1:]:
            chosen = {"f_divergence_type": word, "beta": 0.2, "f_alpha_divergence_coef": 1.4}
            calls.append((word, {**near(arrays), **chosen}))
    if any(item.type == "gathered" and item.optional for item in ROWS[name].inputs):
        more = {**arrays, **gathered(name, arrays)}
        calls.append(("gathered", {**more, **off_defaults(name, more)}))
    return calls


def near(arrays: Arguments) -> Arguments:
    """Log-ratios of a few units, for divergences that are exponentials of them."""
    moved = dict(arrays)
    for side in ("chosen", "rejected"):
        ref = arrays[f"ref_{side}_logps"]
        moved[f"policy_{side}_logps"] = ref + 0.1 * (arrays[f"policy_{side}_logps"] - ref)
    return moved


def convention_calls(name: str) -> list[Call]:
    """Each convention with what it allows, parameters at its defaults and off them."""
    calls = []
    for convention in prefopt.conventions(name):
        arrays = {
            key: value
            for key, value in inputs(name, seed=2, size=6).items()
            if key not in convention.refused
        }
        extra = off_defaults(name, arrays)
        allowed = {k: v for k, v in extra.items() if k not in (*convention.refused, "kl_beta")}
        if convention.name == "trl-0.24" and (
            name == "dpo.ipo" or "f_divergence_type" not in allowed
        ):
            allowed.pop("f_divergence_type", None)
        required = {k: allowed[k] for k in convention.required if k in allowed}
        options = {"convention": convention.name}
        calls.append((f"{convention.name}, defaults", {**arrays, **required, **options}))
        calls.append((f"{convention.name}, off defaults", {**arrays, **allowed, **options}))
        if math.isfinite(convention.loss_limit):
            far = {**arrays, "logps": 16 * arrays["logps"], **options}
            calls.append((f"{convention.name}, beyond its limit", far))
    return calls


EXTREMES = (0.0, 1e4, -1e4, 745.0, -745.0, 40.0, -40.0, 1e-9, 1e-300, -0.0)


def extreme_calls(name: str) -> list[Call]:
    """Log-ratios out to +-1e4 and 0, empty answers, one class only, averages of 0."""
    size = len(EXTREMES) ** 2
    left, right = (each.ravel() for each in np.meshgrid(EXTREMES, EXTREMES))
    arrays = inputs(name, seed=4, size=size)
    zeros = np.zeros(size)
    for key, value in arrays.items():
        if key.endswith("weights"):
            continue
        if not isinstance(value, np.ndarray) or value.dtype != np.float64 or value.ndim != 1:
            continue
        if key.startswith("policy_chosen") or key == "policy_logps":
            arrays[key] = left
        elif key.startswith("policy_rejected"):
            arrays[key] = right
        elif key.startswith("ref"):
            arrays[key] = zeros
    if ROWS[name].family in ("orpo", "simper", "arpo", "cpo", "tpo", "slic"):
        for key in ("policy_chosen_logps", "policy_rejected_logps"):
            arrays[key] = -np.abs(arrays[key])  # log-probabilities: no reference makes them ratios
    calls = [("extreme", arrays)]
    lengths = {key: np.where(np.arange(size) % 7 == 0, 0, 3) for key in arrays if "lengths" in key}
    if lengths:
        calls.append(("empty answers", {**arrays, **lengths}))
    if "desirable" in arrays:
        calls += [
            (str(flag), {**arrays, "desirable": np.full(size, flag)}) for flag in (True, False)
        ]
    for parameter in ROWS[name].parameters:
        for word in parameter.choices[1:]:
            calls.append((f"extreme {word}", {**arrays, "f_divergence_type": word}))
    return calls


__all__ = ["PROCEDURES", "convention_calls", "extreme_calls", "needed", "ordinary_calls"]
