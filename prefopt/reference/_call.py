"""How a call reaches a formula: symbols for names, conventions, weights, sums of several losses.

A formula is a function in the symbols of its paper, marked with `@row`:

    @row("dpo.ipo", wpo=True)
    def ipo(g, D_w, D_l, N_w=None, N_l=None, *, beta=0.1):
        ...
        return Terms(losses, {"D_w": gradient, "D_l": gradient}, (chosen_rewards, rejected_rewards))

Its arguments before the star are inputs, named by their symbol (`SYMBOLS`) or their own name; after
it come parameters. A default makes an argument optional. `g` has the shape of the losses; the
gradients are sum_i g_i d losses_i / d symbol.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from prefopt._conventions import DIVERGENCES, Convention, find_convention
from prefopt._loss_types import AnyLoss, DefaultNumber, DefaultText
from prefopt.reference.scalar import Float64, times

# Symbol: the input that it stands for, or the two that it is the difference of (the second is a
# constant, so that a gradient by the symbol is one by the first).
SYMBOLS = {
    "pi": ("policy_logps",),
    "pi_w": ("policy_chosen_logps",),
    "pi_l": ("policy_rejected_logps",),
    "ref_w": ("ref_chosen_logps",),
    "ref_l": ("ref_rejected_logps",),
    "D": ("policy_logps", "ref_logps"),
    "D_w": ("policy_chosen_logps", "ref_chosen_logps"),
    "D_l": ("policy_rejected_logps", "ref_rejected_logps"),
    "N": ("lengths",),
    "N_w": ("chosen_lengths",),
    "N_l": ("rejected_lengths",),
    "P_w": ("chosen_win_rates",),
    "P_l": ("rejected_win_rates",),
    "K_w": ("chosen_kl",),
    "K_l": ("rejected_kl",),
    "z0": ("kl",),
    "z_w": ("chosen_kl_mean",),
    "z_l": ("rejected_kl_mean",),
    "s_w": ("chosen_scores",),
    "s_l": ("rejected_scores",),
    "V": ("values",),
}
WPO = ("chosen_weights", "rejected_weights")
OPTIONS = ("loss_type", "loss_weights", "convention", "grad_losses", "return_grads")

Loss = TypeVar("Loss", bound=AnyLoss)


class Terms(NamedTuple):
    """What a formula yields: losses, gradients by symbol, rewards."""

    losses: Float64
    grads: dict[str, Float64]
    rewards: tuple[Float64, ...] = ()


class Row(NamedTuple):
    """A formula, and what it takes by its public names."""

    formula: Callable[..., Terms]
    symbols: dict[str, tuple[str, ...]]
    parameters: dict[str, Any]
    weights: tuple[str, ...]
    tokenwise: bool

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs."""
        return [*dict.fromkeys(name for names in self.symbols.values() for name in names)]

    def takes(self, name: str) -> bool:
        """Whether `name` is one of its inputs, weights or parameters."""
        return name in self.inputs or name in self.weights or name in self.parameters


ROWS: dict[str, Row] = {}
Formula = TypeVar("Formula", bound=Callable[..., Terms])


def row(
    name: str, *, wpo: bool = False, tokenwise: bool = False, passes_to: Any = None
) -> Callable[[Formula], Formula]:
    """Marks the formula of the loss `name`.

    wpo: WPO's weights multiply it; tokenwise: its losses are [B, T]; passes_to: the function that
    takes its further keywords.
    """

    def register(formula: Formula) -> Formula:
        arguments = list(inspect.signature(formula).parameters.values())[1:]
        symbols = [a.name for a in arguments if a.kind is a.POSITIONAL_OR_KEYWORD]
        if passes_to is not None:
            arguments += inspect.signature(passes_to).parameters.values()
        ROWS[name] = Row(
            formula,
            {symbol: SYMBOLS.get(symbol, (symbol,)) for symbol in symbols},
            {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY},
            WPO if wpo else (),
            tokenwise,
        )
        return formula

    return register


def call(family: str, result: Callable[..., Loss], arguments: dict[str, Any]) -> Loss:
    """The loss that the arguments of a public function ask for: one variant, or a weighted sum."""
    options = {key: arguments.get(key) for key in OPTIONS}
    given = {
        key: value
        for key, value in arguments.items()
        if key not in options and value is not None
        if not isinstance(value, (DefaultNumber, DefaultText))
    }
    variants = [name for name in ROWS if name.startswith(f"{family}.")]
    chosen = options["loss_type"]
    if chosen is None:
        chosen = variants[0].split(".")[1]
    names = [f"{family}.{each}" for each in ([chosen] if isinstance(chosen, str) else chosen)]
    for name in names:
        if name not in ROWS:
            known = ", ".join(each.split(".")[1] for each in variants)
            raise ValueError(f"loss_type: {name} is not available; choose one of: {known}")
    _refuse_unused(given, names, variants)
    parts = [
        _evaluate(
            name,
            {key: value for key, value in given.items() if ROWS[name].takes(key)},
            options["convention"],
            options["grad_losses"],
            bool(options["return_grads"]),
        )
        for name in names
    ]
    weights = options["loss_weights"] or [1.0] * len(parts)
    terms = parts[0] if isinstance(chosen, str) else _weighted_sum(parts, weights)
    made = result(terms.losses, *terms.rewards)
    if options["grad_losses"] is not None or options["return_grads"]:
        made.grads = dict(terms.grads)
    return made


def _refuse_unused(given: dict[str, Any], names: list[str], variants: list[str]) -> None:
    """An argument that no chosen loss takes must stand at its default."""
    for key, value in given.items():
        if any(ROWS[name].takes(key) for name in names):
            continue
        defaults = [ROWS[each].parameters[key] for each in variants if key in ROWS[each].parameters]
        if not defaults or value != defaults[0]:
            raise ValueError(f"{key}: {', '.join(names)} does not use it")


def _weighted_sum(parts: Sequence[Terms], weights: Sequence[float]) -> Terms:
    """sum_k weight_k losses_k, with the rewards of the first; a weight of 0 leaves a loss out."""

    def mixed(arrays: Sequence[Float64 | None]) -> Float64:
        present = [(w, a) for w, a in zip(weights, arrays, strict=True) if a is not None]
        return np.asarray(np.sum([times(w, a) for w, a in present], axis=0))

    names = dict.fromkeys(name for part in parts for name in part.grads)
    grads = {name: mixed([part.grads.get(name) for part in parts]) for name in names}
    return Terms(mixed([part.losses for part in parts]), grads, parts[0].rewards)


# ---- one row -------------------------------------------------------------------------------------


def _evaluate(
    name: str, given: dict[str, Any], convention: Any, grad_losses: Any, return_grads: bool
) -> Terms:
    """The formula of `name`, its gradients by input name."""
    formula, symbols, parameters, weights, tokenwise = mine = ROWS[name]
    arrays = {key: as_array(key, value) for key, value in given.items() if key not in parameters}
    values = {key: value for key, value in given.items() if key in parameters}
    known: Convention | None = None
    if convention is not None:
        known = find_convention(name, convention)
        arrays, numbers = known.apply(arrays, {k: _as_number(v) for k, v in values.items()})
        values = {k: _as_word(k, v) for k, v in numbers.items() if k in parameters}
    first = arrays[mine.inputs[0]]
    g = np.ones(first.shape if tokenwise else len(first))
    if grad_losses is not None:
        g = np.asarray(grad_losses, dtype=np.float64)
    weight = np.prod([np.ones(len(first)), *(arrays[w] for w in weights if w in arrays)], axis=0)
    weight = 1.0 if tokenwise else weight
    with np.errstate(all="ignore"):
        terms = formula(g * weight, **_by_symbol(symbols, arrays), **values)
        rewards = terms.rewards
        if known is not None:
            beta = values.get("beta", parameters.get("beta", 1.0))
            divisors = known.reward_divisors(arrays, beta)
            if divisors is not None:
                rewards = tuple(r / d for r, d in zip(rewards, divisors, strict=False))
        grads = {symbols[symbol][0]: grad for symbol, grad in terms.grads.items()}
        grads = {key: grad for key, grad in grads.items() if key in arrays}
        losses = weight * terms.losses
        if known is not None and math.isfinite(known.loss_limit):
            beyond = np.abs(losses) > known.loss_limit
            losses = np.clip(losses, -known.loss_limit, known.loss_limit)
            grads = {key: np.where(beyond, 0.0, grad) for key, grad in grads.items()}
        return Terms(losses, grads, rewards)


def _by_symbol(symbols: dict[str, tuple[str, ...]], arrays: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a formula; what was not given is left to its default."""
    inputs = {}
    for symbol, names in symbols.items():
        parts = [arrays[name] for name in names if name in arrays]
        if len(parts) == len(names):
            inputs[symbol] = parts[0] if len(parts) == 1 else parts[0] - parts[1]
    return inputs


def as_array(name: str, value: Any) -> Any:
    """float64, but bool for flags and masks, int64 for positions."""
    if name in ("desirable", "keep") or name.endswith("mask"):
        return np.asarray(value, dtype=bool)
    return np.asarray(value, dtype=np.int64 if name.endswith("indices") else np.float64)


def _as_number(value: Any) -> float:
    """A parameter as the conventions hold it: a word is its position in `DIVERGENCES`."""
    return float(DIVERGENCES.index(value)) if isinstance(value, str) else float(value)


def _as_word(name: str, value: float) -> Any:
    return DIVERGENCES[int(value)] if name == "f_divergence_type" else value
