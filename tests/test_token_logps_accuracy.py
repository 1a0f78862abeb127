"""Accuracy of token_logps and token_logps_grad against the oracles: families of logits x vocabulary
x dtype x temperature, on every ISA row.

The error of a statistic is counted in units of the spacing of float32 (float64 for float64 logits)
at max(1, |true|): 0.5 units are the rounding of the true value itself and everything above is
prefopt's. Below 1 the unit stays at the spacing of 1, because x[y] - lse cancels. mean_logit is
counted at max(1, mean |x|), its condition. float64 logits with a temperature other than 1 are
counted at max(1, |max x|): blocks merge at maxima that the division has rounded to float64.

The error of a gradient element is what it has beyond half a spacing of its own dtype, over 2^-23
(2^-52) times its condition: sum of |term| (1 + |log p|), as the oracle returns it. lse and entropy
are the forward's results and taken as exact by that oracle; what their own rounding costs is
bounded in test_token_logps_grad.py. float64 with another temperature counts max(1, |lse|) times the
unit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from oracle import logps as oracle
from support import DTYPES, Dtype

import prefopt

KINDS = ("float16", "bfloat16_raw", "float32", "float64")
# 1, 2: no distribution, the smallest one; 7 .. 33: lanes - 1, lanes, lanes + 1 of 8, 16 and 32
# lanes; then one tail after many whole vectors, and the vocabularies of Llama 2, GPT-2, Llama 3,
# Qwen 2.5 and Gemma (262144).
SMALL = (1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 1000)
LARGE = (32000, 50257, 128256, 151936, 262144)
TEMPERATURES = (1.0, 0.7, 2.5)

COLUMNS = ("logps", "lse", "entropy", "mean_logit", "max_logit", "lse2", "grad")
# Worst errors over every ISA row (they give the same bits), vocabulary, temperature and dtype:
# float32 stands for float16, bfloat16 and float32 logits. AMD EPYC (Zen 5), gcc 12, 2026-11-23.
# Constant steps, +-1e4 and offset 1e4 in float16 (steps of 8) sum equal values, whose roundings do
# not average out: hence entropy's 5.9 there.
MEASURED: dict[str, dict[str, tuple[float, ...]]] = {
    "float32": {
        "random": (0.99, 0.92, 3.74, 1.09, 0.43, 0.78, 0.78),
        "peaked": (1.45, 0.58, 2.53, 1.54, 0.43, 0.43, 0.82),
        "constant": (0.44, 0.50, 0.44, 0.40, 0.40, 0.49, 0.22),
        "+-1e4": (0.50, 0.50, 0.44, 0.43, 0.43, 0.50, 0.25),
        "offset 1e4": (0.82, 0.50, 5.92, 1.50, 0.43, 0.50, 0.47),
        "offset -1e4": (0.82, 0.50, 5.92, 1.57, 0.43, 0.50, 0.57),
        "spread 1e4": (0.50, 0.50, 3.24, 0.60, 0.43, 0.50, 0.75),
        "denormal": (1.13, 1.13, 1.16, 0.21, 0.21, 1.63, 0.47),
        "masked": (1.12, 0.98, 1.50, 0.43, 0.43, 0.87, 0.78),
        "one class left": (0.00, 0.43, 0.00, 0.43, 0.43, 0.43, 0.00),
    },
    "float64": {
        "random": (1.27, 0.90, 1.33, 1.39, 0.81, 1.17, 0.43),
        "peaked": (2.53, 1.26, 2.53, 1.45, 0.82, 1.24, 0.78),
        "constant": (0.41, 0.66, 0.41, 1.20, 0.20, 0.70, 0.25),
        "+-1e4": (0.67, 0.62, 0.59, 0.52, 0.21, 0.67, 0.11),
        "offset 1e4": (0.83, 1.27, 1.24, 2.19, 0.80, 1.23, 0.22),
        "offset -1e4": (0.86, 1.19, 1.24, 2.93, 0.80, 1.29, 0.22),
        "spread 1e4": (1.34, 1.25, 0.69, 1.20, 0.81, 1.23, 0.39),
        "denormal": (1.12, 1.22, 1.01, 0.00, 0.00, 1.07, 0.38),
        "masked": (1.20, 1.37, 1.21, 0.81, 0.81, 1.13, 0.43),
        "one class left": (0.00, 0.76, 0.00, 0.28, 0.76, 0.80, 0.38),
    },
}
TOLERANCE = 2.0  # times the measured worst, and never below the 0.5 that rounding takes


def families(kind: str, vocab: int, rows: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, float64 logits [rows, vocab] and labels [rows] of every family; the same for every
    call.
    """
    rng = np.random.default_rng([vocab, rows])
    normal = rng.normal(size=(rows, vocab))
    labels = rng.integers(0, vocab, rows)
    each = np.arange(rows)
    yield "random", 3 * normal, labels
    peaked = normal.copy()
    peaked[each, rng.integers(0, vocab, rows)] += 40
    yield "peaked", peaked, np.where(each % 2, labels, peaked.argmax(axis=-1))
    yield "constant", np.full((rows, vocab), 3.25), labels
    yield "+-1e4", 1e4 * np.sign(normal), labels
    yield "offset 1e4", 1e4 + normal, labels
    yield "offset -1e4", normal - 1e4, labels
    yield "spread 1e4", rng.uniform(-1e4, 1e4, (rows, vocab)), labels
    smallest = float(oracle.spacing(np.zeros(()), kind))
    yield "denormal", rng.integers(-99, 100, (rows, vocab)) * smallest, labels
    masked = np.where(rng.random((rows, vocab)) < 0.6, -np.inf, 3 * normal)
    masked[each, labels] = 3 * normal[each, labels]
    # Every other row asks for a masked label where there is one: logp -inf.
    yield "masked", masked, np.where(each % 2, masked.argmin(axis=-1), labels)
    single = np.full((rows, vocab), -np.inf)
    single[each, labels] = normal[each, labels]
    yield "one class left", single, labels


def accumulator(dtype: Dtype) -> tuple[type, str]:
    """The precision of the oracle, and the kind of the results."""
    return (np.longdouble, "float64") if dtype.kind == "float64" else (np.float64, "float32")


def units(got: np.ndarray, want: np.ndarray, scale: np.ndarray, kind: str) -> float:
    """Worst error in spacings of `kind` at max(1, scale); what is not finite must be equal."""
    finite = np.isfinite(want)
    assert np.array_equal(got[~finite], want[~finite].astype(got.dtype), equal_nan=True)
    assert np.isfinite(got[finite]).all()
    if not finite.any():
        return 0.0
    unit = oracle.spacing(np.maximum(1, np.abs(scale[finite])), kind)
    return float((np.abs(got[finite].astype(want.dtype) - want[finite]) / unit).max())


def scale_of(name: str, want: oracle.TokenStats, rounded_logits: bool) -> np.ndarray:
    """What the rounding of a statistic is relative to; see the head of this file."""
    scale: np.ndarray = np.abs(getattr(want, name))
    if name == "mean_logit":
        scale = want.mean_abs_logit
    if rounded_logits:
        scale = np.maximum(scale, np.abs(want.max_logit))
    return np.where(np.isfinite(scale), scale, 1)


def forward_errors(
    dtype: Dtype, vocab: int, temperature: float
) -> Iterator[tuple[str, str, str, float]]:
    """(ISA row, family, statistic, worst error); asserts dtypes and `correct` on the way."""
    precision, kind = accumulator(dtype)
    for family, values, labels in families(dtype.kind, vocab, 6 if vocab <= 1000 else 1):
        logits = dtype.make(values)
        want = oracle.token_stats(
            dtype.exact(logits), labels, temperature=temperature, precision=precision
        )
        # A loop and not the isa fixture: the oracle costs more than the kernels.
        for isa in prefopt.isas():
            with prefopt.using_isa(isa):
                got = prefopt.token_logps(
                    logits,
                    labels,
                    temperature=temperature,
                    stats=oracle.OPTIONAL_STATS,
                    **dtype.arguments,
                )
            assert got.correct is not None
            assert got.correct.dtype == np.bool_
            assert np.array_equal(got.correct, want.correct), (family, isa)
            for name in oracle.FLOAT_STATS:
                result = getattr(got, name)
                assert result.dtype == dtype.result
                scale = scale_of(name, want, kind == "float64" and temperature != 1)
                yield isa, family, name, units(result, getattr(want, name), scale, kind)


def grad_errors(
    dtype: Dtype, vocab: int, temperature: float
) -> Iterator[tuple[str, str, str, float]]:
    """(ISA row, family, "grad", worst error), all three gradients asked for at once."""
    precision, kind = accumulator(dtype)
    for family, values, labels in families(dtype.kind, vocab, 6 if vocab <= 1000 else 1):
        logits = dtype.make(values)
        rng = np.random.default_rng(vocab)
        upstream = {
            name: rng.normal(size=labels.shape).astype(dtype.result)
            for name in ("grad_logps", "grad_entropy", "grad_lse")
        }
        forward = prefopt.token_logps(
            logits, labels, temperature=temperature, stats=("entropy",), **dtype.arguments
        )
        given = {"lse": forward.lse, "entropy": forward.entropy, "temperature": temperature}
        want, condition = oracle.token_grad(
            dtype.exact(logits), labels, precision=precision, **given, **upstream
        )
        unit = condition * float(oracle.spacing(np.ones(()), kind))
        if kind == "float64" and temperature != 1:
            unit = unit * np.maximum(1, np.abs(forward.lse))[:, None]
        # exp may flush p below 2^-125 (2^-1021); entropy multiplies what is lost by |log p| < 800.
        unit = unit + 4096 * float(np.finfo(dtype.result).tiny)
        for isa in prefopt.isas():
            with prefopt.using_isa(isa):
                got = prefopt.token_logps_grad(
                    logits, labels, **given, **upstream, **dtype.arguments
                )
            assert got.dtype == logits.dtype
            assert got.shape == logits.shape
            error = np.abs(dtype.exact(got).astype(precision) - want)
            excess = np.maximum(0, error - 0.5 * oracle.spacing(want, dtype.kind))
            yield isa, family, "grad", float((excess / unit).max())


def tolerance(kind: str, family: str, name: str) -> float:
    measured = MEASURED["float64" if kind == "float64" else "float32"][family]
    return TOLERANCE * max(0.5 if name != "grad" else 0.01, measured[COLUMNS.index(name)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", SMALL + LARGE)
def test_forward(kind: str, vocab: int) -> None:
    for temperature in TEMPERATURES if vocab <= 1000 else TEMPERATURES[:2]:
        for isa, family, name, error in forward_errors(DTYPES[kind], vocab, temperature):
            assert error <= tolerance(kind, family, name), (family, name, isa, temperature)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", [*SMALL, 32000, 151936])
def test_gradient(kind: str, vocab: int) -> None:
    for temperature in TEMPERATURES if vocab <= 1000 else TEMPERATURES[:1]:
        for isa, family, name, error in grad_errors(DTYPES[kind], vocab, temperature):
            assert error <= tolerance(kind, family, name), (family, isa, temperature)


def print_measured() -> None:
    """The table above, measured on this machine: python tests/test_token_logps_accuracy.py."""
    worst: dict[str, dict[str, list[float]]] = {}
    for kind in KINDS:
        rows = worst.setdefault("float64" if kind == "float64" else "float32", {})
        for vocab in SMALL + LARGE:
            for temperature in TEMPERATURES if vocab <= 1000 else TEMPERATURES[:2]:
                for errors in (forward_errors, grad_errors):
                    for _, family, name, error in errors(DTYPES[kind], vocab, temperature):
                        row = rows.setdefault(family, [0.0] * len(COLUMNS))
                        column = COLUMNS.index(name)
                        row[column] = max(row[column], error)
    print("MEASURED: dict[str, dict[str, tuple[float, ...]]] = {")
    for kind, rows in worst.items():
        print(f'    "{kind}": {{')
        for family, row in rows.items():
            print(f'        "{family}": ({", ".join(f"{value:.2f}" for value in row)}),')
        print("    },")
    print("}")


if __name__ == "__main__":
    print_measured()
