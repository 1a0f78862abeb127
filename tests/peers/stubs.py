"""Stands in for what a trainer's loss method reads: a model, an accelerator, metrics.

A trainer is made without __init__ and gets just the attributes that its loss method reads. Its
model answers every call with prepared logits or log-probabilities, so that the project's code runs
from the model's output to the scalar that it minimises, and autograd leads back to those numbers.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

NEVER = (
    -1000.0
)  # a logit whose exponential is 0, so that the other token has log-probability exactly 0


class OneProcess:
    """What the trainers ask of an accelerator, in one process on the CPU."""

    device = torch.device("cpu")
    num_processes = 1
    use_distributed = False

    def gather(self, tensor: Any) -> Any:
        return tensor

    def gather_for_metrics(self, tensor: Any) -> Any:
        return tensor

    def reduce(self, tensor: Any, reduction: str = "sum") -> Any:
        return tensor


class Metrics(dict[str, Any]):
    """_metrics[mode][name], lists made on demand."""

    def __missing__(self, key: str) -> Any:
        self[key] = Metrics() if key in ("train", "eval") else []
        return self[key]


class Model:
    """Answers every call with the same output."""

    training = False

    def __init__(self, output: Any) -> None:
        self.output = output

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.output


def bare(trainer: Any, output: Any, **attributes: Any) -> Any:
    """An instance of the trainer without __init__."""

    class Bare(trainer):  # type: ignore[misc]
        def __init__(self) -> None:
            """Nothing: the loss methods read only what is set below."""

    instance = Bare()
    defaults = {
        "model": Model(output),
        "accelerator": OneProcess(),
        "_metrics": Metrics(),
        "ref_model": None,
        "precompute_ref_logps": True,
        "aux_loss_enabled": False,
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "is_encoder_decoder": False,
    }
    for name, value in {**defaults, **attributes}.items():
        setattr(instance, name, value)
    return instance


def outputs(token_logps: torch.Tensor) -> Any:
    """A model's output whose next-token log-probabilities at [row, t] are token_logps[row, t].

    Of two tokens, token 0 has that log-probability x and token 1 the rest, log(1 - exp(x)), both as
    functions of x: the normaliser is 0 and so is its derivative. logits [rows, T + 1, 2], the last
    one unused.
    """
    below = token_logps < 0
    safe = torch.where(below, token_logps, -1.0)
    rest = torch.where(safe < -0.693, torch.log1p(-torch.exp(safe)), torch.log(-torch.expm1(safe)))
    rest = torch.where(below, rest, NEVER)
    logits = torch.stack([token_logps, rest], dim=-1)
    logits = torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1)
    zeros = torch.zeros_like(token_logps).detach()
    return SimpleNamespace(
        logits=logits,
        log_probs=token_logps,
        entropy=zeros,
        mean_logits=zeros,
        is_top1=zeros > 0,
        log_sum_sq_probs=zeros,
        aux_loss=None,
    )


def token_batch(sums: torch.Tensor, lengths: list[int], prompt: int = 1) -> tuple[Any, Any]:
    """Per-token log-probs [rows, T] with sums [rows] at the first answer token, and completion_mask.

    Column t scores position t + 1. The prompt has `prompt` + 1 positions, each with log-prob 0;
    lengths [rows] are answer tokens, 0 allowed (then the sum must be 0).
    """
    width = prompt + max([*lengths, 1])
    first = torch.zeros(width, dtype=sums.dtype)
    first[prompt] = 1.0
    mask = torch.zeros(len(lengths), width + 1, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, prompt + 1 : prompt + 1 + length] = 1
    return sums[:, None] * first, mask
