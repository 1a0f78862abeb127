"""exp and log of the kernels on every ISA row, against long double and mpmath, with the bounds
stated in vmath.h.

CI takes a stratified sample; `pytest -m nightly tests/test_vmath.py` takes all 2^32 float32 inputs.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from oracle import logps as oracle
from support import same_bits

import prefopt
from prefopt import _core

SOURCES = Path(__file__).resolve().parent.parent / "csrc"


def stated(path: str, pattern: str, otherwise: float) -> float:
    """A bound as the comment of its source states it, read as running text; it has one home."""
    if not SOURCES.is_dir():
        return otherwise
    text = " ".join((SOURCES / path).read_text().replace("*", " ").split())
    found = re.search(pattern, text)
    assert found, f"{path} states no bound like {pattern}"
    return float(found[1])


EXP_F32_ULP = stated("simd/vmath.h", r"([\d.]+) ulp for float exp", 5.60)
EXP_F32_NEAR_ULP = stated("simd/vmath.h", r"\(([\d.]+) ulp for \|x\| <= 16\)", 2.56)
EXP_F64_ULP = stated("simd/vmath.h", r"Double exp ([\d.]+) ulp", 0.90)
LOG_F64_ULP = stated("core/row_state.h", r"([\d.]+) ulp; log\(0\) = -inf", 0.84)
EXP_F32_FLUSH = 2.0**-125  # below it the result lies between 0 and the true value
EXP_F64_FLUSH = 2.0**-1021.5
EXP_F32_OVERFLOW = np.float32(88.72284)  # the first float32 whose exp rounds to inf


def check_exp_f32(x: np.ndarray) -> float:
    """Worst error in ulp of exp_f32 on float32 inputs of any kind; special values and the flush are
    asserted.
    """
    with np.errstate(all="ignore"):
        got = _core.exp_f32(x)
        assert got.dtype == np.float32
        assert got.shape == x.shape
        want = np.exp(x.astype(np.float64))  # at most 1 ulp of float64 off: 2e-9 ulp of float32
        nan = np.isnan(x)
        assert np.array_equal(np.isnan(got), nan)
        overflow = x >= EXP_F32_OVERFLOW
        assert (got[overflow] == np.inf).all()
        flushed = want < EXP_F32_FLUSH
        assert (got[flushed] >= 0).all()
        assert (got[flushed] <= want[flushed] + 5 * 2.0**-149).all()
        assert not np.signbit(got[~nan]).any()
        counted = ~(nan | overflow | flushed)
        if not counted.any():
            return 0.0
        assert np.isfinite(got[counted]).all()
        # np.spacing of the float64 value, moved from 52 to 23 bits: exact, and fast enough for 2^32
        # values.
        unit = np.spacing(want[counted]) * 2.0**29
        return float((np.abs(got[counted].astype(np.float64) - want[counted]) / unit).max())


def strata(count: int, seed: int) -> np.ndarray:
    """float32 bit patterns: `count` in each of the 512 combinations of sign and exponent, ends
    included.
    """
    rng = np.random.default_rng(seed)
    mantissa = rng.integers(0, 2**23, (512, count), dtype=np.uint32)
    mantissa[:, 0], mantissa[:, 1] = 0, 2**23 - 1
    bits = (np.arange(512, dtype=np.uint32)[:, None] << np.uint32(23)) | mantissa
    return bits.reshape(-1).view(np.float32)


def test_exp_f32(isa: str) -> None:
    """A sample of every exponent, more where the kernels work ([-104, 89]), and around the two
    thresholds.
    """
    rng = np.random.default_rng(1)
    edges = np.array(
        [88.72283, EXP_F32_OVERFLOW, -86.6433, -87.3, -87.33655, -103.97, 0.0], np.float32
    )
    near = (edges.view(np.int32)[:, None] + np.arange(-500, 500, dtype=np.int32)).view(np.float32)
    parts = (
        strata(40, 2),
        rng.uniform(-104, 89, 200_000).astype(np.float32),
        (-(10.0 ** rng.uniform(-9, 2, 100_000))).astype(np.float32),
        near.reshape(-1),
    )
    worst = max(check_exp_f32(part) for part in parts)
    assert worst <= EXP_F32_ULP
    assert check_exp_f32(rng.uniform(-16, 16, 200_000).astype(np.float32)) <= EXP_F32_NEAR_ULP


@pytest.mark.nightly
def test_exp_f32_exhaustive() -> None:
    """All 2^32 inputs on the default row; the others agree with it bit for bit on a sixteenth of
    them.
    """
    chunk = 1 << 24
    worst = near = 0.0
    for start in range(0, 1 << 32, chunk):
        x = np.arange(start, start + chunk, dtype=np.uint64).astype(np.uint32).view(np.float32)
        worst = max(worst, check_exp_f32(x))
        small = x[np.abs(x) <= 16]
        near = max(near, check_exp_f32(small) if len(small) else 0.0)
        if start % (16 * chunk) == 0:
            results = []
            for isa in prefopt.isas():
                with prefopt.using_isa(isa):
                    results.append(plain(_core.exp_f32(x)))
            assert all(same_bits(result, results[0]) for result in results)
    print(f"exp_f32, all float32 inputs: worst error {worst:.4f} ulp, {near:.4f} for |x| <= 16")
    assert worst <= EXP_F32_ULP
    assert near <= EXP_F32_NEAR_ULP


def mp_errors(got: np.ndarray, x: np.ndarray, function: str) -> float:
    """Worst error in ulp of float64 against mpmath with 50 digits."""
    import mpmath

    worst = 0.0
    unit = oracle.spacing(got, "float64")
    with mpmath.workdps(50):
        evaluate = getattr(mpmath, function)
        for value, result, one in zip(x.tolist(), got.tolist(), unit.tolist(), strict=True):
            worst = max(worst, float(abs(mpmath.mpf(result) - evaluate(mpmath.mpf(value))) / one))
    return worst


def test_exp_f64(isa: str) -> None:
    rng = np.random.default_rng(3)
    for x in (
        rng.uniform(-707.7, 709.7, 4000),
        -(10.0 ** rng.uniform(-18, 2.8, 4000)),
        np.log(2) * (np.arange(-1020, 1023) + 0.5) * (1 + 1e-15),  # where n changes, |r| is largest
    ):
        assert mp_errors(_core.exp_f64(x), x, "exp") <= EXP_F64_ULP
    with np.errstate(all="ignore"):
        big = rng.uniform(-745, 709.7, 200_000)
        want = np.exp(big.astype(np.longdouble))
        got = _core.exp_f64(big)
    kept = want >= EXP_F64_FLUSH * (1 + 1e-6)
    assert (got[want < EXP_F64_FLUSH * (1 - 1e-6)] == 0).all()
    error = np.abs(got[kept] - want[kept]) / np.spacing(want[kept].astype(np.float64))
    assert error.max() <= EXP_F64_ULP
    special = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 709.79, -708.5, 5e-324, 1e308, -1e308])
    got = _core.exp_f64(special)
    assert np.array_equal(got, [np.inf, 0, np.nan, 1, 1, np.inf, 0, 1, np.inf, 0], equal_nan=True)


def test_exp_f32_specials(isa: str) -> None:
    special = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45, 3e38, -3e38, 100], np.float32)
    got = _core.exp_f32(special)
    assert np.array_equal(got, [np.inf, 0, np.nan, 1, 1, 1, np.inf, 0, np.inf], equal_nan=True)


def test_log_f64(isa: str) -> None:
    """Over the whole range, more between 1 and a vocabulary's size (a sum of exponentials) and
    around 1.
    """
    rng = np.random.default_rng(4)
    for x in (
        rng.uniform(1, 3e5, 4000),
        2.0 ** rng.uniform(-1022, 1023.9, 4000),
        1 + rng.uniform(-1e-3, 1e-3, 3000),
        1 + np.arange(-50, 51) * 2.0**-52,
        np.arange(1, 200) * 5e-324,
        np.sqrt(2) * 2.0 ** np.arange(-20, 20) * (1 + np.array([[-1e-16], [0], [2e-16]])),
    ):
        flat = np.ascontiguousarray(x.reshape(-1))
        flat = flat[flat != 1]
        assert mp_errors(_core.log_f64(flat), flat, "log") <= LOG_F64_ULP
    special = np.array([0.0, -0.0, 1.0, np.inf, -1.0, -np.inf, np.nan])
    want = [-np.inf, -np.inf, 0, np.inf, np.nan, np.nan, np.nan]
    assert np.array_equal(_core.log_f64(special), want, equal_nan=True)


def plain(values: np.ndarray) -> np.ndarray:
    """Every NaN the same: which of two payloads a product keeps is the compiler's choice."""
    return np.where(np.isnan(values), np.full_like(values, np.nan), values)


def test_rows_agree() -> None:
    """The scalar row defines the bits, tails and every special value included."""
    x32 = np.concatenate([strata(8, 5), np.float32([np.nan, -np.nan])])
    x64 = np.random.default_rng(6).uniform(-760, 720, 5003)
    x64[-3:] = (np.nan, np.inf, -np.inf)
    for function, x in ((_core.exp_f32, x32), (_core.exp_f64, x64)):
        with prefopt.using_isa("scalar"):
            want = plain(function(x))
        for isa in prefopt.isas():
            with prefopt.using_isa(isa):
                for size in (len(x), 0, 1, 7, 8, 9, 15, 16, 17, 33):
                    start = len(x) - size
                    assert same_bits(plain(function(x[start:])), want[start:]), (isa, size)


def test_log_f64_at_the_ends() -> None:
    got = _core.log_f64(np.array([0.0, -0.0, -1.0, 0.25, np.inf, np.nan]))
    want = np.array([-np.inf, -np.inf, np.nan, np.log(0.25), np.inf, np.nan])
    np.testing.assert_array_equal(got, want)
