"""prefopt.torch.token_logps: values, autograd and refusals, by every way into the kernels."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import prefopt  # noqa: E402
from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt.torch import _bridge  # noqa: E402

STATS = ("entropy", "correct", "mean_logit", "max_logit", "lse2")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WAYS = {
    "direct": contextlib.nullcontext,
    "operators": _bridge.force_operators,
    "plain": _bridge.force_plain,
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs through the autograd.Function, through the torch.library operators, and in
    plain torch.
    """
    with WAYS[request.param]():
        yield request.param


def make(
    dtype: Any, shape: tuple[int, ...] = (3, 5), vocab: int = 33, seed: int = 0
) -> tuple[Any, Any]:
    """Logits with a spread of about 3 and labels with two ignored rows."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(*shape, vocab, generator=generator)).to(dtype)
    labels = torch.randint(0, vocab, shape, generator=generator)
    labels.view(-1)[1] = -100
    labels.view(-1)[-1] = -100
    return logits, labels


def oracle(logits: Any, labels: Any, temperature: float = 1.0) -> dict[str, Any]:
    """Every result in float64 with torch's own functions, differentiable in logits."""
    x = logits.double() / temperature
    log_p = torch.log_softmax(x, dim=-1)
    kept = labels != -100
    chosen = log_p.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    results = {
        "logps": chosen,
        "lse": torch.logsumexp(x, dim=-1),
        "entropy": -(log_p.exp() * log_p).sum(dim=-1),
        "correct": x.argmax(dim=-1) == labels,
        "mean_logit": x.mean(dim=-1),
        "max_logit": x.amax(dim=-1),
        "lse2": torch.logsumexp(2 * x, dim=-1),
    }
    return {name: torch.where(kept, each, torch.zeros_like(each)) for name, each in results.items()}


# Values here are below 20 and float32 sums round about 2**-22 of the largest; float64 leaves
# 2**-50.
def tolerance(dtype: Any) -> float:
    return 1e-13 if dtype is torch.float64 else 5e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocab", [33, 5000])  # a tail, and more than a block
def test_values(way: str, dtype: Any, temperature: float, vocab: int) -> None:
    logits, labels = make(dtype, vocab=vocab)
    results = prefopt_torch.token_logps(
        logits, labels, temperature=temperature, stats=STATS
    )._asdict()
    for name, expected in oracle(logits, labels, temperature).items():
        got = results[name]
        if name == "correct":
            assert torch.equal(got, expected)
            continue
        assert got.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_as_numpy(dtype: Any) -> None:
    """Both ways into the kernels give what the NumPy functions give, forward and backward."""
    logits, labels = make(dtype)
    array = _bridge.as_array(logits)
    name = _bridge.core_dtype(logits)
    expected = prefopt.token_logps(array, labels.numpy(), dtype=name, stats=STATS)
    ones = np.ones(labels.shape, expected.logps.dtype)
    # Backward keeps lse in double, which NumPy's results have for float64 logits only.
    lse = prefopt._core.token_logps(array, labels.numpy(), name, -100, 1.0, (), True)[1]
    grad = prefopt.token_logps_grad(
        array, labels.numpy(), lse, grad_logps=ones, grad_entropy=ones,
        entropy=expected.entropy, dtype=name,
    )  # fmt: skip
    for make_context in (contextlib.nullcontext, _bridge.force_operators):
        with make_context():
            leaf = logits.clone().requires_grad_()
            results = prefopt_torch.token_logps(leaf, labels, stats=STATS)
            for field in ("logps", "lse", *STATS):
                value = getattr(expected, field)
                np.testing.assert_array_equal(
                    getattr(results, field).detach().numpy(), value, err_msg=field
                )
            (results.logps.sum() + results.entropy.sum()).backward()
            np.testing.assert_array_equal(
                _bridge.as_array(leaf.grad), np.asarray(grad).view(array.dtype)
            )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "wanted", [("logps",), ("entropy",), ("lse",), ("logps", "entropy", "lse")], ids=str
)
def test_gradients(way: str, dtype: Any, wanted: tuple[str, ...]) -> None:
    logits, labels = make(dtype)
    leaf, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    results = prefopt_torch.token_logps(leaf, labels, temperature=0.7, stats=("entropy",))._asdict()
    expected = oracle(exact, labels, 0.7)
    weights = {
        name: torch.randn(labels.shape, generator=torch.Generator().manual_seed(i))
        for i, name in enumerate(wanted)
    }
    sum((weights[name] * results[name]).sum() for name in wanted).backward()
    sum((weights[name] * expected[name]).sum() for name in wanted).backward()
    assert leaf.grad.dtype is dtype
    assert not leaf.grad[labels == -100].any()
    # One rounding to the dtype of logits on top of float32's own.
    rounding = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}.get(dtype, 0.0)
    weight_rounding = 2.0**-22 if dtype is torch.float64 else 0.0
    torch.testing.assert_close(
        leaf.grad.double(), exact.grad, rtol=rounding, atol=(tolerance(dtype) + weight_rounding) * 4
    )


def test_gradcheck(way: str) -> None:
    logits, labels = make(torch.float64, (2, 3), 7)
    logits.requires_grad_()

    def function(x: Any) -> Any:
        return prefopt_torch.token_logps(x, labels, temperature=0.7, stats=("entropy",))[:3]

    assert torch.autograd.gradcheck(function, (logits,))


def test_statistics_carry_no_gradient(way: str) -> None:
    logits, labels = make(torch.float32)
    results = prefopt_torch.token_logps(logits.requires_grad_(), labels, stats=STATS)
    given = {name: each for name, each in results._asdict().items() if each is not None}
    assert set(given) == {"logps", "lse", *STATS}
    carrying = {name for name, each in given.items() if each.requires_grad}
    assert carrying == {"logps", "lse", "entropy"}
    assert prefopt_torch.token_logps(logits, labels).entropy is None


def test_no_gradient_asked_for(way: str) -> None:
    logits, labels = make(torch.float32)
    assert not prefopt_torch.token_logps(logits, labels).logps.requires_grad
    with torch.no_grad():
        assert not prefopt_torch.token_logps(logits.requires_grad_(), labels).logps.requires_grad
    with torch.inference_mode():
        result = prefopt_torch.token_logps(logits, labels).logps
    torch.testing.assert_close(
        result, prefopt_torch.token_logps(logits, labels).logps.detach(), rtol=0, atol=0
    )


def test_special_rows(way: str) -> None:
    """-inf logits, an all -inf row, +inf, NaN, a tie, one class: csrc/prefopt.h states what each
    gives.
    """
    inf, nan = math.inf, math.nan
    rows = [
        [0.0, -inf, 1.0],
        [-inf] * 3,
        [0.0, inf, 1.0],
        [0.0, nan, 1.0],
        [2.0, 2.0, 1.0],
        [1e4, -1e4, 0.0],
    ]
    logits = torch.tensor(rows, requires_grad=True)
    labels = torch.tensor([2, 0, 0, 0, 1, 0])
    results = prefopt_torch.token_logps(logits, labels, stats=STATS)
    softplus = math.log1p(math.e)
    probability = 1 / (1 + math.e)
    torch.testing.assert_close(
        results.lse.detach(),
        torch.tensor([softplus, -inf, inf, nan, results.lse[4].item(), 1e4]),
        equal_nan=True,
    )
    two = -results.lse[4].item() + 2
    torch.testing.assert_close(
        results.logps.detach(),
        torch.tensor([1 - softplus, nan, nan, nan, two, 0.0]),
        equal_nan=True,
    )
    assert results.entropy.isnan().tolist() == [False, True, True, True, False, False]
    assert results.correct.tolist() == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]  # the first of a tie wins
    assert results.mean_logit[:2].tolist() == [-inf, -inf]
    (results.logps.sum() + results.entropy.sum()).backward()
    assert logits.grad.isnan().all(dim=-1).tolist() == [False, True, True, True, False, False]
    assert logits.grad[0, 1] == 0.0
    only_logps = torch.tensor(rows[:1], requires_grad=True)
    prefopt_torch.token_logps(only_logps, labels[:1]).logps.sum().backward()
    torch.testing.assert_close(only_logps.grad, torch.tensor([[-probability, 0.0, probability]]))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_leading_shapes(way: str, shape: tuple[int, ...]) -> None:
    logits = torch.randn(*shape, 9, requires_grad=True)
    labels = torch.randint(0, 9, shape)
    result = prefopt_torch.token_logps(logits, labels, stats=("entropy",))
    assert result.logps.shape == result.entropy.shape == shape
    torch.testing.assert_close(
        result.logps, oracle(logits, labels)["logps"].float(), rtol=0, atol=5e-6
    )
    result.logps.sum().backward()
    assert logits.grad.shape == logits.shape


@pytest.mark.parametrize(
    "labels_dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64], ids=str
)
def test_label_dtypes(way: str, labels_dtype: Any) -> None:
    logits, labels = make(torch.float32)
    labels = labels.clamp(min=0)
    got = prefopt_torch.token_logps(logits, labels.to(labels_dtype)).logps
    assert torch.equal(got, prefopt_torch.token_logps(logits, labels).logps)
