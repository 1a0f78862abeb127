"""The published reference values: golden/golden-1.json, whose form golden.schema.json describes.

The values were made by mpmath at 80 digits or more from formulas typed from the papers and the
projects' code (tests/oracle of the source tree), not by prefopt; 30 digits are stored. A published
file never changes: another schema version gets another file.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prefopt._loss_call import nearest

SCHEMA = 1
SETS = ("ordinary", "extreme", "edge", "kink")
ULPS = 8.0  # what prefopt promises in float64, in `GoldenCase.ulps`

Array = npt.NDArray[Any]


class GoldenCase(NamedTuple):
    """Inputs and parameters of one call, and what it must return.

    `inputs` are arrays under the names of the row: float64 [B] or [B, T], integers for lengths and
    positions, bool for flags and masks, floats for single numbers; float32 holds the real ones too.
    `parameters` are those that are given; the others have the convention's defaults. `losses`,
    `rewards` (for a procedure its outputs) and `grads` (of the sum of the losses, by each
    differentiable input given) are the float64 nearest to the exact values, inf beyond its range.
    `exact` holds the values as the decimals of the file, nested like the arrays, under "losses" and
    the names of rewards and gradients; `scales` what `ulps` is made from. All arrays are read-only.
    """

    loss: str
    convention: str
    set: str
    inputs: dict[str, Any]
    parameters: dict[str, float | str]
    losses: Array
    rewards: dict[str, Any]
    grads: dict[str, Array]
    exact: dict[str, Any]
    scales: dict[str, Any]

    def ulps(self, name: str, dtype: npt.DTypeLike = np.float64) -> Any:
        """The spacing of `dtype` at the condition scale of "losses", a reward, or a gradient.

        The scale of a result y is |y| + sum_k |x_k dy / dx_k| over the real inputs x_k: the size of
        the numbers whose rounding y cannot be free of. Good code is within a few of these.
        """
        kind = np.dtype(dtype).type
        largest = np.finfo(kind).max / 2
        return np.spacing(np.minimum(self.scales[name], largest).astype(kind))

    def errors(self, result: Any, dtype: npt.DTypeLike = np.float64) -> dict[str, float]:
        """The worst error of "losses", of each reward and of each gradient, in `ulps`.

        `result` is what `prefopt.loss(..., return_grads=True)` returns: attributes under the names,
        and `grads`. A value of a wrong shape, a NaN, and anything but inf for an exact value beyond
        the range of `dtype` count as inf.
        """
        given = {} if not self.grads else result.grads
        pairs = {} if not self.losses.size else {"losses": (result.losses, self.losses)}
        pairs |= {name: (getattr(result, name), want) for name, want in self.rewards.items()}
        pairs |= {name: (given[name], want) for name, want in self.grads.items()}
        return {
            name: _worst(np.asarray(got), np.asarray(want), self.ulps(name, dtype), dtype)
            for name, (got, want) in pairs.items()
        }


def _worst(got: Array, want: Array, spacing: Array, dtype: npt.DTypeLike) -> float:
    if got.shape != want.shape:
        return float("inf")
    with np.errstate(over="ignore", invalid="ignore"):
        infinite = np.isinf(want.astype(dtype))
        error = np.abs(got.astype(np.float64) - want) / spacing.astype(np.float64)
    error = np.where(infinite, np.where(got == want.astype(dtype), 0.0, np.inf), error)
    return float(np.max(np.where(np.isnan(error), np.inf, error), initial=0.0))


def golden(
    loss: str | None = None, convention: str | None = None, set: str | None = None
) -> tuple[GoldenCase, ...]:
    """The published cases of a loss, a convention or a set, of all of them without one.

    `loss` is a row's name ("dpo.ipo"), `convention` a name of `prefopt.conventions(loss)`, or
    "default" for prefopt's own (`convention=None` in a call), which has cases where it differs from
    "paper"; `set` is "ordinary", "extreme", "edge" or "kink". A name that no case has raises
    ValueError with the nearest ones.
    """
    cases = _cases()
    for place, name, wanted in ((0, "loss", loss), (1, "convention", convention), (2, "set", set)):
        if wanted is None:
            continue
        found = [case for case in cases if case[place] == wanted]
        if not found and not (place == 2 and wanted in SETS):
            known = {str(case[place]) for case in cases}
            where = f" of {loss}" if place and loss else ""
            raise ValueError(f"{name}: no cases{where} under {wanted!r}; {nearest(wanted, known)}")
        cases = tuple(found)
    return cases


@functools.lru_cache(1)
def _cases() -> tuple[GoldenCase, ...]:
    file = resources.files(__package__) / "golden" / f"golden-{SCHEMA}.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    return tuple(map(_case, stored["cases"]))


def _case(item: dict[str, Any]) -> GoldenCase:
    exact = {"losses": item["losses"], **item["rewards"], **item["grads"]}
    return GoldenCase(
        item["loss"],
        item["convention"],
        item["set"],
        {key: _array(value) for key, value in item["inputs"].items()},
        {k: float(v) if v in ("inf", "-inf") else v for k, v in item["parameters"].items()},
        _array(item["losses"]),
        {key: _array(value) for key, value in item["rewards"].items()},
        {key: _array(value) for key, value in item["grads"].items()},
        exact,
        {key: np.asarray(_numbers(value)) for key, value in item["scales"].items()},
    )


def _array(values: Any) -> Any:
    """A read-only array, or the single number; decimals become the nearest float64."""
    numbers = _numbers(values)
    if not isinstance(numbers, list):
        return numbers
    array = np.asarray(numbers) if numbers else np.empty(0)
    array.flags.writeable = False
    return array


def _numbers(values: Any) -> Any:
    if isinstance(values, list):
        return [_numbers(value) for value in values]
    return float(values) if isinstance(values, str) else values
