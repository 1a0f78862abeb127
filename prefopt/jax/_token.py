"""token_logps for JAX: the call, its VJP, the public function.

    logps[...] = x[..., labels] - lse,   lse = log sum_v exp(x[..., v]),   x = logits / temperature

Forward reads the logits once; backward reads them once more and writes the gradient, in the memory
of the logits where XLA can give it up. Kept for backward: logits and labels, the lse in double (a
float32 lse near 12 would carry a rounding of 5e-7 into every probability of its row), and the
entropy if it was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

import prefopt

from ._bridge import (
    Arrays,
    Shape,
    as_array,
    as_bfloat16,
    call,
    cotangent,
    remembered,
    result_like,
    shape_of,
    signature,
    stand_in,
    static_number,
    value_of,
    words_of_doubles,
)

__all__ = ["TokenLogps", "token_logps"]


class TokenLogps(NamedTuple):
    """Results of `token_logps` and `linear_token_logps`, each [...]; None where not asked for."""

    logps: Array
    lse: Array
    entropy: Array | None = None
    correct: Array | None = None
    mean_logit: Array | None = None
    max_logit: Array | None = None
    lse2: Array | None = None
    topk_ids: Array | None = None
    topk_logps: Array | None = None
    grad_hidden: Array | None = None
    grad_hidden_lse: Array | None = None
    grad_hidden_entropy: Array | None = None


class _Options(NamedTuple):
    ignore_index: int
    temperature: float
    results: tuple[tuple[str, Shape], ...]  # name, shape and dtype of each

    @property
    def numbers(self) -> dict[str, Any]:
        return {"ignore_index": self.ignore_index, "temperature": self.temperature}


def ignored_labels(described: tuple[tuple[int, ...], Any], ignore_index: Any) -> tuple[Any, Any]:
    """Stand-ins for labels and ignore_index: every token is ignored, whatever the dtype holds.

    An ignore_index that is no integer stays, to be refused.
    """
    labels = np.zeros(*described)
    is_integer = isinstance(ignore_index, (int, np.integer)) and not isinstance(ignore_index, bool)
    return labels, 0 if is_integer else ignore_index


@remembered
def _check(
    logits: Any, labels: Any, dtype: Any, ignore_index: Any, temperature: Any, stats: Any
) -> _Options:
    ignored, ignored_index = ignored_labels(labels, ignore_index)
    fields = prefopt.token_logps(
        stand_in(logits),
        ignored,
        dtype=dtype,
        ignore_index=ignored_index,
        temperature=temperature,
        stats=stats,
    )
    results = ((name, each) for name, each in fields._asdict().items() if each is not None)
    shapes = tuple((name, result_like(each)) for name, each in results)
    return _Options(int(ignore_index), float(temperature), shapes)


def needs_words(lse: Shape) -> bool:
    """Whether the double lse of a backward has to be kept beside the caller's."""
    return bool(lse.dtype != np.float64)


# ---- the VJP -------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_logps(options: _Options, logits: Array, labels: Array) -> Arrays:
    inputs = {"logits": logits, "labels": labels}
    return call("token_logps", inputs, dict(options.results), **options.numbers)


def _forward(options: _Options, logits: Any, labels: Any) -> tuple[Arrays, Arrays]:
    kept: Arrays = {"logits": value_of(logits), "labels": value_of(labels)}
    outputs = dict(options.results)
    if needs_words(outputs["lse"]):
        outputs["exact_lse"] = words_of_doubles(outputs["lse"].shape)
    results = call("token_logps", kept, outputs, **options.numbers)
    lse = "exact_lse" if "exact_lse" in results else "lse"
    kept[lse] = results[lse]
    if "entropy" in results:
        kept["entropy"] = results["entropy"]
    return {name: results[name] for name, _ in options.results}, kept


def _backward(options: _Options, kept: Arrays, cotangents: Any) -> tuple[Array | None, None]:
    inputs: dict[str, Array | None] = dict(kept)
    for name in ("logps", "lse", "entropy"):
        if name in cotangents:
            inputs[f"grad_{name}"] = cotangent(cotangents[name])
    if inputs.get("grad_entropy") is None:
        inputs.pop("entropy", None)
    if not any(name.startswith("grad_") and each is not None for name, each in inputs.items()):
        return None, None
    logits = kept["logits"]
    outputs = {"grad_logits": shape_of(logits.shape, logits.dtype)}
    results = call("token_logps_grad", inputs, outputs, in_place="logits", **options.numbers)
    return results["grad_logits"], None


_token_logps.defvjp(_forward, _backward, symbolic_zeros=True)


# ---- the public function -------------------------------------------------------------------------


def token_logps(
    logits: Array,
    labels: Array,
    *,
    dtype: str | None = None,
    ignore_index: int = -100,
    temperature: float = 1.0,
    stats: Sequence[str] = (),
) -> TokenLogps:
    """Log-probabilities of `labels` under softmax(logits / temperature), with statistics of the
    same single read: `prefopt.token_logps` for JAX.

    Args:
        logits: [..., V] float16, bfloat16, float32 or float64, read in place.
        labels: [...] any integer dtype, aligned with logits (no shift), in [0, V) or ignore_index.
        dtype: "bfloat16" for logits that hold its bits as uint16; otherwise not needed.
        ignore_index: rows with this label are not read; their results and gradients are 0.
        temperature: a number; every statistic is of logits / temperature.
        stats: any of "entropy", "correct", "mean_logit", "max_logit", "lse2".

    Returns:
        `TokenLogps`, results [...] in float32 (float64 for float64 logits), computed from the exact
        input values. logps, lse and entropy have gradients, the others none. There is no forward
        mode and no second derivative.

    Raises:
        TypeError, ValueError: while tracing, for a wrong dtype, shape or parameter, named.
        ValueError, jax.errors.JaxRuntimeError: when run, for a label out of range, named with its
            index, and on any device that is not a CPU.
    """
    logits, labels = as_array("logits", logits), as_array("labels", labels)
    temperature = static_number("temperature", temperature)
    options = _check(
        signature(logits),
        signature(labels),
        dtype,
        ignore_index,
        temperature,
        stats if isinstance(stats, str) else tuple(stats),
    )
    return TokenLogps(**_token_logps(options, as_bfloat16(logits, dtype), labels))
