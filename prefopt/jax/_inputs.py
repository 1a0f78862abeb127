"""What losses take beside log-probabilities, for JAX; see `prefopt._inputs`. No gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import prefopt
from prefopt._inputs import take_share

from ._bridge import as_array, optional_array, remembered, signature, static_number
from ._loss_operator import run_procedure
from ._sequence import sequence_logps

__all__ = ["ld_weights", "mix_reference", "uniforms", "wpo_weights"]


@remembered
def _check_ld(mask: Any, other_lengths: Any, alpha: Any) -> float:
    prefopt.ld_weights(np.zeros(*mask), np.zeros(*other_lengths), alpha)
    return take_share(alpha)


def ld_weights(mask: Array, other_lengths: Array, alpha: float) -> Array:
    """LD-DPO's token weights [B, T], in JAX's default float, for `sequence_logps`; see
    `prefopt.ld_weights`.
    """
    mask, lengths = as_array("mask", mask), as_array("other_lengths", other_lengths)
    share = _check_ld(signature(mask), signature(lengths), static_number("alpha", alpha))
    counts = mask != 0
    shorter = jnp.cumsum(counts, axis=1) <= lengths[:, None]
    weights = jnp.where(counts, jnp.where(shorter, 1.0, share), 0.0)
    return jax.lax.stop_gradient(weights)


@remembered
def _check_wpo(logps: Any, lse: Any, lse2: Any, mask: Any) -> Any:
    first, second, third = (np.zeros(*each) for each in (logps, lse, lse2))
    weights = None if mask is None else np.zeros(*mask)
    return prefopt.wpo_weights(first, second, third, weights).dtype


def wpo_weights(logps: Array, lse: Array, lse2: Array, mask: Array | None = None) -> Array:
    """WPO's weight of each answer [B]; see `prefopt.wpo_weights`. Without x64 the terms are
    float32, which is what NumPy's are made from: the weights differ by some 1e-7 of themselves.
    """
    named = (("logps", logps), ("lse", lse), ("lse2", lse2))
    arrays = [jax.lax.stop_gradient(as_array(name, each)) for name, each in named]
    mask = optional_array("mask", mask)
    dtype = _check_wpo(*(signature(each) for each in (*arrays, mask)))
    terms, first, second = (each.astype(jax.dtypes.canonicalize_dtype(float)) for each in arrays)
    excess = sequence_logps(terms - (second - 2 * first), mask, average=True)
    return jnp.exp(excess).astype(dtype)


def uniforms(seed: int, shape: int | Sequence[int]) -> Array:
    """Random numbers in [0, 1), those of `prefopt.uniforms`; in float32 cut to 24 bits, so that none
    becomes 1. The seed is a Python integer: call this outside jit and pass the numbers in.
    """
    numbers = prefopt.uniforms(static_number("seed", seed), shape)
    if jax.dtypes.canonicalize_dtype(numbers.dtype) != numbers.dtype:
        numbers = np.floor(numbers * 2.0**24) / 2.0**24
    return jnp.asarray(numbers)


def mix_reference(policy: Array, ref: Array, alpha: float = 0.6) -> Array:
    """TR-DPO's update alpha policy + (1 - alpha) ref, in ref's dtype; see `prefopt.mix_reference`.

    Arrays of JAX do not change, so there is no `out`: give up the old ones instead,

        mix = jax.jit(partial(jax.tree.map, mix_reference), donate_argnums=1)
        ref_params = mix(params, ref_params)
    """
    policy, ref = as_array("policy", policy), as_array("ref", ref)
    share = take_share(static_number("alpha", alpha))
    if policy.shape != ref.shape:
        raise ValueError(f"ref: expected the shape of policy {policy.shape}, got {ref.shape}")
    inputs = {"policy_parameters": policy.reshape(-1), "ref_parameters": ref.reshape(-1)}
    mixed: Array = run_procedure("tr_dpo.mix", inputs, {"mix_alpha": share}).mixed
    return mixed.reshape(ref.shape).astype(ref.dtype)
