"""Distributed tensors of the head as the tensors that this process works with.

- Sharded parameters beside ordinary hidden states (FSDP2, also where the head's weight is read
  outside its module's forward): gathered. Each process has tokens of its own, so the gradient is the
  mean over processes, reduce-scattered to the shards, as FSDP does with every other parameter.
- A vocabulary that is split, weight Shard(0), where `group` is given or hidden is itself a
  distributed tensor: this process's rows and where they begin. Other dimensions of the mesh are
  gathered.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from ._head import Head

_ORDINARY = (Tensor, torch.nn.Parameter)


def is_distributed(tensor: Tensor | None) -> bool:
    """True for a DTensor. Its module takes seconds to import and is not, where there are none."""
    if tensor is None or type(tensor) in _ORDINARY:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def group_name(group: Any) -> str:
    """The name of a process group, or of a one-dimensional device mesh's."""
    if hasattr(group, "get_group"):
        group = group.get_group()
    name = getattr(group, "group_name", None)
    if not isinstance(name, str):
        raise TypeError(
            "group: expected a torch.distributed process group or a one-dimensional device mesh, "
            f"got {type(group).__name__}"
        )
    return name


def localise(head: Head, group: str, vocab_start: int | None) -> tuple[Head, str, int | None]:
    """`head` without distributed tensors; the group and the start of the part are derived where
    hidden is one.
    """
    if not any(is_distributed(each) for each in head):
        return head, group, vocab_start
    weight: Any = head.weight
    hidden: Any = head.hidden
    if is_distributed(hidden):
        from torch.distributed.tensor import Replicate

        mesh = hidden.device_mesh
        if not is_distributed(weight) or weight.device_mesh != mesh or mesh.ndim != 1:
            raise ValueError(
                "hidden: expected a distributed tensor on weight's own one-dimensional mesh, or an "
                "ordinary tensor"
            )
        if not group and weight.placements[0].is_shard(0):
            group = group_name(mesh)
        # The operation's own backward adds up over the group: every process has the whole gradient.
        hidden = hidden.redistribute(placements=[Replicate()]).to_local()
    dim = _dimension(weight, group) if is_distributed(weight) and group else None
    if dim is not None:
        vocab_start = _vocab_start(weight, dim)
    labels = head.labels
    parts = {
        name: _local(each, None if name == "lora_a" else dim)
        for name, each in head._asdict().items()
        if name not in ("hidden", "labels")
    }
    if is_distributed(labels):
        labels = labels.full_tensor()  # type: ignore[attr-defined]
    return Head(hidden=hidden, labels=labels, **parts), group, vocab_start


def _dimension(weight: Any, group: str) -> int:
    """The mesh dimension of `weight` that the vocabulary is split over."""
    mesh = weight.device_mesh
    for dim in range(mesh.ndim):
        if mesh.get_group(dim).group_name == group:
            if not weight.placements[dim].is_shard(0):
                raise ValueError(
                    f"weight: expected Shard(0) over the group, got {weight.placements[dim]}"
                )
            return dim
    raise ValueError("group: expected one that weight's device mesh is made of")


def _vocab_start(weight: Any, dim: int) -> int:
    """Shards are as torch.chunk cuts them."""
    mesh, vocab = weight.device_mesh, weight.shape[0]
    step = -(-vocab // mesh.size(dim))
    return int(min(mesh.get_local_rank(dim) * step, vocab))


def _local(tensor: Any, dim: int | None) -> Any:
    """The whole tensor, or its part along mesh dimension `dim`; the gradient's mean goes back."""
    if not is_distributed(tensor):
        return tensor
    from torch.distributed.tensor import Partial, Replicate, Shard

    gathered: list[Any] = [Replicate()] * tensor.device_mesh.ndim
    gradient: list[Any] = [Partial("avg")] * tensor.device_mesh.ndim
    if dim is None:
        return tensor.full_tensor(grad_placements=gradient)
    gathered[dim] = gradient[dim] = Shard(0)
    return tensor.redistribute(placements=gathered).to_local(grad_placements=gradient)
