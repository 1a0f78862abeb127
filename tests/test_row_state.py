"""The row state: parts of a row read apart and merged give the statistics of the whole, at any cuts
and grouping.

This is what a vocabulary split over processes, the linear op and CUDA stand on, so it is tested as
a thing of its own.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from oracle import logps as oracle
from support import Dtype

import prefopt
from prefopt import RowState, _core

EMPTY = RowState.empty()
# Names of finish() and of the oracle.
RESULTS = {name: name for name in ("lse", "entropy", "mean_logit", "max_logit", "lse2")} | {
    "logp": "logps"
}
SEGMENT = 32768  # PFO_SEGMENT: a row is cut here whoever reads it


def read_in_parts(logits: np.ndarray, cuts: list[int], label: int, **keywords: Any) -> RowState:
    """Parts between the cuts, read with their global offset and merged left to right."""
    edges = [0, *cuts, len(logits)]
    state = EMPTY
    for begin, end in itertools.pairwise(edges):
        if end > begin:
            part = RowState.read(logits[begin:end], label, first_vocab=begin, **keywords)
            state = state.merge(part)
    return state


def rows(vocab: int) -> dict[str, np.ndarray]:
    """Rows whose parts differ much: rising, falling, masked parts, one peak, ties over the cuts,
    all -inf.
    """
    rng = np.random.default_rng(vocab)
    normal = rng.normal(size=vocab)
    masked = np.where(np.arange(vocab) < vocab // 2, -np.inf, normal)
    peak = normal.copy()
    peak[vocab // 2] += 60
    return {
        "random": 3 * normal,
        "rising": np.linspace(-500, 500, vocab),
        "falling": np.linspace(500, -500, vocab),
        "first half masked": masked,
        "last half masked": masked[::-1].copy(),
        "one peak": peak,
        "constant": np.full(vocab, 2.5),
        "large": 1e4 + normal,
        "all masked": np.full(vocab, -np.inf),
    }


def check(
    got: dict[str, float], values: np.ndarray, label: int, temperature: float, kind: str
) -> None:
    want = oracle.token_stats(
        values[None], np.array([label]), temperature=temperature, precision=np.longdouble
    )
    relative = 1e-13 if kind == "float64" else 1e-6
    for name, oracle_name in RESULTS.items():
        true = float(getattr(want, oracle_name)[0])
        scale = max(1.0, abs(true))
        if name in ("logp", "mean_logit") and np.isfinite(want.mean_abs_logit[0]):
            scale = max(scale, float(want.mean_abs_logit[0]))
        if np.isfinite(true):
            assert abs(got[name] - true) <= relative * scale, name
        else:
            np.testing.assert_equal(got[name], true, err_msg=name)
    first = int(np.argmax(values)) if values.max() > -np.inf else -1
    assert got["best"] == first


@pytest.mark.parametrize("vocab", [1, 2, 17, 1000, 9001])
def test_whole_row(isa: str, dtype: Dtype, vocab: int) -> None:
    for values in rows(vocab).values():
        logits = dtype.make(values)
        for temperature in (1.0, 0.7):
            label = vocab // 3
            state = RowState.read(logits, label, temperature=temperature, dtype=dtype.keyword)
            assert state.count == vocab
            assert state.has_target == 1
            check(state.finish(), dtype.exact(logits), label, temperature, dtype.kind)


@pytest.mark.parametrize("vocab", [2, 17, 1000, 9001])
def test_any_cuts(isa: str, vocab: int, rng: np.random.Generator) -> None:
    for values in rows(vocab).values():
        for kind in ("float32", "float64"):
            logits = values.astype(kind)
            exact = logits.astype(np.float64)
            for cuts in (
                [1],
                [vocab - 1],
                [vocab // 2],
                sorted(rng.integers(0, vocab, 5).tolist()),
                list(range(1, min(vocab, 40))),
            ):
                label = int(rng.integers(vocab))
                check(read_in_parts(logits, cuts, label).finish(), exact, label, 1.0, kind)


def test_grouping(rng: np.random.Generator) -> None:
    """((a b) c) and (a (b c)) agree to rounding, in every field; an empty part changes no bit."""
    logits = 5 * rng.normal(size=999)
    a, b, c = (
        RowState.read(logits[first : first + 333], 500, first_vocab=first)
        for first in (0, 333, 666)
    )
    left, right = a.merge(b).merge(c), a.merge(b.merge(c))
    np.testing.assert_allclose(left, right, rtol=1e-14)
    assert left[6:] == right[6:]
    assert EMPTY.merge(a) == a
    assert a.merge(EMPTY) == a
    assert EMPTY.merge(EMPTY) == EMPTY


def test_segments_merge_to_the_bits_of_token_logps(isa: str, dtype: Dtype) -> None:
    """Cut where the library itself cuts, a split vocabulary gives exactly the results of the whole
    row.
    """
    vocab = 2 * SEGMENT + 4097
    rng = np.random.default_rng(0)
    logits = dtype.make(4 * rng.normal(size=vocab))
    for label in (0, SEGMENT, vocab - 1):
        got = read_in_parts(logits, [SEGMENT, 2 * SEGMENT], label, dtype=dtype.keyword).finish()
        want = prefopt.token_logps(
            logits[None], np.array([label]), stats=oracle.OPTIONAL_STATS, **dtype.arguments
        )
        for name, result in RESULTS.items():
            assert dtype.result.type(got[name]) == getattr(want, result)[0], name
        assert (got["best"] == label) == want.correct[0]


def test_isa_rows_agree() -> None:
    for values in rows(9001).values():
        states = []
        for isa in prefopt.isas():
            with prefopt.using_isa(isa):
                states.append(RowState.read(values.astype(np.float32), 77, temperature=1.3))
        assert all(state == states[0] for state in states)


def test_first_maximum_over_parts() -> None:
    """Of equal maxima in several parts the earliest index stays; a later part must be greater to
    win.
    """
    parts = [np.array([0.0, 3.0]), np.array([3.0, 1.0]), np.array([3.0, 3.0])]
    state = EMPTY
    for k, part in enumerate(parts):
        state = state.merge(RowState.read(part, -1, first_vocab=2 * k))
    assert state.finish()["best"] == 1
    state = state.merge(RowState.read(np.array([3.5]), -1, first_vocab=6))
    assert state.finish()["best"] == 6


def test_target_in_one_part_only() -> None:
    logits = np.array([1.0, 2.0, 3.0, 4.0])
    first, second = RowState.read(logits[:2], 2), RowState.read(logits[2:], 2, first_vocab=2)
    assert (first.has_target, second.has_target) == (0, 1)
    assert (first.target, second.target) == (-np.inf, 3.0)
    whole = first.merge(second).finish()
    assert whole["logp"] == pytest.approx(3 - np.log(np.exp(logits).sum()))
    none = RowState.read(logits, 99).finish()
    assert np.isnan(none["logp"])
    assert none["lse"] == whole["lse"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_nan_and_inf_in_one_part(part: int, bad: float) -> None:
    """They reach the whole row through any merge: NaN everywhere; +inf in lse, lse2, max_logit, no
    distribution.
    """
    values = np.linspace(-1, 1, 9)
    values[4 * part] = bad
    state = read_in_parts(values, [3, 6], 1)
    got = state.finish()
    assert np.isnan(got["logp"])
    assert np.isnan(got["entropy"])
    for name in ("lse", "lse2", "max_logit"):
        assert np.isnan(got[name]) if np.isnan(bad) else got[name] == np.inf, name
    # A masked part before or after hides neither.
    masked = RowState.read(np.full(3, -np.inf), -1, first_vocab=9)
    for both in (state.merge(masked), masked.merge(state)):
        np.testing.assert_equal(both.finish()["lse"], got["lse"])
        assert np.isnan(both.finish()["entropy"])


def test_empty_state() -> None:
    """Nothing read: the log of an empty sum."""
    got = EMPTY.finish()
    assert got["lse"] == got["lse2"] == got["max_logit"] == -np.inf
    assert np.isnan(got["logp"])
    assert np.isnan(got["entropy"])
    assert got["best"] == -1


def test_bad_input() -> None:
    row = np.zeros(4, np.float32)
    wrong: tuple[tuple[tuple[Any, ...], str], ...] = (
        ((np.zeros((2, 4), np.float32), None, 0, 0, 1.0), "logits"),
        ((np.zeros(0, np.float32), None, 0, 0, 1.0), "logits"),
        ((row.astype(int), None, 0, 0, 1.0), "logits"),
        ((row[::2], None, 0, 0, 1.0), "logits"),
        ((row.astype(object), None, 0, 0, 1.0), "logits"),
        ((row, "float64", 0, 0, 1.0), "dtype"),
        ((row, None, -1, 0, 1.0), "first_vocab"),
        ((row, None, 2**63 - 2, 0, 1.0), "first_vocab"),
        ((row, None, 0.5, 0, 1.0), "first_vocab"),
        ((row, None, 0, "x", 1.0), "label"),
        ((row, None, 0, 0, 0.0), "temperature"),
        ((row, None, 0, 0, np.nan), "temperature"),
    )
    for arguments, match in wrong:
        with pytest.raises((ValueError, TypeError), match=match):
            _core.row_state_read(*arguments)
    for state in ((), EMPTY[:-1], (*EMPTY, 0), None, 5, ("x",) * 9, (*EMPTY[:6], np.nan, 0, 0)):
        with pytest.raises((ValueError, TypeError), match=r"state|first"):
            _core.row_state_finish(state)
        with pytest.raises((ValueError, TypeError)):
            _core.row_state_merge(state, EMPTY)
        with pytest.raises((ValueError, TypeError)):
            _core.row_state_merge(EMPTY, state)


def test_target_that_no_part_holds_is_minus_inf() -> None:
    state = _core.row_state_read(np.ones(3), None, 0, 99, 1.0)
    assert state[5] == -np.inf
    assert state[8] == 0
