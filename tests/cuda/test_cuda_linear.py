"""The CUDA library's fused linear op against whole logits in long double: values, gradients, options,
masks, cuts, bad input, faults of cuBLAS."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import cuda_device as device
import numpy as np
import pytest
from cuda_linear_cases import HIDDEN_GRADS, STATS, backward, finish, forward
from linear_cases import FLOAT_STATS, OPTIONS, Case, hidden_floor, relative_error, unit
from oracle import logps as oracle
from oracle.linear import grads
from support import DTYPES, same_bits

from prefopt import _cuda
from prefopt._cuda_abi import Error

pytestmark = pytest.mark.skipif(
    device.SMALL, reason="source and ptx-90 run all cases, other variants test_cuda_linear_races.py"
)

# Worst errors of the cases here (2026-11-27, the simulation's cuBLAS), times two. Statistics in units
# of `unit`: 1.31 measured, beside half a rounding of the result.
BUDGET = 2.6
# Gradients in units of their largest element, by what is multiplied: float32 as it is; rounded to
# TF32 (the simulation cuts, which is the worst that hardware does); rounded to bfloat16.
GRAD_BUDGET = {"float32": 1.0e-6, "tf32": 1.8e-3, "bfloat16": 6.2e-3}
LORA_BUDGET = 1.8e-6  # what LoRA's and the bias's gradients are made from is never rounded
SMALL = 60_000  # bytes of tile buffers that cut the larger cases into many
MIDDLE = (60, 33, 1100)
SHAPES = [(1, 1, 1), (3, 5, 2), MIDDLE]
KINDS = ("float32", "bfloat16", "float16")
ROUNDING = {"float32": "float32", "bfloat16": "bfloat16", "float16": "tf32"}


def check_values(case: Case, got: dict[str, np.ndarray], live: np.ndarray | None = None) -> None:
    x = case.head.logits()
    want = oracle.token_stats(x, case.labels, precision=np.longdouble)
    allowed = BUDGET * unit(case, np.float32)
    for name in FLOAT_STATS:
        error = np.abs(got[name] - getattr(want, name))
        rounding = np.abs(got[name]) * np.finfo(np.float32).eps / 2
        assert (error <= allowed + rounding).all(), (name, error.max())
    close = np.sort(x, axis=-1)[:, -2:] if x.shape[1] > 1 else x
    clear = (np.abs(close[:, -1] - close[:, 0]) > 2 * allowed) | (x.shape[1] == 1)
    np.testing.assert_array_equal(got["correct"][clear], want.correct[clear])


def check_hidden_grads(case: Case, got: dict[str, np.ndarray], rounding: str) -> None:
    zero, one = np.zeros(len(case.labels)), np.ones(len(case.labels))
    for name, upstream in zip(
        HIDDEN_GRADS, ((one, zero, zero), (zero, zero, one), (zero, one, zero)), strict=True
    ):
        want = grads(case.head, case.labels, *upstream)["hidden"]
        assert relative_error(got[name], want, hidden_floor(case)) <= GRAD_BUDGET[rounding], name
        assert (got[name][~case.live] == 0).all()


def check_grads(case: Case, got: dict[str, np.ndarray], rounding: str) -> None:
    upstream = (case.upstream[name] for name in ("grad_logps", "grad_entropy", "grad_lse"))
    want = grads(case.head, case.labels, *upstream)
    for name, result in got.items():
        budget = GRAD_BUDGET[rounding] if name in ("hidden", "weight") else LORA_BUDGET
        floor = hidden_floor(case) if name == "hidden" else 0.0
        assert relative_error(result.astype(np.float64), want[name], floor) <= budget, name
    assert (got["hidden"][~case.live] == 0).all()


def check(case: Case, rounding: str, **options: Any) -> None:
    got = forward(case, **options)
    check_values(case, got)
    check_hidden_grads(case, got, rounding)
    check_grads(case, backward(case, got["lse"], got["entropy"], **options), rounding)
    _cuda.library().check()


# ---- values and gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, SMALL])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_accuracy(kind: str, options: str, limit: int) -> None:
    for shape in SHAPES:
        case = Case(*shape, DTYPES[kind], **OPTIONS[options])
        check(case, ROUNDING[kind], memory_limit=limit)


@pytest.mark.parametrize(
    ("kind", "weight", "products", "rounding"),
    [
        ("bfloat16", "float32", 0, "float32"),  # converted by tiles
        ("float32", "float16", 0, "float32"),
        ("float16", "bfloat16", 0, "tf32"),
        ("bfloat16", "bfloat16", 1, "tf32"),
        ("bfloat16", "bfloat16", 2, "float32"),
        ("float16", "float16", 2, "float32"),
        ("bfloat16_raw", "bfloat16_raw", 0, "bfloat16"),
    ],
)
def test_mixed_dtypes_and_products(kind: str, weight: str, products: int, rounding: str) -> None:
    case = Case(60, 33, 300, DTYPES[kind], DTYPES[weight], **OPTIONS["all"])
    check(case, rounding, products=products, memory_limit=SMALL)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stats", [(), ("entropy",)], ids=["logps", "entropy"])
def test_hidden_read_in_place(kind: str, stats: tuple[str, ...]) -> None:
    """Rows of whole 16 bytes and none ignored need no copy; several spans of them, and of the head."""
    case = Case(300, 32, 700, DTYPES[kind], ignored=0.0)
    for limit in (0, SMALL):
        got = forward(case, outputs=("logps", "lse", *stats), memory_limit=limit)
        want = oracle.token_stats(case.head.logits(), case.labels, precision=np.longdouble)
        allowed = BUDGET * unit(case, np.float32) + np.abs(want.logps) * 6e-8
        assert (np.abs(got["logps"] - want.logps) <= allowed).all()
        check(case, ROUNDING[kind], memory_limit=limit)


def test_tf32_for_float32_inputs_is_asked_for() -> None:
    case = Case(20, 33, 300)
    exact, rounded = forward(case), forward(case, products=1)
    error = np.abs(rounded["lse"] - exact["lse"]).max()
    assert 1e-6 < error < 4e-3


def test_the_order_of_threads_changes_no_bit() -> None:
    case = Case(*MIDDLE, DTYPES["bfloat16"], **OPTIONS["all"])
    calls = {"memory_limit": SMALL, "num_tokens": len(case.labels) - 3}

    def results(order: str) -> list[np.ndarray]:
        device.set_order(order)
        got = forward(case, topk=3, **calls)
        back = backward(case, got["lse"], got["entropy"], **calls)
        return [*got.values(), *back.values()]

    try:
        want = results("forward")
        for order in ("reverse", "shuffled"):
            assert all(same_bits(a, b) for a, b in zip(want, results(order), strict=True))
    finally:
        device.set_order("forward")


def test_cuts_of_the_rows_change_no_bit() -> None:
    """A token's results depend on nothing but itself and the cuts of the vocabulary."""
    case = Case(60, 33, 1100, DTYPES["bfloat16"], ignored=0.0)
    got = forward(case, memory_limit=SMALL)
    compact = forward(case, memory_limit=SMALL, num_tokens=60)
    for name in (*STATS, *HIDDEN_GRADS):
        assert same_bits(got[name], compact[name])


@pytest.mark.parametrize("vocab", [7, 8, 255, 256, 257, 2049])
def test_labels_at_the_ends_of_tiles(vocab: int) -> None:
    case = Case(24, 16, vocab, ignored=0.0)
    case.labels[:] = np.arange(24) * (vocab - 1) // 23
    check(case, "float32", memory_limit=24 * 64 * 12)


@pytest.mark.parametrize("vocab", [40_000, 262_144])
def test_few_rows_of_a_large_vocabulary(vocab: int) -> None:
    """Several blocks read a row."""
    case = Case(2, 8, vocab, DTYPES["bfloat16"], scale=3.0, ignored=0.0)
    got = forward(case)
    check_values(case, got)
    check_hidden_grads(case, got, "bfloat16")


def test_a_maximum_that_rises_with_every_tile() -> None:
    """Sums are rescaled each time; a first tile of -inf has none."""
    case = Case(9, 16, 600, bias=True, ignored=0.0)
    case.bias[:] = np.linspace(-15, 15, 600)
    case.bias[:100] = -np.inf
    case.labels[:] = np.arange(9) * 40 + 200
    case.head = replace(case.head, bias=case.bias.astype(np.float64))
    got = forward(case, memory_limit=9 * 64 * 8)
    check_hidden_grads(case, got, "float32")


# ---- masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["plain", "all"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("spare", [0, 1, 30])
def test_num_tokens(kind: str, options: str, spare: int) -> None:
    """Only the rows that count are multiplied; more than there are do no harm."""
    case = Case(70, 33, 300, DTYPES[kind], ignored=0.6, **OPTIONS[options])
    num_tokens = int(case.live.sum()) + spare
    check(case, ROUNDING[kind], memory_limit=SMALL, num_tokens=num_tokens)


def test_too_many_tokens_give_nan_and_are_noted() -> None:
    case = Case(70, 16, 50)
    count = int(case.live.sum())
    got = forward(case, num_tokens=count - 1, topk=2)
    with pytest.raises(ValueError, match=f"num_tokens: expected at least {count},"):
        _cuda.library().check()
    _cuda.library().check()
    for name in (*FLOAT_STATS, *HIDDEN_GRADS, "topk_logps"):
        assert np.isnan(got[name][case.live]).all(), name
        assert (got[name][~case.live] == 0).all(), name
    assert not got["correct"].any()
    back = backward(case, got["lse"], got["entropy"], num_tokens=count - 1)
    assert np.isnan(back["weight"]).all()
    assert np.isnan(back["hidden"][case.live]).all()
    assert (back["hidden"][~case.live] == 0).all()
    with pytest.raises(ValueError, match="num_tokens"):
        _cuda.library().check()


@pytest.mark.parametrize("num_tokens", [0, 5])
def test_ignored_tokens_are_not_looked_at(num_tokens: int) -> None:
    """Whatever their hidden states hold."""
    case = Case(12, 9, 40, ignored=0.0)
    case.labels[5:] = -100
    hidden = case.hidden.copy()
    hidden[5:] = np.nan
    got = forward(case, num_tokens=num_tokens, hidden=hidden)
    check_values(case, got)
    check_hidden_grads(case, got, "float32")
    back = backward(case, got["lse"], got["entropy"], num_tokens=num_tokens, hidden=hidden)
    check_grads(case, back, "float32")


@pytest.mark.parametrize("num_tokens", [0, 3])
def test_nothing_counts(num_tokens: int) -> None:
    case = Case(6, 4, 11, ignored=1.1, **OPTIONS["all"])
    got = forward(case, topk=2, num_tokens=num_tokens)
    assert all((got[name] == 0).all() for name in (*STATS, *HIDDEN_GRADS, "topk_logps"))
    assert (got["topk_ids"] == -1).all()
    back = backward(case, got["lse"], got["entropy"], num_tokens=num_tokens)
    assert all((each == 0).all() for each in back.values())


def test_no_tokens_at_all() -> None:
    case = Case(0, 4, 11, **OPTIONS["all"])
    got = forward(case, topk=2)
    back = backward(case, got["lse"], got["entropy"])
    assert all((each == 0).all() for each in back.values())


@pytest.mark.parametrize("num_tokens", [0, 4])
def test_bad_labels(num_tokens: int) -> None:
    case = Case(5, 4, 11, ignored=0.0)
    case.labels[1], case.labels[4] = 11, -100
    case.labels[3] = -7
    got = forward(case, num_tokens=num_tokens)
    with pytest.raises(ValueError, match=r"labels: .*index 1"):
        _cuda.library().check()
    bad = [1, 3]
    assert np.isnan(got["logps"][bad]).all()
    assert not got["correct"][bad].any()
    assert np.isfinite(got["lse"][bad]).all()
    assert all((got[name][bad] == 0).all() for name in HIDDEN_GRADS)
    back = backward(case, got["lse"], got["entropy"], num_tokens=num_tokens)
    assert (back["hidden"][bad] == 0).all()
    assert np.isfinite(back["weight"]).all()
    with pytest.raises(ValueError, match="labels"):
        _cuda.library().check()


# ---- the other results ---------------------------------------------------------------------------


@pytest.mark.parametrize("topk", [1, 5, 33])
@pytest.mark.parametrize("limit", [0, SMALL])
def test_topk(topk: int, limit: int) -> None:
    case = Case(40, 16, 700, **OPTIONS["bias"])
    got = forward(case, topk=topk, memory_limit=limit)
    x = case.head.logits()
    want = oracle.token_stats(x, case.labels, precision=np.longdouble)
    found = np.take_along_axis(x, got["topk_ids"].clip(0), axis=-1) - want.lse[:, None]
    best = -np.sort(-x, axis=-1)[:, :topk] - want.lse[:, None]
    allowed = 3 * BUDGET * unit(case, np.float32) + 1e-6
    live = case.live
    assert (np.abs(found - best)[live] <= allowed).all()
    assert (np.abs(got["topk_logps"] - best)[live] <= allowed).all()
    assert (got["topk_ids"][~live] == -1).all()
    assert (got["topk_logps"][~live] == 0).all()


def test_topk_ties_and_nan() -> None:
    case = Case(3, 4, 70, ignored=0.0)
    case.hidden[:] = 1
    case.weight[:] = 0
    case.weight[[3, 40, 69]] = 1
    case.hidden[2] = np.nan
    got = forward(case, topk=5, memory_limit=3 * 64)
    assert got["topk_ids"][:2].tolist() == [[3, 40, 69, 0, 1]] * 2
    assert (got["topk_ids"][2] == -1).all()
    assert np.isnan(got["topk_logps"][2]).all()


def test_a_split_vocabulary() -> None:
    """Parts' states, merged, are the whole; their gradients are their own."""
    case = Case(30, 16, 700, **OPTIONS["all"])
    states = []
    for first, last in ((0, 300), (300, 420), (420, 700)):
        rows = slice(first, last)
        arrays = {name: getattr(case, name)[rows] for name in ("weight", "bias", "lora_b")}
        part = forward(case, outputs=("states", "grad_hidden_lse"), vocab=(first, 700), **arrays)
        states.append(part["states"])
    got = finish(np.stack(states), case.labels)
    check_values(case, got)


def test_special_values() -> None:
    """Rows without a distribution: NaN, and of one entry."""
    case = Case(4, 1, 5, ignored=0.0, bias=True)
    case.hidden[:] = [[1], [np.nan], [np.inf], [1]]
    case.weight[:] = 1
    case.bias[:] = -np.inf
    case.bias[2] = 0
    case.labels[:] = 2
    got = forward(case)
    assert got["logps"][0] == 0
    assert got["entropy"][0] == 0
    assert np.isnan(got["logps"][1:3]).all()
    assert got["correct"].tolist() == [True, False, False, True]
    assert np.isfinite(got["grad_hidden_logps"][[0, 3]]).all()
    assert np.isnan(got["grad_hidden_logps"][1:3]).all()


# ---- arrays --------------------------------------------------------------------------------------


def test_leading_shapes_and_strides() -> None:
    """Rows cut out of larger arrays, of every kind of step."""
    case = Case(24, 9, 40, DTYPES["float16"], **OPTIONS["lora"])
    want = forward(case)
    wide = np.zeros((4, 8, 20), case.hidden.dtype)
    wide[:, :6, 3:12] = case.hidden.reshape(4, 6, 9)
    big = np.zeros((80, 12), case.weight.dtype)
    big[::2, :9] = case.weight
    arrays = {
        "hidden": wide[:, :6, 3:12],
        "weight": big[::2, :9],
        "labels": case.labels.astype(np.int16).reshape(4, 6),
    }
    got = forward(case, **arrays)
    for name, array in want.items():
        assert same_bits(got[name].reshape(array.shape), array), name
    back = backward(
        case,
        got["lse"],
        got["entropy"],
        upstream={name: each.reshape(4, 6) for name, each in case.upstream.items()},
        **arrays,
    )
    check_grads(case, {**back, "hidden": back["hidden"].reshape(24, 9)}, "tf32")


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_grad_weight_in_the_dtype_of_weight(kind: str) -> None:
    case = Case(60, 33, 300, DTYPES[kind])
    got = forward(case)
    vectors = (got["lse"], got["entropy"])
    wide = backward(case, *vectors, memory_limit=SMALL)
    narrow = backward(case, *vectors, memory_limit=SMALL, weight_alike=True)
    assert same_bits(narrow["weight"], wide["weight"].astype(case.weight.dtype))
    assert same_bits(narrow["hidden"], wide["hidden"])


@pytest.mark.parametrize(
    "present", [("grad_logps",), ("grad_lse",), ("grad_logps", "grad_entropy")]
)
def test_some_gradients_come_in(present: tuple[str, ...]) -> None:
    case = Case(20, 9, 40)
    got = forward(case)
    given = {name: case.upstream[name] for name in present}
    back = backward(case, got["lse"], got["entropy"], upstream=given)
    for name in set(case.upstream) - set(present):
        case.upstream[name] = np.zeros_like(case.upstream[name])
    check_grads(case, back, "float32")


# ---- what is refused -----------------------------------------------------------------------------


def test_refusals() -> None:
    wide = Case(3, 4, 5, DTYPES["float64"])
    with pytest.raises(TypeError, match="hidden: expected float32, float16 or bfloat16"):
        forward(wide, outputs=("logps",))
    case = Case(3, 4, 5)
    with pytest.raises(ValueError, match=r"num_tokens: .* got -1"):
        forward(case, num_tokens=-1)
    with pytest.raises(ValueError, match=r"products: .* got 3"):
        forward(case, products=3)
    with pytest.raises(ValueError, match="topk"):
        forward(case, topk=6)
    got = forward(case)
    with pytest.raises(ValueError, match="grad_filter: expected 0 on CUDA"):
        backward(case, got["lse"], got["entropy"], grad_filter=0.5)
    with pytest.raises(ValueError, match="entropy: expected the forward's entropy"):
        backward(case, got["lse"], None)


def test_a_failure_of_cublas_or_of_a_launch_is_said() -> None:
    case = Case(3, 4, 5)
    cublas = ctypes.CDLL("libcublas.so.13")
    cublas.cuda_sim_cublas_fail(0, 14)
    with pytest.raises(RuntimeError, match="cublas: a product: cuBLAS returns status 14"):
        forward(case)
    _cuda.library().handle.cuda_sim_fail_launch(2, 719)
    with pytest.raises(RuntimeError, match="cuda: launch of a kernel"):
        forward(case)
    check_values(case, forward(case))


def test_cublas_has_a_version() -> None:
    error = Error()
    assert _cuda.library().handle.pfo_cuda_cublas_open(None, ctypes.byref(error)) == 130000
    assert error.text() == ""
