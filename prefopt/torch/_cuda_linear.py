"""The fused linear operation of libprefopt_cuda for tensors: `Kernels` of `_linear_kernels`.

Products of gradients are rounded as torch's own would be (csrc/cuda/prefopt_cuda_linear.h says to
what): bfloat16 where head and hidden are, TF32 for float32 where
`torch.set_float32_matmul_precision` allows it. grad_filter leaves out nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prefopt._cuda_linear_abi import (
    LinearTokenLogpsArgs,
    LinearTokenLogpsGradArgs,
    Products,
    RowStatesArgs,
)

from ._cuda import Operation
from ._head import ANY_VOCAB, Head, Options

_DTYPES = {
    "lse": torch.float64,
    "correct": torch.bool,
    "topk_ids": torch.int64,
    "states": torch.float64,
}
_STATE_FIELDS = 9
STATISTICS = ("logps", "lse", "entropy", "correct", "mean_logit", "max_logit", "lse2")


def _allows_tf32() -> bool:
    """Whether float32 products may be rounded, by torch's older setting or its newer one."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:
        return getattr(torch.backends.cuda.matmul, "fp32_precision", "") == "tf32"


def _products(head: Head) -> Products:
    floats = torch.float32 in (head.hidden.dtype, head.weight.dtype)
    return Products.TF32 if floats and _allows_tf32() else Products.DEFAULT


def _operation(name: str, args: Any, head: Head, options: Options) -> Operation:
    """With the arguments that both directions begin with."""
    operation = Operation(name, args, head.hidden)
    inputs = args.inputs
    for field, tensor in head._asdict().items():
        if tensor is not None:
            trailing = 1 if field == "hidden" else 0
            operation.describe(getattr(inputs, field), field, tensor, trailing)
    inputs.ignore_index = options.ignore_index
    inputs.logit_scale, inputs.softcap = options.logit_scale, options.softcap
    inputs.temperature, inputs.memory_limit = options.temperature, options.memory_limit
    inputs.vocab_start = options.vocab_start
    inputs.vocab_total = ANY_VOCAB if options.group else 0
    args.num_tokens = options.num_tokens
    args.products = _products(head)
    return operation


def sweep(head: Head, options: Options, names: Sequence[str], topk: int) -> dict[str, Tensor]:
    """`Kernels.sweep`."""
    operation = _operation("pfo_cuda_linear_token_logps", LinearTokenLogpsArgs(), head, options)
    shape, size = head.labels.shape, head.hidden.shape[-1]
    results = {}
    for name in (*names, *(("topk_ids", "topk_logps") if topk else ())):
        last = (size,) if name.startswith("grad_hidden") else ()
        last = (topk,) if name.startswith("topk") else last
        last = (_STATE_FIELDS,) if name == "states" else last
        dtype = _DTYPES.get(name, torch.float32)
        results[name] = operation.make(name, (*shape, *last), dtype)
    operation.run()
    return results


def gradients(
    head: Head,
    options: Options,
    results: Mapping[str, Tensor | None],
    grads: Mapping[str, Tensor | None],
    _kept: Tensor | None,
    needs: Sequence[str],
) -> list[Tensor]:
    """`Kernels.gradients`; that of weight in its own dtype, unless autocast made that dtype."""
    args = LinearTokenLogpsGradArgs()
    operation = _operation("pfo_cuda_linear_token_logps_grad", args, head, options)
    operation.take(lse=results["lse"])
    operation.take(entropy=None if grads["entropy"] is None else results["entropy"])
    operation.take(grad_logps=grads["logps"], grad_entropy=grads["entropy"], grad_lse=grads["lse"])
    made = []
    for name in needs:
        like = getattr(head, name)
        alike = name == "weight" and not options.rounding
        dtype = like.dtype if alike else torch.float32
        made.append(operation.make(f"grad_{name}", like.shape, dtype))
    operation.run()
    return made


def finish(states: Tensor, head: Head, options: Options) -> dict[str, Tensor]:
    """`Kernels.finish`."""
    args = RowStatesArgs(ignore_index=options.ignore_index)
    operation = Operation("pfo_cuda_row_states_finish", args, states)
    operation.take(states=states, labels=head.labels)
    results = {
        name: operation.make(name, head.labels.shape, _DTYPES.get(name, torch.float32))
        for name in STATISTICS
    }
    operation.run()
    return results
