"""What is compared with the projects: one line a loss and set of parameters.

Inputs are drawn with a fixed seed for each line; `sets` names which of the input sets below it takes.
Sums of log-probs are negative, because a model's output cannot give others.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

ALL = ("trl-1.16", "trl-1.13", "liger-0.8.5")
TRL = ("trl-1.16", "trl-1.13")
LIGER = ("liger-0.8.5",)
B, T = 6, 5


@dataclasses.dataclass(frozen=True)
class Case:
    loss: str
    conventions: tuple[str, ...]
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    sets: tuple[str, ...] = ("ordinary", "extreme", "equal")
    inputs: tuple[str, ...] = ()  # optional inputs beside the needed ones
    ours: dict[str, Any] = dataclasses.field(default_factory=dict)  # parameters only prefopt has
    dtype: str = "float64"
    rtol: float = 1e-12  # of the narrowest dtype on the project's path
    note: str = ""

    def __str__(self) -> str:
        return f"{self.loss}-{'-'.join(f'{k}={v}' for k, v in self.params.items()) or 'defaults'}"


LENGTHS = ("chosen_lengths", "rejected_lengths")
NLL = ("chosen_nll", "chosen_lengths")
NO_NLL = {"nll_weight": 0.0, "nll_tokens": 1.0, "chosen_nll": np.zeros(B)}
FLOAT32 = {"dtype": "float32", "rtol": 2e-5}
# torch.tensor(label_smoothing) is float32 in TRL and Liger, and its logarithm with it
LOG_E = {"rtol": 2e-6, "note": "log e in float32"}
DIVERGENCES = ("forward_kl", "js_divergence")
F_LOSSES = ("sigmoid", "hinge", "robust", "discopop", "ipo", "sigmoid_norm")
NORMED = ("ipo", "sigmoid_norm")


def dpo() -> list[Case]:
    cases = []
    plain = (
        "sigmoid",
        "hinge",
        "nca_pair",
        "sppo_hard",
        "bco_pair",
        "apo_zero",
        "apo_down",
        "discopop",
    )
    for variant in plain:
        cases += [Case(f"dpo.{variant}", ALL), Case(f"dpo.{variant}", ALL, {"beta": 0.7})]
    cases += [Case("dpo.discopop", ALL, {"beta": 0.3, "discopop_tau": 0.4})]
    cases += [Case("dpo.robust", ALL, {"label_smoothing": e}) for e in (0.0, 0.1, 0.45)]
    cases += [
        Case("dpo.exo_pair", ALL, {"label_smoothing": 1e-3}, **LOG_E),
        Case("dpo.exo_pair", ALL, {"label_smoothing": 0.2, "beta": 0.5}, **LOG_E),
    ]
    for variant in ("aot", "aot_unpaired"):
        cases += [
            Case(f"dpo.{variant}", TRL),
            Case(f"dpo.{variant}", TRL, {"label_smoothing": 0.2, "beta": 0.5}),
        ]
    for variant in NORMED:
        cases += [
            Case(f"dpo.{variant}", TRL, {"beta": beta}, inputs=LENGTHS) for beta in (0.1, 2.0)
        ]
    for divergence in DIVERGENCES:
        for variant in F_LOSSES:
            # forward KL makes margins of exp(50), where discopop's exp(-x) m is inf * 0 in TRL
            small = variant == "discopop" and divergence == "forward_kl"
            cases.append(
                Case(
                    f"dpo.{variant}",
                    TRL,
                    {"beta": 0.5, "f_divergence_type": divergence},
                    inputs=LENGTHS if variant in NORMED else (),
                    sets=("close", "equal") if small else ("ordinary", "close", "equal"),
                )
            )
    for coefficient in (0.5, 0.0, 1.0, 2.5):
        cases += [
            Case(
                f"dpo.{variant}",
                TRL,
                {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": coefficient},
                sets=("ordinary", "equal"),
                note="KeyError in float64",
                **FLOAT32,
            )
            for variant in ("sigmoid", "hinge")
        ]
    cases += [Case("dpo.sft", TRL, inputs=("chosen_lengths",), sets=("ordinary",))]
    # WPO: the stub of 1.13, which is logits, cannot be given a weight
    weights = ("chosen_weights", "rejected_weights")
    for variant in ("sigmoid", "nca_pair", "apo_down", "robust"):
        cases.append(Case(f"dpo.{variant}", ("trl-1.16",), inputs=weights))
    return cases


def unpaired() -> list[Case]:
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.7}
    labels = ("ordinary", "extreme", "desirable", "undesirable")
    cases = [
        Case("kto.kto", ALL, sets=labels),
        Case("kto.kto", TRL, {"beta": 0.3, **weights}, sets=labels),
        Case("kto.kto", LIGER, {"beta": 0.3}, sets=labels),
        Case("kto.apo_zero_unpaired", ALL, sets=labels),
        Case("kto.apo_zero_unpaired", TRL, {"beta": 0.3, **weights}, sets=labels),
    ]
    shifted = (("delta",), ("delta", "udm_weights"))
    cases += [Case("bco.bco", ("trl-1.13",), {"beta": 0.3}, inputs=x, sets=labels) for x in shifted]
    return cases


def reference_free() -> list[Case]:
    off = {"cpo_alpha": 0.0}
    cases = []
    for variant, lengths in (("sigmoid", ()), ("hinge", ()), ("ipo", LENGTHS), ("simpo", LENGTHS)):
        extra = tuple(dict.fromkeys((*NLL, *lengths)))
        cases += [
            Case(f"cpo.{variant}", TRL, inputs=extra),
            Case(f"cpo.{variant}", TRL, {"beta": 0.5, "cpo_alpha": 0.3}, inputs=extra),
            Case(f"cpo.{variant}", TRL, off, inputs=lengths),
            Case(
                f"cpo.{variant}",
                TRL,
                {**off, "alpha": 0.1},
                inputs=lengths,
                sets=("ordinary",),
                rtol=1e-11,
                note="p = exp(x), p^-alpha: a rounding of x in the exponent",
            ),
            Case(
                f"cpo.{variant}",
                TRL,
                {**off, "alpha": -0.2},
                inputs=lengths,
                sets=("ordinary",),
                rtol=1e-11,
            ),
        ]
    for variant, lengths in (("sigmoid", ()), ("simpo", LENGTHS)):
        cases += [
            Case(f"cpo.{variant}", LIGER, off, inputs=lengths),
            Case(
                f"cpo.{variant}", ALL, {**off, "beta": 0.7, "label_smoothing": 0.2}, inputs=lengths
            ),
        ]
    cases += [
        Case("cpo.simpo", ALL, {**off, "beta": 2.0, "simpo_gamma": 1.2}, inputs=LENGTHS),
        Case(
            "orpo.orpo",
            TRL,
            inputs=("chosen_nll", *LENGTHS),
            sets=("ordinary",),
            rtol=3e-6,
            note="the averages become float32",
        ),
        Case(
            "orpo.orpo",
            TRL,
            {"beta": 0.6},
            inputs=("chosen_nll", *LENGTHS),
            sets=("ordinary",),
            rtol=3e-6,
        ),
        Case(
            "orpo.orpo",
            LIGER,
            {"beta": 0.6},
            inputs=LENGTHS,
            ours=NO_NLL,
            sets=("ordinary",),
            rtol=1e-11,
        ),
        Case(
            "orpo.orpo",
            LIGER,
            inputs=LENGTHS,
            ours=NO_NLL,
            sets=("ordinary",),
            rtol=1e-11,
        ),
    ]
    gold = ("gold_nll", "gold_lengths")
    for variant, lengths in (("sigmoid", ()), ("hinge", ()), ("ipo", LENGTHS), ("tpo_l", LENGTHS)):
        cases += [
            Case(f"tpo.{variant}", TRL, inputs=(*gold, *lengths)),
            Case(f"tpo.{variant}", TRL, {"beta": 0.5, "tpo_alpha": 0.4}, inputs=(*gold, *lengths)),
            Case(f"tpo.{variant}", TRL, {"tpo_alpha": 0.0}, inputs=lengths),
        ]
    smooth = {"beta": 0.3, "label_smoothing": 0.2}
    cases += [
        Case("tpo.sigmoid", TRL, smooth, inputs=gold),
        Case("tpo.tpo_l", TRL, {**smooth, "tpo_l_gamma": 1.1}, inputs=(*gold, *LENGTHS)),
    ]
    return cases


def scores() -> list[Case]:
    return [
        Case("reward_model.bradley_terry", TRL),
        Case("reward_model.bradley_terry", TRL, inputs=("margins",)),
        Case("reward_model.bradley_terry", TRL, {"center_coefficient": 0.01}, inputs=("margins",)),
    ]


def groups() -> list[Case]:
    cases = []
    given = ("old_logps", "ref_token_logps", "mask")
    for variant in ("grpo", "bnpo", "dapo", "dr_grpo", "gspo"):
        size: dict[str, Any] = {"max_completion_length": 7} if variant == "dr_grpo" else {}
        size |= {"num_tokens": 11.0} if variant == "dapo" else {}
        sets = ("tokens", "on_policy")
        cases += [
            Case(
                f"grpo.{variant}",
                ALL,
                {"kl_beta": 0.0, **size},
                inputs=("old_logps", "mask"),
                sets=sets,
            ),
            Case(
                f"grpo.{variant}",
                ALL,
                {"epsilon": 0.1, "kl_beta": 0.0, **size},
                inputs=("old_logps", "mask"),
                sets=sets,
            ),
            Case(f"grpo.{variant}", TRL, {**size}, inputs=("old_logps", "mask"), sets=sets),
            Case(f"grpo.{variant}", LIGER, {**size}, inputs=given, sets=sets),
            Case(
                f"grpo.{variant}",
                ALL,
                {"epsilon": 0.1, "epsilon_high": 0.28, "kl_beta": 0.04, **size},
                inputs=given,
                sets=sets,
            ),
            Case(
                f"grpo.{variant}",
                ALL,
                {"delta": 1.5, "kl_beta": 0.0, **size},
                inputs=("old_logps", "mask"),
                sets=sets,
            ),
        ]
    cases += [
        Case(
            "grpo.cispo",
            ALL,
            {"epsilon_high": 5.0, "kl_beta": 0.04, "num_tokens": 13.0},
            inputs=given,
            sets=("tokens",),
        ),
        Case(
            "grpo.cispo",
            ALL,
            {"kl_beta": 0.0, "num_tokens": 13.0},
            inputs=("old_logps", "mask"),
            sets=("tokens",),
        ),
        Case(
            "grpo.sapo",
            TRL,
            {"kl_beta": 0.04},
            inputs=given,
            sets=("tokens",),
            rtol=1e-6,
            note="torch.where of two Python numbers: the temperatures are float32",
        ),
        Case("grpo.sapo", LIGER, {"kl_beta": 0.04}, inputs=given, sets=("tokens",)),
        Case(
            "grpo.sapo",
            LIGER,
            {"sapo_temperature_pos": 0.7, "sapo_temperature_neg": 1.5, "kl_beta": 0.0},
            inputs=("old_logps", "mask"),
            sets=("tokens",),
        ),
    ]
    return cases


CASES = [*dpo(), *unpaired(), *reference_free(), *scores(), *groups()]

# A parameter that the project takes without effect: prefopt refuses it under that convention.
SMOOTHLESS = ("sigmoid", "hinge", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down")
SMOOTHLESS += ("discopop",)
SMOOTHING = {"label_smoothing": 0.2}
IGNORED = [
    *((f"dpo.{v}", ALL, SMOOTHING) for v in SMOOTHLESS),
    *((f"dpo.{v}", TRL, SMOOTHING) for v in NORMED),
    *((f"{family}.{v}", TRL, SMOOTHING) for family in ("cpo", "tpo") for v in ("hinge", "ipo")),
    *((f"cpo.{v}", TRL, {"simpo_gamma": 3.0}) for v in ("sigmoid", "hinge", "ipo")),
]


def draw(case: Case, kind: str) -> dict[str, Any]:
    """Inputs of a row under prefopt's names, float64 arrays that float32 holds exactly where asked."""
    rng = np.random.default_rng(sum(map(ord, case.loss)) + len(kind))
    family = case.loss.split(".")[0]
    if family == "grpo":
        return tokens(case, kind, rng)
    if family == "reward_model":
        values = {name: rng.normal(0, 3, B) for name in ("chosen_scores", "rejected_scores")}
        values["margins"] = rng.uniform(0, 2, B)
    elif family in ("kto", "bco"):
        values = {"policy_logps": -rng.uniform(5, 60, B)}
        scale = 1000.0 if kind == "extreme" else 8.0
        values["ref_logps"] = values["policy_logps"] + scale * rng.uniform(-1, 1, B)
        flags = {"desirable": [1] * B, "undesirable": [0] * B}.get(kind, [1, 0, 0, 1, 1, 0])
        values |= {"desirable": np.array(flags, bool), "kl": 0.75, "delta": 0.3125}
        values["udm_weights"] = rng.uniform(0.5, 10, B)
    else:
        values = pairs(kind, rng)
    if case.dtype == "float32":
        values = {
            k: v.astype(np.float32).astype(np.float64) if v.dtype == float else v
            for k, v in values.items()
        }
    needed = {
        "dpo": PAIR,
        "kto": ("policy_logps", "ref_logps", "desirable"),
        "bco": ("policy_logps", "ref_logps", "desirable"),
        "reward_model": ("chosen_scores", "rejected_scores"),
    }.get(family, PAIR[:2])
    if case.loss == "kto.kto":
        needed = (*needed, "kl")
    return {name: values[name] for name in (*needed, *case.inputs)}


PAIR = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps")


def pairs(kind: str, rng: np.random.Generator) -> dict[str, Any]:
    values: dict[str, Any] = {name: -rng.uniform(5, 60, B) for name in PAIR}
    if kind == "extreme":  # margins of both signs up to thousands
        values |= {name: -(10.0 ** rng.uniform(-1, 3.7, B)) for name in PAIR}
    if kind == "close":
        values |= {PAIR[k + 2]: values[PAIR[k]] + rng.uniform(-2, 2, B) for k in (0, 1)}
    if kind == "equal":
        values |= {PAIR[2]: values[PAIR[0]], PAIR[3]: values[PAIR[1]]}
    values |= {name: rng.integers(1, T + 1, B) for name in LENGTHS}
    values["chosen_nll"] = -values[PAIR[0]]
    values |= {name: rng.uniform(0.1, 2, B) for name in ("chosen_weights", "rejected_weights")}
    values["gold_nll"] = rng.uniform(1, 30, B)
    values["gold_lengths"] = rng.integers(1, T + 1, B)
    return values


def tokens(case: Case, kind: str, rng: np.random.Generator) -> dict[str, Any]:
    logps = -rng.uniform(0.01, 4, (B, T))
    values: dict[str, Any] = {
        "logps": logps,
        "advantages": rng.normal(0, 1, B),
        "mask": rng.random((B, T)) < 0.7,
        "ref_token_logps": logps + rng.normal(0, 0.5, (B, T)),
        "old_logps": logps + rng.normal(0, 0.3, (B, T)),
    }
    values["mask"][:, 0] = True
    values["mask"][B - 1] = False  # an empty completion
    if kind == "on_policy":
        values["old_logps"] = logps.copy()
    return {name: values[name] for name in ("logps", "advantages", *case.inputs)}
