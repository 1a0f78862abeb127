"""Named conventions: the choices in which implementations of one loss differ.

A convention carries the version or commit of the project whose choices it is. It sets defaults, and
refuses what that project ignores or refuses, so that a number computed under it is the project's.
`convention=None` is prefopt's own: the paper's formula, in a form that is stable everywhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Convention(NamedTuple):
    """One project's form of one loss.

    `defaults` are its parameters' values where they differ from prefopt's, `refused` the inputs and
    parameters that it ignores or refuses, `required` those that it cannot do without. `factor`
    multiplies losses and gradients. `differs` says in words what differs, `source` where that was
    read.
    """

    loss: str
    name: str
    source: str
    differs: str
    defaults: Mapping[str, float]
    refused: tuple[str, ...]
    required: tuple[str, ...]
    factor: float = 1.0
    adapt: Callable[[dict[str, Any], dict[str, float]], None] | None = None

    def apply(
        self, arrays: dict[str, Any], values: dict[str, float]
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Inputs and parameters as prefopt's own row takes them."""
        for key in (*arrays, *values):
            if key in self.refused:
                raise ValueError(f"{key}: {self.name} does not use it in {self.loss}")
        for key in self.required:
            if key not in arrays and key not in values:
                raise ValueError(f"{key}: {self.name} needs it in {self.loss}")
        arrays, values = dict(arrays), {**self.defaults, **values}
        if self.adapt is not None:
            self.adapt(arrays, values)
        return arrays, values


TABLE: dict[str, dict[str, Convention]] = {}


def conventions(loss: str) -> tuple[Convention, ...]:
    """The named conventions of the loss called `loss` ("dpo.ipo"); () where there is none."""
    from prefopt._loss_call import find

    return tuple(TABLE.get(find(loss).name, {}).values())


def find_convention(loss: str, name: Any) -> Convention:
    """The convention `name` of `loss`."""
    if not isinstance(name, str):
        raise TypeError(f"convention: expected a string or None, got {type(name).__name__}")
    known = TABLE.get(loss, {})
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    else:
        hint = f"available: {', '.join(known)}" if known else "only None is available"
    raise ValueError(f"convention: {loss} has no convention {name!r}; {hint}")
