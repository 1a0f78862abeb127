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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

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


class RowCall(NamedTuple):
    """One loss, ready for C: inputs and parameters under the row's own names, None nowhere."""

    info: LossInfo
    arrays: dict[str, Any]
    values: dict[str, float]
    convention: Convention | None

    @property
    def beta(self) -> float:
        """The value in force, 1 for a loss without."""
        defaults = (p.default for p in self.info.parameters if p.name == "beta")
        return self.values.get("beta", cast(float, next(defaults, 1.0)))


def prepare(
    info: LossInfo, inputs: Mapping[str, Any], params: Mapping[str, Any], convention: Any
) -> RowCall:
    """Checks what needs only names; an input or parameter that is None or a default is absent.

    Array libraries of their own (prefopt.jax) may pass their arrays: none is looked into.
    """
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
    if convention is None:
        return RowCall(info, arrays, values, None)
    chosen = find_convention(info.name, convention)
    return RowCall(info, *chosen.apply(arrays, values), chosen)


def evaluate(call: RowCall, grad_losses: Any, return_grads: bool) -> AnyLoss:
    """Runs one loss."""
    weights = None if grad_losses is None else take_array(grad_losses)
    wanted = weights is not None or bool(return_grads)
    losses, outputs, grads = _core.loss(call.info.name, call.arrays, call.values, weights, wanted)
    result = _with_rewards_of(call, _result(call.info, losses, outputs))
    result.grads = grads
    return _limited(call, result)


def _limited(call: RowCall, result: AnyLoss) -> AnyLoss:
    """Losses of tokens clamped as the convention does; a clamped one has no gradient."""
    if call.convention is None or not np.isfinite(call.convention.loss_limit):
        return result
    assert call.info.tokenwise
    limit = call.convention.loss_limit
    clamped: AnyLoss = result._replace(losses=np.clip(result.losses, -limit, limit))
    if result.grads is not None:
        beyond = np.abs(result.losses) > limit
        clamped.grads = {key: np.where(beyond, 0, grad) for key, grad in result.grads.items()}
    return clamped


def _with_rewards_of(call: RowCall, result: AnyLoss) -> AnyLoss:
    """The rewards as the project of the convention logs them: divided in float64, rounded once."""
    if call.convention is None:
        return result
    divisors = call.convention.reward_divisors(call.arrays, call.beta)
    if divisors is None:
        return result
    chosen, rejected = divisors
    if isinstance(result, UnpairedLoss):
        return result._replace(rewards=_divided(result.rewards, chosen))
    assert isinstance(result, (PairLoss, StepPairLoss))
    return result._replace(
        chosen_rewards=_divided(result.chosen_rewards, chosen),
        rejected_rewards=_divided(result.rejected_rewards, rejected),
    )


def _divided(rewards: Any, divisor: Any) -> Any:
    return (rewards.astype(np.float64) / divisor).astype(rewards.dtype)


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
    info, arrays, values, _ = prepare(LIST[name], inputs, params, None)
    _, outputs, _ = _core.loss(name, arrays, values, None, False)
    shapes = [shape for _, shape in info.outputs]
    results = [
        float(value) if shape == "number" else value
        for value, shape in zip(outputs, shapes, strict=True)
    ]
    return procedure_type(name)(*results)


# ---- a family ------------------------------------------------------------------------------------


def prepare_family(
    family: str,
    loss_type: Any,
    inputs: Mapping[str, Any],
    params: Mapping[str, Any],
    convention: Any,
    loss_weights: Any = None,
) -> tuple[list[RowCall], list[float] | None]:
    """The variant `loss_type` of a family; for a sequence of them each one, and their weights."""
    if isinstance(loss_type, str):
        if loss_weights is not None:
            raise ValueError("loss_weights: expected with a sequence of loss types only")
        info = find(f"{family}.{loss_type}", "loss_type")
        return [prepare(info, inputs, params, convention)], None
    infos, weights = _take_mixture(family, loss_type, loss_weights)
    given = {key: value for key, value in inputs.items() if value is not None}
    for key, value in (*given.items(), *params.items()):
        names = [
            {*(i.name for i in info.inputs), *(p.name for p in info.parameters)} for info in infos
        ]
        is_default = value is None or isinstance(value, (DefaultNumber, DefaultText))
        if not is_default and not any(key in each for each in names):
            raise ValueError(f"{key}: none of {', '.join(i.name for i in infos)} uses it")
    calls = []
    for info in infos:
        names_in = {item.name for item in info.inputs}
        names_param = {item.name for item in info.parameters}
        calls.append(
            prepare(
                info,
                {key: value for key, value in given.items() if key in names_in},
                {key: value for key, value in params.items() if key in names_param},
                convention,
            )
        )
    return calls, weights


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
    calls, weights = prepare_family(family, loss_type, inputs, params, convention, loss_weights)
    parts = [evaluate(call, grad_losses, return_grads) for call in calls]
    return parts[0] if weights is None else _mixture(parts, weights)


def call_by_name(
    name: str, inputs: dict[str, Any], functions: Any, run: Callable[[str, Any, Any], Any]
) -> Any:
    """`loss` of a library that has the functions of the families and runs procedures by `run`."""
    if name not in LIST:
        raise ValueError(f"name: no loss is called {name!r}; {nearest(str(name), LIST)}")
    info = find(name)
    known = [*(item.name for item in info.inputs), *(item.name for item in info.parameters)]
    known += [] if info.kind == "procedure" else ["convention"]
    for key in inputs:
        if key not in known:
            raise TypeError(f"{key}: {name} takes no such argument; {nearest(key, known)}")
    if info.kind == "procedure":
        numbers = {item.name for item in info.parameters}
        arrays = {key: each for key, each in inputs.items() if key not in numbers}
        return run(name, arrays, {k: inputs[k] for k in inputs if k in numbers})
    if len(FAMILIES[info.family]) > 1:
        inputs["loss_type"] = info.variant
    for item in FAMILIES[info.family][0].inputs:  # what another variant needs is absent here
        inputs.setdefault(item.name, None)
    return getattr(functions, f"{info.family}_loss")(**inputs)


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
