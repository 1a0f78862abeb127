"""LinearPreferenceLoss: any loss of the list from hidden states, without [tokens, vocab]."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prefopt._loss_call import find, nearest
from prefopt._loss_types import LossInfo

from ._arrays import takes_gpu_arrays
from ._head import Head
from ._layout import Layout
from ._losses import loss as loss_of_row
from ._preference_call import Denominators, Reference
from ._preference_inputs import (
    WHOLE_ROWS,
    Modifiers,
    Tokens,
    check_rows,
    derived,
    inputs_of,
    is_paired,
    laid_out,
    split_given,
)
from ._preference_metrics import TOKEN_STATS, metrics
from ._preference_passes import Gold, HeadOptions, Passes

_IN_CALLS = ("nll_tokens", "num_tokens")  # parameters that a call has
_AVERAGES_OR_SUMS = ("dpo.ipo", "dpo.sigmoid_norm")


class LinearPreferenceLoss(torch.nn.Module):
    """A preference loss, or a weighted list of them, from hidden states and an output head.

    The head's logits are made, reduced and dropped tile by tile: policy and reference cost no
    [tokens, vocab], and tokens that do not count cost nothing::

        loss_function = LinearPreferenceLoss("dpo.sigmoid", beta=0.1)
        loss, metrics = loss_function(hidden, weight, labels, ref_hidden=..., ref_weight=...)
        loss.backward()

    Args:
        loss: a row of the list ("dpo.sigmoid"; `prefopt.losses()` has them all), or several, all
            over pairs or all over single answers.
        loss_weights: one for each of several losses; their rewards are those of the first.
        convention: as in the losses: another project's form and defaults.
        wpo: weights each pair by how probable the policy finds its answers (arXiv 2406.11827).
        ld_alpha: LD-DPO's weight of the tokens beyond the shorter answer's length.
        ld_reference: whether the reference's tokens have those weights too, as TRL 1.x has it.
        average: False for sums in dpo.ipo and dpo.sigmoid_norm, as IPO's paper writes it; every
            other loss has its own form.
        logit_scale, softcap, temperature, ignore_index, memory_limit, grad_filter: as in
            `linear_token_logps`, for policy and reference.
        metrics: False for none.
        per_item: adds the results of the first loss by name, [B] each ("losses", "chosen_rewards").
        params: the losses' own parameters ("beta"), each taken by the losses that have it.
    """

    def __init__(
        self,
        loss: str | Sequence[str],
        *,
        loss_weights: Sequence[float] | None = None,
        convention: str | None = None,
        wpo: bool = False,
        ld_alpha: float | None = None,
        ld_reference: bool = True,
        average: bool = True,
        logit_scale: float = 1.0,
        softcap: float | None = None,
        temperature: float = 1.0,
        ignore_index: int = -100,
        memory_limit: int | None = None,
        grad_filter: float | None = None,
        metrics: bool = True,
        per_item: bool = False,
        **params: Any,
    ) -> None:
        super().__init__()
        names = (loss,) if isinstance(loss, str) else tuple(loss)
        if not names:
            raise ValueError("loss: expected a name or a sequence of names, got an empty one")
        self.rows = tuple(find(name) for name in names)
        check_rows(self.rows)
        self.paired = is_paired(self.rows)
        self.weights = _take_weights(loss_weights, names)
        self.convention = convention
        self.modifiers = Modifiers(wpo, ld_alpha, ld_reference, average)
        _check_modifiers(self.rows, self.modifiers)
        self.options = HeadOptions(logit_scale, softcap, temperature, ignore_index, memory_limit)
        self.grad_filter = grad_filter
        self.with_metrics, self.per_item = metrics, per_item
        self.params = _take_params(self.rows, params)

    def extra_repr(self) -> str:
        numbers = [f"{name}={each!r}" for name, each in self.params.items()]
        return ", ".join([*(info.name for info in self.rows), *numbers])

    @takes_gpu_arrays
    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        *,
        bias: Tensor | None = None,
        lora_a: Tensor | None = None,
        lora_b: Tensor | None = None,
        ref_hidden: Tensor | None = None,
        ref_weight: Tensor | None = None,
        ref_bias: Tensor | None = None,
        ref_logps: Tensor | None = None,
        ref_token_logps: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        nll_labels: Tensor | None = None,
        gold_hidden: Tensor | None = None,
        gold_labels: Tensor | None = None,
        gold_cu_seqlens: Tensor | None = None,
        num_items: float | None = None,
        nll_tokens: float | None = None,
        num_tokens: float | None = None,
        group: Any = None,
        vocab_start: int | None = None,
        **inputs: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss [] and what a trainer logs of it, [] each, without gradient.

        Args:
            hidden: of S answers (2B for pairs, the chosen ones first, as TRL and Liger concatenate
                them; B for single answers): padded [S, T, H]; packed [N, H] with cu_seqlens, with
                or without the prompts; or for pairs [B, T, H] with labels [2B, T], rows that hold
                prompt, chosen and rejected answer, the prompt stored once.
            weight, bias, lora_a, lora_b: the policy's head, see `linear_token_logps`.
            labels: [S, T] or [N], aligned with hidden (nothing is shifted), `ignore_index` where a
                token does not count. Where both answers share a row each half of the labels counts
                its own answer: the prompt's last token has the first token of either as its label.
            ref_hidden, ref_weight, ref_bias: the reference's, laid out as hidden; never a gradient.
            ref_logps: [S] instead, sums that were made before (with ld_alpha: weighted alike).
            ref_token_logps: the shape of labels instead.
            cu_seqlens: [S + 1] int32 or int64, from 0 to N.
            nll_labels: labels of the chosen answers [B, T] (or of their packed tokens) for the NLL
                term of CPO and ORPO, where it counts other tokens than the preference does.
            gold_hidden, gold_labels, gold_cu_seqlens: answers of a third kind, [B, T', H] and
                [B, T'] or packed: TPO's gold answers, SLiC's regularisation targets.
            num_items, nll_tokens, num_tokens: what the sums over pairs (or answers), over the
                tokens of the NLL and over the tokens of token losses are divided by, by default the
                numbers of this call. With those of a whole step, over micro-batches and processes,
                the losses and gradients of the parts add up to the whole's. (Where processes take
                the mean of gradients, as DDP does, divide the three by their number.) A loss that is
                coupled over its batch takes the whole step's inputs as well ("chosen_kl_mean",
                "gathered_policy_logratios").
            group, vocab_start: a head split over processes, see `linear_token_logps`.
            inputs: other inputs of the losses by name ("desirable", "kl", "old_logps"), any that
                would be derived, to go before it ("chosen_lengths"), and parameters that change from
                call to call ("beta"). An input may be a function of the row's other inputs, detached
                and by name: state that has this batch in it, such as BCO's running mean ("delta").

        Returns:
            (loss, metrics). metrics: "rewards/chosen", "rewards/rejected", "rewards/accuracies",
            "rewards/margins", "logps/chosen", "logps/rejected", "logits/chosen", "logits/rejected",
            "entropy", "mean_token_accuracy", and "nll_loss", "kl", "kl/chosen", "kl/rejected" where
            a loss has them: means over tokens that count, or over answers. Accuracy is that of the
            chosen answers, rewards and logps are those of the first loss.
        """
        inputs, params = split_given(self.rows, inputs)
        params = {**self.params, **params}
        layout = Layout(labels, cu_seqlens, self.options.ignore_index)
        if self.paired and layout.size % 2:
            raise ValueError(
                f"labels: expected an even number of answers, chosen first, got {layout.size}"
            )
        policy = Head(hidden, weight, labels, bias, lora_a, lora_b)
        passes = Passes(policy, layout, self.options, self.grad_filter, group, vocab_start)
        reference = Reference(ref_hidden, ref_weight, ref_bias, ref_logps, ref_token_logps)
        gold = Gold(gold_hidden, gold_labels, gold_cu_seqlens)
        gold.check()
        wanted = frozenset(item.name for info in self.rows for item in info.inputs)
        reference.check(layout, wanted)
        whole = sorted({WHOLE_ROWS[name] for name in wanted - set(inputs) if name in WHOLE_ROWS})
        ref_tokens = ref_token_logps
        if whole and ref_hidden is not None:
            perturbation = _perturbation(self.rows, params)
            values = passes.whole_rows(reference, perturbation, [*whole, *self._stats()])
            ref_tokens = values["ref_logps"]
        else:
            values = passes.tokens(self._stats())
            if ref_hidden is not None:
                ref_tokens = passes.reference(reference)
        nlls = passes.nlls(values["logps"], nll_labels, gold, wanted)
        tokens = Tokens(layout, values, ref_tokens, ref_logps, nlls)
        found = derived(tokens, self.modifiers, wanted, self.paired)
        given = laid_out(self.rows, inputs, layout)
        items = layout.size // (2 if self.paired else 1)
        denominators = Denominators(num_items, nll_tokens, num_tokens, items)
        denominators.check()
        return self._losses(tokens, found, given, params, denominators, nll_labels is not None)

    def _stats(self) -> tuple[str, ...]:
        names = TOKEN_STATS if self.with_metrics else ()
        return (*names, "lse2") if self.modifiers.wpo else names

    def _losses(
        self,
        tokens: Tokens,
        found: Mapping[str, Tensor],
        given: Mapping[str, Any],
        params: Mapping[str, Any],
        denominators: Denominators,
        other_nll: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total: Any = 0.0
        logged: dict[str, Tensor] = {}
        for info, weight in zip(self.rows, self.weights, strict=True):
            inputs = inputs_of(info, found, given, self.modifiers, self.convention)
            own = _of_row(info, params)
            counts = _counts(tokens)
            own.update(denominators.of_row(info, inputs, counts, self.convention, other_nll))
            if self.convention is not None:
                own["convention"] = self.convention
            result = loss_of_row(info.name, **inputs, **own)
            total = total + weight * denominators.mean(info, result.losses, inputs.get("mask"))
            if self.with_metrics and not logged:
                logged = metrics(tokens, inputs, result[1:], self.paired)
            if self.per_item:
                items = result._asdict().items()
                logged.update({key: e.detach() for key, e in items if key not in logged})
        return total, logged


def _counts(tokens: Tokens) -> dict[str, Tensor]:
    nll = tokens.nlls.get("chosen_nll")
    count = tokens.layout.lengths.sum()
    return {"nll_tokens": count if nll is None else nll[1].sum(), "num_tokens": count}


def _perturbation(rows: Sequence[LossInfo], params: Mapping[str, Any]) -> float:
    """Of plus_logps and minus_logps; any number where no row has them."""
    known = (item for info in rows for item in info.parameters if item.name == "perturbation")
    default: Any = next((item.default for item in known), 0.5)
    return float(params.get("perturbation", default))


# ---- what the constructor takes ------------------------------------------------------------------


def _of_row(info: LossInfo, params: Mapping[str, Any]) -> dict[str, Any]:
    names = {item.name for item in info.parameters}
    return {name: each for name, each in params.items() if name in names}


def _take_params(rows: Sequence[LossInfo], params: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter belongs to one of the rows; values are checked where the rows run."""
    known = {item.name for info in rows for item in info.parameters} - set(_IN_CALLS)
    for name in params:
        if name in _IN_CALLS:
            raise TypeError(f"{name}: expected in the call, not in the constructor")
        if name not in known:
            names = ", ".join(info.name for info in rows)
            raise TypeError(f"{name}: {names} takes no such parameter; {nearest(name, known)}")
    return dict(params)


def _take_weights(weights: Sequence[float] | None, names: Sequence[str]) -> tuple[float, ...]:
    if weights is None:
        return (1.0,) * len(names)
    taken = tuple(float(each) for each in weights)
    if len(taken) != len(names):
        raise ValueError(f"loss_weights: expected {len(names)} numbers, got {len(taken)}")
    if not all(math.isfinite(each) for each in taken):
        raise ValueError(f"loss_weights: expected finite numbers, got {taken}")
    return taken


def _check_modifiers(rows: Sequence[LossInfo], modifiers: Modifiers) -> None:
    for info in rows:
        names = {item.name for item in info.inputs}
        if modifiers.wpo and "chosen_weights" not in names:
            raise ValueError(f"wpo: {info.name} takes no weights of pairs")
        if modifiers.ld_alpha is not None and info.kind != "pair":
            raise ValueError(f"ld_alpha: {info.name} is no loss over pairs")
        if not modifiers.average and info.name not in _AVERAGES_OR_SUMS:
            raise ValueError(f"average: {info.name} has one form only; expected True")
    if modifiers.ld_alpha is not None and not 0.0 <= modifiers.ld_alpha <= 1.0:
        raise ValueError(f"ld_alpha: expected a number in [0, 1], got {modifiers.ld_alpha}")
