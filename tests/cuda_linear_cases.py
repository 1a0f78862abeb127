"""The CUDA library's fused linear op on the cases of the CPU's: what its tests call."""

from __future__ import annotations

from typing import Any

import cuda_device as device
import numpy as np
from linear_cases import Case

from prefopt._cuda_linear_abi import (
    LinearTokenLogpsArgs,
    LinearTokenLogpsGradArgs,
    RowStatesArgs,
)

STATS = ("logps", "lse", "entropy", "correct", "mean_logit", "max_logit", "lse2")
HIDDEN_GRADS = ("grad_hidden_logps", "grad_hidden_lse", "grad_hidden_entropy")
PARAMETERS = ("hidden", "weight", "bias", "lora_a", "lora_b")
DTYPES: dict[str, Any] = {
    "lse": np.float64,
    "correct": np.bool_,
    "topk_ids": np.int64,
    "states": np.float64,
}


def unwritten(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Memory whose bytes are all the same, and no result's."""
    found = np.dtype(dtype)
    memory = np.full((*shape, found.itemsize), 0xA5, np.uint8)
    return memory.view(found)[..., 0] if memory.size else np.empty(shape, found)


def describe_inputs(args: Any, case: Case, memory_limit: int, given: dict[str, np.ndarray]) -> None:
    """What both directions begin with; `given` stands for the case's own arrays."""
    inputs = args.inputs
    for name in (*PARAMETERS, "labels"):
        array = given.get(name, getattr(case, name))
        if array is not None:
            device.describe(getattr(inputs, name), array)
    inputs.ignore_index, inputs.memory_limit = -100, memory_limit
    inputs.logit_scale = case.options.get("logit_scale", 1.0)
    inputs.softcap = case.options.get("softcap", 0.0)
    inputs.temperature = case.options.get("temperature", 1.0)


def forward(
    case: Case,
    *,
    outputs: tuple[str, ...] = (*STATS, *HIDDEN_GRADS),
    topk: int = 0,
    memory_limit: int = 0,
    num_tokens: int = 0,
    products: int = 0,
    vocab: tuple[int, int] = (0, 0),
    **given: np.ndarray,
) -> dict[str, np.ndarray]:
    """The named outputs, and the top-k; lse in double."""
    args = LinearTokenLogpsArgs(num_tokens=num_tokens, products=products)
    describe_inputs(args, case, memory_limit, given)
    args.inputs.vocab_start, args.inputs.vocab_total = vocab
    shape = given.get("labels", case.labels).shape
    size = given.get("hidden", case.hidden).shape[-1]
    results = {}
    for name in (*outputs, *(("topk_ids", "topk_logps") if topk else ())):
        last = {"states": (9,), "topk_ids": (topk,), "topk_logps": (topk,)}.get(name, ())
        last = (size,) if name in HIDDEN_GRADS else last
        results[name] = unwritten((*shape, *last), DTYPES.get(name, np.float32))
    device.run("pfo_cuda_linear_token_logps", args, **results)
    return results


def backward(
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
    **given: np.ndarray,
) -> dict[str, np.ndarray]:
    """Every gradient that the case has; that of weight in its own dtype with `weight_alike`."""
    args = LinearTokenLogpsGradArgs(
        num_tokens=num_tokens, products=products, grad_filter=grad_filter
    )
    describe_inputs(args, case, memory_limit, given)
    results = {}
    for name in PARAMETERS:
        like = given.get(name, getattr(case, name))
        if like is not None:
            alike = weight_alike and name == "weight"
            results[name] = unwritten(like.shape, like.dtype if alike else np.float32)
    grads = {f"grad_{name}": each for name, each in results.items()}
    vectors = case.upstream if upstream is None else upstream
    device.run(
        "pfo_cuda_linear_token_logps_grad", args, lse=lse, entropy=entropy, **vectors, **grads
    )
    return results


def finish(states: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """row_states_finish."""
    results = {
        name: unwritten(labels.shape, np.bool_ if name == "correct" else np.float64)
        for name in STATS
    }
    device.run(
        "pfo_cuda_row_states_finish",
        RowStatesArgs(ignore_index=-100),
        states=states,
        labels=labels,
        **results,
    )
    return results
