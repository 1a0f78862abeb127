"""prefopt.jax.linear_token_logps: NumPy's bits, JAX's gradients by both ways, transformations."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

import jax.numpy as jnp  # noqa: E402
from jax_cases import (  # noqa: E402
    FLOATS,
    LABELS,
    RUN_ERRORS,
    STATS,
    exactly,
    normal,
    plain_tokens,
    result_dtype,
    same,
    some_labels,
    weighted,
)

import prefopt  # noqa: E402
from prefopt import jax as prefopt_jax  # noqa: E402

HIDDEN, VOCAB, RANK = 12, 41, 3
SHAPE = (3, 4)
NAMES = ("hidden", "weight", "bias", "lora_a", "lora_b")
OPTIONS: dict[str, Any] = {"logit_scale": 1.2, "softcap": 6.0, "temperature": 0.8}
# dtypes of hidden and of everything else
KINDS = [("float16", "float16"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")]
KINDS += [(name, name) for name in FLOATS]
# Against float64, for weights of order 1: twice the worst error measured, which for half types is
# one rounding on the way out (1.2e-6, 3.5e-15, 1.8e-3, 1.3e-2).
BUDGET = {"float32": 2.4e-6, "float64": 7e-15, "float16": 3.7e-3, "bfloat16": 2.6e-2}


def batch(kind: tuple[str, str] = ("float32", "float32"), seed: int = 0) -> dict[str, Any]:
    shapes = ((*SHAPE, HIDDEN), (VOCAB, HIDDEN), (VOCAB,), (RANK, HIDDEN), (VOCAB, RANK))
    dtypes = (kind[0], *[kind[1]] * 4)
    made = {
        name: normal(dtype, shape, seed + k, 0.7)
        for k, (name, shape, dtype) in enumerate(zip(NAMES, shapes, dtypes, strict=True))
    }
    return made | {"labels": some_labels(SHAPE, VOCAB, seed + 9)}


def arrays_of(given: dict[str, Any]) -> dict[str, Any]:
    return {name: jnp.asarray(each) for name, each in given.items()}


WEIGHTS = {
    name: np.cos(np.arange(np.prod(SHAPE)) + k).reshape(SHAPE).astype(np.float32)
    for k, name in enumerate(("logps", "lse", "entropy"))
}


def total(given: dict[str, Any], names: Any, **options: Any) -> Any:
    """sum of weights times results, through prefopt.jax."""
    out = prefopt_jax.linear_token_logps(**given, stats=("entropy",), **OPTIONS, **options)
    return weighted(out._asdict(), {name: WEIGHTS[name] for name in names})


def plain(given: dict[str, Any], labels: Any, names: Any) -> Any:
    """The same with jnp alone."""
    logits = given["hidden"] @ given["weight"].T
    if "lora_a" in given:
        logits = logits + given["hidden"] @ given["lora_a"].T @ given["lora_b"].T
    logits = logits + given.get("bias", 0.0)
    capped = OPTIONS["softcap"] * jnp.tanh(OPTIONS["logit_scale"] * logits / OPTIONS["softcap"])
    results = plain_tokens(capped, labels, OPTIONS["temperature"])
    return weighted(results, {name: WEIGHTS[name] for name in names})


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
@pytest.mark.parametrize("compiled", [False, True])
def test_values_are_those_of_numpy(kind: tuple[str, str], compiled: bool) -> None:
    given = batch(kind)
    options = {**OPTIONS, "stats": STATS, "topk": 3, "return_grad_hidden": ("logps", "entropy")}

    def run(arrays: Any) -> Any:
        return prefopt_jax.linear_token_logps(**arrays, **options)

    got = (jax.jit(run) if compiled else run)(arrays_of(given))
    expected = prefopt.linear_token_logps(**given, **options)
    for name, each in got._asdict().items():
        same(each, getattr(expected, name))
    assert got.logps.dtype == result_dtype(kind[0])
    assert got.grad_hidden_lse is None


def test_plain_call_and_memory_limit() -> None:
    given = batch()
    few = [given[name] for name in ("hidden", "weight", "labels")]
    expected = prefopt.linear_token_logps(*few)
    same(prefopt_jax.linear_token_logps(*few).logps, expected.logps)
    same(prefopt_jax.linear_token_logps(*few, memory_limit=2 << 20).logps, expected.logps)
    assert prefopt_jax.linear_token_logps(*few)[2:] == (None,) * 10


def test_rows_out_of_the_ordinary() -> None:
    """A bias of -inf, NaN in a token, an empty batch, every label ignored."""
    given = batch()
    given["bias"][[2, 5]] = -np.inf
    given["hidden"][1, 2, 0] = np.nan
    for labels in (given["labels"], np.full(SHAPE, -100, LABELS)):
        given["labels"] = labels
        got = prefopt_jax.linear_token_logps(**given, stats=STATS, return_grad_hidden=True)
        expected = prefopt.linear_token_logps(**given, stats=STATS, return_grad_hidden=True)
        for name, each in got._asdict().items():
            same(each, getattr(expected, name))
    empty = {**given, "hidden": given["hidden"][:0], "labels": given["labels"][:0]}
    assert prefopt_jax.linear_token_logps(**empty).logps.shape == (0, SHAPE[1])
    slopes = jax.grad(
        lambda each: prefopt_jax.linear_token_logps(**each).logps.sum(), allow_int=True
    )
    grads = slopes(arrays_of(empty))
    assert grads["hidden"].shape == (0, SHAPE[1], HIDDEN)
    assert (grads["weight"] == 0).all()


# ---- gradients -----------------------------------------------------------------------------------

NEEDS = [("hidden",), ("weight",), ("hidden", "weight"), ("lora_a", "lora_b"), NAMES]
CHOICES = [("logps",), ("lse", "entropy"), ("logps", "lse", "entropy")]


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
@pytest.mark.parametrize("needs", NEEDS, ids=" ".join)
@pytest.mark.parametrize("names", CHOICES, ids=" ".join)
def test_gradients(kind: tuple[str, str], needs: tuple[str, ...], names: tuple[str, ...]) -> None:
    """By every choice of what is trained: a frozen head alone takes the way without a second pass."""
    given = batch(kind)
    labels = given["labels"]

    def loss(leaves: dict[str, Any]) -> Any:
        return total({**arrays_of(given), **leaves}, names)

    def truth(*values: Any) -> Any:
        inside = dict(zip([n for n in given if n != "labels"], values, strict=True))
        return jax.grad(lambda leaves: plain({**inside, **leaves}, labels, names))(
            {name: inside[name] for name in needs}
        )

    expected = exactly(truth, *[each for name, each in given.items() if name != "labels"])
    got = jax.jit(jax.grad(loss))({name: jnp.asarray(given[name]) for name in needs})
    for name in needs:
        assert got[name].dtype == given[name].dtype
        np.testing.assert_allclose(
            np.asarray(got[name], np.float64),
            expected[name],
            rtol=0,
            atol=BUDGET[str(given[name].dtype)],
        )


def program(function: Any, *arguments: Any) -> str:
    return str(jax.jit(function).lower(*arguments).as_text())


def test_a_frozen_head_needs_no_second_pass() -> None:
    given = arrays_of(batch())
    hidden, weight = given.pop("hidden"), given.pop("weight")
    second = "prefopt_linear_token_logps_grad"

    def loss(h: Any, w: Any, names: Any, **options: Any) -> Any:
        return total({"hidden": h, "weight": w, **given}, names, **options)

    by_hidden = jax.grad(loss)
    assert second not in program(lambda h: by_hidden(h, weight, ("logps",)), hidden)
    assert second in program(lambda h: by_hidden(h, weight, ("lse",)), hidden)
    everything: dict[str, Any] = {"return_grad_hidden": ("logps", "lse", "entropy")}
    text = program(lambda h: by_hidden(h, weight, tuple(WEIGHTS), **everything), hidden)
    assert second not in text
    got = by_hidden(hidden, weight, tuple(WEIGHTS), **everything)
    again = by_hidden(hidden, weight, tuple(WEIGHTS))
    np.testing.assert_allclose(got, again, rtol=0, atol=7e-7)  # here and below: twice the worst
    assert second in program(lambda w: jax.grad(loss, 1)(hidden, w, ("logps",)), weight)
    assert second in program(lambda h: jax.grad(loss, (0, 1))(h, weight, ("logps",)), hidden)


@pytest.mark.parametrize("labels_dtype", [LABELS, np.uint8])
def test_an_ignored_token_has_no_gradient(labels_dtype: Any) -> None:
    """Whatever comes back to it: 0 times NaN would be NaN."""
    given = batch()
    labels = (given["labels"] % VOCAB).astype(labels_dtype)
    labels[0, 1] = 7
    weights = np.ones(SHAPE, np.float32)
    weights[0, 1] = np.nan

    def loss(h: Any, w: Any) -> Any:
        return (prefopt_jax.linear_token_logps(h, w, labels, ignore_index=7).logps * weights).sum()

    for argnums in (0, (0, 1)):
        got = jax.grad(loss, argnums)(jnp.asarray(given["hidden"]), jnp.asarray(given["weight"]))
        by_hidden = np.asarray(got[0] if isinstance(argnums, tuple) else got)
        assert (by_hidden[0, 1] == 0).all()
        assert np.isfinite(by_hidden).all()


def test_grad_filter() -> None:
    """Left out where every probability is small: nowhere here."""
    given = arrays_of(batch())

    def loss(w: Any, **options: Any) -> Any:
        return total({**given, "weight": w}, ("logps",), **options)

    exact = jax.grad(loss)(given["weight"])
    same(jax.grad(lambda w: loss(w, grad_filter=1e-6))(given["weight"]), exact)
    text = program(lambda w: jax.grad(lambda x: loss(x, grad_filter=1e-6))(w), given["weight"])
    assert "grad_filter = 9.99" in text


def test_tied_weights() -> None:
    """One array as embedding and head: its gradients add."""
    given = batch()
    ids = np.abs(given["labels"]) % VOCAB

    def loss(w: Any) -> Any:
        return prefopt_jax.linear_token_logps(w[ids], w, given["labels"]).logps.sum()

    def truth(w: Any) -> Any:
        return jax.grad(lambda x: plain_tokens(x[ids] @ x.T, given["labels"])["logps"].sum())(w)

    got = jax.jit(jax.grad(loss))(jnp.asarray(given["weight"]))
    np.testing.assert_allclose(got, exactly(truth, given["weight"]), rtol=0, atol=4e-7)


# ---- transformations -----------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
def test_vmap_over_tokens(compiled: bool) -> None:
    """hidden and labels mapped, the head not: one call with more rows."""
    given = arrays_of(batch())
    hidden, labels = given.pop("hidden"), given.pop("labels")
    transform = jax.jit if compiled else lambda function: function

    def logps(h: Any, y: Any) -> Any:
        return prefopt_jax.linear_token_logps(h, labels=y, **given).logps

    def value(h: Any, y: Any) -> Any:
        return logps(h, y).sum()

    expected = logps(hidden, labels)
    same(transform(jax.vmap(logps))(hidden, labels), expected)
    same(transform(jax.vmap(jax.vmap(logps)))(hidden, labels), expected)
    slopes = jax.grad(lambda h: logps(h, labels).sum())(hidden)
    same(transform(jax.vmap(jax.grad(value)))(hidden, labels), slopes)
    same(transform(jax.grad(lambda h: jax.vmap(value)(h, labels).sum()))(hidden), slopes)
    one = transform(jax.vmap(logps, in_axes=(None, 0)))(hidden[0], labels)
    same(one[2], logps(hidden[0], labels[2]))


@pytest.mark.parametrize("compiled", [False, True])
def test_vmap_over_heads_and_gradients_for_each_element(compiled: bool) -> None:
    """Where an array without rows is mapped, or is an output, elements run in turn."""
    given = batch()
    heads = jnp.stack([jnp.asarray(given["weight"]) * scale for scale in (0.5, 1.0, 2.0)])
    hidden, labels = jnp.asarray(given["hidden"]), jnp.asarray(given["labels"])
    transform = jax.jit if compiled else lambda function: function

    def value(h: Any, w: Any, y: Any) -> Any:
        return prefopt_jax.linear_token_logps(h, w, y).logps.sum()

    for argnums, in_axes in itertools.product((0, 1), ((None, 0, None), (0, None, 0), (0, 0, 0))):
        arguments = (hidden, heads if in_axes[1] == 0 else heads[1], labels)
        got = transform(jax.vmap(jax.grad(value, argnums), in_axes))(*arguments)
        for k in range(3):
            each = [a if axis is None else a[k] for a, axis in zip(arguments, in_axes, strict=True)]
            alone = jax.grad(value, argnums)(*each)
            if in_axes[1] is None:  # more rows of one product, which may round differently
                np.testing.assert_allclose(got[k], alone, rtol=0, atol=4.7e-7)
            else:
                same(got[k], alone)
    sums = transform(jax.grad(lambda w: jax.vmap(value, (0, None, 0))(hidden, w, labels).sum()))
    whole = jax.grad(lambda w: value(hidden, w, labels))(heads[1])
    np.testing.assert_allclose(sums(heads[1]), whole, rtol=0, atol=4.7e-7)


# ---- refusals ------------------------------------------------------------------------------------


def test_refused_while_tracing() -> None:
    """The messages of NumPy, which the same checks write."""
    given = batch()
    changes: list[dict[str, Any]] = [
        {"weight": given["weight"][:, 1:]},
        {"weight": given["weight"].astype(np.int32)},
        {"weight": given["weight"][:0]},
        {"hidden": given["hidden"][0, 0, 0]},
        {"labels": given["labels"][1:]},
        {"labels": given["labels"].astype(np.float32)},
        {"bias": given["bias"][1:]},
        {"lora_b": None},
        {"lora_a": given["lora_a"][:, 1:]},
        {"topk": VOCAB + 1},
        {"topk": -1},
        {"topk": 1.5},
        {"softcap": 0.0},
        {"softcap": "no"},
        {"logit_scale": 0.0},
        {"temperature": np.inf},
        {"memory_limit": 0},
        {"stats": ("entropie",)},
        {"return_grad_hidden": ("logp",)},
        {"dtype": 3},
    ]
    for change in changes:
        case = {**given, **change}
        with pytest.raises((TypeError, ValueError)) as numpy_error:
            prefopt.linear_token_logps(**case)
        with pytest.raises(numpy_error.type) as error:
            jax.jit(lambda c=case: prefopt_jax.linear_token_logps(**c))()
        assert str(error.value) == str(numpy_error.value)
    with pytest.raises(ValueError, match=r"memory_limit: expected at least \d+ bytes"):
        prefopt_jax.linear_token_logps(**given, memory_limit=10)
    with pytest.raises((TypeError, ValueError), match="grad_filter: expected"):
        prefopt_jax.linear_token_logps(**given, grad_filter=-1.0)
    with pytest.raises(TypeError, match=r"bias: expected a jax\.Array, got list"):
        prefopt_jax.linear_token_logps(**{**given, "bias": given["bias"].tolist()})


def test_refused_when_run() -> None:
    given = batch()
    given["labels"][2, 3] = VOCAB
    with pytest.raises(RUN_ERRORS, match=rf"linear_token_logps: labels: .*got {VOCAB} at index 11"):
        jax.block_until_ready(jax.jit(prefopt_jax.linear_token_logps)(**given))


def test_second_derivatives_are_refused() -> None:
    given = arrays_of(batch())
    for name in ("hidden", "weight"):

        def slope(x: Any, name: str = name) -> Any:
            return jax.grad(lambda y: total({**given, name: y}, ("logps",)))(x).sum()

        with pytest.raises(NotImplementedError, match="linear_token_logps has no second"):
            jax.grad(slope)(given[name])
