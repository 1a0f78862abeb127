"""Sequences, losses and procedures on a real GPU against the CPU, and what is CUDA's own: streams,
graphs, compilers, refusals.

    pytest -m gpu
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import row_cases
from row_cases import LOSSES, PROCEDURES, ROWS

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import prefopt  # noqa: E402
from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt.__main__ import main  # noqa: E402

STATE = prefopt.cuda_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not STATE, reason=f"no CUDA: {STATE.reason}")]

# Double throughout, rounded once: sums are made in another order, and exp and log differ by an ulp.
TOLERANCES = {np.float32: 2e-7, np.float64: 1e-13}


def tensors(arrays: dict[str, Any], device: str = "cuda") -> dict[str, Any]:
    return {
        key: torch.from_numpy(value.copy()).to(device) if isinstance(value, np.ndarray) else value
        for key, value in arrays.items()
    }


def cast(arrays: dict[str, Any], dtype: Any) -> dict[str, Any]:
    return {
        key: value.astype(dtype)
        if isinstance(value, np.ndarray) and value.dtype == np.float64
        else value
        for key, value in arrays.items()
    }


def close(got: Any, want: Any, dtype: Any) -> None:
    tolerance = TOLERANCES[dtype]
    assert got.is_cuda
    np.testing.assert_allclose(
        got.detach().cpu().numpy(), np.asarray(want), rtol=tolerance, atol=tolerance
    )


# ---- losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("optional", [True, False])
def test_losses(name: str, optional: bool) -> None:
    """Values, rewards and gradients of small and of many elements."""
    for dtype, size in itertools.product((np.float32, np.float64), (4, 700)):
        arrays = cast(row_cases.inputs(name, optional=optional, size=size), dtype)
        inputs = tensors(arrays)
        leaves = [i.name for i in ROWS[name].inputs if i.differentiable and i.name in inputs]
        for key in leaves:
            inputs[key].requires_grad_()
        got = prefopt_torch.loss(name, **inputs)
        weights = np.linspace(0.5, 2, got.losses.numel()).reshape(got.losses.shape).astype(dtype)
        (got.losses * torch.from_numpy(weights).cuda()).sum().backward()
        expected = row_cases.run(name, arrays, grad_losses=weights)
        for ours, theirs in zip(got, expected, strict=True):
            close(ours, theirs, dtype)
        for key in leaves:
            close(inputs[key].grad, expected.grads[key], dtype)
    prefopt.cuda_check()


@pytest.mark.parametrize("name", PROCEDURES)
@pytest.mark.parametrize("size", [1, 4, 300])
def test_procedures(name: str, size: int) -> None:
    arrays = row_cases.inputs(name, size=size)
    got = prefopt_torch.loss(name, **tensors(arrays))
    for ours, theirs in zip(got, row_cases.run(name, arrays), strict=True):
        close(ours, theirs, np.float64)
    prefopt.cuda_check()


def test_mixtures_and_conventions() -> None:
    arrays = row_cases.inputs("dpo.sigmoid", optional=False)
    lengths = {"chosen_lengths": np.array([3, 4, 5, 6])}
    options: dict[str, Any] = {
        "loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0], "beta": 0.3,
    }  # fmt: skip
    got = prefopt_torch.dpo_loss(**tensors(arrays), **tensors(lengths), **options)
    expected = prefopt.dpo_loss(**arrays, **lengths, **options)
    for ours, theirs in zip(got, expected, strict=True):
        close(ours, theirs, np.float64)
    named = {"convention": "nemo-rl-7ea279a"}
    got = prefopt_torch.loss("dpo.sigmoid", **tensors(arrays), **named)
    for ours, theirs in zip(got, prefopt.loss("dpo.sigmoid", **arrays, **named), strict=True):
        close(ours, theirs, np.float64)


def test_a_bad_value_is_noted() -> None:
    arrays = row_cases.inputs("cpo.simpo")
    inputs = tensors(arrays)
    inputs["chosen_lengths"][2] = -1
    got = prefopt_torch.loss("cpo.simpo", **inputs)
    assert got.losses.isnan().all()
    with pytest.raises(ValueError, match=r"chosen_lengths: .* at index 2"):
        prefopt.cuda_check()


# ---- sequences -----------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mask", [None, "bool", "weights"])
@pytest.mark.parametrize("average", [False, True])
def test_sequence_logps(packed: bool, mask: str | None, average: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    shape = (1203,) if packed else (5, 311)
    logps = -5 * torch.rand(shape, generator=generator)
    keywords: dict[str, Any] = {"average": average}
    if packed:
        keywords["cu_seqlens"] = torch.tensor([0, 3, 3, 900, 1203])
    if mask is not None:
        weights = torch.rand(shape, generator=generator)
        weights[weights < 0.3] = 0.0
        keywords["mask"] = weights != 0 if mask == "bool" else weights
    moved = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in keywords.items()}
    one, other = logps.clone().requires_grad_(), logps.cuda().requires_grad_()
    want, got = (
        prefopt_torch.sequence_logps(one, **keywords),
        prefopt_torch.sequence_logps(other, **moved),
    )
    torch.testing.assert_close(got.cpu(), want, rtol=1e-6, atol=0)
    want.pow(2).sum().backward()
    got.pow(2).sum().backward()
    torch.testing.assert_close(other.grad.cpu(), one.grad, rtol=1e-6, atol=0)


# ---- CUDA's own ----------------------------------------------------------------------------------


def step(logits: Any, labels: Any, ref: Any) -> tuple[Any, Any]:
    """From logits [2n, T, V] to DPO's loss and its gradient, as a trainer does."""
    leaf = logits.detach().requires_grad_()
    logps = prefopt_torch.token_logps(leaf, labels).logps
    sums = prefopt_torch.sequence_logps(logps, labels != -100)
    half = len(sums) // 2
    losses = prefopt_torch.dpo_loss(sums[:half], sums[half:], ref[:half], ref[half:]).losses
    loss = losses.mean()
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def batch(device: str = "cuda", seed: int = 0) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 37, 5003, generator=generator)
    labels = torch.randint(0, 5003, (4, 37), generator=generator)
    labels[:, :5] = -100
    ref = torch.full((4,), -300.0) + torch.randn(4, generator=generator)
    return logits.to(device), labels.to(device), ref.to(device)


def same_step(got: tuple[Any, Any], want: tuple[Any, Any]) -> None:
    torch.testing.assert_close(got[0].cpu(), want[0].cpu(), rtol=0, atol=3e-5)
    torch.testing.assert_close(got[1].cpu(), want[1].cpu(), rtol=1e-3, atol=1e-7)


def test_a_training_step() -> None:
    same_step(step(*batch()), step(*batch("cpu")))


def test_side_stream() -> None:
    """Kernels follow what was queued on the current stream, whichever that is."""
    logits, labels, ref = batch()
    want = step(logits, labels, ref)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = torch.zeros_like(logits)
        torch.cuda._sleep(int(2e7))  # about 10 ms, in which a kernel elsewhere would read zeros
        late.copy_(logits)
        got = step(late, labels, ref)
    stream.synchronize()
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


def test_graph_replays_on_new_data() -> None:
    logits, labels, ref = batch()
    step(logits, labels, ref)  # loads the kernels
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, grad = step(logits, labels, ref)
    other = batch(seed=1)
    for mine, theirs in zip((logits, labels, ref), other, strict=True):
        mine.copy_(theirs)
    graph.replay()
    torch.cuda.synchronize()
    want = step(*other)
    assert torch.equal(loss, want[0])
    assert torch.equal(grad, want[1])


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(backend: str) -> None:
    logits, labels, ref = batch()

    def loss(logits: Any) -> Any:
        logps = prefopt_torch.token_logps(logits, labels).logps
        sums = prefopt_torch.sequence_logps(logps, labels != -100)
        return prefopt_torch.dpo_loss(sums[:2], sums[2:], ref[:2], ref[2:]).losses.mean()

    torch._dynamo.reset()
    leaf = logits.clone().requires_grad_()
    value = torch.compile(loss, fullgraph=True, backend=backend)(leaf)
    value.backward()
    same_step((value.detach(), leaf.grad), step(logits, labels, ref))


def test_devices_may_not_mix() -> None:
    logits, labels, ref = batch()
    with pytest.raises(ValueError, match=r"labels: expected device cuda:0"):
        prefopt_torch.token_logps(logits, labels.cpu())
    with pytest.raises(ValueError, match=r"mask: expected device cuda:0.*, got cpu"):
        prefopt_torch.sequence_logps(logits[..., 0], labels.cpu() != -100)
    with pytest.raises(ValueError, match=r"ref_chosen_logps: expected device cuda:0.*, got cpu"):
        prefopt_torch.dpo_loss(ref[:2], ref[2:], ref[:2].cpu(), ref[2:])


def test_bench(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--device", "cuda", "--rows", "40", "--vocab", "6000", "--hidden", "64"]
    assert main(["bench", *options, "--repeats", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    for compared in report["comparisons"]:
        for way in compared["ways"]:
            assert way["problem"] or way["median_s"] > 0
    assert main(["bench", *options, "--repeats", "2"]) == 0
    assert "linear log-probs and gradient, trained head" in capsys.readouterr().out


def test_trl_names() -> None:
    """selective_log_softmax with one and with several indices, and the entropy."""
    logits, labels, _ = batch("cpu")
    index = labels.clamp(min=0)
    many = torch.stack([index, index.flip(0)], -1)
    for each in (index, many):
        want = prefopt_torch.selective_log_softmax(logits, each)
        got = prefopt_torch.selective_log_softmax(logits.cuda(), each.cuda())
        torch.testing.assert_close(got.cpu(), want, rtol=0, atol=5e-6)
    want = prefopt_torch.entropy_from_logits(logits)
    torch.testing.assert_close(
        prefopt_torch.entropy_from_logits(logits.cuda()).cpu(), want, rtol=0, atol=5e-6
    )
