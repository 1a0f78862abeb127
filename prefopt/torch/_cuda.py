"""CUDA tensors and libprefopt_cuda: the operators' bodies on a GPU.

An operation reads tensors where they are. What it writes and its scratch memory come from torch's
allocator, and its kernels go on torch's current stream of the tensors' device, so that calls order
themselves like torch's own, wait for nothing, and may be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prefopt import _cuda
from prefopt._cuda_abi import (
    Call,
    LossArgs,
    NamedValue,
    NamedView,
    PairTokenStatsArgs,
    PairTokenStatsGradArgs,
    SequenceLogpsArgs,
    TokenLogpsArgs,
    TokenLogpsGradArgs,
    fill_view,
)
from prefopt._loss_arrays import take_array
from prefopt._loss_call import LIST

WORKSPACE_ALIGNMENT = 256
_NAMES = {
    getattr(torch, name): name
    for name in ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64")
} | {
    getattr(torch, name): name
    for name in ("uint8", "uint16", "uint32", "uint64", "bool")
    if hasattr(torch, name)
}


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 inputs, else float32."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def _few_steps(tensor: Tensor, trailing: int) -> Tensor:
    """The tensor, or a copy where its leading axes may not step as two: kernels take no more."""
    if tensor.dim() - trailing <= 2 or tensor.is_contiguous():
        return tensor
    return tensor.contiguous()


class Operation:
    """One call: its arguments, the tensors that they describe, and where it runs."""

    def __init__(self, name: str, args: Any, like: Tensor) -> None:
        self.name, self.args, self.device = name, args, like.device
        self._kept: list[Any] = []  # copies and records that the arguments point into

    def describe(self, view: Any, name: str, tensor: Tensor, trailing: int = 0) -> None:
        """Makes an absent view that of a tensor, which has to be on the operation's device."""
        if tensor.device != self.device:
            raise ValueError(f"{name}: expected device {self.device}, got {tensor.device}")
        if tensor.dtype not in _NAMES:
            raise TypeError(f"{name}: expected a real dtype, got {tensor.dtype}")
        tensor = _few_steps(tensor, trailing)
        self._kept.append(tensor)
        size = tensor.element_size()
        steps = [size * each for each in tensor.stride()]
        fill_view(view, tensor.data_ptr(), _NAMES[tensor.dtype], tensor.shape, steps)

    def take(self, trailing: int = 0, **tensors: Tensor | None) -> None:
        """Arguments by name; None is absent."""
        for name, tensor in tensors.items():
            if tensor is not None:
                self.describe(getattr(self.args, name), name, tensor, trailing)

    def make(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An output argument: fresh memory."""
        made = torch.empty(tuple(shape), dtype=dtype, device=self.device)
        self.describe(getattr(self.args, name), name, made)
        return made

    def keep(self, record: Any) -> Any:
        """A record that the arguments will point at, kept until the call is over."""
        self._kept.append(record)
        return record

    def run(self) -> None:
        """Queues the kernels on the current stream."""
        library = _cuda.library()
        call = Call(device=0)
        if self.device.type == "cuda":
            call.device = self.device.index
            call.stream = torch.cuda.current_stream(self.device).cuda_stream
        needed = library.workspace(self.name, self.args, call)
        if needed:
            # Freed on return: what takes this memory next is queued behind these kernels.
            workspace = torch.empty(
                needed + WORKSPACE_ALIGNMENT, dtype=torch.uint8, device=self.device
            )
            address = workspace.data_ptr()
            call.workspace = address + -address % WORKSPACE_ALIGNMENT
            call.workspace_bytes = needed
        library.run(self.name, self.args, call)
        if _cuda.checks_at_once():
            library.check(call.device)


# ---- token_logps ---------------------------------------------------------------------------------


def token_logps(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int,
    temperature: float,
    stats: Sequence[str],
    wide_lse: bool,
) -> list[Tensor]:
    """[logps, lse, *stats]; lse in float64 where `wide_lse`."""
    args = TokenLogpsArgs(ignore_index=ignore_index, temperature=temperature)
    operation = Operation("pfo_cuda_token_logps", args, logits)
    operation.take(logits=logits, trailing=1)
    operation.take(labels=labels)
    dtype = result_dtype(logits.dtype)
    dtypes = {"lse": torch.float64 if wide_lse else dtype, "correct": torch.bool}
    results = [
        operation.make(name, labels.shape, dtypes.get(name, dtype))
        for name in ("logps", "lse", *stats)
    ]
    operation.run()
    return results


def token_logps_grad(
    logits: Tensor,
    labels: Tensor,
    lse: Tensor,
    grad_logps: Tensor | None,
    grad_entropy: Tensor | None,
    grad_lse: Tensor | None,
    entropy: Tensor | None,
    ignore_index: int,
    temperature: float,
) -> Tensor:
    """d loss / d logits, contiguous."""
    args = TokenLogpsGradArgs(ignore_index=ignore_index, temperature=temperature)
    operation = Operation("pfo_cuda_token_logps_grad", args, logits)
    operation.take(logits=logits, trailing=1)
    operation.take(
        labels=labels,
        lse=lse,
        grad_logps=grad_logps,
        grad_entropy=grad_entropy,
        grad_lse=grad_lse,
        entropy=None if grad_entropy is None else entropy,
    )
    gradient = operation.make("out", logits.shape, logits.dtype)
    operation.run()
    return gradient


# ---- pair_token_stats ----------------------------------------------------------------------------


def pair_token_stats(
    policy: Tensor,
    ref: Tensor,
    labels: Tensor,
    ignore_index: int,
    temperature: float,
    perturbation: float,
    stats: Sequence[str],
) -> list[Tensor]:
    """[policy_logps, ref_logps, policy_lse, ref_lse, *stats]; both lse in float64."""
    args = PairTokenStatsArgs(
        ignore_index=ignore_index, temperature=temperature, perturbation=perturbation
    )
    operation = Operation("pfo_cuda_pair_token_stats", args, policy)
    operation.take(policy_logits=policy, ref_logits=ref, trailing=1)
    operation.take(labels=labels)
    dtype = result_dtype(policy.dtype)
    results = [
        operation.make(name, labels.shape, torch.float64 if name.endswith("lse") else dtype)
        for name in ("policy_logps", "ref_logps", "policy_lse", "ref_lse", *stats)
    ]
    operation.run()
    return results


def pair_token_stats_grad(
    policy: Tensor,
    ref: Tensor,
    labels: Tensor,
    policy_lse: Tensor,
    ref_lse: Tensor,
    policy_ref_kl: Tensor | None,
    grad_policy_logps: Tensor | None,
    grad_ref_policy_kl: Tensor | None,
    grad_policy_ref_kl: Tensor | None,
    ignore_index: int,
    temperature: float,
) -> Tensor:
    """d loss / d policy logits, contiguous."""
    args = PairTokenStatsGradArgs(ignore_index=ignore_index, temperature=temperature)
    operation = Operation("pfo_cuda_pair_token_stats_grad", args, policy)
    operation.take(policy_logits=policy, ref_logits=ref, trailing=1)
    operation.take(
        labels=labels,
        policy_lse=policy_lse,
        ref_lse=ref_lse,
        policy_ref_kl=policy_ref_kl,
        grad_policy_logps=grad_policy_logps,
        grad_ref_policy_kl=grad_ref_policy_kl,
        grad_policy_ref_kl=grad_policy_ref_kl,
    )
    gradient = operation.make("out", policy.shape, policy.dtype)
    operation.run()
    return gradient


# ---- sequence_logps ------------------------------------------------------------------------------


def sequence_logps(
    logps: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    average: bool,
    normalizer: Tensor | None,
) -> Tensor:
    """Sums or averages [B]."""
    operation = Operation("pfo_cuda_sequence_logps", SequenceLogpsArgs(average=average), logps)
    operation.take(logps=logps, mask=mask, cu_seqlens=cu_seqlens, normalizer=normalizer)
    sequences = logps.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    sums = operation.make("out", (sequences,), logps.dtype)
    operation.run()
    return sums


def sequence_logps_grad(
    grad: Tensor,
    shape: Sequence[int],
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    average: bool,
    normalizer: Tensor | None,
) -> Tensor:
    """The gradient of logps, contiguous."""
    operation = Operation("pfo_cuda_sequence_logps_grad", SequenceLogpsArgs(average=average), grad)
    operation.take(out=grad, mask=mask, cu_seqlens=cu_seqlens, normalizer=normalizer)
    gradient = operation.make("logps", shape, grad.dtype)
    operation.run()
    return gradient


# ---- losses --------------------------------------------------------------------------------------

_OUTPUT_DTYPES = {"flags": torch.bool, "positions": torch.int64, "number": torch.float64}


class DeviceArrays:
    """Tensors of one device, and the library's losses: `_loss_arrays.Arrays`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def take(self, name: str, value: Any, type_: str) -> Tensor:
        """Tensors as they are; one number for the batch, or a host's list, goes to the device."""
        if isinstance(value, Tensor):
            if value.dim() or value.device == self.device:
                return value.detach()
            value = value.item()  # a number that is on the host
        array = take_array(value, type_)
        if array.ndim == 0:
            return torch.full((), array.item(), dtype=torch.float64, device=self.device)
        return torch.from_numpy(array).to(self.device)

    def loss(
        self,
        name: str,
        inputs: dict[str, Tensor],
        params: dict[str, float],
        grad_losses: Tensor | None,
        wants_grads: bool,
    ) -> tuple[Tensor | None, tuple[Tensor, ...], dict[str, Tensor] | None]:
        """As `_core.loss`."""
        info = LIST[name]
        args = LossArgs(loss=name.encode())
        operation = Operation("pfo_cuda_loss", args, torch.empty(0, device=self.device))
        types = {item.name: item.type for item in info.inputs}
        reals = [each for key, each in inputs.items() if types.get(key) in ("real", "tokens")]
        wide = any(each.dtype is torch.float64 for each in reals)
        dtype = torch.float64 if wide else torch.float32
        rows, width = _batch_shape(types, inputs)
        shapes: dict[str, tuple[int, ...]] = {
            "number": (),
            "tokens": (rows, width),
            "positions": (rows, width),
        }

        def empty(shape: str) -> Tensor:
            sizes = shapes.get(shape, (rows,))
            return torch.empty(sizes, dtype=_OUTPUT_DTYPES.get(shape, dtype), device=self.device)

        losses = None
        if info.kind != "procedure":
            losses = empty("tokens" if info.tokenwise else "rows")
            operation.take(losses=losses)
        outputs = {key: empty(shape) for key, shape in info.outputs}
        grads = {
            item.name: empty(item.type)
            for item in info.inputs
            if wants_grads and item.differentiable and item.name in inputs
        }
        operation.take(grad_losses=grad_losses)
        args.inputs, args.input_count = _named_views(operation, inputs)
        args.rewards, args.reward_count = _named_views(operation, outputs)
        args.grads, args.grad_count = _named_views(operation, grads)
        values = operation.keep((NamedValue * len(params))())
        for record, (key, value) in zip(values, params.items(), strict=True):
            record.name, record.value = key.encode(), value
        args.params, args.param_count = values, len(params)
        operation.run()
        return losses, tuple(outputs.values()), grads if wants_grads else None

    def cast(self, array: Tensor, like: Tensor) -> Tensor:
        """`array` in the dtype of `like`."""
        return array.to(like.dtype)

    def total(self, terms: Sequence[tuple[float, Tensor]]) -> Tensor:
        """sum_k weight_k array_k in float64."""
        total = torch.zeros_like(terms[0][1], dtype=torch.float64)
        for weight, array in terms:
            if weight != 0:
                total += weight * self.wide(array)
        return total

    def wide(self, array: Tensor) -> Tensor:
        """`array` in float64."""
        return array.double()

    def at_least_one(self, array: Tensor) -> Tensor:
        """max(array, 1) in float64."""
        return self.wide(array).clamp(min=1)

    def limited(self, array: Tensor, limit: float) -> tuple[Tensor, Tensor]:
        """`array` clamped to +-limit, and where it was beyond."""
        return array.clamp(-limit, limit), array.abs() > limit

    def zeroed(self, array: Tensor, where: Tensor) -> Tensor:
        """`array` with 0 where `where` says so."""
        return array.masked_fill(where, 0)

    def number(self, array: Tensor) -> Tensor:
        """It stays on the device."""
        return array


def _batch_shape(types: Mapping[str, str], inputs: Mapping[str, Tensor]) -> tuple[int, int]:
    """B and T of a call: those of the first input that has them."""
    kinds = [(types.get(key), each) for key, each in inputs.items()]
    rows = [e for kind, e in kinds if kind not in ("scalar", "gathered") and e.dim()]
    grids = [e for kind, e in kinds if kind in ("tokens", "mask") and e.dim() == 2]
    return rows[0].shape[0] if rows else 0, grids[0].shape[1] if grids else 0


def _named_views(operation: Operation, tensors: Mapping[str, Tensor]) -> tuple[Any, int]:
    records = operation.keep((NamedView * len(tensors))())
    for record, (name, tensor) in zip(records, tensors.items(), strict=True):
        record.name = name.encode()
        operation.describe(record.view, name, tensor)
    return records, len(tensors)
