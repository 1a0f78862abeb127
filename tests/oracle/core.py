"""What an oracle is, and how one is evaluated.

An oracle is a formula over a whole batch of exact numbers: `formula(x, p)` reads `x.NAME` (a list
of one an element, of rows for token inputs, None for an absent input) and `p.NAME`, and returns the
losses and the named outputs. `@rowwise` makes one from the formula of a single element.

`evaluate` runs it at 80 digits and at twice as many until the two agree to 40, and differentiates
the sum of the losses with the numbers of `oracle.dual`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import mpmath as mp

from oracle.dual import Dual, Undecided, dual, exact, stated, to_mpf

DIGITS = 80
DIGITS_EXTREME = 360  # spares attempts where 1 - p is asked for at log-ratios in the thousands
AGREEING_DIGITS = 40
MOST_DIGITS = 40000
LARGEST_EXPONENT = 5000  # past 1e5000 every format has inf, and below 1e-5000 all have 0

Numbers = Mapping[str, Any]
Formula = Callable[[Any, Any], tuple[list[Any], dict[str, Any]]]

NO = exact(0)
WHOLE = ("lengths", "indices")  # what names of counts and positions end in
FLAGS = ("mask", "desirable", "keep")


@dataclass(frozen=True)
class Oracle:
    """One loss or procedure, and, again typed from its source, what it takes."""

    formula: Formula
    inputs: tuple[str, ...]  # differentiable
    constants: tuple[str, ...]
    parameters: dict[str, float | str | None]  # with their defaults; None: made from the inputs
    rewards: tuple[str, ...]
    optional: tuple[str, ...]
    outputs: tuple[str, ...]  # beside the losses, rewards first
    source: str

    @property
    def is_procedure(self) -> bool:
        """No losses: it makes what other rows take."""
        return not self.inputs


ORACLES: dict[str, Oracle] = {}


def _names(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of a list, and those marked optional by "?"."""
    words = text.split()
    plain = tuple(word.rstrip("?") for word in words)
    return plain, tuple(word.rstrip("?") for word in words if word.endswith("?"))


def register(
    name: str,
    *,
    inputs: str = "",
    constants: str = "",
    parameters: Mapping[str, float | str | None] | None = None,
    rewards: str = "",
    outputs: str = "",
) -> Callable[[Formula], Formula]:
    """Puts the formula under `name`; "?" marks an optional input; its docstring is the source."""

    def take(formula: Formula) -> Formula:
        differentiable, optional = _names(inputs)
        fixed, optional_fixed = _names(constants)
        all_rewards = tuple(rewards.split())
        ORACLES[name] = Oracle(
            formula, differentiable, fixed, dict(parameters or {}), all_rewards,
            (*optional, *optional_fixed), (*all_rewards, *outputs.split()),
            (formula.__doc__ or "").strip(),
        )  # fmt: skip
        return formula

    return take


def rowwise(function: Callable[[Any, Any], Any]) -> Formula:
    """A batch from the formula of one element: (loss, {output: value}), or the loss alone."""

    def formula(x: Any, p: Any) -> tuple[list[Any], dict[str, Any]]:
        losses: list[Any] = []
        outputs: dict[str, list[Any]] = {}
        for row in rows(x):
            loss, named = function(row, p)
            losses.append(loss)
            for key, value in named.items():
                outputs.setdefault(key, []).append(value)
        return losses, outputs

    formula.__doc__ = function.__doc__
    return formula


def rows(x: Any) -> Iterator[Any]:
    """The elements of a batch, each a namespace of its own; numbers for the whole batch stay."""
    for i in range(x.size):
        yield SimpleNamespace(
            **{k: v[i] if isinstance(v, list) else v for k, v in vars(x).items() if k != "size"}
        )


# ---- evaluation ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """What a loss should return: mpf, one an element, nested like the inputs.

    `scales` has the same layout under "losses", the outputs' names and "grad NAME": the sum of
    |x_k d result / d x_k| over the real inputs, added to |result|; None unless asked for.
    """

    losses: list[Any]
    rewards: dict[str, Any]
    grads: dict[str, Any]
    scales: dict[str, Any] | None = field(default=None, compare=False)


def evaluate(
    name: str,
    inputs: Numbers,
    params: Numbers,
    grad_losses: Any = None,
    digits: int = DIGITS,
    *,
    scales: bool = False,
) -> Truth:
    """Losses, outputs and d(sum_i g_i losses_i) / d input of a batch of floats.

    The floats are taken as the exact numbers that they are. Absent parameters take their defaults.
    `digits` is what is tried first.
    """
    oracle = ORACLES[name]
    previous = None
    while digits <= MOST_DIGITS:
        with mp.workdps(digits):
            try:
                truth = _evaluate(oracle, inputs, params, grad_losses, scales and previous is None)
            except Undecided:
                previous = None
            else:
                if previous is not None and _agree(previous, truth):
                    return replace(truth, scales=previous.scales)
                previous = truth
        digits *= 2
    raise ArithmeticError(f"{name}: {MOST_DIGITS} digits are too few for {inputs} {params}")


def _evaluate(
    oracle: Oracle, inputs: Numbers, params: Numbers, grad_losses: Any, scales: bool
) -> Truth:
    x = _batch(oracle, inputs, scales)
    given = {**oracle.parameters, **{k: v for k, v in params.items() if v is not None}}
    p = SimpleNamespace(**{k: _parameter(v) for k, v in given.items()})
    losses, outputs = oracle.formula(x, p)
    assert tuple(outputs) == oracle.outputs or not outputs, (tuple(outputs), oracle.outputs)
    weights = _ones(losses) if grad_losses is None else _weights(grad_losses)
    # Only the derivatives of the sum: its value may cancel.
    objective = stated(exact(0), [(exact(w), dual(v)) for w, v in _pairs(weights, losses)])
    grads = {
        key: _like(getattr(x, key), lambda at, key=key: to_mpf(objective.grad.get((key, at), NO)))
        for key in oracle.inputs
        if getattr(x, key) is not None
    }
    sizes = None
    if scales:
        sizes = {"losses": _map(losses, lambda value: _scale(dual(value), inputs))}
        sizes |= {k: _map(v, lambda value: _scale(dual(value), inputs)) for k, v in outputs.items()}
        for key in grads:
            slopes = _by_gradient(objective, key)
            sizes[f"grad {key}"] = _like(
                getattr(x, key), lambda at, slopes=slopes: _scale(slopes.get(at, dual(0)), inputs)
            )
    plain = {key: _map(value, _value) for key, value in outputs.items()}
    return Truth(_map(losses, _value), plain, grads, sizes)


def _value(item: Any) -> Any:
    return to_mpf(dual(item).value)


def _parameter(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else exact(value)


def _batch(oracle: Oracle, inputs: Numbers, scales: bool) -> Any:
    """The inputs as Duals: floats; ints stay ints, flags stay flags."""
    values: dict[str, Any] = dict.fromkeys((*oracle.inputs, *oracle.constants))
    for key, value in inputs.items():
        assert key in values, key
        plain = value.tolist() if hasattr(value, "tolist") else value
        if key.endswith(WHOLE):
            values[key] = _map(plain, int)
        elif key.endswith(FLAGS):
            values[key] = _map(plain, bool)
        else:
            differentiable = key in oracle.inputs

            def seed(at: Any, number: Any, key: str = key, varies: bool = differentiable) -> Dual:
                one = {(key, at): exact(1)}
                return Dual(exact(number), one if varies else {}, one if scales else {})

            values[key] = _map_at(plain, seed)
    first = next(v for v in inputs.values() if isinstance(v, list) or getattr(v, "ndim", 0))
    return SimpleNamespace(**values, size=len(first))


def _by_gradient(objective: Dual, key: str) -> dict[Any, Dual]:
    """d objective / d input as numbers with derivatives of their own, by position."""
    found: dict[Any, Dual] = {}
    for (name, at), slope in objective.grad.items():
        if name == key:
            cond = {k: v for (i, k), v in objective.cross.items() if i == (name, at)}
            found[at] = Dual(slope, {}, cond)
    return found


def _scale(value: Dual, inputs: Numbers) -> Any:
    """|value| + sum_k |x_k d value / d x_k|, without infinite slopes, which only limits have."""
    size = abs(to_mpf(value.value))
    for (key, at), slope in value.cond.items():
        if not mp.isfinite(to_mpf(slope)):
            continue
        number = inputs[key]
        for index in at:
            number = number[index]
        size = size + abs(to_mpf(exact(float(number))) * to_mpf(slope))
    return size


def _agree(a: Truth, b: Truth) -> bool:
    return all(
        _close(left, right)
        for one, two in zip(_groups(a), _groups(b), strict=True)
        for left, right in _pairs(one, two)
    )


def _close(a: Any, b: Any) -> bool:
    a, b = to_mpf(a), to_mpf(b)
    largest = mp.mpf(10) ** LARGEST_EXPONENT
    if a == b or max(abs(a), abs(b)) * largest < 1:
        return True
    if a * b > 0 and min(abs(a), abs(b)) > largest:
        return True
    return bool(abs(a - b) <= abs(b) * mp.mpf(10) ** -AGREEING_DIGITS)


def _groups(truth: Truth) -> list[Any]:
    return [truth.losses, *truth.rewards.values(), *truth.grads.values()]


# ---- nested lists --------------------------------------------------------------------------------


def _map(values: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(values, list):
        return [_map(value, function) for value in values]
    return function(values)


def _map_at(values: Any, function: Callable[[Any, Any], Any], at: tuple[int, ...] = ()) -> Any:
    if isinstance(values, list):
        return [_map_at(value, function, (*at, i)) for i, value in enumerate(values)]
    return function(at, values)


def _like(values: Any, function: Callable[[Any], Any]) -> Any:
    return _map_at(values, lambda at, _: function(at))


def _pairs(a: Any, b: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(b, list):
        for left, right in zip(a, b, strict=True):
            yield from _pairs(left, right)
    else:
        yield a, b


def _ones(values: Any) -> Any:
    return _map(values, lambda _: 1)


def _weights(values: Any) -> Any:
    return _map(values.tolist() if hasattr(values, "tolist") else values, exact)
