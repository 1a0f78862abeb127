"""TRL's functions by name and signature: against float64 torch, and against TRL 1.16 itself where
it is installed.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt.torch import _bridge  # noqa: E402

NAMES = ("selective_log_softmax", "entropy_from_logits", "selective_log_softmax_and_entropy")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WAYS = {
    "direct": contextlib.nullcontext,
    "operators": _bridge.force_operators,
    "plain": _bridge.force_plain,
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with WAYS[request.param]():
        yield request.param


@pytest.fixture
def trl_utils() -> Any:
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    if not trl.__version__.startswith("1.16."):
        pytest.skip(f"written for TRL 1.16, found {trl.__version__}")
    from trl.trainer import utils

    return utils


def make(dtype: Any = torch.float32, k: int | None = None, vocab: int = 29) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(3)
    logits = (2 * torch.randn(3, 5, vocab, generator=generator)).to(dtype)
    shape = (3, 5) if k is None else (3, 5, k)
    index = torch.randint(0, vocab, shape, generator=generator)
    mask = torch.rand(shape, generator=generator) > 0.4
    return logits, index, mask


def naive(
    logits: Any, index: Any, temperature: float = 1.0, row_mask: Any = None
) -> tuple[Any, Any]:
    log_p = torch.log_softmax(logits.double() / temperature, dim=-1)
    squeeze = index.dim() < logits.dim()
    logps = log_p.gather(-1, index.unsqueeze(-1) if squeeze else index)
    logps = logps.squeeze(-1) if squeeze else logps
    entropy = -(log_p.exp() * log_p).sum(-1)
    if row_mask is not None:
        logps = logps.masked_fill(row_mask == 0, 0.0)
        entropy = entropy.masked_fill(row_mask == 0, 0.0) if squeeze else entropy
    return logps, entropy


def gradient_tolerance(dtype: Any) -> dict[str, float]:
    # Entries that one row selects several times are rounded once for each: K times the dtype's
    # rounding.
    rounding = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}.get(dtype, 0.0)
    return {"rtol": rounding, "atol": 1e-12 if dtype is torch.float64 else 5e-6 + rounding}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [None, 1, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_selective_log_softmax(way: str, dtype: Any, k: int | None, masked: bool) -> None:
    logits, index, mask = make(dtype, k)
    row_mask = mask if masked else None
    leaf, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    got = prefopt_torch.selective_log_softmax(leaf, index, 0.7, row_mask)
    expected = naive(exact, index, 0.7, row_mask)[0]
    assert got.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    torch.testing.assert_close(
        got.double(), expected, rtol=0, atol=1e-13 if dtype is torch.float64 else 5e-6
    )
    weight = torch.arange(1.0, got.numel() + 1).reshape(got.shape) / got.numel()
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    assert leaf.grad.dtype is dtype
    torch.testing.assert_close(leaf.grad.double(), exact.grad, **gradient_tolerance(dtype))
    if masked and k is None:
        assert not leaf.grad[~mask].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_entropy_from_logits(way: str, dtype: Any) -> None:
    logits, index, _ = make(dtype)
    leaf, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    got = prefopt_torch.entropy_from_logits(leaf, chunk_size=2)
    expected = naive(exact, index)[1]
    torch.testing.assert_close(
        got.double(), expected, rtol=0, atol=1e-13 if dtype is torch.float64 else 5e-6
    )
    got.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, **gradient_tolerance(dtype))


@pytest.mark.parametrize("entropy_requires_grad", [False, True])
@pytest.mark.parametrize("mask_dtype", [None, torch.bool, torch.int32, torch.int64], ids=str)
def test_selective_log_softmax_and_entropy(
    way: str, entropy_requires_grad: bool, mask_dtype: Any
) -> None:
    logits, index, mask = make()
    row_mask = None if mask_dtype is None else mask.to(mask_dtype)
    leaf, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    logps, entropy = prefopt_torch.selective_log_softmax_and_entropy(
        leaf, index, entropy_requires_grad, 0.7, row_mask
    )
    expected_logps, expected_entropy = naive(exact, index, 0.7, row_mask)
    torch.testing.assert_close(logps.double(), expected_logps, rtol=0, atol=5e-6)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=0, atol=5e-6)
    assert entropy.requires_grad is entropy_requires_grad
    total, expected = logps.sum(), expected_logps.sum()
    if entropy_requires_grad:
        total, expected = total + 2 * entropy.sum(), expected + 2 * expected_entropy.sum()
    total.backward()
    expected.backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=0, atol=2e-5)


@pytest.mark.parametrize("k", [None, 3])
def test_gradcheck(way: str, k: int | None) -> None:
    logits, index, mask = make(torch.float64, k, 7)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: prefopt_torch.selective_log_softmax(x, index, 0.7, mask), (logits,)
    )
    assert torch.autograd.gradcheck(prefopt_torch.entropy_from_logits, (logits,))


def test_results_may_change_in_place_before_backward(way: str) -> None:
    logits, index, _ = make()
    _, many, _ = make(k=3)
    for function in (
        lambda x: prefopt_torch.selective_log_softmax(x, index),
        lambda x: prefopt_torch.selective_log_softmax(x, many),
        prefopt_torch.entropy_from_logits,
        lambda x: prefopt_torch.selective_log_softmax_and_entropy(x, index)[1],
    ):
        leaf, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        result = function(leaf)
        result.mul_(3.0)
        result.sum().backward()
        (function(other) * 3.0).sum().backward()
        assert torch.equal(leaf.grad, other.grad)


def test_masked_rows_are_not_read(way: str) -> None:
    """A masked row may hold anything: NaN logits, an index out of range. (TRL on the CPU would
    raise on the index.)
    """
    logits, index, mask = make()
    mask[0, 0], mask[0, 1] = False, True
    logits[0, 0], index[0, 0] = torch.nan, -100
    logits.requires_grad_()
    logps, entropy = prefopt_torch.selective_log_softmax_and_entropy(logits, index, row_mask=mask)
    assert logps[0, 0] == entropy[0, 0] == 0
    (logps.sum() + entropy.sum()).backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[0, 0].any()
    many = index.clamp(min=0).unsqueeze(-1).repeat(1, 1, 2)
    masks = mask.unsqueeze(-1).repeat(1, 1, 2)
    many[0, 0], masks[0, 1, 1], many[0, 1, 1] = -100, False, 10**6
    result = prefopt_torch.selective_log_softmax(logits, many, row_mask=masks)
    assert result[0, 0].tolist() == [0.0, 0.0]
    assert result[0, 1, 1] == 0
    torch.testing.assert_close(result[0, 1, 0], logps[0, 1])


@pytest.mark.parametrize("value", [-100, -1, 29])
@pytest.mark.parametrize("k", [None, 3])
def test_index_out_of_range(value: int, k: int | None) -> None:
    """-100 included: TRL's functions have no ignored index."""
    logits, index, _ = make(k=k)
    index.view(-1)[4] = value
    match = rf"^index: expected 0 <= label < 29, got {value} at index 4$"
    with pytest.raises(ValueError, match=match):
        prefopt_torch.selective_log_softmax(logits, index)


BAD = {
    "temperature": (lambda x, i, m: {"temperature": 0.0}, ValueError, "temperature"),
    "index shape": (lambda x, i, m: {"index": i[1:]}, ValueError, "index: expected"),
    "index dtype": (
        lambda x, i, m: {"index": i.float()},
        TypeError,
        "index: expected an integer dtype",
    ),
    "index type": (
        lambda x, i, m: {"index": i.tolist()},
        TypeError,
        "index: expected a torch.Tensor",
    ),
    "mask shape": (lambda x, i, m: {"row_mask": m[1:]}, ValueError, "row_mask: expected the shape"),
    "mask type": (
        lambda x, i, m: {"row_mask": m.tolist()},
        TypeError,
        "row_mask: expected a torch.Tensor",
    ),
    "logits dtype": (
        lambda x, i, m: {"logits": x.long()},
        TypeError,
        "logits: expected float16, bfloat16, float32 or float64",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    logits, index, mask = make()
    change, error, match = BAD[case]
    with pytest.raises(error, match=match):
        prefopt_torch.selective_log_softmax(
            **{"logits": logits, "index": index, **change(logits, index, mask)}
        )


def test_entropy_bad_input() -> None:
    with pytest.raises(ValueError, match="logits: expected a vocabulary"):
        prefopt_torch.entropy_from_logits(torch.randn(2, 0))
    with pytest.raises(ValueError, match=r"logits: expected .*, got a scalar"):
        prefopt_torch.entropy_from_logits(torch.tensor(1.0))
    with pytest.raises(ValueError, match="chunk_size"):
        prefopt_torch.entropy_from_logits(torch.randn(2, 3), chunk_size=0)
    with pytest.raises(TypeError, match="logits"):
        prefopt_torch.entropy_from_logits([[1.0]])
    with pytest.raises(ValueError, match=r"index: expected \(2,\)"):
        prefopt_torch.selective_log_softmax_and_entropy(torch.randn(2, 3), torch.zeros(2, 1).long())


@pytest.mark.peers
@pytest.mark.parametrize("name", NAMES)
def test_signature_is_trls(trl_utils: Any, name: str) -> None:
    ours = inspect.signature(getattr(prefopt_torch, name)).parameters.values()
    theirs = inspect.signature(getattr(trl_utils, name)).parameters.values()
    assert [(p.name, p.default, p.kind) for p in ours] == [
        (p.name, p.default, p.kind) for p in theirs
    ]


@pytest.mark.peers
@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_agrees_with_trl(trl_utils: Any, k: int | None, masked: bool, dtype: Any) -> None:
    logits, index, mask = make(dtype, k)
    row_mask = mask if masked else None
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    got = prefopt_torch.selective_log_softmax(ours, index, 0.7, row_mask)
    expected = trl_utils.selective_log_softmax(theirs, index, 0.7, row_mask)
    torch.testing.assert_close(got, expected)
    got.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    if k is None:
        pairs = zip(
            prefopt_torch.selective_log_softmax_and_entropy(ours, index, True, 0.7, row_mask),
            trl_utils.selective_log_softmax_and_entropy(theirs, index, True, 0.7, row_mask),
            strict=True,
        )
        for mine, other in pairs:
            torch.testing.assert_close(mine, other)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_closer_than_trl(trl_utils: Any, dtype: Any) -> None:
    logits, index, _ = make(dtype)
    exact_logps, exact_entropy = naive(logits, index)
    for ours, theirs, exact in (
        (
            prefopt_torch.selective_log_softmax(logits, index),
            trl_utils.selective_log_softmax(logits, index),
            exact_logps,
        ),
        (
            prefopt_torch.entropy_from_logits(logits),
            trl_utils.entropy_from_logits(logits),
            exact_entropy,
        ),
    ):
        assert theirs.dtype is dtype
        assert ours.dtype is torch.float32
        assert (ours - exact).abs().max() < 0.01 * (theirs.double() - exact).abs().max()


@pytest.mark.peers
def test_swaps_into_a_trainer_module(trl_utils: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """How TRL's trainers call it: positionally, with the result scaled and masked in place."""
    logits, index, mask = make()
    results = []
    for function in (trl_utils.selective_log_softmax, prefopt_torch.selective_log_softmax):
        monkeypatch.setattr(trl_utils, "selective_log_softmax", function)
        logps = trl_utils.selective_log_softmax(logits, index)
        logps[~mask] = 0.0
        results.append(logps.sum(-1))
    torch.testing.assert_close(*results)
