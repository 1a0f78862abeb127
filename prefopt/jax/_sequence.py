"""sequence_logps for JAX: sums or averages of token log-probabilities per sequence, and their VJP.

out[b] = sum_t mask[b, t] logps[b, t], divided with average=True by sum_t mask[b, t] or by
normalizer[b]
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import prefopt

from ._bridge import (
    Arrays,
    Shape,
    Static,
    as_array,
    call,
    cotangent,
    optional_array,
    remembered,
    result_like,
    shape_of,
    signature,
    value_of,
)

__all__ = ["sequence_logps"]


class _Options(NamedTuple):
    average: bool
    sums: Shape


@remembered
def _check(logps: Any, mask: Any, cu_seqlens: Any, average: Any, normalizer: Any) -> _Options:
    """On stand-ins that are legal wherever shapes and dtypes are: weights of 0, lengths of 1, and
    offsets that give the last sequence all tokens.
    """
    weights = None if mask is None else np.zeros(*mask)
    lengths = None if normalizer is None else np.ones(*normalizer)
    cuts = None if cu_seqlens is None else np.zeros(*cu_seqlens)
    if cuts is not None and cuts.ndim == 1 and len(logps[0]) == 1:
        cuts[-1:] = np.int64(logps[0][0]).astype(cuts.dtype)
    sums = prefopt.sequence_logps(
        np.zeros(*logps), weights, cu_seqlens=cuts, average=average, normalizer=lengths
    )
    return _Options(bool(average), result_like(sums))


# ---- the VJP -------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sequence_logps(options: _Options, logps: Array, constants: dict[str, Array | None]) -> Array:
    inputs = {"logps": logps, **constants}
    return call("sequence_logps", inputs, {"sums": options.sums}, average=options.average)["sums"]


def _forward(options: _Options, logps: Any, constants: Any) -> tuple[Array, Any]:
    # Linear: the log-probabilities themselves are not needed again, nor is their memory.
    values, kept = value_of(logps), value_of(constants)
    shape = Static((values.shape, values.dtype))
    return _sequence_logps(options, values, kept), (shape, kept)


def _backward(options: _Options, residuals: Any, grad: Any) -> tuple[Array | None, None]:
    shape, constants = residuals
    grad_sums = cotangent(grad)
    if grad_sums is None:
        return None, None
    inputs: dict[str, Array | None] = {"grad_sums": grad_sums, **constants}
    outputs = {"grad_logps": shape_of(*shape.value)}
    results: Arrays = call("sequence_logps_grad", inputs, outputs, average=options.average)
    return results["grad_logps"], None


_sequence_logps.defvjp(_forward, _backward, symbolic_zeros=True)


# ---- the public function -------------------------------------------------------------------------


def sequence_logps(
    logps: Array,
    mask: Array | None = None,
    *,
    cu_seqlens: Array | None = None,
    average: bool = False,
    normalizer: Array | None = None,
) -> Array:
    """Sums (or averages) of token log-probabilities over the tokens of each sequence, in double:
    `prefopt.sequence_logps` for JAX.

    Args:
        logps: [B, T], or packed [N] with `cu_seqlens`; float32 or float64, bfloat16 and float16 are
            widened to float32.
        mask: the same shape, bool or float weights; None counts every position (pass labels !=
            ignore_index). Where it is 0 the log-probability is not read: NaN and inf there do no
            harm.
        cu_seqlens: [B + 1] int32 or int64, from 0 to N, non-decreasing.
        average: divide by the sum of the mask; an empty sequence gives 0.
        normalizer: [B] > 0, with average=True only: divide by these (global lengths, say) instead.

    Returns:
        [B], with a gradient by `logps` alone.

    Raises:
        TypeError, ValueError: while tracing, for a wrong dtype or shape, named.
        ValueError, jax.errors.JaxRuntimeError: when run, for a wrong value, named with its index.
    """
    logps = as_array("logps", logps)
    if logps.dtype in (jnp.bfloat16, jnp.float16):
        logps = logps.astype(jnp.float32)
    constants = {
        name: optional_array(name, each)
        for name, each in (("mask", mask), ("cu_seqlens", cu_seqlens), ("normalizer", normalizer))
    }
    described = [signature(each) for each in constants.values()]
    options = _check(signature(logps), *described[:2], average, described[2])
    return _sequence_logps(options, logps, constants)
