"""What makes the fused linear operation on a device: the C kernels for CPU tensors, and the choice.

A `Kernels` is three functions over a `Head` and its `Options`; `prefopt.torch._plain_linear` has
them in plain torch for every device that `KERNELS` does not name. Kernels for another device are
one more entry there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prefopt import _blas, _core

from . import _plain_linear
from ._bridge import as_array, borrowed_array, forces_plain, optional_array
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
KERNELS: dict[str, Kernels] = {"cpu": Kernels(_sweep, _gradients, _finish)}
_told: set[str] = set()


def kernels_for(tensor: Tensor) -> Kernels:
    """The kernels of the tensor's device; plain torch, said once, where there are none."""
    kind = tensor.device.type
    if kind in KERNELS:
        return PLAIN if forces_plain() else KERNELS[kind]
    if kind not in _told:
        _told.add(kind)
        warnings.warn(
            f"prefopt.torch has no fused linear kernels for {kind} tensors: a plain torch form of "
            "the same operation runs",
            stacklevel=2,
        )
    return PLAIN
