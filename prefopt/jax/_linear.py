"""linear_token_logps for JAX: the calls, their VJP, the public function.

Two ways to a gradient. Where only hidden is differentiated (a frozen head), d logps / d hidden is
made in the forward sweep, kept, and scaled in backward: no second pass over the vocabulary.
Otherwise backward makes the tiles of logits once more. Which one is known while tracing: JAX says
of each argument whether it is differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import prefopt
from prefopt._linear import HIDDEN_GRADS, hidden_grad_flags

from ._bridge import (
    Arrays,
    Shape,
    Static,
    as_array,
    as_bfloat16,
    call,
    cotangent,
    is_perturbed,
    optional_array,
    remembered,
    result_like,
    shape_of,
    signature,
    stand_in,
    static_number,
    value_of,
    words_of_doubles,
)
from ._token import TokenLogps, ignored_labels, needs_words

__all__ = ["linear_token_logps"]

# The results that hold d / d hidden of logps, lse and entropy.
_HIDDEN_RESULTS = dict(
    zip(HIDDEN_GRADS, ("grad_hidden", "grad_hidden_lse", "grad_hidden_entropy"), strict=True)
)
_DIFFERENTIABLE = ("hidden", "weight", "bias", "lora_a", "lora_b")

OptionalArrays = dict[str, Array | None]


class _Options(NamedTuple):
    ignore_index: int
    logit_scale: float
    softcap: float
    temperature: float
    memory_limit: int
    grad_filter: float
    results: tuple[tuple[str, Shape], ...]

    @property
    def numbers(self) -> dict[str, Any]:
        """Those that both directions take."""
        return {
            "ignore_index": self.ignore_index,
            "logit_scale": self.logit_scale,
            "softcap": self.softcap,
            "temperature": self.temperature,
            "memory_limit": self.memory_limit,
        }


@remembered
def _check(
    hidden: Any,
    weight: Any,
    labels: Any,
    bias: Any,
    lora_a: Any,
    lora_b: Any,
    dtype: Any,
    ignore_index: Any,
    stats: Any,
    topk: Any,
    return_grad_hidden: Any,
    grad_filter: Any,
    numbers: tuple[tuple[str, Any], ...],
) -> _Options:
    ignored, ignored_index = ignored_labels(labels, ignore_index)
    arrays = (stand_in(hidden), stand_in(weight), ignored)
    options: dict[str, Any] = {
        **dict(numbers),
        "bias": stand_in(bias),
        "lora_a": stand_in(lora_a),
        "lora_b": stand_in(lora_b),
        "dtype": dtype,
        "ignore_index": ignored_index,
    }
    flags = hidden_grad_flags(return_grad_hidden)
    made = prefopt.linear_token_logps(*arrays, stats=stats, topk=topk, **options)
    if grad_filter is not None:
        options |= {"needs": ("hidden",), "grad_filter": grad_filter, "grad_logps": made.logps}
        prefopt.linear_token_logps_grad(*arrays, made.lse, **options)
    shapes = {name: result_like(each) for name, each in made._asdict().items() if each is not None}
    wanted = (name for name, flag in zip(HIDDEN_GRADS, flags, strict=True) if flag)
    for name in wanted:
        shapes[_HIDDEN_RESULTS[name]] = shape_of(hidden[0], shapes["logps"].dtype)
    given = {name: value or 0 for name, value in numbers}
    return _Options(
        int(ignore_index),
        float(given["logit_scale"]),
        float(given["softcap"]),
        float(given["temperature"]),
        int(given["memory_limit"]),
        float(grad_filter or 0),
        tuple(shapes.items()),
    )


# ---- the VJP -------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _linear_token_logps(
    options: _Options, hidden: Array, weight: Array, labels: Array, others: OptionalArrays
) -> Arrays:
    inputs = {"hidden": hidden, "weight": weight, "labels": labels, **others}
    return call("linear_token_logps", inputs, dict(options.results), **options.numbers)


def _forward(
    options: _Options, hidden: Any, weight: Any, labels: Any, others: Any
) -> tuple[Arrays, Any]:
    marked = {"hidden": hidden, "weight": weight, "labels": labels, **others}
    needs = tuple(name for name in _DIFFERENTIABLE if is_perturbed(marked[name]))
    inputs: OptionalArrays = {
        name: None if each is None else value_of(each) for name, each in marked.items()
    }
    outputs = dict(options.results)
    lse = "lse"
    if needs_words(outputs["lse"]):
        lse = "exact_lse"
        outputs[lse] = words_of_doubles(outputs["lse"].shape)
    if needs == ("hidden",):
        assert inputs["hidden"] is not None
        outputs["grad_hidden"] = shape_of(inputs["hidden"].shape, outputs["logps"].dtype)
    results = call("linear_token_logps", inputs, outputs, **options.numbers)
    hidden_grads = {}
    if needs == ("hidden",):
        hidden_grads = {k: results[v] for k, v in _HIDDEN_RESULTS.items() if v in results}
    saved = {lse: results[lse], "entropy": results.get("entropy")}
    kept = (Static(needs), inputs, saved, hidden_grads)
    return {name: results[name] for name, _ in options.results}, kept


def _backward(options: _Options, kept: Any, cotangents: Any) -> tuple[Any, ...]:
    static, inputs, saved, hidden_grads = kept
    given = {name: cotangent(cotangents[name]) for name in HIDDEN_GRADS if name in cotangents}
    grads = {name: each for name, each in given.items() if each is not None}
    totals: Arrays = {}
    for name in [each for each in grads if each in hidden_grads]:
        part = _scaled(options, inputs["labels"], grads.pop(name), hidden_grads[name])
        totals["hidden"] = totals["hidden"] + part if totals else part
    if grads:
        for name, part in _made_again(options, static.value, inputs, saved, grads).items():
            totals[name] = totals[name] + part if name in totals else part
    typed = {name: each.astype(inputs[name].dtype) for name, each in totals.items()}
    others = {
        name: typed.get(name) for name in inputs if name not in ("hidden", "weight", "labels")
    }
    return typed.get("hidden"), typed.get("weight"), None, others


def _scaled(options: _Options, labels: Array, grad: Array, hidden_grad: Array) -> Array:
    """grad d result / d hidden, 0 where the label is ignored whatever grad is."""
    part = grad[..., None] * hidden_grad
    limits = np.iinfo(labels.dtype)
    if not limits.min <= options.ignore_index <= limits.max:
        return part
    return jnp.where((labels != options.ignore_index)[..., None], part, 0)


def _made_again(
    options: _Options,
    needs: tuple[str, ...],
    inputs: OptionalArrays,
    saved: OptionalArrays,
    grads: Arrays,
) -> Arrays:
    """The gradients by what is differentiated, from tiles of logits that are made once more."""
    everything = {**inputs, **saved, **{f"grad_{name}": each for name, each in grads.items()}}
    if "entropy" not in grads:
        everything.pop("entropy")
    wide = next(iter(grads.values())).dtype
    outputs = {}
    for name in needs:
        array = inputs[name]
        assert array is not None
        outputs[f"grad_{name}"] = shape_of(array.shape, wide)
    numbers = {**options.numbers, "grad_filter": options.grad_filter}
    results = call("linear_token_logps_grad", everything, outputs, **numbers)
    return {name: results[f"grad_{name}"] for name in needs}


_linear_token_logps.defvjp(_forward, _backward, symbolic_zeros=True)


# ---- the public function -------------------------------------------------------------------------


def linear_token_logps(
    hidden: Array,
    weight: Array,
    labels: Array,
    *,
    bias: Array | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    lora_a: Array | None = None,
    lora_b: Array | None = None,
    dtype: str | None = None,
    ignore_index: int = -100,
    stats: Sequence[str] = (),
    topk: int = 0,
    memory_limit: int | None = None,
    grad_filter: float | None = None,
    return_grad_hidden: bool | Sequence[str] = False,
) -> TokenLogps:
    """`token_logps` of the logits that a head makes from hidden states, without those logits:
    `prefopt.linear_token_logps` for JAX.

    Args:
        hidden: [..., H] float16, bfloat16, float32 or float64.
        weight: [V, H], any of these dtypes (float64 with float64 hidden, only then).
        labels: [...] any integer dtype, aligned with hidden (nothing is shifted).
        bias: [V]. lora_a, lora_b: [r, H] and [V, r], a low-rank addition to weight.
        logit_scale, softcap, temperature: numbers; the logits are softcap(logit_scale * z) /
            temperature.
        dtype, ignore_index, stats: as in `token_logps`.
        topk: the number of most probable entries to return for each token.
        memory_limit: bytes of workspace, beyond results and gradients; None is 64 MiB.
        grad_filter: where backward makes the logits again, leave out vocabulary entries whose
            probability is below this for each of 256 tokens in turn.
        return_grad_hidden: True for d logps / d hidden, or names out of "logps", "lse", "entropy".

    Returns:
        `TokenLogps`. logps, lse and entropy have gradients by hidden, weight, bias, lora_a and
        lora_b, accumulated in float32 (float64 for float64) and rounded once to their dtype; what
        else is returned has none. Under `jax.vmap` with weight mapped, or differentiated for each
        element, elements run in turn: give hidden a leading axis instead.

    Raises:
        TypeError, ValueError, jax.errors.JaxRuntimeError: as `token_logps`.
    """
    arrays = [as_array("hidden", hidden), as_array("weight", weight), as_array("labels", labels)]
    others = {
        name: optional_array(name, each)
        for name, each in (("bias", bias), ("lora_a", lora_a), ("lora_b", lora_b))
    }
    numbers = (
        ("logit_scale", static_number("logit_scale", logit_scale)),
        ("softcap", static_number("softcap", softcap)),
        ("temperature", static_number("temperature", temperature)),
        ("memory_limit", memory_limit),
    )
    wanted = return_grad_hidden
    options = _check(
        *(signature(each) for each in (*arrays, *others.values())),
        dtype,
        ignore_index,
        stats if isinstance(stats, str) else tuple(stats),
        topk,
        wanted if isinstance(wanted, (bool, str)) else tuple(wanted),
        static_number("grad_filter", grad_filter),
        numbers,
    )
    hidden, weight, labels = arrays
    hidden, weight = as_bfloat16(hidden, dtype), as_bfloat16(weight, dtype)
    others = {k: None if each is None else as_bfloat16(each, dtype) for k, each in others.items()}
    return TokenLogps(**_linear_token_logps(options, hidden, weight, labels, others))
