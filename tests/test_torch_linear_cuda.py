"""prefopt.torch.linear_token_logps on the CUDA library, here the simulated GPU's, against logits
materialised in float64: the way of `tests/torch_ways.py` that has its own rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_linear_cases import (  # noqa: E402
    PARAMETERS,
    STATS,
    leaves_of,
    make,
    true_topk,
    truth,
    within,
    worst,
)
from torch_ways import WAYS  # noqa: E402

import prefopt  # noqa: E402
from prefopt import _cublas, _cuda  # noqa: E402
from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt.torch import _bridge, _linear_kernels  # noqa: E402

pytestmark = pytest.mark.cuda_sim

EVERYTHING = {"logit_scale": 0.7, "softcap": 5.0, "temperature": 0.8}
# Gradients are rounded to bfloat16 before the last product, and to their own dtype: of the largest
# element, twice the worst measured.
BUDGETS = {torch.float32: 1.4e-6, torch.bfloat16: 1.1e-2, torch.float16: 1.8e-3}
VALUES = 4.2e-6


@pytest.fixture(autouse=True)
def way() -> Iterator[None]:
    with WAYS["cuda"]():
        yield


def call(head: dict[str, Any], **options: Any) -> Any:
    return prefopt_torch.linear_token_logps(**head, **options)


def loss_of(results: Any) -> Any:
    values = results if isinstance(results, dict) else results._asdict()
    weights = torch.linspace(-1, 1, values["logps"].numel()).view(values["logps"].shape)
    return (weights * values["logps"] + 0.3 * values["lse"] - 0.2 * values["entropy"]).sum()


def check_gradients(head: dict[str, Any], names: tuple[str, ...], **options: Any) -> None:
    ours, exact = leaves_of(head, names), leaves_of(head, names, torch.float64)
    got = torch.autograd.grad(
        loss_of(call(ours, stats=("entropy",), **options)), [ours[name] for name in names]
    )
    options.pop("num_tokens", None)
    want = torch.autograd.grad(loss_of(truth(exact, **options)), [exact[name] for name in names])
    for name, one, other in zip(names, got, want, strict=True):
        assert one.dtype is ours[name].dtype
        size = float(other.abs().max())
        within(worst(one, other) / size, BUDGETS[head["hidden"].dtype])


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("dtype", BUDGETS, ids=str)
def test_values_and_gradients(dtype: Any, options: dict[str, Any]) -> None:
    head = make((2, 20), 16, 1100, dtype=dtype, bias=True, rank=3)
    got = call(head, **options, stats=STATS)
    want = truth(leaves_of(head, (), torch.float64), **options)
    for name, expected in want.items():
        result = getattr(got, name)
        if name == "correct":
            assert torch.equal(result, expected)
        else:
            within(worst(result, expected), VALUES)
    for names in (PARAMETERS, ("hidden",), ("weight",), ("lora_a", "lora_b")):
        check_gradients(head, names, **options)
    with _bridge.force_operators():
        check_gradients(head, PARAMETERS, **options)
        check_gradients(head, ("hidden",), **options)


def test_num_tokens() -> None:
    head = make((4, 9), 16, 300, dtype=torch.bfloat16)
    head["labels"][:, 3:] = -100
    for names in (("hidden", "weight"), ("hidden",)):
        check_gradients(head, names, num_tokens=12)
    want, got = call(head), call(head, num_tokens=11)
    assert torch.equal(got.logps, want.logps)
    call(head, num_tokens=10)
    with pytest.raises(ValueError, match="num_tokens: expected at least 11"):
        prefopt.cuda_check()
    with pytest.raises(ValueError, match="num_tokens"):
        call(head, num_tokens=0)


def test_topk_and_returned_gradients() -> None:
    head = make((3, 5), 16, 500)
    got = call(head, topk=4, return_grad_hidden=("logps", "lse", "entropy"))
    ids, logps = true_topk(leaves_of(head, (), torch.float64), 4)
    assert torch.equal(got.topk_ids, ids)
    within(worst(got.topk_logps, logps), VALUES)
    exact = leaves_of(head, ("hidden",), torch.float64)
    want = truth(exact)
    for name, result in (
        ("logps", got.grad_hidden),
        ("lse", got.grad_hidden_lse),
        ("entropy", got.grad_hidden_entropy),
    ):
        (by_hidden,) = torch.autograd.grad(want[name].sum(), exact["hidden"], retain_graph=True)
        within(worst(result, by_hidden), BUDGETS[torch.float32])


def test_a_split_vocabulary_by_its_parts() -> None:
    """The kernels' states and their end, which `group` puts together."""
    head = make((2, 6), 8, 90)
    kernels = _linear_kernels.kernels_for(head["hidden"])
    assert kernels is _linear_kernels.CUDA
    options = _linear_kernels.Options(-100, 1.0, 0.0, 1.0, 0, 0.0, "", 0, "x", 0)
    states = []
    for first, last in ((0, 40), (40, 90)):
        part = _linear_kernels.Head(
            head["hidden"], head["weight"][first:last], head["labels"], None, None, None
        )
        states.append(kernels.sweep(part, options._replace(vocab_start=first), ["states"], 0))
    whole = _linear_kernels.Head(*(head.get(name) for name in _linear_kernels.Head._fields))
    got = kernels.finish(torch.stack([each["states"] for each in states]), whole, options)
    for name, expected in truth(leaves_of(head, (), torch.float64)).items():
        within(worst(got[name].double(), expected.double()), VALUES)


def test_autocast_does_not_round_gradients() -> None:
    head = make((3, 5), 16, 60)
    leaves = leaves_of(head, ("weight",))
    with torch.autocast("cpu", torch.bfloat16):
        got = call(leaves)
    (grad,) = torch.autograd.grad(got.logps.sum(), leaves["weight"])
    assert grad.dtype is torch.float32
    assert not torch.equal(grad, grad.bfloat16().float())


def test_what_has_no_kernels_runs_plain_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_linear_kernels, "_told", set())
    wide = make(dtype=torch.float64)
    with pytest.warns(UserWarning, match="float64 tensors on CUDA"):
        assert torch.equal(call(wide).logps, call(wide).logps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(wide)
    missing = _cublas.CudaState(False, "cuBLAS missing: none")
    monkeypatch.setattr(_cublas, "cublas_available", lambda: missing)
    head = make()
    with pytest.warns(UserWarning, match="cuBLAS missing: none"):
        within(worst(call(head).logps, truth(leaves_of(head, (), torch.float64))["logps"]), VALUES)


def test_bad_labels_are_noted() -> None:
    head = make((2, 3), 8, 20)
    head["labels"][0, 0] = 20
    leaves = leaves_of(head, ("hidden", "weight"))
    got = call(leaves)
    assert got.logps[0, 0].isnan()
    with pytest.raises(ValueError, match=r"labels: .* at index 0"):
        prefopt.cuda_check()


def test_bad_labels_are_said_at_once_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """PREFOPT_CHECK=1, on logits and without them; the next call finds nothing left."""
    monkeypatch.setenv("PREFOPT_CHECK", "1")
    head = make((2, 3), 8, 20)
    good = head["labels"].clone()
    logits = torch.zeros(2, 3, 20)
    head["labels"][1, 0] = 20
    with pytest.raises(ValueError, match=r"labels: .* at index 3"):
        call(head)
    with pytest.raises(ValueError, match=r"labels: .* at index 3"):
        prefopt_torch.token_logps(logits, head["labels"])
    flags = torch.tensor([0, 2, 1])
    with pytest.raises(ValueError, match=r"desirable: got a value out of its range"):
        prefopt_torch.kto_loss(logits[0, :, 0], logits[1, :, 0], flags, kl=torch.tensor(0.0))
    head["labels"] = good
    assert call(head).logps.isfinite().all()


@pytest.mark.parametrize("launches", [0, 1, 2])
def test_a_failed_launch_gives_no_result(launches: int) -> None:
    """An exception that names the cause; the call after it is right."""
    head = make((2, 3), 8, 20)
    want = call(head).logps
    _cuda.library().handle.cuda_sim_fail_launch(launches, 719)
    with pytest.raises(RuntimeError, match=r"cuda: launch of a kernel: .*LaunchFailure"):
        call(head)
    assert torch.equal(call(head).logps, want)


def test_a_limit_of_memory_keeps_no_logits() -> None:
    head = make((3, 5), 16, 500)
    leaves = leaves_of(head, PARAMETERS[:2])
    got = call(leaves, memory_limit=1 << 20)
    want = call(leaves)
    within(worst(got.logps, want.logps), VALUES)
    torch.autograd.grad(got.logps.sum(), leaves["weight"])
