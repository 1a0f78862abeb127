"""Training loops: language modelling and SFT (one loss), and alignment by the four methods.

A step is: logits by BLAS, token log-probs (prefopt.token_logps), sums per answer
(prefopt.sequence_logps), the loss with its gradient by the sums (prefopt), back to the logits in
place (prefopt.token_logps_grad), back to the parameters by BLAS, Adam. Only the answer's tokens are
rows at all, so nothing is computed for the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import prefopt

from .errors import Diverged
from .methods import PairBatch, kto_step, mismatch, pair_step
from .model import WindowModel
from .optim import Adam, schedule
from .tokens import Rows, Sequences

Floats = NDArray[np.float32]
Longs = NDArray[np.int64]
Progress = Callable[[float], None]  # share done, 0 to 1
SCORE_ROWS = 1024  # rows of logits held at once when nothing is learnt: 16 MiB


@dataclass
class Curve:
    """What happened at each step."""

    loss: list[float] = field(default_factory=list)
    margin: list[float] = field(
        default_factory=list
    )  # mean of chosen minus rejected log-prob ratio, nats


@dataclass(frozen=True)
class AlignSettings:
    """How a cell is aligned; see config.Preset for the values."""

    method: str
    beta: float
    cpo_alpha: float
    learning_rate: float
    epochs: int
    batch_pairs: int


@dataclass(frozen=True)
class PairSequences:
    """The two answers to the same prompts, and the start model's log-prob sums of them [pairs]."""

    chosen: Sequences
    rejected: Sequences
    ref_chosen: Floats
    ref_rejected: Floats

    def __len__(self) -> int:
        return len(self.chosen)


class _Forward:
    """One batch through the model, ready for the way back."""

    def __init__(self, model: WindowModel, rows: Rows) -> None:
        self._model, self._rows = model, rows
        self._logits, self._kept = model.forward(rows.windows)
        scored = prefopt.token_logps(self._logits, rows.labels)
        self._lse = scored.lse
        self.sums = prefopt.sequence_logps(scored.logps, cu_seqlens=rows.cu_seqlens)  # [sequences]

    def backward(self, grad_sums: NDArray[np.floating]) -> Floats:
        """d loss / d parameters from d loss / d sums [sequences]; the logits are overwritten."""
        grad_logps = np.repeat(grad_sums.astype(np.float32), self._rows.lengths)
        grad_logits = prefopt.token_logps_grad(
            self._logits, self._rows.labels, self._lse, grad_logps=grad_logps, out=self._logits
        )
        return self._model.backward(grad_logits, self._kept)


def sequence_sums(model: WindowModel, sequences: Sequences) -> Floats:
    """Log-prob sum of every sequence [sequences], a bounded number of rows at a time."""
    sums = np.zeros(len(sequences), np.float32)
    for indices in bounded_batches(sequences.lengths, SCORE_ROWS):
        sums[indices] = _Forward(model, sequences.rows(indices)).sums
    return sums


def bounded_batches(lengths: Longs, rows: int) -> Iterator[Longs]:
    """Consecutive indices whose lengths add up to at most `rows` (at least one sequence each)."""
    first = total = 0
    for index, length in enumerate(lengths):
        if index > first and total + length > rows:
            yield np.arange(first, index)
            first, total = index, 0
        total += int(length)
    if first < len(lengths):
        yield np.arange(first, len(lengths))


def shuffled_batches(
    count: int, size: int, epochs: int, generator: np.random.Generator
) -> list[Longs]:
    """Every index once an epoch, in batches of `size` (the last of an epoch may be smaller)."""
    batches = []
    for _ in range(epochs):
        order = generator.permutation(count)
        batches += [order[start : start + size] for start in range(0, count, size)]
    return batches


def fit_text(
    model: WindowModel,
    sequences: Sequences,
    *,
    learning_rate: float,
    epochs: int,
    batch_tokens: int,
    seed: int,
    progress: Progress = lambda share: None,
) -> Curve:
    """Language modelling or SFT: the mean NLL of the target tokens (prefopt.sft_loss), in place on
    the model.
    """
    generator = np.random.default_rng([seed, 2])
    size = max(1, round(batch_tokens * len(sequences) / max(1, sequences.tokens)))
    batches = shuffled_batches(len(sequences), size, epochs, generator)
    adam, curve = Adam(model.flat), Curve()
    for step, indices in enumerate(batches):
        rows = sequences.rows(indices)
        forward = _Forward(model, rows)
        weights = np.full(len(indices), 1.0 / len(indices), np.float32)
        result = prefopt.sft_loss(
            forward.sums, lengths=rows.lengths, grad_losses=weights, return_grads=True
        )
        assert result.grads is not None
        grad = forward.backward(result.grads["policy_logps"])
        loss = float(result.losses.mean())
        _update(adam, grad, schedule(step, len(batches), learning_rate), loss)
        curve.loss.append(loss)
        progress((step + 1) / len(batches))
    return curve


def align(
    model: WindowModel,
    start: WindowModel,
    pairs: PairSequences,
    settings: AlignSettings,
    seed: int,
    progress: Progress = lambda share: None,
) -> Curve:
    """Align `model` in place by settings.method; `start` (the reference of DPO, IPO, KTO) is not
    changed.
    """
    generator = np.random.default_rng([seed, 3])
    batches = shuffled_batches(len(pairs), settings.batch_pairs, settings.epochs, generator)
    if settings.method == "kto":
        examples = _Unpaired(pairs)
        batches = shuffled_batches(
            len(examples), 2 * settings.batch_pairs, settings.epochs, generator
        )
    adam, curve = Adam(model.flat), Curve()
    for step, indices in enumerate(batches):
        if settings.method == "kto":
            loss, margin, grad = _kto_batch(model, start, examples, indices, settings)
        else:
            loss, margin, grad = _pair_batch(model, pairs, indices, settings)
        _update(adam, grad, schedule(step, len(batches), settings.learning_rate), loss)
        curve.loss.append(loss)
        curve.margin.append(margin)
        progress((step + 1) / len(batches))
    return curve


def _update(adam: Adam, grad: Floats, learning_rate: float, loss: float) -> None:
    """One step of Adam; Diverged where loss or gradient is not finite (a beta far from 0.1, say)."""
    norm = adam.step(grad, learning_rate)
    if not (np.isfinite(loss) and np.isfinite(norm)):
        raise Diverged(
            f"training diverged at step {adam.steps}: loss {loss:g}, norm of its gradient {norm:g}"
        )


def _pair_batch(
    model: WindowModel, pairs: PairSequences, indices: Longs, settings: AlignSettings
) -> tuple[float, float, Floats]:
    rows = join_rows(pairs.chosen.rows(indices), pairs.rejected.rows(indices))
    forward = _Forward(model, rows)
    count = len(indices)
    batch = PairBatch(
        forward.sums[:count],
        forward.sums[count:],
        pairs.ref_chosen[indices],
        pairs.ref_rejected[indices],
        rows.lengths[:count],
    )
    step = pair_step(settings.method, batch, settings.beta, settings.cpo_alpha)
    ratio_chosen = batch.policy_chosen - batch.ref_chosen
    ratio_rejected = batch.policy_rejected - batch.ref_rejected
    grad = forward.backward(np.concatenate([step.grad_chosen, step.grad_rejected]))
    return step.loss, float((ratio_chosen - ratio_rejected).mean()), grad


class _Unpaired:
    """The pairs taken apart into labelled answers: chosen are desirable, rejected undesirable."""

    def __init__(self, pairs: PairSequences) -> None:
        count = len(pairs)
        sides = (pairs.chosen, pairs.rejected)
        self.answers = Sequences(
            [side.tail(i) for side in sides for i in range(count)],
            [side.target(i) for side in sides for i in range(count)],
            pairs.chosen.context,
        )
        self.desirable = np.arange(2 * count) < count
        self.pair_of = np.tile(np.arange(count), 2)
        self.ref = np.concatenate([pairs.ref_chosen, pairs.ref_rejected])

    def __len__(self) -> int:
        return len(self.ref)


def _kto_batch(
    model: WindowModel,
    start: WindowModel,
    examples: _Unpaired,
    indices: Longs,
    settings: AlignSettings,
) -> tuple[float, float, Floats]:
    partner = mismatch(examples.pair_of[indices])
    kept = np.flatnonzero(partner >= 0)
    mismatched = examples.answers.mismatched(indices[kept], indices[partner[kept]])
    rows = mismatched.rows(np.arange(len(mismatched)))
    ref_mismatched = _Forward(start, rows).sums
    policy_mismatched = _Forward(model, rows).sums  # before the batch itself: one workspace a model
    forward = _Forward(model, examples.answers.rows(indices))
    desirable, ref = examples.desirable[indices], examples.ref[indices]
    loss, grad_sums = kto_step(
        forward.sums, ref, desirable, policy_mismatched, ref_mismatched, settings.beta
    )
    ratio = forward.sums - ref
    both = 0 < desirable.sum() < len(desirable)
    margin = float(ratio[desirable].mean() - ratio[~desirable].mean()) if both else 0.0
    return loss, margin, forward.backward(grad_sums)


def join_rows(first: Rows, second: Rows) -> Rows:
    """Two packed batches as one, the first's sequences before the second's."""
    return Rows(
        np.concatenate([first.windows, second.windows]),
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.cu_seqlens, first.cu_seqlens[-1] + second.cu_seqlens[1:]]),
    )
