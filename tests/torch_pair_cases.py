"""pair_token_stats with torch's own functions, differentiable, for the tests of tensors."""

from __future__ import annotations

from typing import Any

import torch


def pair_truth(x: Any, y: Any, labels: Any, perturbation: float) -> dict[str, Any]:
    """Every result, of a policy's x [..., V] and a reference's y; 0 where a label is -100."""
    log_p, log_r = torch.log_softmax(x, -1), torch.log_softmax(y, -1)
    index = labels.clamp(min=0).unsqueeze(-1)
    results = {
        "policy_logps": log_p.gather(-1, index).squeeze(-1),
        "ref_logps": log_r.gather(-1, index).squeeze(-1),
        "policy_lse": torch.logsumexp(x, -1),
        "ref_lse": torch.logsumexp(y, -1),
        "ref_policy_kl": (log_r.exp() * (log_r - log_p)).sum(-1),
        "policy_ref_kl": (log_p.exp() * (log_p - log_r)).sum(-1),
    }
    for name, sign in (("plus_logps", 1), ("minus_logps", -1)):
        moved = torch.log_softmax(x + sign * perturbation * (x - y), -1)
        results[name] = moved.gather(-1, index).squeeze(-1)
    return {name: each.masked_fill(labels == -100, 0) for name, each in results.items()}
