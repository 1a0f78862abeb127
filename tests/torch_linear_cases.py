"""What the tests of the fused linear operation share: heads, and the truth from whole logits."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from prefopt.torch import _bridge  # noqa: E402

STATS = ("entropy", "correct", "mean_logit", "max_logit", "lse2")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PARAMETERS = ("hidden", "weight", "bias", "lora_a", "lora_b")
WAYS = {
    "direct": contextlib.nullcontext,
    "operators": _bridge.force_operators,
    "plain": _bridge.force_plain,
}


def make(
    shape: tuple[int, ...] = (3, 5),
    size: int = 16,
    vocab: int = 33,
    *,
    dtype: Any = torch.float32,
    head_dtype: Any = None,
    bias: bool = False,
    rank: int = 0,
    seed: int = 0,
    ignore_index: int = -100,
) -> dict[str, Any]:
    """hidden, weight, labels (two of them ignored, where there are three), bias and LoRA.

    Logits have a spread of about 3.
    """
    generator = torch.Generator().manual_seed(seed)
    head_dtype = dtype if head_dtype is None else head_dtype

    def draw(*sizes: int, scale: float = 1.0, to: Any = head_dtype) -> Any:
        return (scale * torch.randn(*sizes, generator=generator)).to(to)

    made: dict[str, Any] = {
        "hidden": draw(*shape, size, to=dtype),
        "weight": draw(vocab, size, scale=3 * size**-0.5),
        "labels": torch.randint(0, vocab, shape, generator=generator),
    }
    if made["labels"].numel() > 2:
        made["labels"].view(-1)[1] = ignore_index
        made["labels"].view(-1)[-1] = ignore_index
    if bias:
        made["bias"] = draw(vocab)
    if rank:
        made["lora_a"] = draw(rank, size, scale=size**-0.5)
        made["lora_b"] = draw(vocab, rank, scale=rank**-0.5)
    return made


def leaves_of(head: dict[str, Any], names: tuple[str, ...], dtype: Any = None) -> dict[str, Any]:
    """The head with fresh tensors in it, those named requiring gradients."""
    made = {}
    for name, each in head.items():
        cast = each if dtype is None or name == "labels" else each.to(dtype)
        made[name] = cast.detach().clone().requires_grad_(name in names)
    return made


def logits(head: dict[str, Any], options: dict[str, Any]) -> Any:
    """x in the dtype of hidden, by torch's own functions."""
    z = torch.nn.functional.linear(head["hidden"], head["weight"], head.get("bias"))
    if "lora_a" in head:
        z = z + head["hidden"] @ head["lora_a"].T @ head["lora_b"].T
    x = options.get("logit_scale", 1.0) * z
    if options.get("softcap"):
        x = options["softcap"] * torch.tanh(x / options["softcap"])
    return x / options.get("temperature", 1.0)


def truth(head: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Every result, differentiable in what the head holds. For float64 heads."""
    x, labels = logits(head, options), head["labels"].long()
    kept = labels != options.get("ignore_index", -100)
    log_p = torch.log_softmax(x, dim=-1)
    safe = labels.masked_fill(~kept, 0)
    p = log_p.exp()
    results = {
        "logps": log_p.gather(-1, safe.unsqueeze(-1)).squeeze(-1),
        "lse": torch.logsumexp(x, dim=-1),
        "entropy": -torch.where(p > 0, p * log_p, 0).sum(dim=-1),
        "correct": x.argmax(dim=-1) == labels,
        "mean_logit": x.mean(dim=-1),
        "max_logit": x.amax(dim=-1),
        "lse2": torch.logsumexp(2 * x, dim=-1),
    }
    return {name: torch.where(kept, each, torch.zeros_like(each)) for name, each in results.items()}


def true_topk(head: dict[str, Any], k: int, **options: Any) -> tuple[Any, Any]:
    """ids and log-probabilities by a stable sort; -1 and 0 where ignored."""
    x = logits(head, options)
    values, ids = torch.log_softmax(x, dim=-1).sort(dim=-1, descending=True, stable=True)
    ignored = (head["labels"] == options.get("ignore_index", -100)).unsqueeze(-1)
    return ids[..., :k].masked_fill(ignored, -1), values[..., :k].masked_fill(ignored, 0)


def worst(got: Any, want: Any, relative: float = 0.0) -> float:
    """The largest |got - want| beyond `relative` |want|; inf where one is NaN and the other not."""
    if got.numel() == 0:
        return 0.0
    got, want = got.detach().double(), want.detach().double()
    assert got.shape == want.shape
    if not torch.equal(got.isnan(), want.isnan()) or not torch.equal(
        got.isinf() * got.sign(), want.isinf() * want.sign()
    ):
        return float("inf")
    error = (got - want).abs() - relative * want.abs()
    return float(error[want.isfinite()].clamp(min=0).max()) if want.isfinite().any() else 0.0


def within(error: float, budget: float) -> None:
    """An error and what is allowed: at most twice the worst that was measured."""
    assert error <= budget, f"error {error:.2e}, allowed {budget:.2e}"
