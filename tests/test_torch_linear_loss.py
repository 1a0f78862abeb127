"""LinearPreferenceLoss: every row of the list against prefopt.torch's losses on whole logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_linear_cases import WAYS, leaves_of, within, worst  # noqa: E402
from torch_linear_loss_cases import (  # noqa: E402
    EXACT,
    HEADS,
    LAYOUTS,
    NO_HEAD,
    OPTIONS,
    PAIRS,
    PARAMETERS,
    ROWS_WITH_HEAD,
    TOKENS,
    arguments,
    batch,
    call,
    differences,
    is_paired,
    laid_out,
    needs_gold,
    of_caller,
    packed,
    true_loss,
)

from prefopt.torch import LinearPreferenceLoss  # noqa: E402

# ---- every row -----------------------------------------------------------------------------------


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with WAYS[request.param]():
        yield request.param


CASES = [
    (name, layout)
    for name in ROWS_WITH_HEAD
    for layout in LAYOUTS
    if layout != "shared" or is_paired(name)  # the answers of a pair share their prompt
]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_every_row_is_that_of_whole_logits(name: str, layout: str) -> None:
    for trained in (PARAMETERS, ("hidden",)):
        for error in differences(name, layout, trained):
            within(error, EXACT)


@pytest.mark.parametrize("name", NO_HEAD)
def test_rows_without_a_vocabulary_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"loss: {name} takes no log-probabilities"):
        LinearPreferenceLoss(name)


@pytest.mark.parametrize("name", ["dpo.ipo", "kto.kto", "tdpo.tdpo1", "grpo.grpo", "orpo.orpo"])
def test_ways_into_the_operators(way: str, name: str) -> None:
    for trained in (PARAMETERS, ("hidden",)):
        for error in differences(name, "padded", trained):
            within(error, EXACT)


# ---- denominators --------------------------------------------------------------------------------

# A sort, a mean or a statistic over the batch makes the loss of a part another one.
COUPLED = {"dpo.aot", "dpo.aot_unpaired", "beta_dpo.sigmoid", "dpo.kto_pair"}


def parts_of(both: dict[str, Any], extra: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The batch in two calls of one and two pairs (or two and four answers)."""
    size = PAIRS if is_paired(name) else 2 * PAIRS
    for items in (slice(0, size // 3), slice(size // 3, None)):
        answers = torch.arange(2 * PAIRS)
        answers = torch.cat([a[items] for a in answers.split(size)])
        part = {}
        for key, each in {**arguments(both, name), **extra}.items():
            if not isinstance(each, torch.Tensor) or key in HEADS:
                part[key] = each
            elif each.shape[0] == 2 * PAIRS and key not in ("udm_weights",):
                part[key] = each[answers]
            else:
                part[key] = each[items]
        yield part


@pytest.mark.parametrize("name", sorted(set(ROWS_WITH_HEAD) - COUPLED))
def test_micro_batches_add_up(name: str) -> None:
    both = leaves_of(batch(), PARAMETERS)
    extra = of_caller(name)
    module = LinearPreferenceLoss(name, **OPTIONS)
    whole, _ = module(**arguments(both, name), **extra)
    wanted = torch.autograd.grad(whole, [both[key] for key in PARAMETERS])
    tokens = (both["labels"] != -100).sum()
    nll_tokens = tokens if name == "sft.nll" else (both["labels"][:PAIRS] != -100).sum()
    if needs_gold(name):
        nll_tokens = (both["gold_labels"] != -100).sum()
    numbers = {
        "num_items": PAIRS if is_paired(name) else 2 * PAIRS,
        "nll_tokens": nll_tokens,
        "num_tokens": tokens,
    }
    parts = [module(**part, **numbers)[0] for part in parts_of(both, extra, name)]
    assert len(parts) == 2
    found = torch.autograd.grad(sum(parts), [both[key] for key in PARAMETERS])
    for got, want in zip([sum(parts), *found], [whole, *wanted], strict=True):
        within(worst(got, want) / (1 + float(want.detach().abs().max())), EXACT)


def test_mean_over_the_local_batch_alone() -> None:
    """What a project takes over the local batch needs no other number, and has no use for one."""
    both, name, extra = batch(), "grpo.bnpo", of_caller("grpo.bnpo")
    whole = call(both, name, convention="trl-1.16")[0]
    half = call(both, name, convention="trl-1.16", extra={**extra, "num_items": 4 * PAIRS})[0]
    within(worst(half, whole / 2), EXACT)
    with pytest.raises(ValueError, match=r"num_tokens: trl-1\.16 does not use it"):
        call(both, name, convention="trl-1.16", extra={**extra, "num_items": 9, "num_tokens": 9})


def test_denominators_that_are_missing() -> None:
    both = batch()
    for name, missing in (("cpo.sigmoid", "nll_tokens"), ("grpo.dapo", "num_tokens")):
        with pytest.raises(ValueError, match=f"{missing}: {name} needs it beside num_items"):
            call(both, name, extra={**of_caller(name), "num_items": 8})
    for number in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="num_items: expected a finite number > 0"):
            call(both, "dpo.sigmoid", extra={"num_items": number})


# ---- nothing there -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("name", ROWS_WITH_HEAD)
def test_no_answers(name: str, layout: str) -> None:
    """A loss of 0 with gradients of 0: a process without answers still takes part in backward."""
    both = {k: e if k in HEADS else e[:0] for k, e in batch().items()}
    if layout == "packed":
        both = {k: e.flatten(0, 1) if e.shape[0] == 0 else e for k, e in both.items()}
        both["cu_seqlens"] = both["gold_cu_seqlens"] = torch.zeros(1, dtype=torch.int32)
    both = leaves_of(both, PARAMETERS)
    extra = {k: e[:0] if isinstance(e, torch.Tensor) else e for k, e in of_caller(name).items()}
    if layout == "packed":
        extra = packed(extra, name, torch.ones(0, TOKENS, dtype=torch.bool))
    loss, logged = call(both, name, extra=extra)
    assert loss.item() == 0
    grads = torch.autograd.grad(loss, [both[key] for key in PARAMETERS])
    assert not any(each.any() for each in grads)
    assert not any(each.item() for key, each in logged.items() if key != "kl")


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize(
    "name", ["dpo.sigmoid", "cpo.simpo", "orpo.orpo", "dpo.sft", "kto.kto", "grpo.dapo"]
)
def test_no_tokens(name: str, layout: str) -> None:
    """Answers without tokens that count have log-probability 0; no gradient comes of them."""
    both = batch()
    both["labels"].fill_(-100)
    both = leaves_of(laid_out(both, layout), PARAMETERS)
    loss, logged = call(both, name)
    assert loss.isfinite()
    loss.backward()
    assert not any(both[key].grad.any() for key in PARAMETERS)
    assert all(each.isfinite() for each in logged.values())


# ---- dtypes, compilers ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["dpo.sigmoid", "tdpo.tdpo2"])
def test_dtypes(dtype: Any, name: str) -> None:
    """Computed in float32 from exact inputs; gradients in the parameters' dtypes."""
    both = batch(dtype=dtype)
    ours = leaves_of(both, PARAMETERS)
    exact = leaves_of(both, PARAMETERS, torch.float64)
    for key, each in exact.items():
        exact[key] = each if each.is_floating_point() else both[key]
    got, expected = call(ours, name)[0], true_loss(exact, name)[0]
    assert got.dtype is torch.float32
    within(worst(got, expected), 1.2e-7)
    found = torch.autograd.grad(got, [ours[key] for key in PARAMETERS])
    wanted = torch.autograd.grad(expected, [exact[key] for key in PARAMETERS])
    rounding = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}.get(dtype, 0.0)
    for key, ours_, theirs in zip(PARAMETERS, found, wanted, strict=True):
        assert ours_.dtype is both[key].dtype
        within(worst(ours_, theirs, rounding), 2.6e-8)


@pytest.mark.parametrize("name", ["dpo.sigmoid", "grpo.grpo", "tdpo.tdpo2"])
def test_compiles_without_a_graph_break(name: str) -> None:
    both = leaves_of(batch(dtype=torch.float32), PARAMETERS)
    module, extra = LinearPreferenceLoss(name, **OPTIONS), of_caller(name)
    given = arguments(both, name)

    def step(hidden: Any) -> Any:
        return module(**{**given, "hidden": hidden * 1}, **extra)

    torch._dynamo.reset()
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(both["hidden"])
    expected = step(both["hidden"])
    assert torch.equal(got[0], expected[0])
    assert {key: float(each) for key, each in got[1].items()} == {
        key: float(each) for key, each in expected[1].items()
    }
    leaves = [both[key] for key in PARAMETERS]
    for ours, theirs in zip(
        torch.autograd.grad(got[0], leaves), torch.autograd.grad(expected[0], leaves), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_autocast_rounds_inputs_alone() -> None:
    """Losses and log-probabilities are float32 of rounded inputs: those of the rounded batch."""
    both = batch(dtype=torch.float32)
    rounded = {k: e.bfloat16().float() if e.is_floating_point() else e for k, e in both.items()}
    for name in ("dpo.sigmoid", "tdpo.tdpo2"):
        inside, outside = leaves_of(both, PARAMETERS), leaves_of(rounded, PARAMETERS)
        with torch.autocast("cpu", torch.bfloat16):
            got, logged = call(inside, name)
        want, expected = call(outside, name)
        assert got.dtype is torch.float32
        assert torch.equal(got, want)
        assert logged == expected
        got.backward(), want.backward()
        for key in PARAMETERS:
            assert torch.equal(inside[key].grad, outside[key].grad)


def test_checkpointing() -> None:
    both = leaves_of(batch(dtype=torch.float32), PARAMETERS)
    module = LinearPreferenceLoss("dpo.sigmoid", **OPTIONS)
    given = {k: e for k, e in arguments(both, "dpo.sigmoid").items() if k != "hidden"}
    leaves = [both[key] for key in PARAMETERS]

    def step(hidden: Any) -> Any:
        return module(torch.tanh(hidden), **given)[0]

    got = torch.utils.checkpoint.checkpoint(step, both["hidden"], use_reentrant=False)
    found = torch.autograd.grad(got, leaves)
    for ours, theirs in zip(found, torch.autograd.grad(step(both["hidden"]), leaves), strict=True):
        assert torch.equal(ours, theirs)
