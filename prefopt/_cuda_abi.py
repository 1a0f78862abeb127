"""The structs of csrc/prefopt.h and csrc/cuda/prefopt_cuda.h for ctypes: the CUDA library's C
interface as Python sees it.

A view is made from an address, a dtype's name, sizes and steps in bytes, whoever owns the memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

MAX_NDIM = 64

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = {name: code for code, name in enumerate(("none", *_FLOATS, *_INTEGERS, "bool"))}

# Every operation by its name in C, and whether it has a workspace.
OPERATIONS = {
    "pfo_cuda_token_logps": True,
    "pfo_cuda_token_logps_grad": True,
    "pfo_cuda_linear_token_logps": True,
    "pfo_cuda_linear_token_logps_grad": True,
    "pfo_cuda_row_states_finish": False,
    "pfo_cuda_pair_token_stats": True,
    "pfo_cuda_pair_token_stats_grad": True,
    "pfo_cuda_sequence_logps": False,
    "pfo_cuda_sequence_logps_grad": False,
    "pfo_cuda_loss": True,
}


class Status(IntEnum):
    """pfo_status."""

    OK = 0
    DTYPE = 1
    SHAPE = 2
    STRIDE = 3
    LABEL = 4
    VALUE = 5
    OVERLAP = 6
    MEMORY = 7
    ISA = 8
    MISSING = 9
    DEVICE = 10


class Error(ctypes.Structure):
    """pfo_error."""

    _fields_ = (
        ("status", ctypes.c_int),
        ("argument", ctypes.c_char * 64),
        ("message", ctypes.c_char * 320),
        ("index", ctypes.c_int64),
    )

    def text(self) -> str:
        """The message."""
        return self.message.decode(errors="replace")  # type: ignore[no-any-return]

    def exception(self) -> Exception:
        """What to raise for this record."""
        kinds: dict[int, type[Exception]] = {
            Status.DTYPE: TypeError,
            Status.MEMORY: MemoryError,
            Status.DEVICE: RuntimeError,
        }
        return kinds.get(self.status, ValueError)(self.text())


class View(ctypes.Structure):
    """pfo_view; a new one is absent."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_NDIM),
        ("strides_bytes", ctypes.c_int64 * MAX_NDIM),
    )


def fill_view(
    view: Any, address: int, dtype: str, shape: Sequence[int], strides_bytes: Sequence[int]
) -> None:
    """Describes an array in a view that is absent so far."""
    view.data, view.dtype, view.ndim = address, DTYPES[dtype], len(shape)
    view.shape[: len(shape)] = shape
    view.strides_bytes[: len(shape)] = strides_bytes


class Call(ctypes.Structure):
    """pfo_cuda_call."""

    _fields_ = (
        ("stream", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_int64),
        ("device", ctypes.c_int32),
    )


def _views(names: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, View) for name in names.split())


_TOKEN_OPTIONS = (("ignore_index", ctypes.c_int64), ("temperature", ctypes.c_double))


class TokenLogpsArgs(ctypes.Structure):
    """pfo_token_logps_args."""

    _fields_ = (
        *_views("logits labels"),
        *_TOKEN_OPTIONS,
        *_views("logps lse entropy correct mean_logit max_logit lse2"),
    )


class TokenLogpsGradArgs(ctypes.Structure):
    """pfo_token_logps_grad_args."""

    _fields_ = (
        *_views("logits labels lse logps entropy grad_logps grad_entropy grad_lse"),
        *_TOKEN_OPTIONS,
        *_views("out"),
    )


class PairTokenStatsArgs(ctypes.Structure):
    """pfo_pair_token_stats_args."""

    _fields_ = (
        *_views("policy_logits ref_logits labels"),
        *_TOKEN_OPTIONS,
        ("perturbation", ctypes.c_double),
        *_views("policy_logps ref_logps policy_lse ref_lse ref_policy_kl policy_ref_kl"),
        *_views("plus_logps minus_logps"),
    )


class PairTokenStatsGradArgs(ctypes.Structure):
    """pfo_pair_token_stats_grad_args."""

    _fields_ = (
        *_views("policy_logits ref_logits labels policy_lse ref_lse policy_ref_kl"),
        *_views("grad_policy_logps grad_ref_policy_kl grad_policy_ref_kl"),
        *_TOKEN_OPTIONS,
        *_views("out"),
    )


class SequenceLogpsArgs(ctypes.Structure):
    """pfo_sequence_logps_args."""

    _fields_ = (
        *_views("logps mask cu_seqlens normalizer"),
        ("average", ctypes.c_int32),
        *_views("out"),
    )


class NamedView(ctypes.Structure):
    """pfo_named_view."""

    _fields_ = (("name", ctypes.c_char_p), ("view", View))


class NamedValue(ctypes.Structure):
    """pfo_named_value."""

    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_double))


class LossArgs(ctypes.Structure):
    """pfo_loss_args."""

    _fields_ = (
        ("loss", ctypes.c_char_p),
        ("inputs", ctypes.POINTER(NamedView)),
        ("input_count", ctypes.c_int32),
        ("params", ctypes.POINTER(NamedValue)),
        ("param_count", ctypes.c_int32),
        *_views("losses"),
        ("rewards", ctypes.POINTER(NamedView)),
        ("reward_count", ctypes.c_int32),
        ("grads", ctypes.POINTER(NamedView)),
        ("grad_count", ctypes.c_int32),
        *_views("grad_losses"),
    )
