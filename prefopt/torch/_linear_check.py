"""The arguments of linear_token_logps that the kernels cannot check for tensors, or that fake and
remote tensors never bring to them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prefopt._linear import HIDDEN_GRADS

from ._head import Head, Options


def check_types(head: Head) -> None:
    for name, value in head._asdict().items():
        if not isinstance(value, Tensor) and (
            value is not None or name in ("hidden", "weight", "labels")
        ):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")


def check_head(head: Head) -> None:
    """What the kernels cannot see of tensors, or of fake and remote ones that never reach them."""
    hidden, weight, labels = head.hidden, head.weight, head.labels
    for name, value in head._asdict().items():
        if value is None:
            continue
        if name == "labels":
            if value.is_floating_point() or value.is_complex() or value.dtype is torch.bool:
                raise TypeError(f"labels: expected an integer dtype, got {value.dtype}")
        elif not value.is_floating_point():
            raise TypeError(f"{name}: expected a floating dtype, got {value.dtype}")
        elif (value.dtype is torch.float64) != (hidden.dtype is torch.float64):
            raise TypeError(f"{name}: expected float64 with float64 hidden only, got {value.dtype}")
        if value.device != hidden.device:
            raise ValueError(f"{name}: expected device {hidden.device}, got {value.device}")
    if hidden.dim() == 0 or hidden.shape[:-1] != labels.shape:
        raise ValueError(
            f"labels: expected the leading shape of hidden {tuple(hidden.shape)}, "
            f"got {tuple(labels.shape)}"
        )
    if hidden.shape[-1] == 0:
        raise ValueError("hidden: expected a hidden size of at least 1, got 0")
    if weight.dim() != 2 or weight.shape[0] == 0 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(
            f"weight: expected [V, {hidden.shape[-1]}] with V at least 1, got {tuple(weight.shape)}"
        )
    _check_additions(head)


def _check_additions(head: Head) -> None:
    """bias and LoRA beside the head's [V, H]."""
    vocab, size = head.weight.shape
    if head.bias is not None and head.bias.shape != (vocab,):
        raise ValueError(f"bias: expected ({vocab},), got {tuple(head.bias.shape)}")
    if (head.lora_a is None) != (head.lora_b is None):
        missing = "lora_a" if head.lora_a is None else "lora_b"
        raise ValueError(f"{missing}: expected lora_a and lora_b, or neither")
    if head.lora_a is None or head.lora_b is None:
        return
    if head.lora_a.dim() != 2 or head.lora_a.shape[1] != size:
        raise ValueError(f"lora_a: expected [r, {size}], got {tuple(head.lora_a.shape)}")
    if head.lora_b.shape != (vocab, head.lora_a.shape[0]):
        raise ValueError(
            f"lora_b: expected ({vocab}, {head.lora_a.shape[0]}), got {tuple(head.lora_b.shape)}"
        )


def check_options(
    options: Options, softcap: float | None, memory_limit: int | None, topk: int, vocab: int
) -> None:
    if not 1e-30 <= options.temperature <= 1e30:
        raise ValueError(
            f"temperature: expected a number from 1e-30 to 1e30, got {options.temperature}"
        )
    if not 0 < abs(options.logit_scale) < math.inf:  # comparisons: torch.compile follows them
        raise ValueError(
            f"logit_scale: expected a finite number that is not 0, got {options.logit_scale}"
        )
    if softcap is not None and not 0 < options.softcap < math.inf:
        raise ValueError(f"softcap: expected a finite number > 0, or None, got {softcap}")
    if memory_limit is not None and memory_limit < 1:
        raise ValueError(
            f"memory_limit: expected a number of bytes > 0, or None, got {memory_limit}"
        )
    if not 0 <= options.grad_filter < 1:
        raise ValueError(f"grad_filter: expected a number in [0, 1), got {options.grad_filter}")
    if not 0 <= topk <= vocab:
        raise ValueError(f"topk: expected 0 <= topk <= {vocab}, the vocabulary, got {topk}")


def check_split(group: str, start: int | None, topk: int, gradients: Sequence[str]) -> None:
    if not group:
        if start is not None:
            raise ValueError("vocab_start: expected with a group only")
        return
    if start is None:
        raise ValueError("vocab_start: expected with a group, got None")
    if topk:
        raise ValueError("topk: expected 0 with a group: a part does not know the others' entries")
    if gradients:
        raise ValueError(
            "return_grad_hidden: expected False with a group: each rank has a share of it"
        )


def hidden_grads(wanted: bool | Sequence[str]) -> list[str]:
    if isinstance(wanted, bool):
        return ["logps"] if wanted else []
    if isinstance(wanted, str) or not all(name in HIDDEN_GRADS for name in wanted):
        raise ValueError(
            f"return_grad_hidden: expected a bool or names out of {', '.join(HIDDEN_GRADS)}, "
            f"got {wanted!r}"
        )
    names = [name for name in HIDDEN_GRADS if name in wanted]
    if names == ["entropy"]:
        raise ValueError('return_grad_hidden: expected "logps" or "lse" with "entropy"')
    return names
