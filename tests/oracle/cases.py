"""The inputs that golden values are given for, by loss and convention.

Four sets: ordinary numbers of a trainer; extreme log-ratios and long sums; edges (policy equal to
reference, a batch of one, one class, empty answers); kinks, hit exactly. Real inputs are multiples
of 1/1024 with at most 24 significant bits, so that float32 holds them too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from oracle.conventions import PROJECTS, Project
from oracle.kinks import kinks
from oracle.losses import ORACLES
from oracle.special import edges, extremes

Values = dict[str, Any]
Case = tuple[str, Values, Values]  # set, inputs, parameters

SIZE, WIDTH = 3, 4
PROJECT_SIZE, PROJECT_EXTREMES = 2, 4  # of the projects, whose formulas are the paper's over again
SETS = ("ordinary", "extreme", "edge", "kink")

# Parameters off their defaults, together: some are exact in binary, some are not.
OFF_DEFAULT: Values = {
    "beta": 0.3,
    "label_smoothing": 0.1,
    "discopop_tau": 0.4,
    "rdpo_alpha": 0.05,
    "dpop_lambda": 2.5,
    "odpo_alpha": 0.7,
    "cal_weight": 0.3,
    "beta_dpo_alpha": 0.4,
    "min_beta": 0.05,
    "tdpo_alpha": 0.3,
    "perturbation": 0.1,
    "desirable_weight": 1.5,
    "undesirable_weight": 0.7,
    "alpha": 0.2,
    "cpo_alpha": 0.4,
    "nll_weight": 0.6,
    "tpo_alpha": 0.4,
    "nll_tokens": 37.0,
    "simpo_gamma": 1.2,
    "tpo_l_gamma": 1.1,
    "slic_delta": 2.5,
    "slic_lambda": 0.3,
    "relax_coefficient_1": 0.8,
    "relax_coefficient_2": 0.3,
    "center_coefficient": 0.01,
    "epsilon": 0.1,
    "epsilon_high": 0.3,
    "epsilon_low": 0.9,
    "delta": 1.25,
    "kl_beta": 0.04,
    "dual_clip": 1.2,
    "log_ratio_limit": 0.3,
    "value_clip": 0.4,
    "num_tokens": 11.0,
    "max_completion_length": 7.0,
    "sapo_temperature_pos": 0.7,
    "sapo_temperature_neg": 1.5,
    "min_density_ratio": 0.25,
    "max_density_ratio": 3.0,
    "momentum": 0.7,
    "keep_ratio": 0.5,
    "rso_beta": 0.7,
    "num_samples": 2.0,
    "gamma": 0.9,
    "gae_lambda": 0.7,
    "mix_alpha": 0.3,
}
DIVERGENCES: tuple[Values, ...] = (
    {"f_divergence_type": "forward_kl"},
    {"f_divergence_type": "js_divergence"},
    {"f_divergence_type": "alpha_divergence"},
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 2.5, "beta": 0.3},
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0},
)


# The projects have 0 / 0 at ORPO's limits, and half of the slope at a tie of two errors.
OWN_KINKS = ("orpo.orpo", "ppo.value_clip")


class Draw:
    """Numbers from a name, the same everywhere and for ever."""

    def __init__(self, key: str) -> None:
        self.key, self.count = key, 0

    def whole(self, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        self.count += 1
        digest = hashlib.sha256(f"{self.key} {self.count}".encode()).digest()
        return low + int.from_bytes(digest[:6], "big") % (high - low + 1)

    def real(self, low: float, high: float, step: float = 1 / 16) -> float:
        """A multiple of step in [low, high]."""
        return self.whole(round(low / step), round(high / step)) * step


# ---- ordinary inputs -----------------------------------------------------------------------------

SCALARS = {
    "kl": 0.75,
    "delta": 0.3125,
    "gap_mean": 0.125,
    "chosen_kl_mean": 0.5,
    "rejected_kl_mean": 0.25,
    "state_mean": 0.75,
    "state_count": 3.0,
    "state_std": 1.5,
}
RANGES: dict[str, tuple[float, float]] = {  # by what a name ends in, the first that fits
    "token_logps": (-3, -1 / 16),
    "old_logps": (-3, -1 / 16),
    "logps": (-40, -10),
    "win_rates": (1 / 16, 15 / 16),
    "weights": (1 / 4, 15 / 16),
    "kl": (0, 6),
    "nll": (5, 30),
    "margins": (0, 2),
    "probabilities": (1 / 16, 15 / 16),
    "uniforms": (1 / 16, 15 / 16),
}
TOKENWISE = ("token_logps", "token_advantages", "token_rewards", "returns", "mask", "_uniforms")
TOKENS = ("logps", "old_logps", "values", "old_values")


def ordinary(loss: str, names: list[str], size: int, seed: str) -> Values:
    """Inputs like a trainer's, for the names of the row, in their order."""
    draw = Draw(f"{loss} {size} {seed}")
    made: Values = {}
    for name in names:
        if name in SCALARS:
            made[name] = SCALARS[name]
        elif name.endswith("lengths"):
            made[name] = [draw.whole(1, 9) for _ in range(size)]
        elif name in ("desirable", "keep"):
            made[name] = [i % 3 != 1 for i in range(size)]
        elif name.endswith("indices"):
            made[name] = [[0, 2, -1] if i % 2 else [1, 3, -1] for i in range(size)]
        elif name == "uniforms":
            made[name] = [draw.real(1 / 64, 63 / 64, 1 / 64) for _ in range(8 * size)]
        elif name in TOKENS or name.endswith(TOKENWISE):
            made[name] = [[_number(name, draw) for _ in range(WIDTH)] for _ in range(size)]
        elif not name.startswith("gathered"):
            made[name] = [_number(name, draw) for _ in range(size)]
    _bring_together(made, draw)
    _gather(made, names, draw)
    return {name: made[name] for name in names}


def _number(name: str, draw: Draw) -> Any:
    if name.endswith("mask"):
        return draw.whole(0, 3) > 0
    if name == "logps":
        return draw.real(-3, -1 / 16)
    low, high = next((v for end, v in RANGES.items() if name.endswith(end)), (-2, 2))
    return draw.real(low, high)


def _bring_together(made: Values, draw: Draw) -> None:
    """References, old policies and perturbed policies are near the policy."""
    for name in made:
        anchor = name.replace("ref_token_logps", "logps") if name == "ref_token_logps" else ""
        anchor = "logps" if name == "old_logps" else anchor
        spread = 0.5
        if not anchor and name.startswith("ref_") and name.endswith("logps"):
            anchor, spread = f"policy_{name.removeprefix('ref_')}", 8.0
            spread = 0.5 if "token" in name else spread
        if name.endswith(("plus_logps", "minus_logps")):
            anchor, spread = f"policy_{name.split('_')[0]}_logps", 1.0
        if name in ("old_values", "returns"):
            anchor = "values"
        if anchor in made:
            made[name] = _near(made[anchor], spread, draw)


def _near(values: Any, spread: float, draw: Draw) -> Any:
    if isinstance(values, list):
        return [_near(value, spread, draw) for value in values]
    step = 1 / 64 if spread < 1 else 1 / 16
    return values + draw.real(-spread, spread - step, step) + step / 2  # never the same number


GATHER_OFFSET = 2


def _gather(made: Values, names: list[str], draw: Draw) -> None:
    """Log-ratios of all ranks: two others' pairs before this batch's, one after."""
    pairs = {
        "gathered_policy_logratios": ("policy_chosen_logps", "policy_rejected_logps"),
        "gathered_ref_logratios": ("ref_chosen_logps", "ref_rejected_logps"),
        "gathered_chosen_logratios": ("policy_chosen_logps", "ref_chosen_logps"),
        "gathered_rejected_logratios": ("policy_rejected_logps", "ref_rejected_logps"),
    }
    for name in names:
        if name in pairs:
            first, second = (made[key] for key in pairs[name])
            own = [a - b for a, b in zip(first, second, strict=True)]
            others = [draw.real(-20, 20) for _ in range(GATHER_OFFSET + 1)]
            made[name] = [*others[:GATHER_OFFSET], *own, *others[GATHER_OFFSET:]]


# ---- the cases of a convention -------------------------------------------------------------------


def conventions(loss: str) -> list[str]:
    """Those that have golden values: every project's, and prefopt's own where it differs."""
    named = [convention for name, convention in PROJECTS if name == loss]
    paper = PROJECTS.get((loss, "paper"))
    plain = paper is not None and not (paper.defaults or paper.without or paper.needs)
    return named if plain else [*named, "default"]


def cases(loss: str, convention: str) -> Iterator[Case]:
    """Every case of the loss that the convention takes, none twice."""
    project = PROJECTS.get((loss, convention), Project(takes_empty=True))
    is_own = convention in ("paper", "default")
    seen = []
    for name, inputs, params in _all(loss, project, SIZE if is_own else PROJECT_SIZE):
        legal = _legal(loss, project, inputs, params)
        if legal is None or not (is_own or _counts(project, legal[0])):
            continue
        if name == "kink" and not is_own and loss in OWN_KINKS:
            continue
        if name == "extreme" and not is_own:
            legal = _first(legal[0], PROJECT_EXTREMES), legal[1]
        if legal not in seen:
            seen.append(legal)
            yield name, *legal


def _first(inputs: Values, size: int) -> Values:
    return {k: v[:size] if isinstance(v, list) else v for k, v in inputs.items()}


def _all(loss: str, project: Project, size: int) -> Iterator[Case]:
    """For a project that takes everything."""
    oracle = ORACLES[loss]
    names = [*oracle.inputs, *oracle.constants]
    plain = [n for n in names if n not in oracle.optional or n in project.needs]
    plain = [n for n in names if n in plain or n in _needed_lengths(loss, plain)]
    everything = [n for n in names if n not in project.without]
    ungathered = [n for n in everything if not n.startswith("gathered")]
    params = {k: v for k, v in OFF_DEFAULT.items() if k in oracle.parameters}
    gathered = {"gather_offset": float(GATHER_OFFSET)} if ungathered != everything else {}
    yield "ordinary", ordinary(loss, plain, size, "plain"), {}
    yield "ordinary", ordinary(loss, ungathered, size, "whole"), {}
    yield "ordinary", ordinary(loss, everything, size, "moved"), {**params, **gathered}
    if "f_divergence_type" in oracle.parameters:
        for divergence in DIVERGENCES:
            yield "ordinary", ordinary(loss, plain, 2, "divergence"), divergence
    if "alpha" in oracle.parameters:
        yield "ordinary", ordinary(loss, plain, 2, "alpha"), {"alpha": -0.3, "beta": 0.5}
    yield "edge", ordinary(loss, plain, 1, "one"), {}
    for name, function in (("extreme", extremes), ("edge", edges), ("kink", kinks)):
        for inputs, given in function(loss, plain, ordinary):
            if given.keys() <= oracle.parameters.keys():
                yield name, inputs, given


def _needed_lengths(loss: str, plain: list[str]) -> tuple[str, ...]:
    """A token mean needs lengths, though nll_tokens may stand for them."""
    if "chosen_nll" in plain:
        return "chosen_lengths", "rejected_lengths"
    return {"sft.nll": ("lengths",), "dpo.sft": ("chosen_lengths",)}.get(loss, ())


def _legal(
    loss: str, project: Project, inputs: Values, params: Values
) -> tuple[Values, Values] | None:
    """The case without what the project does not take and with what it needs, None if none is left."""
    if params.get("f_divergence_type", "reverse_kl") not in project.divergences:
        return None
    absent = project.without | project.beyond
    taken = {k: v for k, v in params.items() if k not in absent}
    if params and (not taken or "f_divergence_type" in params.keys() & absent):
        return None
    arrays = {k: v for k, v in inputs.items() if k not in project.without}
    sums = [n for n in ORACLES[loss].inputs if n.endswith("_nll")]
    if sums and not arrays.keys() & set(sums):
        taken.pop("nll_tokens", None)
    for key in project.needs:
        if key not in arrays and key not in taken:
            taken[key] = OFF_DEFAULT[key]
    return arrays, taken


def _counts(project: Project, arrays: Values) -> bool:
    """Whether the project gives a number where nothing is counted."""
    lengths = [v for k, v in arrays.items() if k.endswith("lengths")]
    empty = any(0 in each for each in lengths)
    if empty and not (project.takes_empty and all(any(each) for each in lengths)):
        return False
    return "mask" not in arrays or any(map(any, arrays["mask"]))
