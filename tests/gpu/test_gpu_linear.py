"""linear_token_logps on a real GPU against the CPU's kernels and torch in float64: values, gradients,
masks, graphs, streams, a compiler.

    pytest -m gpu tests/gpu/test_linear_cuda.py
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import prefopt  # noqa: E402
from prefopt import _cublas  # noqa: E402
from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt.torch import _bridge, _linear_kernels  # noqa: E402

STATE = _cublas.cublas_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not STATE, reason=f"no CUDA: {STATE.reason}")]

STATS = ("entropy", "correct", "mean_logit", "max_logit", "lse2")
EVERYTHING = {"logit_scale": 0.7, "softcap": 20.0, "temperature": 0.8}
# x is summed in float32 by cuBLAS in an order of its own; log-probabilities are below 30.
VALUES = 4e-5
# Gradients, of their largest element: what is multiplied is rounded to bfloat16 (2^-9), or TF32, and
# so is the gradient to its dtype.
GRADIENTS = {torch.bfloat16: 1.2e-2, torch.float16: 6e-3, torch.float32: 2e-5}
SHAPES = ((40, 64, 1000), (300, 128, 5003), (513, 72, 2048), (3, 256, 40000))


def make(
    rows: int, size: int, vocab: int, dtype: Any, *, bias: bool = False, rank: int = 0
) -> dict[str, Any]:
    """A head on the CPU; a fifth of the labels is ignored."""
    generator = torch.Generator().manual_seed(rows + vocab)

    def draw(*sizes: int, scale: float = 1.0) -> Any:
        return (scale * torch.randn(*sizes, generator=generator)).to(dtype)

    head: dict[str, Any] = {
        "hidden": draw(rows, size),
        "weight": draw(vocab, size, scale=2 * size**-0.5),
        "labels": torch.randint(0, vocab, (rows,), generator=generator),
    }
    head["labels"][::5] = -100
    if bias:
        head["bias"] = draw(vocab)
    if rank:
        head["lora_a"] = draw(rank, size, scale=size**-0.5)
        head["lora_b"] = draw(vocab, rank, scale=rank**-0.5)
    return head


def placed(
    head: dict[str, Any], names: tuple[str, ...] = (), device: str = "cuda", dtype: Any = None
) -> dict[str, Any]:
    """Copies, those named requiring gradients."""
    made = {}
    for name, each in head.items():
        cast = each if dtype is None or name == "labels" else each.to(dtype)
        made[name] = cast.detach().to(device, copy=True).requires_grad_(name in names)
    return made


def call(head: dict[str, Any], **options: Any) -> Any:
    return prefopt_torch.linear_token_logps(**head, **options)


def loss_of(results: Any) -> Any:
    weights = torch.linspace(-1, 1, results.logps.numel(), device=results.logps.device)
    return (weights * results.logps + 0.3 * results.lse - 0.2 * results.entropy).sum()


def gradients(head: dict[str, Any], names: tuple[str, ...], **options: Any) -> dict[str, Any]:
    found = torch.autograd.grad(
        loss_of(call(head, stats=("entropy",), **options)), [head[name] for name in names]
    )
    return dict(zip(names, found, strict=True))


def check_gradients(
    head: dict[str, Any], names: tuple[str, ...], budget: float, **options: Any
) -> None:
    got = gradients(placed(head, names), names, **options)
    for name in ("num_tokens", "memory_limit"):
        options.pop(name, None)
    want = gradients(placed(head, names, "cpu", torch.float64), names, **options)
    for name in names:
        assert got[name].is_cuda
        assert got[name].dtype is head[name].dtype
        error = (got[name].cpu().double() - want[name]).abs().max() / want[name].abs().max()
        assert error <= budget, (name, float(error))


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("dtype", GRADIENTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape: tuple[int, int, int], dtype: Any, options: Any) -> None:
    """Against the CPU's kernels in float64 from the same values."""
    extra = {"bias": True, "rank": 4} if options else {}
    head = make(*shape, dtype, **extra)
    got = call(placed(head), stats=STATS, **options)
    want = call(placed(head, (), "cpu", torch.float64), stats=STATS, **options)
    for name in ("logps", "lse", "entropy", "mean_logit", "max_logit", "lse2"):
        one, other = getattr(got, name), getattr(want, name)
        assert one.is_cuda
        error = (one.cpu().double() - other).abs().max()
        assert error <= VALUES, (name, float(error))
    assert (got.correct.cpu() != want.correct).sum() <= 1
    names = tuple(name for name in head if name != "labels")
    for wanted in (names, ("hidden",)):
        check_gradients(head, wanted, GRADIENTS[dtype], **options)
        check_gradients(head, wanted, GRADIENTS[dtype], memory_limit=1 << 18, **options)
    prefopt.cuda_check()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_against_whole_logits_in_torch(dtype: Any) -> None:
    """float64 logits by torch alone, so that no kernel of ours is on both sides."""
    head = make(200, 64, 3001, dtype)
    exact = placed(head, ("hidden", "weight"), "cuda", torch.float64)
    log_p = torch.log_softmax(exact["hidden"] @ exact["weight"].T, -1)
    kept = exact["labels"] != -100
    logps = log_p.gather(-1, exact["labels"].clamp(min=0)[:, None])[:, 0].masked_fill(~kept, 0)
    ours = placed(head, ("hidden", "weight"))
    got = call(ours).logps
    assert (got.double() - logps).abs().max() <= VALUES
    for one, other in zip(
        torch.autograd.grad(got.sum(), [ours["hidden"], ours["weight"]]),
        torch.autograd.grad(logps.sum(), [exact["hidden"], exact["weight"]]),
        strict=True,
    ):
        assert (one.double() - other).abs().max() <= GRADIENTS[dtype] * other.abs().max()


def test_num_tokens() -> None:
    head = make(400, 64, 3000, torch.bfloat16)
    head["labels"][90:] = -100
    live = int((head["labels"] != -100).sum())
    for names in (("hidden", "weight"), ("hidden",)):
        check_gradients(head, names, GRADIENTS[torch.bfloat16], num_tokens=live)
        check_gradients(head, names, GRADIENTS[torch.bfloat16], num_tokens=live + 37)
    gpu = placed(head)
    whole, got = call(gpu), call(gpu, num_tokens=live)
    assert (whole.logps - got.logps).abs().max() <= VALUES
    prefopt.cuda_check()
    assert call(gpu, num_tokens=live - 1).logps[gpu["labels"] != -100].isnan().all()
    with pytest.raises(ValueError, match=f"num_tokens: expected at least {live}"):
        prefopt.cuda_check()


def test_topk_and_returned_gradients() -> None:
    head = make(50, 64, 3000, torch.float32)
    options = {"topk": 7, "return_grad_hidden": ("logps", "lse", "entropy")}
    got, want = call(placed(head), **options), call(placed(head, (), "cpu"), **options)
    assert (got.topk_ids.cpu() != want.topk_ids).sum() <= 2  # a tie to the last bit or two
    assert (got.topk_logps.cpu() - want.topk_logps).abs().max() <= VALUES
    for name in ("grad_hidden", "grad_hidden_lse", "grad_hidden_entropy"):
        one, other = getattr(got, name).cpu(), getattr(want, name)
        assert (one - other).abs().max() <= GRADIENTS[torch.float32] * other.abs().max()


def test_parts_of_a_vocabulary() -> None:
    head = make(60, 64, 3000, torch.bfloat16)
    gpu = placed(head)
    options = _linear_kernels.Options(-100, 1.0, 0.0, 1.0, 0, 0.0, "", 0, "x", 0)
    kernels = _linear_kernels.kernels_for(gpu["hidden"])
    assert kernels is _linear_kernels.CUDA
    states = []
    for first, last in ((0, 1100), (1100, 3000)):
        part = _linear_kernels.Head(
            gpu["hidden"], gpu["weight"][first:last], gpu["labels"], None, None, None
        )
        states.append(kernels.sweep(part, options._replace(vocab_start=first), ["states"], 0))
    whole = _linear_kernels.Head(*(gpu.get(name) for name in _linear_kernels.Head._fields))
    merged = kernels.finish(torch.stack([each["states"] for each in states]), whole, options)
    want = call(placed(head, (), "cpu"), stats=STATS)
    for name in ("logps", "lse", "entropy", "mean_logit", "max_logit", "lse2"):
        assert (merged[name].cpu().double() - getattr(want, name)).abs().max() <= VALUES


def test_the_same_bits_twice_and_by_operators() -> None:
    head = make(300, 64, 5003, torch.bfloat16, bias=True, rank=3)
    names = tuple(name for name in head if name != "labels")

    def results() -> list[Any]:
        leaves = placed(head, names)
        got = call(leaves, stats=STATS)
        return [*got[:7], *torch.autograd.grad(loss_of(got), [leaves[name] for name in names])]

    first, second = results(), results()
    with _bridge.force_operators():
        third = results()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, third, strict=True))


def test_streams() -> None:
    """Kernels go behind what fills their inputs on the current stream."""
    head = placed(make(200, 64, 5003, torch.bfloat16))
    want = call(head).logps
    other = torch.cuda.Stream()
    with torch.cuda.stream(other):
        torch.cuda._sleep(50_000_000)
        hidden = head["hidden"] * 1
        got = call({**head, "hidden": hidden}).logps
    other.synchronize()
    assert torch.equal(got, want)


def test_a_graph() -> None:
    """Forward and both backwards, captured once, replayed on other values."""
    head = placed(make(200, 64, 5003, torch.bfloat16), ("hidden", "weight"))
    fresh = placed(make(200, 64, 5003, torch.bfloat16))["hidden"].flip(0)

    def step(names: tuple[str, ...]) -> Any:
        leaves = {n: e if n in names or n == "labels" else e.detach() for n, e in head.items()}
        got = call(leaves, stats=("entropy",), num_tokens=160)
        return [got.logps, *torch.autograd.grad(loss_of(got), [head[name] for name in names])]

    for names in (("hidden", "weight"), ("hidden",)):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            step(names)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step(names)
        with torch.no_grad():
            head["hidden"].copy_(fresh)
        graph.replay()
        torch.cuda.synchronize()
        replayed = [each.clone() for each in captured]
        assert all(torch.equal(a, b) for a, b in zip(replayed, step(names), strict=True))
    prefopt.cuda_check()


def test_torch_compile() -> None:
    head = make(100, 64, 2000, torch.bfloat16)
    names = ("hidden", "weight")

    def loss(hidden: Any, weight: Any, labels: Any) -> Any:
        return loss_of(prefopt_torch.linear_token_logps(hidden, weight, labels, stats=("entropy",)))

    leaves = placed(head, names)
    want = torch.autograd.grad(loss(**leaves), [leaves[name] for name in names])
    compiled = torch.compile(loss, fullgraph=True)
    got = torch.autograd.grad(compiled(**leaves), [leaves[name] for name in names])
    for one, other in zip(got, want, strict=True):
        assert (one - other).abs().max() <= 1e-2 * other.abs().max()


def test_bad_labels_are_noted() -> None:
    head = placed(make(20, 16, 100, torch.float32), ("hidden",))
    head["labels"][3] = 100
    got = call(head)
    assert got.logps.isnan().nonzero().flatten().tolist() == [3]
    (grad,) = torch.autograd.grad(got.logps.nansum(), head["hidden"])
    assert not grad[3].any()
    with pytest.raises(ValueError, match=r"labels: .* at index 3"):
        prefopt.cuda_check()


def test_memory_stays_small() -> None:
    """What a call takes beside results: far below the logits it never holds."""
    rows, size, vocab = 4096, 1024, 64000
    hidden = torch.randn(rows, size, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(vocab, size, device="cuda", dtype=torch.bfloat16) * size**-0.5
    labels = torch.randint(0, vocab, (rows,), device="cuda")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    prefopt_torch.linear_token_logps(hidden, weight, labels).logps.sum().backward()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < rows * vocab * 4 / 4, peak


def test_devices_must_agree() -> None:
    head = placed(make(5, 16, 20, torch.float32))
    with pytest.raises(ValueError, match="labels: expected device cuda"):
        call({**head, "labels": head["labels"].cpu()})
