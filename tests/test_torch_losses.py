"""The losses and sequence_logps of prefopt.torch: NumPy's numbers, torch's gradients."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import prefopt  # noqa: E402
from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt.torch import _bridge, _loss_operator  # noqa: E402

WAYS = {"direct": contextlib.nullcontext, "operators": _bridge.force_operators}
B = 7


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with WAYS[request.param]():
        yield request.param


def vector(seed: int, dtype: Any = torch.float64, scale: float = 5.0, batch: int = B) -> Any:
    return scale * torch.randn(
        batch, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


LENGTHS = torch.tensor([3, 5, 1, 2, 9, 4, 6])
DESIRABLE = torch.tensor([True, False, False, True, True, False, True])


def pair_inputs(dtype: Any, batch: int = B) -> dict[str, Any]:
    names = (
        "policy_chosen_logps",
        "policy_rejected_logps",
        "ref_chosen_logps",
        "ref_rejected_logps",
    )
    return {name: vector(i, dtype, batch=batch) for i, name in enumerate(names)}


def cpo_inputs(dtype: Any) -> dict[str, Any]:
    pair = pair_inputs(dtype)
    return {name: pair[name] for name in ("policy_chosen_logps", "policy_rejected_logps")}


def kto_inputs(dtype: Any) -> dict[str, Any]:
    return {"policy_logps": vector(5, dtype), "ref_logps": vector(6, dtype), "desirable": DESIRABLE}


def nll(dtype: Any) -> Any:
    return vector(7, dtype).abs()


def log_sigmoid(x: Any) -> Any:
    return torch.nn.functional.logsigmoid(x)


def smoothed(x: Any, e: float) -> Any:
    return -(1 - e) * log_sigmoid(x) - e * log_sigmoid(-x)


# name -> (function, inputs, options, formula in torch). The formulas are typed from
# shared/losses.md, for autograd.
CASES: dict[
    str, tuple[str, Callable[[Any], dict[str, Any]], dict[str, Any], Callable[..., Any]]
] = {
    "dpo": (
        "dpo_loss",
        pair_inputs,
        {"beta": 0.2},
        lambda w, lo, rw, rl: -log_sigmoid(0.2 * (w - rw - lo + rl)),
    ),
    "cdpo": (
        "dpo_loss",
        pair_inputs,
        {"beta": 0.2, "label_smoothing": 0.1},
        lambda w, lo, rw, rl: smoothed(0.2 * (w - rw - lo + rl), 0.1),
    ),
    "ipo": (
        "ipo_loss",
        pair_inputs,
        {"beta": 0.5},
        lambda w, lo, rw, rl: (w - rw - lo + rl - 1.0).pow(2),
    ),
    "ipo averaged": (
        "ipo_loss",
        lambda dtype: {
            **pair_inputs(dtype),
            "chosen_lengths": LENGTHS,
            "rejected_lengths": LENGTHS.flip(0),
        },
        {"beta": 0.5},
        lambda w, lo, rw, rl, n, m: ((w - rw) / n - (lo - rl) / m - 1.0).pow(2),
    ),
    "kto": (
        "kto_loss",
        kto_inputs,
        {"kl": 0.4, "beta": 0.2, "desirable_weight": 1.5, "undesirable_weight": 0.7},
        lambda p, r, d: torch.where(
            d,
            1.5 * (1 - torch.sigmoid(0.2 * (p - r - 0.4))),
            0.7 * (1 - torch.sigmoid(0.2 * (0.4 - p + r))),
        ),
    ),
    "kto with a tensor kl": (
        "kto_loss",
        lambda dtype: {**kto_inputs(dtype), "kl": torch.tensor(0.4, dtype=dtype)},
        {"beta": 0.2},
        lambda p, r, d, kl: 1 - torch.sigmoid(0.2 * (p - r - kl) * torch.where(d, 1.0, -1.0)),
    ),
    "cpo": (
        "cpo_loss",
        cpo_inputs,
        {"beta": 0.2, "label_smoothing": 0.1},
        lambda w, lo: smoothed(0.2 * (w - lo), 0.1),
    ),
    "cpo with nll": (
        "cpo_loss",
        lambda dtype: {**cpo_inputs(dtype), "chosen_lengths": LENGTHS, "chosen_nll": nll(dtype)},
        {"beta": 0.2, "cpo_alpha": 0.6},
        lambda w, lo, lengths, nll: smoothed(0.2 * (w - lo), 0.0) + 0.6 * nll.sum() / lengths.sum(),
    ),
    "sft": (
        "sft_loss",
        lambda dtype: {"policy_logps": vector(8, dtype), "lengths": LENGTHS},
        {},
        lambda p, n: -p * B / n.sum(),
    ),
}


def leaves(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: each.clone().requires_grad_() if name in _loss_operator.DIFFERENTIABLE else each
        for name, each in inputs.items()
    }


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_against_autograd(way: str, case: str, dtype: Any) -> None:
    name, inputs, options, formula = CASES[case]
    ours = leaves(inputs(dtype))
    exact = leaves(
        {
            key: each.double() if each.is_floating_point() else each
            for key, each in inputs(dtype).items()
        }
    )
    got = getattr(prefopt_torch, name)(**ours, **options)
    expected = formula(*exact.values())
    weight = vector(9, torch.float64)
    assert got.losses.dtype is dtype
    tolerance = (
        {"rtol": 1e-12, "atol": 1e-12} if dtype is torch.float64 else {"rtol": 3e-7, "atol": 1e-7}
    )
    torch.testing.assert_close(got.losses.double(), expected, **tolerance)
    assert not any(reward.requires_grad for reward in got[1:])
    (got.losses * weight.to(dtype)).sum().backward()
    (expected * weight).sum().backward()
    for key, each in ours.items():
        if key in _loss_operator.DIFFERENTIABLE:
            torch.testing.assert_close(each.grad.double(), exact[key].grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_gradcheck(way: str, case: str) -> None:
    name, inputs, options, _ = CASES[case]
    given = leaves(inputs(torch.float64))
    names = [key for key in given if key in _loss_operator.DIFFERENTIABLE]

    def function(*values: Any) -> Any:
        changed = {**given, **dict(zip(names, values, strict=True))}
        return getattr(prefopt_torch, name)(**changed, **options).losses

    assert torch.autograd.gradcheck(function, tuple(given[key] for key in names))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_same_bits_as_numpy(way: str, case: str, dtype: Any) -> None:
    name, inputs, options, _ = CASES[case]
    given = inputs(dtype)
    arrays = {key: each.numpy() for key, each in given.items()}
    expected = getattr(prefopt, name)(**arrays, **options, return_grads=True)
    ours = leaves(given)
    got = getattr(prefopt_torch, name)(**ours, **options)
    assert got._fields == expected._fields
    for mine, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine.detach().numpy(), other)
    got.losses.sum().backward()
    # `.grads` names what is differentiable: the two lists agree.
    assert set(expected.grads) == set(given) & _loss_operator.DIFFERENTIABLE
    for key, grad in expected.grads.items():
        np.testing.assert_array_equal(ours[key].grad.numpy(), grad)


@pytest.mark.parametrize(
    "name", ["dpo_loss", "ipo_loss", "kto_loss", "kto_kl", "cpo_loss", "sft_loss"]
)
def test_signatures_agree_with_numpy(name: str) -> None:
    """Same names, kinds and defaults; NumPy's has the two keywords of its gradients besides."""
    ours = inspect.signature(getattr(prefopt_torch, name)).parameters
    theirs = inspect.signature(getattr(prefopt, name)).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in theirs.values()):
        theirs = inspect.signature(prefopt.dpo_loss).parameters
        assert {key: each.default for key, each in ours.items()}.items() <= {
            key: each.default for key, each in theirs.items()
        }.items()
        return
    expected = [(each.name, each.kind, each.default) for each in theirs.values()]
    extra = {"grad_losses", "return_grads"}
    assert [(each.name, each.kind, each.default) for each in ours.values()] == [
        each for each in expected if each[0] not in extra
    ]


def test_reference_gets_no_gradient(way: str) -> None:
    inputs = {key: each.requires_grad_() for key, each in pair_inputs(torch.float32).items()}
    prefopt_torch.dpo_loss(**inputs).losses.sum().backward()
    assert [each.grad is not None for each in inputs.values()] == [True, True, False, False]


def test_dtypes_promote(way: str) -> None:
    inputs = pair_inputs(torch.float32)
    mixed = {**inputs, "ref_chosen_logps": inputs["ref_chosen_logps"].double()}
    assert prefopt_torch.dpo_loss(**mixed).losses.dtype is torch.float64
    for half in (torch.bfloat16, torch.float16):
        halves = {key: each.to(half).requires_grad_() for key, each in inputs.items()}
        got = prefopt_torch.dpo_loss(**halves)
        assert got.losses.dtype is got.chosen_rewards.dtype is torch.float32
        expected = prefopt_torch.dpo_loss(
            **{key: each.detach().float() for key, each in halves.items()}
        )
        assert torch.equal(got.losses, expected.losses)
        got.losses.sum().backward()
        assert halves["policy_chosen_logps"].grad.dtype is half


def test_policy_equal_to_reference_is_ln_2(way: str) -> None:
    inputs = pair_inputs(torch.float32)
    got = prefopt_torch.dpo_loss(
        *[inputs["policy_chosen_logps"], inputs["policy_rejected_logps"]] * 2
    )
    assert torch.equal(got.losses, torch.full((B,), math.log(2.0)))


def test_losses_by_name(way: str) -> None:
    pair, unpaired = pair_inputs(torch.float32), kto_inputs(torch.float32)
    sft = {"policy_logps": vector(8, torch.float32), "lengths": LENGTHS}
    for name, inputs, expected in (
        ("dpo.sigmoid", pair, prefopt_torch.dpo_loss(**pair, beta=0.3)),
        ("dpo.ipo", pair, prefopt_torch.ipo_loss(**pair, beta=0.3)),
        ("kto.kto", {**unpaired, "kl": 0.1}, prefopt_torch.kto_loss(**unpaired, kl=0.1, beta=0.3)),
        (
            "cpo.sigmoid",
            cpo_inputs(torch.float32),
            prefopt_torch.cpo_loss(**cpo_inputs(torch.float32), beta=0.3),
        ),
        ("sft.nll", sft, prefopt_torch.sft_loss(**sft)),
    ):
        options = {} if name == "sft.nll" else {"beta": 0.3}
        assert torch.equal(prefopt_torch.loss(name, **inputs, **options).losses, expected.losses)
    with pytest.raises(ValueError, match=r"name: no loss is called .dpo\.nonsense.; did you mean"):
        prefopt_torch.loss("dpo.nonsense", **pair)


def test_empty_batch_and_strides(way: str) -> None:
    empty = pair_inputs(torch.float32, 0)
    empty["policy_chosen_logps"].requires_grad_()
    got = prefopt_torch.dpo_loss(**empty)
    assert got.losses.shape == (0,)
    got.losses.sum().backward()
    strided = {
        key: torch.stack([each, each], 1)[:, 0] for key, each in pair_inputs(torch.float32).items()
    }
    assert torch.equal(
        prefopt_torch.dpo_loss(**strided).losses,
        prefopt_torch.dpo_loss(**pair_inputs(torch.float32)).losses,
    )


def test_refusals(way: str) -> None:
    inputs = pair_inputs(torch.float64)
    with pytest.raises(TypeError, match=r"ref_chosen_logps: expected a torch\.Tensor"):
        prefopt_torch.dpo_loss(**{**inputs, "ref_chosen_logps": inputs["ref_chosen_logps"].numpy()})
    with pytest.raises(ValueError, match="beta"):
        prefopt_torch.dpo_loss(**inputs, beta=0.0)
    with pytest.raises(ValueError, match="ref_rejected_logps"):
        prefopt_torch.dpo_loss(**{**inputs, "ref_rejected_logps": inputs["ref_rejected_logps"][1:]})
    leaf = inputs["policy_chosen_logps"].requires_grad_()
    (grad,) = torch.autograd.grad(
        prefopt_torch.dpo_loss(**inputs).losses.sum(), leaf, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="loss has no second derivative"):
        grad.sum().backward()
    with pytest.raises(NotImplementedError, match=r"torch\.vmap"):
        torch.vmap(lambda x: prefopt_torch.sft_loss(x, nll_tokens=3.0).losses)(torch.randn(2, 3))
    saved = vector(1) * 1.0
    loss = prefopt_torch.sft_loss(saved.requires_grad_(), nll_tokens=3.0).losses.sum()
    with torch.no_grad():
        saved.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_kto_kl(dtype: Any) -> None:
    policy, ref = vector(1, dtype), vector(2, dtype)
    got = prefopt_torch.kto_kl(policy.requires_grad_(), ref)
    expected = prefopt.kto_kl(policy.detach().double().numpy(), ref.double().numpy())
    assert got.shape == ()
    assert not got.requires_grad
    assert got.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    assert got.item() == pytest.approx(float(expected), rel=1e-6)
    assert max(got.item(), prefopt_torch.kto_kl(ref, policy).item()) > 0
    assert min(got.item(), prefopt_torch.kto_kl(ref, policy).item()) == 0
    assert prefopt_torch.kto_kl(policy[:0], ref[:0]).item() == 0
    assert prefopt_torch.kto_kl(state=torch.tensor([6.0, 4.0])).item() == 1.5
    assert prefopt_torch.kto_kl(state=torch.tensor([0.0, 0.0])).item() == 0
    assert prefopt_torch.kto_kl(policy * math.nan, ref).isnan()


def test_kto_kl_refusals() -> None:
    with pytest.raises(ValueError, match="expected both, or state"):
        prefopt_torch.kto_kl(vector(1))
    with pytest.raises(ValueError, match="ref_kl_logps"):
        prefopt_torch.kto_kl(vector(1), vector(1)[1:])
    with pytest.raises(ValueError, match="state"):
        prefopt_torch.kto_kl(state=torch.zeros(3))


def test_flush_denormal_of_torch_changes_nothing() -> None:
    """A control word that flushes denormals does not reach the inputs, the sums or the results."""
    logps = np.array([1e-40, 2e-40], np.float32)

    def results() -> tuple[Any, float]:
        return prefopt.sft_loss(logps, nll_tokens=2.0).losses, prefopt.kto_kl(logps, -logps)

    losses, kl = results()
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        flushed_losses, flushed_kl = results()
    finally:
        torch.set_flush_denormal(False)
    assert losses[0] < 0 < kl
    assert flushed_losses.tobytes() == losses.tobytes()
    assert flushed_kl == kl
