"""sequence_logps and its transpose: masks, weights, averages, packed sequences, empty ones, and the
double sums.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from oracle import logps as oracle
from support import same_bits

import prefopt
from prefopt import _core

FLOATS = ("float32", "float64")
MASKS = ("none", "bool", "float32", "float64")


def draw_mask(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray | None:
    """A mask with some empty rows: absent, bool, or weights in [0, 2) with exact zeros among
    them.
    """
    if kind == "none":
        return None
    kept = rng.random(shape) < 0.6
    if len(shape) == 2 and shape[0] > 2:
        kept[1] = False
    return kept if kind == "bool" else (kept * rng.uniform(0, 2, shape)).astype(kind)


def ulps(got: np.ndarray, want: np.ndarray) -> float:
    """Worst distance in units in the last place of the dtype of `got`."""
    unit = oracle.spacing(want, str(got.dtype))
    return float((np.abs(got.astype(np.float64) - want) / unit).max(initial=0))


def grad_of(
    grad: np.ndarray,
    logps: np.ndarray,
    mask: Any = None,
    cu_seqlens: Any = None,
    average: bool = False,
    normalizer: Any = None,
) -> np.ndarray:
    """The transpose of sequence_logps, into an output shaped like logps and filled with what must
    go.
    """
    out = np.full_like(logps, 7)
    result = _core.sequence_logps_grad(grad, out, mask, cu_seqlens, average, normalizer)
    assert result is out
    return out


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("mask_kind", MASKS)
@pytest.mark.parametrize("name", FLOATS)
def test_padded(name: str, mask_kind: str, average: bool, rng: np.random.Generator) -> None:
    for shape in ((1, 1), (4, 7), (5, 1000), (3, 0), (0, 5), (0, 0)):
        logps = (-3 * rng.random(shape)).astype(name)
        mask = draw_mask(rng, shape, mask_kind)
        got = prefopt.sequence_logps(logps, mask, average=average)
        want = oracle.sequence_sums(logps, mask, average=average)
        assert got.dtype == logps.dtype
        assert got.shape == shape[:1]
        # Summed in double: float32 is rounded once, float64 carries the rounding of a few hundred
        # additions.
        assert ulps(got, want) <= (0.51 if name == "float32" else 16)
        grad = rng.normal(size=shape[:1]).astype(name)
        got_grad = grad_of(grad, logps, mask, None, average)
        want_grad = oracle.sequence_grad(grad, logps, mask, average=average)
        assert got_grad.dtype == logps.dtype
        assert got_grad.shape == shape
        assert ulps(got_grad, want_grad) <= (0.51 if name == "float32" else 16)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("mask_kind", MASKS)
@pytest.mark.parametrize("index", ["int32", "int64"])
def test_packed(index: str, mask_kind: str, average: bool, rng: np.random.Generator) -> None:
    """cu_seqlens cuts [N] into sequences, empty ones (first, middle, last) included, and equals the
    padded form.
    """
    lengths = np.array([0, 5, 1, 0, 0, 300, 7, 0])
    cu_seqlens = np.concatenate([[0], lengths.cumsum()]).astype(index)
    logps = -3 * rng.random(lengths.sum())
    mask = draw_mask(rng, logps.shape, mask_kind)
    got = prefopt.sequence_logps(logps, mask, cu_seqlens=cu_seqlens, average=average)
    want = oracle.sequence_sums(logps, mask, cu_seqlens=cu_seqlens, average=average)
    assert ulps(got, want) <= 16
    assert (got[lengths == 0] == 0).all()
    assert not np.signbit(got[lengths == 0]).any()
    padded = np.zeros((len(lengths), lengths.max()))
    weights = np.zeros(padded.shape)
    for b, length in enumerate(lengths):
        start = cu_seqlens[b]
        padded[b, :length] = logps[start : start + length]
        weights[b, :length] = 1.0 if mask is None else mask[start : start + length]
    np.testing.assert_allclose(
        got, prefopt.sequence_logps(padded, weights, average=average), rtol=1e-14
    )
    grad = rng.normal(size=len(lengths))
    want_grad = oracle.sequence_grad(grad, logps, mask, cu_seqlens=cu_seqlens, average=average)
    np.testing.assert_allclose(
        grad_of(grad, logps, mask, cu_seqlens, average), want_grad, rtol=1e-15, atol=0
    )


def test_empty_sequences(rng: np.random.Generator) -> None:
    """Sum 0, average 0, gradient 0: for no positions at all, a mask of False, and weights of 0."""
    logps = -rng.random((3, 4))
    for mask in (np.zeros((3, 4), bool), np.zeros((3, 4), np.float32), np.zeros((3, 4))):
        for average in (False, True):
            assert (prefopt.sequence_logps(logps, mask, average=average) == 0).all()
            assert (grad_of(np.ones(3), logps, mask, None, average) == 0).all()
    assert prefopt.sequence_logps(np.zeros((3, 0)), average=True).tolist() == [0, 0, 0]
    assert prefopt.sequence_logps(np.zeros(0), cu_seqlens=np.array([0])).shape == (0,)
    assert prefopt.sequence_logps(
        np.zeros(0), cu_seqlens=np.array([0, 0]), average=True
    ).tolist() == [0]


def test_masked_positions_are_not_used(rng: np.random.Generator) -> None:
    """NaN and inf under a mask of 0 change nothing (a product with the mask would make NaN of
    them).
    """
    logps = -rng.random((2, 6))
    mask = np.array([[1, 0, 1, 0, 0, 1], [0, 1, 1, 1, 1, 0]], bool)
    want = prefopt.sequence_logps(logps, mask)
    spoilt = logps.copy()
    spoilt[~mask] = [np.nan, np.inf, -np.inf, np.nan, np.inf]
    for same in (mask, mask.astype(np.float32), mask.astype(np.float64)):
        for average in (False, True):
            assert same_bits(
                prefopt.sequence_logps(spoilt, same, average=average),
                prefopt.sequence_logps(logps, same, average=average),
            )
    assert same_bits(prefopt.sequence_logps(spoilt, mask), want)


def test_counted_infinities_pass_through() -> None:
    logps = np.array([[-1.0, -np.inf], [-1.0, np.nan], [-1.0, -2.0]])
    got = prefopt.sequence_logps(logps)
    assert got[0] == -np.inf
    assert np.isnan(got[1])
    assert got[2] == -3


@pytest.mark.parametrize("value", [0.1, -1e-3])
def test_sums_in_double(value: float) -> None:
    """A million float32 terms: a float32 running sum is off by hundreds of ulps, the double one
    rounds once.
    """
    terms = np.full((1, 1_000_000), value, np.float32)
    exact = 1_000_000 * float(np.float32(value))
    got = prefopt.sequence_logps(terms)
    assert abs(float(got[0]) - exact) <= float(np.spacing(np.float32(abs(exact)))) / 2
    assert abs(float(np.cumsum(terms, dtype=np.float32)[-1]) - exact) > 100 * np.spacing(
        np.float32(abs(exact))
    )
    # One large term first, then small ones that float32 would lose altogether.
    terms[0, 0] = -16777216.0
    exact = -16777216.0 + 999_999 * float(np.float32(value))
    assert float(prefopt.sequence_logps(terms)[0]) == float(np.float32(exact))


def test_float64_sum_is_accurate(rng: np.random.Generator) -> None:
    logps = -rng.random((2, 4001)) * 10.0 ** rng.integers(-8, 3, (2, 4001))
    want = [math.fsum(row) for row in logps]
    np.testing.assert_allclose(prefopt.sequence_logps(logps), want, rtol=1e-14)


@pytest.mark.parametrize("name", FLOATS)
def test_normalizer(name: str, rng: np.random.Generator) -> None:
    """With average, the given (global) lengths divide in place of the local counts."""
    logps = (-rng.random((3, 8))).astype(name)
    mask = draw_mask(rng, (3, 8), "bool")
    for normalizer in (np.array([4.0, 2.0, 0.5]), np.array([4, 2, 9], np.float32)):
        got = prefopt.sequence_logps(logps, mask, average=True, normalizer=normalizer)
        want = oracle.sequence_sums(logps, mask, average=True, normalizer=normalizer)
        assert ulps(got, want) <= (0.51 if name == "float32" else 4)
        grad = rng.normal(size=3).astype(name)
        got_grad = grad_of(grad, logps, mask, None, True, normalizer)
        want_grad = oracle.sequence_grad(grad, logps, mask, average=True, normalizer=normalizer)
        assert ulps(got_grad, want_grad) <= (0.51 if name == "float32" else 2)


def test_gradient_is_the_transpose(rng: np.random.Generator) -> None:
    """<sums(direction), grad> = <direction, gradient> for any direction: the pair that autograd
    needs.
    """
    for mask_kind in MASKS:
        for average in (False, True):
            direction = rng.normal(size=(6, 9))
            mask = draw_mask(rng, (6, 9), mask_kind)
            grad = rng.normal(size=6)
            left = prefopt.sequence_logps(direction, mask, average=average) @ grad
            right = (direction * grad_of(grad, direction, mask, None, average)).sum()
            assert left == pytest.approx(right, rel=1e-12)


def test_strides(rng: np.random.Generator) -> None:
    """logps and mask in any strides, also of the last axis: transposed, reversed, broadcast,
    read-only.
    """
    logps = -rng.random((5, 8))
    mask = draw_mask(rng, (5, 8), "float64")
    assert mask is not None
    want = prefopt.sequence_logps(logps, mask)
    layouts = (
        lambda x: np.asfortranarray(x),
        lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
        lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
    )
    for layout in layouts:
        for a, b in ((layout(logps), mask), (logps, layout(mask)), (layout(logps), layout(mask))):
            a.flags.writeable = b.flags.writeable = False
            assert same_bits(prefopt.sequence_logps(a, b), want)
    row = np.broadcast_to(mask[0], (5, 8))
    assert same_bits(prefopt.sequence_logps(logps, row), prefopt.sequence_logps(logps, row.copy()))


def test_threads(threads: int, rng: np.random.Generator) -> None:
    logps = -rng.random((37, 5003))
    mask = draw_mask(rng, logps.shape, "float64")
    got = (
        prefopt.sequence_logps(logps, mask, average=True),
        grad_of(np.ones(37), logps, mask, None, True),
    )
    prefopt.set_num_threads(1)
    assert same_bits(got[0], prefopt.sequence_logps(logps, mask, average=True))
    assert same_bits(got[1], grad_of(np.ones(37), logps, mask, None, True))
