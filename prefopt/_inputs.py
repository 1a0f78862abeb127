"""What losses take beside log-probabilities: weights, random numbers, the next reference.

Nothing here has a gradient. `prefopt.reference` says where each formula is from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prefopt._loss_call import run_procedure, take_array, take_number
from prefopt._token import sequence_logps

Array = npt.NDArray[Any]

__all__ = ["ld_weights", "mix_reference", "uniforms", "wpo_weights"]


def ld_weights(mask: npt.ArrayLike, other_lengths: npt.ArrayLike, alpha: float) -> Array:
    """LD-DPO's token weights [B, T], for `sequence_logps` in place of the mask.

    1 for the first M tokens of an answer and `alpha` for those beyond, M being the length of the
    shorter answer of its pair: the excess of the longer answer counts less. 0 outside the mask.

    mask: [B, T] bool or integers 0 and 1, the tokens of one side's answers.
    other_lengths: [B] counts, the lengths of the other side's answers.
    alpha: in [0, 1]; 1 is no change.

    TRL 1.x weights the policy's and the reference's sums alike, LLaMA-Factory and TRL 0.x the
    policy's alone: two losses of one name. Liu et al. 2024, arXiv 2409.06411.
    """
    counts, lengths = np.asarray(mask), np.asarray(other_lengths)
    if counts.ndim != 2:
        raise ValueError(f"mask: expected two dimensions [B, T], got {counts.ndim}")
    if counts.dtype.kind not in "biu":
        raise TypeError(f"mask: expected bool or integers 0 and 1, got {counts.dtype}")
    if lengths.shape != counts.shape[:1]:
        raise ValueError(
            f"other_lengths: expected shape [{counts.shape[0]}] like mask, got {lengths.shape}"
        )
    if lengths.size and lengths.dtype.kind not in "iuf":
        raise TypeError(f"other_lengths: expected counts, got {lengths.dtype}")
    if bad := [*np.flatnonzero(~((lengths >= 0) & np.isfinite(lengths)))]:
        raise ValueError(
            f"other_lengths: expected finite counts >= 0, got {lengths[bad[0]]} at index {bad[0]}"
        )
    share = take_share(alpha)
    counts = counts != 0
    shorter = np.cumsum(counts, axis=1) <= lengths[:, None]
    return np.where(counts, np.where(shorter, 1.0, share), 0.0)


def wpo_weights(
    logps: npt.ArrayLike,
    lse: npt.ArrayLike,
    lse2: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
) -> Array:
    """WPO's weight of each answer [B]: how likely it is under the policy, beside what else is.

    exp((1 / N) sum_t (log p(y_t) - log sum_v p(v)^2)), where log sum_v p(v)^2 = lse2 - 2 lse; 1 for
    an empty answer. For `chosen_weights` and `rejected_weights` of the losses, which multiply by
    both; the authors and TRL 0.x clamp the product at 1: `chosen_weights=np.minimum(w * l, 1)`.

    logps, lse, lse2: [B, T] float, from `token_logps(..., stats=("lse2",))`.
    mask: [B, T], the tokens that count, as for `sequence_logps`; None: all.

    Returns float32, or float64 for float64 logps. Zhou et al. 2024, arXiv 2406.11827.
    """
    arrays = {"logps": logps, "lse": lse, "lse2": lse2}
    values = {name: np.asarray(take_array(each)) for name, each in arrays.items()}
    for name, each in values.items():
        if each.dtype.kind != "f":
            raise TypeError(f"{name}: expected a float dtype, got {each.dtype}")
        if each.ndim != 2 or each.shape != values["logps"].shape:
            expected = "two dimensions [B, T]" if name == "logps" else "the shape of logps"
            raise ValueError(f"{name}: expected {expected}, got shape {each.shape}")
    dtype = np.float64 if values["logps"].dtype == np.float64 else np.float32
    with np.errstate(invalid="ignore", over="ignore"):
        excess = values["lse2"].astype(np.float64) - 2.0 * values["lse"]
        excess = values["logps"] - excess
        weights: Array = np.exp(sequence_logps(excess, mask, average=True)).astype(dtype)
    return weights


def uniforms(seed: int, shape: int | Sequence[int]) -> Array:
    """Random numbers in [0, 1), each made from the seed and its own index alone, float64.

    Element i in C order is floor(mix(seed + (i + 1) G) / 2^11) / 2^53 in integers modulo 2^64:
    SplitMix64 (Steele, Lea and Flood 2014) as a function of a counter, with

        G = 0x9E3779B97F4A7C15
        mix(z):  z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9;
                 z ^= z >> 27;  z *= 0x94D049BB133111EB;  z ^= z >> 31
    The same everywhere and for any cut of the work: a prefix of a longer shape is the same numbers.
    For `sampo_indices`, `rso_accept` and `beta_dpo_keep`; count the seed up from call to call.

    seed: an integer in [0, 2^64). shape: an integer or integers.
    """
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed: expected an integer, got {type(seed).__name__}")
    if not 0 <= int(seed) < 2**64:
        raise ValueError(f"seed: expected an integer in [0, 2^64), got {seed}")
    sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) for n in sizes):
        raise TypeError(f"shape: expected integers, got {shape!r}")
    if any(n < 0 for n in sizes):
        raise ValueError(f"shape: a size may not be negative, got {shape!r}")
    counter = np.arange(1, math.prod(sizes) + 1, dtype=np.uint64)
    z = np.asarray([int(seed)], dtype=np.uint64) + counter * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.asarray((z >> np.uint64(11)) * 2.0**-53).reshape(sizes)


def mix_reference(
    policy: npt.ArrayLike, ref: npt.ArrayLike, alpha: float = 0.6, *, out: Array | None = None
) -> Array:
    """TR-DPO's update of the reference's parameters: alpha policy + (1 - alpha) ref.

    The paper, and TRL's SyncRefModelCallback, call it every 512 optimiser steps with alpha 0.6 (a
    soft update; alpha = 1 every so often is the hard one), on each array of parameters:

        if step % 512 == 0:
            for name, array in policy.items():
                prefopt.mix_reference(array, ref[name], 0.6, out=ref[name])
    Log-probabilities of the reference that were stored before are then out of date.

    policy, ref: float arrays of one shape. alpha: in [0, 1]; a share of 0 leaves its array out.
    out: of that shape, to write into; `ref` itself for an update in place. The sum is made in
    float64 and rounded once.
    """
    share = take_share(alpha)
    left, right = np.asarray(policy), np.asarray(ref)
    if left.shape != right.shape:
        raise ValueError(f"ref: expected the shape of policy {left.shape}, got {right.shape}")
    if out is not None and (not isinstance(out, np.ndarray) or out.shape != left.shape):
        got = out.shape if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(f"out: expected an array of shape {left.shape}, got {got}")
    inputs = {"policy_parameters": left.reshape(-1), "ref_parameters": right.reshape(-1)}
    mixed = run_procedure("tr_dpo.mix", inputs, {"mix_alpha": share}).mixed.reshape(left.shape)
    if out is None:
        return np.asarray(mixed)
    np.copyto(out, mixed, casting="same_kind")
    return out


def take_share(alpha: Any) -> float:
    """A number in [0, 1]."""
    share = take_number("alpha", alpha)
    if not 0 <= share <= 1:
        raise ValueError(f"alpha: expected a value in [0, 1], got {share:g}")
    return share
