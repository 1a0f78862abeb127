"""linear_token_logps against whole logits in long double: values, top-k, gradients by hidden."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from linear_cases import ALL_STATS, FLOAT_STATS, OPTIONS, Case, hidden_floor, relative_error, unit
from oracle import logps as oracle
from support import DTYPES, Dtype

import prefopt
from prefopt import _core

# Worst errors of the cases here (2026-11-27, OpenBLAS and plain loop) in units of `unit`: 1.6; times
# two. Beside it half a rounding of the result.
BUDGET = 3.2
# Gradients by hidden in units of their largest element: measured worst, times two.
GRAD_BUDGET = {"float32": 2.5e-6, "float64": 5.7e-15}


def check_values(case: Case, got: prefopt.TokenLogps, dtype: Any) -> None:
    x = case.head.logits()
    want = oracle.token_stats(x, case.labels, precision=np.longdouble)
    allowed = BUDGET * unit(case, dtype)
    for name in FLOAT_STATS:
        result = getattr(got, name)
        assert result.dtype == dtype
        error = np.abs(result - getattr(want, name))
        assert (error <= allowed + np.abs(result) * np.finfo(dtype).eps / 2).all(), (
            name,
            error.max(),
        )
    close = np.sort(x, axis=-1)[:, -2:] if x.shape[1] > 1 else x
    clear = (np.abs(close[:, -1] - close[:, 0]) > 2 * allowed) | (x.shape[1] == 1)
    np.testing.assert_array_equal(got.correct[clear], want.correct[clear])


def check_hidden_grads(case: Case, got: prefopt.TokenLogps, dtype: Any) -> None:
    from oracle.linear import grads

    zero, one = np.zeros(len(case.labels)), np.ones(len(case.labels))
    for result, upstream in (
        (got.grad_hidden, (one, zero, zero)),
        (got.grad_hidden_entropy, (zero, one, zero)),
        (got.grad_hidden_lse, (zero, zero, one)),
    ):
        assert result.dtype == dtype
        want = grads(case.head, case.labels, *upstream)["hidden"]
        assert relative_error(result, want, hidden_floor(case)) <= GRAD_BUDGET[np.dtype(dtype).name]
        assert (result[~case.live] == 0).all()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (60, 33, 1100)])
def test_accuracy(products: str, dtype: Dtype, options: str, shape: tuple[int, int, int]) -> None:
    case = Case(*shape, dtype, **OPTIONS[options])
    got = case.forward(return_grad_hidden=("logps", "lse", "entropy"))
    check_values(case, got, dtype.result)
    check_hidden_grads(case, got, dtype.result)


def test_every_isa(isa: str) -> None:
    """The plain loop gives the same bits on every row; statistics hold on each."""
    name = _core.blas_name()
    _core.blas_load(None)
    try:
        case = Case(70, 50, 600, **OPTIONS["all"])
        got = case.forward(return_grad_hidden=("logps", "lse", "entropy"), topk=3)
        with prefopt.using_isa("scalar"):
            scalar = case.forward(return_grad_hidden=("logps", "lse", "entropy"), topk=3)
        for one, two in zip(got, scalar, strict=True):
            if one is not None:
                np.testing.assert_array_equal(one, two)
        check_values(case, got, np.float32)
    finally:
        _core.blas_load(name or None)


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 90),
    hidden=st.integers(1, 70),
    vocab=st.integers(1, 900),
    dtype=st.sampled_from(["float16", "bfloat16_raw", "float32", "float64"]),
    head=st.sampled_from(["float16", "bfloat16_raw", "float32"]),
    options=st.sampled_from(sorted(OPTIONS)),
    limit=st.sampled_from([None, 1 << 21, 1 << 24]),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
@example(  # weight and LoRA nearly cancel: the gradient is a difference of larger terms
    tokens=33,
    hidden=1,
    vocab=1,
    dtype="float16",
    head="float16",
    options="all",
    limit=None,
    ignored=0.0,
    seed=0,
)
def test_shapes_and_options(
    tokens: int,
    hidden: int,
    vocab: int,
    dtype: str,
    head: str,
    options: str,
    limit: int | None,
    ignored: float,
    seed: int,
) -> None:
    weight = DTYPES["float64" if dtype == "float64" else head]
    case = Case(
        *(tokens, hidden, vocab),
        *(DTYPES[dtype], weight),
        seed=seed,
        ignored=ignored,
        **OPTIONS[options],
    )
    result = DTYPES[dtype].result
    got = case.forward(return_grad_hidden=("logps", "lse", "entropy"), memory_limit=limit)
    check_values(case, got, result)
    check_hidden_grads(case, got, result)


def test_half_types_are_exact() -> None:
    """bfloat16 inputs give what their values as float32 give, bit for bit: nothing is rounded."""
    for name in ("bfloat16_raw", "float16"):
        case = Case(60, 40, 800, DTYPES[name])
        exact = case.head.hidden.astype(np.float32), case.head.weight.astype(np.float32)
        wide = prefopt.linear_token_logps(*exact, case.labels, stats=ALL_STATS)
        for one, two in zip(case.forward(), wide, strict=True):
            if one is not None:
                np.testing.assert_array_equal(one, two)


# ---- top-k ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("topk", [1, 5, 33])
@pytest.mark.parametrize("limit", [None, 1 << 21])
def test_topk(products: str, topk: int, limit: int | None) -> None:
    case = Case(50, 24, 1300, DTYPES["float64"], **OPTIONS["all"])
    got = case.forward(topk=topk, memory_limit=limit)
    x = case.head.logits()
    want = np.argsort(-x, axis=-1, kind="stable")[:, :topk]
    live = case.live
    np.testing.assert_array_equal(got.topk_ids[live], want[live])
    logps = (
        np.take_along_axis(x, want, -1)
        - oracle.token_stats(x, case.labels, precision=np.longdouble).lse[:, None]
    )
    np.testing.assert_allclose(got.topk_logps[live], logps[live].astype(float), rtol=1e-13)
    assert (got.topk_ids[~live] == -1).all()
    assert (got.topk_logps[~live] == 0).all()


def test_topk_ties_and_nan() -> None:
    weight = np.zeros((900, 2), np.float32)
    weight[[3, 600, 601]] = 1.0  # three equal largest, the rest equal at 0
    hidden = np.array([[1, 1], [np.nan, 1], [-1, -1]], np.float32)
    got = prefopt.linear_token_logps(hidden, weight, np.zeros(3, int), topk=5)
    np.testing.assert_array_equal(got.topk_ids[0], [3, 600, 601, 0, 1])
    np.testing.assert_array_equal(got.topk_ids[1], [-1] * 5)
    assert np.isnan(got.topk_logps[1]).all()
    np.testing.assert_array_equal(got.topk_ids[2], [0, 1, 2, 4, 5])


# ---- special values ------------------------------------------------------------------------------


def test_special_values(products: str) -> None:
    """-inf bias entries are ruled out, rows with NaN or inf stay alone, extremes stay finite."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(6, 8)).astype(np.float32)
    weight = rng.normal(size=(700, 8)).astype(np.float32)
    bias = np.zeros(700, np.float32)
    bias[::3] = -np.inf
    hidden[1] = np.nan
    hidden[2, 0] = np.inf
    hidden[3] *= 1e4
    labels = np.array([1, 1, 1, 1, 3, 699])
    got = prefopt.linear_token_logps(
        hidden, weight, labels, bias=bias, stats=ALL_STATS, topk=2, return_grad_hidden=True
    )
    with np.errstate(all="ignore"):
        x = hidden.astype(np.float64) @ weight.T.astype(np.float64) + bias
        want = oracle.token_stats(x, labels)
    for row in (0, 3, 5):
        for name in ("logps", "lse", "entropy", "max_logit", "lse2"):
            expected = getattr(want, name)[row]
            assert getattr(got, name)[row] == pytest.approx(expected, rel=3e-6, abs=3e-6)
        assert np.isfinite(got.grad_hidden[row]).all()
        assert (got.topk_ids[row] % 3 != 0).all()
    assert got.logps[4] == -np.inf  # the label itself is ruled out
    assert (got.mean_logit[[0, 3, 5]] == -np.inf).all()
    for row in (1, 2):
        assert np.isnan(got.logps[row])
        assert np.isnan(got.entropy[row])
        assert np.isnan(got.grad_hidden[row]).all()
    everything = np.full(700, -np.inf, np.float32)
    none = prefopt.linear_token_logps(
        hidden[:1], weight, labels[:1], bias=everything, stats=ALL_STATS, return_grad_hidden=True
    )
    assert none.lse[0] == -np.inf
    assert np.isnan(none.logps[0])
    assert not none.correct[0]
    assert np.isnan(none.grad_hidden).all()


def test_nothing_counts() -> None:
    case = Case(9, 5, 30, ignored=1.0)
    got = case.forward(return_grad_hidden=("logps", "lse", "entropy"), topk=2)
    for name, each in got._asdict().items():
        if each is not None:
            assert (each == (-1 if name == "topk_ids" else 0)).all()
    empty = prefopt.linear_token_logps(
        np.zeros((0, 5), np.float32), case.weight, np.zeros(0, int), topk=2, return_grad_hidden=True
    )
    assert empty.logps.shape == (0,)
    assert empty.grad_hidden.shape == (0, 5)
    assert empty.topk_ids.shape == (0, 2)


def test_ignored_tokens_are_not_multiplied() -> None:
    """NaN in a masked token's hidden state reaches nothing."""
    case = Case(40, 12, 90)
    clean = case.forward(return_grad_hidden=True)
    case.hidden[~case.live] = np.nan
    for one, two in zip(case.forward(return_grad_hidden=True), clean, strict=True):
        if one is not None:
            np.testing.assert_array_equal(one, two)


def test_labels_at_the_ends_of_tiles() -> None:
    hidden = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    weight = np.random.default_rng(2).normal(size=(1025, 4)).astype(np.float32)
    labels = np.array([0, 511, 512, 1023, 1024, 127])
    got = prefopt.linear_token_logps(hidden, weight, labels)
    want = prefopt.token_logps(hidden @ weight.T, labels)
    np.testing.assert_allclose(got.logps, want.logps, rtol=1e-6)


# ---- layouts -------------------------------------------------------------------------------------


def test_leading_shapes_and_strides() -> None:
    """[B, T, H] with gaps between rows, a weight with a row stride, read-only and memory-mapped."""
    rng = np.random.default_rng(4)
    wide = rng.normal(size=(3, 7, 40)).astype(np.float32)
    hidden, head = wide[:, 1:6, 4:20], rng.normal(size=(90, 30)).astype(np.float32)[:, 3:19]
    labels = rng.integers(0, 90, (3, 5)).astype(np.int32)
    labels[1, 2] = -100
    head.flags.writeable = False
    got = prefopt.linear_token_logps(
        hidden, head, labels, stats=("entropy",), return_grad_hidden=True
    )
    flat = prefopt.linear_token_logps(
        np.ascontiguousarray(hidden).reshape(15, 16),
        np.ascontiguousarray(head),
        labels.reshape(15),
        stats=("entropy",),
        return_grad_hidden=True,
    )
    assert got.grad_hidden.shape == (3, 5, 16)
    for one, two in zip(got, flat, strict=True):
        if one is not None:
            np.testing.assert_array_equal(one.reshape(two.shape), two)
    scalar = prefopt.linear_token_logps(hidden[0, 0], head, labels[0, 0])
    assert scalar.logps.shape == ()
    assert scalar.logps == pytest.approx(got.logps[0, 0], rel=1e-6)
    backwards = prefopt.linear_token_logps(hidden, head[::-1], 89 - labels.clip(0))
    np.testing.assert_allclose(backwards.logps[labels >= 0], got.logps[labels >= 0], rtol=2e-6)
