"""One call of a loss: what Python checks, the call into C, the result tuple.

The list of losses is read from C once; names, ranges and defaults come from there. C checks dtypes,
shapes, values and ranges; here are only the checks that need Python's view of an argument, and the
messages that name the nearest valid word.
"""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from prefopt import _core
from prefopt._loss_types import (
    LossInfo,
    LossInput,
    LossParameter,
    PairLoss,
    SequenceLoss,
    UnpairedLoss,
)


def _read_list() -> dict[str, LossInfo]:
    rows = {}
    for row in _core.losses():
        inputs = tuple(LossInput(**item) for item in row["inputs"])
        parameters = tuple(LossParameter(**item) for item in row["parameters"])
        rows[row["name"]] = LossInfo(**{**row, "inputs": inputs, "parameters": parameters})
    return rows


LIST = _read_list()


def evaluate(
    info: LossInfo,
    inputs: Mapping[str, Any],
    params: Mapping[str, Any],
    convention: Any,
    grad_losses: Any,
    return_grads: bool,
) -> PairLoss | UnpairedLoss | SequenceLoss:
    """Runs the loss of `info`; an input or parameter that is None is absent."""
    no_convention(convention)
    types = {item.name: item.type for item in info.inputs}
    arrays = {}
    for key, value in inputs.items():
        if value is None:
            continue
        if key not in types:
            takes = ", ".join(types)
            raise ValueError(f"{key}: {info.name} does not use it; it takes {takes}")
        arrays[key] = take_array(value, types[key])
    known = {item.name for item in info.parameters}
    values = {k: take_number(k, v) for k, v in params.items() if k in known and v is not None}
    weights = None if grad_losses is None else take_array(grad_losses)
    wanted = weights is not None or bool(return_grads)
    losses, rewards, grads = _core.loss(info.name, arrays, values, weights, wanted)
    result: PairLoss | UnpairedLoss | SequenceLoss
    if info.kind == "pair":
        result = PairLoss(losses, *rewards)
    elif rewards:
        result = UnpairedLoss(losses, *rewards)
    else:
        result = SequenceLoss(losses)
    result.grads = grads
    return result


def take_array(value: Any, type_: str = "real") -> Any:
    """Lists, tuples and numbers become arrays; the binding takes or refuses everything else.

    A list of whole numbers may stand for a list of floats; an integer array may not.
    """
    if not isinstance(value, (list, tuple, int, float, np.generic)):
        return value
    array = np.asarray(value)
    if array.size == 0 and type_ == "flag":
        return array.astype(np.bool_)
    is_list = not isinstance(value, (bool, np.generic))
    if is_list and type_ in ("real", "scalar") and array.dtype.kind in "iu":
        return array.astype(np.float64)
    return array


def take_number(name: str, value: Any) -> float:
    """A parameter: a real number, not a bool. Its range is checked in C."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    return float(value)


def take_text(name: str, value: Any) -> str:
    """A string; `loss_type` may be a sequence one day, and is refused clearly until then."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string, got {type(value).__name__}")
    return value


def no_convention(convention: Any) -> None:
    """Named conventions are refused until there are some."""
    if convention is not None:
        raise ValueError(f"convention: only None, prefopt's own, is available, got {convention!r}")


def find(name: str, argument: str = "name") -> LossInfo:
    """The row called `name`; for a loss_type the message speaks of the family's variants."""
    info = LIST.get(take_text(argument, name))
    if info is not None:
        return info
    if argument == "name":
        raise ValueError(f"name: no loss is called {name!r}; {nearest(name, LIST)}")
    family, variant = name.split(".", 1)
    variants = [item.variant for item in LIST.values() if item.family == family]
    raise ValueError(f"{argument}: {family} has no loss {variant!r}; {nearest(variant, variants)}")


def nearest(word: str, words: Iterable[str]) -> str:
    """The end of a message about an unknown word."""
    words = sorted(words)
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"available: {', '.join(words)}"


def must_be_default(info: LossInfo, **options: tuple[Any, Any]) -> None:
    """Refuses an option that the row does not have, unless it stands at its default."""
    known = {item.name for item in info.parameters}
    for key, (value, default) in options.items():
        if key not in known and value != default:
            raise ValueError(f"{key}: {info.name} does not use it; only {default!r} is available")
