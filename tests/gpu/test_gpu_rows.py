"""Rows of logits on a real GPU against the C kernels of the CPU: token_logps, pair_token_stats and
their gradients.

    pytest -m gpu
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import prefopt  # noqa: E402
from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt._pair import PAIR_STATS  # noqa: E402
from prefopt.torch import _cuda, _token  # noqa: E402

STATE = prefopt.cuda_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not STATE, reason=f"no CUDA: {STATE.reason}")]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
STATS = _token.STATS
# A thread's tail alone; a warp's rows up to 4 KB; a block's; several blocks a row; odd ones, so that
# rows start at every alignment.
VOCABULARIES = (1, 2, 7, 33, 1003, 2048, 2049, 32000, 50257, 151936, 262144)
# Values are below 30, where a float32 result has steps of 2^-19; sums and 2^x add about as much.
TOLERANCES = {torch.float64: 1e-12}
TOLERANCE = 5e-6
# A gradient is rounded to the dtype of the logits: two neighbours of a tie are a step apart.
ATOLS = {torch.float64: 1e-12}
ATOL = 1e-6
STEPS = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.float32: 4e-6, torch.float64: 1e-12}


def make(
    dtype: Any, rows: int, vocab: int, *, seed: int = 0, stride: int | None = None
) -> tuple[Any, Any]:
    """CPU logits [rows, vocab], cut out of a wider array where `stride` says so, and labels."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(rows, stride or vocab, generator=generator) * 4
    logits = wide.to(dtype)[:, (stride or vocab) - vocab :]
    labels = torch.randint(0, vocab, (rows,), generator=generator)
    labels[rows // 2] = -100
    return logits, labels


def close(got: Any, want: Any, dtype: Any) -> None:
    tolerance = TOLERANCES.get(dtype, TOLERANCE)
    torch.testing.assert_close(got.cpu(), want, rtol=0, atol=tolerance, equal_nan=True)


def to_gpu(tensor: Any) -> Any:
    """The same strides and the same offset from an aligned address, on the GPU."""
    base = tensor._base if tensor._base is not None else tensor
    moved = base.detach().cuda()
    return moved.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def results(logits: Any, labels: Any, **options: Any) -> tuple[Any, Any]:
    """Every statistic, and the gradient of a mix of those that have one."""
    leaf = logits.detach().requires_grad_()
    got = prefopt_torch.token_logps(leaf, labels, stats=STATS, **options)
    weights = torch.linspace(-1, 1, labels.numel(), device=labels.device).view(labels.shape)
    loss = (weights * got.logps + 0.3 * got.entropy - 0.2 * weights * got.lse).sum()
    return got, torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_token_logps(dtype: Any, vocab: int) -> None:
    """Every statistic and the gradient, rows side by side and cut out of a wider array."""
    rows = 5 if vocab > 4096 else 67
    for stride in (None, vocab + 3):
        logits, labels = make(dtype, rows, vocab, stride=stride)
        want, want_grad = results(logits, labels, temperature=0.7)
        got, got_grad = results(to_gpu(logits), labels.cuda(), temperature=0.7)
        for name in ("logps", "lse", *STATS):
            one, other = getattr(got, name), getattr(want, name)
            assert one.dtype == other.dtype
            assert one.is_cuda
            if name == "correct":
                assert torch.equal(one.cpu(), other)
            else:
                close(one, other, dtype)
        torch.testing.assert_close(
            got_grad.cpu().double(),
            want_grad.double(),
            rtol=STEPS[dtype],
            atol=ATOLS.get(dtype, ATOL),
        )
        assert not got_grad[rows // 2].any()
    prefopt.cuda_check()


@pytest.mark.parametrize("rows", [1, 2, 40, 1000])
def test_parts_of_a_row(rows: int) -> None:
    """A row is split among as many blocks as the GPU has room for; the result stays."""
    logits, labels = make(torch.bfloat16, rows, 70001, seed=1)
    want = prefopt_torch.token_logps(logits, labels, stats=STATS)
    got = prefopt_torch.token_logps(logits.cuda(), labels.cuda(), stats=STATS)
    for one, other in zip(got[:7], want[:7], strict=True):
        close(one.double(), other.double(), torch.bfloat16)
    again = prefopt_torch.token_logps(logits.cuda(), labels.cuda(), stats=STATS)
    assert all(torch.equal(one, other) for one, other in zip(got[:7], again[:7], strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab", [9, 3000, 40000])
def test_special_values(dtype: Any, vocab: int) -> None:
    """-inf beside numbers, rows of nothing but -inf, +inf, NaN, and ties: as the CPU."""
    logits, labels = make(dtype, 8, vocab)
    labels[:] = torch.arange(8) % vocab
    logits[0, 1:] = -torch.inf
    logits[1] = -torch.inf
    logits[2, vocab - 1] = torch.inf
    logits[3, vocab // 2] = torch.nan
    logits[4] = 1.5
    logits[5, ::2] = -torch.inf
    logits[6] = torch.nan
    labels[4], labels[6] = 0, -100  # the first of many maxima; a row that nobody may read
    want, want_grad = results(logits, labels)
    got, got_grad = results(logits.cuda(), labels.cuda())
    for name in ("logps", "lse", *STATS):
        close(getattr(got, name).double(), getattr(want, name).double(), dtype)
    torch.testing.assert_close(
        got_grad.cpu().double(),
        want_grad.double(),
        rtol=STEPS[dtype],
        atol=ATOLS.get(dtype, ATOL),
        equal_nan=True,
    )


def test_bad_labels_are_noted() -> None:
    """NaN, a gradient of 0, and an exception from the next cuda_check alone."""
    logits, labels = make(torch.float32, 9, 5003)
    logits, labels = logits.cuda(), labels.cuda()
    labels[3], labels[7] = 5003, -1
    got, grad = results(logits, labels)
    assert got.logps.isnan().nonzero().flatten().tolist() == [3, 7]
    assert got.entropy.isfinite().all()
    assert not grad[3].any()
    assert not grad[7].any()
    with pytest.raises(ValueError, match=r"labels: .* at index 3"):
        prefopt.cuda_check()
    prefopt.cuda_check()


def test_checks_at_once_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFOPT_CHECK", "1")
    logits = torch.zeros(2, 10, device="cuda")
    with pytest.raises(ValueError, match=r"labels: .* at index 1"):
        prefopt_torch.token_logps(logits, torch.tensor([0, 10], device="cuda"))
    prefopt_torch.token_logps(logits, torch.tensor([0, 9], device="cuda"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
def test_labels_of_any_integer_dtype(dtype: Any) -> None:
    logits, labels = make(torch.bfloat16, 6, 100)
    labels = labels.clamp(min=0).to(dtype)
    want = prefopt_torch.token_logps(logits, labels).logps
    close(prefopt_torch.token_logps(logits.cuda(), labels.cuda()).logps, want, torch.bfloat16)


def test_gradient_in_place() -> None:
    """The C interface may write the gradient over the logits; prefopt.torch never does."""
    logits, labels = make(torch.bfloat16, 7, 30011)
    logits, labels = logits.cuda(), labels.cuda()
    ones = torch.ones(7, device="cuda")
    lse = prefopt_torch.token_logps(logits, labels).lse
    arguments = (labels, lse, ones, None, None, None, -100, 1.0)
    want = _cuda.token_logps_grad(logits, *arguments)
    args = _cuda.TokenLogpsGradArgs(ignore_index=-100, temperature=1.0)
    operation = _cuda.Operation("pfo_cuda_token_logps_grad", args, logits)
    operation.take(logits=logits, out=logits, trailing=1)
    operation.take(labels=labels, lse=lse, grad_logps=ones)
    operation.run()
    assert torch.equal(logits, want)


def test_offsets_beyond_four_gigabytes() -> None:
    """Row starts need 64 bits."""
    if torch.cuda.mem_get_info()[0] < 16 << 30:
        pytest.skip("needs 16 GB of free memory")
    rows, vocab = 17000, 151936  # 2.6e9 elements
    logits = torch.zeros(rows, vocab, dtype=torch.bfloat16, device="cuda")
    labels = torch.full((rows,), 5, device="cuda")
    logits[-1, 5] = 20.0
    want = torch.log_softmax(logits[-1:].double(), -1)[0, 5]
    got = prefopt_torch.token_logps(logits, labels)
    assert abs(got.logps[-1].item() - want.item()) < TOLERANCE
    close(got.logps[:-1], torch.full((rows - 1,), -11.931215), torch.bfloat16)
    grad = _cuda.token_logps_grad(
        logits, labels, got.lse, torch.ones(rows, device="cuda"), None, None, None, -100, 1.0
    )
    assert abs(grad[-2, 5].item() - 1.0) < 2**-7
    assert abs(grad[-1, 5].item() - (1 - want.exp().item())) < 2**-7


def test_memory_is_that_of_the_results() -> None:
    """Nothing of the logits' size is made on the way."""
    logits = torch.randn(2048, 151936, device="cuda").to(torch.bfloat16)
    labels = torch.randint(0, 151936, (2048,), device="cuda")
    prefopt_torch.token_logps(logits, labels, stats=STATS)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    prefopt_torch.token_logps(logits, labels, stats=STATS)
    assert torch.cuda.max_memory_allocated() - before < 2e6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab", [1, 7, 1003, 32000, 151936])
def test_pair_token_stats(dtype: Any, vocab: int) -> None:
    policy, labels = make(dtype, 5, vocab, stride=vocab + 3)
    ref = (policy.double() + make(torch.float64, 5, vocab, seed=2)[0] / 8).to(dtype)

    def both(policy: Any, ref: Any, labels: Any) -> tuple[Any, Any]:
        leaf = policy.detach().requires_grad_()
        got = prefopt_torch.pair_token_stats(leaf, ref, labels, stats=PAIR_STATS, temperature=0.7)
        loss = (got.policy_logps - 0.5 * got.ref_policy_kl + 2 * got.policy_ref_kl).sum()
        return got, torch.autograd.grad(loss, leaf)[0]

    want, want_grad = both(policy, ref, labels)
    got, got_grad = both(to_gpu(policy), ref.cuda(), labels.cuda())
    for one, other in zip(got, want, strict=True):
        close(one, other, dtype)
    torch.testing.assert_close(
        got_grad.cpu().double(),
        want_grad.double(),
        rtol=STEPS[dtype],
        atol=2 * ATOLS.get(dtype, ATOL),
    )
