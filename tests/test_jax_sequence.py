"""prefopt.jax.sequence_logps, and a whole training step: tokens, sums, loss, in one program."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

import jax.numpy as jnp  # noqa: E402
from jax_cases import (  # noqa: E402
    FLOATS,
    LABELS,
    RUN_ERRORS,
    exactly,
    normal,
    numpy_dtype,
    plain_tokens,
    same,
    some_labels,
)

import prefopt  # noqa: E402
from prefopt import jax as prefopt_jax  # noqa: E402


def cases(dtype: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Every layout and option, an empty sequence in each."""
    rng = np.random.default_rng(0)
    grid = rng.uniform(-9, 0, (4, 6)).astype(dtype)
    mask = rng.uniform(size=grid.shape) > 0.4
    mask[2] = False
    weights = (rng.uniform(-1, 2, grid.shape) * mask).astype(np.float32)
    grid[~mask] = np.nan  # not read
    packed = rng.uniform(-9, 0, 9).astype(dtype)
    cuts = np.array([0, 2, 2, 9], LABELS)
    lengths = np.array([3.0, 5.0, 1.0, 2.0], dtype)
    return {
        "sums": (np.nan_to_num(grid), {}),
        "bool mask": (grid, {"mask": mask}),
        "float mask": (grid, {"mask": weights}),
        "averages": (grid, {"mask": mask, "average": True}),
        "normalizer": (grid, {"mask": mask, "average": True, "normalizer": lengths}),
        "packed": (packed, {"cu_seqlens": cuts}),
        "packed averages": (packed, {"cu_seqlens": cuts, "average": True}),
    }


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", cases("float32"))
def test_values_and_gradients(dtype: str, case: str) -> None:
    logps, options = cases(dtype)[case]
    expected = prefopt.sequence_logps(logps, **options)
    weights = np.linspace(0.5, 2, len(expected)).astype(dtype)

    def run(x: Any) -> tuple[Any, Any]:
        got = prefopt_jax.sequence_logps(x, **options)
        return (got * weights).sum(), got

    for transform in (lambda f: f, jax.jit):
        slope, got = transform(jax.grad(run, has_aux=True))(jnp.asarray(logps))
        same(got, expected)
        assert slope.dtype == logps.dtype
        rows = np.zeros((*logps.shape, len(expected)))  # d out / d logps, from unit vectors
        for place in np.ndindex(logps.shape):
            unit = np.zeros(logps.shape)
            unit[place] = 1
            rows[place] = prefopt.sequence_logps(unit, **options)
        np.testing.assert_allclose(slope, rows @ weights, rtol=8e-8 if dtype == "float32" else 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_are_widened(dtype: str) -> None:
    logps = normal(dtype, (3, 4), 0)
    same(
        prefopt_jax.sequence_logps(logps),
        prefopt.sequence_logps(logps.astype(np.float32)),
    )
    slope = jax.grad(lambda x: prefopt_jax.sequence_logps(x).sum())(jnp.asarray(logps))
    assert slope.dtype == numpy_dtype(dtype)


def test_vmap() -> None:
    """[N, B, T] and packed: each element alone, offsets of its own."""
    logps = normal("float32", (3, 2, 4), 0)
    mask = np.random.default_rng(1).uniform(size=logps.shape) > 0.5
    over = jax.vmap(lambda x, m: prefopt_jax.sequence_logps(x, m, average=True))
    expected = np.stack(
        [prefopt.sequence_logps(x, m, average=True) for x, m in zip(logps, mask, strict=True)]
    )
    same(jax.jit(over)(logps, mask), expected)
    one_mask = jax.vmap(prefopt_jax.sequence_logps, in_axes=(0, None))(logps, mask[0])
    same(one_mask[1], prefopt.sequence_logps(logps[1], mask[0]))
    packed = logps.reshape(3, 8)
    cuts = np.array([[0, 3, 8], [0, 0, 8], [0, 8, 8]], LABELS)
    run = jax.vmap(lambda x, c: prefopt_jax.sequence_logps(x, cu_seqlens=c))
    got = run(packed, cuts)
    for k in range(3):
        same(got[k], prefopt.sequence_logps(packed[k], cu_seqlens=cuts[k]))
    slopes = jax.vmap(jax.grad(lambda x, m: (prefopt_jax.sequence_logps(x, m) ** 2).sum()))
    sums = np.where(mask, logps, 0).sum(-1, keepdims=True)
    np.testing.assert_array_equal(slopes(logps, mask), 2 * sums * mask)


def test_empty() -> None:
    assert prefopt_jax.sequence_logps(np.zeros((0, 3), np.float32)).shape == (0,)
    same(prefopt_jax.sequence_logps(np.zeros((2, 0), np.float32)), np.zeros(2, np.float32))
    none = prefopt_jax.sequence_logps(np.zeros(0, np.float32), cu_seqlens=np.zeros(1, LABELS))
    assert none.shape == (0,)


def test_refusals() -> None:
    grid, packed = np.zeros((2, 3), np.float32), np.zeros(4, np.float32)
    for logps, options in (
        (packed, {}),
        (grid, {"cu_seqlens": np.array([0, 4], LABELS)}),
        (grid, {"mask": np.zeros((2, 2), bool)}),
        (grid, {"mask": np.zeros((2, 3), np.int32)}),
        (grid, {"normalizer": np.ones(2, np.float32)}),
        (grid, {"normalizer": np.ones(3, np.float32), "average": True}),
        (grid, {"average": 1}),
        (grid.astype(np.int32), {}),
        (packed, {"cu_seqlens": np.array([0.0, 4.0], np.float32)}),
        (packed, {"cu_seqlens": np.zeros((1, 2), LABELS)}),
    ):
        with pytest.raises((TypeError, ValueError)) as numpy_error:
            prefopt.sequence_logps(logps, **options)
        with pytest.raises(numpy_error.type) as error:
            jax.jit(lambda x=logps, o=options: prefopt_jax.sequence_logps(x, **o))()
        assert str(error.value) == str(numpy_error.value)
    for options, message in (
        ({"cu_seqlens": np.array([0, 3, 2, 4], LABELS)}, "cu_seqlens: .* got 2 at index 2"),
        ({"cu_seqlens": np.array([0, 3], LABELS)}, "cu_seqlens: .* number of tokens 4, got 3"),
    ):
        with pytest.raises(RUN_ERRORS, match=message):
            jax.block_until_ready(prefopt_jax.sequence_logps(packed, **options))
    bad = np.array([[0, 1, np.inf]], np.float32)
    with pytest.raises(RUN_ERRORS, match=r"prefopt\.jax\.sequence_logps: mask: expected finite"):
        jax.block_until_ready(prefopt_jax.sequence_logps(grid[:1], bad))


def test_denormals_survive() -> None:
    """XLA flushes denormals on the threads that run its programs; the kernels do not."""
    tiny = np.array([[1e-40, 2e-40], [3e-39, 0.0]], np.float32)
    assert (tiny[0] > 0).all()
    same(jax.jit(prefopt_jax.sequence_logps)(tiny), prefopt.sequence_logps(tiny))
    same(
        jax.jit(lambda x: prefopt_jax.sft_loss(x, nll_tokens=2.0).losses)(tiny[0]),
        prefopt.sft_loss(tiny[0], nll_tokens=2.0).losses,
    )
    same(
        jax.jit(prefopt_jax.kto_kl)(tiny[1], tiny[0]),
        np.float32(prefopt.kto_kl(tiny[1], tiny[0])),
    )


# ---- a whole step --------------------------------------------------------------------------------

VOCAB, WIDTH = 23, 8


def parameters() -> dict[str, Any]:
    shapes = {"embed": (VOCAB, WIDTH), "mix": (WIDTH, WIDTH)}
    return {
        name: normal("float32", shape, k, 0.5) for k, (name, shape) in enumerate(shapes.items())
    }


def hidden_of(params: dict[str, Any], ids: Any) -> Any:
    return jnp.tanh(params["embed"][ids] @ params["mix"])


def plain_step(params: dict[str, Any], ids: Any, labels: Any, ref: Any) -> Any:
    logits = hidden_of(params, ids) @ params["embed"].T
    sums = plain_tokens(logits, labels)["logps"].sum(-1)
    margin = sums[:2] - sums[2:] - (ref[:2] - ref[2:])
    return -jax.nn.log_sigmoid(0.1 * margin).mean()


@pytest.mark.parametrize("linear", [False, True])
def test_a_whole_step(linear: bool) -> None:
    """From ids to the gradient of the parameters, jitted, against JAX's own in float64."""
    params = parameters()
    ids = np.abs(some_labels((4, 7), VOCAB, 3)) % VOCAB
    labels = some_labels((4, 7), VOCAB, 4)
    ref = np.array([-20.0, -18.0, -21.0, -17.0], np.float32)

    def loss(params: dict[str, Any]) -> Any:
        hidden = hidden_of(params, ids)
        if linear:
            logps = prefopt_jax.linear_token_logps(hidden, params["embed"], labels).logps
        else:
            logps = prefopt_jax.token_logps(hidden @ params["embed"].T, labels).logps
        sums = prefopt_jax.sequence_logps(logps, labels != -100)
        return prefopt_jax.dpo_loss(sums[:2], sums[2:], ref[:2], ref[2:], beta=0.1).losses.mean()

    def truth(*values: Any) -> Any:
        given = dict(zip(params, values, strict=True))
        return jax.value_and_grad(plain_step)(given, ids, labels, jnp.asarray(ref, float))

    value, slopes = jax.jit(jax.value_and_grad(loss))(params)
    expected, grads = exactly(truth, *params.values())
    np.testing.assert_allclose(value, expected, rtol=4.5e-8)  # twice the errors measured
    for name, slope in slopes.items():
        np.testing.assert_allclose(slope, grads[name], rtol=0, atol=1.8e-8)
