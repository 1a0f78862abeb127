"""token_logps_grad: the gradients themselves against finite differences and the oracle, and what
its inputs cost.
"""

from __future__ import annotations

import numpy as np
import pytest
from oracle import logps as oracle
from support import DTYPES, Dtype, same_bits

import prefopt

UPSTREAM = ("grad_logps", "grad_entropy", "grad_lse")


def forward(logits: np.ndarray, labels: np.ndarray, temperature: float) -> prefopt.TokenLogps:
    return prefopt.token_logps(logits, labels, temperature=temperature, stats=("entropy",))


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("name", UPSTREAM)
def test_finite_differences(
    isa: str, name: str, temperature: float, rng: np.random.Generator
) -> None:
    """Central differences of prefopt's own float64 forward: backward and forward belong
    together.
    """
    logits = rng.normal(size=(3, 23))
    labels = rng.integers(0, 23, 3)
    result = name.removeprefix("grad_")
    base = forward(logits, labels, temperature)
    grad = prefopt.token_logps_grad(
        logits,
        labels,
        base.lse,
        entropy=base.entropy,
        temperature=temperature,
        **{name: np.ones(3)},
    )
    step = 1e-5
    for v in range(23):
        up, down = logits.copy(), logits.copy()
        up[:, v] += step
        down[:, v] -= step
        slope = (
            getattr(forward(up, labels, temperature), result)
            - getattr(forward(down, labels, temperature), result)
        ) / (2 * step)
        np.testing.assert_allclose(grad[:, v], slope, rtol=0, atol=1e-9)


def test_sum_of_gradients(isa: str, dtype: Dtype, rng: np.random.Generator) -> None:
    """The three upstream gradients add up, and each alone leaves the other terms out."""
    logits = dtype.make(2 * rng.normal(size=(4, 101)))
    labels = rng.integers(0, 101, 4)
    base = prefopt.token_logps(logits, labels, stats=("entropy",), **dtype.arguments)
    upstream = {name: rng.normal(size=4).astype(dtype.result) for name in UPSTREAM}
    total, rounding = np.zeros((4, 101)), np.zeros((4, 101))
    for name in UPSTREAM:
        entropy = base.entropy if name == "grad_entropy" else None
        grad = prefopt.token_logps_grad(
            logits,
            labels,
            base.lse,
            entropy=entropy,
            **{name: upstream[name]},
            **dtype.arguments,
        )
        total += dtype.exact(grad)
        rounding += oracle.spacing(dtype.exact(grad), dtype.kind)
    together = prefopt.token_logps_grad(
        logits, labels, base.lse, entropy=base.entropy, **upstream, **dtype.arguments
    )
    rounding += oracle.spacing(total, dtype.kind)
    tolerance = 1e-14 if dtype.kind == "float64" else 2e-6
    assert (np.abs(dtype.exact(together) - total) <= rounding + tolerance).all()


def test_gradient_of_a_row_sums_to_zero(isa: str, rng: np.random.Generator) -> None:
    """softmax is invariant to a shift: d logp and d entropy sum to 0 over the vocabulary, d lse to
    1.
    """
    logits = 3 * rng.normal(size=(4, 4099))
    labels = rng.integers(0, 4099, 4)
    base = forward(logits, labels, 1.0)
    for name, want in (("grad_logps", 0), ("grad_entropy", 0), ("grad_lse", 1)):
        grad = prefopt.token_logps_grad(
            logits, labels, base.lse, entropy=base.entropy, **{name: np.ones(4)}
        )
        np.testing.assert_allclose(grad.sum(axis=-1), want, rtol=0, atol=1e-12)


def test_gradient_inherits_the_rounding_of_lse(isa: str, rng: np.random.Generator) -> None:
    """float32 lse of large logits is coarse: |lse| 2^-24 relative in p, and no more; a float64 lse
    removes it.
    """
    for offset in (0.0, 1e2, 1e4):
        logits = (offset + rng.normal(size=(4, 1000))).astype(np.float32)
        labels = rng.integers(0, 1000, 4)
        ones = np.ones(4, np.float32)
        base = prefopt.token_logps(logits, labels)
        want, condition = oracle.token_grad(logits, labels, grad_logps=ones)
        exact_lse = oracle.token_stats(logits, labels).lse
        for lse, inherited in ((base.lse, (1 + offset) * 2.0**-23), (exact_lse, 0.0)):
            got = prefopt.token_logps_grad(logits, labels, lse, grad_logps=ones)
            error = np.abs(got - want) / condition
            assert error.max() <= inherited + 8 * 2.0**-23, (offset, lse.dtype)


def test_zero_upstream_gives_zero(isa: str, dtype: Dtype, rng: np.random.Generator) -> None:
    logits = dtype.make(rng.normal(size=(3, 40)))
    labels = rng.integers(0, 40, 3)
    base = prefopt.token_logps(logits, labels, **dtype.arguments)
    grad = prefopt.token_logps_grad(
        logits, labels, base.lse, grad_logps=np.zeros(3, dtype.result), **dtype.arguments
    )
    assert (dtype.exact(grad) == 0).all()


def test_nan_upstream_stays_in_its_row(isa: str, rng: np.random.Generator) -> None:
    logits = rng.normal(size=(3, 40)).astype(np.float32)
    labels = rng.integers(0, 40, 3)
    base = prefopt.token_logps(logits, labels)
    upstream = np.array([1, np.nan, 1], np.float32)
    grad = prefopt.token_logps_grad(logits, labels, base.lse, grad_logps=upstream)
    clean = prefopt.token_logps_grad(logits, labels, base.lse, grad_logps=np.ones(3, np.float32))
    assert np.isnan(grad[1]).all()
    assert same_bits(grad[[0, 2]], clean[[0, 2]])


def test_all_ignored_rows_are_zeroed_in_place(isa: str, dtype: Dtype) -> None:
    logits = dtype.make(np.full((2, 3, 50), np.nan))
    labels = np.full((2, 3), -100)
    zeros = np.zeros((2, 3), dtype.result)
    prefopt.token_logps_grad(logits, labels, zeros, grad_logps=zeros, out=logits, **dtype.arguments)
    assert (dtype.exact(logits) == 0).all()
    assert not np.signbit(dtype.exact(logits)).any()


def test_float16_overflow_is_infinite(isa: str) -> None:
    """A gradient beyond float16 rounds to inf with its sign, as a cast would; bfloat16 holds it."""
    for name, limit in (("float16", np.inf), ("bfloat16_raw", None)):
        dtype = DTYPES[name]
        logits = dtype.make(np.array([[0.0, 0.0]]))
        base = prefopt.token_logps(logits, np.array([0]), **dtype.arguments)
        grad = dtype.exact(
            prefopt.token_logps_grad(
                logits,
                np.array([0]),
                base.lse,
                grad_logps=np.array([1e6], np.float32),
                **dtype.arguments,
            )
        )
        if limit is None:
            np.testing.assert_allclose(grad, [[5e5, -5e5]], rtol=2**-8)
        else:
            assert grad.tolist() == [[np.inf, -np.inf]]


def test_float64_uses_logps_for_the_digits_that_lse_cannot_hold() -> None:
    """At lse near 14,000 one double leaves an error of 1e-12 in p; logps brings the rest."""
    import mpmath as mp

    logits = 1e4 + np.random.default_rng(5).normal(size=(4, 50))
    labels = np.array([3, 0, 49, 17])
    temperature = 0.7
    out = prefopt.token_logps(logits, labels, temperature=temperature)
    grad = prefopt.token_logps_grad(
        logits,
        labels,
        out.lse,
        grad_lse=np.ones(4),
        logps=out.logps,
        temperature=temperature,
    )
    with mp.workdps(50):
        for row, values in zip(logits, grad, strict=True):
            weights = [mp.exp((mp.mpf(x) - mp.mpf(row[0])) / mp.mpf(temperature)) for x in row]
            total = mp.fsum(weights) * mp.mpf(temperature)
            worst = max(
                abs(mp.mpf(got) / (weight / total) - 1)
                for got, weight in zip(values.tolist(), weights, strict=True)
            )
            assert worst < 2e-14
