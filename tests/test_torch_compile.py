"""Every operator of prefopt.torch under torch.compile, fake tensors, tracing and opcheck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt.torch import _loss_operator, _sequence, _token, _trl  # noqa: E402

STATS = ("entropy", "correct", "mean_logit", "max_logit", "lse2")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PAIR = "policy_chosen_logps policy_rejected_logps ref_chosen_logps ref_rejected_logps"


def logits_and_labels(dtype: Any = torch.float32) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 17, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, 17, (2, 4), generator=generator)
    labels[0, 1] = -100
    return logits, labels


def vectors(count: int, batch: int = 6, dtype: Any = torch.float32) -> list[Any]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(batch, generator=generator, dtype=dtype) for _ in range(count)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stats", ["", "entropy", " ".join(STATS)])
def test_opcheck_token_logps(dtype: Any, stats: str) -> None:
    logits, labels = logits_and_labels(dtype)
    torch.library.opcheck(_token.operator, (logits, labels, -100, 0.7, stats))
    shifted = logits.detach()[:, :-1].requires_grad_()  # leading axes with strides
    torch.library.opcheck(_token.operator, (shifted, labels[:, 1:], -100, 1.0, stats))


def test_opcheck_token_logps_grad() -> None:
    logits, labels = logits_and_labels()
    results = prefopt_torch.token_logps(logits.detach(), labels, stats=("entropy",))
    ones = torch.ones_like(results.logps)
    torch.library.opcheck(
        _token.gradient_operator,
        (logits.detach(), labels, results.lse, ones, ones, None, results.entropy, -100, 1.0),
    )


@pytest.mark.parametrize("masked", [False, True])
def test_opcheck_selected_logps(masked: bool) -> None:
    logits, _ = logits_and_labels()
    index = torch.randint(0, 17, (2, 4, 3))
    mask = torch.rand(2, 4, 3) > 0.5 if masked else None
    torch.library.opcheck(_trl.operator, (logits, index, mask, 0.7))
    grad, lse = torch.ones(2, 4, 3), torch.logsumexp(logits.detach() / 0.7, -1)
    torch.library.opcheck(_trl.gradient_operator, (logits.detach(), index, mask, lse, grad, 0.7))


@pytest.mark.parametrize("packed", [False, True])
def test_opcheck_sequence_logps(packed: bool) -> None:
    logps = torch.randn((9,) if packed else (3, 3), requires_grad=True)
    mask = torch.rand(logps.shape) > 0.3
    cuts = torch.tensor([0, 2, 2, 9]) if packed else None
    torch.library.opcheck(_sequence.operator, (logps, mask, cuts, True, None))
    torch.library.opcheck(
        _sequence.operator, (logps, None, cuts, True, torch.tensor([2.0, 3.0, 4.0]))
    )
    torch.library.opcheck(
        _sequence.gradient_operator, (torch.ones(3), logps.shape, mask, cuts, False, None)
    )


def test_opcheck_loss() -> None:
    inputs = [each.requires_grad_(i < 2) for i, each in enumerate(vectors(4))]
    call = f"dpo:3:{PAIR} beta:loss_type=sigmoid"
    torch.library.opcheck(_loss_operator.operator, (inputs, call, [0.2]))
    detached = [each.detach() for each in inputs]
    torch.library.opcheck(_loss_operator.gradient_operator, (detached, call, [0.2], torch.ones(6)))


def check_compiled(function: Callable[..., Any], *leaves: Any, dynamic: bool | None = None) -> None:
    """No graph break, and the same bits as eager, forward and backward."""
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    expected, got = function(*leaves), compiled(*leaves)
    assert torch.equal(expected, got)
    for before, after in zip(
        torch.autograd.grad(expected, leaves), torch.autograd.grad(got, leaves), strict=True
    ):
        assert torch.equal(before, after)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_token_logps(dtype: Any, dynamic: bool) -> None:
    logits, labels = logits_and_labels(dtype)

    def function(x: Any) -> Any:
        results = prefopt_torch.token_logps(x * 2, labels, stats=STATS, temperature=0.7)
        return (results.logps * results.correct).sum() + results.entropy.sum() + results.lse.sum()

    check_compiled(function, logits, dynamic=dynamic)


def test_compile_trl_functions() -> None:
    logits, labels = logits_and_labels()
    index, mask = torch.randint(0, 17, (2, 4, 3)), labels != -100

    def function(x: Any) -> Any:
        safe = labels.clamp(min=0)
        logps, entropy = prefopt_torch.selective_log_softmax_and_entropy(x, safe, row_mask=mask)
        logps = logps.mul_(2.0)  # in place, before backward
        total = logps.sum() + entropy.sum() + prefopt_torch.entropy_from_logits(x).sum()
        return total + prefopt_torch.selective_log_softmax(x, index, 0.7).sum()

    check_compiled(function, logits)


def test_compile_a_whole_step() -> None:
    """logits to DPO loss with an NLL term and KTO beside it, in one graph."""
    logits, labels = logits_and_labels()
    ref = vectors(2, 1)

    def function(x: Any) -> Any:
        logps = prefopt_torch.token_logps(x, labels).logps
        mask = labels != -100
        sums = prefopt_torch.sequence_logps(logps, mask)
        dpo = prefopt_torch.dpo_loss(sums[:1], sums[1:], *ref, beta=0.2).losses
        ipo = prefopt_torch.ipo_loss(sums[:1], sums[1:], *ref).losses
        cpo = prefopt_torch.cpo_loss(
            sums[:1], sums[1:], chosen_nll=-sums[:1], nll_tokens=3.0
        ).losses
        sft = prefopt_torch.sft_loss(sums, lengths=mask.sum(-1)).losses
        kl = prefopt_torch.kto_kl(sums[:1], ref[0])
        kto = prefopt_torch.kto_loss(sums[:1], ref[0], labels[:1, 0] > 3, kl=kl).losses
        return dpo.mean() + ipo.mean() + cpo.mean() + sft.mean() + kto.mean()

    check_compiled(function, logits)


@pytest.mark.parametrize("average", [False, True])
def test_compile_packed_sequences(average: bool) -> None:
    cuts = torch.tensor([0, 2, 2, 9])

    def function(x: Any) -> Any:
        return prefopt_torch.sequence_logps(x, cu_seqlens=cuts, average=average).pow(2).sum()

    check_compiled(function, torch.randn(9, requires_grad=True))


def test_compile_with_inductor() -> None:
    """The default backend too: it fuses around the operator."""
    logits, labels = logits_and_labels()

    def function(x: Any) -> Any:
        return prefopt_torch.token_logps(x * 2.0, labels).logps.exp().sum()

    torch._dynamo.reset()
    got = torch.compile(function, fullgraph=True)(logits)
    (grad,) = torch.autograd.grad(got, logits)
    expected = function(logits)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, logits)[0])


def test_one_compilation_serves_many_lengths() -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(
        lambda x, y: prefopt_torch.token_logps(x, y).logps,
        fullgraph=True,
        dynamic=True,
        backend=counter,
    )
    for tokens in (3, 4, 7, 11):
        logits, labels = torch.randn(tokens, 19), torch.randint(0, 19, (tokens,))
        assert torch.equal(
            compiled(logits, labels), prefopt_torch.token_logps(logits, labels).logps
        )
    assert counter.frame_count == 1


def test_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        logits = torch.empty(2, 3, 100, dtype=torch.bfloat16, requires_grad=True)
        labels = torch.empty(2, 3, dtype=torch.long)
        results = prefopt_torch.token_logps(logits, labels, stats=STATS)
        results.logps.sum().backward()
    assert results.logps.shape == (2, 3)
    assert results.correct.dtype is torch.bool
    assert logits.grad.dtype is torch.bfloat16
    assert logits.grad.shape == logits.shape


def test_meta_tensors() -> None:
    logits = torch.empty(2, 3, 100, device="meta", requires_grad=True)
    labels = torch.empty(2, 3, dtype=torch.long, device="meta")
    prefopt_torch.token_logps(logits, labels).logps.sum().backward()
    assert logits.grad.is_meta


def test_make_fx_shows_one_operator() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    logits, labels = logits_and_labels()
    graph = make_fx(lambda x: prefopt_torch.token_logps(x, labels).logps)(logits.detach())
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert names[0] == "prefopt.token_logps.default"
    assert torch.equal(graph(logits.detach()), prefopt_torch.token_logps(logits, labels).logps)


def test_dispatch_modes_see_the_operator() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    logits, labels = logits_and_labels()
    with Recorder():
        prefopt_torch.token_logps(logits, labels).logps.sum().backward()
    assert "prefopt.token_logps.default" in seen
    assert "prefopt.token_logps_grad.default" in seen


def test_functorch_gradients_are_refused() -> None:
    logits, labels = logits_and_labels()
    with pytest.raises(NotImplementedError, match=r"torch\.func\.grad"):
        torch.func.grad(lambda x: prefopt_torch.token_logps(x, labels).logps.sum())(logits.detach())
    first, second, *ref = vectors(4)
    with pytest.raises(NotImplementedError, match=r"torch\.func\.grad"):
        torch.func.grad(lambda x: prefopt_torch.dpo_loss(x, second, *ref).losses.sum())(first)


def test_backward_may_hold_retained_graph() -> None:
    logits, labels = logits_and_labels()
    loss = prefopt_torch.token_logps(logits, labels).logps.sum()
    loss.backward(retain_graph=True)
    first = logits.grad.clone()
    loss.backward()
    assert torch.equal(logits.grad, 2 * first)


def test_export() -> None:
    class Module(torch.nn.Module):
        def forward(self, logits: Any, labels: Any) -> Any:
            return prefopt_torch.token_logps(logits, labels, stats=("entropy",)).entropy

    logits, labels = logits_and_labels()
    program = torch.export.export(Module(), (logits.detach(), labels))
    assert torch.equal(program.module()(logits.detach(), labels), Module()(logits.detach(), labels))
