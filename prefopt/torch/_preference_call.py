"""What a call of LinearPreferenceLoss carries beside the policy: the reference, denominators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from prefopt._conventions import find_convention
from prefopt._loss_types import LossInfo

from ._head import Head
from ._layout import Layout, as_tokens
from ._preference_inputs import REF_NAMES, WHOLE_ROWS

_NLL_NAMES = ("chosen_nll", "gold_nll", "target_nll")


class Reference(NamedTuple):
    """Hidden states and a head, or log-probabilities that were made before; a constant."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    sums: Tensor | None
    token_logps: Tensor | None

    def check(self, layout: Layout, wanted: frozenset[str]) -> None:
        """One way at most, and only for losses that have a reference."""
        if (self.hidden is None) != (self.weight is None):
            missing = "ref_hidden" if self.hidden is None else "ref_weight"
            raise ValueError(f"{missing}: expected ref_hidden and ref_weight, or neither")
        if self.bias is not None and self.weight is None:
            raise ValueError("ref_bias: expected with ref_hidden and ref_weight only")
        ways = {
            "ref_hidden": self.hidden,
            "ref_logps": self.sums,
            "ref_token_logps": self.token_logps,
        }
        given = [name for name, each in ways.items() if each is not None]
        if len(given) > 1:
            raise ValueError(f"{given[1]}: expected one form of the reference, got {given[0]} too")
        if given and not wanted & (REF_NAMES | set(WHOLE_ROWS)):
            raise ValueError(f"{given[0]}: none of the losses has a reference")
        _check_shape("ref_logps", self.sums, (layout.size,))
        _check_shape("ref_token_logps", self.token_logps, tuple(layout.labels.shape))

    def head(self, layout: Layout) -> Head:
        """Where there is one."""
        assert self.hidden is not None
        assert self.weight is not None
        hidden, labels = as_tokens(self.hidden.detach(), layout)
        bias = None if self.bias is None else self.bias.detach()
        return Head(hidden, self.weight.detach(), labels, bias, None, None)


def _check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is None:
        return
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected {shape}, got {tuple(tensor.shape)}")


class Denominators(NamedTuple):
    """What sums over items (pairs or answers) and tokens are divided by; None: those of the call.

    The losses are functions of one batch: each of B items carries its share of a token mean, so
    that the mean over items has it. With other items' number the shares are scaled back.
    """

    num_items: Any
    nll_tokens: Any
    num_tokens: Any
    items: int

    def check(self) -> None:
        """Numbers, or tensors of one number, above 0."""
        for name in ("num_items", "nll_tokens", "num_tokens"):
            each = getattr(self, name)
            if each is not None and not 0 < each < math.inf:
                raise ValueError(f"{name}: expected a finite number > 0, got {each}")

    def of_row(
        self,
        info: LossInfo,
        inputs: Mapping[str, Any],
        counts: Mapping[str, Any],
        convention: str | None,
        other_nll: bool,
    ) -> dict[str, float]:
        """The row's own parameters nll_tokens and num_tokens, where it has to be told.

        counts: of this call, by parameter; other_nll: the NLL's tokens are none that the row knows.
        """
        named = None if convention is None else find_convention(info.name, convention)
        required = ("nll_tokens",) * other_nll + (() if named is None else named.required)
        refused = () if named is None else named.refused  # a mean over the local batch, always
        names = {item.name for item in info.parameters}
        taken = {item.name for item in info.inputs} & set(_NLL_NAMES)
        if taken and not taken & set(inputs):
            names.discard("nll_tokens")
        params: dict[str, float] = {}
        for name in ("nll_tokens", "num_tokens"):
            if name not in names:
                continue
            given = getattr(self, name)
            if given is not None:
                scale = 1.0 if self.num_items is None else self.items / float(self.num_items)
                params[name] = float(given) * (scale or 1.0)
            elif self.num_items is not None and name not in refused:
                raise ValueError(f"{name}: {info.name} needs it beside num_items")
            elif name in required:
                params[name] = max(float(counts[name]), 1.0)
        return params

    def mean(self, info: LossInfo, losses: Tensor, mask: Tensor | None) -> Tensor:
        """Of losses of items [B], or of tokens [S, T]."""
        count: Any = max(self.items, 1) if self.num_items is None else self.num_items
        if info.tokenwise:
            count = self.num_tokens
            if count is None:
                count = max(losses.numel(), 1) if mask is None else mask.sum().clamp(min=1)
        total: Tensor = losses.sum() / count
        return total
