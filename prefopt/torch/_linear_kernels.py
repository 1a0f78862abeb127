"""What makes the fused linear operation on a device: the C kernels for CPU tensors, and the choice.

A `Kernels` is three functions over a `Head` and its `Options`; `prefopt.torch._cuda_linear` has
them for CUDA tensors, and `prefopt.torch._plain_linear` in plain torch for every other device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prefopt import _blas, _core, _cublas

from . import _cuda_linear, _plain_linear
from ._bridge import as_array, borrowed_array, forces_plain, optional_array, runs_cuda
from ._head import ANY_VOCAB, Head, Options
from ._token import STATS

# Everything that one sweep over the vocabulary can give, in the order of the C kernels' results.
STATISTICS = ("logps", "lse", *STATS)
HIDDEN_GRADS = ("logps", "lse", "entropy")
RESULTS = (
    *STATISTICS,
    "topk_ids",
    "topk_logps",
    *(f"grad_hidden_{name}" for name in HIDDEN_GRADS),
    "states",
    "kept",
)
PARAMETERS = ("hidden", "weight", "bias", "lora_a", "lora_b")


_kernels: Any = _core  # which mypy does not follow through starred arguments


class Kernels(NamedTuple):
    """The operation on one kind of device.

    sweep(head, options, names, topk): the named RESULTS, lse in `wide_dtype`.
    gradients(head, options, results, grads, kept, needs): of the PARAMETERS in `needs`, in the
        arithmetic's dtype; results and grads are (logps, lse, entropy) or None each, logps unused.
    finish(states, head, options): the STATISTICS of rows from the states [parts, ..., 9] of a split
        vocabulary.
    """

    sweep: Callable[[Head, Options, Sequence[str], int], dict[str, Tensor]]
    gradients: Callable[
        [
            Head,
            Options,
            Mapping[str, Tensor | None],
            Mapping[str, Tensor | None],
            Tensor | None,
            Sequence[str],
        ],
        list[Tensor],
    ]
    finish: Callable[[Tensor, Head, Options], dict[str, Tensor]]


# ---- CPU -----------------------------------------------------------------------------------------


def _inputs(head: Head, options: Options) -> Any:
    """The arguments that both directions begin with."""
    _blas.ensure_loaded()
    halves = any(each is not None and each.dtype is torch.bfloat16 for each in head)
    return (
        *(borrowed_array(each) for each in head),
        "bfloat16" if halves else None,
        options.ignore_index,
        options.logit_scale,
        options.softcap or None,
        options.temperature,
        options.memory_limit or None,
        options.vocab_start,
        ANY_VOCAB if options.group else 0,
    )


def _sweep(head: Head, options: Options, names: Sequence[str], topk: int) -> dict[str, Tensor]:
    flags = {name: name in names for name in RESULTS}
    arrays = _kernels.linear_token_logps(
        *_inputs(head, options),
        tuple(flags[name] for name in STATISTICS),
        topk,
        tuple(flags[f"grad_hidden_{name}"] for name in HIDDEN_GRADS),
        flags["states"],
        flags["kept"],
        True,  # lse in double, for the sake of backward
    )
    return {
        name: torch.from_numpy(array)
        for name, array in zip(RESULTS, arrays, strict=True)
        if array is not None
    }


def _gradients(
    head: Head,
    options: Options,
    results: Mapping[str, Tensor | None],
    grads: Mapping[str, Tensor | None],
    kept: Tensor | None,
    needs: Sequence[str],
) -> list[Tensor]:
    *arrays, _made, _left_out = _kernels.linear_token_logps_grad(
        *_inputs(head, options),
        optional_array(results["lse"]),
        None if grads["entropy"] is None else optional_array(results["entropy"]),
        optional_array(grads["logps"]),
        optional_array(grads["entropy"]),
        optional_array(grads["lse"]),
        optional_array(kept),
        options.grad_filter or None,
        tuple(name in needs for name in PARAMETERS),
    )
    return [torch.from_numpy(array) for array in arrays if array is not None]


def _finish(states: Tensor, head: Head, options: Options) -> dict[str, Tensor]:
    wide = head.hidden.dtype is torch.float64
    arrays = _core.row_states_finish(
        as_array(states), as_array(head.labels), options.ignore_index, wide, True
    )
    return {name: torch.from_numpy(each) for name, each in zip(STATISTICS, arrays, strict=True)}


# ---- the choice ----------------------------------------------------------------------------------

PLAIN = Kernels(_plain_linear.sweep, _plain_linear.gradients, _plain_linear.finish)
CUDA = Kernels(_cuda_linear.sweep, _cuda_linear.gradients, _cuda_linear.finish)
KERNELS = {"cpu": Kernels(_sweep, _gradients, _finish)}  # by kinds of devices, but CUDA
_told: set[str] = set()


def kernels_for(tensor: Tensor) -> Kernels:
    """The kernels for a tensor; plain torch, said once for each cause, where there are none."""
    if forces_plain():
        return PLAIN
    kind = tensor.device.type
    if not runs_cuda(tensor):
        return KERNELS[kind] if kind in KERNELS else _plain_for(f"{kind} tensors")
    if tensor.dtype is torch.float64:
        return _plain_for("float64 tensors on CUDA")
    state = _cublas.cublas_available()
    return CUDA if state else _plain_for(f"CUDA tensors here ({state.reason})")


def _plain_for(what: str) -> Kernels:
    if what not in _told:
        _told.add(what)
        warnings.warn(
            f"prefopt.torch has no fused linear kernels for {what}: a plain torch form of the same "
            "operation runs",
            stacklevel=3,
        )
    return PLAIN
