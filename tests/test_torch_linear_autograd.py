"""prefopt.torch.linear_token_logps around its numbers: what it saves, how it works, what it refuses."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_linear_cases import (  # noqa: E402
    PARAMETERS,
    STATS,
    WAYS,
    leaves_of,
    make,
    truth,
    within,
    worst,
)

from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt.torch import _linear_kernels, _linear_operator  # noqa: E402

KEEPS = 1 << 28  # bytes that keep any logits of these tests


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with WAYS[request.param]():
        yield request.param


def call(head: dict[str, Any], **options: Any) -> Any:
    return prefopt_torch.linear_token_logps(**head, **options)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """The calls into C: name and arguments."""
    seen: list[tuple[str, tuple[Any, ...]]] = []
    core = _linear_kernels._kernels

    class Spy:
        def __getattr__(self, name: str) -> Any:
            def spy(*arguments: Any) -> Any:
                seen.append((name, arguments))
                return getattr(core, name)(*arguments)

            return spy

    monkeypatch.setattr(_linear_kernels, "_kernels", Spy())
    return seen


FORWARD, BACKWARD = "linear_token_logps", "linear_token_logps_grad"
GRADIENTS, KEPT = 16, 18  # places among the forward's arguments


@pytest.mark.parametrize(
    ("names", "options", "steps", "gradients", "kept"),
    [
        ((), {}, [FORWARD], (False, False, False), False),
        (("hidden",), {}, [FORWARD], (True, False, False), False),
        (("hidden",), {"stats": ("entropy",)}, [FORWARD], (True, False, True), False),
        (
            ("hidden",),
            {"stats": ("entropy",), "entropy_requires_grad": False},
            [FORWARD],
            (True, False, False),
            False,
        ),
        (("hidden", "weight"), {}, [FORWARD, BACKWARD], (False, False, False), False),
        (("lora_a",), {"memory_limit": 2 << 20}, [FORWARD, BACKWARD], (False,) * 3, False),
        (("weight",), {"memory_limit": KEEPS}, [FORWARD, BACKWARD], (False,) * 3, True),
    ],
)
def test_what_needs_a_gradient_decides_the_work(
    calls: Any, names: Any, options: Any, steps: Any, gradients: Any, kept: bool
) -> None:
    leaves = leaves_of(make((2, 80), 8, 4000, rank=2), names)
    got = call(leaves, **options)
    if names:
        got.logps.sum().backward()
    assert [name for name, _ in calls] == steps
    assert calls[0][1][GRADIENTS] == gradients
    assert calls[0][1][KEPT] is kept
    with torch.no_grad():
        calls.clear()
        assert not call(leaves, **options).logps.requires_grad
        assert calls[0][1][GRADIENTS] == (False, False, False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_reads_in_place(calls: Any, dtype: Any) -> None:
    """The kernels get the tensors' own memory, shifted and strided views included."""
    head = make((4, 7), 8, 30, dtype=dtype, bias=True, rank=2)
    views = {**head, "hidden": head["hidden"][:, :-1], "labels": head["labels"][:, 1:]}
    for names in (PARAMETERS, ("hidden",)):
        for name in names:
            views[name].requires_grad_()
        calls.clear()
        call(views).logps.sum().backward()
        order = ("hidden", "weight", "labels", "bias", "lora_a", "lora_b")
        for _, arguments in calls:
            pointers = [each.ctypes.data for each in arguments[:6]]
            assert pointers == [views[name].data_ptr() for name in order]
        for name in PARAMETERS:
            views[name] = views[name].detach()


def saved_by(leaves: dict[str, Any], **options: Any) -> list[Any]:
    saved: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        call(leaves, **options)
    return saved


def test_saves_only_what_backward_needs(way: str) -> None:
    """Trained: the caller's own tensors and two vectors. Frozen: [N, H] float32 in place of hidden."""
    head = make((3, 5), 8, 30, dtype=torch.bfloat16, bias=True)
    trained = leaves_of(head, ("hidden", "weight"))
    pointers = {each.data_ptr() for each in trained.values()}
    vectors = [x for x in saved_by(trained, stats=STATS) if x.data_ptr() not in pointers]
    assert sorted(each.dtype.itemsize for each in vectors) == [4, 8]  # entropy, lse
    assert all(each.shape == (3, 5) for each in vectors)
    frozen = leaves_of(head, ("hidden",))
    saved = saved_by(frozen, stats=STATS)
    assert frozen["hidden"].data_ptr() not in {each.data_ptr() for each in saved}
    own = [each for each in saved if each.shape == (3, 5, 8)]
    assert [each.dtype for each in own] == [torch.float32, torch.float32]  # by logps, by entropy
    assert len(saved) == 5  # those, labels, weight and nothing of hidden: an empty tensor


@pytest.mark.parametrize("names", [("hidden", "weight"), ("hidden",)])
def test_results_may_change_in_place_before_backward(way: str, names: tuple[str, ...]) -> None:
    head = make(dtype=torch.float64)
    ours, exact = leaves_of(head, names), leaves_of(head, names)
    got, want = call(ours, stats=STATS, softcap=5.0), truth(exact, softcap=5.0)
    kept = (head["labels"] != -100).double()
    got.logps.mul_(kept).mul_(2.0)
    got.entropy.mul_(3.0)
    lse = got.lse.clone()
    got.lse.zero_()
    (got.logps.sum() + got.entropy.sum() + lse.sum()).backward()
    (2 * want["logps"].sum() + 3 * want["entropy"].sum() + want["lse"].sum()).backward()
    for name in names:
        within(worst(ours[name].grad, exact[name].grad), 8.9e-15)


@pytest.mark.parametrize("which", ["weight", "labels"])
@pytest.mark.parametrize("names", [("hidden", "weight"), ("hidden",)])
def test_inputs_may_not_change_before_backward(
    way: str, which: str, names: tuple[str, ...]
) -> None:
    leaves = leaves_of(make(), names)
    result = call(leaves).logps
    with torch.no_grad():
        leaves[which].add_(0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


@pytest.mark.parametrize("limit", [None, KEEPS])
def test_backward_may_hold_retained_graph(way: str, limit: int | None) -> None:
    """Kept logits are written over by the first backward: the second makes them again."""
    for names in (PARAMETERS, ("hidden",)):
        leaves = leaves_of(make(bias=True, rank=2), names)
        loss = call(leaves, memory_limit=limit, stats=("entropy",)).logps.sum()
        loss.backward(retain_graph=True)
        first = {name: leaves[name].grad.clone() for name in names}
        loss.backward()
        for name in names:
            assert torch.equal(leaves[name].grad, 2 * first[name])


def test_kept_logits_change_no_gradient(calls: Any) -> None:
    head = make((3, 40), 16, 1100, bias=True, rank=3)
    grads = []
    for limit in (None, KEEPS):
        leaves = leaves_of(head, PARAMETERS)
        got = call(leaves, memory_limit=limit, stats=("entropy",), softcap=5.0)
        (got.logps.sum() - got.entropy.sum()).backward()
        grads.append([leaves[name].grad for name in PARAMETERS])
    assert [arguments[KEPT] for name, arguments in calls if name == FORWARD] == [False, True]
    for again, kept in zip(*grads, strict=True):
        assert torch.equal(kept, again)


def test_kept_logits_and_workspace_stay_within_the_limit(calls: Any) -> None:
    """38 tokens x 4000 entries x 4 bytes: kept from twice that on, as the workspace gets the rest."""
    leaves = leaves_of(make((2, 20), 8, 4000), ("weight",))
    size = 38 * 4000 * 4
    for limit, kept in ((2 * size - 2, False), (2 * size, True), (128 << 20, True)):
        calls.clear()
        call(leaves, memory_limit=limit)
        assert calls[0][1][KEPT] is kept
        workspace = calls[0][1][11]
        assert workspace == (min(limit - size, 64 << 20) if kept else limit)


def test_grad_filter_leaves_out_improbable_entries() -> None:
    """Entries from 1024 on have probabilities below 1e-6 here, and a few others."""
    head = make((2, 30), 16, 2000, dtype=torch.float64)
    head["hidden"][..., 0] = 3
    head["weight"][1024:, 0] -= 6
    head["labels"] %= 1000
    grads = []
    for grad_filter in (None, 1e-30, 1e-6):
        leaves = leaves_of(head, ("hidden", "weight"))
        call(leaves, grad_filter=grad_filter).logps.sum().backward()
        grads.append((leaves["hidden"].grad, leaves["weight"].grad))
    exact, low, high = grads
    assert all(map(torch.equal, low, exact))
    assert exact[1][1024:].all()
    assert not high[1][1024:].any()
    within(max(map(worst, high, exact)), 4.2e-5)


def test_tied_weights() -> None:
    """The head is the embedding too: both shares arrive in one gradient."""
    ids, labels = torch.arange(12).view(2, 6) % 9, torch.arange(12).view(2, 6) % 7
    ours = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    exact = ours.detach().clone().requires_grad_()
    prefopt_torch.linear_token_logps(ours[ids].tanh(), ours, labels).logps.sum().backward()
    truth({"hidden": exact[ids].tanh(), "weight": exact, "labels": labels})[
        "logps"
    ].sum().backward()
    within(worst(ours.grad, exact.grad), 2e-15)


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("hidden", "weight"), ("hidden",)])
def test_double_backward_is_refused(way: str, names: tuple[str, ...]) -> None:
    leaves = leaves_of(make(dtype=torch.float64), names)
    (grad,) = torch.autograd.grad(call(leaves).logps.sum(), leaves["hidden"], create_graph=True)
    assert grad.abs().sum() > 0  # the first derivative is there
    with pytest.raises(NotImplementedError, match="linear_token_logps has no second derivative"):
        grad.pow(2).sum().backward()


def test_transforms_are_refused() -> None:
    head = make()
    function = lambda x: call({**head, "hidden": x}).logps.sum()  # noqa: E731
    with pytest.raises(NotImplementedError, match=r"torch\.vmap.*any leading shape"):
        torch.vmap(lambda x, y: call({**head, "hidden": x, "labels": y}).logps)(
            head["hidden"], head["labels"]
        )
    with pytest.raises(NotImplementedError, match=r"torch\.func\.grad"):
        torch.func.grad(function)(head["hidden"])
    with torch.autograd.forward_ad.dual_level():
        for name in ("hidden", "weight"):
            dual = torch.autograd.forward_ad.make_dual(head[name], torch.ones_like(head[name]))
            with pytest.raises(NotImplementedError, match="forward-mode"):
                call({**head, name: dual})


BAD = {
    "an array": ({"hidden": lambda x: x.numpy()}, {}, TypeError, "hidden: expected a torch.Tens"),
    "no weight": ({"weight": lambda _: None}, {}, TypeError, "weight: expected a torch.Tensor"),
    "integer weight": ({"weight": lambda x: x.int()}, {}, TypeError, "weight: expected a floati"),
    "float labels": ({"labels": lambda x: x.float()}, {}, TypeError, "labels: expected an integ"),
    "wide weight": ({"weight": lambda x: x.double()}, {}, TypeError, "weight: expected float64 "),
    "short labels": ({"labels": lambda x: x[1:]}, {}, ValueError, "labels: expected the leading"),
    "weight of another size": ({"weight": lambda x: x[:, 1:]}, {}, ValueError, "weight: expected"),
    "no vocabulary": ({"weight": lambda x: x[:0]}, {}, ValueError, "weight: expected"),
    "no hidden": (
        {"hidden": lambda x: x[..., :0], "weight": lambda x: x[:, :0]},
        {},
        ValueError,
        "hidden: expected a hidden size",
    ),
    "a long bias": ({"bias": lambda x: torch.cat([x, x])}, {}, ValueError, "bias: expected"),
    "lora_a alone": ({"lora_b": lambda _: None}, {}, ValueError, "lora_b: expected lora_a and l"),
    "lora_a of another size": ({"lora_a": lambda x: x[:, 1:]}, {}, ValueError, "lora_a: expected"),
    "lora_b of another rank": ({"lora_b": lambda x: x[:, 1:]}, {}, ValueError, "lora_b: expected"),
    "another device": ({"bias": lambda x: x.to("meta")}, {}, ValueError, "bias: expected device"),
    "temperature": ({}, {"temperature": 0.0}, ValueError, "temperature: expected"),
    "temperature NaN": ({}, {"temperature": math.nan}, ValueError, "temperature: expected"),
    "logit_scale": ({}, {"logit_scale": 0.0}, ValueError, "logit_scale: expected"),
    "softcap": ({}, {"softcap": 0.0}, ValueError, "softcap: expected"),
    "softcap inf": ({}, {"softcap": math.inf}, ValueError, "softcap: expected"),
    "memory_limit": ({}, {"memory_limit": 0}, ValueError, "memory_limit: expected"),
    "grad_filter": ({}, {"grad_filter": 1.0}, ValueError, "grad_filter: expected"),
    "topk": ({}, {"topk": 34}, ValueError, "topk: expected 0 <= topk <= 33"),
    "stats": ({}, {"stats": ("entropie",)}, ValueError, "stats.*entropie"),
    "grad_hidden": ({}, {"return_grad_hidden": "logps"}, ValueError, "return_grad_hidden: expect"),
    "grad_hidden entropy": (
        {},
        {"return_grad_hidden": ("entropy",)},
        ValueError,
        "return_grad_hidden: expected",
    ),
    "vocab_start": ({}, {"vocab_start": 3}, ValueError, "vocab_start: expected with a group only"),
    "group": ({}, {"group": "tp"}, TypeError, "group: expected a torch.distributed process group"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(way: str, case: str) -> None:
    changes, options, error, match = BAD[case]
    head = make(bias=True, rank=2)
    for name, change in changes.items():
        head[name] = change(head[name])
    with pytest.raises(error, match=match):
        call(head, **options)


@pytest.mark.parametrize("label", [-1, 33, 10**9])
def test_label_out_of_range(way: str, label: int) -> None:
    """The kernels raise and name the index; the plain form gives NaN and no gradient."""
    for names in (("hidden", "weight"), ("hidden",)):
        leaves = leaves_of(make(), names)
        leaves["labels"][1, 2] = label
        if way != "plain":
            with pytest.raises(ValueError, match=r"labels.*7"):
                call(leaves)
            continue
        result = call(leaves).logps
        assert result.isnan().nonzero().tolist() == [[1, 2]]
        result.nansum().backward()
        assert not leaves["hidden"].grad[1, 2].any()
        assert leaves["hidden"].grad[0, 0].any()


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"memory_limit: expected at least \d+ bytes"):
        call(make(), memory_limit=1000)


def test_other_devices_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain torch runs where there are no kernels, and says so the first time."""
    monkeypatch.delitem(_linear_kernels.KERNELS, "cpu")
    monkeypatch.setattr(_linear_kernels, "_told", set())
    head = make()
    with pytest.warns(UserWarning, match="no fused linear kernels for cpu tensors: a plain torch"):
        plain = call(head)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(head)
    monkeypatch.undo()
    within(worst(plain.logps, call(head).logps), 1.5e-6)


# ---- autocast, checkpointing ---------------------------------------------------------------------


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_rounds_inputs_alone(way: str, narrow: Any) -> None:
    """As a linear layer would round them; products, results and gradients stay float32."""
    head = make((3, 8), 16, 60, bias=True, rank=2)
    rounded = {n: e if n == "labels" else e.to(narrow).float() for n, e in head.items()}
    for names in (PARAMETERS, ("hidden",)):
        inside, outside = leaves_of(head, names), leaves_of(rounded, names)
        with torch.autocast("cpu", narrow):
            got = call(inside, stats=("entropy",))
            (got.logps.sum() + got.lse.sum() + got.entropy.sum()).backward()
        want = call(outside, stats=("entropy",))
        (want.logps.sum() + want.lse.sum() + want.entropy.sum()).backward()
        assert torch.equal(got.logps, want.logps)
        for name in names:
            assert inside[name].grad.dtype is torch.float32
            assert torch.equal(inside[name].grad, outside[name].grad)
    wide = make(dtype=torch.float64)
    expected = call(wide).logps
    with torch.autocast("cpu", narrow):
        assert torch.equal(call(wide).logps, expected)  # which autocast leaves alone


def test_autocast_gradient_does_not_see_discarded_bits() -> None:
    """TRL's case: hidden states that round alike give the head one gradient."""
    head = make((8, 8), 16, 60)
    head["hidden"] = torch.linspace(1, 2, 8 * 8 * 16).view(8, 8, 16).bfloat16().float()
    moved = {**head, "hidden": head["hidden"] + 1e-4}
    grads = []
    for each in (head, moved):
        leaves = leaves_of(each, ("hidden", "weight"))
        with torch.autocast("cpu", torch.bfloat16):
            call(leaves).logps.sum().backward()
        grads.append(leaves["weight"].grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("names", [("hidden", "weight"), ("hidden",)])
def test_checkpointing(way: str, reentrant: bool, names: tuple[str, ...]) -> None:
    from torch.utils.checkpoint import checkpoint

    head = make()
    inside, outside = leaves_of(head, names), leaves_of(head, names)

    def step(leaves: dict[str, Any], hidden: Any) -> Any:
        return call({**leaves, "hidden": hidden * 2.0}, memory_limit=KEEPS).logps.sum()

    checkpoint(lambda x: step(inside, x), inside["hidden"], use_reentrant=reentrant).backward()
    step(outside, outside["hidden"]).backward()
    for name in names:
        assert torch.equal(inside[name].grad, outside[name].grad)


# ---- operators and compilers ---------------------------------------------------------------------


def operator_arguments(
    leaves: dict[str, Any], stats: str = "", topk: int = 0, gradients: str = ""
) -> tuple[Any, ...]:
    tensors = [leaves.get(n) for n in ("hidden", "weight", "labels", "bias", "lora_a", "lora_b")]
    return (*tensors, -100, 0.7, 5.0, 0.8, 0, 0.0, "", 0, "", 0, stats, topk, gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("full", [False, True])
def test_opcheck(dtype: Any, full: bool) -> None:
    head = make((2, 3), 5, 17, dtype=dtype, bias=full, rank=2 if full else 0)
    wanted = (" ".join(STATS), 3) if full else ("", 0)
    trained = leaves_of(head, PARAMETERS)
    torch.library.opcheck(_linear_operator.operator, operator_arguments(trained, *wanted))
    frozen = leaves_of(head, ("hidden",))
    arguments = operator_arguments(frozen, *wanted, "logps lse entropy" if full else "logps")
    anchor = frozen["hidden"][..., :0].clone()
    torch.library.opcheck(_linear_operator.frozen_operator, (anchor, *arguments))


def test_opcheck_gradients() -> None:
    head = make((2, 3), 5, 17, bias=True, rank=2)
    got = call(head, stats=("entropy",), return_grad_hidden=("logps", "entropy"))
    ones = torch.ones_like(got.logps)
    inputs = operator_arguments(head)[:-3]
    torch.library.opcheck(
        _linear_operator.gradient_operator,
        (*inputs, got.lse.double(), got.entropy, ones, ones, None, "hidden weight bias lora_b"),
    )
    tensors = (
        head["hidden"][..., :0].clone(),
        head["labels"],
        head["weight"],
        head["lora_a"],
        head["lora_b"],
        ones,
    )
    by = (got.grad_hidden, got.grad_hidden_entropy, ones, ones, ones)
    torch.library.opcheck(
        _linear_operator.frozen_gradient_operator, (*tensors, *by, *inputs[6:], torch.bfloat16)
    )


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("names", [PARAMETERS, ("hidden",)])
def test_compile(names: tuple[str, ...], dynamic: bool) -> None:
    """No graph break, and the same bits as eager, forward and backward."""
    head = make((2, 6), 8, 40, bias=True, rank=2)
    leaves = leaves_of(head, names)

    def function(*tensors: Any) -> Any:
        given = {**leaves, **dict(zip(names, tensors, strict=True))}
        given["hidden"] = given["hidden"] * 2
        got = call(given, stats=STATS, softcap=5.0, topk=2, memory_limit=KEEPS)
        scores = (got.logps * got.correct).sum() + got.entropy.sum() + got.lse.sum()
        return scores + got.topk_logps.sum()

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    tensors = [leaves[name] for name in names]
    expected, got = function(*tensors), compiled(*tensors)
    assert torch.equal(expected, got)
    grads = (torch.autograd.grad(each, tensors) for each in (expected, got))
    for before, after in zip(*grads, strict=True):
        assert torch.equal(after, before)  # though eager kept its logits


def test_compile_with_inductor_under_autocast() -> None:
    leaves = leaves_of(make(), ("hidden", "weight"))

    def function(hidden: Any, weight: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return call({**leaves, "hidden": hidden * 2.0, "weight": weight}).logps.exp().sum()

    torch._dynamo.reset()
    tensors = leaves["hidden"], leaves["weight"]
    got, expected = torch.compile(function, fullgraph=True)(*tensors), function(*tensors)
    torch.testing.assert_close(got, expected)
    for after, before in zip(
        torch.autograd.grad(got, tensors), torch.autograd.grad(expected, tensors), strict=True
    ):
        torch.testing.assert_close(after, before)


def test_fake_and_meta_tensors() -> None:
    """The shapes and dtypes of the real thing, without the work."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    head = make((2, 3), 5, 17, dtype=torch.bfloat16, bias=True)
    real = call(head, stats=STATS, topk=2, return_grad_hidden=True)
    with FakeTensorMode() as mode:
        fake_head = {name: mode.from_tensor(each) for name, each in head.items()}
        for names in (PARAMETERS[:3], ("hidden",)):
            leaves = leaves_of(fake_head, names)
            got = call(leaves, stats=STATS, topk=2, return_grad_hidden=True)
            for fake, true in zip(got, real, strict=True):
                assert fake is true is None or (fake.shape, fake.dtype) == (true.shape, true.dtype)
            (got.logps.sum() + got.entropy.sum()).backward()
            for name in names:
                assert leaves[name].grad.shape == head[name].shape
                assert leaves[name].grad.dtype is torch.bfloat16
    meta = leaves_of({name: each.to("meta") for name, each in head.items()}, ("hidden",))
    call(meta).logps.sum().backward()
    assert meta["hidden"].grad.is_meta


def test_export_shows_one_operator() -> None:
    class Module(torch.nn.Module):
        def forward(self, hidden: Any, weight: Any, labels: Any) -> Any:
            return prefopt_torch.linear_token_logps(hidden, weight, labels).logps

    head = make()
    program = torch.export.export(Module(), tuple(head.values()))
    names = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert names[0] == "prefopt.linear_token_logps.default"
    assert torch.equal(program.module()(*head.values()), call(head).logps)
