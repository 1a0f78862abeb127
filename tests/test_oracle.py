"""The oracle itself: independent, differentiated rightly, as many digits as it says."""

from __future__ import annotations

import ast
from fractions import Fraction
from pathlib import Path
from typing import Any

import mpmath as mp
import pytest
import row_cases
from oracle.conventions import PROJECTS
from oracle.dual import Dual, Undecided, dual, exp, log, log1p, sigmoid, stop_gradient
from oracle.losses import ORACLES, evaluate

import prefopt

FOLDER = Path(__file__).parent / "oracle"
LOSSES = sorted(name for name, oracle in ORACLES.items() if not oracle.is_procedure)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_shares_nothing_with_prefopt(path: Path) -> None:
    allowed = {"__future__", "collections", "dataclasses", "types", "typing", "fractions", "math"}
    allowed |= {"hashlib", "itertools", "mpmath", "oracle", "numpy", "ml_dtypes"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        else:
            names = [node.module or "oracle"] if isinstance(node, ast.ImportFrom) else []
        assert {name.split(".")[0] for name in names} <= allowed


def test_conventions_are_those_of_prefopt() -> None:
    """Both tables were read from the projects' code, one by one: they say the same."""
    known = {
        (info.name, each.name): each
        for info in prefopt.losses()
        for each in prefopt.conventions(info.name)
    }
    assert set(known) == set(PROJECTS)
    for key, project in PROJECTS.items():
        convention = known[key]
        assert dict(convention.defaults) == project.defaults, key
        assert set(convention.refused) == project.without, key
        assert set(convention.required) == project.needs, key
        changed = bool(convention.rewards) or convention.loss_limit < float("inf")
        assert changed == (project.logged is not None), key


# ---- derivatives ---------------------------------------------------------------------------------

# Inputs that enter through a stop-gradient too, so that differences see more than the gradient.
STOPPED = {
    ("dpo.kto_pair", "policy_chosen_logps"),
    ("dpo.kto_pair", "policy_rejected_logps"),
    ("beta_dpo.sigmoid", "policy_chosen_logps"),
    ("beta_dpo.sigmoid", "policy_rejected_logps"),
    ("tdpo.tdpo2", "chosen_kl"),
    ("grpo.cispo", "logps"),
}
STEP = Fraction(1, 2**60)  # central differences err by STEP^2, 1e-36


@pytest.mark.parametrize("name", LOSSES)
def test_dual_numbers_agree_with_differences(name: str) -> None:
    arrays = row_cases.inputs(name, seed=3, size=2)
    inputs = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in arrays.items()}
    for key in ("chosen_kl_mean", "rejected_kl_mean", "gap_mean"):
        inputs.pop(key, None)  # so that they come from the batch
    if name == "dpo.kto_pair":  # and are not clamped
        inputs |= {"ref_chosen_logps": [-95.0, -97.0], "ref_rejected_logps": [-96.0, -99.0]}
    params = {"kl_beta": 0.25} if "kl_beta" in ORACLES[name].parameters else {}
    truth = evaluate(name, inputs, params)
    for key in ORACLES[name].inputs:
        at = (0, 0) if isinstance(inputs[key][0], list) else (0,)

        def value(
            step: Fraction, key: str = key, at: tuple[int, ...] = at
        ) -> Any:  # the sum of losses
            moved = {**inputs, key: _moved(inputs[key], at, step)}
            return _sum(evaluate(name, moved, params).losses)

        with mp.workdps(60):
            slope = (value(STEP) - value(-STEP)) / (2 * mp.mpf(2) ** -60)
            found = truth.grads[key]
            for index in at:
                found = found[index]
            same = abs(found - slope) <= 1e-30 * max(1, abs(slope))
            assert same == ((name, key) not in STOPPED), (key, found, slope)


def _moved(values: list[Any], at: tuple[int, ...], step: Fraction) -> list[Any]:
    changed = list(values)
    inner = values[at[0]]
    if at[1:]:
        changed[at[0]] = _moved(inner, at[1:], step)
    else:
        changed[at[0]] = Fraction(inner) + step
    return changed


def _sum(values: Any) -> Any:
    return mp.fsum(map(_sum, values)) if isinstance(values, list) else values


def test_stop_gradient_keeps_the_condition() -> None:
    """What is stopped has no gradient, and its rounding still moves the value."""
    x = Dual(Fraction(3), {"x": Fraction(1)}, {"x": Fraction(1)})
    y = stop_gradient(x * x) * x
    assert y.grad == {"x": 9}
    assert y.cond == {"x": 27}
    assert y.cross == {("x", "x"): 6}
    assert stop_gradient(x).grad == {}


# ---- digits --------------------------------------------------------------------------------------


def test_exact_where_numbers_are() -> None:
    """Rationals stay rationals; exp(0), log(1) are exact."""
    third = dual(1) / 3
    assert third.value == Fraction(1, 3)
    assert exp(dual(2) - 2).value == 1
    assert log(third * 3).value == 0
    assert (sigmoid(0) - Fraction(1, 2)).value == 0


def test_cancellation_is_noticed() -> None:
    with mp.workdps(40), pytest.raises(Undecided):
        1 - sigmoid(200)
    with mp.workdps(40), pytest.raises(Undecided):
        log(1 + exp(-200))
    with mp.workdps(40):
        assert abs(log1p(exp(-200)).value / mp.exp(-200) - 1) < 1e-38


def test_tries_with_more_digits_until_two_agree() -> None:
    """e^-10000 of an answer with log-ratio 1e5 at beta 0.1: far below any format, all digits right."""
    truth = evaluate(
        "kto.kto",
        {"policy_logps": [0.0], "ref_logps": [-1e5], "desirable": [True], "kl": 0.0},
        {"beta": 0.125},
    )
    with mp.workdps(60):
        true = mp.exp(-12500) / (1 + mp.exp(-12500))
        assert abs(truth.losses[0] / true - 1) < mp.mpf(10) ** -40


def test_known_values() -> None:
    """ln 2 at a margin of 0; IPO's square by hand; the mean over tokens."""
    pair = {
        f"{model}_{side}_logps": [-3.0]
        for model in ("policy", "ref")
        for side in ("chosen", "rejected")
    }
    with mp.workdps(60):
        assert abs(evaluate("dpo.sigmoid", pair, {}).losses[0] - mp.log(2)) < mp.mpf(10) ** -40
    assert evaluate("dpo.ipo", pair, {"beta": 0.25}).losses == [4]
    nll = evaluate("sft.nll", {"policy_logps": [-6.0, -3.0], "lengths": [2, 1]}, {})
    assert nll.losses == [4, 2]
    assert [float(g) for g in nll.grads["policy_logps"]] == [-2 / 3] * 2
