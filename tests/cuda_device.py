"""The CUDA library's C interface on NumPy arrays: on the simulated GPU, host memory is the device's."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np

from prefopt import _cuda
from prefopt._cuda_abi import Call, LossArgs, NamedValue, NamedView, View, fill_view

ALIGNMENT = 256
# Sanitizers take few, small cases, and so does every PTX but the one that all cases run on.
VARIANT = os.environ.get("CUDA_SIM_VARIANT", "source")
SMALL = VARIANT not in ("source", "ptx-90")


def describe(view: View, array: np.ndarray) -> None:
    """A view of an array; uint16 holds the bits of bfloat16."""
    dtype = "bfloat16" if array.dtype == np.uint16 else str(array.dtype)
    fill_view(view, array.ctypes.data, dtype, array.shape, array.strides)


def run(name: str, args: Any, **arrays: np.ndarray | None) -> None:
    """One operation: fields of args by name. The workspace has the very size that is asked for."""
    library = _cuda.library()
    for field, array in arrays.items():
        if array is not None:
            describe(getattr(args, field), array)
    call = Call(device=0)
    needed = library.workspace(name, args, call)
    # NaN in every byte that nobody has written; a byte beyond is another allocation's.
    memory = np.full(needed + ALIGNMENT, 0xFF, np.uint8)
    skip = -memory.ctypes.data % ALIGNMENT
    workspace = memory[skip : skip + needed]
    before, after = memory[:skip].copy(), memory[skip + needed :].copy()
    call.workspace = workspace.ctypes.data if needed else None
    call.workspace_bytes = needed
    library.run(name, args, call)
    assert np.array_equal(memory[:skip], before)
    assert np.array_equal(memory[skip + needed :], after)


def named(arrays: dict[str, np.ndarray]) -> tuple[Any, int]:
    """pfo_named_view [...] and its length."""
    records = (NamedView * len(arrays))()
    for record, (name, array) in zip(records, arrays.items(), strict=True):
        record.name = name.encode()
        describe(record.view, array)
    return records, len(arrays)


def run_loss(
    name: str,
    inputs: dict[str, np.ndarray],
    params: dict[str, float],
    losses: np.ndarray | None,
    outputs: dict[str, np.ndarray],
    grads: dict[str, np.ndarray],
    grad_losses: np.ndarray | None = None,
) -> None:
    """pfo_cuda_loss."""
    values = (NamedValue * len(params))(*((k.encode(), v) for k, v in params.items()))
    args = LossArgs(loss=name.encode(), params=values, param_count=len(params))
    args.inputs, args.input_count = named(inputs)
    args.rewards, args.reward_count = named(outputs)
    args.grads, args.grad_count = named(grads)
    run("pfo_cuda_loss", args, losses=losses, grad_losses=grad_losses)


def set_order(order: str) -> None:
    """The order of threads and blocks: forward, reverse, shuffled."""
    orders = {"forward": 0, "reverse": 1, "shuffled": 2}
    handle = _cuda.library().handle
    handle.cuda_sim_set_order(ctypes.c_int(orders[order]), ctypes.c_uint64(7))


def misaligned(array: np.ndarray, elements: int) -> np.ndarray:
    """A copy that starts so many elements after a 64-byte boundary."""
    memory = np.empty(array.nbytes + 64 + array.itemsize * elements, np.uint8)
    begin = -memory.ctypes.data % 64 + array.itemsize * elements
    copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
