"""Token log-probabilities in plain torch: the form that tensors on other devices get.

The same results as the C kernels (csrc/prefopt.h states the special values), written for clarity:
it holds a few [..., V] temporaries where the kernels hold none. `prefopt.torch._bridge.force_plain`
runs it on the CPU for tests. One difference: a label outside [0, V) that is not ignore_index gives
NaN and a zero gradient row, because raising would have to wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ._bridge import result_dtype


def safe_rows(
    logits: Tensor, labels: Tensor, ignore_index: int, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x = logits / temperature, the ignored rows, the rows with a bad label, and labels that are
    safe to gather at.
    """
    x = logits.to(result_dtype(logits.dtype)) / temperature
    ignored = labels == ignore_index
    bad = ~ignored & ((labels < 0) | (labels >= logits.shape[-1]))
    return x, ignored, bad, labels.masked_fill(ignored | bad, 0).long().unsqueeze(-1)


def token_logps(
    logits: Tensor, labels: Tensor, ignore_index: int, temperature: float, stats: Sequence[str]
) -> list[Tensor]:
    """logps, lse and the named statistics of logits [..., V] at labels [...], each [...]."""
    x, ignored, bad, index = safe_rows(logits, labels, ignore_index, temperature)
    lse = torch.logsumexp(x, dim=-1)
    # A row with +inf has no distribution, nor has one of -inf alone (where -inf - -inf is NaN by
    # itself).
    undefined = lse == math.inf

    def statistic(name: str) -> Tensor:
        if name == "entropy":
            log_p = x - lse.unsqueeze(-1)
            p = log_p.exp()
            entropy = -torch.where(p == 0, p, p * log_p).sum(dim=-1)
            return entropy.masked_fill(undefined, math.nan)
        if name == "correct":
            maximum = x.amax(dim=-1)
            return (x.argmax(dim=-1) == index.squeeze(-1)) & ~bad & (maximum > -math.inf)
        if name == "mean_logit":
            return x.mean(dim=-1)
        if name == "max_logit":
            return x.amax(dim=-1)
        return torch.logsumexp(2 * x, dim=-1)  # lse2

    logps = (x.gather(-1, index).squeeze(-1) - lse).masked_fill(bad | undefined, math.nan)
    return [result.masked_fill(ignored, 0) for result in (logps, lse, *map(statistic, stats))]


def token_logps_grad(
    logits: Tensor,
    labels: Tensor,
    lse: Tensor,
    grad_logps: Tensor | None,
    grad_entropy: Tensor | None,
    grad_lse: Tensor | None,
    entropy: Tensor | None,
    ignore_index: int,
    temperature: float,
) -> Tensor:
    """d loss / d logits [..., V] in the dtype of logits, from the gradients of logps, entropy and
    lse [...].
    """
    x, ignored, bad, index = safe_rows(logits, labels, ignore_index, temperature)

    def column(vector: Tensor) -> Tensor:
        return vector.to(x.dtype).unsqueeze(-1)

    log_p = x - column(lse)
    p = log_p.exp()
    grad = torch.zeros_like(x)
    if grad_lse is not None:
        grad = grad + column(grad_lse) * p
    if grad_logps is not None:
        grad = (grad - column(grad_logps) * p).scatter_add(-1, index, column(grad_logps))
    if grad_entropy is not None and entropy is not None:
        slope = torch.where(p == 0, p, p * (log_p + column(entropy)))
        grad = grad - column(grad_entropy) * slope
    grad = (grad / temperature).masked_fill(~lse.isfinite().unsqueeze(-1), math.nan)
    return grad.masked_fill((ignored | bad).unsqueeze(-1), 0).to(logits.dtype)
