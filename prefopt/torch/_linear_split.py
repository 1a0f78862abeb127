"""A vocabulary that is split over processes: each holds weight[vocab_start : vocab_start + V_part].

Every process sweeps its own part into row states [..., 9]; one all_gather exchanges them, and each
process merges them in rank order, so all have the same bits. Backward needs no more than the merged
lse: each part's gradient by hidden is its share of a sum, and one all_reduce adds the shares.

With lse_k and H_k those of part k alone and w_k = exp(lse_k - lse):

    H = sum_k w_k (H_k - log w_k)
    d lse / d hidden = sum_k w_k d lse_k
    d H / d hidden   = sum_k w_k (d H_k + (H_k - log w_k - H) d lse_k)

Vocabulary-parallel cross-entropy: Shoeybi et al. 2019, Megatron-LM, arXiv 1909.08053, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._bridge import result_dtype
from ._head import Head, Options, label_rows

if TYPE_CHECKING:
    from ._linear_kernels import Kernels

_WHAT = ("vocab_start", "weight", "labels", "labels", "ignore_index")


def _group(name: str) -> Any:
    from torch.distributed import distributed_c10d

    find: Any = distributed_c10d._resolve_process_group  # type: ignore[attr-defined]
    return find(name)


def add_over_parts(group: str, tensors: Sequence[Tensor]) -> None:
    """Sums over the processes, in place, by one all_reduce."""
    if not tensors:
        return
    flat = torch.cat([each.reshape(-1) for each in tensors])
    torch.distributed.all_reduce(flat, group=_group(group))
    sizes = [each.numel() for each in tensors]
    for each, part in zip(tensors, torch.split(flat, sizes), strict=True):
        each.copy_(part.view(each.shape))


# ---- the exchange --------------------------------------------------------------------------------


def _description(head: Head, options: Options, like: Tensor) -> Tensor:
    """A row of states' width that says what this process was given."""
    labels = head.labels
    values = [
        options.vocab_start,
        head.weight.shape[0],
        labels.numel(),
        int(labels.sum(dtype=torch.int64)) % (1 << 20),
        options.ignore_index,
    ]
    return like.new_tensor(values + [0] * (like.shape[-1] - len(values)))


def _check(descriptions: Tensor, labels: Tensor, ignore_index: int) -> None:
    """Refuse on every process what is wrong on any."""
    rows = [[int(value) for value in row] for row in descriptions.tolist()]
    start = 0
    for rank, row in enumerate(rows):
        if row[0] != start:
            raise ValueError(
                f"vocab_start: expected {start} on rank {rank} of the group, where the parts of "
                f"lower ranks end, got {row[0]}"
            )
        start += row[1]
        if row[2:5] != rows[0][2:5]:
            raise ValueError(
                f"labels: expected the same labels and ignore_index on every rank of the group, got "
                f"others on rank {rank}"
            )
    bad = (labels != ignore_index) & (labels >= start)
    if bad.any():
        first = int(bad.reshape(-1).nonzero()[0])
        raise ValueError(
            f"labels: expected {ignore_index} (ignored) or 0 <= label < {start}, "
            f"got {int(labels.reshape(-1)[first])} at index {first}"
        )


def _exchange(states: Tensor, head: Head, options: Options) -> Tensor:
    """The states of every part [parts, ..., 9], in rank order."""
    flat = states.reshape(-1, states.shape[-1])
    mine = torch.cat([flat, _description(head, options, states).unsqueeze(0)])
    group = _group(options.group)
    parts = mine.new_empty(torch.distributed.get_world_size(group), *mine.shape)
    torch.distributed.all_gather(list(parts.unbind(0)), mine, group=group)
    _check(parts[:, -1, : len(_WHAT)], head.labels, options.ignore_index)
    return parts[:, :-1].reshape(parts.shape[0], *states.shape).contiguous()


# ---- forward -------------------------------------------------------------------------------------


def sweep(
    kernels: Kernels, head: Head, options: Options, names: Sequence[str]
) -> dict[str, Tensor]:
    """As `Kernels.sweep`, of the whole vocabulary; gradients by hidden are this part's shares."""
    frozen = "grad_hidden_logps" in names
    own_names = ["states"]
    if frozen:
        own_names.append("grad_hidden_lse")
    if "grad_hidden_entropy" in names:
        own_names.append("grad_hidden_entropy")
    own = kernels.sweep(head, options, own_names, 0)
    states = own["states"]
    whole = kernels.finish(_exchange(states, head, options), head, options)
    if frozen:
        part = kernels.finish(states.unsqueeze(0), head, options)
        _add_shares(head, options, own, part, whole)
    return {name: whole[name] for name in names}


def _add_shares(
    head: Head,
    options: Options,
    own: dict[str, Tensor],
    part: dict[str, Tensor],
    whole: dict[str, Tensor],
) -> None:
    """Puts this part's shares of d logps and d entropy / d hidden into `whole`."""
    real = result_dtype(head.hidden.dtype)
    log_w = part["lse"] - whole["lse"]
    w = log_w.exp()
    # A part that is ruled out altogether has no distribution of its own, and no share.
    none = (w == 0).unsqueeze(-1)

    def share(gradient: Tensor) -> Tensor:
        return gradient.masked_fill_(none, 0).mul_(w.to(real).unsqueeze(-1))

    by_lse = own["grad_hidden_lse"]
    if "grad_hidden_entropy" in own:
        excess = (part["entropy"].to(log_w.dtype) - log_w - whole["entropy"]).to(real)
        by_entropy = own["grad_hidden_entropy"].addcmul_(by_lse, excess.unsqueeze(-1))
        whole["grad_hidden_entropy"] = share(by_entropy)
    target = whole["logps"] + whole["lse"] if options.softcap else None
    by_label = label_rows(options, real, head.labels, head.weight, head.lora_a, head.lora_b, target)
    whole["grad_hidden_logps"] = by_label.sub_(share(by_lse))
