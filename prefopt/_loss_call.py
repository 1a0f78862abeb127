"""One call of a loss: what Python checks, the call into C, the result tuple.

The list of losses is read from C once; names, ranges and defaults come from there. C checks dtypes,
shapes, values and ranges; here are only the checks that need Python's view of an argument, and the
messages that name the nearest valid word.
"""

from __future__ import annotations

import collections
import difflib
import functools
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from prefopt import _core
from prefopt._conventions import Convention, find_convention
from prefopt._loss_types import (
    AnyLoss,
    DefaultNumber,
    DefaultText,
    LossInfo,
    LossInput,
    LossParameter,
    PairLoss,
    SequenceLoss,
    StepPairLoss,
    UnpairedLoss,
)


def _read_parameter(item: dict[str, Any]) -> LossParameter:
    choices = tuple(filter(None, item["choices"].split("|")))
    default = choices[int(item["default"])] if choices else item["default"]
    return LossParameter(**{**item, "choices": choices, "default": default})


def _read_list() -> dict[str, LossInfo]:
    rows = {}
    for row in _core.losses():
        outputs = tuple(row["outputs"])
        rewards = () if row["kind"] == "procedure" else tuple(name for name, _ in outputs)
        parts = {
            "inputs": tuple(LossInput(**item) for item in row["inputs"]),
            "parameters": tuple(_read_parameter(item) for item in row["parameters"]),
            "outputs": outputs,
            "rewards": tuple(name for name in rewards if name.endswith("rewards")),
        }
        rows[row["name"]] = LossInfo(**{**row, **parts})
    return rows


LIST = _read_list()
FAMILIES: dict[str, list[LossInfo]] = {}  # the losses of each family, without procedures
for _info in LIST.values():
    if _info.kind != "procedure":
        FAMILIES.setdefault(_info.family, []).append(_info)


# ---- one row -------------------------------------------------------------------------------------


def evaluate(
    info: LossInfo,
    inputs: Mapping[str, Any],
    params: Mapping[str, Any],
    convention: Any,
    grad_losses: Any,
    return_grads: bool,
) -> AnyLoss:
    """Runs the loss of `info`; an input or parameter that is None or a default is absent."""
    types = {item.name: item.type for item in info.inputs}
    arrays = {}
    for key, value in inputs.items():
        if value is None:
            continue
        if key not in types:
            takes = ", ".join(types)
            raise ValueError(f"{key}: {info.name} does not use it; it takes {takes}")
        arrays[key] = take_array(value, types[key])
    values = _take_parameters(info, params)
    chosen = None
    if convention is not None:
        chosen = find_convention(info.name, convention)
        arrays, values = chosen.apply(arrays, values)
    weights = None if grad_losses is None else take_array(grad_losses)
    wanted = weights is not None or bool(return_grads)
    losses, outputs, grads = _core.loss(info.name, arrays, values, weights, wanted)
    result = _result(info, losses, outputs)
    result.grads = grads
    if chosen is None:
        return result
    if np.isfinite(chosen.loss_limit):
        return _limited(result, chosen.loss_limit, info)
    return _with_rewards_of(chosen, info, result, arrays, values)


def _limited(result: AnyLoss, limit: float, info: LossInfo) -> AnyLoss:
    """Losses of tokens clamped to +-limit; a clamped one has no gradient."""
    assert info.tokenwise
    clamped: AnyLoss = result._replace(losses=np.clip(result.losses, -limit, limit))
    if result.grads is not None:
        beyond = np.abs(result.losses) > limit
        clamped.grads = {key: np.where(beyond, 0, grad) for key, grad in result.grads.items()}
    return clamped


def _with_rewards_of(
    convention: Convention, info: LossInfo, result: AnyLoss, arrays: dict[str, Any], values: Any
) -> AnyLoss:
    """The rewards as the project logs them."""
    default = next((p.default for p in info.parameters if p.name == "beta"), 1.0)
    divisors = convention.reward_divisors(arrays, values.get("beta", default))
    if divisors is None:
        return result
    if isinstance(result, UnpairedLoss):
        scaled: AnyLoss = result._replace(rewards=result.rewards / divisors[0])
    else:
        dtype = result.losses.dtype
        rewards = [(r / d).astype(dtype) for r, d in zip(result[1:3], divisors, strict=True)]
        scaled = PairLoss(result.losses, *rewards)
    scaled.grads = result.grads
    return scaled


def _take_parameters(info: LossInfo, params: Mapping[str, Any]) -> dict[str, float]:
    """The given ones as numbers. What the row does not have must stand at its default."""
    known = {item.name: item for item in info.parameters}
    values = {}
    for key, value in params.items():
        if value is None or isinstance(value, (DefaultNumber, DefaultText)):
            continue
        if key in known:
            values[key] = take_parameter(known[key], value)
        elif value != _family_default(info.family, key):
            default = _family_default(info.family, key)
            raise ValueError(f"{key}: {info.name} does not use it; only {default!r} is available")
    return values


def _family_default(family: str, key: str) -> Any:
    for info in FAMILIES.get(family, ()):
        for item in info.parameters:
            if item.name == key:
                return item.default
    return None


def _result(info: LossInfo, losses: Any, outputs: tuple[Any, ...]) -> AnyLoss:
    if len(outputs) == 2:
        return PairLoss(losses, *outputs)
    if len(outputs) == 3:
        return StepPairLoss(losses, *outputs)
    return UnpairedLoss(losses, *outputs) if outputs else SequenceLoss(losses)


@functools.lru_cache(None)
def procedure_type(name: str) -> Any:
    """The named tuple that the procedure `name` returns."""
    info = LIST[name]
    title = "".join(part.capitalize() for part in name.replace(".", "_").split("_"))
    return collections.namedtuple(title, [key for key, _ in info.outputs])


def run_procedure(name: str, inputs: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
    """Runs a procedure: a named tuple of its outputs; numbers come as floats."""
    info = LIST[name]
    types = {item.name: item.type for item in info.inputs}
    arrays = {k: take_array(v, types[k]) for k, v in inputs.items() if v is not None}
    _, outputs, _ = _core.loss(name, arrays, _take_parameters(info, params), None, False)
    shapes = [shape for _, shape in info.outputs]
    values = [
        float(value) if shape == "number" else value
        for value, shape in zip(outputs, shapes, strict=True)
    ]
    return procedure_type(name)(*values)


# ---- a family ------------------------------------------------------------------------------------


def call_family(
    family: str,
    loss_type: Any,
    inputs: Mapping[str, Any],
    params: Mapping[str, Any],
    convention: Any,
    grad_losses: Any,
    return_grads: bool,
    loss_weights: Any = None,
) -> Any:
    """The variant `loss_type` of a family, or for a sequence of them the weighted sum."""
    if isinstance(loss_type, str):
        if loss_weights is not None:
            raise ValueError("loss_weights: expected with a sequence of loss types only")
        info = find(f"{family}.{loss_type}", "loss_type")
        return evaluate(info, inputs, params, convention, grad_losses, return_grads)
    infos, weights = _take_mixture(family, loss_type, loss_weights)
    given = {key: value for key, value in inputs.items() if value is not None}
    for key, value in (*given.items(), *params.items()):
        names = [
            {*(i.name for i in info.inputs), *(p.name for p in info.parameters)} for info in infos
        ]
        is_default = value is None or isinstance(value, (DefaultNumber, DefaultText))
        if not is_default and not any(key in each for each in names):
            raise ValueError(f"{key}: none of {', '.join(i.name for i in infos)} uses it")
    parts = []
    for info in infos:
        names_in = {item.name for item in info.inputs}
        names_param = {item.name for item in info.parameters}
        parts.append(
            evaluate(
                info,
                {key: value for key, value in given.items() if key in names_in},
                {key: value for key, value in params.items() if key in names_param},
                convention,
                grad_losses,
                return_grads,
            )
        )
    return _mixture(parts, weights)


def _take_mixture(
    family: str, loss_type: Any, loss_weights: Any
) -> tuple[list[LossInfo], list[float]]:
    if not isinstance(loss_type, Sequence) or len(loss_type) == 0:
        raise TypeError(
            "loss_type: expected a string, or a sequence of them, "
            f"got {loss_type if isinstance(loss_type, Sequence) else type(loss_type).__name__}"
        )
    infos = [find(f"{family}.{take_text('loss_type', each)}", "loss_type") for each in loss_type]
    if loss_weights is None:
        return infos, [1.0] * len(infos)
    weights = [take_number("loss_weights", each) for each in loss_weights]
    if len(weights) != len(infos):
        raise ValueError(f"loss_weights: expected {len(infos)} numbers, got {len(weights)}")
    if not all(np.isfinite(weights)):
        raise ValueError(f"loss_weights: expected finite numbers, got {weights}")
    return infos, weights


def _mixture(parts: list[Any], weights: list[float]) -> Any:
    """sum_k weight_k * losses_k, summed in float64; rewards are those of the first."""
    dtype = parts[0].losses.dtype

    def combine(arrays: list[tuple[float, Any]]) -> Any:
        total = sum((w * a.astype(np.float64) for w, a in arrays if w != 0), np.float64(0))
        return np.asarray(total + np.zeros(arrays[0][1].shape)).astype(dtype)

    losses = combine([(w, part.losses) for w, part in zip(weights, parts, strict=True)])
    result = parts[0]._replace(losses=losses)
    if parts[0].grads is not None:
        names = list(dict.fromkeys(name for part in parts for name in part.grads))
        result.grads = {
            name: combine(
                [(w, p.grads[name]) for w, p in zip(weights, parts, strict=True) if name in p.grads]
            )
            for name in names
        }
    return result


# ---- arguments -----------------------------------------------------------------------------------


def take_array(value: Any, type_: str = "real") -> Any:
    """Lists, tuples and numbers become arrays; the binding takes or refuses everything else.

    A list of whole numbers may stand for a list of floats; an integer array may not.
    """
    if not isinstance(value, (list, tuple, int, float, np.generic)):
        return value
    array = np.asarray(value)
    if array.size == 0 and type_ in ("flag", "mask"):
        return array.astype(np.bool_)
    if array.size == 0 and type_ == "indices":
        return array.astype(np.int64)
    is_list = not isinstance(value, (bool, np.generic))
    if is_list and type_ in ("real", "scalar", "tokens", "gathered") and array.dtype.kind in "iu":
        return array.astype(np.float64)
    return array


def take_parameter(info: LossParameter, value: Any) -> float:
    """A number, or for a parameter of words the position of the word."""
    if not info.choices:
        return take_number(info.name, value)
    word = take_text(info.name, value)
    if word not in info.choices:
        raise ValueError(f"{info.name}: unknown {word!r}; {nearest(word, info.choices)}")
    return float(info.choices.index(word))


def take_number(name: str, value: Any) -> float:
    """A parameter: a real number, not a bool. Its range is checked in C."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    unlike = (bool, np.bool_, np.timedelta64)  # NumPy registers a timedelta64 as an integer
    if isinstance(value, unlike) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number that fits a double") from None


def take_text(name: str, value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string, got {type(value).__name__}")
    return value


def find(name: str, argument: str = "name") -> LossInfo:
    """The row called `name`; for a loss_type the message speaks of the family's variants."""
    info = LIST.get(take_text(argument, name))
    if info is not None and (argument == "name" or info.kind != "procedure"):
        return info
    if argument == "name":
        raise ValueError(f"name: no loss is called {name!r}; {nearest(name, LIST)}")
    family, variant = name.split(".", 1)
    variants = [each.variant for each in FAMILIES[family]]
    raise ValueError(f"{argument}: {family} has no loss {variant!r}; {nearest(variant, variants)}")


def nearest(word: str, words: Iterable[str]) -> str:
    """The end of a message about an unknown word."""
    words = sorted(words)
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"available: {', '.join(words)}"
