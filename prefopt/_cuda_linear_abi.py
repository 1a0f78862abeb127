"""The structs of csrc/cuda/prefopt_cuda_linear.h for ctypes, as `_cuda_abi` has the others'."""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import Any

from ._cuda_abi import View


class Products(IntEnum):
    """pfo_cuda_products."""

    DEFAULT = 0
    TF32 = 1
    F32 = 2


def _views(names: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, View) for name in names.split())


_STATS = "logps lse entropy correct mean_logit max_logit lse2"


class LinearInputs(ctypes.Structure):
    """pfo_linear_inputs."""

    _fields_ = (
        *_views("hidden weight labels bias lora_a lora_b"),
        ("ignore_index", ctypes.c_int64),
        ("logit_scale", ctypes.c_double),
        ("softcap", ctypes.c_double),
        ("temperature", ctypes.c_double),
        ("memory_limit", ctypes.c_int64),
        ("vocab_start", ctypes.c_int64),
        ("vocab_total", ctypes.c_int64),
    )


class LinearTokenLogpsArgs(ctypes.Structure):
    """pfo_cuda_linear_token_logps_args, the struct in it spread out."""

    _fields_ = (
        ("inputs", LinearInputs),
        *_views(_STATS),
        *_views("topk_ids topk_logps grad_hidden_logps grad_hidden_lse grad_hidden_entropy"),
        *_views("states kept"),
        ("num_tokens", ctypes.c_int64),
        ("products", ctypes.c_int32),
    )


class LinearTokenLogpsGradArgs(ctypes.Structure):
    """pfo_cuda_linear_token_logps_grad_args, the struct in it spread out."""

    _fields_ = (
        ("inputs", LinearInputs),
        *_views("lse entropy grad_logps grad_entropy grad_lse kept"),
        ("grad_filter", ctypes.c_double),
        *_views("grad_hidden grad_weight grad_bias grad_lora_a grad_lora_b"),
        ("entries_made", ctypes.c_void_p),
        ("entries_left_out", ctypes.c_void_p),
        ("num_tokens", ctypes.c_int64),
        ("products", ctypes.c_int32),
    )


class RowStatesArgs(ctypes.Structure):
    """pfo_row_states_args."""

    _fields_ = (*_views("states labels"), ("ignore_index", ctypes.c_int64), *_views(_STATS))
