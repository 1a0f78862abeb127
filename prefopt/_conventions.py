"""Named conventions: the choices in which implementations of one loss differ.

A convention carries the version or commit of the project whose choices it is. It sets defaults, and
refuses what that project ignores or refuses, so that a number computed under it is the project's.
`convention=None` is prefopt's own default: the paper's formula in a form that is stable everywhere,
with the field's usual defaults (beta 0.1), every input and parameter of the row allowed.

What each project does was read from its code at the version named; `conventions.json` holds it with
file and line. Here is what takes more than defaults: `_ADAPT`.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, Any]
Values = dict[str, float]

DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


class Convention(NamedTuple):
    """One project's form of one loss.

    `defaults` are its parameters' values where they differ from prefopt's, `refused` the inputs and
    parameters that it ignores or refuses, `required` those that it cannot do without. `rewards`
    says how its logged rewards differ from prefopt's: "" not, "unscaled" without beta, "average"
    per token. Losses stop at +-`loss_limit`, with gradient 0 beyond. `differs` says in words what
    differs, `source` where that was read.
    """

    loss: str
    name: str
    source: str
    differs: str
    defaults: Mapping[str, float | str]
    refused: tuple[str, ...]
    required: tuple[str, ...]
    rewards: str = ""
    loss_limit: float = math.inf

    def apply(self, arrays: Arrays, values: Values) -> tuple[Arrays, Values]:
        """Inputs and parameters as prefopt's own row takes them."""
        for key in (*arrays, *values):
            if key in self.refused:
                raise ValueError(f"{key}: {self.name} does not use it in {self.loss}")
        for key in self.required:
            if key not in arrays and key not in values:
                raise ValueError(f"{key}: {self.name} needs it in {self.loss}")
        defaults = {key: _number(value) for key, value in self.defaults.items()}
        arrays, merged = dict(arrays), {**defaults, **values}
        if adapt := _ADAPT.get((self.loss.split(".")[0], self.name)):
            adapt(self.loss, arrays, merged, values)
        return arrays, merged

    def reward_divisor(self, beta: float) -> tuple[float, bool] | None:
        """What prefopt's rewards are divided by to be the project's: a number, and whether by each
        answer's length (at least 1) too. None: they are alike.
        """
        if not self.rewards:
            return None
        return beta if "unscaled" in self.rewards else 1.0, "average" in self.rewards

    def reward_divisors(self, arrays: Arrays, beta: float) -> tuple[Any, Any] | None:
        """The same as float64 (chosen, rejected), to divide by."""
        divisor = self.reward_divisor(beta)
        if divisor is None:
            return None
        scale, averages = divisor
        if not averages:
            return np.float64(scale), np.float64(scale)
        lengths = (arrays[f"{side}_lengths"] for side in ("chosen", "rejected"))
        chosen, rejected = (scale * np.maximum(np.asarray(n, np.float64), 1) for n in lengths)
        return chosen, rejected


def _number(value: float | str) -> float:
    return float(DIVERGENCES.index(value)) if isinstance(value, str) else float(value)


# ---- what takes more than defaults ---------------------------------------------------------------


# Each takes inputs and parameters, defaults among them, changes them in place, and is told which
# parameters the caller gave.


def _alpha_exponents_stop(loss: str, arrays: Arrays, values: Values, given: Values) -> None:
    """TRL 1.x clamps the exponent of alpha divergences, but not that of forward KL."""
    divergence = DIVERGENCES[int(values.get("f_divergence_type", 0))]
    if divergence == "forward_kl" and "f_exponent_cap" not in given:
        values["f_exponent_cap"] = math.inf


def _f_dpo(loss: str, arrays: Arrays, values: Values, given: Values) -> None:
    """TRL 0.24 and the f-DPO authors count alpha from the other end: a of 1 is forward KL."""
    divergence = DIVERGENCES[int(values.get("f_divergence_type", 0))]
    if divergence != "reverse_kl" and loss == "dpo.ipo":
        raise ValueError(
            "f_divergence_type: trl-0.24 applies it to averages, which prefopt does not"
        )
    if divergence == "forward_kl":
        raise ValueError(f"f_divergence_type: trl-0.24 has no forward_kl in {loss}")
    if divergence == "alpha_divergence":
        values["f_alpha_divergence_coef"] = 1.0 - values.get("f_alpha_divergence_coef", 1.0)


def _simpo_ratio(ratio: float) -> Callable[[str, Arrays, Values, Values], None]:
    """The project's default is the ratio gamma / beta."""

    def adapt(loss: str, arrays: Arrays, values: Values, given: Values) -> None:
        if loss.startswith("cpo.simpo") and "simpo_gamma" not in given:
            values["simpo_gamma"] = ratio * values["beta"]

    return adapt


def _no_reference_no_kl(loss: str, arrays: Arrays, values: Values, given: Values) -> None:
    """Liger without reference log-probabilities: its KL term is 0."""
    if "ref_token_logps" not in arrays:
        values["kl_beta"] = 0.0


def _reference_is_old_policy(loss: str, arrays: Arrays, values: Values, given: Values) -> None:
    """HALOs' GRPO takes the ratio against the reference."""
    arrays["old_logps"] = arrays["ref_token_logps"]


def _policy_term_only(loss: str, arrays: Arrays, values: Values, given: Values) -> None:
    """NeMo-RL's KL term has a gradient of its own, that of k3 exp(logp - sg(logp))."""
    if values.get("kl_beta", 0.0) != 0.0:
        raise ValueError(f"kl_beta: prefopt does not have nemo-rl-7ea279a's KL term in {loss}")


def _mean_over_sequences(loss: str, arrays: Arrays, values: Values, given: Values) -> None:
    """LLaMA-Factory averages the NLL per sequence first: chosen_nll are averages, one an answer."""
    if "chosen_nll" in arrays and "nll_tokens" not in values:
        values["nll_tokens"] = float(max(len(arrays["chosen_nll"]), 1))


_ADAPT: dict[tuple[str, str], Callable[[str, Arrays, Values, Values], None]] = {
    ("dpo", "trl-1.16"): _alpha_exponents_stop,
    ("dpo", "trl-1.13"): _alpha_exponents_stop,
    ("dpo", "trl-0.24"): _f_dpo,
    ("cpo", "paper"): _simpo_ratio(0.25),
    ("cpo", "halos-4831988"): _simpo_ratio(0.3),
    ("grpo", "liger-0.8.5"): _no_reference_no_kl,
    ("grpo", "halos-4831988"): _reference_is_old_policy,
    ("grpo", "nemo-rl-7ea279a"): _policy_term_only,
    ("orpo", "llamafactory-ff6d4d1"): _mean_over_sequences,
    ("cpo", "llamafactory-ff6d4d1"): _mean_over_sequences,
}


# ---- the table -----------------------------------------------------------------------------------


@functools.lru_cache(None)
def _table() -> tuple[dict[str, dict[str, Convention]], dict[str, dict[str, str]]]:
    """By loss and name: the conventions, and why a project has none."""
    known: dict[str, dict[str, Convention]] = {}
    missing: dict[str, dict[str, str]] = {}
    path = Path(__file__).with_name("conventions.json")
    for item in json.loads(path.read_text(encoding="utf-8")):
        loss, name = item["loss"], item["name"]
        if "missing" in item:
            missing.setdefault(loss, {})[name] = item["missing"]
            continue
        tuples = {"refused": tuple(item["refused"]), "required": tuple(item["required"])}
        known.setdefault(loss, {})[name] = Convention(**{**item, **tuples})
    return known, missing


def conventions(loss: str) -> tuple[Convention, ...]:
    """The named conventions of the loss called `loss` ("dpo.ipo"); () where there is none."""
    from prefopt._loss_call import find

    return tuple(_table()[0].get(find(loss).name, {}).values())


def find_convention(loss: str, name: Any) -> Convention:
    """The convention `name` of `loss`."""
    if not isinstance(name, str):
        raise TypeError(f"convention: expected a string or None, got {type(name).__name__}")
    known, missing = _table()[0].get(loss, {}), _table()[1].get(loss, {})
    if name in known:
        return known[name]
    if name in missing:
        raise ValueError(f"convention: {name} has no {loss}: {missing[name]}")
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    else:
        hint = f"available: {', '.join(known)}" if known else "only None is available"
    raise ValueError(f"convention: {loss} has no convention {name!r}; {hint}")
