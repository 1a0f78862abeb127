"""token_logps: results against the oracles, special values, ignored rows, labels, shapes and what
is accepted.
"""

from __future__ import annotations

import array
import ctypes
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import logps as oracle
from support import DTYPES, Dtype, same_bits, same_results

import prefopt

ALL = oracle.OPTIONAL_STATS
LABEL_DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def logits_and_labels(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: Dtype = DTYPES["float32"]
) -> tuple[np.ndarray, np.ndarray]:
    return dtype.make(3 * rng.normal(size=shape)), rng.integers(0, shape[-1], shape[:-1])


def test_oracles_agree(rng: np.random.Generator) -> None:
    """The NumPy oracle, which the other tests use, against 50 digits: statistics and gradients,
    masked logits too.
    """
    for vocab, temperature in ((1, 1.0), (2, 0.7), (7, 2.5), (33, 1.0)):
        x = 5 * rng.normal(size=(4, vocab))
        x[2:, : vocab // 2] = -np.inf
        labels = np.array([0, vocab - 1, vocab - 1, vocab - 1])
        numpy_stats = oracle.token_stats(x, labels, temperature=temperature)
        for r in range(4):
            exact = oracle.mp_row(x[r], int(labels[r]), temperature)
            for name in oracle.FLOAT_STATS:
                assert getattr(numpy_stats, name)[r] == pytest.approx(
                    float(exact[name]), rel=1e-14, abs=1e-14
                )
            assert numpy_stats.correct[r] == exact["correct"]
            for name in ("logps", "entropy", "lse"):
                grad, _ = oracle.token_grad(
                    x, labels, temperature=temperature, **{f"grad_{name}": np.ones(4)}
                )
                np.testing.assert_allclose(
                    grad[r], [float(d) for d in exact[f"d_{name}"]], rtol=1e-12, atol=1e-15
                )


@pytest.mark.parametrize("vocab", [1, 2, 7, 17, 33])
def test_against_mpmath(isa: str, dtype: Dtype, vocab: int, rng: np.random.Generator) -> None:
    """prefopt against 50 digits directly, forward and backward."""
    logits, labels = logits_and_labels(rng, (3, vocab), dtype)
    values = dtype.exact(logits)
    got = prefopt.token_logps(logits, labels, temperature=0.7, stats=ALL, **dtype.arguments)
    tolerance = 1e-13 if dtype.kind == "float64" else 2e-6
    half = float(oracle.spacing(np.full((), 2.0), dtype.kind)) / 2
    for r in range(3):
        exact = oracle.mp_row(values[r], int(labels[r]), 0.7)
        for name in oracle.FLOAT_STATS:
            assert float(getattr(got, name)[r]) == pytest.approx(
                float(exact[name]), rel=tolerance, abs=tolerance
            ), name
        assert bool(got.correct[r]) == exact["correct"]
    for name in ("logps", "entropy", "lse"):
        grad = prefopt.token_logps_grad(
            logits,
            labels,
            got.lse,
            entropy=got.entropy,
            temperature=0.7,
            **{f"grad_{name}": np.ones(3, dtype.result)},
            **dtype.arguments,
        )
        for r in range(3):
            exact = oracle.mp_row(values[r], int(labels[r]), 0.7)
            np.testing.assert_allclose(
                dtype.exact(grad)[r],
                [float(d) for d in exact[f"d_{name}"]],
                rtol=0,
                atol=half + 10 * tolerance,
                err_msg=name,
            )


def test_only_the_asked_statistics(rng: np.random.Generator) -> None:
    logits, labels = logits_and_labels(rng, (5, 40))
    full = prefopt.token_logps(logits, labels, stats=ALL)
    bare = prefopt.token_logps(logits, labels)
    assert [getattr(bare, name) for name in ALL] == [None] * len(ALL)
    assert same_bits(bare.logps, full.logps)
    assert same_bits(bare.lse, full.lse)
    for name in ALL:
        one = prefopt.token_logps(logits, labels, stats=(name,))
        assert same_bits(getattr(one, name), getattr(full, name))
        assert same_bits(one.logps, full.logps)
        assert all(getattr(one, other) is None for other in ALL if other != name)


# ---- special values ------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [1, 16, 37, 5000])
def test_all_masked_row(isa: str, dtype: Dtype, vocab: int) -> None:
    """lse, lse2, max_logit, mean_logit -inf; logps and entropy NaN; correct False; the gradient row
    NaN.
    """
    logits = dtype.make(np.full((3, vocab), -np.inf))
    logits[1] = dtype.make(np.linspace(-1, 1, vocab))
    labels = np.zeros(3, np.int64)
    got = prefopt.token_logps(logits, labels, stats=ALL, **dtype.arguments)
    for name in ("lse", "lse2", "max_logit", "mean_logit"):
        assert (getattr(got, name)[[0, 2]] == -np.inf).all(), name
    for name in ("logps", "entropy"):
        assert np.isnan(getattr(got, name)[[0, 2]]).all(), name
    assert not got.correct[[0, 2]].any()
    grad = prefopt.token_logps_grad(
        logits, labels, got.lse, grad_logps=np.ones(3, dtype.result), **dtype.arguments
    )
    assert np.isnan(dtype.exact(grad)[[0, 2]]).all()
    alone = prefopt.token_logps(logits[1:2], labels[1:2], stats=ALL, **dtype.arguments)
    for name in oracle.STATS:
        assert same_bits(getattr(got, name)[1:2], getattr(alone, name)), name
    assert np.isfinite(dtype.exact(grad)[1]).all()


@pytest.mark.parametrize("vocab", [1, 16, 37, 5000])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["first", "middle", "last", "label"])
def test_nan_and_inf_stay_in_their_row(isa: str, vocab: int, bad: float, place: str) -> None:
    """One NaN (or +inf) makes its row NaN (lse, lse2, max_logit +inf; no distribution) and touches
    no other.
    """
    rng = np.random.default_rng(vocab)
    for dtype in DTYPES.values():
        if dtype.name == "bfloat16":
            continue  # the same bits as bfloat16_raw, shown in test_token_logps_bits
        values = rng.normal(size=(3, vocab))
        labels = rng.integers(0, vocab, 3)
        clean = dtype.make(values)
        column = {"first": 0, "middle": vocab // 2, "last": vocab - 1, "label": labels[1]}[place]
        values[1, column] = bad
        logits = dtype.make(values)
        got = prefopt.token_logps(logits, labels, stats=ALL, **dtype.arguments)
        want = prefopt.token_logps(clean, labels, stats=ALL, **dtype.arguments)
        for name in oracle.STATS:
            assert same_bits(getattr(got, name)[[0, 2]], getattr(want, name)[[0, 2]]), name
        assert np.isnan(got.logps[1])
        assert np.isnan(got.entropy[1])
        for name in ("lse", "lse2", "max_logit", "mean_logit"):
            result = getattr(got, name)[1]
            assert np.isnan(result) if np.isnan(bad) else result == np.inf, name
        if np.isnan(bad):
            assert not got.correct[1]
        grads = [
            prefopt.token_logps_grad(
                x, labels, lse, grad_logps=np.ones(3, dtype.result), **dtype.arguments
            )
            for x, lse in ((logits, got.lse), (clean, want.lse))
        ]
        assert np.isnan(dtype.exact(grads[0])[1]).all()
        assert same_bits(grads[0][[0, 2]], grads[1][[0, 2]])


def test_masked_logits_have_no_weight(isa: str, dtype: Dtype, rng: np.random.Generator) -> None:
    """-inf logits: p log p = 0, gradient exactly 0, mean_logit -inf; the rest as if they were not
    there.
    """
    vocab = 83
    values = 3 * rng.normal(size=(4, vocab))
    kept = rng.random(vocab) < 0.5
    kept[:2] = (True, False)
    masked = np.where(kept, values, -np.inf)
    logits, shorter = dtype.make(masked), dtype.make(np.ascontiguousarray(masked[:, kept]))
    labels = np.zeros(4, np.int64)
    got = prefopt.token_logps(logits, labels, stats=ALL, **dtype.arguments)
    want = prefopt.token_logps(shorter, labels, stats=ALL, **dtype.arguments)
    tolerance = 1e-14 if dtype.kind == "float64" else 2e-6
    for name in ("logps", "lse", "entropy", "max_logit", "lse2"):
        np.testing.assert_allclose(
            getattr(got, name), getattr(want, name), rtol=tolerance, atol=tolerance
        )
    assert (got.mean_logit == -np.inf).all()
    assert np.array_equal(got.correct, want.correct)
    ones = np.ones(4, dtype.result)
    grad = prefopt.token_logps_grad(
        logits,
        labels,
        got.lse,
        grad_logps=ones,
        grad_entropy=ones,
        grad_lse=ones,
        entropy=got.entropy,
        **dtype.arguments,
    )
    assert (dtype.exact(grad)[:, ~kept] == 0).all()
    assert np.isfinite(dtype.exact(grad)).all()
    # A masked label has logp -inf and the gradient onehot - p.
    at_masked = prefopt.token_logps(logits, labels + 1, **dtype.arguments)
    assert (at_masked.logps == -np.inf).all()
    grad = dtype.exact(
        prefopt.token_logps_grad(
            logits, labels + 1, at_masked.lse, grad_logps=ones, **dtype.arguments
        )
    )
    assert (grad[:, 1] == 1).all()
    assert np.isfinite(grad).all()


def test_first_maximum_wins(isa: str, dtype: Dtype) -> None:
    """`correct` is True for the first of several equal maxima only, wherever blocks and lanes are
    cut.
    """
    for vocab in (2, 17, 64, 1000, 9000):
        places = sorted({0, 1, vocab // 3, vocab // 2, vocab - 1})
        for i, first in enumerate(places[:-1]):
            values = np.zeros((2, vocab))
            values[:, places[i:]] = 2.5
            labels = np.array([first, places[i + 1]])
            got = prefopt.token_logps(
                dtype.make(values), labels, stats=("correct",), **dtype.arguments
            )
            assert got.correct.tolist() == [True, False], (vocab, first)


def test_signed_zeros_tie(isa: str, dtype: Dtype) -> None:
    """-0.0 and 0.0 are equal maxima: the first wins, whatever its sign."""
    values = np.full((2, 40), -1.0)
    values[0, [5, 20]] = (-0.0, 0.0)
    values[1, [5, 20]] = (0.0, -0.0)
    got = prefopt.token_logps(
        dtype.make(values), np.array([5, 5]), stats=("correct", "max_logit"), **dtype.arguments
    )
    assert got.correct.all()
    assert (got.max_logit == 0).all()


def test_constant_rows_are_uniform(isa: str, dtype: Dtype) -> None:
    for vocab in (1, 2, 33, 50257):
        logits = dtype.make(np.full((1, vocab), 3.25))
        got = prefopt.token_logps(logits, np.array([vocab - 1]), stats=ALL, **dtype.arguments)
        tolerance = 1e-14 if dtype.kind == "float64" else 1e-6
        assert got.logps[0] == pytest.approx(-math.log(vocab), rel=tolerance, abs=0)
        assert got.entropy[0] == pytest.approx(math.log(vocab), rel=tolerance, abs=0)
        assert got.max_logit[0] == got.mean_logit[0] == 3.25
        assert bool(got.correct[0]) == (vocab == 1)


def test_one_class_is_certain(isa: str, dtype: Dtype) -> None:
    """V = 1: logp 0 and entropy 0 exactly, lse the logit itself, gradient of logp exactly 0."""
    values = np.array([[-1e4], [-0.3], [0.0], [7.0]])
    logits = dtype.make(values)
    labels = np.zeros(4, np.int64)
    got = prefopt.token_logps(logits, labels, stats=ALL, **dtype.arguments)
    assert (got.logps == 0).all()
    assert (got.entropy == 0).all()
    assert got.correct.all()
    exact = dtype.exact(logits)[:, 0]
    for name in ("lse", "max_logit", "mean_logit"):
        assert np.array_equal(getattr(got, name), exact.astype(dtype.result)), name
    assert np.array_equal(got.lse2, (2 * exact).astype(dtype.result))
    grad = prefopt.token_logps_grad(
        logits, labels, got.lse, grad_logps=np.full(4, 3, dtype.result), **dtype.arguments
    )
    assert (dtype.exact(grad) == 0).all()


def test_temperature_is_division_of_the_logits(
    isa: str, dtype: Dtype, rng: np.random.Generator
) -> None:
    """By a power of two exactly: temperature 2 on logits has the bits of temperature 1 on logits /
    2.
    """
    logits, labels = logits_and_labels(rng, (5, 333), dtype)
    halved = dtype.make(dtype.exact(logits) / 2)
    got = prefopt.token_logps(logits, labels, temperature=2.0, stats=ALL, **dtype.arguments)
    want = prefopt.token_logps(halved, labels, stats=ALL, **dtype.arguments)
    assert same_results(got, want)


@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_extreme_temperatures(isa: str, dtype: Dtype, temperature: float) -> None:
    """At the ends of the range: the maximum takes all, or all that is not masked shares alike."""
    logits = dtype.make(np.array([[0.0, 1.0, -np.inf, 2.0, -3.0]]))
    got = prefopt.token_logps(
        logits, np.array([3]), temperature=temperature, stats=("entropy",), **dtype.arguments
    )
    want = -math.log(4) if temperature > 1 else 0.0
    assert got.logps[0] == pytest.approx(want, rel=1e-6, abs=0)
    assert got.entropy[0] == pytest.approx(-want, rel=1e-6, abs=0)


# ---- ignored rows --------------------------------------------------------------------------------


@pytest.mark.parametrize("ignore_index", [-100, -1, 0, 3, 10**12])
def test_ignored_rows(isa: str, dtype: Dtype, ignore_index: int, rng: np.random.Generator) -> None:
    """Results 0 and False, a zero gradient row; NaN logits in an ignored row do not matter."""
    logits, labels = logits_and_labels(rng, (4, 3, 21), dtype)
    labels = np.where(labels == ignore_index, 1, labels)
    ignored = rng.random(labels.shape) < 0.5
    ignored[0, 0], ignored[1, 1] = True, False
    labels[ignored] = ignore_index
    logits[ignored] = dtype.make(np.full(21, np.nan))
    got = prefopt.token_logps(
        logits, labels, ignore_index=ignore_index, stats=ALL, **dtype.arguments
    )
    for name in oracle.STATS:
        values = getattr(got, name)
        assert values.shape == labels.shape
        assert not values[ignored].any(), name
        assert not np.signbit(values[ignored].astype(np.float64)).any(), name
    counted = prefopt.token_logps(
        logits[~ignored], labels[~ignored], ignore_index=ignore_index, stats=ALL, **dtype.arguments
    )
    for name in oracle.STATS:
        assert same_bits(getattr(got, name)[~ignored], getattr(counted, name)), name
    upstream = np.where(ignored, np.nan, rng.normal(size=labels.shape)).astype(dtype.result)
    grad = prefopt.token_logps_grad(
        logits, labels, got.lse, grad_logps=upstream, ignore_index=ignore_index, **dtype.arguments
    )
    assert (dtype.exact(grad)[ignored] == 0).all()
    assert np.isfinite(dtype.exact(grad)).all()


def test_every_row_ignored(isa: str, dtype: Dtype) -> None:
    logits = dtype.make(np.full((3, 8), np.nan))
    labels = np.full(3, -100)
    got = prefopt.token_logps(logits, labels, stats=ALL, **dtype.arguments)
    assert not any(getattr(got, name).any() for name in oracle.STATS)


# ---- labels and shapes ---------------------------------------------------------------------------


@pytest.mark.parametrize("label_dtype", LABEL_DTYPES)
def test_label_dtypes(isa: str, label_dtype: str, rng: np.random.Generator) -> None:
    logits, labels = logits_and_labels(rng, (6, 50))
    want = prefopt.token_logps(logits, labels, stats=ALL)
    typed = labels.astype(label_dtype)
    assert same_results(prefopt.token_logps(logits, typed, stats=ALL), want)
    strided = np.repeat(typed, 3)[::3]
    reversed_ = np.ascontiguousarray(typed[::-1])[::-1]
    for view in (strided, reversed_):
        assert same_results(prefopt.token_logps(logits, view, stats=ALL), want)
    ones = np.ones(6, np.float32)
    assert same_bits(
        prefopt.token_logps_grad(logits, typed, want.lse, grad_logps=ones),
        prefopt.token_logps_grad(logits, labels, want.lse, grad_logps=ones),
    )
    if label_dtype.startswith("int"):
        typed[2] = -100
        assert prefopt.token_logps(logits, typed).logps[2] == 0
    else:
        typed[2] = 200
        assert prefopt.token_logps(logits, typed, ignore_index=200).logps[2] == 0


def test_leading_shapes(isa: str, rng: np.random.Generator) -> None:
    flat, labels = logits_and_labels(rng, (24, 19))
    want = prefopt.token_logps(flat, labels, stats=ALL)
    for lead in ((24,), (4, 6), (2, 3, 4), (1, 24), (24, 1), (2, 1, 3, 1, 4), (1,) * 20 + (24,)):
        got = prefopt.token_logps(flat.reshape(*lead, 19), labels.reshape(lead), stats=ALL)
        for name in oracle.STATS:
            assert getattr(got, name).shape == lead
            assert same_bits(getattr(got, name).reshape(-1), getattr(want, name))


def test_single_row_with_scalar_label(isa: str, dtype: Dtype, rng: np.random.Generator) -> None:
    """Logits [V] take a 0-d label; every result has shape ()."""
    logits, labels = logits_and_labels(rng, (1, 19), dtype)
    want = prefopt.token_logps(logits, labels, stats=ALL, **dtype.arguments)
    got = prefopt.token_logps(logits[0], labels[0].reshape(()), stats=ALL, **dtype.arguments)
    for name in oracle.STATS:
        assert np.shape(getattr(got, name)) == ()
        assert getattr(got, name) == getattr(want, name)[0]
    grad = prefopt.token_logps_grad(
        logits[0],
        labels[0].reshape(()),
        np.asarray(got.lse),
        grad_logps=np.ones((), dtype.result),
        **dtype.arguments,
    )
    assert grad.shape == (19,)


@pytest.mark.parametrize("lead", [(0,), (0, 5), (5, 0), (2, 0, 3)])
def test_zero_rows(isa: str, dtype: Dtype, lead: tuple[int, ...]) -> None:
    logits = dtype.make(np.zeros((*lead, 11)))
    labels = np.zeros(lead, np.int64)
    got = prefopt.token_logps(logits, labels, stats=ALL, **dtype.arguments)
    for name in oracle.STATS:
        assert getattr(got, name).shape == lead
    assert got.logps.dtype == dtype.result
    assert got.correct.dtype == np.bool_
    grad = prefopt.token_logps_grad(
        logits, labels, got.lse, grad_logps=np.zeros(lead, dtype.result), **dtype.arguments
    )
    assert grad.shape == logits.shape
    assert grad.dtype == logits.dtype


# ---- what is taken as an array -------------------------------------------------------------------


class OnlyDLPack:
    """An array that is known by its DLPack methods alone, as a tensor of another library is."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def test_memory_map(isa: str, dtype: Dtype, rng: np.random.Generator, tmp_path: Path) -> None:
    logits, labels = logits_and_labels(rng, (5, 30), dtype)
    want = prefopt.token_logps(logits, labels, stats=ALL, **dtype.arguments)
    logits.tofile(tmp_path / "logits")
    mapped = np.memmap(tmp_path / "logits", dtype=logits.dtype, mode="r", shape=logits.shape)
    assert same_results(prefopt.token_logps(mapped, labels, stats=ALL, **dtype.arguments), want)
    writable = np.memmap(tmp_path / "logits", dtype=logits.dtype, mode="r+", shape=logits.shape)
    ones = np.ones(5, dtype.result)
    grad = prefopt.token_logps_grad(logits, labels, want.lse, grad_logps=ones, **dtype.arguments)
    in_place = prefopt.token_logps_grad(
        writable, labels, want.lse, grad_logps=ones, out=writable, **dtype.arguments
    )
    assert in_place is writable
    assert same_bits(np.asarray(writable), grad)


def test_buffer_protocol(rng: np.random.Generator) -> None:
    logits, labels = logits_and_labels(rng, (1, 30))
    want = prefopt.token_logps(logits[0], labels[0].reshape(()))
    plain = array.array("f", logits[0].tobytes())
    view = memoryview(np.ascontiguousarray(logits[0]))
    c_array = (ctypes.c_float * 30)(*logits[0])
    for buffer in (plain, view, c_array):
        got = prefopt.token_logps(buffer, labels[0].reshape(()))
        assert got.logps == want.logps
        assert got.lse == want.lse
    rows = memoryview(np.ascontiguousarray(np.repeat(logits, 2, axis=0)))
    got = prefopt.token_logps(rows, array.array("q", [int(labels[0])] * 2))
    assert (got.logps == want.logps).all()


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_dlpack(name: str, rng: np.random.Generator) -> None:
    dtype = DTYPES[name]
    logits, labels = logits_and_labels(rng, (4, 30), dtype)
    want = prefopt.token_logps(logits, labels, stats=ALL)
    assert same_results(
        prefopt.token_logps(OnlyDLPack(logits), OnlyDLPack(labels), stats=ALL), want
    )
    turned = np.ascontiguousarray(logits[::-1])[::-1]
    assert same_results(prefopt.token_logps(OnlyDLPack(turned), labels, stats=ALL), want)


def test_inputs_are_not_changed(dtype: Dtype, rng: np.random.Generator) -> None:
    logits, labels = logits_and_labels(rng, (5, 30), dtype)
    copies = logits.tobytes(), labels.tobytes()
    logits.flags.writeable = labels.flags.writeable = False
    got = prefopt.token_logps(logits, labels, stats=ALL, **dtype.arguments)
    got.lse.flags.writeable = False
    ones = np.ones(5, dtype.result)
    prefopt.token_logps_grad(logits, labels, got.lse, grad_logps=ones, **dtype.arguments)
    assert (logits.tobytes(), labels.tobytes()) == copies


def test_results_own_their_memory(rng: np.random.Generator) -> None:
    logits, labels = logits_and_labels(rng, (5, 30))
    got = prefopt.token_logps(logits, labels, stats=ALL)
    results = [getattr(got, name) for name in oracle.STATS]
    assert all(result.flags.writeable and result.flags.c_contiguous for result in results)
    assert not any(
        np.shares_memory(a, b)
        for i, a in enumerate(results)
        for b in (*results[:i], logits, labels)
    )
