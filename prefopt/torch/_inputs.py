"""What losses take beside log-probabilities, for tensors; see `prefopt._inputs`. No gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prefopt._inputs import take_share
from prefopt._inputs import uniforms as numpy_uniforms

from ._bridge import result_dtype, runs_cuda, runs_plain, wide_dtype
from ._loss_operator import run_procedure
from ._sequence import sequence_logps

__all__ = ["ld_weights", "mix_reference", "uniforms", "wpo_weights"]


def ld_weights(mask: Tensor, other_lengths: Tensor, alpha: float) -> Tensor:
    """LD-DPO's token weights [B, T], float64, for `sequence_logps`; see `prefopt.ld_weights`."""
    share = take_share(alpha)
    if mask.dim() != 2:
        raise ValueError(f"mask: expected two dimensions [B, T], got {mask.dim()}")
    if mask.is_floating_point():
        raise TypeError(f"mask: expected bool or integers 0 and 1, got {mask.dtype}")
    if other_lengths.shape != mask.shape[:1]:
        raise ValueError(
            f"other_lengths: expected shape [{mask.shape[0]}] like mask, "
            f"got {tuple(other_lengths.shape)}"
        )
    counts = mask != 0
    shorter = counts.cumsum(1) <= other_lengths[:, None]
    weights = torch.ones_like(mask, dtype=wide_dtype(mask)).masked_fill_(~shorter, share)
    return weights.masked_fill(~counts, 0.0)


@torch.no_grad()
def wpo_weights(logps: Tensor, lse: Tensor, lse2: Tensor, mask: Tensor | None = None) -> Tensor:
    """WPO's weight of each answer [B], without gradient; see `prefopt.wpo_weights`."""
    for name, each in (("logps", logps), ("lse", lse), ("lse2", lse2)):
        if not each.is_floating_point():
            raise TypeError(f"{name}: expected a floating dtype, got {each.dtype}")
        if each.dim() != 2 or each.shape != logps.shape:
            expected = "[B, T]" if name == "logps" else f"the shape of logps {tuple(logps.shape)}"
            raise ValueError(f"{name}: expected {expected}, got {tuple(each.shape)}")
    wide = wide_dtype(logps)
    excess = logps.to(wide) - (lse2.to(wide) - 2 * lse.to(wide))
    return sequence_logps(excess, mask, average=True).exp().to(result_dtype(logps.dtype))


def uniforms(
    seed: int, shape: int | Sequence[int], *, device: torch.device | str | None = None
) -> Tensor:
    """Random numbers in [0, 1), float64, those of `prefopt.uniforms`."""
    return torch.from_numpy(numpy_uniforms(seed, shape)).to(device or "cpu")


@torch.no_grad()
def mix_reference(
    policy: Tensor, ref: Tensor, alpha: float = 0.6, *, out: Tensor | None = None
) -> Tensor:
    """TR-DPO's update alpha policy + (1 - alpha) ref; see `prefopt.mix_reference`.

    In place, every 512 optimiser steps:

        for p, r in zip(policy.parameters(), reference.parameters(), strict=True):
            mix_reference(p, r, 0.6, out=r)
    Parameters stay on their device; half types are mixed in float32.
    """
    share = take_share(alpha)
    if policy.shape != ref.shape:
        raise ValueError(
            f"ref: expected the shape of policy {tuple(policy.shape)}, got {tuple(ref.shape)}"
        )
    if out is not None and out.shape != ref.shape:
        raise ValueError(f"out: expected the shape of ref, got {tuple(out.shape)}")
    dtype = torch.promote_types(result_dtype(policy.dtype), result_dtype(ref.dtype))
    left, right = policy.detach().to(dtype), ref.detach().to(dtype)
    if runs_plain(ref) or runs_cuda(ref):
        mixed = torch.lerp(right, left, share)
    else:
        inputs = {"policy_parameters": left.reshape(-1), "ref_parameters": right.reshape(-1)}
        mixed = run_procedure("tr_dpo.mix", inputs, {"mix_alpha": share}).mixed.reshape(ref.shape)
    return mixed.to(ref.dtype) if out is None else out.copy_(mixed)
