"""Tensors to arrays and back without a copy, and the choice between the two ways into an operator.

Every operation of `prefopt.torch` exists twice over one body:

- a `torch.library` operator, which compilers, tracers and functorch see, with a fake kernel and an
  autograd formula;
- the body called directly, through a `torch.autograd.Function` when a gradient is wanted. The
  dispatcher's way into a Python operator costs 9 us, with autograd 29 us; a Function costs 4.5 us
  (2026-11, 2-core Zen 5, torch 2.13). On [1 x 8] logits that is the whole time of the call.

`runs_directly` decides. Both give the same bits, and the tests run both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prefopt import _core, _cuda
from prefopt._loss_call import take_number

HUGE_GRADIENT_BYTES = 64 << 20

_LOGIT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_ORDINARY_TYPES = (Tensor, torch.nn.Parameter)
_forced_plain = False
_forced_operators = False
_forced_cuda = False


# Private to torch, hence looked up with a default: where they are gone, every call takes the
# operator (`_unknown`).
_dispatch_depth: Any = getattr(torch._C, "_len_torch_dispatch_stack", None)
_functorch_top: Any = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", None)
_unknown = _dispatch_depth is None or _functorch_top is None


def runs_directly(*tensors: Tensor) -> bool:
    """True when nothing between the caller and the kernel needs to see an operator.

    Compilers and tracers (`is_compiling`), tensor subclasses (fake, functional, distributed),
    dispatch modes (FLOP counters, selective checkpointing) and functorch transforms (vmap, grad)
    do. Under torch.compile the first test is a constant and the rest is never traced.
    """
    if torch.compiler.is_compiling() or _unknown or _forced_plain or _forced_operators:
        return False
    if _dispatch_depth() or _functorch_top() is not None:
        return False
    return all(
        type(tensor) in _ORDINARY_TYPES and (tensor.is_cpu or runs_cuda(tensor))
        for tensor in tensors
    )


@contextmanager
def force_plain() -> Iterator[None]:
    """Run the plain form of other devices on CPU tensors too. Process-wide, for tests."""
    global _forced_plain
    before, _forced_plain = _forced_plain, True
    try:
        yield
    finally:
        _forced_plain = before


@contextmanager
def force_operators() -> Iterator[None]:
    """Take the operators even where the direct way is open. Process-wide, for tests."""
    global _forced_operators
    before, _forced_operators = _forced_operators, True
    try:
        yield
    finally:
        _forced_operators = before


@contextmanager
def force_cuda() -> Iterator[None]:
    """Give CPU tensors to the CUDA library, which has to be the simulated one. For tests."""
    global _forced_cuda
    if not _cuda.library().is_simulated:
        raise RuntimeError(f"{_cuda.library().path} is no simulated GPU: set PREFOPT_CUDA_LIB")
    before, _forced_cuda = _forced_cuda, True
    try:
        yield
    finally:
        _forced_cuda = before


def runs_cuda(tensor: Tensor) -> bool:
    """True when the CUDA library reads this tensor."""
    if tensor.is_cpu:
        return _forced_cuda
    return tensor.is_cuda and not _forced_plain and bool(_cuda.cuda_available())


def forces_plain() -> bool:
    """True within `force_plain`."""
    return _forced_plain


def runs_plain(tensor: Tensor) -> bool:
    """True when no kernels can read this tensor: another device, or a test forces it."""
    return _forced_plain or not (tensor.is_cpu or runs_cuda(tensor))


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 logits, else float32."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of sums on the tensor's device: float64, but float32 on MPS, which has no other."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def check_tensor(name: str, value: Any) -> None:
    """Raise TypeError for what is no dense tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.layout is not torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got {value.layout}")


def check_logits(logits: Any, name: str = "logits") -> None:
    """Raise TypeError or ValueError for what is no [..., vocab] of a dtype that kernels read."""
    check_tensor(name, logits)
    if logits.dtype not in _LOGIT_DTYPES:
        raise TypeError(
            f"{name}: expected float16, bfloat16, float32 or float64, got {logits.dtype}"
        )
    if logits.dim() == 0:
        raise ValueError(f"{name}: expected [..., vocab], got a scalar")
    if logits.shape[-1] == 0:
        raise ValueError(f"{name}: expected a vocabulary of at least 1, got 0")


def take_temperature(value: Any) -> float:
    """The temperature as a float; TypeError or ValueError where it is none in range."""
    if type(value) is not float and not isinstance(value, Tensor):
        value = take_number("temperature", value)
    if not 1e-30 <= value <= 1e30:
        raise ValueError(f"temperature: expected a number from 1e-30 to 1e30, got {value}")
    return float(value)


def _bits(tensor: Tensor) -> Tensor:
    """The tensor in a dtype that NumPy has: bfloat16 as the uint16 of its bits.

    A view that only notes its sign, as the imaginary part of a conjugate does, is written out.
    """
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    return tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor


def as_array(tensor: Tensor) -> npt.NDArray[Any]:
    """The tensor's own memory as an array; bfloat16 as the uint16 of its bits."""
    return _bits(tensor).numpy()


def optional_array(tensor: Tensor | None) -> npt.NDArray[Any] | None:
    """`as_array`, or None for None."""
    return None if tensor is None else as_array(tensor)


def borrowed_array(tensor: Tensor | None) -> npt.NDArray[Any] | None:
    """`optional_array` of a model's parameter. Tensor.numpy would bar its storage from resizing, and
    FSDP2 frees the storage of gathered parameters that way; DLPack leaves it alone.
    """
    if tensor is None:
        return None
    bits = _bits(tensor)
    if bits.dtype is not torch.uint16:
        array: npt.NDArray[Any] = np.from_dlpack(bits)
        return array
    return np.from_dlpack(bits.view(torch.int16)).view(np.uint16)  # older torch exports no uint16


def core_dtype(tensor: Tensor) -> str | None:
    """The dtype argument that goes with `as_array`."""
    return "bfloat16" if tensor.dtype is torch.bfloat16 else None


def contiguous_rows(logits: Tensor) -> Tensor:
    """`logits` itself when its last axis is contiguous, whatever the others are; else a copy."""
    if logits.dim() and (logits.stride(-1) == 1 or logits.shape[-1] <= 1):
        return logits
    return logits.contiguous()


def empty_gradient(logits: Tensor) -> Tensor:
    """Memory for a gradient of `logits`, contiguous.

    A large one is fresh pages: huge ones are asked for before the kernel touches them, because
    4 KiB page faults cost more than the kernel does.
    """
    gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    if gradient.numel() * gradient.element_size() >= HUGE_GRADIENT_BYTES:
        _core.advise_huge_pages(as_array(gradient))
    return gradient


def refuse_forward_mode(*tensors: Tensor) -> None:
    """Raise NotImplementedError for dual tensors: their tangent would be lost silently."""
    forward_ad: Any = torch.autograd.forward_ad
    if getattr(forward_ad, "_current_level", -1) < 0:
        return
    for tensor in tensors:
        if forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(
                "prefopt.torch has no forward-mode derivatives; use reverse mode"
            )


def refuse_transforms(*tensors: Tensor) -> None:
    """Raise NotImplementedError for tensors that torch.func.grad tracks.

    torch.library gives operators written in Python no rule for it.
    """
    if torch.compiler.is_compiling() or _unknown or _functorch_top() is None:
        return
    if any(torch._C._functorch.is_gradtrackingtensor(tensor) for tensor in tensors):
        raise NotImplementedError(
            "prefopt.torch does not work under torch.func.grad, vjp or jacrev; "
            "use torch.autograd or .backward()"
        )


def refuse_vmap(operator: str) -> Any:
    """A vmap rule that says what to do instead."""

    def rule(*_arguments: Any, **_keywords: Any) -> Any:
        raise NotImplementedError(
            f"prefopt.torch.{operator} does not work under torch.vmap; "
            "it takes any leading shape, so call it once "
            "on the whole batch"
        )

    return rule


def refuse_double_backward(function: str) -> Any:
    """A backward formula for a gradient operator that says that there is none."""

    def backward(_ctx: Any, *_gradients: Any) -> Any:
        raise NotImplementedError(
            f"prefopt.torch.{function} has no second derivative: "
            "its gradient cannot be differentiated again. "
            "Write the operation in plain torch where you need one"
        )

    return backward
