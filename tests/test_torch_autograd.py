"""prefopt.torch.token_logps around its numbers: memory, in-place changes, refusals, bad input."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt.torch import _bridge, _token  # noqa: E402

STATS = ("entropy", "correct", "mean_logit", "max_logit", "lse2")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WAYS = {
    "direct": contextlib.nullcontext,
    "operators": _bridge.force_operators,
    "plain": _bridge.force_plain,
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs through the autograd.Function, through the torch.library operators, and in
    plain torch.
    """
    with WAYS[request.param]():
        yield request.param


def make(
    dtype: Any, shape: tuple[int, ...] = (3, 5), vocab: int = 33, seed: int = 0
) -> tuple[Any, Any]:
    """Logits with a spread of about 3 and labels with two ignored rows."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(*shape, vocab, generator=generator)).to(dtype)
    labels = torch.randint(0, vocab, shape, generator=generator)
    labels.view(-1)[1] = -100
    labels.view(-1)[-1] = -100
    return logits, labels


def oracle(logits: Any, labels: Any, temperature: float = 1.0) -> dict[str, Any]:
    """Every result in float64 with torch's own functions, differentiable in logits."""
    x = logits.double() / temperature
    log_p = torch.log_softmax(x, dim=-1)
    kept = labels != -100
    chosen = log_p.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    results = {
        "logps": chosen,
        "lse": torch.logsumexp(x, dim=-1),
        "entropy": -(log_p.exp() * log_p).sum(dim=-1),
        "correct": x.argmax(dim=-1) == labels,
        "mean_logit": x.mean(dim=-1),
        "max_logit": x.amax(dim=-1),
        "lse2": torch.logsumexp(2 * x, dim=-1),
    }
    return {name: torch.where(kept, each, torch.zeros_like(each)) for name, each in results.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reads_in_place(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels get the tensors' own memory: strided leading axes, shifted views, int32 and int64
    labels.
    """
    seen: list[tuple[int, int]] = []
    core = _token._core

    class Spy:
        def __getattr__(self, name: str) -> Any:
            function = getattr(core, name)

            def spy(*arguments: Any) -> Any:
                if name.startswith("token_logps"):
                    seen.append((arguments[0].ctypes.data, arguments[1].ctypes.data))
                return function(*arguments)

            return spy

    monkeypatch.setattr(_token, "_core", Spy())
    whole = torch.randn(4, 6, 10).to(dtype)
    shifted = torch.randint(0, 10, (4, 6))[:, 1:]
    for logits in (
        whole[:, :-1],
        whole.transpose(0, 1)[:-1].transpose(0, 1),
        whole[..., :7][:, :5],
    ):
        leaf = logits.detach().requires_grad_()
        labels = shifted.clamp(max=logits.shape[-1] - 1) if logits.shape[-1] < 10 else shifted
        seen.clear()
        prefopt_torch.token_logps(leaf, labels).logps.sum().backward()
        assert seen == [(logits.data_ptr(), labels.data_ptr())] * 2
        exact = logits.detach().double().requires_grad_()
        oracle(exact, labels)["logps"].sum().backward()
        torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=2.0**-7, atol=1e-5)


def test_last_axis_not_contiguous_is_copied_once(way: str) -> None:
    logits = torch.randn(9, 4).t().requires_grad_()
    logits.retain_grad()
    labels = torch.randint(0, 9, (4,))
    result = prefopt_torch.token_logps(logits, labels).logps
    torch.testing.assert_close(result, oracle(logits, labels)["logps"].float(), rtol=0, atol=5e-6)
    result.sum().backward()
    expected = torch.nn.functional.one_hot(labels, 9) - logits.softmax(-1)
    torch.testing.assert_close(logits.grad, expected.detach(), rtol=0, atol=1e-6)


def test_results_may_change_in_place_before_backward(way: str) -> None:
    logits, labels = make(torch.float32)
    leaf = logits.clone().requires_grad_()
    results = prefopt_torch.token_logps(leaf, labels, stats=STATS)
    kept = (labels != -100).float()
    results.logps.mul_(kept).mul_(2.0)
    results.entropy.mul_(3.0)
    results.lse.zero_()
    (results.logps.sum() + results.entropy.sum()).backward()
    exact = logits.double().requires_grad_()
    expected = oracle(exact, labels)
    (2 * expected["logps"].sum() + 3 * expected["entropy"].sum()).backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=0, atol=5e-5)


@pytest.mark.parametrize("which", ["logits", "labels"])
def test_inputs_may_not_change_before_backward(way: str, which: str) -> None:
    logits, labels = make(torch.float32)
    x = logits.clone().requires_grad_() * 1.0
    result = prefopt_torch.token_logps(x, labels).logps
    with torch.no_grad():
        (x if which == "logits" else labels).add_(0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


@pytest.mark.parametrize(("stats", "count"), [((), 3), (("correct", "lse2"), 3), (("entropy",), 4)])
def test_saves_only_what_backward_needs(way: str, stats: tuple[str, ...], count: int) -> None:
    """logits, labels, lse, and the entropy only where it was asked for."""
    logits, labels = make(torch.float32)
    leaf = logits.requires_grad_()
    saved: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        prefopt_torch.token_logps(leaf, labels, stats=stats)
    large = [each for each in saved if each.numel() == leaf.numel()]
    assert len(large) == 1
    assert large[0].data_ptr() == leaf.data_ptr()
    assert len(saved) == count


def test_double_backward_is_refused(way: str) -> None:
    logits, labels = make(torch.float64)
    logits.requires_grad_()
    (grad,) = torch.autograd.grad(
        prefopt_torch.token_logps(logits, labels).logps.sum(), logits, create_graph=True
    )
    assert grad.abs().sum() > 0  # the first derivative is there
    with pytest.raises(NotImplementedError, match="token_logps has no second derivative"):
        grad.pow(2).sum().backward()


def test_vmap_is_refused() -> None:
    logits, labels = make(torch.float32)
    with pytest.raises(NotImplementedError, match=r"torch\.vmap.*any leading shape"):
        torch.vmap(lambda x, y: prefopt_torch.token_logps(x, y).logps)(logits, labels)


def test_forward_mode_is_refused() -> None:
    logits, labels = make(torch.float32)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits, torch.ones_like(logits))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            prefopt_torch.token_logps(dual, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_takes_logits_as_they_come(way: str, dtype: Any) -> None:
    logits, labels = make(dtype)
    plain = prefopt_torch.token_logps(logits, labels, stats=("entropy",))
    leaf = logits.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        inside = prefopt_torch.token_logps(leaf, labels, stats=("entropy",))
        assert inside.logps.dtype is torch.float32
    inside.logps.sum().backward()
    assert torch.equal(inside.logps, plain.logps)
    assert torch.equal(inside.entropy, plain.entropy)
    assert leaf.grad.dtype is dtype


def test_checkpointing(way: str) -> None:
    logits, labels = make(torch.float32)
    leaf, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    from torch.utils.checkpoint import checkpoint

    function = lambda x: prefopt_torch.token_logps(x * 2.0, labels).logps.sum()  # noqa: E731
    checkpoint(function, leaf, use_reentrant=False).backward()
    function(other).backward()
    assert torch.equal(leaf.grad, other.grad)


def test_raw_bfloat16_words() -> None:
    logits, labels = make(torch.bfloat16)
    expected = prefopt_torch.token_logps(logits, labels).logps
    for words in (logits.view(torch.uint16), logits.view(torch.int16)):
        assert torch.equal(
            prefopt_torch.token_logps(words, labels, dtype="bfloat16").logps, expected
        )
    with pytest.raises(TypeError, match="logits: expected float16, bfloat16"):
        prefopt_torch.token_logps(logits.view(torch.int16), labels)
    with pytest.raises(TypeError, match="dtype: expected"):
        prefopt_torch.token_logps(logits, labels, dtype="float32")


def test_gradient_does_not_copy_into_the_leaf() -> None:
    """A fresh gradient becomes leaf.grad itself: a second copy of [tokens, vocab] would double the
    memory.
    """
    leaf = torch.randn(4, 100, requires_grad=True)
    pointers: list[int] = []
    leaf.register_hook(lambda grad: pointers.append(grad.data_ptr()))
    prefopt_torch.token_logps(leaf, torch.zeros(4, dtype=torch.long)).logps.sum().backward()
    assert leaf.grad.data_ptr() == pointers[0]


BAD = {
    "logits is an array": (
        lambda x, y: (x.numpy(), y),
        {},
        TypeError,
        "logits: expected a torch.Tensor",
    ),
    "labels is a list": (
        lambda x, y: (x, y.tolist()),
        {},
        TypeError,
        "labels: expected a torch.Tensor",
    ),
    "integer logits": (
        lambda x, y: (x.int(), y),
        {},
        TypeError,
        "logits: expected float16, bfloat16, float32 or float64, got torch.int32",
    ),
    "8-bit logits": (
        lambda x, y: (x.to(torch.float8_e4m3fn), y),
        {},
        TypeError,
        "logits: expected float16, bfloat16, float32 or float64, got torch.float8_e4m3fn",
    ),
    "sparse logits": (
        lambda x, y: (x.to_sparse(), y),
        {},
        TypeError,
        "logits: expected a dense tensor, got torch.sparse_coo",
    ),
    "sparse labels": (
        lambda x, y: (x, y.to_sparse()),
        {},
        TypeError,
        "labels: expected a dense tensor",
    ),
    "float labels": (
        lambda x, y: (x, y.float()),
        {},
        TypeError,
        "labels: expected an integer dtype",
    ),
    "boolean labels": (lambda x, y: (x, y > 3), {}, TypeError, "labels: expected an integer dtype"),
    "labels of another shape": (
        lambda x, y: (x, y[:, 1:]),
        {},
        ValueError,
        "labels: expected the leading shape",
    ),
    "no vocabulary": (lambda x, y: (x[..., :0], y), {}, ValueError, "vocabulary"),
    "scalar logits": (
        lambda x, y: (x[0, 0, 0], y),
        {},
        ValueError,
        "logits: expected ...., vocab., got a scalar",
    ),
    "temperature 0": (lambda x, y: (x, y), {"temperature": 0.0}, ValueError, "temperature"),
    "temperature a word": (lambda x, y: (x, y), {"temperature": "1"}, TypeError, "^temperature: "),
    "temperature True": (lambda x, y: (x, y), {"temperature": True}, TypeError, "^temperature: "),
    "temperature NaN": (lambda x, y: (x, y), {"temperature": math.nan}, ValueError, "temperature"),
    "temperature inf": (lambda x, y: (x, y), {"temperature": math.inf}, ValueError, "temperature"),
    "unknown statistic": (
        lambda x, y: (x, y),
        {"stats": ("entropie",)},
        ValueError,
        "stats.*entropie",
    ),
    "a string of stats": (lambda x, y: (x, y), {"stats": "entropy"}, ValueError, "stats"),
    "another device": (
        lambda x, y: (x, y.to("meta")),
        {},
        ValueError,
        "labels: expected device cpu",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(way: str, case: str) -> None:
    change, keywords, error, match = BAD[case]
    with pytest.raises(error, match=match):
        prefopt_torch.token_logps(*change(*make(torch.float32)), **keywords)


def test_a_view_that_only_notes_its_sign(way: str) -> None:
    """The imaginary part of a conjugate is a negated view of memory that holds the opposite."""
    pairs = torch.randn(5, 33, 2, dtype=torch.float64)
    labels = torch.arange(5)
    noted = torch.view_as_complex(pairs).conj().imag
    assert noted.is_neg()
    logps = prefopt_torch.token_logps(noted, labels).logps
    torch.testing.assert_close(logps, prefopt_torch.token_logps(-pairs[..., 1], labels).logps)


@pytest.mark.parametrize("label", [-1, 33, 10**9])
def test_label_out_of_range(way: str, label: int) -> None:
    """The kernels raise and name the index; the plain form, which cannot look, gives NaN and no
    gradient.
    """
    logits, labels = make(torch.float32)
    logits.requires_grad_()
    labels[1, 2] = label
    if way != "plain":
        with pytest.raises(ValueError, match=r"labels.*7"):
            prefopt_torch.token_logps(logits, labels)
        return
    result = prefopt_torch.token_logps(logits, labels).logps
    assert result.isnan().nonzero().tolist() == [[1, 2]]
    result.sum().backward()
    assert not logits.grad[1, 2].any()
    assert logits.grad[0, 0].any()


def test_large_gradients_ask_for_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        _bridge._core, "advise_huge_pages", lambda array: asked.append(array.nbytes) or True
    )
    monkeypatch.setattr(_bridge, "HUGE_GRADIENT_BYTES", 4000)
    for rows in (9, 10):
        leaf = torch.randn(rows, 100, requires_grad=True)
        prefopt_torch.token_logps(leaf, torch.zeros(rows, dtype=torch.long)).logps.sum().backward()
    assert asked == [4000]


def test_import_prefopt_does_not_import_torch() -> None:
    code = "import sys, prefopt; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
