"""`explain`: the number that another framework printed, and the inputs; which loss gives it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prefopt._loss_arrays import take_array
from prefopt._loss_call import LIST, find, nearest, take_parameter
from prefopt._loss_types import LossParameter
from prefopt.testing._search import (
    DEFAULT,
    NO_CHANGE,
    Finding,
    Unavailable,
    changes,
    known_losses,
    losses_of,
    merged,
)

Array = npt.NDArray[Any]
SHOWN = 8  # lines of each part of the text


@dataclass(frozen=True)
class Explanation:
    """What `explain` found.

    `matches` give the number, those that leave fewest names unused first. `others` do not, nearest
    first. `unavailable` says for each loss that needs more than was given what it needs.
    """

    value: str
    matches: tuple[Finding, ...]
    others: tuple[Finding, ...]
    unavailable: Mapping[str, str]

    @property
    def found(self) -> bool:
        """Whether anything gives the number."""
        return bool(self.matches)

    def __str__(self) -> str:
        lines = [f"{self.value} is" if self.found else f"{self.value} is none of the known losses"]
        lines += _lines(self.matches, with_difference=False)
        if self.others:
            lines += ["others, nearest first" if self.found else "nearest"]
            lines += _lines(self.others, with_difference=True)
        if self.unavailable:
            lines.append(f"{len(self.unavailable)} losses need inputs that were not given")
        return "\n".join(lines)


def _lines(findings: tuple[Finding, ...], with_difference: bool) -> Iterator[str]:
    """Two or three lines a number; losses that agree on these inputs share them."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for each in findings:
        key = (each.reduction, each.change, f"{each.value:.12g}", f"{each.difference:.6g}")
        groups.setdefault(key, []).append(each)
    for first, *same in list(groups.values())[:SHOWN]:
        yield f"  {first.value:.9g}: {first.reduction} of {first}"
        if with_difference:
            yield f"      off by {first.difference:.3g}"
        if same:
            names = dict.fromkeys(each.loss for each in same if each.loss != first.loss)
            yield f"      the same here: {', '.join(names)}"
    if len(groups) > SHOWN:
        yield f"  and {len(groups) - SHOWN} numbers more"


class _Target(NamedTuple):
    text: str
    numbers: Array
    tolerance: Array


def explain(
    value: float | str | npt.ArrayLike,
    *,
    rtol: float = 1e-6,
    losses: str | Iterable[str] | None = None,
    **inputs: Any,
) -> Explanation:
    """Which loss, convention and reduction give `value` on these inputs.

    `inputs` are the arrays and the parameters under the names of the rows (`prefopt.losses()`):
    `policy_chosen_logps=..., beta=0.3`. `value` is one number, the mean or sum of the losses or one
    of them, or an array of them all. A string is taken with its digits: "0.693" is anything that
    rounds to it; numbers agree within `rtol`, which is what float32 code can do. `losses` narrows
    the search to rows ("dpo.ipo") or families ("dpo").

    Parameters that are not given have the convention's defaults. Where nothing gives the number so,
    one thing at a time is done otherwise: an optional input left out, a parameter at another value
    that some project has by default. A name that no loss takes raises TypeError, an unusable value
    ValueError; both name the nearest valid ones.
    """
    target = _take_target(value, rtol)
    given = _take_inputs(inputs)
    chosen = _take_losses(losses)
    matches, others, unavailable = _search(target, given, chosen, changed=False)
    if not matches and not others and chosen <= unavailable.keys():
        raise ValueError(_why_nothing(unavailable, given))
    if not matches:
        matches, _, _ = _search(target, given, chosen, changed=True)
    matches.sort(key=lambda each: (len(each.ignored), _REDUCTIONS.get(each.reduction, 2)))
    others.sort(key=lambda each: abs(each.difference))
    found = {each.loss for each in (*matches, *others)}
    missing = {name: why for name, why in unavailable.items() if name not in found}
    return Explanation(target.text, tuple(matches), tuple(others), missing)


_REDUCTIONS = {"mean": 0, "each": 0, "sum": 1}


def _search(
    target: _Target, given: Mapping[str, Any], chosen: frozenset[str], changed: bool
) -> tuple[list[Finding], list[Finding], dict[str, str]]:
    matches: list[Finding] = []
    others: list[Finding] = []
    unavailable: dict[str, str] = {}
    for info, convention in known_losses():
        if info.name not in chosen:
            continue
        for change in changes(info, given) if changed else (NO_CHANGE,):
            try:
                losses, ignored = losses_of(info, convention, change, given)
            except Unavailable as error:
                unavailable.setdefault(info.name, str(error))
                continue
            name, differs = (
                (DEFAULT, "") if convention is None else (convention.name, convention.differs)
            )
            for reduction, got in _reductions(losses, target):
                with np.errstate(invalid="ignore"):  # inf - inf
                    off = np.abs(got - target.numbers)
                distance = np.where(got == target.numbers, 0.0, off)
                finding = Finding(
                    info.name,
                    (name,),
                    reduction,
                    float(np.mean(got)),
                    float(np.max(distance, initial=0.0)),
                    str(change),
                    ignored,
                    differs,
                )
                hit = bool(np.all(distance <= target.tolerance))
                if hit:
                    matches.append(finding)
                elif reduction in ("mean", "each"):
                    others.append(finding)
    return merged(matches), merged(e for e in others if np.isfinite(e.difference)), unavailable


def _reductions(losses: Array, target: _Target) -> Iterator[tuple[str, Array]]:
    if target.numbers.ndim:
        if losses.shape == target.numbers.shape:
            yield "each", losses
        return
    if not losses.size:
        return
    yield "mean", losses.mean()
    if losses.size > 1:
        yield "sum", losses.sum()
        for index in np.ndindex(losses.shape):
            yield str(list(index)), losses[index]


# ---- arguments -----------------------------------------------------------------------------------


def _take_target(value: Any, rtol: float) -> _Target:
    """The numbers and how far from each still counts: half a unit of the last digit, or rtol."""
    if not rtol >= 0:
        raise ValueError(f"rtol: expected a number >= 0, got {rtol!r}")
    items = np.asarray(value, dtype=object)
    texts = [str(each).strip() for each in items.ravel()]
    try:
        numbers = np.array([float(text) for text in texts]).reshape(items.shape)
    except ValueError:
        raise ValueError(
            f"value: expected a number or an array of numbers, got {value!r}"
        ) from None
    if np.isnan(numbers).any() or not numbers.size:
        raise ValueError(f"value: expected numbers, got {value!r}")
    printed = [_half_unit(each) if isinstance(each, str) else 0.0 for each in items.ravel()]
    size = np.where(np.isfinite(numbers), np.abs(numbers), 0.0)  # inf is near nothing but itself
    tolerance = np.maximum(rtol * size, np.reshape(printed, items.shape))
    text = ", ".join(texts) if len(texts) <= 4 else f"{', '.join(texts[:3])}, ... ({len(texts)})"
    return _Target(text, numbers, tolerance)


def _half_unit(text: str) -> float:
    """Half a unit of the last digit of a printed number, a rounding of float64 more."""
    match = re.fullmatch(r"[+-]?(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d+))?", text.strip())
    if match is None:
        return 0.0
    exponent = int(match[3] or 0) - len(match[2] or "")
    return 0.5000001 * float(10.0**exponent)


def _take_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Known names only, arrays of one batch."""
    types = {item.name: item.type for info in LIST.values() for item in info.inputs}
    parameters: dict[str, list[LossParameter]] = {}
    for item in (item for info in LIST.values() for item in info.parameters):
        parameters.setdefault(item.name, []).append(item)
    given: dict[str, Any] = {}
    rows: dict[int, str] = {}
    for name, value in inputs.items():
        if value is None:
            continue
        if name not in types and name not in parameters:
            raise TypeError(f"{name}: no loss takes it; {nearest(name, {*types, *parameters})}")
        given[name] = take_array(value, types[name]) if name in types else value
        if name in parameters:
            _check_range(name, value, parameters[name])
        if types.get(name) in ("real", "count", "flag", "tokens", "mask", "indices"):
            shape = np.shape(given[name])
            if not shape:
                raise ValueError(f"{name}: expected an array, got {value!r}")
            rows.setdefault(shape[0], name)
    if not rows:
        raise ValueError("inputs: expected log-probabilities, such as policy_chosen_logps=[...]")
    if len(rows) > 1:
        sizes = ", ".join(f"{name} has {count}" for count, name in rows.items())
        raise ValueError(f"inputs: expected arrays of one batch size, but {sizes}")
    return given


def _check_range(name: str, value: Any, parameters: list[LossParameter]) -> None:
    """A parameter that some loss can take: a value that none takes is an error, not a mismatch."""
    numbers = [take_parameter(item, value) for item in parameters]
    for item, number in zip(parameters, numbers, strict=True):
        above = number > item.low or (number == item.low and not item.low_open)
        if item.choices or (above and number <= item.high):
            return
    raise ValueError(f"{name}: expected a number in {parameters[0].range}, got {value!r}")


def _take_losses(losses: str | Iterable[str] | None) -> frozenset[str]:
    names = [info.name for info, convention in known_losses() if convention is None]
    if losses is None:
        return frozenset(names)
    chosen: set[str] = set()
    for word in [losses] if isinstance(losses, str) else losses:
        family = [name for name in names if name.split(".")[0] == word]
        chosen.update(family or [find(word, "name").name])
    return frozenset(chosen)


def _why_nothing(unavailable: Mapping[str, str], given: Mapping[str, Any]) -> str:
    """The nearest loss's complaint: one that is not about an input that it lacks, if any."""
    for name, why in unavailable.items():
        if "needs this input" not in why:
            return f"{why} ({name})"
    taken = {
        name: sum(item.name in given for item in LIST[name].inputs if not item.optional)
        for name in unavailable
    }
    best = max(taken, key=lambda name: taken[name])
    return f"inputs: no loss can be computed from {', '.join(given)}; {unavailable[best]}"
