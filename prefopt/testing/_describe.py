"""The text of a failed comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefopt.testing._compare import Mismatch
from prefopt.testing._search import Finding

SHOWN = 4  # known losses


def show_case(given: Mapping[str, Any], mismatch: Mismatch) -> list[str]:
    """What is off, and the call with which it was."""
    lines = [f"  {mismatch.message}"]
    if not mismatch.is_call:
        lines += [f"  got      {_short(mismatch.got)}", f"  expected {_short(mismatch.wanted)}"]
    return lines + [f"  {name} = {_short(value)}" for name, value in given.items()]


def show_findings(found: Sequence[Finding], loss: str, runs: int) -> list[str]:
    """The known losses that the function agrees with, relatives of `loss` first."""
    where = f"On {runs} ordinary case{'s' * (runs > 1)} it agrees with"
    if not found:
        return [f"{where} no known loss."]
    family = loss.split(".")[0]
    ranked = sorted(
        found,
        key=lambda each: (each.loss != loss, each.loss.split(".")[0] != family, len(each.ignored)),
    )
    kinds = {"each": "", "mean": "the mean of ", "sum": "the sum of "}
    lines = [where, *(f"  {kinds[each.reduction]}{each}" for each in ranked[:SHOWN])]
    return lines + [f"  and {len(ranked) - SHOWN} more"] * (len(ranked) > SHOWN)


def _short(value: Any) -> str:
    if not isinstance(value, (np.ndarray, np.generic, float)):
        return str(value)
    text = np.array2string(np.asarray(value), precision=9, threshold=12, separator=", ")
    return " ".join(text.split())
