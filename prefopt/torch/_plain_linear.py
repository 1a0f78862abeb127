"""The fused linear operation in plain torch: the form that tensors on other devices get.

The same results as the C kernels (csrc/ops/prefopt_linear.h states them), written for clarity. It
works on chunks of the tokens that count, so that a few [chunk, V] temporaries are all it holds.
`prefopt.torch._bridge.force_plain` runs it on the CPU for tests. One difference: a label outside
the vocabulary that is not ignore_index gives NaN and a zero gradient row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from . import _plain
from ._bridge import result_dtype, wide_dtype
from ._head import (
    Head,
    HeadGradients,
    Options,
    as_given,
    chunks,
    logits_of,
    product_gradient,
    times_head,
)

_NONE = -100  # an ignore_index that no label has: those that have it were left out
_TEMPORARIES = 8  # [chunk, V] arrays that are alive together, about
_STATE_FIELDS = 9  # of a row state: csrc/core/row_state.h


# ---- forward -------------------------------------------------------------------------------------


def sweep(head: Head, options: Options, names: Sequence[str], topk: int) -> dict[str, Tensor]:
    """`Kernels.sweep`; `kept` is not made here."""
    results = {name: _empty(head, name, topk) for name in names}
    if topk:
        results.update({name: _empty(head, name, topk) for name in ("topk_ids", "topk_logps")})
    with as_given(head.hidden):
        for rows, hidden, labels in chunks(head, options, _TEMPORARIES):
            x = logits_of(head, options, hidden)
            for name, value in _chunk_results(head, options, x, labels, names, topk).items():
                flat = results[name].view(head.labels.numel(), *results[name].shape[_axes(head) :])
                flat[rows] = value.to(flat.dtype)
    return results


def _axes(head: Head) -> int:
    return head.labels.dim()


def _empty(head: Head, name: str, topk: int) -> Tensor:
    """What ignored tokens have."""
    hidden, shape = head.hidden, tuple(head.labels.shape)
    real, wide = result_dtype(hidden.dtype), wide_dtype(hidden)
    if name == "topk_ids":
        return hidden.new_full((*shape, topk), -1, dtype=torch.int64)
    if name == "states":
        states = hidden.new_zeros((*shape, _STATE_FIELDS), dtype=wide)
        states[..., 0] = states[..., 5] = -math.inf
        states[..., 6] = -1
        return states
    if name.startswith("grad_hidden"):
        shape = tuple(hidden.shape)
    elif name == "topk_logps":
        shape = (*shape, topk)
    dtype = torch.bool if name == "correct" else wide if name == "lse" else real
    return hidden.new_zeros(shape, dtype=dtype)


def _chunk_results(
    head: Head, options: Options, x: Tensor, labels: Tensor, names: Sequence[str], topk: int
) -> dict[str, Tensor]:
    here, local = _in_part(head, options, labels)
    stats = [name for name in names if name in ("correct", "mean_logit", "max_logit", "lse2")]
    values = _plain.token_logps(x, local, _NONE, 1.0, ["entropy", *stats])
    found = dict(zip(("logps", "lse", "entropy", *stats), values, strict=True))
    if "states" in names:
        found["states"] = _states(x, here, local, options.vocab_start)
    for name in names:
        if name.startswith("grad_hidden_"):
            by = name.removeprefix("grad_hidden_")
            one = torch.ones_like(found["lse"])
            by_logps, by_entropy, by_lse = (
                one if by == which else None for which in ("logps", "entropy", "lse")
            )
            grad = _grad_by_x(
                x, local, found["lse"], by_logps, by_entropy, by_lse, found["entropy"]
            )
            found[name] = times_head(head, product_gradient(x, grad, options))
    if topk:
        ids, logps = _topk(x, found["lse"], topk)
        found |= {"topk_ids": ids, "topk_logps": logps}
    wanted = (*names, "topk_ids", "topk_logps") if topk else names
    return {name: found[name] for name in wanted}


def _grad_by_x(
    x: Tensor,
    local: Tensor,
    lse: Tensor,
    by_logps: Tensor | None,
    by_entropy: Tensor | None,
    by_lse: Tensor | None,
    entropy: Tensor | None,
) -> Tensor:
    return _plain.token_logps_grad(x, local, lse, by_logps, by_entropy, by_lse, entropy, _NONE, 1.0)


def _in_part(head: Head, options: Options, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each label stands in this part of the vocabulary, and labels counted from its start.

    Of a split vocabulary, a label elsewhere becomes 0; else it stays what it is, a bad label.
    """
    local = labels - options.vocab_start
    here = (local >= 0) & (local < head.weight.shape[0])
    if options.group:
        return here, local.masked_fill(~here, 0)
    return here, local.masked_fill(~here, -1)


def _topk(x: Tensor, lse: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """A stable sort: ties by rising id, which torch.topk does not promise."""
    values, ids = x.sort(dim=-1, descending=True, stable=True)
    values, ids = values[:, :topk], ids[:, :topk]
    undefined = lse.isnan().unsqueeze(-1)
    logps = values - lse.unsqueeze(-1)
    return ids.masked_fill(undefined, -1), logps.masked_fill(undefined, math.nan)


# ---- backward ------------------------------------------------------------------------------------


def gradients(
    head: Head,
    options: Options,
    results: Mapping[str, Tensor | None],
    grads: Mapping[str, Tensor | None],
    _kept: Tensor | None,
    needs: Sequence[str],
) -> list[Tensor]:
    """`Kernels.gradients`; grad_filter leaves out nothing here."""
    sums = HeadGradients(head, needs)

    def of(values: Mapping[str, Tensor | None], name: str, rows: Tensor) -> Tensor | None:
        value = values[name]
        return None if value is None else value.reshape(-1)[rows]

    with as_given(head.hidden):
        for rows, hidden, labels in chunks(head, options, _TEMPORARIES):
            x = logits_of(head, options, hidden)
            here, local = _in_part(head, options, labels)
            by_logps, by_lse = of(grads, "logps", rows), of(grads, "lse", rows)
            if options.group and by_logps is not None:
                # logp = x[label] - lse, and x[label] may be another part's.
                by_lse = (0 if by_lse is None else by_lse) - by_logps.masked_fill(here, 0)
                by_logps = by_logps.masked_fill(~here, 0)
            lse = of(results, "lse", rows)
            assert lse is not None
            entropy = of(results, "entropy", rows)
            grad = _grad_by_x(x, local, lse, by_logps, of(grads, "entropy", rows), by_lse, entropy)
            sums.add(rows, hidden, product_gradient(x, grad, options))
    return sums.result()


# ---- states of a split vocabulary ----------------------------------------------------------------


def _states(x: Tensor, here: Tensor, local: Tensor, vocab_start: int) -> Tensor:
    """Row states [n, 9] of x [n, V]: max, sum e^(x - max), sum (x - max) e^(x - max),
    sum e^2(x - max), sum x, x at the label, index of the maximum, entries, whether the label is
    here.
    """
    x = x.to(wide_dtype(x))
    maximum, best = x.max(dim=-1)
    below = x - maximum.unsqueeze(-1)
    e = torch.where(x.isinf(), 0, below.exp())
    target = x.gather(-1, local.unsqueeze(-1)).squeeze(-1)
    fields = (
        maximum,
        e.sum(dim=-1),
        torch.where(e == 0, 0, e * below).sum(dim=-1),
        e.square().sum(dim=-1),
        x.sum(dim=-1),
        target.masked_fill(~here, -math.inf),
        (best + vocab_start).masked_fill(maximum == -math.inf, -1),
        torch.full_like(maximum, x.shape[-1]),
        here,
    )
    return torch.stack([each.to(x.dtype) for each in fields], dim=-1)


def finish(states: Tensor, head: Head, options: Options) -> dict[str, Tensor]:
    """`Kernels.finish`: the parts merged in order, then csrc/core/row_state.c's statistics."""
    maxima, exps, moments, squares, sums, targets, bests, counts, has = states.unbind(-1)
    maximum, part = maxima.max(dim=0)
    shift = torch.where(maxima == maximum, 0, maxima - maximum)
    scale = shift.exp()
    sum_exp = (scale * exps).sum(dim=0)
    moment = torch.where(scale == 0, 0, scale * (shift * exps + moments)).sum(dim=0)
    log_sum = sum_exp.log()
    target = targets.masked_fill(has == 0, 0).sum(dim=0)
    best = bests.gather(0, part.unsqueeze(0)).squeeze(0)
    lse = torch.where(maximum.isinf(), maximum, maximum + log_sum)
    lse2 = torch.where(
        maximum.isinf(), maximum, 2 * maximum + (scale.square() * squares).sum(dim=0).log()
    )
    defined = maximum.isfinite() & sum_exp.isfinite()
    logps = (target - maximum) - log_sum
    found = {
        "logps": torch.where(defined & (has != 0).any(dim=0), logps, math.nan),
        "lse": lse,
        "entropy": torch.where(defined, (log_sum - moment / sum_exp).clamp(min=0), math.nan),
        "correct": (best == head.labels) & ~maximum.isnan(),
        "mean_logit": sums.sum(dim=0) / counts.sum(dim=0),
        "max_logit": maximum,
        "lse2": lse2,
    }
    ignored, real = head.labels == options.ignore_index, result_dtype(head.hidden.dtype)
    return {
        name: each.masked_fill(ignored, 0).to(
            torch.bool if name == "correct" else each.dtype if name == "lse" else real
        )
        for name, each in found.items()
    }
