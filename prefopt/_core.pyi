"""The C extension: positional-only, checked there; the public signatures are in the package."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[Any]
_State = tuple[float, float, float, float, float, float, int, int, int]

__version__: str
isa_context: ContextVar[str | None]

def token_logps(
    logits: object,
    labels: object,
    dtype: str | None,
    ignore_index: int,
    temperature: float,
    stats: Sequence[str],
    lse_double: bool,
    /,
) -> tuple[_Array | None, ...]: ...
def token_logps_grad(
    logits: object,
    labels: object,
    lse: object,
    grad_logps: object,
    grad_entropy: object,
    grad_lse: object,
    entropy: object,
    logps: object,
    dtype: str | None,
    ignore_index: int,
    temperature: float,
    out: object,
    /,
) -> _Array: ...
def pair_token_stats(
    policy_logits: object,
    ref_logits: object,
    labels: object,
    dtype: str | None,
    ignore_index: int,
    temperature: float,
    perturbation: float,
    wanted: tuple[bool, ...],
    lse_double: bool,
    /,
) -> tuple[_Array | None, ...]: ...
def pair_token_stats_grad(
    policy_logits: object,
    ref_logits: object,
    labels: object,
    policy_lse: object,
    ref_lse: object,
    policy_ref_kl: object,
    grad_policy_logps: object,
    grad_ref_policy_kl: object,
    grad_policy_ref_kl: object,
    dtype: str | None,
    ignore_index: int,
    temperature: float,
    out: object,
    /,
) -> _Array: ...
def sequence_logps(
    logps: object, mask: object, cu_seqlens: object, average: bool, normalizer: object, /
) -> _Array: ...
def sequence_logps_grad(
    grad_out: object,
    out: _Array,
    mask: object,
    cu_seqlens: object,
    average: bool,
    normalizer: object,
    /,
) -> _Array: ...
def linear_token_logps(
    hidden: object,
    weight: object,
    labels: object,
    bias: object,
    lora_a: object,
    lora_b: object,
    dtype: str | None,
    ignore_index: int,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    memory_limit: int | None,
    vocab_start: int,
    vocab_total: int,
    stats: tuple[bool, ...],
    topk: int,
    gradients: tuple[bool, ...],
    states: bool,
    kept: bool,
    lse_double: bool,
    /,
) -> tuple[_Array | None, ...]: ...
def linear_token_logps_grad(
    hidden: object,
    weight: object,
    labels: object,
    bias: object,
    lora_a: object,
    lora_b: object,
    dtype: str | None,
    ignore_index: int,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    memory_limit: int | None,
    vocab_start: int,
    vocab_total: int,
    lse: object,
    entropy: object,
    grad_logps: object,
    grad_entropy: object,
    grad_lse: object,
    kept: object,
    grad_filter: float | None,
    needs: tuple[bool, ...],
    /,
) -> tuple[Any, ...]: ...
def row_states_finish(
    states: _Array, labels: object, ignore_index: int, wide: bool, lse_double: bool, /
) -> tuple[_Array, ...]: ...
def blas_load(path: str | None, /) -> None: ...
def blas_name() -> str: ...
def set_num_threads(n: int, /) -> None: ...
def get_num_threads() -> int: ...
def isas() -> tuple[str, ...]: ...
def isa() -> str: ...
def check_isa(name: str, /) -> None: ...
def exp_f32(x: NDArray[np.float32], /) -> NDArray[np.float32]: ...
def exp_f64(x: NDArray[np.float64], /) -> NDArray[np.float64]: ...
def log_f64(x: NDArray[np.float64], /) -> NDArray[np.float64]: ...
def advise_huge_pages(array: object, /) -> bool: ...
def row_state_read(
    logits: object, dtype: str | None, first_vocab: int, label: int, temperature: float, /
) -> _State: ...
def row_state_merge(first: _State, second: _State, /) -> _State: ...
def row_state_finish(state: _State, /) -> tuple[float, float, float, float, float, float, int]: ...
def build_info() -> dict[str, Any]: ...
def losses() -> tuple[dict[str, Any], ...]: ...
def loss(
    name: str,
    inputs: dict[str, Any],
    params: dict[str, float],
    grad_losses: object,
    wants_grads: bool,
    /,
) -> tuple[_Array, tuple[_Array, ...], dict[str, _Array] | None]: ...
def kto_kl(
    policy_kl_logps: object, ref_kl_logps: object, state: tuple[float, ...] | None, /
) -> float: ...
def ffi_handlers() -> dict[str, object]: ...
