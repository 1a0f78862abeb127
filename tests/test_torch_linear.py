"""prefopt.torch.linear_token_logps against logits materialised in float64, by every way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch_linear_cases import (  # noqa: E402
    DTYPES,
    PARAMETERS,
    STATS,
    WAYS,
    leaves_of,
    make,
    true_topk,
    truth,
    within,
    worst,
)

import prefopt  # noqa: E402
from prefopt import torch as prefopt_torch  # noqa: E402

EVERYTHING = {"logit_scale": 0.7, "softcap": 5.0, "temperature": 0.8}
ROUNDING = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}  # of a gradient to its dtype


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with WAYS[request.param]():
        yield request.param


def call(head: dict[str, Any], **options: Any) -> Any:
    return prefopt_torch.linear_token_logps(**head, **options)


def total(results: Any, weights: list[Any]) -> Any:
    """A loss through the three differentiable results."""
    values = results if isinstance(results, dict) else results._asdict()
    names = [name for name in ("logps", "lse", "entropy") if values[name] is not None]
    return sum((w * values[name]).sum() for w, name in zip(weights, names, strict=False))


def loss_weights(head: dict[str, Any]) -> list[Any]:
    generator = torch.Generator().manual_seed(9)
    shape = head["labels"].shape
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]


def check_gradients(
    head: dict[str, Any], names: tuple[str, ...], options: dict[str, Any], budget: float
) -> float:
    """Gradients by `names` against autograd through whole logits; returns the worst error."""
    ours, exact = leaves_of(head, names), leaves_of(head, names, torch.float64)
    weights = loss_weights(head)
    got = call(ours, **options, stats=("entropy",))
    found = torch.autograd.grad(total(got, weights), [ours[name] for name in names])
    wanted = torch.autograd.grad(
        total(truth(exact, **options), weights), [exact[name] for name in names]
    )
    error = 0.0
    for name, ours_, theirs in zip(names, found, wanted, strict=True):
        assert ours_.dtype is ours[name].dtype
        error = max(error, worst(ours_, theirs, ROUNDING.get(ours_.dtype, 0.0)))
    within(error, budget)
    return error


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize(
    ("dtype", "head_dtype"),
    [(each, each) for each in DTYPES]
    + [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)],
    ids=str,
)
def test_values_and_gradients(way: str, dtype: Any, head_dtype: Any, options: Any) -> None:
    """All statistics and all gradients, over several tiles; half types from their exact values."""
    head = make((2, 20), 16, 1100, dtype=dtype, head_dtype=head_dtype, bias=True, rank=3)
    got, want = (
        call(head, **options, stats=STATS),
        truth(leaves_of(head, (), torch.float64), **options),
    )
    wide = dtype is torch.float64
    for name, expected in want.items():
        result = getattr(got, name)
        if name == "correct":
            assert torch.equal(result, expected)
            continue
        assert result.dtype is (torch.float64 if wide else torch.float32)
        # twice the worst seen over six seeds
        within(worst(result, expected), (1.6e-14 if wide else 1e-5))
    for names in (PARAMETERS, ("hidden",)):
        check_gradients(head, names, options, 5.9e-14 if wide else 4.1e-5)


@pytest.mark.parametrize("names", [PARAMETERS, ("hidden",), ("weight",), ("lora_a", "lora_b")])
def test_gradcheck(way: str, names: tuple[str, ...]) -> None:
    head = make((2, 3), 4, 7, dtype=torch.float64, bias=True, rank=2)
    leaves = leaves_of(head, names)

    def function(*tensors: Any) -> Any:
        given_ = {**leaves, **dict(zip(names, tensors, strict=True))}
        got = call(given_, **EVERYTHING, stats=("entropy",))
        return got.logps, got.lse, got.entropy

    assert torch.autograd.gradcheck(function, [leaves[name] for name in names])


@pytest.mark.parametrize(
    "names", [("hidden", "weight"), ("weight", "bias"), ("bias",), ("lora_b",)]
)
def test_partially_frozen(way: str, names: tuple[str, ...]) -> None:
    """TRL's partially frozen heads: what is frozen gets nothing, the others what they are due."""
    head = make((4, 6), 8, 50, bias=True, rank=2)
    check_gradients(head, names, {}, 8e-6)
    leaves = leaves_of(head, names)
    call(leaves).logps.sum().backward()
    assert {name for name, each in leaves.items() if each.grad is not None} == set(names)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("part", ["logps", "lse", "entropy"])
def test_gradient_of_each_result_alone(way: str, frozen: bool, part: str) -> None:
    head = make((3, 7), 8, 60, dtype=torch.float64, bias=True)
    names = ("hidden",) if frozen else ("hidden", "weight", "bias")
    ours, exact = leaves_of(head, names), leaves_of(head, names)
    weight = loss_weights(head)[0]
    found = torch.autograd.grad(
        (getattr(call(ours, **EVERYTHING, stats=("entropy",)), part) * weight).sum(),
        [ours[name] for name in names],
    )
    wanted = torch.autograd.grad(
        (truth(exact, **EVERYTHING)[part] * weight).sum(), [exact[name] for name in names]
    )
    for got, want in zip(found, wanted, strict=True):
        within(worst(got, want), 4.4e-15)


def test_every_label(way: str) -> None:
    """A label at each entry of the vocabulary: both ends of every tile, forward and backward."""
    head = make((1100,), 6, 1100)
    head["labels"] = torch.arange(1100)
    want = truth(leaves_of(head, (), torch.float64))["logps"]
    within(worst(call(head).logps, want), 5.2e-6)
    for names in (("hidden", "weight"), ("hidden",)):
        check_gradients(head, names, {}, 7e-5)


def test_topk(way: str) -> None:
    head = make((3, 40), 8, 700, dtype=torch.float64, bias=True)
    head["bias"][::2] = head["bias"][0]
    head["weight"][10:20] = head["weight"][0]  # exact ties, across nothing but their order
    head["bias"][10:20] = head["bias"][0]
    got = call(head, topk=12, temperature=0.7)
    ids, logps = true_topk(head, 12, temperature=0.7)
    assert torch.equal(got.topk_ids, ids)
    within(worst(got.topk_logps, logps), 1.5e-14)
    assert not got.topk_logps.requires_grad


def test_first_maximum_counts_as_correct(way: str) -> None:
    """TRL's case: the head's second half repeats the first; labels alternate between the two.

    Of multiples of 1/4, whose sums are exact: a BLAS sums the columns of one product in more than
    one order.
    """
    head = make((64,), 32, 128)
    head["hidden"], head["weight"] = ((4 * head[n]).round() / 4 for n in ("hidden", "weight"))
    head["weight"][64:] = head["weight"][:64]
    best = (head["hidden"] @ head["weight"].T).argmax(-1)
    head["labels"] = torch.where(torch.arange(64) % 2 == 0, best, best + 64)
    assert torch.equal(call(head, stats=("correct",)).correct, torch.arange(64) % 2 == 0)


def test_returned_gradients_by_hidden(way: str) -> None:
    """With any head: frozen, trained, or without a gradient in sight."""
    head = make((2, 5), 8, 40, dtype=torch.float64, bias=True, rank=2)
    exact = leaves_of(head, ("hidden",))
    want = truth(exact, **EVERYTHING)
    for names in ((), ("hidden",), ("hidden", "weight")):
        got = call(
            leaves_of(head, names), **EVERYTHING, return_grad_hidden=("logps", "lse", "entropy")
        )
        for field, part in (
            ("grad_hidden", "logps"), ("grad_hidden_lse", "lse"), ("grad_hidden_entropy", "entropy")
        ):  # fmt: skip
            (expected,) = torch.autograd.grad(want[part].sum(), exact["hidden"], retain_graph=True)
            within(worst(getattr(got, field), expected), 2.2e-15)
            assert not getattr(got, field).requires_grad
    assert call(leaves_of(head, ("hidden",))).grad_hidden is None  # made, but not asked for


@st.composite
def problems(draw: Any) -> tuple[dict[str, Any], tuple[str, ...], dict[str, Any], str]:
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    dtype = draw(st.sampled_from(DTYPES))
    halves = [each for each in DTYPES if each is not torch.float64]
    head_dtype = dtype if dtype is torch.float64 else draw(st.sampled_from(halves))
    ignore_index = draw(st.sampled_from([-100, 0, 3, -1]))
    head = make(
        shape, draw(st.integers(1, 40)), draw(st.integers(1, 600)), dtype=dtype,
        head_dtype=head_dtype, bias=draw(st.booleans()), rank=draw(st.integers(0, 3)),
        seed=draw(st.integers(0, 99)), ignore_index=ignore_index,
    )  # fmt: skip
    share = draw(st.sampled_from([0.0, 0.5, 1.0]))
    masked = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < share
    head["labels"] = head["labels"].masked_fill(masked, ignore_index)
    head["labels"] = head["labels"].to(
        draw(st.sampled_from([torch.int64, torch.int32, torch.int16]))
    )
    names = draw(st.sampled_from([("hidden",), tuple(n for n in PARAMETERS if n in head)]))
    options = {
        "ignore_index": ignore_index,
        "logit_scale": draw(st.sampled_from([1.0, 0.5, -1.5])),
        "softcap": draw(st.sampled_from([None, 4.0, 30.0])),
        "temperature": draw(st.sampled_from([1.0, 0.7, 2.0])),
        "memory_limit": draw(st.sampled_from([None, 3 << 20, 1 << 28])),
    }
    return head, names, options, draw(st.sampled_from(sorted(WAYS)))


@settings(max_examples=120, deadline=None)
@given(problems())
def test_any_problem(problem: Any) -> None:
    """Shapes, dtypes, masks and options together."""
    head, names, options, which = problem
    wide = head["hidden"].dtype is torch.float64
    plain = {name: each for name, each in options.items() if name != "memory_limit"}
    with WAYS[which]():
        got = call(head, **options, stats=STATS, topk=1)
        want = truth(leaves_of(head, (), torch.float64), **plain)
        for name, expected in want.items():
            if name != "correct":
                within(worst(getattr(got, name), expected), (2.8e-14 if wide else 1.7e-5))
        ours, exact = leaves_of(head, names), leaves_of(head, names, torch.float64)
        weights = loss_weights(head)
        found = torch.autograd.grad(
            total(call(ours, **options, stats=("entropy",)), weights), [ours[n] for n in names]
        )
    wanted = torch.autograd.grad(
        total(truth(exact, **plain), weights), [exact[n] for n in names], allow_unused=True
    )
    for name, got_, want_ in zip(names, found, wanted, strict=True):
        expected = torch.zeros_like(exact[name]) if want_ is None else want_
        relative = ROUNDING.get(got_.dtype, 0.0)
        within(worst(got_, expected, relative), (3e-14 if wide else 3.6e-5))


# ---- extremes ------------------------------------------------------------------------------------


def test_large_hidden(way: str) -> None:
    """Logits near 1e5: no overflow, errors of float32's spacing there."""
    head = make((2, 30), 16, 600)
    head["hidden"] *= 1e4
    want = truth(leaves_of(head, (), torch.float64))
    got = call(head, stats=STATS)
    for name in ("logps", "lse", "max_logit", "lse2"):
        within(worst(getattr(got, name), want[name]), 0.07)  # spacing 2^-7 at 1.2e5
    within(worst(got.entropy, want["entropy"]), 8e-39)
    for names in (("hidden", "weight"), ("hidden",)):
        leaves = leaves_of(head, names)
        call(leaves).logps.sum().backward()
        assert all(leaves[name].grad.isfinite().all() for name in names)


def test_all_ignored(way: str) -> None:
    """Zeros that are connected: backward gives zero gradients and NaN hidden states do no harm."""
    for names in (PARAMETERS, ("hidden",), ()):
        leaves = leaves_of(make((2, 3), 5, 9, bias=True, rank=2), names)
        leaves["labels"].fill_(-100)
        with torch.no_grad():
            leaves["hidden"].fill_(math.nan)
        got = call(leaves, stats=STATS, topk=2)
        for each in got:
            if each is not None and each is not got.topk_ids:
                assert not each.any()
        assert (got.topk_ids == -1).all()
        if names:
            (got.logps.sum() + got.entropy.sum() + got.lse.sum()).backward()
            assert all(leaves[name].grad.shape == leaves[name].shape for name in names)
            assert not any(leaves[name].grad.any() for name in names)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 4)])
def test_no_tokens(way: str, shape: tuple[int, ...]) -> None:
    for names in (PARAMETERS, ("hidden",), ()):
        leaves = leaves_of(make(shape, 5, 9, bias=True, rank=2), names)
        got = call(leaves, stats=STATS, topk=2, return_grad_hidden=True)
        assert got.logps.shape == shape
        assert got.topk_ids.shape == (*shape, 2)
        assert got.grad_hidden.shape == (*shape, 5)
        if names:
            (got.logps.sum() + got.entropy.sum()).backward()
            assert not any(leaves[name].grad.any() for name in names)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_token_and_one_entry(way: str, shape: tuple[int, ...]) -> None:
    head = make(shape, 5, 1, dtype=torch.float64, bias=True)
    got = call(head, stats=STATS, topk=1)
    want = truth(head)
    assert not got.logps.any()  # the only entry has probability 1
    for name in ("lse", "entropy", "mean_logit", "max_logit", "lse2"):
        within(worst(getattr(got, name), want[name]), 0.0)
    for names in (PARAMETERS[:3], ("hidden",)):
        check_gradients(head, names, {}, 0.0)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_ruled_out_entries(way: str, softcap: float | None) -> None:
    """-inf in the bias: no probability, no share of the entropy or of a gradient.

    With a softcap tanh makes it -softcap instead: an entry like another.
    """
    head = make((3, 8), 6, 700, dtype=torch.float64, bias=True)
    head["bias"][::3] = head["bias"][512:600] = -math.inf
    head["labels"] = torch.where(head["labels"] % 3 == 0, 1, head["labels"])
    head["labels"] = torch.where(head["labels"] >= 512, 2, head["labels"])
    got, want = call(head, softcap=softcap, stats=STATS), truth(head, softcap=softcap)
    for name, expected in want.items():
        if name != "correct":
            within(worst(getattr(got, name), expected), 2.3e-14)
    leaves = leaves_of(head, ("hidden", "weight"))
    found = torch.autograd.grad(
        total(call(leaves, softcap=softcap, stats=("entropy",)), loss_weights(head)),
        [leaves["hidden"], leaves["weight"]],
    )
    finite = leaves_of(head, ("hidden", "weight"))
    finite["bias"] = finite["bias"].clamp(min=-1e5)  # whose autograd has no inf - inf
    wanted = torch.autograd.grad(
        total(truth(finite, softcap=softcap), loss_weights(head)),
        [finite["hidden"], finite["weight"]],
    )
    for ours, theirs in zip(found, wanted, strict=True):
        within(worst(ours, theirs), 2.7e-14)


def test_rows_without_a_distribution(way: str) -> None:
    """All entries ruled out, or NaN in hidden: what the C kernels state, in that row alone."""
    head = make((4,), 5, 9, dtype=torch.float32, bias=True)
    head["labels"] = torch.tensor([1, 2, -100, 3])
    head["hidden"][1] = math.nan
    got = call(head, stats=STATS, topk=2)
    assert got.logps.isnan().tolist() == [False, True, False, False]
    assert got.topk_ids[1].tolist() == [-1, -1]
    head["hidden"][1] = 0
    head["bias"].fill_(-math.inf)
    got = call(head, stats=STATS)
    for name in ("lse", "max_logit", "lse2", "mean_logit"):
        assert getattr(got, name)[[0, 1, 3]].eq(-math.inf).all()
    assert got.logps[[0, 1, 3]].isnan().all()
    assert got.entropy[[0, 1, 3]].isnan().all()
    assert not got.correct.any()
    leaf = leaves_of(head, ("hidden",))
    call(leaf).logps.sum().backward()
    assert leaf["hidden"].grad[[0, 1, 3]].isnan().all()
    assert not leaf["hidden"].grad[2].any()


def test_numpy_has_the_same_bits() -> None:
    """One body: what prefopt returns for arrays, prefopt.torch returns for tensors."""
    head = make((3, 40), 16, 1100, bias=True, rank=3)
    arrays = {name: each.numpy() for name, each in head.items()}
    want = prefopt.linear_token_logps(**arrays, **EVERYTHING, stats=STATS, topk=3)
    got = call(head, **EVERYTHING, stats=STATS, topk=3)
    for name in ("logps", "lse", *STATS, "topk_ids", "topk_logps"):
        np.testing.assert_array_equal(getattr(got, name).numpy(), getattr(want, name))


# ---- cases of TRL's and Liger's own tests of their fused functions -------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("scale", "softcap"), [(0.5, None), (1.0, 30.0), (0.5, 30.0), (1.0, 3.0)])
@pytest.mark.parametrize("by_entropy", [0.0, 0.5])
@pytest.mark.parametrize("frozen", [False, True])
def test_trl_cases(
    temperature: float, scale: float, softcap: float | None, by_entropy: float, frozen: bool
) -> None:
    """tests/test_kernels.py::TestChunkedLogProbFunction: 64 x 32 x 128, forward and backward of
    2 logps + w entropy, head frozen or trained, in tiles that no size divides.
    """
    options = {"temperature": temperature, "logit_scale": scale, "softcap": softcap}
    head = make((64,), 32, 128, bias=True, seed=42)
    names = ("hidden",) if frozen else ("hidden", "weight", "bias")
    ours, exact = leaves_of(head, names), leaves_of(head, names, torch.float64)
    got, want = (
        call(ours, **options, stats=("entropy",), memory_limit=3 << 20),
        truth(exact, **options),
    )
    within(worst(got.logps, want["logps"]), 1.3e-5)
    within(worst(got.entropy, want["entropy"]), 5e-6)
    (2 * got.logps + by_entropy * got.entropy).sum().backward()
    (2 * want["logps"] + by_entropy * want["entropy"]).sum().backward()
    for name in names:
        within(worst(ours[name].grad, exact[name].grad), 2.9e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("ignore_index", [-100, 42])
@pytest.mark.parametrize("bias", [False, True])
def test_liger_cases(dtype: Any, ignore_index: int, bias: bool) -> None:
    """test/chunked_loss: (3, 47, 31, 123) with a random share ignored, -100 or a token's id."""
    head = make((6, 47), 31, 123, dtype=dtype, bias=bias, ignore_index=ignore_index)
    generator = torch.Generator().manual_seed(5)
    head["labels"][torch.rand(6, 47, generator=generator) < 0.4] = ignore_index
    names = ("hidden", "weight", "bias") if bias else ("hidden", "weight")
    check_gradients(head, names, {"ignore_index": ignore_index}, 9e-6)
    want = truth(leaves_of(head, (), torch.float64), ignore_index=ignore_index)["logps"]
    within(worst(call(head, ignore_index=ignore_index).logps, want), 5e-6)
