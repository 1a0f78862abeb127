"""prefopt.torch.pair_token_stats: values, autograd and refusals, by every way into the kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_pair_cases import pair_truth  # noqa: E402
from torch_ways import WAYS, parameters  # noqa: E402

import prefopt  # noqa: E402
from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt._pair import PAIR_STATS  # noqa: E402

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture(params=parameters("direct", "operators", "plain"))
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with WAYS[request.param]():
        yield request.param


def make(dtype: Any, shape: tuple[int, ...] = (3, 5), vocab: int = 33) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(0)
    policy = (3 * torch.randn(*shape, vocab, generator=generator)).to(dtype)
    ref = (policy + 0.5 * torch.randn(*shape, vocab, generator=generator)).to(dtype)
    labels = torch.randint(0, vocab, shape, generator=generator)
    labels.view(-1)[1] = -100
    return policy, ref, labels


def oracle(policy: Any, ref: Any, labels: Any, temperature: float, eps: float) -> dict[str, Any]:
    """Every result with torch's own functions, differentiable in policy."""
    return pair_truth(policy.double() / temperature, ref.double() / temperature, labels, eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients(way: str, dtype: Any) -> None:
    policy, ref, labels = make(dtype)
    policy.requires_grad_()
    got = prefopt_torch.pair_token_stats(
        policy, ref, labels, temperature=0.7, perturbation=0.1, stats=PAIR_STATS
    )
    leaf = policy.detach().double().requires_grad_()
    want = oracle(leaf, ref, labels, 0.7, 0.1)
    wide = dtype is torch.float64
    for name, each in want.items():
        result = getattr(got, name)
        assert result.dtype is (torch.float64 if wide else torch.float32)
        np.testing.assert_allclose(
            result.detach().double(),
            each.detach(),
            rtol=1e-14 if wide else 2e-6,
            atol=1e-14 if wide else 4e-6,
        )
        assert result.requires_grad == (name in ("policy_logps", "ref_policy_kl", "policy_ref_kl"))
    for names in (
        ("policy_logps",),
        ("ref_policy_kl",),
        ("policy_ref_kl",),
        tuple(want)[:1] + PAIR_STATS[:2],
    ):
        ours = torch.autograd.grad(
            sum((k + 0.5) * getattr(got, name).sum() for k, name in enumerate(names)),
            policy,
            retain_graph=True,
        )[0]
        theirs = torch.autograd.grad(
            sum((k + 0.5) * want[name].sum() for k, name in enumerate(names)),
            leaf,
            retain_graph=True,
        )[0]
        assert ours.dtype is dtype
        # One rounding to the dtype; below that twice the worst seen (plain torch: 6.2e-7, 1.7e-15).
        relative = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 2e-6}.get(
            dtype, 1e-14
        )
        floor = {torch.float16: 1e-4, torch.bfloat16: 1e-3, torch.float32: 1.2e-6}
        np.testing.assert_allclose(
            ours.double(), theirs, rtol=relative, atol=floor.get(dtype, 3.4e-15)
        )
        assert (ours[0, 1] == 0).all()


def test_gradcheck(way: str) -> None:
    policy, ref, labels = make(torch.float64, (2, 2), 7)
    policy.requires_grad_()

    def function(p: Any) -> tuple[Any, ...]:
        got = prefopt_torch.pair_token_stats(p, ref, labels, temperature=0.7, stats=PAIR_STATS)
        return got.policy_logps, got.ref_policy_kl, got.policy_ref_kl

    assert torch.autograd.gradcheck(function, (policy,))


def test_tdpo_whole_step(way: str) -> None:
    """TDPO1's loss and gradient by logits against torch's own functions end to end."""
    policy, ref, labels = make(torch.float64, (4, 6), 20)
    policy.requires_grad_()
    got = prefopt_torch.pair_token_stats(policy, ref, labels, stats=("ref_policy_kl",))
    sums = [
        prefopt_torch.sequence_logps(each, labels != -100)
        for each in (got.policy_logps, got.ref_logps, got.ref_policy_kl)
    ]
    (pi_w, pi_l), (ref_w, ref_l), (kl_w, kl_l) = (each.chunk(2) for each in sums)
    loss = prefopt_torch.tdpo_loss(
        pi_w, pi_l, ref_w, ref_l, chosen_kl=kl_w, rejected_kl=kl_l, loss_type="tdpo1", beta=0.5
    ).losses.mean()
    loss.backward()
    leaf = policy.detach().requires_grad_()
    want = oracle(leaf, ref, labels, 1.0, 0.01)
    d_w, d_l = (want["policy_logps"] - want["ref_logps"]).sum(-1).chunk(2)
    k_w, k_l = want["ref_policy_kl"].sum(-1).chunk(2)
    expected = -torch.nn.functional.logsigmoid(0.5 * (d_w - d_l - (k_l - k_w))).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-13)
    np.testing.assert_allclose(policy.grad, leaf.grad, rtol=1e-12, atol=1e-15)


def test_special_values_agree(way: str) -> None:
    """Masked entries and rows without a distribution: what the C kernels give, plain torch gives."""
    policy, ref, labels = make(torch.float32, (6,), 40)
    policy[0, 3] = ref[0, 3] = -math.inf
    policy[2, 3] = -math.inf
    ref[3, 3] = -math.inf
    policy[4] = -math.inf
    ref[5, 2] = math.nan
    labels[labels == 3] = 4
    with torch.no_grad():
        got = prefopt_torch.pair_token_stats(policy, ref, labels, stats=PAIR_STATS)
    want = prefopt.pair_token_stats(policy.numpy(), ref.numpy(), labels.numpy(), stats=PAIR_STATS)
    for result, expected in zip(got, want, strict=True):
        np.testing.assert_allclose(result, expected, rtol=3e-6, atol=3e-6)


def test_refusals(way: str) -> None:
    policy, ref, labels = make(torch.float32)
    call = prefopt_torch.pair_token_stats
    with pytest.raises(ValueError, match=r"^ref_logits: expected shape"):
        call(policy, ref[:2], labels)
    with pytest.raises(ValueError, match=r"^labels: expected the leading shape of policy_logits"):
        call(policy, ref, labels[:2])
    with pytest.raises(ValueError, match=r"^ref_logits: expected shape .* torch.float64"):
        call(policy, ref.double(), labels)
    with pytest.raises(TypeError, match=r"^policy_logits: expected float16, bfloat16"):
        call(policy.int(), ref, labels)
    with pytest.raises(ValueError, match=r"^perturbation: expected a number in"):
        call(policy, ref, labels, perturbation=1.5)
    with pytest.raises(ValueError, match=r"^stats: unknown 'kl'"):
        call(policy, ref, labels, stats=("kl",))
    policy.requires_grad_()
    out = call(policy, ref, labels)
    gradient = torch.autograd.grad(out.policy_logps.sum(), policy, create_graph=True)[0]
    with pytest.raises(
        (NotImplementedError, RuntimeError), match=r"second derivative|does not require"
    ):
        gradient.sum().backward()


def test_results_may_change_in_place_before_backward(way: str) -> None:
    policy, ref, labels = make(torch.float32)
    grads = []
    for change in (False, True):
        leaf = policy.clone().requires_grad_()
        got = prefopt_torch.pair_token_stats(leaf, ref, labels, stats=PAIR_STATS)
        total = (got.policy_logps * 2).sum() + (got.policy_ref_kl * 3).sum()
        if change:
            with torch.no_grad():
                for each in got:
                    each.detach().fill_(7)
        total.backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)


def test_opcheck() -> None:
    policy, ref, labels = make(torch.float32)
    policy.requires_grad_()
    torch.library.opcheck(
        torch.ops.prefopt.pair_token_stats,
        (policy, ref, labels, -100, 0.7, 0.01, "ref_policy_kl policy_ref_kl plus_logps"),
    )
    got = prefopt_torch.pair_token_stats(policy.detach(), ref, labels, stats=PAIR_STATS)
    lse = got.policy_lse.double(), got.ref_lse.double()
    ones = torch.ones(labels.shape)
    torch.library.opcheck(
        torch.ops.prefopt.pair_token_stats_grad,
        (policy.detach(), ref, labels, *lse, got.policy_ref_kl, ones, None, ones, -100, 1.0),
    )


def test_compile_without_a_graph_break() -> None:
    policy, ref, labels = make(torch.float32)

    def step(p: Any) -> Any:
        got = prefopt_torch.pair_token_stats(p, ref, labels, stats=("ref_policy_kl",))
        return (got.policy_logps - 0.5 * got.ref_policy_kl).sum()

    plain, traced = policy.clone().requires_grad_(), policy.clone().requires_grad_()
    step(plain).backward()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    compiled(traced).backward()
    assert torch.equal(plain.grad, traced.grad)


def test_vmap_is_refused() -> None:
    policy, ref, labels = make(torch.float32)
    with pytest.raises(NotImplementedError, match=r"does not work under torch\.vmap"):
        torch.vmap(lambda p, r, y: prefopt_torch.pair_token_stats(p, r, y).policy_logps)(
            policy, ref, labels
        )
