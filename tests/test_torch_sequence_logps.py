"""prefopt.torch.sequence_logps: padded, packed, weighted, averaged; gradients and refusals."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_ways import WAYS, parameters  # noqa: E402

import prefopt  # noqa: E402
from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt.torch import _bridge  # noqa: E402

CUTS = [0, 3, 3, 4, 12]


@pytest.fixture(params=parameters("direct", "operators", "plain"))
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with WAYS[request.param]():
        yield request.param


def make(packed: bool, mask: str | None, dtype: Any) -> tuple[Any, dict[str, Any]]:
    """[4, 6] or packed [12] into 4 sequences; sequence 1 is empty either way once masked."""
    generator = torch.Generator().manual_seed(4)
    shape = (12,) if packed else (4, 6)
    logps = -5 * torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
    keywords: dict[str, Any] = {"cu_seqlens": torch.tensor(CUTS)} if packed else {}
    if mask is not None:
        weights = torch.rand(shape, generator=generator)
        weights[weights < 0.3] = 0.0
        if not packed:
            weights[1] = 0.0
        keywords["mask"] = weights != 0 if mask == "bool" else weights.to(dtype)
    return logps, keywords


def oracle(
    logps: Any,
    mask: Any = None,
    cu_seqlens: Any = None,
    average: bool = False,
    normalizer: Any = None,
) -> Any:
    """Sequence by sequence in float64."""
    weights = torch.ones_like(logps) if mask is None else mask.double()
    spans = (
        [(logps[i], weights[i]) for i in range(len(logps))]
        if cu_seqlens is None
        else [(logps[a:b], weights[a:b]) for a, b in itertools.pairwise(cu_seqlens)]
    )
    sums = torch.stack([(values * each).sum() for values, each in spans])
    if not average:
        return sums
    counts = (
        torch.stack([each.sum() for _, each in spans])
        if normalizer is None
        else normalizer.double()
    )
    return sums / torch.where(counts == 0, torch.inf, counts)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mask", [None, "bool", "weights"])
@pytest.mark.parametrize("divisor", ["sum", "average", "normalizer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients(
    way: str, packed: bool, mask: str | None, divisor: str, dtype: Any
) -> None:
    logps, keywords = make(packed, mask, dtype)
    keywords["average"] = divisor != "sum"
    if divisor == "normalizer":
        keywords["normalizer"] = torch.tensor([2.0, 3.0, 5.0, 7.0])
    leaf, exact = logps.clone().requires_grad_(), logps.double().requires_grad_()
    got, expected = prefopt_torch.sequence_logps(leaf, **keywords), oracle(exact, **keywords)
    assert got.dtype is dtype
    rounding = (
        {"rtol": 1e-13, "atol": 1e-13} if dtype is torch.float64 else {"rtol": 2.0**-23, "atol": 0}
    )
    torch.testing.assert_close(got.double(), expected, **rounding)
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0])
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, **rounding)


@pytest.mark.parametrize("packed", [False, True])
def test_same_bits_as_numpy(packed: bool) -> None:
    logps, keywords = make(packed, "weights", torch.float32)
    arrays = {name: each.numpy() for name, each in keywords.items()}
    expected = prefopt.sequence_logps(logps.numpy(), **arrays, average=True)
    for context in (contextlib.nullcontext, _bridge.force_operators):
        with context():
            got = prefopt_torch.sequence_logps(logps, **keywords, average=True)
            np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("average", [False, True])
def test_gradcheck(way: str, packed: bool, average: bool) -> None:
    logps, keywords = make(packed, "weights", torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: prefopt_torch.sequence_logps(x, **keywords, average=average),
        (logps.requires_grad_(),),
    )


def test_masked_positions_are_not_read(way: str) -> None:
    logps = torch.tensor([[1.0, math.nan, -math.inf], [math.inf, 2.0, 3.0]], requires_grad=True)
    mask = torch.tensor([[True, False, False], [False, True, True]])
    got = prefopt_torch.sequence_logps(logps, mask)
    assert got.tolist() == [1.0, 5.0]
    got.sum().backward()
    assert torch.equal(logps.grad, mask.float())


def test_labels_to_sequences_in_one_chain(way: str) -> None:
    """The documented use: pass labels != ignore_index; the gradient goes back to the logits through
    both.
    """
    logits = torch.randn(2, 5, 11, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 11, (2, 5))
    labels[0, :3] = -100

    def chain(x: Any) -> Any:
        logps = prefopt_torch.token_logps(x, labels).logps
        return prefopt_torch.sequence_logps(logps, labels != -100, average=True)

    assert torch.autograd.gradcheck(chain, (logits,))


def test_half_precision_widens(way: str) -> None:
    logps = torch.randn(2, 3).bfloat16().requires_grad_()
    got = prefopt_torch.sequence_logps(logps)
    assert got.dtype is torch.float32
    got.sum().backward()
    assert logps.grad.dtype is torch.bfloat16


def test_empty(way: str) -> None:
    for shape, expected in (((0, 3), []), ((2, 0), [0.0, 0.0])):
        logps = torch.zeros(shape, requires_grad=True)
        got = prefopt_torch.sequence_logps(logps, average=True)
        assert got.tolist() == expected
        got.sum().backward()
    assert prefopt_torch.sequence_logps(torch.zeros(0), cu_seqlens=torch.tensor([0])).shape == (0,)


def test_in_place_afterwards_and_refusals(way: str) -> None:
    logps = torch.randn(2, 3, requires_grad=True)
    x = logps * 1.0
    got = prefopt_torch.sequence_logps(x)
    with torch.no_grad():
        x.zero_()  # linear: nothing of the input was saved, so nothing is spoilt
    got.mul_(2.0).sum().backward()
    assert torch.equal(logps.grad, torch.full((2, 3), 2.0))
    (grad,) = torch.autograd.grad(
        prefopt_torch.sequence_logps(logps).pow(2).sum(), logps, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="sequence_logps has no second derivative"):
        grad.sum().backward()


BAD: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "an array": (np.zeros((2, 3)), {}, TypeError, "logps: expected a torch.Tensor"),
    "integers": (torch.zeros(2, 3).int(), {}, TypeError, "logps: expected a floating dtype"),
    "one axis": (torch.zeros(3), {}, ValueError, "logps: expected"),
    "two axes packed": (
        torch.zeros(2, 3),
        {"cu_seqlens": torch.tensor([0, 2])},
        ValueError,
        "logps: expected",
    ),
    "mask shape": (torch.zeros(2, 3), {"mask": torch.ones(2, 2)}, ValueError, "mask: expected"),
    "mask type": (torch.zeros(2, 3), {"mask": [1]}, TypeError, "mask: expected a torch.Tensor"),
    "normalizer alone": (
        torch.zeros(2, 3),
        {"normalizer": torch.ones(2)},
        ValueError,
        "normalizer.*average",
    ),
    "cuts of two axes": (
        torch.zeros(3),
        {"cu_seqlens": torch.zeros(2, 2).int()},
        ValueError,
        "cu_seqlens",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(way: str, case: str) -> None:
    logps, keywords, error, match = BAD[case]
    with pytest.raises(error, match=match):
        prefopt_torch.sequence_logps(logps, **keywords)


@pytest.mark.parametrize("cuts", [[0, 2], [1, 3], [0, 2, 1, 3], [0, 4]])
def test_bad_cuts(cuts: list[int]) -> None:
    with pytest.raises(ValueError, match="cu_seqlens"):
        prefopt_torch.sequence_logps(torch.zeros(3), cu_seqlens=torch.tensor(cuts))
