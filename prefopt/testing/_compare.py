"""What a function returned, against what it should: tolerances and shapes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prefopt.testing._golden import GoldenCase

Array = npt.NDArray[Any]

# By the narrower of the inputs' and the losses' dtype: of the size of the numbers that went into a
# result (`GoldenCase.scales`), and absolute. Room for log(1 - sigmoid(x)) and the like: an absolute
# error of some roundings of 1.
TOLERANCES = {"float64": (1e-12, 1e-14), "float32": (1e-5, 1e-6), "float16": (1e-2, 1e-3)}
# What finite differences are good for, beside their noise: 2.5e-7 with prefopt's own losses over all
# cases (cpo.ipo at log-ratios of 1e4), below 1e-8 elsewhere.
DIFFERENCES = 5e-7


class Wanted(NamedTuple):
    """One result, and the size of the numbers that went into it."""

    name: str
    value: Array
    scale: Array


class Mismatch(NamedTuple):
    """What does not agree, and how far it is off, in words."""

    name: str
    got: Array
    wanted: Array
    message: str

    @classmethod
    def of_call(cls, message: str) -> Mismatch:
        """The function gave nothing to compare."""
        return cls("the call", np.empty(0), np.empty(0), message)

    @property
    def is_call(self) -> bool:
        """Whether there are no numbers."""
        return self.name == "the call"


def wanted_of(case: GoldenCase, rewards: bool) -> list[Wanted]:
    """The losses; for a procedure its outputs."""
    names = list(case.rewards) if rewards or not case.losses.size else []
    items = [("losses", case.losses)] if case.losses.size else []
    items += [(name, np.asarray(case.rewards[name])) for name in names]
    return [Wanted(name, value, np.asarray(case.scales.get(name, 0.0))) for name, value in items]


def compare(
    got: Array, want: Wanted, rtol: float, atol: Any, dtype: str
) -> tuple[float, Mismatch | None]:
    """The worst error as a share of the allowed one; a scalar is compared with the mean."""
    value, scale = np.asarray(want.value, np.float64), np.asarray(want.scale, np.float64)
    got = np.asarray(got, np.float64)
    name = want.name
    if got.ndim == 0 and value.ndim:
        value, scale, name = value.mean(), scale.mean(), f"the mean of {want.name}"
    if got.shape != value.shape:
        message = f"expected shape {list(value.shape)}, got {list(got.shape)}"
        return np.inf, Mismatch(name, got, value, message)
    largest = float(np.finfo(dtype).max)
    with np.errstate(invalid="ignore", over="ignore"):
        allowed = atol + rtol * np.minimum(np.maximum(scale, np.abs(value)), largest)
        # Beyond the dtype: inf, with its sign.
        target = np.where(np.abs(value) > largest, np.copysign(np.inf, value), value)
        share = np.where(got == target, 0.0, np.abs(got - target) / allowed)
    share = np.where(np.isnan(share), np.inf, share)
    worst = float(np.max(share, initial=0.0))
    if worst <= 1:
        return worst, None
    index = np.unravel_index(int(np.argmax(share)), share.shape)
    at = f" at {[int(i) for i in index]}" if share.ndim else ""
    with np.errstate(invalid="ignore"):
        off = float(np.abs(got - target)[index])
    limit = float(np.broadcast_to(allowed, share.shape)[index])
    return worst, Mismatch(name, got, value, f"off by {off:.3g}{at}, allowed {limit:.3g}")
