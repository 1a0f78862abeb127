"""Arrays of other libraries on a CUDA device in prefopt.torch: on the simulated GPU, whose memory is
the host's, with arrays that only claim to be elsewhere. tests/gpu/test_gpu_arrays.py has real ones.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_ways import WAYS  # noqa: E402

from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt.torch import _arrays  # noqa: E402

pytestmark = pytest.mark.cuda_sim

OUR_STREAM = 77
ROWS, VOCAB = 6, 50


class Event:
    def __init__(self) -> None:
        self.is_done = False

    def query(self) -> bool:
        return self.is_done


class FakeCuda:
    """`_arrays.Cuda` without a GPU; notes what it is asked."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.events: list[Event] = []
        self.captures = False

    def from_dlpack(self, value: Any) -> Any:
        return torch.utils.dlpack.from_dlpack(value.__dlpack__(stream=OUR_STREAM))

    def from_interface(self, value: Any) -> Any:
        self.notes.append("read")
        return torch.from_numpy(value.array)

    def wait_for(self, handle: int) -> None:
        self.notes.append(("wait", handle))

    def is_capturing(self) -> bool:
        return self.captures

    def record(self, _device: Any) -> Event:
        self.events.append(Event())
        return self.events[-1]


class ByDLPack:
    """What CuPy's and JAX's arrays are here: an exporter that is told a stream."""

    def __init__(self, values: Any, device: tuple[int, int] = (2, 0)) -> None:
        self.tensor, self.device = torch.as_tensor(values), device
        self.streams: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        self.streams.append(stream)
        return self.tensor.__dlpack__()


class ByInterface:
    """Numba's and older libraries' arrays."""

    def __init__(self, values: Any, **entries: Any) -> None:
        self.array = np.asarray(values)
        self.entries = entries

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.array.__array_interface__, "version": 3, **self.entries}


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    fake = FakeCuda()
    monkeypatch.setattr(_arrays, "_cuda", fake)
    _arrays._retired.clear()
    with WAYS["cuda"]():
        yield fake
    _arrays._retired.clear()


@pytest.fixture
def logits() -> Any:
    return torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> Any:
    return torch.arange(ROWS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dlpack(logits: Any, labels: Any, dtype: Any) -> None:
    logits = logits.to(dtype)
    ours, theirs = ByDLPack(logits), ByDLPack(labels)
    got = prefopt_torch.token_logps(ours, theirs, stats=("entropy",))
    want = prefopt_torch.token_logps(logits, labels, stats=("entropy",))
    assert torch.equal(got.logps, want.logps)
    assert torch.equal(got.entropy, want.entropy)
    assert ours.streams == theirs.streams == [OUR_STREAM]


@pytest.mark.parametrize(
    ("entries", "waits"),
    [
        ({}, []),
        ({"stream": None}, []),
        ({"stream": 1}, [("wait", 0)]),
        ({"stream": 99}, [("wait", 99)]),
    ],
    ids=["absent", "None", "legacy", "own"],
)
def test_interface(logits: Any, labels: Any, entries: Any, waits: Any, cuda: FakeCuda) -> None:
    """Our stream waits for the array's before its memory is looked at."""
    got = prefopt_torch.token_logps(ByInterface(logits, **entries), labels=labels).logps
    assert torch.equal(got, prefopt_torch.token_logps(logits, labels).logps)
    assert cuda.notes == [*waits, "read"]


@pytest.mark.parametrize(
    ("entries", "error"),
    [({"stream": 0}, ValueError), ({"stream": "1"}, ValueError), ({"mask": object()}, TypeError)],
    ids=["stream 0", "stream of text", "mask"],
)
def test_interfaces_that_are_refused(
    logits: Any, labels: Any, entries: Any, error: Any, cuda: FakeCuda
) -> None:
    with pytest.raises(error, match=r"^logits: expected a"):
        prefopt_torch.token_logps(ByInterface(logits, **entries), labels)
    assert not cuda.notes


def test_on_the_cpu_they_are_refused_as_before(logits: Any, labels: Any) -> None:
    """NumPy's functions take those."""
    with pytest.raises(TypeError, match=r"logits: expected a torch\.Tensor, got ndarray"):
        prefopt_torch.token_logps(logits.numpy(), labels)
    with pytest.raises(TypeError, match=r"labels: expected a torch\.Tensor, got ByDLPack"):
        prefopt_torch.token_logps(logits, ByDLPack(labels, (1, 0)))


def test_too_many_arguments_are_said(logits: Any, labels: Any) -> None:
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        prefopt_torch.token_logps(ByDLPack(logits), labels, ByDLPack(labels))


def test_every_operation_takes_them(logits: Any, labels: Any) -> None:
    ref, hidden, weight = logits.flip(0), logits[:, :6].contiguous(), logits.T.contiguous()
    sums = torch.linspace(-9, -4, ROWS)
    calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
        (prefopt_torch.pair_token_stats, (logits, ref, labels), {}),
        (prefopt_torch.linear_token_logps, (hidden, weight, labels), {}),
        (
            prefopt_torch.linear_pair_token_stats,
            (hidden, weight, hidden.flip(0), weight, labels),
            {},
        ),
        (prefopt_torch.dpo_loss, (sums, sums - 1, sums + 0.5, sums), {}),
    ]
    for function, args, kwargs in calls:
        want = function(*args, **kwargs)
        got = function(*map(ByDLPack, args), **{k: ByDLPack(v) for k, v in kwargs.items()})
        for one, other in zip(got, want, strict=True):
            assert one is other is None or torch.equal(one, other)
    tokens = logits[:, :4].contiguous()
    got = prefopt_torch.sequence_logps(ByDLPack(tokens), mask=ByInterface(tokens > 0))
    assert torch.equal(got, prefopt_torch.sequence_logps(tokens, tokens > 0))


def test_a_preference_loss_takes_them() -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, weight = (torch.randn(s, 8, generator=generator) for s in (12, 40))
    hidden, labels = hidden.view(4, 3, 8), torch.arange(12).view(4, 3)
    ref = torch.zeros(4)
    function = prefopt_torch.LinearPreferenceLoss("dpo.sigmoid", beta=0.1)
    want, _ = function(hidden, weight, labels, ref_logps=ref)
    got, _ = function(*map(ByDLPack, (hidden, weight, labels)), ref_logps=ByDLPack(ref))
    assert torch.equal(got, want)


def test_gradients_flow_beside_them(logits: Any, labels: Any) -> None:
    leaf = logits.clone().requires_grad_()
    (want,) = torch.autograd.grad(prefopt_torch.token_logps(leaf, labels).logps.sum(), leaf)
    (got,) = torch.autograd.grad(
        prefopt_torch.token_logps(leaf, ByDLPack(labels)).logps.sum(), leaf
    )
    assert torch.equal(got, want)


def test_memory_is_kept_until_the_kernels_are_done(
    logits: Any, labels: Any, cuda: FakeCuda
) -> None:
    """An event behind the last kernel that reads an array, and the array, until that has passed."""
    leaf = logits.clone().requires_grad_()
    theirs = ByDLPack(labels)
    loss = prefopt_torch.token_logps(leaf, theirs).logps.sum()
    gc.collect()
    assert not cuda.events  # backward will read the labels
    loss.backward()
    del loss
    gc.collect()
    assert [value for _, value in _arrays._retired] == [theirs]
    prefopt_torch.token_logps(ByDLPack(logits), labels)
    assert _arrays._retired[0][1] is theirs  # its kernels still run
    for event in cuda.events:
        event.is_done = True
    prefopt_torch.token_logps(ByDLPack(logits), labels)
    gc.collect()
    assert theirs not in [value for _, value in _arrays._retired]


def test_nothing_is_recorded_in_a_graph(logits: Any, labels: Any, cuda: FakeCuda) -> None:
    cuda.captures = True
    prefopt_torch.token_logps(ByDLPack(logits), labels)
    gc.collect()
    assert not cuda.events
    assert not _arrays._retired
