"""What other projects compute under a loss's name, typed from their own code.

`PROJECTS[loss, convention]` says how a project differs from the formula of `oracle.losses`: its
defaults, what it does not take or cannot do without, and functions that turn its inputs and
parameters into those of the formula and the formula's results into its own. The commit or version
is in the convention's name; "paper" is the paper, and its authors' code where that is more definite.

Where a project averages over a batch, the mean of these losses is its number; constants of 1e-8 that
guard its denominators are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import mpmath as mp

from oracle.core import DIGITS
from oracle.dual import to_mpf
from oracle.losses import ORACLES, Truth, evaluate

Values = dict[str, Any]
Adapt = Callable[[Values, Values, Values], tuple[Values, Values]]
Logged = Callable[[Truth, Values, Values], Truth]

DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


@dataclass(frozen=True)
class Project:
    """One project's form of one loss."""

    defaults: dict[str, float] = field(default_factory=dict)
    without: frozenset[str] = frozenset()  # inputs and parameters that it ignores or refuses
    needs: frozenset[str] = frozenset()
    adapt: Adapt | None = None
    logged: Logged | None = None
    divergences: tuple[str, ...] = DIVERGENCES
    takes_empty: bool = False  # an empty answer has average 0, as here; else 0 / 0 or a guess
    beyond: frozenset[str] = frozenset()  # what it has in a form of its own, left out here


PROJECTS: dict[tuple[str, str], Project] = {}


def evaluate_as(
    loss: str, convention: str, inputs: Values, params: Values, *, scales: bool = False
) -> Truth:
    """`evaluate` under a convention; "default" is the formula itself."""
    if convention == "default":
        return _evaluate(loss, inputs, {**ORACLES[loss].parameters, **params}, scales)
    project = PROJECTS[loss, convention]
    assert not project.without & {*inputs, *params}, project.without & {*inputs, *params}
    assert project.needs <= {*inputs, *params}, project.needs - {*inputs, *params}
    x, p = dict(inputs), dict(params)
    if project.adapt:
        x, p = project.adapt(x, p, project.defaults)
    p = {**ORACLES[loss].parameters, **project.defaults, **p}
    truth = _evaluate(loss, x, p, scales)
    with mp.workdps(2 * DIGITS):
        return project.logged(truth, x, p) if project.logged else truth


_known: dict[str, Truth] = {}  # most conventions of a loss ask for the same numbers


def _evaluate(loss: str, x: Values, p: Values, scales: bool) -> Truth:
    key = repr((loss, x, p, scales))
    if key not in _known:
        _known[key] = evaluate(loss, x, p, scales=scales)
    return _known[key]


def add(
    conventions: str,
    losses: str,
    without: str = "",
    needs: str = "",
    beyond: str = "",
    **options: Any,
) -> None:
    """The same entry for every loss of every convention named."""
    sets = {"without": without, "needs": needs, "beyond": beyond}
    named = {key: frozenset(text.split()) for key, text in sets.items()}
    for convention in conventions.split():
        options.setdefault("takes_empty", convention == "paper")
        for loss in losses.split():
            assert (loss, convention) not in PROJECTS, (loss, convention)
            PROJECTS[loss, convention] = Project(**options, **named)


# ---- how results are logged ----------------------------------------------------------------------


def _map_rewards(truth: Truth, divisor: Callable[[str, int], Any]) -> Truth:
    """Rewards, and their scales, over divisor(name, element)."""

    def over(values: dict[str, Any], key: str) -> list[Any]:
        return [to_mpf(value) / to_mpf(divisor(key, i)) for i, value in enumerate(values[key])]

    rewards = {key: over(truth.rewards, key) for key in truth.rewards}
    scales = truth.scales
    if scales is not None:
        scales = {**scales, **{key: over(scales, key) for key in rewards}}
    return replace(truth, rewards=rewards, scales=scales)


def without_beta(truth: Truth, x: Values, p: Values) -> Truth:
    """Rewards are logged without beta."""
    return _map_rewards(truth, lambda key, i: Fraction(p["beta"]))


def per_token(truth: Truth, x: Values, p: Values) -> Truth:
    """Rewards are averages."""
    return _map_rewards(truth, lambda key, i: Fraction(max(_lengths(x, key)[i], 1)))


def per_token_without_beta(truth: Truth, x: Values, p: Values) -> Truth:
    """Rewards are averages, and without beta."""
    return per_token(without_beta(truth, x, p), x, p)


def _lengths(x: Values, key: str) -> Any:
    return x[key.replace("rewards", "lengths")]


def stops_at_10(truth: Truth, x: Values, p: Values) -> Truth:
    """Estimates are clamped to +-10 after all else, with gradient 0 beyond."""

    def inside(value: Any) -> bool:
        return bool(abs(to_mpf(value)) <= 10)

    losses, grads = [], []
    for values, slopes in zip(truth.losses, truth.grads["logps"], strict=True):
        losses.append([v if inside(v) else Fraction(10 if v > 0 else -10) for v in values])
        grads.append([g if inside(v) else Fraction(0) for g, v in zip(slopes, values, strict=True)])
    return replace(truth, losses=losses, grads={"logps": grads})


# ---- how inputs and given parameters are read ----------------------------------------------------


def cap_of_alpha_only(x: Values, p: Values, defaults: Values) -> tuple[Values, Values]:
    """trl/trainer/dpo_trainer.py: alpha divergences clamp the exponent to 80; forward KL does not."""
    alpha = p.get("f_divergence_type") == "alpha_divergence"
    return x, p if alpha else {"f_exponent_cap": float("inf"), **p}


def alpha_from_the_other_end(x: Values, p: Values, defaults: Values) -> tuple[Values, Values]:
    """TRL 0.24 dpo_trainer.py:1083: (1 - u^-alpha) / alpha, the f-DPO authors' alpha, default 1."""
    alpha = p.get("f_alpha_divergence_coef", defaults["f_alpha_divergence_coef"])
    return x, {**p, "f_alpha_divergence_coef": 1 - Fraction(alpha)}


def gamma_by_ratio(ratio: float) -> Adapt:
    """gamma is a multiple of beta unless it is given."""

    def adapt(x: Values, p: Values, defaults: Values) -> tuple[Values, Values]:
        return x, {"simpo_gamma": Fraction(ratio) * Fraction(p.get("beta", defaults["beta"])), **p}

    return adapt


def old_policy_is_reference(x: Values, p: Values, defaults: Values) -> tuple[Values, Values]:
    """HALOs train/trainers.py:1023: the ratio is to the reference, as the KL term is."""
    return {**x, "old_logps": x["ref_token_logps"]}, p


def kl_only_with_reference(x: Values, p: Values, defaults: Values) -> tuple[Values, Values]:
    """Liger grpo_loss.py:122: without reference log-probs they are sg[logp], whose k3 is 0."""
    return x, p if "ref_token_logps" in x else {**p, "kl_beta": 0.0}


def nll_per_sequence(x: Values, p: Values, defaults: Values) -> tuple[Values, Values]:
    """LLaMA-Factory averages the NLL of each answer first, then over answers: chosen_nll are those."""
    return x, {"nll_tokens": float(len(x["chosen_nll"])), **p} if "chosen_nll" in x else p


# ---- the papers ----------------------------------------------------------------------------------

PAIRED = (
    "dpo.sigmoid dpo.robust dpo.hinge dpo.ipo dpo.exo_pair dpo.nca_pair dpo.bco_pair dpo.aot"
    " dpo.aot_unpaired dpo.apo_zero dpo.apo_down dpo.discopop"
)
LENGTHS = "chosen_lengths rejected_lengths"
WEIGHTS = "chosen_weights rejected_weights"
DIVERGENCE = "f_divergence_type f_alpha_divergence_coef f_exponent_cap"
SIMPO = {"defaults": {"beta": 2.0, "cpo_alpha": 0.0}, "adapt": gamma_by_ratio(0.25)}

add("paper", PAIRED)
add("paper", "dpo.sppo_hard dpo.sppo_soft cal_dpo.sigmoid", defaults={"beta": 0.001})
add("paper", "dpo.sigmoid_norm", "label_smoothing", LENGTHS)
add("paper", "dpo.sft", needs="chosen_lengths")
add("paper", "dpo.kto_pair rdpo.sigmoid dpop.sigmoid odpo.sigmoid spin.sigmoid beta_dpo.sigmoid")
add("paper", "tdpo.tdpo1 tdpo.tdpo2 sampo.sigmoid eps_dpo.sigmoid kto.kto kto.apo_zero_unpaired")
add("paper", "bco.bco", needs="delta")
add("paper", "cpo.sigmoid cpo.hinge cpo.ipo slic.hinge simper.simper arpo.sigmoid sft.nll")
add("paper", "cpo.simpo cpo.simpo_hinge", **SIMPO)
add("paper", "orpo.orpo", needs="chosen_nll")
add("paper", "tpo.sigmoid tpo.hinge tpo.ipo tpo.tpo_l", defaults={"beta": 0.01})
add("paper", "reward_model.bradley_terry ppo.clip ppo.dual_clip ppo.value_clip kl.k1 kl.k2 kl.k3")
add("paper", "grpo.grpo grpo.dr_grpo grpo.dapo grpo.bnpo grpo.gspo grpo.cispo grpo.sapo")

# ---- TRL -----------------------------------------------------------------------------------------

TRL = "trl-1.16 trl-1.13"
CAPPED = {"defaults": {"f_exponent_cap": 80.0}, "adapt": cap_of_alpha_only}
add(TRL, "dpo.sigmoid", "label_smoothing", **CAPPED)
add(TRL, "dpo.robust dpo.discopop", **CAPPED)
add(TRL, "dpo.hinge", WEIGHTS, **CAPPED)  # the in-place product breaks its backward
add(TRL, "dpo.ipo", needs=LENGTHS, takes_empty=True, **CAPPED)
add(TRL, "dpo.sigmoid_norm", "label_smoothing", LENGTHS, takes_empty=True, **CAPPED)
add(TRL, "dpo.exo_pair", needs="label_smoothing", **CAPPED)
add(TRL, "dpo.nca_pair dpo.sppo_hard dpo.aot dpo.aot_unpaired dpo.apo_zero dpo.apo_down")
add(TRL, "dpo.bco_pair", "delta")
add(TRL, "dpo.sft", WEIGHTS, "chosen_lengths")
add(TRL, "kto.kto kto.apo_zero_unpaired reward_model.bradley_terry")
add(TRL, "cpo.sigmoid cpo.hinge cpo.ipo cpo.simpo")
add(TRL, "orpo.orpo", needs="chosen_nll nll_tokens")
add(TRL, "tpo.sigmoid tpo.hinge", defaults={"beta": 0.01})
add(TRL, "tpo.ipo tpo.tpo_l", defaults={"beta": 0.01}, takes_empty=True)
add(TRL, "grpo.grpo grpo.gspo grpo.sapo")
add(TRL, "grpo.bnpo", "num_tokens")  # its mean is over the tokens of the local batch
add(TRL, "grpo.dr_grpo", needs="max_completion_length")
add(TRL, "grpo.dapo", needs="num_tokens")
add(TRL, "grpo.cispo", "epsilon_low", "num_tokens", defaults={"epsilon_high": 0.2})
add("trl-1.16", "sft.nll")
add("trl-1.13", "bco.bco", needs="delta")

OTHER_ALPHA = {"defaults": {"f_alpha_divergence_coef": 1.0}, "adapt": alpha_from_the_other_end}
NO_FORWARD = ("reverse_kl", "js_divergence", "alpha_divergence")
PLAIN = ("reverse_kl",)  # it applies the others to averages
add(
    "trl-0.24", "dpo.sigmoid dpo.robust dpo.hinge dpo.exo_pair",
    divergences=NO_FORWARD, **OTHER_ALPHA,
)  # fmt: skip
add("trl-0.24", "dpo.ipo", needs=LENGTHS, logged=per_token, divergences=PLAIN, **OTHER_ALPHA)
add("trl-0.24", "dpo.nca_pair dpo.sppo_hard dpo.aot dpo.aot_unpaired dpo.apo_zero dpo.apo_down")
add("trl-0.24", "dpo.discopop", DIVERGENCE)
add("trl-0.24", "dpo.bco_pair bco.bco", needs="delta")
add("trl-0.24", "dpo.sft", needs="chosen_lengths")
add("trl-0.24", "kto.kto kto.apo_zero_unpaired reward_model.bradley_terry")
add("trl-0.24", "kl.k1 kl.k3", "log_ratio_limit")
add("trl-0.24", "cpo.sigmoid cpo.hinge cpo.ipo cpo.simpo ppo.value_clip")
add("trl-0.24", "orpo.orpo", needs="chosen_nll nll_tokens")
add("trl-0.24", "ppo.clip", "epsilon_high log_ratio_limit")
add("trl-0.24", "grpo.grpo grpo.gspo")
add("trl-0.24", "grpo.bnpo", "num_tokens")
add("trl-0.24", "grpo.dr_grpo", needs="max_completion_length")
add("trl-0.24", "grpo.dapo", needs="num_tokens")

# ---- Liger ---------------------------------------------------------------------------------------

LIGER = "liger-0.8.5"
add(LIGER, "dpo.sigmoid", f"label_smoothing {WEIGHTS} {DIVERGENCE}")
add(LIGER, "dpo.robust dpo.hinge dpo.discopop", f"{WEIGHTS} {DIVERGENCE}")
add(LIGER, "dpo.exo_pair", f"{WEIGHTS} {DIVERGENCE}", "label_smoothing")
add(LIGER, "dpo.nca_pair dpo.sppo_hard dpo.apo_zero dpo.apo_down", WEIGHTS)
add(LIGER, "dpo.bco_pair", f"{WEIGHTS} delta")
add(LIGER, "kto.kto kto.apo_zero_unpaired", "desirable_weight undesirable_weight")
add(LIGER, "cpo.sigmoid cpo.simpo", "alpha")
add(LIGER, "orpo.orpo")
GRPO = {"kl_beta": 0.04}  # grpo_loss.py:91
OWN_HIGH = GRPO | {"epsilon_high": 0.2}  # grpo_loss.py:90: does not follow epsilon_low
RATIOS = {"defaults": OWN_HIGH, "adapt": kl_only_with_reference}
add(LIGER, "grpo.grpo grpo.dapo grpo.gspo", **RATIOS)
add(LIGER, "grpo.bnpo", "num_tokens", **RATIOS)
add(LIGER, "grpo.dr_grpo", needs="max_completion_length", **RATIOS)
add(LIGER, "grpo.cispo", "epsilon_low", **RATIOS)
add(LIGER, "grpo.sapo", defaults=GRPO, adapt=kl_only_with_reference)

# ---- HALOs, LLaMA-Factory, OpenRLHF, torchtune, NeMo-RL ------------------------------------------

HALOS = "halos-4831988"
add(HALOS, "dpo.sigmoid", f"{WEIGHTS} {DIVERGENCE}")
add(HALOS, "dpo.ipo", f"{WEIGHTS} {DIVERGENCE}", LENGTHS, logged=per_token_without_beta)
add(HALOS, "kto.kto", logged=without_beta)
add(HALOS, "reward_model.bradley_terry", "margins center_coefficient")
add(HALOS, "ppo.clip", "epsilon_high log_ratio_limit", defaults={"epsilon": 0.5})
add(HALOS, "kl.k3", "log_ratio_limit")
add(
    HALOS, "cpo.simpo", "alpha chosen_nll cpo_alpha label_smoothing", logged=without_beta,
    defaults={"beta": 10.0, "simpo_gamma": 3.0}, adapt=gamma_by_ratio(0.3),
)  # fmt: skip
add(
    HALOS, "grpo.bnpo", "delta epsilon_high num_tokens old_logps", "ref_token_logps",
    defaults={"epsilon": 0.01, "kl_beta": 0.01}, adapt=old_policy_is_reference,
)  # fmt: skip

FACTORY = "llamafactory-ff6d4d1"
add(FACTORY, "dpo.sigmoid", f"{WEIGHTS} {DIVERGENCE}")
add(FACTORY, "dpo.bco_pair", WEIGHTS, "delta")
add(FACTORY, "kto.kto")
add(FACTORY, "reward_model.bradley_terry", "margins center_coefficient")
add(FACTORY, "orpo.orpo", adapt=nll_per_sequence)
add(
    FACTORY, "cpo.simpo", "alpha label_smoothing",
    defaults={"cpo_alpha": 0.0}, adapt=nll_per_sequence,
)  # fmt: skip

OPENRLHF = "openrlhf-3c3be62"
add(OPENRLHF, "dpo.sigmoid", f"{WEIGHTS} {DIVERGENCE}")
add(OPENRLHF, "dpo.ipo", f"{WEIGHTS} {DIVERGENCE} {LENGTHS}")
add(OPENRLHF, "reward_model.bradley_terry", "center_coefficient")
add(OPENRLHF, "ppo.clip", defaults={"log_ratio_limit": 20.0})
add(OPENRLHF, "ppo.dual_clip", needs="dual_clip", defaults={"log_ratio_limit": 20.0})
add(OPENRLHF, "ppo.value_clip", defaults={"value_clip": 0.5})
add(OPENRLHF, "kl.k1 kl.k2 kl.k3", "log_ratio_limit", logged=stops_at_10)
add(OPENRLHF, "grpo.gspo", "delta kl_beta")

TORCHTUNE = "torchtune-bd2a0fc"
add(TORCHTUNE, "dpo.sigmoid dpo.hinge", f"{WEIGHTS} {DIVERGENCE}")
add(TORCHTUNE, "ppo.clip", "epsilon_high log_ratio_limit", defaults={"epsilon": 0.1})
add(TORCHTUNE, "ppo.value_clip")
add(TORCHTUNE, "kl.k1 kl.k3", "log_ratio_limit")
add(
    TORCHTUNE, "grpo.grpo", "delta epsilon epsilon_high old_logps", "ref_token_logps",
    defaults={"kl_beta": 0.1},
)  # fmt: skip
add(
    TORCHTUNE, "grpo.bnpo", "delta epsilon_high num_tokens", "ref_token_logps",
    defaults={"epsilon": 0.1, "kl_beta": 0.1},
)  # fmt: skip

NEMO = "nemo-rl-7ea279a"
NO_DPO_OPTIONS = f"label_smoothing {WEIGHTS} {DIVERGENCE}"
FIXED_HIGH = {"epsilon_high": 0.2}  # ratio_clip_max, loss_functions.py:122: not ratio_clip_min
add(NEMO, "dpo.sigmoid", NO_DPO_OPTIONS, defaults={"beta": 0.05}, logged=without_beta)
add(
    NEMO, "dpo.sigmoid_norm", NO_DPO_OPTIONS, LENGTHS,
    defaults={"beta": 0.05}, logged=per_token_without_beta,
)  # fmt: skip
add(NEMO, "reward_model.bradley_terry", "margins center_coefficient")
add(NEMO, "ppo.clip", "log_ratio_limit", defaults=FIXED_HIGH)
add(NEMO, "ppo.dual_clip", "log_ratio_limit", "dual_clip", defaults=FIXED_HIGH)
add(NEMO, "ppo.value_clip")
add(NEMO, "kl.k1 kl.k2 kl.k3", defaults={"log_ratio_limit": 20.0}, logged=stops_at_10)
# The group methods' KL term has a gradient of its own there; prefopt has their policy term.
add(NEMO, "grpo.grpo grpo.dapo grpo.gspo", "delta", beyond="kl_beta", defaults=FIXED_HIGH)
add(NEMO, "grpo.cispo", beyond="kl_beta", defaults={"epsilon_low": 0.8, "epsilon_high": 1.2})
