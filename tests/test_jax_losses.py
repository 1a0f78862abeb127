"""Every loss and procedure of prefopt.jax, and what they take: NumPy's bits, JAX's gradients."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

import jax.numpy as jnp  # noqa: E402
import row_cases  # noqa: E402
from jax_cases import FLOATS, LABELS, RUN_ERRORS, X64, exactly, numpy_dtype, same  # noqa: E402
from reference_cases import convention_calls, ordinary_calls  # noqa: E402
from row_cases import LOSSES, PROCEDURES, ROWS  # noqa: E402

import prefopt  # noqa: E402
from prefopt import jax as prefopt_jax  # noqa: E402

FUNCTIONS = sorted(
    name for name in prefopt_jax.__all__ if inspect.isfunction(getattr(prefopt_jax, name))
)


def cast(arrays: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Float arrays in that dtype, integers as JAX has them; numbers and words as they are."""
    made = {}
    for name, each in arrays.items():
        is_array = isinstance(each, np.ndarray)
        if is_array and each.dtype == np.float64:
            each = each.astype(numpy_dtype(dtype))
        elif is_array and each.dtype == np.int64:
            each = each.astype(LABELS)
        made[name] = each
    return made


def split(arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays, numbers and words)."""
    is_array = {name: isinstance(each, np.ndarray) for name, each in arrays.items()}
    return (
        {name: jnp.asarray(each) for name, each in arrays.items() if is_array[name]},
        {name: each for name, each in arrays.items() if not is_array[name]},
    )


def leaves_of(name: str, arrays: dict[str, Any]) -> list[str]:
    return [i.name for i in ROWS[name].inputs if i.differentiable and i.name in arrays]


def as_jax(value: Any) -> Any:
    """A NumPy result in the dtype that JAX has for it."""
    array = np.asarray(value)
    return array if X64 or array.dtype != np.float64 else array.astype(np.float32)


def same_fields(got: Any, expected: Any) -> None:
    assert got._fields == expected._fields
    for ours, theirs in zip(got, expected, strict=True):
        same(ours, as_jax(theirs))


# ---- every row -----------------------------------------------------------------------------------


def value_and_slopes(
    name: str, arrays: dict[str, Any], options: dict[str, Any], weights: Any = None
) -> tuple[Any, dict[str, Any]]:
    """The result, and the vector-Jacobian product with weights (ones without)."""
    leaves = leaves_of(name, arrays)

    def run(chosen: dict[str, Any]) -> tuple[Any, Any]:
        got = prefopt_jax.loss(name, **{**arrays, **chosen}, **options)
        return got.losses, got

    losses, vjp, got = jax.vjp(run, {key: arrays[key] for key in leaves}, has_aux=True)
    return got, vjp(jnp.ones_like(losses) if weights is None else weights)[0]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_values_and_gradients_are_those_of_numpy(name: str, dtype: str) -> None:
    """With and without optional inputs, parameters at and off their defaults; one not compiled."""
    for k, (_, call) in enumerate(ordinary_calls(name)):
        given = cast(call, dtype)
        arrays, options = split(given)
        shape = np.shape(row_cases.run(name, given).losses)
        weights = np.linspace(0.5, 2, int(np.prod(shape))).reshape(shape).astype(dtype)
        if any(key.startswith("gathered") for key in arrays):
            weights[:] = 1  # those of other ranks are not known
        run = partial(value_and_slopes, name, options=options)
        got, grads = (run if k == 0 else jax.jit(run))(arrays, weights=jnp.asarray(weights))
        expected = row_cases.run(name, given, grad_losses=weights)
        same_fields(got, expected)
        assert set(expected.grads) == set(grads)
        for key, grad in grads.items():
            same(grad, expected.grads[key])


@pytest.mark.parametrize("name", [name for name in LOSSES if prefopt.conventions(name)])
def test_conventions_are_those_of_numpy(name: str) -> None:
    for _, call in convention_calls(name):
        given = cast(call, "float32")
        arrays, options = split(given)
        got, grads = jax.jit(partial(value_and_slopes, name, options=options))(arrays)
        expected = row_cases.run(name, given, return_grads=True)
        same_fields(got, expected)
        for key, grad in grads.items():
            same(grad, expected.grads[key])


@pytest.mark.parametrize("name", PROCEDURES)
def test_procedures_are_those_of_numpy(name: str) -> None:
    for k, (_, call) in enumerate(ordinary_calls(name)):
        given = cast(call, "float32")
        arrays, options = split(given)
        run = partial(prefopt_jax.loss, name, **options)
        same_fields((run if k == 0 else jax.jit(run))(**arrays), prefopt.loss(name, **given))


@pytest.mark.parametrize("name", LOSSES)
def test_vmap_runs_each_element_alone(name: str) -> None:
    """A batch of losses is one whole: three batches at once are three calls."""
    batches = [
        cast(row_cases.inputs(name, seed=seed, optional=False), "float32") for seed in range(3)
    ]
    mapped = [key for key, each in batches[0].items() if isinstance(each, np.ndarray)]
    constants = {key: each for key, each in batches[0].items() if key not in mapped}
    stacked = {key: np.stack([each[key] for each in batches]) for key in mapped}
    run = jax.jit(jax.vmap(partial(value_and_slopes, name, options=constants)))
    got, grads = run(stacked)
    for k, each in enumerate(batches):
        expected = row_cases.run(name, each | constants, return_grads=True)
        for ours, theirs in zip(got, expected, strict=True):
            same(ours[k], theirs)
        for key, grad in grads.items():
            same(grad[k], expected.grads[key])


@pytest.mark.parametrize("name", ["dpo.sigmoid", "kto.kto", "cpo.simpo", "kl.k3"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_promote_to_float32(name: str, dtype: str) -> None:
    given = cast(row_cases.inputs(name), dtype)
    arrays, options = split(given)
    key = leaves_of(name, arrays)[0]
    got = prefopt_jax.loss(name, **arrays, **options)
    same_fields(got, prefopt.loss(name, **given))
    assert got.losses.dtype == np.float32
    grad = jax.grad(lambda x: prefopt_jax.loss(name, **{**arrays, key: x}, **options).losses.sum())
    expected = prefopt.loss(name, **given, return_grads=True).grads[key]
    same(grad(arrays[key]), expected.astype(numpy_dtype(dtype)))


def test_empty_batch() -> None:
    arrays, options = split(cast(row_cases.inputs("dpo.sigmoid", size=0), "float32"))
    got, grads = jax.value_and_grad(
        lambda x: prefopt_jax.loss("dpo.sigmoid", **{**arrays, **x}, **options).losses.sum()
    )({"policy_chosen_logps": arrays["policy_chosen_logps"]})
    assert got == 0
    assert grads["policy_chosen_logps"].shape == (0,)


# ---- plain forms, differentiated by JAX ----------------------------------------------------------


def smoothed(x: Any, e: float) -> Any:
    return -(1 - e) * jax.nn.log_sigmoid(x) - e * jax.nn.log_sigmoid(-x)


LENGTHS = np.array([3, 5, 1, 2], LABELS)
PAIR = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
# name -> (inputs, options, formula); the formulas are typed from shared/losses.md.
PLAIN: dict[str, tuple[tuple[str, ...], dict[str, Any], Any]] = {
    "dpo.sigmoid": (
        PAIR,
        {"beta": 0.2, "label_smoothing": 0.1},
        lambda w, lo, rw, rl: smoothed(0.2 * (w - rw - lo + rl), 0.1),
    ),
    "dpo.ipo": (
        PAIR,
        {"beta": 0.5, "chosen_lengths": LENGTHS, "rejected_lengths": LENGTHS[::-1].copy()},
        lambda w, lo, rw, rl: ((w - rw) / LENGTHS - (lo - rl) / LENGTHS[::-1] - 1.0) ** 2,
    ),
    "dpo.robust": (
        PAIR,
        {"beta": 0.2, "label_smoothing": 0.2},
        lambda w, lo, rw, rl: (
            (
                -0.8 * jax.nn.log_sigmoid(0.2 * (w - rw - lo + rl))
                + 0.2 * jax.nn.log_sigmoid(-0.2 * (w - rw - lo + rl))
            )
            / 0.6
        ),
    ),
    "kto.kto": (
        ("policy_logps", "ref_logps"),
        {"desirable": np.array([True, False, True, False]), "kl": 0.4, "beta": 0.2},
        lambda p, r: (
            1 - jax.nn.sigmoid(0.2 * (p - r - 0.4) * jnp.where(jnp.arange(4) % 2 == 0, 1.0, -1.0))
        ),
    ),
    "cpo.sigmoid": (
        (*PAIR[:2], "chosen_nll"),
        {"beta": 0.2, "cpo_alpha": 0.6, "nll_tokens": 30.0},
        lambda w, lo, nll: smoothed(0.2 * (w - lo), 0.0) + 0.6 * nll.sum() / 30.0,
    ),
    "sft.nll": (("policy_logps",), {"lengths": LENGTHS}, lambda p: -p * 4 / LENGTHS.sum()),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", FLOATS)
def test_against_jax_autodiff(name: str, dtype: str) -> None:
    keys, options, formula = PLAIN[name]
    rng = np.random.default_rng(3)
    values = [rng.uniform(-9, -1, 4).astype(dtype) for _ in keys]
    weights = rng.uniform(0.5, 2, 4).astype(dtype)

    def ours(*arrays: Any) -> Any:
        given = dict(zip(keys, arrays, strict=True))
        return (prefopt_jax.loss(name, **given, **options).losses * weights).sum()

    numbers = tuple(range(len(keys)))
    got, grads = jax.jit(jax.value_and_grad(ours, numbers))(*values)
    expected, slopes = exactly(
        jax.value_and_grad(lambda *arrays: (formula(*arrays) * weights).sum(), numbers), *values
    )
    # Twice the worst relative errors measured.
    rtol = {"float32": 1.9e-7, "float64": 1.5e-15}[dtype]
    np.testing.assert_allclose(got, expected, rtol=rtol)
    for key, grad, slope in zip(keys, grads, slopes, strict=True):
        constant = key.startswith("ref")
        np.testing.assert_allclose(grad, slope * (not constant), rtol=rtol, atol=rtol * 1e-2)


# ---- several losses, parameters ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_mixtures_are_those_of_numpy(dtype: str) -> None:
    given = cast(row_cases.inputs("dpo.sigmoid", optional=False), dtype)
    given["chosen_lengths"] = np.array([3, 4, 5, 6], LABELS)
    arrays, _ = split(given)
    for options in (
        {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0], "beta": 0.3},
        {"loss_type": ("sigmoid", "sft")},
        {"loss_type": ("sigmoid", "sft"), "loss_weights": [0.0, 2.0]},
        {"loss_type": ["sft"]},
    ):

        def total(
            x: Any, y: Any, options: dict[str, Any] = options
        ) -> tuple[Any, prefopt_jax.PairLoss]:
            both = {"policy_chosen_logps": x, "policy_rejected_logps": y}
            got = prefopt_jax.dpo_loss(**{**arrays, **both}, **options)
            return got.losses.sum(), got

        slopes = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
        expected = prefopt.dpo_loss(**given, **options, return_grads=True)
        (_, got), grads = slopes(arrays["policy_chosen_logps"], arrays["policy_rejected_logps"])
        same_fields(got, expected)
        for grad, key in zip(grads, PAIR[:2], strict=True):
            same(grad, expected.grads.get(key, np.zeros(4, dtype)))


def test_traced_parameters() -> None:
    """A beta that the program makes itself: no new program for a new value."""
    given = cast(row_cases.inputs("dpo.sigmoid", optional=False), "float32")
    arrays, _ = split(given)
    traces = []

    @jax.jit
    def step(beta: Any, smoothing: Any) -> Any:
        traces.append(1)
        return prefopt_jax.dpo_loss(**arrays, beta=beta, label_smoothing=smoothing)

    for beta in (0.5, 0.25, np.float32(0.3)):
        same_fields(
            step(beta, 0.125),
            prefopt.dpo_loss(**given, beta=float(beta), label_smoothing=0.125),
        )
    assert len(traces) == 2  # a Python number and a float32 have two types
    betas = np.array([0.5, 2.0], np.float32)
    over = jax.vmap(lambda b: prefopt_jax.dpo_loss(**arrays, beta=b).losses)(betas)
    for k in range(2):
        same(over[k], prefopt.dpo_loss(**given, beta=float(betas[k])).losses)
    tokens = jax.jit(
        lambda n: prefopt_jax.sft_loss(arrays["policy_chosen_logps"], nll_tokens=n).losses
    )(np.int32(7))
    same(tokens, prefopt.sft_loss(given["policy_chosen_logps"], nll_tokens=7).losses)
    mixed = jax.jit(
        lambda b: prefopt_jax.dpo_loss(**arrays, loss_type=["sigmoid", "hinge"], beta=b).losses
    )(0.5)
    same(mixed, prefopt.dpo_loss(**given, loss_type=["sigmoid", "hinge"], beta=0.5).losses)
    step_of = prefopt_jax.eps_dpo_beta(
        jnp.ones(4), beta=jnp.float32(0.1)
    ).beta  # concrete: a number
    same(step_of, as_jax(prefopt.eps_dpo_beta(np.ones(4), beta=float(np.float32(0.1))).beta))


def test_traced_parameters_are_checked() -> None:
    arrays, _ = split(cast(row_cases.inputs("dpo.sigmoid", optional=False), "float32"))

    def run(**options: Any) -> Any:
        return jax.block_until_ready(
            jax.jit(lambda b: prefopt_jax.dpo_loss(**arrays, beta=b, **options).losses)(-1.0)
        )

    with pytest.raises(RUN_ERRORS, match=r"dpo\.sigmoid: beta: expected a value in \(0, inf\)"):
        run()
    with pytest.raises(ValueError, match=r"beta: expected one number, got shape \(4,\)"):
        prefopt_jax.dpo_loss(**arrays, beta=jnp.ones(4))
    with pytest.raises(TypeError, match="beta: expected a number known while tracing"):
        run(convention="trl-1.16")
    with pytest.raises(ValueError, match=r"label_smoothing: dpo\.hinge does not use it"):
        jax.jit(
            lambda e: prefopt_jax.dpo_loss(**arrays, loss_type="hinge", label_smoothing=e).losses
        )(0.0)


# ---- kto_kl and the inputs -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", *FLOATS])
def test_kto_kl(dtype: str) -> None:
    rng = np.random.default_rng(0)
    policy, ref = (rng.uniform(-9, 0, 7).astype(numpy_dtype(dtype)) for _ in range(2))
    for first, second in ((policy, ref), (ref, policy), (policy[:0], ref[:0])):
        got = jax.jit(prefopt_jax.kto_kl)(first, second)
        result = np.float64 if dtype == "float64" else np.float32
        same(got, np.asarray(prefopt.kto_kl(first, second)).astype(result))
    slope = jax.grad(lambda x: prefopt_jax.kto_kl(x, ref) * 1.0)(jnp.asarray(policy))
    assert (slope == 0).all()
    both = jax.vmap(prefopt_jax.kto_kl)(np.stack([policy, ref]), np.stack([ref, policy]))
    same(both[1], prefopt_jax.kto_kl(ref, policy))


def test_kto_kl_of_a_state() -> None:
    for state in ((6.1, 4.0), (-6.0, 4.0), (0.0, 0.0), (np.nan, 2.0)):
        expected = as_jax(prefopt.kto_kl(state=state))
        same(prefopt_jax.kto_kl(state=state), expected)
        total, count = (jnp.asarray(each) for each in state)
        np.testing.assert_array_equal(prefopt_jax.kto_kl(state=(total, count)), expected)
        array = np.array(state, FLOATS[-1])
        got = jax.jit(lambda s: prefopt_jax.kto_kl(state=s))(array)
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match="policy_kl_logps: expected"):
        prefopt_jax.kto_kl()
    with pytest.raises(ValueError, match="ref_kl_logps: expected shape"):
        prefopt_jax.kto_kl(np.zeros(3, np.float32), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="state"):
        prefopt_jax.kto_kl(state=np.zeros(3, np.float32))
    with pytest.raises(RUN_ERRORS, match="state: expected a finite count"):
        jax.block_until_ready(prefopt_jax.kto_kl(state=np.array([1.0, -1.0], np.float32)))


def test_weights() -> None:
    rng = np.random.default_rng(0)
    mask = rng.uniform(size=(3, 6)) > 0.3
    lengths = np.array([2, 6, 0], LABELS)
    got = jax.jit(lambda m, n: prefopt_jax.ld_weights(m, n, 0.25))(mask, lengths)
    same(got, as_jax(prefopt.ld_weights(mask, lengths, 0.25)))
    same(prefopt_jax.ld_weights(mask.astype(np.int8), lengths, 0.25), got)
    logps, lse, lse2 = (rng.uniform(-3, 0, (3, 6)).astype(np.float32) + k for k in (0, 12, 23))
    for weights in (None, mask, got):
        ours = jax.jit(prefopt_jax.wpo_weights)(logps, lse, lse2, weights)
        theirs = prefopt.wpo_weights(
            logps, lse, lse2, None if weights is None else np.asarray(weights)
        )
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=2e-7)  # twice the error measured
    slope = jax.grad(lambda x: prefopt_jax.wpo_weights(x, lse, lse2).sum())(jnp.asarray(logps))
    assert (slope == 0).all()
    for call in (
        lambda library: library.ld_weights(mask[0], lengths, 0.5),
        lambda library: library.ld_weights(mask.astype(np.float32), lengths, 0.5),
        lambda library: library.ld_weights(mask, lengths[1:], 0.5),
        lambda library: library.ld_weights(mask, lengths, 1.5),
        lambda library: library.wpo_weights(logps, lse[1:], lse2),
        lambda library: library.wpo_weights(logps.astype(np.int32), lse, lse2),
        lambda library: library.wpo_weights(logps, lse, lse2, mask[1:]),
    ):
        with pytest.raises((TypeError, ValueError)) as numpy_error:
            call(prefopt)
        with pytest.raises(numpy_error.type) as error:
            call(prefopt_jax)
        assert str(error.value) == str(numpy_error.value)


def test_uniforms() -> None:
    exact = prefopt.uniforms(5, (1000, 4))
    got = np.asarray(prefopt_jax.uniforms(5, (1000, 4)))
    assert got.dtype == FLOATS[-1]
    assert ((exact - got >= 0) & (exact - got < 2.0**-24)).all()
    assert prefopt_jax.uniforms(2**64 - 1, 3).shape == (3,)
    with pytest.raises(TypeError, match="seed: expected an integer"):
        prefopt_jax.uniforms(1.5, 3)
    with pytest.raises(TypeError, match="seed: expected a number known while tracing"):
        jax.jit(lambda seed: prefopt_jax.uniforms(seed, 3))(1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", *FLOATS])
def test_mix_reference(dtype: str) -> None:
    rng = np.random.default_rng(0)
    policy, ref = (rng.normal(size=(3, 5)).astype(numpy_dtype(dtype)) for _ in range(2))
    got = jax.jit(lambda p, r: prefopt_jax.mix_reference(p, r, 0.3))(policy, ref)
    same(got, prefopt.mix_reference(policy, ref, 0.3).astype(ref.dtype))
    with pytest.raises(ValueError, match="ref: expected the shape of policy"):
        prefopt_jax.mix_reference(policy, ref[1:])
    with pytest.raises(ValueError, match=r"alpha: expected a value in \[0, 1\]"):
        prefopt_jax.mix_reference(policy, ref, 2.0)


# ---- signatures and refusals ---------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_those_of_numpy(name: str) -> None:
    """Same names, kinds and defaults, but for gradients by keyword and what arrays cannot do."""
    ours = inspect.signature(getattr(prefopt_jax, name)).parameters
    theirs = inspect.signature(getattr(prefopt, name)).parameters
    missing = {"grad_losses", "return_grads"}
    missing |= {"mix_reference": {"out"}, "linear_token_logps": {"keep_logits"}}.get(name, set())
    added = {"grad_filter"} if name == "linear_token_logps" else set()
    assert [(p.name, p.kind, p.default) for p in theirs.values() if p.name not in missing] == [
        (p.name, p.kind, p.default) for p in ours.values() if p.name not in added
    ]


def test_all_names() -> None:
    """What NumPy has and JAX has not: gradients, settings of the process, the list itself."""
    assert set(prefopt_jax.__all__) < set(prefopt.__all__)
    own = {name for name in set(prefopt.__all__) - set(prefopt_jax.__all__) if name.islower()}
    assert own == {
        "__version__", "conventions", "cuda_available", "cuda_check", "get_num_threads", "isas",
        "linear_token_logps_grad", "losses", "pair_token_stats_grad", "set_num_threads",
        "token_logps_grad", "using_isa",
    }  # fmt: skip


def test_refused_while_tracing() -> None:
    """The messages of NumPy."""
    given = cast(row_cases.inputs("dpo.sigmoid", optional=False), "float32")
    first, lengths = given["policy_chosen_logps"], np.ones(4, LABELS)
    changes: list[dict[str, Any]] = [
        {"beta": 0.0},
        {"beta": "much"},
        {"beta": True},
        {"label_smoothing": 0.7},
        {"policy_chosen_logps": first[1:]},
        {"policy_chosen_logps": first[:, None]},
        {"policy_chosen_logps": first.astype(np.int32)},
        {"ref_chosen_logps": None},
        {"loss_type": "sigmod"},
        {"loss_type": "hinge", "label_smoothing": 0.1},
        {"loss_type": ["sigmoid", "ipo"], "loss_weights": [1.0]},
        {"loss_type": "ipo", "chosen_lengths": lengths},
        {"chosen_lengths": lengths},
        {"f_divergence_type": "other"},
        {"f_divergence_type": 3},
        {"convention": "trl"},
        {"convention": "liger-0.8.5", "label_smoothing": 0.1},
    ]
    for change in changes:
        case = {**given, **change}
        with pytest.raises((TypeError, ValueError)) as numpy_error:
            prefopt.dpo_loss(**case)
        with pytest.raises(numpy_error.type) as error:
            jax.jit(lambda c=case: prefopt_jax.dpo_loss(**c))()
        assert str(error.value) == str(numpy_error.value)
    with pytest.raises(TypeError, match=r"policy_chosen_logps: expected a jax\.Array, got list"):
        prefopt_jax.dpo_loss(**{**given, "policy_chosen_logps": first.tolist()})
    for name, message in (("dpo.sigmod", "did you mean"), ("sft.nll", "takes no such argument")):
        with pytest.raises((TypeError, ValueError), match=message):
            prefopt_jax.loss(name, policy_logp=first)


def test_refused_when_run() -> None:
    lengths = np.array([3, -1], LABELS)
    with pytest.raises(RUN_ERRORS, match=r"sft\.nll: lengths: .* counts >= 0, got -1 at index 1"):
        jax.block_until_ready(
            jax.jit(prefopt_jax.sft_loss)(np.zeros(2, np.float32), lengths=lengths)
        )
    flags = np.array([0, 2], LABELS)
    logps = np.zeros(2, np.float32)
    with pytest.raises(RUN_ERRORS, match=r"kto\.kto: desirable: expected 0 or 1, got 2"):
        jax.block_until_ready(prefopt_jax.kto_loss(logps, logps, flags, kl=0.0))


def test_second_derivatives_are_refused() -> None:
    arrays, _ = split(cast(row_cases.inputs("dpo.sigmoid", optional=False), "float32"))
    key = "policy_chosen_logps"

    def slope(x: Any) -> Any:
        return jax.grad(lambda y: prefopt_jax.dpo_loss(**{**arrays, key: y}).losses.sum())(x).sum()

    with pytest.raises(NotImplementedError, match=r"prefopt\.jax\.loss has no second derivative"):
        jax.grad(slope)(arrays[key])
