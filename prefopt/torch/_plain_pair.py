"""pair_token_stats in plain torch: the form that tensors on other devices get; see `_plain`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ._plain import safe_rows


def _log_softmax(x: Tensor) -> tuple[Tensor, Tensor]:
    """log softmax [..., V] and lse [...]; a row with an infinite lse has no distribution."""
    lse = torch.logsumexp(x, dim=-1)
    undefined = lse.isinf() | lse.isnan()
    return (x - lse.unsqueeze(-1)).masked_fill(undefined.unsqueeze(-1), math.nan), lse


def _divergence(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) over the last axis; entries of probability 0 under a add nothing."""
    a = log_a.exp()
    return torch.where(a == 0, a, a * (log_a - log_b)).sum(dim=-1).clamp(min=0)


def pair_token_stats(
    policy_logits: Tensor,
    ref_logits: Tensor,
    labels: Tensor,
    ignore_index: int,
    temperature: float,
    perturbation: float,
    stats: Sequence[str],
) -> list[Tensor]:
    """policy_logps, ref_logps, policy_lse, ref_lse and the named statistics, each [...]."""
    x, ignored, bad, index = safe_rows(policy_logits, labels, ignore_index, temperature)
    y = safe_rows(ref_logits, labels, ignore_index, temperature)[0]
    (log_p, policy_lse), (log_r, ref_lse) = _log_softmax(x), _log_softmax(y)

    def at_label(log_probabilities: Tensor) -> Tensor:
        return log_probabilities.gather(-1, index).squeeze(-1)

    def statistic(name: str) -> Tensor:
        if name == "ref_policy_kl":
            return _divergence(log_r, log_p)
        if name == "policy_ref_kl":
            return _divergence(log_p, log_r)
        eps = perturbation if name == "plus_logps" else -perturbation
        moved = torch.where(x == -math.inf, x, x + eps * (x - y))
        return at_label(_log_softmax(moved)[0])

    results = [at_label(log_p), at_label(log_r), policy_lse, ref_lse, *map(statistic, stats)]
    is_lse = (False, False, True, True, *(False for _ in stats))
    return [
        (each if keep else each.masked_fill(bad, math.nan)).masked_fill(ignored, 0)
        for each, keep in zip(results, is_lse, strict=True)
    ]


def pair_token_stats_grad(
    policy_logits: Tensor,
    ref_logits: Tensor,
    labels: Tensor,
    policy_lse: Tensor,
    ref_lse: Tensor,
    policy_ref_kl: Tensor | None,
    grad_policy_logps: Tensor | None,
    grad_ref_policy_kl: Tensor | None,
    grad_policy_ref_kl: Tensor | None,
    ignore_index: int,
    temperature: float,
) -> Tensor:
    """d loss / d policy_logits [..., V] in its dtype."""
    x, ignored, bad, index = safe_rows(policy_logits, labels, ignore_index, temperature)
    y = safe_rows(ref_logits, labels, ignore_index, temperature)[0]

    def column(vector: Tensor) -> Tensor:
        return vector.to(x.dtype).unsqueeze(-1)

    log_p, log_r = x - column(policy_lse), y - column(ref_lse)
    p, r = log_p.exp(), log_r.exp()
    grad = torch.zeros_like(x)
    if grad_ref_policy_kl is not None:
        grad = grad + column(grad_ref_policy_kl) * (p - r)
    if grad_policy_ref_kl is not None and policy_ref_kl is not None:
        g = column(grad_policy_ref_kl)
        slope = torch.where(p == 0, p, p * (log_p - log_r - column(policy_ref_kl)))
        grad = grad + torch.where(g == 0, 0, g * slope)
    if grad_policy_logps is not None:
        grad = (grad - column(grad_policy_logps) * p).scatter_add(
            -1, index, column(grad_policy_logps)
        )
    finite = policy_lse.isfinite() & ref_lse.isfinite()
    grad = (grad / temperature).masked_fill(~finite.unsqueeze(-1), math.nan)
    return grad.masked_fill((ignored | bad).unsqueeze(-1), 0).to(policy_logits.dtype)
