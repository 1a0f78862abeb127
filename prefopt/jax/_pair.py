"""pair_token_stats for JAX: the call, its VJP, the public function.

Forward reads a policy's and a reference's logits once, together; backward reads them once more and
writes the policy's gradient. The reference is a constant. Kept for backward: both logits and
labels, both lse in double, and KL(p || r) if it was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
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
from ._token import ignored_labels, needs_words

__all__ = ["PairTokenStats", "pair_token_stats"]


class PairTokenStats(NamedTuple):
    """Results of `pair_token_stats`, each [...]; None where a statistic was not named."""

    policy_logps: Array
    ref_logps: Array
    policy_lse: Array
    ref_lse: Array
    ref_policy_kl: Array | None = None
    policy_ref_kl: Array | None = None
    plus_logps: Array | None = None
    minus_logps: Array | None = None


class _Options(NamedTuple):
    ignore_index: int
    temperature: float
    perturbation: float
    results: tuple[tuple[str, Shape], ...]

    @property
    def numbers(self) -> dict[str, Any]:
        """Those that both directions take."""
        return {"ignore_index": self.ignore_index, "temperature": self.temperature}


@remembered
def _check(
    policy_logits: Any,
    ref_logits: Any,
    labels: Any,
    dtype: Any,
    ignore_index: Any,
    temperature: Any,
    perturbation: Any,
    stats: Any,
) -> _Options:
    ignored, ignored_index = ignored_labels(labels, ignore_index)
    fields = prefopt.pair_token_stats(
        stand_in(policy_logits),
        stand_in(ref_logits),
        ignored,
        dtype=dtype,
        ignore_index=ignored_index,
        temperature=temperature,
        perturbation=perturbation,
        stats=stats,
    )
    results = ((name, each) for name, each in fields._asdict().items() if each is not None)
    shapes = tuple((name, result_like(each)) for name, each in results)
    return _Options(int(ignore_index), float(temperature), float(perturbation), shapes)


# ---- the VJP -------------------------------------------------------------------------------------


def _run(options: _Options, inputs: Arrays, outputs: dict[str, Shape]) -> Arrays:
    perturbation = options.perturbation
    return call("pair_token_stats", inputs, outputs, perturbation=perturbation, **options.numbers)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pair_token_stats(
    options: _Options, policy_logits: Array, ref_logits: Array, labels: Array
) -> Arrays:
    inputs = {"policy_logits": policy_logits, "ref_logits": ref_logits, "labels": labels}
    return _run(options, inputs, dict(options.results))


def _forward(
    options: _Options, policy_logits: Any, ref_logits: Any, labels: Any
) -> tuple[Arrays, Arrays]:
    kept: Arrays = {
        "policy_logits": value_of(policy_logits),
        "ref_logits": value_of(ref_logits),
        "labels": value_of(labels),
    }
    outputs = dict(options.results)
    words = needs_words(outputs["policy_lse"])
    if words:
        for name in ("policy_lse", "ref_lse"):
            outputs[f"exact_{name}"] = words_of_doubles(outputs[name].shape)
    results = _run(options, kept, outputs)
    for name in ("policy_lse", "ref_lse"):
        lse = f"exact_{name}" if words else name
        kept[lse] = results[lse]
    if "policy_ref_kl" in results:
        kept["policy_ref_kl"] = results["policy_ref_kl"]
    return {name: results[name] for name, _ in options.results}, kept


def _backward(options: _Options, kept: Arrays, cotangents: Any) -> tuple[Array | None, None, None]:
    grads = {
        f"grad_{name}": cotangent(cotangents[name])
        for name in ("policy_logps", "ref_policy_kl", "policy_ref_kl")
        if name in cotangents
    }
    if all(each is None for each in grads.values()):
        return None, None, None
    inputs: dict[str, Array | None] = {**kept, **grads}
    if inputs.get("grad_policy_ref_kl") is None:
        inputs.pop("policy_ref_kl", None)
    policy = kept["policy_logits"]
    outputs = {"grad_policy_logits": shape_of(policy.shape, policy.dtype)}
    results = call(
        "pair_token_stats_grad", inputs, outputs, in_place="policy_logits", **options.numbers
    )
    return results["grad_policy_logits"], None, None


_pair_token_stats.defvjp(_forward, _backward, symbolic_zeros=True)


# ---- the public function -------------------------------------------------------------------------


def pair_token_stats(
    policy_logits: Array,
    ref_logits: Array,
    labels: Array,
    *,
    dtype: str | None = None,
    ignore_index: int = -100,
    temperature: float = 1.0,
    perturbation: float = 0.01,
    stats: Sequence[str] = (),
) -> PairTokenStats:
    """Both log-probabilities of each label, and divergences of the two rows, in one read of both:
    `prefopt.pair_token_stats` for JAX.

    Args:
        policy_logits, ref_logits: [..., V] of one shape and dtype, as `token_logps` takes logits.
        labels, dtype, ignore_index, temperature: as in `token_logps`.
        perturbation: eps in (0, 1) of plus_logps and minus_logps.
        stats: any of "ref_policy_kl", "policy_ref_kl", "plus_logps", "minus_logps".

    Returns:
        `PairTokenStats`, results [...] in float32 (float64 for float64 logits). policy_logps,
        ref_policy_kl and policy_ref_kl have gradients by policy_logits; the others have none, and
        the reference has none.

    Raises:
        TypeError, ValueError, jax.errors.JaxRuntimeError: as `token_logps`.
    """
    policy = as_array("policy_logits", policy_logits)
    ref, labels = as_array("ref_logits", ref_logits), as_array("labels", labels)
    options = _check(
        signature(policy),
        signature(ref),
        signature(labels),
        dtype,
        ignore_index,
        static_number("temperature", temperature),
        static_number("perturbation", perturbation),
        stats if isinstance(stats, str) else tuple(stats),
    )
    policy, ref = as_bfloat16(policy, dtype), as_bfloat16(ref, dtype)
    return PairTokenStats(**_pair_token_stats(options, policy, ref, labels))
