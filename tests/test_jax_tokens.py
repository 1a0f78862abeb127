"""prefopt.jax.token_logps and pair_token_stats: NumPy's bits, JAX's gradients and transformations."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

import jax.numpy as jnp  # noqa: E402
from jax_cases import (  # noqa: E402
    FLOATS,
    LABELS,
    LOGIT_DTYPES,
    RUN_ERRORS,
    STATS,
    X64,
    exactly,
    normal,
    plain_tokens,
    result_dtype,
    same,
    some_labels,
    weighted,
)

import prefopt  # noqa: E402
from prefopt import _core  # noqa: E402
from prefopt import jax as prefopt_jax  # noqa: E402
from prefopt._pair import PAIR_STATS  # noqa: E402

VOCAB = 37
SHAPE = (3, 4)
# Against float64, for weights of order 1: twice the worst error measured, which for half types is
# one rounding on the way out (2.7e-7, 2.8e-15, 4.8e-4, 3.4e-3).
BUDGET = {"float32": 5.3e-7, "float64": 5.5e-15, "float16": 9.5e-4, "bfloat16": 6.7e-3}


def batch(dtype: str, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> tuple[Any, Any]:
    return normal(dtype, (*shape, VOCAB), seed), some_labels(shape, VOCAB, seed + 1)


def weights_of(names: Any, shape: tuple[int, ...] = SHAPE) -> dict[str, Any]:
    return {name: np.cos(np.arange(np.prod(shape)) + k).reshape(shape).astype(np.float32)
            for k, name in enumerate(names)}  # fmt: skip


def total(logits: Any, labels: Any, weights: dict[str, Any], temperature: float = 1.0) -> Any:
    """sum of weights times results, through prefopt.jax."""
    stats = ("entropy",) if "entropy" in weights else ()
    out = prefopt_jax.token_logps(logits, labels, stats=stats, temperature=temperature)
    return weighted(out._asdict(), weights)


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", LOGIT_DTYPES)
@pytest.mark.parametrize("shape", [(), (5,), SHAPE, (2, 1, 3)], ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_values_are_those_of_numpy(dtype: str, shape: tuple[int, ...], compiled: bool) -> None:
    logits, labels = batch(dtype, shape)
    options: dict[str, Any] = {"stats": STATS, "temperature": 0.7}

    def run(x: Any, y: Any) -> Any:
        return prefopt_jax.token_logps(x, y, **options)

    got = (jax.jit(run) if compiled else run)(jnp.asarray(logits), jnp.asarray(labels))
    expected = prefopt.token_logps(logits, labels, **options)
    for name, each in got._asdict().items():
        same(each, getattr(expected, name))
    assert got.logps.dtype == result_dtype(dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, LABELS])
def test_labels_of_any_integer_dtype(dtype: Any) -> None:
    logits, labels = batch("float32")
    labels = np.abs(labels % VOCAB).astype(dtype)
    for ignore_index in (-100, 3):
        same(
            prefopt_jax.token_logps(logits, labels, ignore_index=ignore_index).logps,
            prefopt.token_logps(logits, labels, ignore_index=ignore_index).logps,
        )


def test_raw_bfloat16() -> None:
    logits, labels = batch("bfloat16")
    got = prefopt_jax.token_logps(logits.view(np.uint16), labels, dtype="bfloat16")
    same(got.logps, prefopt.token_logps(logits, labels).logps)
    with pytest.raises(TypeError, match="dtype"):
        prefopt_jax.token_logps(logits.astype(np.float32), labels, dtype="bfloat16")


def test_special_rows() -> None:
    logits = normal("float32", (6, VOCAB), 1)
    logits[0, 3] = np.nan
    logits[1, :20] = -np.inf
    logits[2] = -np.inf
    logits[3, 5] = np.inf
    logits[4, 7] = -np.inf
    labels = np.array([1, 30, 2, 5, 7, -100], LABELS)
    got = prefopt_jax.token_logps(logits, labels, stats=STATS)
    expected = prefopt.token_logps(logits, labels, stats=STATS)
    for name, each in got._asdict().items():
        same(each, getattr(expected, name))
    slope = jax.grad(lambda x: prefopt_jax.token_logps(x, labels).logps.sum())
    grad = np.asarray(slope(jnp.asarray(logits)))
    same(grad, gradient_of_core(logits, labels, {"logps": np.ones(6, np.float32)}))
    assert np.isnan(grad[[0, 2, 3]]).all()
    assert (grad[5] == 0).all()
    assert (grad[1, :20] == 0).all()


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)], ids=str)
def test_empty_batches(shape: tuple[int, ...]) -> None:
    logits, labels = np.zeros((*shape, 5), np.float32), np.zeros(shape, LABELS)

    def loss(x: Any) -> Any:
        return prefopt_jax.token_logps(x, labels).logps.sum()

    assert prefopt_jax.token_logps(logits, labels).logps.shape == shape
    assert jax.jit(jax.grad(loss))(jnp.asarray(logits)).shape == logits.shape


# ---- gradients -----------------------------------------------------------------------------------


def gradient_of_core(logits: Any, labels: Any, weights: dict[str, Any], **options: Any) -> Any:
    """The kernels' gradient with the lse in double, which NumPy's function does not return."""
    temperature = options.get("temperature", 1.0)
    stats = ("entropy",) if "entropy" in weights else ()
    values = _core.token_logps(logits, labels, None, -100, temperature, stats, True)
    given = [weights.get(name) for name in ("logps", "entropy", "lse")]
    return _core.token_logps_grad(
        logits, labels, values[1], *given, values[2] if "entropy" in weights else None, None,
        None, -100, temperature, None,
    )  # fmt: skip


CHOICES = [("logps",), ("lse",), ("entropy",), ("logps", "entropy"), ("logps", "lse", "entropy")]


@pytest.mark.parametrize("dtype", LOGIT_DTYPES)
@pytest.mark.parametrize("names", CHOICES, ids=" ".join)
def test_gradients(dtype: str, names: tuple[str, ...]) -> None:
    logits, labels = batch(dtype)
    weights = weights_of(names)
    got = jax.grad(total)(jnp.asarray(logits), labels, weights, 0.7)
    assert got.dtype == logits.dtype
    expected = exactly(jax.grad(lambda x: weighted(plain_tokens(x, labels, 0.7), weights)), logits)
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=0, atol=BUDGET[dtype])
    wide = {key: each.astype(result_dtype(dtype)) for key, each in weights.items()}
    same(got, gradient_of_core(logits, labels, wide, temperature=0.7))
    compiled = jax.jit(jax.value_and_grad(total), static_argnums=3)
    value, grad = compiled(jnp.asarray(logits), labels, weights, 0.7)
    same(grad, got)
    rtol = 1e-15 if dtype == "float64" else 1e-6  # XLA adds in another order: 5.5e-16, 5.9e-7
    np.testing.assert_allclose(value, total(logits, labels, weights, 0.7), rtol=rtol)


def test_no_gradient_where_none_is_defined() -> None:
    """correct, mean_logit, max_logit and lse2 are constants to a derivative."""
    logits, labels = batch("float32")

    def loss(x: Any) -> Any:
        out = prefopt_jax.token_logps(x, labels, stats=STATS)
        return (out.mean_logit + out.max_logit + out.lse2 + out.correct).sum()

    assert (jax.grad(loss)(jnp.asarray(logits)) == 0).all()


def test_derivatives_that_do_not_exist() -> None:
    logits, labels = batch("float32")
    weights = weights_of(["logps"])

    def slope(x: Any) -> Any:
        return jax.grad(total)(x, labels, weights).sum()

    with pytest.raises(NotImplementedError, match=r"prefopt\.jax\.token_logps has no second"):
        jax.grad(slope)(jnp.asarray(logits))
    with pytest.raises(NotImplementedError, match=r"prefopt\.jax\.token_logps has no second"):
        jax.hessian(total)(jnp.asarray(logits), labels, weights)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: total(x, labels, weights), (jnp.asarray(logits),), (logits,))


# ---- transformations -----------------------------------------------------------------------------


def test_vmap_adds_leading_axes() -> None:
    logits, labels = batch("float32", (2, 3, 4))
    weights = weights_of(["logps"], (4,))
    expected = prefopt.token_logps(logits, labels).logps

    def logps(x: Any, y: Any) -> Any:
        return prefopt_jax.token_logps(x, y).logps

    same(jax.vmap(jax.vmap(logps))(logits, labels), expected)
    same(jax.jit(jax.vmap(logps, in_axes=(1, 1), out_axes=1))(logits, labels), expected)
    rows = jax.vmap(jax.vmap(jax.vmap(logps)))(logits, labels)
    same(rows, expected)
    per_row = jax.vmap(jax.vmap(jax.grad(lambda x, y: total(x, y, weights))))
    whole = jax.grad(lambda x: jnp.sum(logps(x, labels) * weights["logps"]))(jnp.asarray(logits))
    same(jax.jit(per_row)(logits, labels), whole)
    outside = jax.grad(
        lambda x: jax.vmap(jax.vmap(lambda a, b: total(a, b, weights)))(x, labels).sum()
    )
    same(outside(jnp.asarray(logits)), whole)


@pytest.mark.parametrize("compiled", [False, True])
def test_vmap_of_one_argument(compiled: bool) -> None:
    """What is not mapped is repeated by its strides: several labels of the same logits."""
    logits, _ = batch("float32", (4,))
    labels = some_labels((3, 4), VOCAB, 5)
    weights = weights_of(["logps", "lse"], (4,))
    repeated = np.broadcast_to(logits, (3, *logits.shape))
    transform = jax.jit if compiled else lambda function: function

    def logps(x: Any, y: Any) -> Any:
        return prefopt_jax.token_logps(x, y).logps

    over_labels = transform(jax.vmap(logps, in_axes=(None, 0)))
    same(over_labels(logits, labels), prefopt.token_logps(repeated, labels).logps)
    over_logits = transform(jax.vmap(logps, in_axes=(0, None)))
    same(over_logits(repeated, labels[0]), over_logits(repeated, labels[0]))
    slopes = transform(jax.vmap(jax.grad(lambda x, y: total(x, y, weights)), in_axes=(None, 0)))
    got = slopes(jnp.asarray(logits), labels)
    for k in range(3):
        same(got[k], gradient_of_core(logits, labels[k], weights))


def test_scan_and_checkpoint() -> None:
    """Chunks of a long sequence, forward values dropped and made again."""
    logits, labels = batch("float32", (6, 4))

    @jax.checkpoint
    def chunk(x: Any, y: Any) -> Any:
        return prefopt_jax.token_logps(jnp.sin(x), y).logps.sum()

    def loss(x: Any) -> Any:
        def step(carry: Any, each: Any) -> Any:
            return carry + chunk(*each), None

        return jax.lax.scan(step, jnp.float32(0), (x, jnp.asarray(labels)))[0]

    expected = exactly(jax.grad(lambda x: plain_tokens(jnp.sin(x), labels)["logps"].sum()), logits)
    got = jax.jit(jax.grad(loss))(jnp.asarray(logits))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1.3e-7)  # twice the error measured


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_memory_of_donated_logits(dtype: str) -> None:
    """The gradient takes the memory of logits that are given up, and a copy of others."""
    logits, labels = batch(dtype)
    slope = jax.grad(lambda x: prefopt_jax.token_logps(x, labels).logps.sum())
    expected = np.asarray(slope(jnp.asarray(logits)))
    given = jnp.asarray(logits) * 1  # memory of XLA's own
    address = given.unsafe_buffer_pointer()
    got = jax.jit(slope, donate_argnums=0)(given)
    assert got.unsafe_buffer_pointer() == address
    assert given.is_deleted()
    same(got, expected)
    kept = jnp.asarray(logits) * 1
    both = jax.jit(lambda x: (slope(x), x + 0))
    for each in range(2):
        same(both(kept)[each], (expected, logits)[each])
    same(kept, logits)
    same(jax.jit(lambda x: slope(x) + x)(kept), expected + logits)


def test_many_threads() -> None:
    logits, labels = batch("float32", (64,))
    compiled = jax.jit(lambda x, y: prefopt_jax.token_logps(x, y, stats=STATS))
    expected = [np.asarray(each) for each in compiled(logits, labels) if each is not None]

    def run(_: int) -> list[Any]:
        return [np.asarray(each) for each in compiled(logits, labels) if each is not None]

    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(run, range(16)):
            for ours, theirs in zip(results, expected, strict=True):
                same(ours, theirs)


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
def test_refused_while_tracing(compiled: bool) -> None:
    """The messages of NumPy, which the same checks write."""
    logits, labels = (jnp.asarray(each) for each in batch("float32"))
    cases: list[tuple[Any, Any, dict[str, Any]]] = [
        (logits, labels[1:], {}),
        (logits, labels[..., None], {}),
        (logits.astype(int), labels, {}),
        (logits, labels * 1.0, {}),
        (logits, labels != 0, {}),
        (logits[..., :0], labels, {}),
        (logits[0, 0, 0], labels, {}),
        (logits, labels, {"temperature": 0.0}),
        (logits, labels, {"temperature": "hot"}),
        (logits, labels, {"temperature": np.nan}),
        (logits, labels, {"ignore_index": 1.5}),
        (logits, labels, {"stats": "entropy"}),
        (logits, labels, {"stats": ("entropie",)}),
        (logits, labels, {"stats": ([],)}),
        (logits, labels, {"dtype": "float16"}),
    ]
    for x, y, options in cases:
        with pytest.raises((TypeError, ValueError)) as numpy_error:
            prefopt.token_logps(np.asarray(x), np.asarray(y), **options)

        def run(a: Any, b: Any, options: dict[str, Any] = options) -> Any:
            return prefopt_jax.token_logps(a, b, **options)

        with pytest.raises(numpy_error.type) as error:
            (jax.jit(run) if compiled else run)(x, y)
        assert str(error.value) == str(numpy_error.value)


def test_refused_as_arguments() -> None:
    logits, labels = batch("float32")
    with pytest.raises(TypeError, match=r"logits: expected a jax\.Array, got list"):
        prefopt_jax.token_logps(logits.tolist(), labels)
    with pytest.raises(TypeError, match="temperature: expected a number known while tracing"):
        jax.jit(lambda t: prefopt_jax.token_logps(logits, labels, temperature=t))(0.7)
    got = prefopt_jax.token_logps(logits, labels, temperature=jnp.asarray(0.5))
    same(got.logps, prefopt.token_logps(logits, labels, temperature=0.5).logps)


@pytest.mark.parametrize("compiled", [False, True])
def test_refused_when_run(compiled: bool) -> None:
    """A label out of range: an error of the runtime that names it, not a wrong number."""
    logits, labels = batch("float32")
    labels[1, 2] = VOCAB

    def run(x: Any, y: Any) -> Any:
        return prefopt_jax.token_logps(x, y).logps

    message = (
        rf"INVALID_ARGUMENT: prefopt\.jax\.token_logps: labels: expected -100 \(ignored\) or "
        rf"0 <= label < {VOCAB}, got {VOCAB} at index 6"
    )
    with pytest.raises(RUN_ERRORS, match=message):
        jax.block_until_ready((jax.jit(run) if compiled else run)(logits, labels))
    with pytest.raises(RUN_ERRORS, match=message):
        jax.block_until_ready(jax.jit(jax.vmap(run))(logits, labels))
    slope = jax.jit(jax.grad(lambda x: run(x, labels).sum()))
    with pytest.raises(RUN_ERRORS, match="labels: expected"):
        jax.block_until_ready(slope(logits))


# ---- pair_token_stats ----------------------------------------------------------------------------


def pair(dtype: str, shape: tuple[int, ...] = SHAPE) -> tuple[Any, Any, Any]:
    policy, labels = batch(dtype, shape)
    return policy, (policy + normal(dtype, policy.shape, 9, 0.5)).astype(policy.dtype), labels


def plain_pair(policy: Any, ref: Any, labels: Any, temperature: float) -> dict[str, Any]:
    """What has a gradient, with jnp alone."""
    log_p = jax.nn.log_softmax(policy / temperature, axis=-1)
    log_r = jax.nn.log_softmax(ref / temperature, axis=-1)
    counts = labels != -100
    results = {
        "policy_logps": plain_tokens(policy, labels, temperature)["logps"],
        "ref_policy_kl": jnp.sum(jnp.exp(log_r) * (log_r - log_p), axis=-1),
        "policy_ref_kl": jnp.sum(jnp.exp(log_p) * (log_p - log_r), axis=-1),
    }
    return {name: jnp.where(counts, each, 0.0) for name, each in results.items()}


@pytest.mark.parametrize("dtype", LOGIT_DTYPES)
def test_pair_values_are_those_of_numpy(dtype: str) -> None:
    arrays = pair(dtype)
    options: dict[str, Any] = {"stats": PAIR_STATS, "temperature": 0.7, "perturbation": 0.1}
    expected = prefopt.pair_token_stats(*arrays, **options)
    for transform in (lambda f: f, jax.jit, jax.vmap):
        got = transform(lambda *each: prefopt_jax.pair_token_stats(*each, **options))(*arrays)
        for name, each in got._asdict().items():
            same(each, getattr(expected, name))
    few = prefopt_jax.pair_token_stats(*arrays)
    assert few[4:] == (None,) * 4


PAIR_CHOICES = [
    ("policy_logps",),
    ("ref_policy_kl",),
    ("policy_ref_kl",),
    ("policy_logps", "ref_policy_kl", "policy_ref_kl"),
]


@pytest.mark.parametrize("dtype", LOGIT_DTYPES)
@pytest.mark.parametrize("names", PAIR_CHOICES, ids=" ".join)
def test_pair_gradients(dtype: str, names: tuple[str, ...]) -> None:
    policy, ref, labels = pair(dtype)
    weights = weights_of(names)

    def loss(x: Any, y: Any) -> Any:
        out = prefopt_jax.pair_token_stats(x, y, labels, stats=PAIR_STATS[:2], temperature=0.7)
        return weighted(out._asdict(), weights)

    def plain(x: Any, y: Any) -> Any:
        return weighted(plain_pair(x, y, labels, 0.7), weights)

    got, by_ref = jax.grad(loss, (0, 1))(jnp.asarray(policy), jnp.asarray(ref))
    assert got.dtype == policy.dtype
    assert (by_ref == 0).all()  # the reference is a constant
    expected = exactly(jax.grad(plain), policy, ref)
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=0, atol=BUDGET[dtype])
    same(jax.jit(jax.grad(loss))(policy, ref), got)


def test_pair_gradient_under_vmap_and_donation() -> None:
    policy, ref, labels = pair("float32")

    def loss(x: Any, y: Any, z: Any) -> Any:
        out = prefopt_jax.pair_token_stats(x, y, z, stats=("policy_ref_kl",))
        return out.policy_logps.sum() + out.policy_ref_kl.sum()

    expected = jax.grad(loss)(jnp.asarray(policy), ref, labels)
    same(jax.jit(jax.vmap(jax.grad(loss)))(policy, ref, labels), expected)
    one_ref = np.broadcast_to(ref[:1], ref.shape)
    same(
        jax.vmap(jax.grad(loss), in_axes=(0, None, 0))(policy, jnp.asarray(ref[0]), labels),
        jax.grad(loss)(jnp.asarray(policy), one_ref, labels),
    )
    given = jnp.asarray(policy) * 1
    address = given.unsafe_buffer_pointer()
    got = jax.jit(jax.grad(loss), donate_argnums=0)(given, ref, labels)
    assert got.unsafe_buffer_pointer() == address
    same(got, expected)


def test_pair_refusals() -> None:
    policy, ref, labels = pair("float32")
    for x, y, z, options in (
        (policy, ref[1:], labels, {}),
        (policy, ref.astype(np.float16), labels, {}),
        (policy, ref, labels, {"perturbation": 1.0}),
        (policy, ref, labels, {"stats": ("kl",)}),
    ):
        with pytest.raises((TypeError, ValueError)) as numpy_error:
            prefopt.pair_token_stats(x, y, z, **options)
        with pytest.raises(numpy_error.type) as error:
            prefopt_jax.pair_token_stats(x, y, z, **options)
        assert str(error.value) == str(numpy_error.value)
    labels[0, 0] = -1
    with pytest.raises(RUN_ERRORS, match=r"pair_token_stats: labels: .* got -1"):
        jax.block_until_ready(prefopt_jax.pair_token_stats(policy, ref, labels))


def test_configuration() -> None:
    """The dtypes that this run claims to test."""
    assert (prefopt_jax.token_logps(*batch(FLOATS[-1])).logps.dtype == np.float64) == X64
