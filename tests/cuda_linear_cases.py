"""The fused linear op of the simulated GPU on NumPy arrays: what its tests call."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from linear_cases import Case

from prefopt._cuda import Library
from prefopt._cuda_abi import Call, fill_view
from prefopt._cuda_linear_abi import (
    LinearTokenLogpsArgs,
    LinearTokenLogpsGradArgs,
    RowStatesArgs,
)

STATS = ("logps", "lse", "entropy", "correct", "mean_logit", "max_logit", "lse2")
HIDDEN_GRADS = ("grad_hidden_logps", "grad_hidden_lse", "grad_hidden_entropy")
INPUTS = ("hidden", "weight", "labels", "bias", "lora_a", "lora_b")
GUARD = 64  # bytes behind a workspace that nobody may write


def dtype_of(array: np.ndarray) -> str:
    """uint16 arrays hold bfloat16, as in `prefopt`."""
    return (
        "bfloat16"
        if array.dtype == np.uint16 or array.dtype.name == "bfloat16"
        else array.dtype.name
    )


def point(view: Any, array: np.ndarray | None) -> None:
    """Describes an array, or nothing, in a view."""
    if array is not None:
        fill_view(view, array.ctypes.data, dtype_of(array), array.shape, array.strides)


class Device:
    """The library, and what a call is made with."""

    def __init__(self, library: Library) -> None:
        self.library = library

    def _run(self, name: str, args: Any) -> None:
        call = Call()
        needed = self.library.workspace(name, args, call)
        memory = np.full(needed + 256 + GUARD, 0xFF, np.uint8)  # NaN, whatever it is read as
        start = -memory.ctypes.data % 256
        call.workspace, call.workspace_bytes = memory.ctypes.data + start, needed
        self.library.run(name, args, call)
        assert (memory[start + needed :] == 0xFF).all()

    def _inputs(self, inputs: Any, case: Case, memory_limit: int, **arrays: np.ndarray) -> None:
        for name in INPUTS:
            point(getattr(inputs, name), arrays.get(name, getattr(case, name)))
        inputs.ignore_index = -100
        inputs.logit_scale = case.options.get("logit_scale", 1.0)
        inputs.softcap = case.options.get("softcap", 0.0)
        inputs.temperature = case.options.get("temperature", 1.0)
        inputs.memory_limit = memory_limit

    def forward(
        self,
        case: Case,
        *,
        outputs: tuple[str, ...] = (*STATS, *HIDDEN_GRADS),
        topk: int = 0,
        memory_limit: int = 0,
        num_tokens: int = 0,
        products: int = 0,
        vocab: tuple[int, int] = (0, 0),
        **arrays: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """The named outputs, "states" among them; lse in double."""
        args = LinearTokenLogpsArgs(num_tokens=num_tokens, products=products)
        self._inputs(args.inputs, case, memory_limit, **arrays)
        args.inputs.vocab_start, args.inputs.vocab_total = vocab
        labels = arrays.get("labels", case.labels)
        hidden = arrays.get("hidden", case.hidden)
        dtypes = {
            "lse": np.float64,
            "correct": np.bool_,
            "topk_ids": np.int64,
            "states": np.float64,
        }
        names = [*outputs, *(("topk_ids", "topk_logps") if topk else ())]
        results = {}
        for name in names:
            last = (topk,) if "topk" in name else (9,) if name == "states" else ()
            last = hidden.shape[-1:] if name in HIDDEN_GRADS else last
            dtype = np.dtype(dtypes.get(name, np.float32))
            array = np.full((*labels.shape, *last), 0xA5, np.dtype(f"V{dtype.itemsize}")).view(
                dtype
            )
            results[name] = array
            point(getattr(args, name), array)
        self._run("pfo_cuda_linear_token_logps", args)
        return results

    def backward(
        self,
        case: Case,
        lse: np.ndarray,
        entropy: np.ndarray | None,
        *,
        upstream: dict[str, np.ndarray] | None = None,
        memory_limit: int = 0,
        num_tokens: int = 0,
        products: int = 0,
        weight_alike: bool = False,
        grad_filter: float = 0.0,
        **arrays: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Every gradient that the case has."""
        args = LinearTokenLogpsGradArgs(
            num_tokens=num_tokens, products=products, grad_filter=grad_filter
        )
        self._inputs(args.inputs, case, memory_limit, **arrays)
        point(args.lse, lse)
        point(args.entropy, entropy)
        for name, array in (case.upstream if upstream is None else upstream).items():
            point(getattr(args, name), array)
        results = {}
        for name in ("hidden", "weight", "bias", "lora_a", "lora_b"):
            like = arrays.get(name, getattr(case, name))
            if like is None:
                continue
            alike = weight_alike and name == "weight"
            dtype = like.dtype if alike else np.dtype(np.float32)
            array = np.full(like.shape, 0xA5, np.dtype(f"V{dtype.itemsize}")).view(dtype)
            results[name] = array
            point(getattr(args, f"grad_{name}"), array)
        self._run("pfo_cuda_linear_token_logps_grad", args)
        return results

    def finish(self, states: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        """row_states_finish."""
        args = RowStatesArgs(ignore_index=-100)
        point(args.states, states)
        point(args.labels, labels)
        results = {}
        for name in STATS:
            results[name] = np.zeros(labels.shape, np.bool_ if name == "correct" else np.float64)
            point(getattr(args, name), results[name])
        self.library.run("pfo_cuda_row_states_finish", args, Call())
        return results

    def set_order(self, order: int, seed: int = 0) -> None:
        """How the simulation schedules threads: cuda_sim.h."""
        self.library.handle.cuda_sim_set_order(order, ctypes.c_uint64(seed))
