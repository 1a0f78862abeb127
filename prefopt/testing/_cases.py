"""The cases that a function is compared on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

import prefopt
from prefopt._conventions import Convention, find_convention
from prefopt._loss_call import find, nearest
from prefopt._loss_types import LossInfo, LossParameter
from prefopt.testing._adapter import Caller
from prefopt.testing._golden import SETS, GoldenCase, golden
from prefopt.testing._search import DEFAULT

Fitting = tuple[GoldenCase, dict[str, Any]]  # a case, and the parameters that are given with it


class NoCaseFits(TypeError):
    """None of the cases can be given to the function; the message says what it does not take."""


def published_sets(loss: str, convention: str | None = None) -> tuple[str, ...]:
    """The sets ("ordinary", "extreme", ...) that have cases of the loss under the convention."""
    _, cases = published_cases(find(loss), convention, SETS)
    return tuple(dict.fromkeys(case.set for case in cases))


def take_word(name: str, word: str, words: Iterable[str]) -> str:
    """One of `words`."""
    if word not in words:
        raise ValueError(f"{name}: unknown {word!r}; {nearest(str(word), words)}")
    return word


def published_cases(
    info: LossInfo, name: str | None, sets: Iterable[str]
) -> tuple[Convention | None, list[GoldenCase]]:
    """The convention, None for prefopt's own, and its cases; "paper" has those of the default."""
    wanted = {take_word("sets", each, SETS) for each in ([sets] if isinstance(sets, str) else sets)}
    is_default = name is None or name == DEFAULT
    chosen = None if is_default else find_convention(info.name, name)
    published = {case.convention for case in golden(info.name)}
    key = str(name)
    if is_default:
        key = DEFAULT if DEFAULT in published else "paper"
    cases = [case for case in golden(info.name, key) if case.set in wanted]
    return chosen, sorted(cases, key=lambda case: SETS.index(case.set))


def fitting_cases(caller: Caller, cases: list[GoldenCase]) -> tuple[list[Fitting], dict[str, int]]:
    """The cases that the function takes with their parameters; what the others have, counted."""
    kept: list[Fitting] = []
    left_out: dict[str, int] = {}
    for case in cases:
        parameters = caller.arguments(case)
        if isinstance(parameters, str):
            left_out[parameters] = left_out.get(parameters, 0) + 1
        else:
            kept.append((case, parameters))
    if not kept:
        takes = ", ".join(caller.accepted or ())
        reason = ", ".join(left_out) or "no case in these sets"
        raise NoCaseFits(
            f"fn: no case can be given to {caller.name}({takes}): {reason}; adapter= maps names"
        )
    return kept, left_out


def derived_cases(caller: Caller, kept: list[Fitting]) -> list[Fitting]:
    """Cases for the parameters that the function takes and no case of `kept` sets.

    Their values are prefopt's own, which are within a few ulps of the published ones where there
    are any.
    """
    if not kept or kept[0][0].set != "ordinary" or not kept[0][0].losses.size:
        return []
    base = kept[0][0]
    are_set = {name for case, _ in kept for name in case.parameters}
    derived = []
    for parameter in caller.info.parameters:
        value = _another(parameter)
        if value is None or parameter.name in are_set:
            continue
        try:
            case = _derived(caller, base, {**base.parameters, parameter.name: value})
        except (ValueError, TypeError):  # the convention refuses it
            continue
        parameters = caller.arguments(case)
        if not isinstance(parameters, str):
            derived.append((case, parameters))
    return derived


def _another(parameter: LossParameter) -> float | None:
    """A value that is not usual anywhere."""
    default = parameter.default
    if not isinstance(default, (int, float)) or math.isinf(default):
        return None
    return 0.15 if default == 0 else 1.5 * default


def _derived(caller: Caller, base: GoldenCase, parameters: dict[str, Any]) -> GoldenCase:
    convention = caller.convention
    name = None if convention is None else convention.name
    given = {**base.inputs, **parameters}
    result = prefopt.loss(base.loss, **given, convention=name, return_grads=True)
    values = {"losses": np.asarray(result[0])}
    values |= {key: getattr(result, key) for key in base.rewards}
    values |= result.grads or {}
    exact = {"losses": base.losses, **base.rewards, **base.grads}
    # As ill-conditioned as the base.
    scales = {
        key: _largest(value) * np.max(base.scales[key]) / _largest(exact[key])
        + np.zeros(np.shape(value))
        for key, value in values.items()
    }
    return base._replace(
        parameters=parameters,
        losses=values["losses"],
        rewards={key: values[key] for key in base.rewards},
        grads=dict(result.grads or {}),
        exact={},
        scales=scales,
    )


def _largest(values: Any) -> float:
    return float(np.max(np.abs(values), initial=np.finfo(np.float64).tiny))
