"""prefopt.torch.linear_pair_token_stats against both models' logits materialised in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_linear_cases import (  # noqa: E402
    DTYPES,
    PARAMETERS,
    WAYS,
    leaves_of,
    logits,
    make,
    within,
    worst,
)
from torch_linear_cases import truth as truth_of_one  # noqa: E402
from torch_pair_cases import pair_truth  # noqa: E402

from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt._pair import PAIR_STATS  # noqa: E402
from prefopt.torch import _linear_pair  # noqa: E402
from prefopt.torch._head import Head  # noqa: E402

EVERYTHING = {"logit_scale": 0.7, "softcap": 5.0, "temperature": 0.8}
ROUNDING = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
REF = {"hidden": "ref_hidden", "weight": "ref_weight", "bias": "ref_bias"}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with WAYS[request.param]():
        yield request.param


def problem(
    dtype: Any = torch.float32, shape: tuple[int, ...] = (2, 10), size: int = 16, vocab: int = 70
) -> dict[str, Any]:
    """A policy with everything a head can have, and a reference of another hidden size."""
    ref = make(shape, 9, vocab, dtype=dtype, bias=True, seed=1)
    policy = make(shape, size, vocab, dtype=dtype, bias=True, rank=2)
    return {**policy, **{REF[name]: each for name, each in ref.items() if name != "labels"}}


def ref_of(both: dict[str, Any]) -> dict[str, Any]:
    return {name: both[ref] for name, ref in REF.items()}


def truth(both: dict[str, Any], perturbation: float = 0.01, **options: Any) -> dict[str, Any]:
    x, y = logits(both, options), logits(ref_of(both), options)
    return pair_truth(x, y, both["labels"], perturbation)


def total(results: Any) -> Any:
    values = results if isinstance(results, dict) else results._asdict()
    names = ("policy_logps", "ref_policy_kl", "policy_ref_kl")
    return sum((k + 0.5) * values[name].sum() for k, name in enumerate(names))


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients(way: str, dtype: Any, options: Any) -> None:
    both = problem(dtype)
    ours, exact = leaves_of(both, PARAMETERS), leaves_of(both, PARAMETERS, torch.float64)
    got = prefopt_torch.linear_pair_token_stats(
        **ours, **options, perturbation=0.1, stats=PAIR_STATS, memory_limit=4000
    )
    want = truth(exact, 0.1, **options)
    wide = dtype is torch.float64
    for name, expected in want.items():
        result = getattr(got, name)
        assert result.dtype is (torch.float64 if wide else torch.float32)
        within(worst(result, expected), 1e-14 if wide else 1e-5)
        assert result.requires_grad == (name in ("policy_logps", "ref_policy_kl", "policy_ref_kl"))
    found = torch.autograd.grad(total(got), [ours[name] for name in PARAMETERS])
    wanted = torch.autograd.grad(total(want), [exact[name] for name in PARAMETERS])
    for name, ours_, theirs in zip(PARAMETERS, found, wanted, strict=True):
        assert ours_.dtype is ours[name].dtype
        within(worst(ours_, theirs, ROUNDING.get(dtype, 0.0)), 9e-14 if wide else 5e-5)


@pytest.mark.parametrize("names", [PARAMETERS, ("hidden",), ("lora_b",)])
def test_gradcheck(way: str, names: tuple[str, ...]) -> None:
    leaves = leaves_of(problem(torch.float64, (2, 2), 5, 7), names)

    def function(*tensors: Any) -> Any:
        given = {**leaves, **dict(zip(names, tensors, strict=True))}
        got = prefopt_torch.linear_pair_token_stats(**given, **EVERYTHING, stats=PAIR_STATS)
        return got.policy_logps, got.ref_policy_kl, got.policy_ref_kl

    assert torch.autograd.gradcheck(function, [leaves[name] for name in names])


def test_chunks_change_nothing_but_rounding(way: str) -> None:
    """One chunk or one token a chunk; no more than the limit's logits are held at a time."""
    both = problem(torch.float64)
    results = [
        prefopt_torch.linear_pair_token_stats(**both, stats=PAIR_STATS, memory_limit=limit)
        for limit in (None, 1)
    ]
    for whole, single in zip(*results, strict=True):
        within(worst(single, whole), 1e-14)


def test_statistics_of_the_policy_alone_in_any_order(way: str) -> None:
    """What LinearPreferenceLoss logs comes from the same chunks."""
    both = problem(torch.float64)
    policy = {name: each for name, each in both.items() if not name.startswith("ref_")}
    names = ["lse2", *reversed(PAIR_STATS), "correct", "entropy"]
    head = Head(*(policy[name] for name in Head._fields))
    ref = Head(both["ref_hidden"], both["ref_weight"], both["labels"], both["ref_bias"], None, None)
    got = _linear_pair.pair_values(
        head, ref, 0.1, names, logit_scale=0.7, softcap=5.0, temperature=0.8, ignore_index=-100,
        memory_limit=4000,
    )  # fmt: skip
    want = {**truth(both, 0.1, **EVERYTHING), **truth_of_one(policy, **EVERYTHING)}
    for name in names:
        within(worst(got[name], want[name]), 1e-14)


def test_what_is_ignored_does_no_harm(way: str) -> None:
    both = problem()
    for name in ("hidden", "ref_hidden"):
        both[name][0, 1] = math.nan
    leaves = leaves_of(both, PARAMETERS)
    got = prefopt_torch.linear_pair_token_stats(**leaves, stats=PAIR_STATS)
    assert all(not each[0, 1].any() for each in got)
    total(got).backward()
    assert all(leaves[name].grad.isfinite().all() for name in PARAMETERS)
    leaves["labels"].fill_(-100)
    got = prefopt_torch.linear_pair_token_stats(**leaves, stats=PAIR_STATS)
    grads = torch.autograd.grad(total(got), [leaves[name] for name in PARAMETERS])
    assert not any(each.any() for each in (*got, *grads))


def test_autocast_rounds_inputs_alone(way: str) -> None:
    both = problem()
    rounded = {n: e if n == "labels" else e.bfloat16().float() for n, e in both.items()}
    inside, outside = leaves_of(both, PARAMETERS), leaves_of(rounded, PARAMETERS)
    with torch.autocast("cpu", torch.bfloat16):
        got = prefopt_torch.linear_pair_token_stats(**inside, stats=PAIR_STATS)
    total(got).backward()
    want = prefopt_torch.linear_pair_token_stats(**outside, stats=PAIR_STATS)
    total(want).backward()
    assert torch.equal(got.policy_logps, want.policy_logps)
    for name in PARAMETERS:
        assert inside[name].grad.dtype is torch.float32
        assert torch.equal(inside[name].grad, outside[name].grad)


def test_in_place_and_second_derivatives(way: str) -> None:
    leaves = leaves_of(problem(torch.float64), PARAMETERS)
    got = prefopt_torch.linear_pair_token_stats(**leaves, stats=PAIR_STATS)
    expected = torch.autograd.grad(total(got), leaves["hidden"], retain_graph=True)[0]
    got.policy_lse.zero_(), got.ref_lse.zero_(), got.policy_ref_kl.mul_(1.0)
    (grad,) = torch.autograd.grad(total(got), leaves["hidden"], create_graph=True)
    assert torch.equal(grad, expected)
    with pytest.raises(NotImplementedError, match="linear_pair_token_stats has no second deriv"):
        grad.sum().backward()


def test_opcheck_and_compile() -> None:
    leaves = leaves_of(problem(), PARAMETERS)
    order = ("hidden", "weight", "labels", "bias", "lora_a", "lora_b", *REF.values())
    tensors = [leaves[name] for name in order]
    numbers = (-100, 0.7, 5.0, 0.8, 4000, 0.0, "", 0, "", 0)
    arguments = (*tensors, *numbers, 0.1, "ref_policy_kl policy_ref_kl correct")
    torch.library.opcheck(_linear_pair.operator, arguments)
    constants = [each.detach() for each in tensors]
    values = _linear_pair.operator(*constants, *numbers, 0.1, "policy_ref_kl")
    ones = torch.ones_like(values[0])
    torch.library.opcheck(
        _linear_pair.gradient_operator,
        (*constants, *numbers, *values[2:], ones, ones, None, "hidden weight lora_a"),
    )

    def function(hidden: Any) -> Any:
        given = {**leaves, "hidden": hidden * 2}
        return total(prefopt_torch.linear_pair_token_stats(**given, stats=PAIR_STATS))

    torch._dynamo.reset()
    got = torch.compile(function, fullgraph=True, backend="aot_eager")(leaves["hidden"])
    expected = function(leaves["hidden"])
    assert torch.equal(got, expected)
    grads = [torch.autograd.grad(each, leaves["hidden"])[0] for each in (got, expected)]
    assert torch.equal(*grads)


BAD = {
    "ref tokens": ("ref_hidden", lambda x: x[:1], ValueError, "labels: expected the leading sh"),
    "ref size": ("ref_weight", lambda x: x[:, 1:], ValueError, "ref_weight: expected"),
    "ref vocabulary": ("ref_weight", lambda x: x[1:], ValueError, "ref_bias: expected"),
    "ref dtype": ("ref_hidden", lambda x: x.int(), TypeError, "ref_hidden: expected a floating"),
    "ref array": ("ref_weight", lambda x: x.numpy(), TypeError, "ref_weight: expected a torch"),
    "ref bias": ("ref_bias", lambda x: x[1:], ValueError, "ref_bias: expected"),
    "hidden": ("hidden", lambda x: x[..., 1:], ValueError, "weight: expected"),
    "labels": ("labels", lambda x: x.float(), TypeError, "labels: expected an integer dtype"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(way: str, case: str) -> None:
    name, change, error, match = BAD[case]
    both = problem()
    both[name] = change(both[name])
    with pytest.raises(error, match=match):
        prefopt_torch.linear_pair_token_stats(**both)


def test_bad_options(way: str) -> None:
    both = problem()
    del both["ref_bias"]
    with pytest.raises(ValueError, match="ref_weight: expected weight's vocabulary of 70, got 69"):
        prefopt_torch.linear_pair_token_stats(**{**both, "ref_weight": both["ref_weight"][1:]})
    wide = {**both, **{n: both[n].double() for n in ("ref_hidden", "ref_weight")}}
    with pytest.raises(TypeError, match="ref_hidden: expected float64 with float64 hidden only"):
        prefopt_torch.linear_pair_token_stats(**wide)
    for options, match in (
        ({"perturbation": 1.0}, "perturbation: expected"),
        ({"stats": ("entropy",)}, "stats: unknown 'entropy'"),
        ({"softcap": -1.0}, "softcap: expected"),
    ):
        with pytest.raises(ValueError, match=match):
            prefopt_torch.linear_pair_token_stats(**both, **options)
