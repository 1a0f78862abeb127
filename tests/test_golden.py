"""prefopt against its published golden values: float64, float32, half precision, known traps."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import row_cases
from oracle.losses import evaluate

import prefopt
from prefopt.testing import ULPS, GoldenCase, golden

ROWS = row_cases.ROWS

# float64 is within ULPS at the condition scale (|y| + sum |x dy/dx|). The worst measured is 3.0: the
# KL estimate k3 near its root, and the AlphaPO shape of cpo.ipo. Everything else is within 2.8.
# float32: arithmetic is double and rounded once, which is half an ulp at the value beside what ULPS
# grants. Measured: 0.5 for every row.
FLOAT32_ULPS = 0.5 + 1e-6
# Rewards that a project logs in another unit are divided after that: rounded twice. Measured: 1.0.
FLOAT32_ULPS_DIVIDED = 1.0 + 1e-6


GROUPS: dict[tuple[str, str], list[GoldenCase]] = {}
for _case in golden():
    GROUPS.setdefault((_case.loss, _case.convention), []).append(_case)
PAIRS = sorted(GROUPS)


def run(case: GoldenCase, inputs: dict[str, Any] | None = None, convention: str = "") -> Any:
    """prefopt's result for the case."""
    given = {**(case.inputs if inputs is None else inputs), **case.parameters}
    if ROWS[case.loss].kind == "procedure":
        return prefopt.loss(case.loss, **given)
    name = convention or case.convention
    return prefopt.loss(
        case.loss, **given, convention=None if name == "default" else name, return_grads=True
    )


def describe(case: GoldenCase) -> str:
    return f"{case.loss} {case.convention} {case.set} {case.parameters} {list(case.inputs)}"


# ---- prefopt agrees ------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "convention"), PAIRS)
def test_float64(loss: str, convention: str) -> None:
    """Losses, rewards and gradients; inf exactly where the exact value is beyond float64."""
    for case in GROUPS[loss, convention]:
        result = run(case)
        for name, error in case.errors(result).items():
            assert error <= ULPS, f"{describe(case)}: {name} is {error:.3g} ulps off"
        assert list(getattr(result, "grads", {})) == list(case.grads)


@pytest.mark.parametrize(
    "loss", [name for name in row_cases.LOSSES if (name, "default") not in GROUPS]
)
def test_paper_is_the_default_where_no_other_is_published(loss: str) -> None:
    for case in GROUPS[loss, "paper"]:
        for name, error in case.errors(run(case, convention="default")).items():
            assert error <= ULPS, f"{describe(case)}: {name}"


def narrowed(case: GoldenCase, dtype: Any) -> dict[str, Any] | None:
    """The real arrays in dtype, None where it cannot hold one of them."""
    inputs = {}
    for name, value in case.inputs.items():
        is_real = isinstance(value, np.ndarray) and value.dtype == np.float64
        inputs[name] = value.astype(dtype) if is_real else value
        if is_real and not np.array_equal(inputs[name].astype(np.float64), value):
            return None
    return inputs


@pytest.mark.parametrize(("loss", "convention"), PAIRS)
def test_float32(loss: str, convention: str) -> None:
    for case in GROUPS[loss, convention]:
        inputs = narrowed(case, np.float32)
        assert inputs is not None, describe(case)
        result = run(case, inputs)
        wanted = {"losses": case.losses} if case.losses.size else {}
        for name, want in {**wanted, **case.rewards, **case.grads}.items():
            got = result.grads[name] if name in case.grads else getattr(result, name)
            if isinstance(got, np.ndarray) and got.dtype.kind == "f":
                assert got.dtype == np.float32
                error = float32_error(case, name, got, want)
                divided = name.endswith("rewards") and is_divided(loss, convention)
                budget = FLOAT32_ULPS_DIVIDED if divided else FLOAT32_ULPS
                assert error <= budget, f"{describe(case)}: {name} is {error:.7g} ulps off"


def is_divided(loss: str, convention: str) -> bool:
    """Whether the convention's rewards are prefopt's over beta or over lengths."""
    return any(c.name == convention and c.rewards for c in prefopt.conventions(loss))


def float32_error(case: GoldenCase, name: str, got: Any, want: Any) -> float:
    """In ulps of float32 at the value, after what float64 may have lost is taken off."""
    with np.errstate(over="ignore"):
        nearest = want.astype(np.float32)
        spacing = np.spacing(np.abs(np.where(np.isfinite(nearest), nearest, 0)))
    finite = np.isfinite(nearest)
    assert (finite | (got == nearest)).all(), "expected inf"
    wide = np.where(finite, got, 0).astype(np.float64)
    distance = np.abs(wide - np.where(finite, want, 0)) - ULPS * case.ulps(name)
    error = np.maximum(distance, 0) / spacing.astype(np.float64)
    assert not np.isnan(error).any()
    return float(error.max(initial=0.0))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_taken_as_float32(dtype: Any) -> None:
    """The same bits as for the same numbers in float32."""
    compared = set()
    for case in golden():
        inputs = narrowed(case, dtype)
        if inputs is None:
            continue
        compared.add(case.loss)
        wide = narrowed(case, np.float32)
        half, single = row_cases.results(run(case, inputs)), row_cases.results(run(case, wide))
        for a, b in zip(half, single, strict=True):
            np.testing.assert_array_equal(a, b, describe(case))
    # bfloat16 holds the numbers of fewer cases: 50 of 67 rows, float16 those of some case of each.
    assert len(compared) >= (50 if dtype is ml_dtypes.bfloat16 else len(ROWS))


@pytest.mark.parametrize("name", row_cases.LOSSES)
@pytest.mark.parametrize("optional", [True, False])
def test_weighted_gradients_of_random_batches(name: str, optional: bool) -> None:
    """grad_losses of either sign; numbers that are not short in binary."""
    arrays = row_cases.inputs(name, seed=11, optional=optional)
    shape = row_cases.run(name, arrays).losses.shape
    weights = np.random.default_rng(5).uniform(-2, 2, shape)
    truth = evaluate(name, arrays, {}, weights, scales=True)
    got = row_cases.run(name, arrays, grad_losses=weights)
    assert truth.scales is not None
    groups = [("losses", got.losses, truth.losses, truth.scales["losses"])]
    groups += [(k, getattr(got, k), v, truth.scales[k]) for k, v in truth.rewards.items()]
    groups += [(k, got.grads[k], v, truth.scales[f"grad {k}"]) for k, v in truth.grads.items()]
    for key, found, want, scale in groups:
        error = np.abs(found - floats(want)) / np.spacing(floats(scale))
        assert error.max() <= ULPS, key


def floats(values: Any) -> Any:
    return np.asarray([floats(v) for v in values] if isinstance(values, list) else float(values))


# ---- the traps -----------------------------------------------------------------------------------


def traps() -> dict[str, tuple[GoldenCase, Any]]:
    """Cases, and what the formula gives there when it is typed as the papers have it."""

    def pick(loss: str, kind: str, **params: Any) -> GoldenCase:
        found = [c for c in golden(loss, "paper", kind) if params.items() <= c.parameters.items()]
        return max(found, key=lambda c: (not c.parameters.keys() - params.keys(), len(c.losses)))

    discopop = pick("dpo.discopop", "extreme")
    x = discopop.inputs
    margin = 0.1 * (x["policy_chosen_logps"] - x["ref_chosen_logps"])
    margin = margin - 0.1 * (x["policy_rejected_logps"] - x["ref_rejected_logps"])
    mix = 1 / (1 + np.exp(-margin / 0.05))
    alpha = pick("cpo.sigmoid", "extreme", alpha=0.25)
    powers = [np.exp(alpha.inputs[f"policy_{s}_logps"]) ** -0.25 for s in ("chosen", "rejected")]
    orpo = pick("orpo.orpo", "kink")
    logs = [orpo.inputs[f"policy_{s}_logps"] for s in ("chosen", "rejected")]
    odds = logs[0] - logs[1] - (np.log1p(-np.exp(logs[0])) - np.log1p(-np.exp(logs[1])))
    empty = next(c for c in golden("dpo.ipo", "paper", "edge") if "chosen_lengths" in c.inputs)
    sums = empty.inputs["policy_chosen_logps"] / empty.inputs["chosen_lengths"]
    return {
        "discopop: inf * 0": (discopop, np.log1p(np.exp(-margin)) + np.exp(-margin) * mix),
        "AlphaPO: p underflows": (alpha, (1 - powers[0]) / 0.25 - (1 - powers[1]) / 0.25),
        "ORPO: a = 0": (orpo, odds),
        "empty answers: 0 / 0": (empty, sums),
    }


def test_the_traps_are_among_the_cases() -> None:
    """Formulas as they are printed give NaN on these; the golden values and prefopt do not."""
    with np.errstate(all="ignore"):
        found = traps()
    for name, (case, naive) in found.items():
        assert np.isnan(naive).any(), name
        assert not np.isnan(case.losses).any(), name
        assert not any(np.isnan(grad).any() for grad in case.grads.values()), name
        assert max(case.errors(run(case)).values()) <= ULPS, name


def test_no_value_is_unknown() -> None:
    """Every case has an exact answer: extremes of SimPO and IPO, empty answers, one class, ..."""
    for case in golden():
        results = [case.losses, *case.rewards.values(), *case.grads.values()]
        assert not any(np.isnan(np.asarray(each, float)).any() for each in results), describe(case)


def test_documented_values_at_edges_and_kinks() -> None:
    """By hand: ORPO's limits, ln 2 at policy == reference, hinges at 1, one class only."""
    orpo = golden("orpo.orpo", "default", "kink")[0]
    assert orpo.losses[:2].tolist() == [0, np.inf]
    assert orpo.exact["losses"][2] == "0.0693147180559945347894630087041"  # ln 2 times float64(0.1)
    assert orpo.grads["policy_chosen_logps"][2] == -np.inf
    assert orpo.grads["policy_rejected_logps"][1:].tolist() == [np.inf, np.inf]
    same = golden("dpo.sigmoid", "paper", "edge")[1]
    assert same.exact["losses"] == ["0.693147180559945309417232121458"] * 2
    assert same.exact["policy_chosen_logps"][0].startswith("-0.05")
    hinge = golden("dpo.hinge", "paper", "kink")[0]
    assert hinge.exact["losses"] == ["0", "0.03125", "0"]
    assert hinge.exact["policy_chosen_logps"] == ["0", "-0.125", "0"]
    labels = {tuple(c.inputs["desirable"]) for c in golden("kto.kto", "paper", "edge")}
    assert {(True, True), (False, False)} <= labels
