"""The passes over hidden states that a preference loss is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._head import Head
from ._layout import Layout, as_tokens
from ._linear import linear_token_logps
from ._linear_pair import pair_values
from ._preference_call import Reference
from ._token import TokenLogps


class HeadOptions(NamedTuple):
    """How logits are made: options of `linear_token_logps` that hold for every pass."""

    logit_scale: float
    softcap: float | None
    temperature: float
    ignore_index: int
    memory_limit: int | None


class Gold(NamedTuple):
    """Answers beside those of pairs; absent where hidden and labels are None."""

    hidden: Tensor | None
    labels: Tensor | None
    cu_seqlens: Tensor | None

    def check(self) -> None:
        """Hidden and labels, or neither."""
        if (self.hidden is None) != (self.labels is None):
            missing = "gold_hidden" if self.hidden is None else "gold_labels"
            raise ValueError(f"{missing}: expected gold_hidden and gold_labels, or neither")


class Passes(NamedTuple):
    """The policy's head, and the answers of one call. labels of `policy` are those of `layout`."""

    policy: Head
    layout: Layout
    options: HeadOptions
    grad_filter: float | None
    group: Any
    vocab_start: int | None

    def _logps(self, head: Head, stats: Sequence[str] = ()) -> TokenLogps:
        hidden, weight, labels, bias, lora_a, lora_b = head
        logit_scale, softcap, temperature, ignore_index, memory_limit = self.options
        return linear_token_logps(
            hidden, weight, labels, bias=bias, lora_a=lora_a, lora_b=lora_b,
            logit_scale=logit_scale, softcap=softcap, temperature=temperature,
            ignore_index=ignore_index, memory_limit=memory_limit, grad_filter=self.grad_filter,
            stats=stats, entropy_requires_grad=False, group=self.group,
            vocab_start=self.vocab_start,
        )  # fmt: skip

    def _spread(self) -> Head:
        hidden, labels = as_tokens(self.policy.hidden, self.layout)
        return self.policy._replace(hidden=hidden, labels=labels)

    def tokens(self, stats: Sequence[str]) -> dict[str, Tensor]:
        """logps, lse and the statistics of the policy."""
        return _in_shape(self._logps(self._spread(), stats)._asdict(), self.layout)

    def reference(self, reference: Reference) -> Tensor:
        """The reference's logps."""
        with torch.no_grad():
            logps = self._logps(reference.head(self.layout)).logps
        return logps.reshape(self.layout.labels.shape)

    def whole_rows(
        self, reference: Reference, perturbation: float, stats: Sequence[str]
    ) -> dict[str, Tensor]:
        """`tokens`, ref_logps and statistics of both models' whole rows."""
        if self.group is not None:
            raise ValueError("group: losses over whole rows have no split vocabulary")
        ref = reference.head(self.layout)
        found = pair_values(self._spread(), ref, perturbation, stats, **self.options._asdict())
        values = _in_shape(found, self.layout)
        return {**values, "logps": values["policy_logps"], "lse": values["policy_lse"]}

    def nlls(
        self, logps: Tensor, nll_labels: Tensor | None, gold: Gold, wanted: frozenset[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """By input name: sums of -logp [B] and numbers of tokens [B]."""
        found = {}
        half = self.layout.size // 2
        if nll_labels is not None:
            if "chosen_nll" not in wanted:
                raise ValueError("nll_labels: none of the losses has an NLL of the chosen answers")
            cuts = self.layout.cu_seqlens
            of_chosen = None if cuts is None else cuts[: half + 1]
            hidden = self.policy.hidden[: nll_labels.shape[0]]
            found["chosen_nll"] = self._nll(hidden, nll_labels, of_chosen, "nll_labels")
        elif "chosen_nll" in wanted:
            sums = self.layout.sums(logps)
            found["chosen_nll"] = -sums[:half], self.layout.lengths[:half]
        if gold.hidden is not None and gold.labels is not None:
            names = {"gold_nll", "target_nll"} & wanted
            if not names:
                raise ValueError("gold_hidden: none of the losses has gold answers or targets")
            nll = self._nll(gold.hidden, gold.labels, gold.cu_seqlens, "gold_labels")
            found.update(dict.fromkeys(names, nll))
        return found

    def _nll(
        self, hidden: Tensor, labels: Tensor, cu_seqlens: Tensor | None, name: str
    ) -> tuple[Tensor, Tensor]:
        answers = Layout(labels, cu_seqlens, self.options.ignore_index, name)
        logps = self._logps(self.policy._replace(hidden=hidden, labels=labels)).logps
        return -answers.sums(logps), answers.lengths


def _in_shape(values: Mapping[str, Tensor | None], layout: Layout) -> dict[str, Tensor]:
    """Results of tokens in the shape of the labels."""
    shape = layout.labels.shape
    return {name: each.reshape(shape) for name, each in values.items() if each is not None}
