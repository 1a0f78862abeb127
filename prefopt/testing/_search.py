"""Which known loss gives a number: every row, under every convention, on the same inputs.

What other code does with its arguments may differ from what it was given: a `Change` is one such
difference (an optional input not used, a parameter at another value), tried where nothing fits as
it stands.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import prefopt
from prefopt._conventions import Convention, conventions
from prefopt._loss_call import LIST
from prefopt._loss_types import LossInfo

Array = npt.NDArray[Any]
DEFAULT = "default"  # the name of convention=None

# Optional inputs that are used together or not at all.
GROUPS = ("_lengths", "_weights", "_nll", "_kl_mean", "_logratios")


class Change(NamedTuple):
    """One thing done otherwise than asked: `names` left out, or the one of them set to `value`.

    With `as_default` only where it is not given.
    """

    names: tuple[str, ...] = ()
    value: float | str | None = None
    as_default: bool = False

    def __str__(self) -> str:
        if not self.names:
            return ""
        if self.value is None:
            return f"without {' and '.join(self.names)}"
        value = self.value if isinstance(self.value, str) else f"{self.value:g}"
        return f"{'default ' * self.as_default}{self.names[0]}={value}"


NO_CHANGE = Change()


class Finding(NamedTuple):
    """A known loss and what it gives.

    `conventions` are those under which it gives that number ("default" is prefopt's own), `change`
    says what was done otherwise than asked ("" nothing, "beta=0.05"), `ignored` are the given names
    that it has no use for. `reduction` is "mean", "sum", "each" for one number a loss, or "[1]" for
    the loss at that index. `difference` is that of `value` from the number searched for (for
    "each": the largest). `differs` says in words what sets the first convention apart.
    """

    loss: str
    conventions: tuple[str, ...]
    reduction: str
    value: float
    difference: float
    change: str = ""
    ignored: tuple[str, ...] = ()
    differs: str = ""

    def __str__(self) -> str:
        parts = [f"{self.loss}@{self.conventions[0]}"]
        if len(self.conventions) > 1:
            parts.append(f"(also {', '.join(self.conventions[1:])})")
        if self.change:
            parts.append(f"with {self.change}" if "=" in self.change else self.change)
        if self.ignored:
            parts.append(f"not using {', '.join(self.ignored)}")
        text = " ".join(parts)
        return f"{text}: {self.differs}" if self.differs else text


class Unavailable(Exception):
    """The loss does not take these inputs under the convention; the message says why."""


def known_losses() -> Iterator[tuple[LossInfo, Convention | None]]:
    """Every loss, first as prefopt has it by default, then under each of its conventions."""
    for info in LIST.values():
        if info.kind != "procedure":
            yield info, None
            for convention in conventions(info.name):
                yield info, convention


def changes(
    info: LossInfo, given: Iterable[str], extra: Mapping[str, float] | None = None
) -> Iterator[Change]:
    """Every single change of what the loss takes; `given` are names of inputs and parameters.

    Parameters are set to what is usual somewhere, and to those of `extra`.
    """
    given = set(given)
    optional = [item.name for item in info.inputs if item.optional and item.name in given]
    groups: dict[str, list[str]] = {}
    for name in optional:
        groups.setdefault(next((g for g in GROUPS if name.endswith(g)), name), []).append(name)
    for names in groups.values():
        yield Change(tuple(names))
    for parameter in info.parameters:
        name = parameter.name
        if name in given:
            yield Change((name,))
        values: Iterable[float | str] = parameter.choices or _usual_values(name)
        if extra and name in extra:
            values = (extra[name], *values)
        for value in dict.fromkeys(values):
            yield Change((name,), value, as_default=True)
            if name in given:
                yield Change((name,), value)


@functools.lru_cache(None)
def _usual_values(name: str) -> tuple[float, ...]:
    """The values that the parameter has by default in some loss or project, and round ones."""
    defaults = [p.default for info in LIST.values() for p in info.parameters if p.name == name]
    for _, convention in known_losses():
        if convention is not None:
            defaults.append(convention.defaults.get(name))
    numbers = {float(x) for x in defaults if isinstance(x, (int, float)) and math.isfinite(x)}
    return tuple(sorted(numbers | {0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0}))


def losses_of(
    info: LossInfo,
    convention: Convention | None,
    change: Change,
    given: Mapping[str, Any],
) -> tuple[Array, tuple[str, ...]]:
    """The losses and the given names that are not used; raises Unavailable."""
    taken = {item.name for item in info.inputs} | {item.name for item in info.parameters}
    refused = convention.refused if convention is not None else ()
    used = {k: v for k, v in given.items() if k in taken and k not in refused}
    ignored = tuple(name for name in given if name not in used)
    for name in change.names:
        if change.value is None:
            used.pop(name, None)
        elif not (change.as_default and name in used):
            used[name] = change.value
    used["convention"] = convention and convention.name
    try:
        result = prefopt.loss(info.name, **used)
    except (ValueError, TypeError) as error:
        raise Unavailable(str(error)) from None
    return np.asarray(result[0], np.float64), ignored


class Run(NamedTuple):
    """One call of a function: inputs and parameters by name, and the losses it returned."""

    given: Mapping[str, Any]
    losses: Array


def identify(
    runs: Sequence[Run], rtol: float, extra: Mapping[str, float] | None = None
) -> list[Finding]:
    """The known losses that all the runs agree with, at most one change away."""
    names = dict.fromkeys(name for run in runs for name in run.given)
    for changed in (False, True):
        found = []
        for info, convention in known_losses():
            for change in changes(info, names, extra) if changed else (NO_CHANGE,):
                finding = _agreement(info, convention, change, runs, rtol)
                if finding is not None:
                    found.append(finding)
        if found:
            return merged(found)
    return []


def _agreement(
    info: LossInfo,
    convention: Convention | None,
    change: Change,
    runs: Sequence[Run],
    rtol: float,
) -> Finding | None:
    ignored: dict[str, None] = {}
    reductions = {"each", "mean", "sum"}
    for run in runs:
        try:
            losses, unused = losses_of(info, convention, change, run.given)
        except Unavailable:
            return None
        ignored |= dict.fromkeys(unused)
        reductions = {kind for kind in reductions if _agrees(kind, losses, run.losses, rtol)}
        if not reductions:
            return None
    kind = next(each for each in ("each", "mean", "sum") if each in reductions)
    name, differs = (DEFAULT, "") if convention is None else (convention.name, convention.differs)
    return Finding(info.name, (name,), kind, 0.0, 0.0, str(change), tuple(ignored), differs)


def _agrees(reduction: str, losses: Array, got: Array, rtol: float) -> bool:
    if reduction != "each":
        losses = losses.mean() if reduction == "mean" else losses.sum()
    if losses.shape != got.shape:
        return False
    scale = np.maximum(np.abs(losses), np.max(np.abs(losses), initial=0.0, where=losses < np.inf))
    with np.errstate(invalid="ignore"):
        return bool(np.all((np.abs(got - losses) <= rtol * scale) | (got == losses)))


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Conventions that give the same number in the same way become one finding."""
    groups: dict[tuple[Any, ...], list[Finding]] = {}
    for each in findings:
        key = (each.loss, each.reduction, each.change, each.ignored, f"{each.value:.12g}")
        groups.setdefault(key, []).append(each)
    return [
        group[0]._replace(conventions=tuple(name for each in group for name in each.conventions))
        for group in groups.values()
    ]
