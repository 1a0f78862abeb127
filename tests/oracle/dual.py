"""Exact numbers that carry derivatives: forward-mode differentiation over rationals and mpmath.

A number is a `Fraction` for as long as only + - * / have touched it, then an mpf of the current
precision. So differences of inputs are exact, a tie is a tie, and every zero that is an mpf comes
from a cancellation. Where a sum loses more than half of the digits `Undecided` is raised, and
`oracle.core.evaluate` tries again with more.

A `Dual` has three sets of derivatives, by input element:

    grad[i]      d value / d x_i, which `stop_gradient` ends
    cond[k]      d value / d x_k along every path: how a rounding of x_k moves the value
    cross[i, k]  d grad[i] / d x_k along every path: how it moves the gradient

The last two are there only where the inputs were made with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import mpmath as mp

Number = Any  # Fraction or mpf
Partials = Mapping[Any, Number]
NONE: Partials = {}


class Undecided(ArithmeticError):
    """More digits are needed."""


# ---- plain numbers -------------------------------------------------------------------------------


def exact(value: Any) -> Number:
    """The number that a float, int or Fraction is; infinities are mpf."""
    if isinstance(value, float) and not mp.isfinite(value):
        return mp.mpf(value)
    return value if isinstance(value, mp.mpf) else Fraction(value)


def to_mpf(value: Number) -> Any:
    """`value` rounded to the current precision."""
    if type(value) is Fraction:
        return mp.mpf(value.numerator) / value.denominator
    return value


def _add(a: Number, b: Number) -> Number:
    if type(a) is Fraction and type(b) is Fraction:
        return a + b
    if a == 0 or b == 0:
        return b if a == 0 else a
    a, b = to_mpf(a), to_mpf(b)
    total = a + b
    if mp.isfinite(total) and abs(total) <= max(abs(a), abs(b)) * mp.mpf(10) ** (-mp.mp.dps // 2):
        raise Undecided
    return total


def _mul(a: Number, b: Number) -> Number:
    if type(a) is Fraction and type(b) is Fraction:
        return a * b
    if (type(a) is Fraction and a == 0) or (type(b) is Fraction and b == 0):
        return Fraction(0)
    return to_mpf(a) * to_mpf(b)


def _loose_add(a: Number, b: Number) -> Number:
    """For condition numbers, whose digits do not matter."""
    if type(a) is Fraction and type(b) is Fraction:
        return a + b
    return to_mpf(a) + to_mpf(b)


# ---- numbers with derivatives --------------------------------------------------------------------


class Dual:
    """A value and its derivatives. Compares by value."""

    __slots__ = ("cond", "cross", "grad", "value")

    def __init__(
        self,
        value: Number,
        grad: Partials = NONE,
        cond: Partials = NONE,
        cross: Partials = NONE,
    ) -> None:
        self.value = value
        self.grad = grad
        self.cond = cond
        self.cross = cross

    def __add__(self, other: Any) -> Dual:
        other = dual(other)
        return _chain(_add(self.value, other.value), [(Fraction(1), self), (Fraction(1), other)])

    def __neg__(self) -> Dual:
        return _chain(-self.value, [(Fraction(-1), self)])

    def __sub__(self, other: Any) -> Dual:
        return self + -dual(other)

    def __mul__(self, other: Any) -> Dual:
        other = dual(other)
        one = Fraction(1)
        return _chain(
            _mul(self.value, other.value),
            [(other.value, self), (self.value, other)],
            [(one, self, other), (one, other, self)],
        )

    def __truediv__(self, other: Any) -> Dual:
        return self * reciprocal(dual(other))

    def __rsub__(self, other: Any) -> Dual:
        return dual(other) - self

    def __rtruediv__(self, other: Any) -> Dual:
        return dual(other) / self

    def __pow__(self, power: int) -> Dual:
        assert power == 2
        return self * self

    def __abs__(self) -> Dual:
        """With derivative 0 at 0."""
        if self == 0:
            return dual(0)
        return self if self > 0 else -self

    __radd__ = __add__
    __rmul__ = __mul__

    def _compared(self, other: Any) -> Number:
        a, b = self.value, dual(other).value
        if isinstance(a, mp.mpf) and a == b and mp.isinf(a):
            return 0
        return _add(a, -b)

    def __lt__(self, other: Any) -> bool:
        return bool(self._compared(other) < 0)

    def __le__(self, other: Any) -> bool:
        return bool(self._compared(other) <= 0)

    def __gt__(self, other: Any) -> bool:
        return bool(self._compared(other) > 0)

    def __ge__(self, other: Any) -> bool:
        return bool(self._compared(other) >= 0)

    def __eq__(self, other: object) -> bool:
        return bool(self._compared(other) == 0)

    __hash__ = None  # type: ignore[assignment]


def dual(value: Any) -> Dual:
    """A constant, or the Dual that it is."""
    return value if isinstance(value, Dual) else Dual(exact(value))


def stop_gradient(x: Dual) -> Dual:
    """The same value, taken as a constant."""
    return Dual(x.value, NONE, x.cond, NONE)


Part = tuple[Number, Dual]
Curvature = tuple[Number, Dual, Dual]


def _chain(value: Number, parts: list[Part], curvature: Iterable[Curvature] = ()) -> Dual:
    """`value` with d value = sum of factor d part; curvature (h, a, b) adds h da db to the second
    derivatives.
    """
    grad: dict[Any, Number] = {}
    cond: dict[Any, Number] = {}
    cross: dict[Any, Number] = {}
    for factor, part in parts:
        if isinstance(factor, Fraction) and factor == 0:
            continue
        for i, slope in part.grad.items():
            term = _mul(factor, slope)
            grad[i] = _add(grad[i], term) if i in grad else term
        for k, slope in part.cond.items():
            term = _mul(factor, slope)
            cond[k] = _loose_add(cond[k], term) if k in cond else term
        for key, slope in part.cross.items():
            term = _mul(factor, slope)
            cross[key] = _loose_add(cross[key], term) if key in cross else term
    for factor, a, b in curvature:
        for i, slope in a.grad.items():
            for k, other in b.cond.items():
                term = _mul(factor, _mul(slope, other))
                cross[i, k] = _loose_add(cross[i, k], term) if (i, k) in cross else term
    return Dual(value, grad, cond, cross)


# ---- functions -----------------------------------------------------------------------------------


def _unary(x: Any, value: Number, first: Number, second: Number) -> Dual:
    x = dual(x)
    return _chain(value, [(first, x)], [(second, x, x)])


def reciprocal(x: Dual) -> Dual:
    """1 / x."""
    one = Fraction(1) if isinstance(x.value, Fraction) else mp.mpf(1)
    value = one / x.value
    square = _mul(value, value)
    return _unary(x, value, -square, 2 * _mul(square, value))


def exp(x: Any) -> Dual:
    """e^x, exactly 1 at 0."""
    x = dual(x)
    value = Fraction(1) if x.value == 0 else mp.exp(to_mpf(x.value))
    return _unary(x, value, value, value)


def log(x: Any) -> Dual:
    """The natural logarithm, exactly 0 at 1."""
    x = dual(x)
    if isinstance(x.value, Fraction) and x.value == 1:
        return _unary(x, Fraction(0), Fraction(1), Fraction(-1))
    _add(x.value, Fraction(-1))  # near 1 the logarithm has as many digits as this difference
    slope = 1 / to_mpf(x.value)
    return _unary(x, mp.log(to_mpf(x.value)), slope, -slope * slope)


def log1p(x: Any) -> Dual:
    """log(1 + x) for a small x too."""
    x = dual(x)
    slope = 1 / (1 + to_mpf(x.value))
    value = Fraction(0) if x.value == 0 else mp.log1p(to_mpf(x.value))
    return _unary(x, value, slope, -slope * slope)


def sqrt(x: Any) -> Dual:
    """The square root, without a derivative at 0."""
    x = dual(x)
    if x == 0:
        return dual(0)
    value = mp.sqrt(to_mpf(x.value))
    slope = 1 / (2 * value)
    return _unary(x, value, slope, -slope / (2 * to_mpf(x.value)))


def sigmoid(x: Any) -> Dual:
    """1 / (1 + exp(-x)). `sigmoid(-x)` is 1 - sigmoid(x), and keeps its digits where that is small."""
    return 1 / (1 + exp(-dual(x)))


def log_sigmoid(x: Any) -> Dual:
    """log(1 / (1 + exp(-x)))."""
    return -log1p(exp(-dual(x)))


def total(values: Iterable[Any]) -> Dual:
    """The sum."""
    result = dual(0)
    for value in values:
        result = result + value
    return result


def ordered(values: list[Dual]) -> list[int]:
    """Indices that sort `values`; ties keep their order."""
    order: list[int] = []
    for i, value in enumerate(values):
        place = len(order)
        while place > 0 and values[order[place - 1]] > value:
            place -= 1
        order.insert(place, i)
    return order


def largest_of(a: Any, b: Any) -> Dual:
    """max(a, b); at a tie the first."""
    a, b = dual(a), dual(b)
    return a if a >= b else b


def smallest_of(a: Any, b: Any) -> Dual:
    """min(a, b); at a tie the first."""
    a, b = dual(a), dual(b)
    return a if a <= b else b


def clamped(x: Any, low: Any, high: Any) -> Dual:
    """min(max(x, low), high) as torch.clamp: derivative 1 at the ends, 0 beyond."""
    raised = dual(low) if x < low else dual(x)
    return dual(high) if raised > high else raised


def stated(value: Number, parts: list[Part]) -> Dual:
    """A value whose derivative by each part is stated: (slope, part)."""
    return _chain(value, parts)
