"""Whose arrays a loss is computed on: NumPy's here, those of a device elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from prefopt import _core


class Arrays(Protocol):
    """What a call does with arrays."""

    def take(self, name: str, value: Any, type_: str) -> Any:
        """A value as an array for an input of that type."""

    def loss(
        self,
        name: str,
        inputs: dict[str, Any],
        params: dict[str, float],
        grad_losses: Any,
        wants_grads: bool,
    ) -> tuple[Any, tuple[Any, ...], Any]:
        """(losses or None, outputs, gradients by name or None) of a row of the list."""

    def cast(self, array: Any, like: Any) -> Any:
        """`array` in the dtype of `like`."""

    def total(self, terms: Sequence[tuple[float, Any]]) -> Any:
        """sum_k weight_k array_k in float64; an array of weight 0 is not looked at."""

    def wide(self, array: Any) -> Any:
        """`array` in float64."""

    def at_least_one(self, array: Any) -> Any:
        """max(array, 1) in float64."""

    def limited(self, array: Any, limit: float) -> tuple[Any, Any]:
        """`array` clamped to +-limit, and where it was beyond; a NaN stays."""

    def zeroed(self, array: Any, where: Any) -> Any:
        """`array` with 0 where `where` says so."""

    def number(self, array: Any) -> Any:
        """An array without axes as a procedure returns it."""


class HostArrays:
    """NumPy arrays, and the C core."""

    def take(self, name: str, value: Any, type_: str) -> Any:
        return take_array(value, type_)

    def loss(
        self,
        name: str,
        inputs: dict[str, Any],
        params: dict[str, float],
        grad_losses: Any,
        wants_grads: bool,
    ) -> tuple[Any, tuple[Any, ...], Any]:
        return _core.loss(name, inputs, params, grad_losses, wants_grads)

    def cast(self, array: Any, like: Any) -> Any:
        return np.asarray(array).astype(like.dtype)

    def total(self, terms: Sequence[tuple[float, Any]]) -> Any:
        total = sum((w * self.wide(a) for w, a in terms if w != 0), np.float64(0))
        return total + np.zeros(terms[0][1].shape)

    def wide(self, array: Any) -> Any:
        return np.asarray(array, np.float64)

    def at_least_one(self, array: Any) -> Any:
        return np.maximum(self.wide(array), 1)

    def limited(self, array: Any, limit: float) -> tuple[Any, Any]:
        return np.clip(array, -limit, limit), np.abs(array) > limit

    def zeroed(self, array: Any, where: Any) -> Any:
        return np.where(where, 0, array)

    def number(self, array: Any) -> Any:
        return float(array)


HOST = HostArrays()


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
