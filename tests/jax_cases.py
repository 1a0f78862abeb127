"""What the JAX tests share: the dtypes of this configuration, inputs, truth in float64.

Every test runs as it is configured: without x64, and once more with it, from test_jax_ffi.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

X64 = bool(jax.config.jax_enable_x64)
FLOATS = ("float32", "float64") if X64 else ("float32",)
LOGIT_DTYPES = ("float16", "bfloat16", *FLOATS)
LABELS = np.int64 if X64 else np.int32  # what JAX makes of integers
# What a handler's error becomes: the latter where XLA runs the program on a thread of its own.
RUN_ERRORS = (ValueError, jax.errors.JaxRuntimeError)
STATS = ("entropy", "correct", "mean_logit", "max_logit", "lse2")


def numpy_dtype(name: str) -> Any:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def result_dtype(name: str) -> Any:
    """Of what is computed from arrays of that dtype."""
    return np.dtype(np.float64 if name == "float64" else np.float32)


def normal(dtype: str, shape: tuple[int, ...], seed: int, scale: float = 3.0) -> Any:
    values = scale * np.random.default_rng(seed).standard_normal(shape)
    return values.astype(numpy_dtype(dtype))


def some_labels(shape: tuple[int, ...], vocab: int, seed: int, dtype: Any = LABELS) -> Any:
    """With every fifth one ignored."""
    labels = np.random.default_rng(seed).integers(0, vocab, shape).astype(dtype)
    labels.reshape(-1)[1::5] = -100
    return labels


def same(ours: Any, expected: Any) -> None:
    """Bit for bit, NaN beside NaN, dtype included; None beside None."""
    if ours is None or expected is None:
        assert ours is None
        assert expected is None
        return
    ours, expected = np.asarray(ours), np.asarray(expected)
    if expected.dtype == np.int64 and not X64:
        expected = expected.astype(np.int32)
    assert ours.dtype == expected.dtype
    np.testing.assert_array_equal(ours, expected)


def exactly(function: Callable[..., Any], *arrays: Any) -> Any:
    """function of the arrays' exact values, in float64, whatever the configuration."""
    with jax.enable_x64(True):
        wide = [
            jnp.asarray(np.asarray(each, np.float64) if each.dtype.kind in "fV" else each)
            for each in arrays
        ]
        return jax.tree.map(np.asarray, jax.jit(function)(*wide))


# ---- plain forms, to be differentiated by JAX ----------------------------------------------------


def plain_tokens(logits: Any, labels: Any, temperature: float = 1.0) -> dict[str, Any]:
    """token_logps with jnp alone; ignored tokens give 0."""
    x = logits / temperature
    counts = labels != -100
    lse = jax.nn.logsumexp(x, axis=-1)
    logp = jax.nn.log_softmax(x, axis=-1)
    at = jnp.where(counts, labels, 0).astype(int)
    chosen = jnp.take_along_axis(logp, at[..., None], axis=-1)[..., 0]
    entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
    results = {"logps": chosen, "lse": lse, "entropy": entropy}
    return {name: jnp.where(counts, each, 0.0) for name, each in results.items()}


def weighted(results: dict[str, Any], weights: dict[str, Any]) -> Any:
    """One number from several results, each with weights of its own."""
    return sum(jnp.sum(results[name] * jnp.asarray(each)) for name, each in weights.items())
