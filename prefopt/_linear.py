"""Token log-probabilities from hidden states and an output head, without the logits: NumPy.

Source of the idea: the logits of a token are needed only as a few sums over the vocabulary, so they
are made in tiles, reduced and dropped (Wijmans et al. 2024, arXiv 2411.09009, cut cross-entropy;
Rabe and Staats 2021, arXiv 2112.05682, for the sums that make the gradient in the same sweep).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _blas, _core
from ._loss_call import nearest
from ._token import TokenLogps

Array = NDArray[Any]

__all__ = ["LinearGrads", "linear_token_logps", "linear_token_logps_grad"]

STATS = ("entropy", "correct", "mean_logit", "max_logit", "lse2")
HIDDEN_GRADS = ("logps", "lse", "entropy")
NEEDS = ("hidden", "weight", "bias", "lora_a", "lora_b")


class LinearGrads(NamedTuple):
    """Gradients of a loss through `linear_token_logps`; None where absent or not asked for.

    float32, accumulated in float32 (float64 for float64 inputs), each of its input's shape.
    """

    grad_hidden: Array | None
    grad_weight: Array | None
    grad_bias: Array | None
    grad_lora_a: Array | None
    grad_lora_b: Array | None


def flags_of(
    names: Iterable[str], known: Sequence[str], argument: str, example: str
) -> tuple[bool, ...]:
    """A flag for each of `known`."""
    if isinstance(names, str):
        raise TypeError(f'{argument}: expected a sequence of names such as ("{example}",), got str')
    listed = list(names)
    for index, name in enumerate(listed):
        if name not in known:
            hint = nearest(str(name), known)
            raise ValueError(f"{argument}: unknown {name!r} at index {index}; {hint}")
    return tuple(name in listed for name in known)


def hidden_grad_flags(wanted: bool | Iterable[str]) -> tuple[bool, ...]:
    """Which of HIDDEN_GRADS `return_grad_hidden` asks for."""
    if isinstance(wanted, (bool, np.bool_)):
        return bool(wanted), False, False
    return flags_of(wanted, HIDDEN_GRADS, "return_grad_hidden", "logps")


def linear_token_logps(
    hidden: Any,
    weight: Any,
    labels: Any,
    *,
    bias: Any = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    lora_a: Any = None,
    lora_b: Any = None,
    dtype: str | None = None,
    ignore_index: int = -100,
    stats: Sequence[str] = (),
    topk: int = 0,
    memory_limit: int | None = None,
    return_grad_hidden: bool | Sequence[str] = False,
    keep_logits: bool = False,
) -> TokenLogps:
    """`token_logps` of the logits that a head makes from hidden states, without those logits.

    With z = hidden @ weight.T + hidden @ lora_a.T @ lora_b.T + bias::

        x = softcap(logit_scale * z) / temperature,  softcap(u) = c tanh(u / c), u itself for None

    and every result is of x. It is made in tiles, in float32 from the exact input values (float64
    for float64 inputs), never rounded to a half type; tokens with ``ignore_index`` are not
    multiplied at all.

    Parameters
    ----------
    hidden : [..., H] float16, bfloat16, float32 or float64, the last axis contiguous.
    weight : [V, H], rows contiguous; any of these dtypes (float64 with float64 hidden, only then).
    labels : [...] of any integer type, aligned with hidden (nothing is shifted).
    bias : [V]; -inf rules an entry out.
    logit_scale : finite, not 0.
    softcap : c > 0, or None.
    lora_a, lora_b : [r, H] and [V, r], a low-rank addition to weight, its scale folded in.
    dtype : "bfloat16" where uint16 arrays hold its bits.
    ignore_index, temperature, stats : as in `token_logps`.
    topk : the number of most probable entries to return for each token.
    memory_limit : bytes of workspace, beyond results and gradients; None is 64 MiB.
    return_grad_hidden : True for d logps / d hidden, made in the same sweep (a frozen head then
        needs no second pass); or names out of "logps", "lse", "entropy". The entropy's costs one
        more multiplication.
    keep_logits : keep x of the unmasked tokens for `linear_token_logps_grad`, which then need not
        make it again: [unmasked tokens, V] float32, not counted in memory_limit.

    Returns
    -------
    TokenLogps with ``topk_ids`` and ``topk_logps`` [..., topk] (by falling log-probability, ties by
    rising id; -1 and NaN in a row that holds NaN, -1 and 0 where ignored), ``grad_hidden``,
    ``grad_hidden_lse``, ``grad_hidden_entropy`` [..., H] float32 and ``kept``; None where not asked
    for.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected, what came and the first bad index.
    """
    _blas.ensure_loaded()
    results = _core.linear_token_logps(
        hidden,
        weight,
        labels,
        bias,
        lora_a,
        lora_b,
        dtype,
        ignore_index,
        logit_scale,
        softcap,
        temperature,
        memory_limit,
        0,
        0,
        (True, True, *flags_of(stats, STATS, "stats", "entropy")),
        topk,
        hidden_grad_flags(return_grad_hidden),
        False,
        keep_logits,
        False,
    )
    *fields, _states, kept = results
    return tuple.__new__(TokenLogps, (*fields, kept))


def linear_token_logps_grad(
    hidden: Any,
    weight: Any,
    labels: Any,
    lse: Any,
    *,
    grad_logps: Any = None,
    grad_entropy: Any = None,
    grad_lse: Any = None,
    entropy: Any = None,
    needs: Sequence[str] = ("hidden", "weight"),
    bias: Any = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    lora_a: Any = None,
    lora_b: Any = None,
    dtype: str | None = None,
    ignore_index: int = -100,
    memory_limit: int | None = None,
    grad_filter: float | None = None,
    kept: Any = None,
) -> LinearGrads:
    """Gradients of a loss by hidden, head and LoRA, from its gradients by logps, entropy and lse.

    Parameters
    ----------
    hidden, weight, labels, bias, ... : as given to `linear_token_logps`.
    lse : [...] float32 or float64, its result.
    grad_logps, grad_entropy, grad_lse : [...] float32 or float64, at least one of them.
    entropy : [...] its result; needed with grad_entropy.
    needs : which gradients: names out of "hidden", "weight", "bias", "lora_a", "lora_b".
    grad_filter : leave out vocabulary entries whose probability is below this for each of 256
        tokens in turn (labels are always in; grad_bias is exact). Off by default; what it costs in
        error and saves in time depends on the model: see docs/notes.md.
    kept : the forward's ``kept``; its contents are destroyed. None makes the logits again.

    Returns
    -------
    LinearGrads. Ignored tokens have gradient 0. A token whose lse is not finite has NaN gradient,
    and with it the head has.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected, what came and the first bad index.
    """
    _blas.ensure_loaded()
    *grads, _made, _left_out = _core.linear_token_logps_grad(
        hidden,
        weight,
        labels,
        bias,
        lora_a,
        lora_b,
        dtype,
        ignore_index,
        logit_scale,
        softcap,
        temperature,
        memory_limit,
        0,
        0,
        lse,
        entropy,
        grad_logps,
        grad_entropy,
        grad_lse,
        kept,
        grad_filter,
        flags_of(needs, NEEDS, "needs", "hidden"),
    )
    return LinearGrads(*grads)
