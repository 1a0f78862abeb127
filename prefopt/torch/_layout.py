"""How answers stand in the tensors of a call, and what belongs to each of them.

Three layouts, with S answers (of pairs, the chosen ones first and then the rejected):

- padded: hidden [S, T, H], labels [S, T];
- one prompt for both answers of a pair: hidden [B, T, H] of rows that hold prompt, chosen and
  rejected answer, labels [2B, T]. Each half of the labels counts its own answer; the prompt's last
  token may have a label in both;
- packed: hidden [N, H], labels [N], cu_seqlens [S + 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._bridge import wide_dtype
from ._inputs import ld_weights, wpo_weights
from ._sequence import sequence_logps


class Layout:
    """The answers that `labels` counts. Values of tokens have the shape of `labels`."""

    def __init__(
        self, labels: Tensor, cu_seqlens: Tensor | None, ignore_index: int, name: str = "labels"
    ) -> None:
        for argument, each in ((name, labels), ("cu_seqlens", cu_seqlens)):
            if not isinstance(each, Tensor) and (each is not None or argument == name):
                raise TypeError(f"{argument}: expected a torch.Tensor, got {type(each).__name__}")
        dimensions, expected = (2, "[S, T]") if cu_seqlens is None else (1, "[N] with cu_seqlens")
        if labels.dim() != dimensions:
            raise ValueError(f"{name}: expected {expected}, got {tuple(labels.shape)}")
        self.labels = labels
        self.mask = labels != ignore_index
        self.cu_seqlens = cu_seqlens
        self.size = labels.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        self.lengths = self._lengths()
        self._places: tuple[Tensor, Tensor, int] | None = None

    def sums(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """[S] of values of tokens; only those that count are read."""
        kept = self.mask if weights is None else weights
        return sequence_logps(values, kept, cu_seqlens=self.cu_seqlens)

    def _lengths(self) -> Tensor:
        """Tokens that count in each answer, [S] int64."""
        ones = self.mask.to(wide_dtype(self.labels))
        return sequence_logps(ones, cu_seqlens=self.cu_seqlens).long()

    def count(self, part: slice = slice(None)) -> Tensor:
        """Tokens that count in the answers of `part`, []."""
        return self.lengths[part].sum()

    def total(self, values: Tensor, part: slice = slice(None)) -> Tensor:
        """The sum of values over the tokens that count in the answers of `part`, []."""
        return self.sums(values)[part].sum()

    # ---- rows of tokens --------------------------------------------------------------------------

    def _find_places(self, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, int]:
        """Of packed tokens: the answer [N], the position in it [N], and the longest length."""
        if self._places is not None:
            return self._places
        cuts = cu_seqlens.long()
        lengths = cuts.diff()
        answers = torch.repeat_interleave(lengths, output_size=self.labels.shape[0])
        positions = torch.arange(self.labels.shape[0], device=cuts.device) - cuts[answers]
        self._places = answers, positions, int(lengths.max()) if self.size else 0
        return self._places

    def padded(self, values: Tensor) -> Tensor:
        """Values of tokens as [S, T], whatever the layout."""
        if self.cu_seqlens is None:
            return values
        answers, positions, longest = self._find_places(self.cu_seqlens)
        rows = values.new_zeros(self.size, longest)
        return rows.index_put((answers, positions), values)

    def unpadded(self, rows: Tensor) -> Tensor:
        """The inverse of `padded`."""
        if self.cu_seqlens is None:
            return rows
        answers, positions, _ = self._find_places(self.cu_seqlens)
        return rows[answers, positions]

    def ld_weights(self, alpha: float) -> Tensor:
        """LD-DPO's weights of the tokens of pairs."""
        others = self.lengths.roll(self.size // 2)
        return self.unpadded(ld_weights(self.padded(self.mask), others, alpha))

    def wpo_weights(self, logps: Tensor, lse: Tensor, lse2: Tensor) -> Tensor:
        """WPO's weights of the answers, [S]."""
        return wpo_weights(*(self.padded(each) for each in (logps, lse, lse2, self.mask)))


def as_tokens(hidden: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """`hidden` and the labels in one leading shape. Rows that both answers of a pair share are seen
    twice, not copied.
    """
    labels = layout.labels
    shared = layout.cu_seqlens is None and hidden.dim() == 3
    if not shared or 2 * hidden.shape[0] != labels.shape[0] or labels.shape[0] == 0:
        return hidden, labels
    return hidden.expand(2, *hidden.shape), labels.view(2, *hidden.shape[:-1])
