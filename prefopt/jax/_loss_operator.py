"""The way from JAX arrays into the C losses and back, with a VJP.

One handler serves every loss: its name, its inputs and its numbers are attributes. Backward asks
the same handler for the vector-Jacobian product, so that losses that couple the batch (an NLL term
shared by all pairs) need nothing of their own. A sequence of losses is their weighted sum, and a
convention's rewards are a quotient, made in double by handlers too: JAX has no float64 of its own
without x64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from prefopt import _core
from prefopt._loss_call import (
    FAMILIES,
    LIST,
    RowCall,
    prepare,
    prepare_family,
    procedure_type,
)
from prefopt._loss_types import LossInfo, LossParameter

from ._bridge import (
    Arrays,
    Shape,
    Static,
    as_array,
    call,
    cotangent,
    is_perturbed,
    remembered,
    result_like,
    shape_of,
    signature,
    static_number,
    value_of,
)


class PairLoss(NamedTuple):
    """Losses over (chosen, rejected) pairs, each [B]; the rewards have no gradient."""

    losses: Array
    chosen_rewards: Array
    rejected_rewards: Array


class StepPairLoss(NamedTuple):
    """`PairLoss` and eps-DPO's steps [B], without gradient, for `eps_dpo_beta`."""

    losses: Array
    chosen_rewards: Array
    rejected_rewards: Array
    steps: Array


class UnpairedLoss(NamedTuple):
    """Losses over single labelled answers, each [B]; the rewards have no gradient."""

    losses: Array
    rewards: Array


class SequenceLoss(NamedTuple):
    """Losses that have no reward, [B] ([B, T] of `kl_loss`)."""

    losses: Array


# ---- one row, while tracing ----------------------------------------------------------------------


class _Row(NamedTuple):
    """One loss of a call, all that is constant in a program."""

    name: str
    inputs: tuple[str, ...]  # and parameters that only the running program knows
    numbers: tuple[tuple[str, float], ...]  # parameters, and inputs that came as numbers
    outputs: tuple[tuple[str, Shape], ...]  # the losses first, unless it is a procedure
    grads: tuple[tuple[str, Shape], ...]  # by input, in the dtype of the losses
    loss_limit: float = math.inf  # a convention's, of losses of tokens

    @property
    def attributes(self) -> dict[str, Any]:
        return {
            "loss": self.name,
            "numbers": " ".join(name for name, _ in self.numbers),
            "values": np.array([value for _, value in self.numbers], dtype=np.float64),
        }


# Values that every program of the C list takes, so that a stand-in is refused for its shape only:
# one token an answer, every flag set, no position.
_LEGAL = {"count": 1, "flag": 1, "mask": 1, "indices": -1}


@remembered
def _check(
    name: str, arrays: tuple[tuple[str, Any], ...], numbers: tuple[tuple[str, float], ...]
) -> _Row:
    info = LIST[name]
    types = {item.name: item.type for item in info.inputs}
    parameters = {item.name: item for item in info.parameters}
    stand_ins: dict[str, npt.NDArray[Any]] = {
        key: np.full(shape, _LEGAL.get(types[key], 0)).astype(dtype)
        for key, (shape, dtype) in arrays
        if key in types
    }
    stand_ins |= {key: np.asarray(value) for key, value in numbers if key not in parameters}
    values = {key: _stand_in_for(parameters[key]) for key, _ in arrays if key in parameters}
    values |= {key: value for key, value in numbers if key in parameters}
    wanted = info.kind != "procedure"
    losses, outputs, grads = _core.loss(name, stand_ins, values, None, wanted)
    made = [("losses", losses)] if wanted else []
    made += [(key, each) for (key, _), each in zip(info.outputs, outputs, strict=True)]
    shapes = tuple((key, result_like(each)) for key, each in made)
    slopes = tuple((key, result_like(each)) for key, each in (grads or {}).items())
    return _Row(name, tuple(key for key, _ in arrays), numbers, shapes, slopes)


def _stand_in_for(parameter: LossParameter) -> float:
    """A legal value for one that is not known yet."""
    return parameter.default if isinstance(parameter.default, float) else 1.0


def _row_of(prepared: RowCall, traced: Arrays) -> tuple[_Row, Arrays]:
    """What is constant of a prepared call, and its arrays; `traced` are parameters that are."""
    arrays: Arrays = {}
    numbers: dict[str, float] = {}
    for name, each in (*prepared.arrays.items(), *prepared.values.items()):
        if name in traced:
            arrays[name] = traced[name]
        elif isinstance(each, Array):
            arrays[name] = each
        else:
            numbers[name] = float(each)  # in double, whatever JAX has
    described = tuple((name, signature(each)) for name, each in arrays.items())
    row = _check(prepared.info.name, described, tuple(numbers.items()))
    known = prepared.convention
    return (row if known is None else row._replace(loss_limit=known.loss_limit)), arrays


def _take_parameters(
    infos: Sequence[LossInfo], params: Mapping[str, Any], convention: str | None
) -> tuple[dict[str, Any], Arrays]:
    """Parameters as numbers and words; those that are traced apart, with stand-ins among the rest.

    A traced one (a beta that changes from step to step) is an input of the program, which need not
    be compiled again for another value; its range is checked when it runs.
    """
    numbers: dict[str, Any] = dict(params)
    traced: Arrays = {}
    known = {item.name: item for info in infos for item in info.parameters}
    for name, each in params.items():
        if not isinstance(each, Array):
            continue
        if each.ndim != 0:
            raise ValueError(f"{name}: expected one number, got shape {each.shape}")
        if not isinstance(each, jax.core.Tracer):
            numbers[name] = each.item()
            continue
        if convention is not None or known[name].choices:
            static_number(name, each)
        traced[name] = each
        numbers[name] = _stand_in_for(known[name])
    return numbers, traced


def _take_inputs(infos: Sequence[LossInfo], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as JAX's; one number for the batch may be a number; None stays."""
    scalars = {item.name for each in infos for item in each.inputs if item.type == "scalar"}
    taken = {}
    for name, each in inputs.items():
        is_number = isinstance(each, (int, float, np.generic)) and name in scalars
        taken[name] = each if each is None or is_number else as_array(name, each)
    return taken


# ---- the VJP -------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """A call of a family: one row, or several and their weights; how rewards are scaled."""

    rows: tuple[_Row, ...]
    weights: tuple[float, ...] | None
    reward_divisor: tuple[float, bool] | None


def _weighted_sum(weights: Sequence[float], arrays: Sequence[Array]) -> Array:
    inputs: dict[str, Array | None] = {f"part_{k}": each for k, each in enumerate(arrays)}
    outputs = {"sum": shape_of(arrays[0].shape, arrays[0].dtype)}
    return call("weighted_sum", inputs, outputs, weights=np.array(weights, np.float64))["sum"]


def _scaled_rewards(divisor: tuple[float, bool], results: Arrays, arrays: Arrays) -> Arrays:
    scale, averages = divisor
    scaled = dict(results)
    for name in ("rewards", "chosen_rewards", "rejected_rewards"):
        if name not in results:
            continue
        lengths = arrays[name.replace("rewards", "lengths")] if averages else None
        inputs = {"rewards": results[name], "lengths": lengths}
        outputs = {"scaled": shape_of(results[name].shape, results[name].dtype)}
        scaled[name] = call("scaled_rewards", inputs, outputs, scale=scale)["scaled"]
    return scaled


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses(plan: _Plan, arrays: Arrays) -> tuple[Array, ...]:
    parts: list[Arrays] = []
    for row in plan.rows:
        inputs: dict[str, Array | None] = {name: arrays[name] for name in row.inputs}
        outputs = dict(row.outputs if not parts else row.outputs[:1])  # rewards of the first
        part = call("loss", inputs, outputs, **row.attributes)
        if math.isfinite(row.loss_limit):
            part["losses"] = jnp.clip(part["losses"], -row.loss_limit, row.loss_limit)
        parts.append(part)
    results = parts[0]
    if plan.weights is not None:
        results["losses"] = _weighted_sum(plan.weights, [part["losses"] for part in parts])
    if plan.reward_divisor is not None:
        results = _scaled_rewards(plan.reward_divisor, results, arrays)
    return tuple(results[name] for name, _ in plan.rows[0].outputs)


def _forward(plan: _Plan, arrays: Any) -> tuple[tuple[Array, ...], Any]:
    needs = tuple(name for name, each in arrays.items() if is_perturbed(each))
    kept = value_of(arrays)
    return _losses(plan, kept), (Static(needs), kept)


def _backward(plan: _Plan, residuals: Any, cotangents: Any) -> tuple[dict[str, Array | None]]:
    static, arrays = residuals
    grads: dict[str, Array | None] = dict.fromkeys(arrays)
    grad_losses = cotangent(cotangents[0])
    if grad_losses is None:
        return (grads,)
    parts = [_row_gradients(row, static.value, arrays, grad_losses) for row in plan.rows]
    weights = (1.0,) if plan.weights is None else plan.weights
    for name in static.value:
        terms = [(w, part[name]) for w, part in zip(weights, parts, strict=True) if name in part]
        if not terms:
            continue
        total = terms[0][1]
        if plan.weights is not None:
            total = _weighted_sum([w for w, _ in terms], [each for _, each in terms])
        grads[name] = total.astype(arrays[name].dtype)
    return (grads,)


def _row_gradients(row: _Row, needs: Sequence[str], arrays: Arrays, grad_losses: Array) -> Arrays:
    """The row's vector-Jacobian product by each of `needs` that it has a gradient by."""
    slopes = {name: each for name, each in row.grads if name in needs}
    if not slopes:
        return {}
    inputs: dict[str, Array | None] = {name: arrays[name] for name in row.inputs}
    outputs = {"losses": row.outputs[0][1]}
    outputs |= {f"grad_{name}": each for name, each in slopes.items()}
    results = call("loss", inputs | {"grad_losses": grad_losses}, outputs, **row.attributes)
    grads = {name: results[f"grad_{name}"] for name in slopes}
    if not math.isfinite(row.loss_limit):
        return grads
    beyond = jnp.abs(results["losses"]) > row.loss_limit  # clamped: no gradient
    return {name: jnp.where(beyond, 0, each) for name, each in grads.items()}


_losses.defvjp(_forward, _backward, symbolic_zeros=True)


# ---- from keywords to a call ---------------------------------------------------------------------


def call_family(
    family: str,
    loss_type: str | Sequence[str],
    inputs: Mapping[str, Any],
    params: Mapping[str, Any],
    convention: str | None,
    loss_weights: Sequence[float] | None = None,
) -> tuple[Array, ...]:
    """The results of one loss of `family`, or of a weighted sum of several."""
    taken = _take_inputs(FAMILIES[family], inputs)
    numbers, traced = _take_parameters(FAMILIES[family], params, convention)
    prepared, weights = prepare_family(family, loss_type, taken, numbers, convention, loss_weights)
    for name in traced:
        if not any(name in each.values for each in prepared):
            raise ValueError(f"{name}: {prepared[0].info.name} does not use it")
    rows: list[_Row] = []
    arrays: Arrays = {}
    for each in prepared:
        row, own = _row_of(each, traced)
        rows.append(row)
        arrays |= own
    first = prepared[0]
    known = first.convention
    divisor = None if known is None else known.reward_divisor(first.beta)
    plan = _Plan(tuple(rows), None if weights is None else tuple(weights), divisor)
    results: tuple[Array, ...] = _losses(plan, arrays)
    return results


def run_procedure(name: str, inputs: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
    """A procedure: a named tuple of arrays without gradient."""
    info = LIST[name]
    numbers, traced = _take_parameters([info], params, None)
    row, arrays = _row_of(prepare(info, _take_inputs([info], inputs), numbers, None), traced)
    constants = {key: jax.lax.stop_gradient(each) for key, each in arrays.items()}
    results = call("loss", constants, dict(row.outputs), **row.attributes)
    return procedure_type(name)(*(results[key] for key, _ in info.outputs))
