"""The arguments of linear_token_logps that the kernels cannot check for tensors, or that fake and
remote tensors never bring to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from prefopt._linear import HIDDEN_GRADS

from ._bridge import check_tensor, take_temperature
from ._head import Head, Options


def _named(head: Head, prefix: str) -> Iterator[tuple[str, Any]]:
    """The tensors by the names that their caller knows; labels are not the reference's own."""
    for name, value in head._asdict().items():
        yield (name if name == "labels" else prefix + name), value


def check_types(head: Head, prefix: str = "") -> None:
    """Tensors, where they have to be. `prefix` stands before the names in messages."""
    needed = {f"{prefix}hidden", f"{prefix}weight", "labels"}
    for name, value in _named(head, prefix):
        if value is not None or name in needed:
            check_tensor(name, value)


def check_head(head: Head, prefix: str = "") -> None:
    """dtypes, devices and shapes."""
    hidden, weight, labels = head.hidden, head.weight, head.labels
    for name, value in _named(head, prefix):
        if value is None:
            continue
        if name == "labels":
            if value.is_floating_point() or value.is_complex() or value.dtype is torch.bool:
                raise TypeError(f"labels: expected an integer dtype, got {value.dtype}")
        elif not value.is_floating_point():
            raise TypeError(f"{name}: expected a floating dtype, got {value.dtype}")
        elif (value.dtype is torch.float64) != (hidden.dtype is torch.float64):
            raise TypeError(
                f"{name}: expected float64 with float64 {prefix}hidden only, got {value.dtype}"
            )
        if value.device != hidden.device:
            raise ValueError(f"{name}: expected device {hidden.device}, got {value.device}")
    if hidden.dim() == 0 or hidden.shape[:-1] != labels.shape:
        raise ValueError(
            f"labels: expected the leading shape of {prefix}hidden {tuple(hidden.shape)}, "
            f"got {tuple(labels.shape)}"
        )
    if hidden.shape[-1] == 0:
        raise ValueError(f"{prefix}hidden: expected a hidden size of at least 1, got 0")
    if weight.dim() != 2 or weight.shape[0] == 0 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(
            f"{prefix}weight: expected [V, {hidden.shape[-1]}] with V at least 1, "
            f"got {tuple(weight.shape)}"
        )
    if head.bias is not None and head.bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{prefix}bias: expected ({weight.shape[0]},), got {tuple(head.bias.shape)}"
        )
    _check_lora(head)


def _check_lora(head: Head) -> None:
    vocab, size = head.weight.shape
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


def take_options(
    head: Head,
    *,
    ignore_index: int,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    memory_limit: int | None,
    grad_filter: float | None = None,
    vocab_start: int | None = None,
    group: str = "",
) -> Options:
    """The options of a call, checked."""
    if not 0 < abs(logit_scale) < math.inf:  # comparisons: torch.compile follows them
        raise ValueError(f"logit_scale: expected a finite number that is not 0, got {logit_scale}")
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"softcap: expected a finite number > 0, or None, got {softcap}")
    if memory_limit is not None and memory_limit < 1:
        raise ValueError(
            f"memory_limit: expected a number of bytes > 0, or None, got {memory_limit}"
        )
    if grad_filter is not None and not 0 <= grad_filter < 1:
        raise ValueError(f"grad_filter: expected a number in [0, 1), got {grad_filter}")
    return Options(
        ignore_index,
        float(logit_scale),
        0.0 if softcap is None else float(softcap),
        take_temperature(temperature),
        0 if memory_limit is None else memory_limit,
        0.0 if grad_filter is None else float(grad_filter),
        rounding_of(head),
        vocab_start or 0,
        group,
    )


def rounding_of(head: Head) -> str:
    """The dtype that autocast would round the inputs of a linear layer to, "" for none."""
    kind = head.hidden.device.type
    if head.hidden.dtype is torch.float64 or not torch.amp.is_autocast_available(kind):
        return ""
    if not torch.is_autocast_enabled(kind):
        return ""
    return str(torch.get_autocast_dtype(kind)).removeprefix("torch.")


def check_topk(topk: int, vocab: int) -> None:
    """Within the vocabulary."""
    if not 0 <= topk <= vocab:
        raise ValueError(f"topk: expected 0 <= topk <= {vocab}, the vocabulary, got {topk}")


def check_split(group: str, start: int | None, topk: int, gradients: Sequence[str]) -> None:
    """What a split vocabulary needs, and cannot have."""
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
    """The names that `return_grad_hidden` asks for."""
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
