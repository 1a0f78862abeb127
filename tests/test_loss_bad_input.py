"""Whatever is wrong with an argument is said by name, and nothing crashes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import batch, run

import prefopt
from prefopt import _core

# Every row: test_loss_rows.py. These five are looked at more closely.
NAMES = ["cpo.sigmoid", "dpo.ipo", "dpo.sigmoid", "kto.kto", "sft.nll"]
REALS = [
    (row.name, item.name)
    for row in prefopt.losses()
    for item in row.inputs
    if row.name in NAMES and item.type == "real" and not item.name.endswith("weights")
]


def broken(name: str, key: str, change: Any) -> dict[str, Any]:
    inputs = batch(name, np.random.default_rng(1))
    return {**inputs, key: change(inputs[key])}


@pytest.mark.parametrize(("name", "key"), REALS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.astype(np.int64), "expected a float dtype, got int64"),
        (lambda a: a > 0, "expected a float dtype, got bool"),
        (lambda a: a.astype(complex), "complex128"),
        (lambda a: a.astype(np.longdouble), "longdouble|float128"),
        (lambda a: a.astype(object), "objects"),
        (lambda a: a.astype(a.dtype.newbyteorder()), "byte order"),
        (lambda a: np.ma.array(a), "MaskedArray"),
        (lambda a: np.array([f"{v}" for v in a]), "not supported"),
        (lambda a: "abc", "expected an array"),
        (lambda a: {1: 2}, "expected an array"),
        (
            lambda a: np.uint16(a.astype(np.float16).view(np.uint16)),
            "expected a float dtype, got uint16",
        ),
    ],
)
def test_wrong_dtype(name: str, key: str, change: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{key}: .*({message})"):
        run(name, broken(name, key, change), {})


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize(("name", "key"), REALS)
def test_matrix(name: str, key: str) -> None:
    with pytest.raises(TypeError, match=f"^{key}: .*matrix"):
        run(name, broken(name, key, np.matrix), {})


@pytest.mark.parametrize(("name", "key"), REALS)
@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: np.append(a, 0.0), lambda a: a[:0]])
def test_wrong_length(name: str, key: str, change: Any) -> None:
    inputs = broken(name, key, change)
    if sum(isinstance(v, np.ndarray) for v in inputs.values()) == 1:
        return  # nothing to differ from
    with pytest.raises(ValueError, match=r"expected shape \[\d+\] like \w+, got \[\d+\]"):
        run(name, inputs, {})


@pytest.mark.parametrize(("name", "key"), REALS)
@pytest.mark.parametrize(
    "change", [lambda a: a[None], lambda a: a[:, None], lambda a: np.float64(1)]
)
def test_wrong_rank(name: str, key: str, change: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{key}: expected one dimension \[B\], got [02]"):
        run(name, broken(name, key, change), {})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_counts(name: str, bad: float) -> None:
    for key in ("chosen_lengths", "rejected_lengths", "lengths"):
        if key not in batch(name, np.random.default_rng(1)):
            continue
        lengths = np.arange(8.0)
        lengths[5] = bad
        with pytest.raises(ValueError, match=f"^{key}: expected finite counts >= 0, .* at index 5"):
            run(name, broken(name, key, lambda a, lengths=lengths: lengths), {})
        with pytest.raises(
            TypeError, match=f"^{key}: expected an integer or float dtype, got bool"
        ):
            run(name, broken(name, key, lambda a: a > 0), {})


def test_flags() -> None:
    with pytest.raises(ValueError, match=r"^desirable: expected 0 or 1, got 2 at index 3"):
        run(
            "kto.kto",
            broken("kto.kto", "desirable", lambda a: np.array([0, 1, 0, 2, 1, 1, 1, 1])),
            {},
        )
    with pytest.raises(
        TypeError, match=r"^desirable: expected bool or integers 0 and 1, got float64"
    ):
        run("kto.kto", broken("kto.kto", "desirable", lambda a: a.astype(float)), {})
    with pytest.raises(
        ValueError, match=r"^desirable: expected shape \[8\] like policy_logps, got \[7\]"
    ):
        run("kto.kto", broken("kto.kto", "desirable", lambda a: a[1:]), {})


@pytest.mark.parametrize(
    ("kl", "error"),
    [
        (np.zeros(2), ValueError),
        (np.zeros((1, 1)), ValueError),
        (True, TypeError),
        ("0", TypeError),
    ],
)
def test_kl(kl: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^kl: "):
        run("kto.kto", broken("kto.kto", "kl", lambda _: kl), {})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (np.ones(7), ValueError),
        (np.ones((8, 1)), ValueError),
        (np.ones(8, int), TypeError),
        (np.ones(8, object), TypeError),
        (np.ma.ones(8), TypeError),
        (1.0, ValueError),
        ("ones", TypeError),
    ],
)
def test_grad_losses(name: str, bad: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^grad_losses: "):
        run(name, batch(name, np.random.default_rng(1)), {}, grad_losses=bad)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "bad",
    ["0.1", True, np.True_, np.ones(1), [0.1], 1j, np.complex64(1), np.timedelta64(1), object()],
    ids=repr,
)
def test_parameters_are_real_numbers(name: str, bad: Any) -> None:
    inputs = batch(name, np.random.default_rng(1))
    for parameter in next(row for row in prefopt.losses() if row.name == name).parameters:
        kind = "a string" if parameter.choices else "a number"
        if isinstance(bad, str) and parameter.choices:
            continue  # an unknown word: ValueError, tested in test_loss_list.py
        with pytest.raises(TypeError, match=f"^{parameter.name}: expected {kind}, got "):
            run(name, inputs, {parameter.name: bad})


def test_a_number_that_no_double_holds() -> None:
    with pytest.raises(ValueError, match=r"^beta: expected a number that fits a double"):
        run("dpo.sigmoid", batch("dpo.sigmoid", np.random.default_rng(1)), {"beta": 10**400})


@pytest.mark.parametrize("good", [1, np.float32(0.5), np.int64(2), np.array(0.5), np.float16(0.5)])
def test_parameters_of_any_number_type(good: Any) -> None:
    inputs = batch("dpo.sigmoid", np.random.default_rng(1))
    one, two = (run("dpo.sigmoid", inputs, {"beta": beta}).losses for beta in (good, float(good)))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: prefopt.kto_kl(), ValueError, "^policy_kl_logps: "),
        (lambda a: prefopt.kto_kl(a), ValueError, "^ref_kl_logps: "),
        (lambda a: prefopt.kto_kl(None, a), ValueError, "^policy_kl_logps: "),
        (lambda a: prefopt.kto_kl(a, a[1:]), ValueError, r"^ref_kl_logps: expected shape \[3\]"),
        (
            lambda a: prefopt.kto_kl(a[None], a[None]),
            ValueError,
            "^policy_kl_logps: expected one dim",
        ),
        (lambda a: prefopt.kto_kl(a.astype(int), a), TypeError, "^policy_kl_logps: "),
        (lambda a: prefopt.kto_kl(a, a > 0), TypeError, "^ref_kl_logps: "),
        (
            lambda a: prefopt.kto_kl(state=(1.0,)),
            ValueError,
            "^state: expected .sum, count., got 1",
        ),
        (lambda a: prefopt.kto_kl(state=(1.0, 2.0, 3.0)), ValueError, "^state: "),
        (
            lambda a: prefopt.kto_kl(state=(1.0, -2.0)),
            ValueError,
            "^state: expected a finite count >= 0",
        ),
        (lambda a: prefopt.kto_kl(state=(1.0, np.nan)), ValueError, "^state: "),
        (lambda a: prefopt.kto_kl(state=("1", 2)), TypeError, "^state: "),
        (lambda a: prefopt.kto_kl(state=3.0), TypeError, "^state: "),
    ],
)
def test_kto_kl(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(np.zeros(3))


def test_binding_survives_nonsense() -> None:
    """_core is private, but no call of it may crash."""
    for arguments in (
        (), ("dpo.sigmoid",), (1, {}, {}, None, False), ("x.y", {}, {}, None, False),
        ("dpo.sigmoid", [], {}, None, False), ("dpo.sigmoid", {}, {}, None, False),
        ("dpo.sigmoid", {1: np.zeros(1)}, {}, None, True),
        ("dpo.sigmoid", {"a\ud800": np.zeros(1)}, {}, None, True),
        ("dpo.sigmoid", {str(i): np.zeros(1) for i in range(40)}, {}, None, True),
        ("dpo.sigmoid", {}, {str(i): 1.0 for i in range(40)}, None, True),
        ("dpo.sigmoid", {"kl": np.zeros(1)}, {}, None, True),
        ("dpo.sigmoid", {"policy_chosen_logps": None}, {}, None, True),
        ("\ud800", {}, {}, None, True),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            _core.loss(*arguments)
    for arguments in ((), (None, None, 3), (None, None, (1,)), (None, None, ("a", "b"))):
        with pytest.raises((TypeError, ValueError)):
            _core.kto_kl(*arguments)


def attempt(name: str, inputs: dict[str, Any], params: dict[str, Any]) -> tuple[Any, str]:
    """(result, "") or (None, the message)."""
    try:
        return run(name, inputs, params, return_grads=True), ""
    except (TypeError, ValueError) as error:
        return None, str(error)


SHAPES = st.sampled_from([(), (0,), (1,), (3,), (4,), (2, 2)])
DTYPES = st.sampled_from(["f2", "f4", "f8", ">f8", "i4", "u2", "?", "c16", "O", "S2"])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_array_is_taken_or_refused_by_name(data: st.DataObject) -> None:
    """Random dtypes, shapes and parameters: a result of the right shape, or an error that names an
    argument; the inputs stay as they were."""
    name = data.draw(st.sampled_from(NAMES))
    row = next(row for row in prefopt.losses() if row.name == name)
    inputs: dict[str, Any] = {}
    for item in row.inputs:
        if item.optional and data.draw(st.booleans()):
            continue
        likely = {"real": "f8", "count": "i8", "flag": "?", "scalar": "f8"}[item.type]
        odd = data.draw(st.integers(0, 5)) == 0
        dtype = data.draw(DTYPES) if odd else likely
        shape = data.draw(SHAPES) if odd else (() if item.type == "scalar" else (3,))
        inputs[item.name] = np.ones(shape, dtype)
    params = {
        p.name: data.draw(st.floats(allow_nan=True, allow_infinity=True) | st.just(0.25))
        for p in row.parameters
        if data.draw(st.booleans())
    }
    before = {key: value.copy() for key, value in inputs.items()}
    names = {*inputs, *(i.name for i in row.inputs), *(p.name for p in row.parameters)}
    got, message = attempt(name, inputs, params)
    if got is None:
        assert message.split(":")[0] in names
    else:
        size = inputs[row.inputs[0].name].shape
        assert all(array.shape == size for array in (*got, *got.grads.values()))
    for key, value in inputs.items():
        np.testing.assert_array_equal(value, before[key])
