"""linear_token_logps for tensors: checks, autocast, and the choice of the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prefopt._linear import HIDDEN_GRADS

from . import _linear_operator
from ._arrays import takes_gpu_arrays
from ._bridge import (
    contiguous_rows,
    refuse_forward_mode,
    refuse_transforms,
    runs_cuda,
    runs_directly,
)
from ._dtensor import group_name, localise
from ._head import DEFAULT_MEMORY, Head, Options
from ._linear_check import (
    check_head,
    check_split,
    check_topk,
    check_types,
    hidden_grads,
    take_options,
)
from ._linear_operator import output_names
from ._token import TokenLogps, ordered


@takes_gpu_arrays
def linear_token_logps(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    lora_a: Tensor | None = None,
    lora_b: Tensor | None = None,
    ignore_index: int = -100,
    stats: Sequence[str] = (),
    topk: int = 0,
    memory_limit: int | None = None,
    grad_filter: float | None = None,
    return_grad_hidden: bool | Sequence[str] = False,
    entropy_requires_grad: bool = True,
    group: Any = None,
    vocab_start: int | None = None,
    num_tokens: int | None = None,
) -> TokenLogps:
    """`token_logps` of the logits that a head makes from hidden states, without those logits::

        z = hidden @ weight.T + hidden @ lora_a.T @ lora_b.T + bias
        x = softcap(logit_scale * z) / temperature,  softcap(u) = c tanh(u / c), u itself for None

    and every result is of x. Tiles of x are made in float32 from the exact input values (float64
    for float64 inputs), reduced and dropped. Tokens with `ignore_index` are not multiplied.

    What needs a gradient decides the work: nothing, one sweep; hidden alone (a frozen head), the
    gradient is made in that sweep and [..., H] float32 is saved; weight, bias or LoRA, backward
    makes the tiles again, or reads them where `memory_limit` lets the forward keep them.

    Args:
        hidden: [..., H] float16, bfloat16, float32 or float64, read in place on the CPU when the
            last axis is contiguous. Under autocast it and the head are rounded as a linear layer
            would round them, and the gradients are not.
        weight: [V, H] any of these dtypes; float64 where hidden is, and only there. A distributed
            tensor (FSDP2) is gathered; its gradient is the mean over processes.
        labels: [...] any signed integer dtype or uint8, aligned with hidden (nothing is shifted).
        bias: [V]; -inf rules an entry out.
        logit_scale: finite, not 0.
        softcap: c > 0, or None.
        lora_a, lora_b: [r, H] and [V, r], a low-rank addition to weight, its scale folded in.
        ignore_index, temperature, stats: as in `token_logps`.
        topk: the number of most probable entries to return for each token.
        memory_limit: bytes of workspace, None for 64 MiB. A trained head's logits of the tokens
            that count, [tokens, V] float32, are kept for backward where they fit into a limit that
            is given (not under torch.compile).
        grad_filter: backward leaves out vocabulary entries whose probability is below this for
            each of 256 tokens in turn, and which are no label of theirs. None: exact.
        return_grad_hidden: True for d logps / d hidden [..., H], or names out of "logps", "lse",
            "entropy". They carry no gradient, and may not be changed before backward.
        entropy_requires_grad: False for an entropy to look at: a frozen head's sweep is then one
            product cheaper.
        group: a process group (or one-dimensional device mesh) over whose ranks the vocabulary is
            split in rank order: weight, bias and lora_b are this rank's rows, hidden, labels and
            lora_a the same on every rank. One all_gather of [..., 9] float64 in the forward, one
            all_reduce of the gradient by hidden in the backward. No topk.
        vocab_start: with `group`, the first vocabulary index of this rank's part. It is derived
            where weight is a distributed tensor, and so is `group` where hidden is one too.
        num_tokens: how many labels are not ignored, or a number that is certainly no less. Without
            it a CUDA device, which nobody waits for, multiplies the ignored tokens too. Where there
            are more, every result is NaN and `cuda_check` says so. Other devices count themselves.

    Returns:
        `TokenLogps`, results [...] in float32 (float64 for float64 hidden), topk_ids and
        topk_logps [..., topk], grad_hidden* [..., H]. logps, lse and entropy carry gradients, each
        in its parameter's dtype from sums in float32. There is no second derivative.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or parameter, or a label out of range, named
            with its index.
        NotImplementedError: under vmap, torch.func.grad, for forward-mode tangents, and on
            differentiating the gradient.
    """
    head = Head(hidden, weight, labels, bias, lora_a, lora_b)
    check_types(head)
    name = "" if group is None else group_name(group)
    head, name, start = localise(head, name, vocab_start)
    options = take_options(
        head,
        ignore_index=ignore_index,
        logit_scale=logit_scale,
        softcap=softcap,
        temperature=temperature,
        memory_limit=memory_limit,
        grad_filter=grad_filter,
        vocab_start=start,
        group=name,
        num_tokens=num_tokens,
    )
    check_head(head)
    check_topk(topk, head.weight.shape[0])
    gradients = hidden_grads(return_grad_hidden)
    check_split(name, start, topk, gradients)
    names = " ".join(ordered(stats))
    values = _outputs(head, options, names, topk, gradients, entropy_requires_grad)
    return _result(values, entropy_requires_grad)


# ---- the choice ----------------------------------------------------------------------------------


def _outputs(
    head: Head,
    options: Options,
    stats: str,
    topk: int,
    gradients: Sequence[str],
    entropy_requires_grad: bool,
) -> dict[str, Tensor]:
    head = Head(
        *(each if each is None or each is head.labels else contiguous_rows(each) for each in head)  # type: ignore[arg-type]
    )
    tensors = [each for each in head if each is not None]
    trained = any(
        each is not None and each.requires_grad
        for each in (head.weight, head.bias, head.lora_a, head.lora_b)
    )
    wants_gradient = torch.is_grad_enabled() and (trained or head.hidden.requires_grad)
    frozen = wants_gradient and not trained
    made = list(gradients)
    if frozen:
        made += ["logps", "entropy"] if "entropy" in stats and entropy_requires_grad else ["logps"]
    arguments = (*head, *options, stats, topk, " ".join(n for n in HIDDEN_GRADS if n in made))
    names = output_names(*arguments[-3:])
    if runs_directly(*tensors):
        refuse_forward_mode(*tensors)
        if frozen:
            values = _linear_operator.apply_frozen(_anchor(head.hidden), *arguments)
        elif wants_gradient:
            keep, options = _keeps(head, options) if not gradients else (False, options)
            arguments = (*head, *options, *arguments[-3:])
            values = _linear_operator.apply(*arguments, keep)
        else:
            values = _linear_operator.run(arguments)
    else:
        refuse_transforms(*tensors)
        if frozen:
            values = _linear_operator.frozen_operator(_anchor(head.hidden), *arguments)
        else:
            values = _linear_operator.operator(*arguments)
    hidden = {f"grad_hidden_{name}" for name in set(made) - set(gradients)}
    return {name: each for name, each in zip(names, values, strict=True) if name not in hidden}


def _anchor(hidden: Tensor) -> Tensor:
    """Nothing of hidden, in memory of its own, that autograd knows to come from it."""
    return hidden[..., :0].clone()


def _keeps(head: Head, options: Options) -> tuple[bool, Options]:
    """Whether the logits are kept for backward, and the limit that is left for the workspace."""
    limit = options.memory_limit
    if not limit or options.group or runs_cuda(head.hidden):
        return False, options
    tokens = int((head.labels != options.ignore_index).sum())
    itemsize = 8 if head.hidden.dtype is torch.float64 else 4
    rest = limit - tokens * head.weight.shape[0] * itemsize
    if rest < min(limit // 2, DEFAULT_MEMORY):
        return False, options
    return True, options._replace(memory_limit=min(rest, DEFAULT_MEMORY))


def _result(values: dict[str, Tensor], entropy_requires_grad: bool) -> TokenLogps:
    lse, dtype = values["lse"], values["logps"].dtype
    # Backward reads this one: the caller gets a copy, to change at will.
    values["lse"] = lse.to(dtype, copy=lse.requires_grad)
    if "entropy" in values and not entropy_requires_grad:
        values["entropy"] = values["entropy"].detach()
    if "grad_hidden_logps" in values:
        values["grad_hidden"] = values.pop("grad_hidden_logps")
    return TokenLogps(**values)
