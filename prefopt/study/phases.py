"""The pieces of work of a run, each a file when done: start models, their scores, cells.

Layout under --out:  cache/tokens-<digest>.npz   the encoded data
                     runs/<fingerprint>/         one folder per configuration and data set
                         config.json             what the fingerprint stands for s<seed>-<start>.npy
                         start models; s<seed>-<start>.npz their log-prob sums s<seed>-<start>.json
                         their scores;  text.json the n-gram baselines cells/<cell>.json
                         finished cells
Every file is written whole or not at all, so after a kill what exists is good and the rest is done
again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import corpus
from .atomic import replace_file, write_json
from .bpe import Bpe, load_merges
from .config import Cell, Training
from .data import MERGES_FILE
from .errors import StudyError
from .model import WindowModel
from .ngram import NgramModel, triples_of
from .score import PairScores, PairSums, kl_from_start, pair_sums, sample, score_pairs
from .tokens import load_encoded
from .train import AlignSettings, PairSequences, align, fit_text, sequence_sums

Report = Callable[[float], None]


class Workbench:
    """The encoded data cut for one configuration, and the phases over it."""

    def __init__(self, folder: Path, token_file: Path, training: Training) -> None:
        self.folder, self.training = folder, training
        self.encoded = load_encoded(token_file)
        context = training.model.context
        self.train_pairs = corpus.pair_tokens(self.encoded.train, context, training.answer_tokens)
        self.heldout_pairs = corpus.pair_tokens(
            self.encoded.heldout, context, training.answer_tokens
        )
        self.bpe = Bpe(load_merges(MERGES_FILE))

        self.sample_pair = corpus.sample_pair(self.encoded.heldout, self.heldout_pairs)

    def path(self, seed: int, start: str, suffix: str) -> Path:
        """A start model's file."""
        return self.folder / f"s{seed}-{start}{suffix}"

    def order(self, seed: int) -> NDArray[np.int64]:
        """The seed's order of the training pairs; a training set of n pairs is its first n."""
        return np.random.default_rng([seed, 0]).permutation(len(self.train_pairs))

    # start models

    def make_base(self, seed: int, report: Report) -> None:
        """The pretrained model, from random weights."""
        training = self.training
        text = corpus.base_text(self.encoded, training.model.context, training.base_text_tokens)
        unigram = NgramModel(triples_of(text), training.model.vocab).unigram()
        model = WindowModel.initial(training.model, seed, unigram.astype(np.float32))
        began = time.perf_counter()
        curve = fit_text(
            model,
            text,
            learning_rate=training.base_learning_rate,
            epochs=training.base_epochs,
            batch_tokens=training.base_batch_tokens,
            seed=seed,
            progress=report,
        )
        self._finish_start(model, seed, "base", curve.loss, began)

    def make_tuned(self, seed: int, start: str, report: Report) -> None:
        """The SFT or the instruction-tuned model, from the base."""
        training = self.training
        side = self.encoded.train if start == "sft" else self.encoded.instruct
        model = self.load(seed, "base")
        began = time.perf_counter()
        curve = fit_text(
            model,
            corpus.answers(side, training.model.context, training.answer_tokens),
            learning_rate=training.tune_learning_rate,
            epochs=training.tune_epochs,
            batch_tokens=training.tune_batch_tokens,
            seed=seed,
            progress=report,
        )
        self._finish_start(model, seed, start, curve.loss, began)

    def _finish_start(
        self, model: WindowModel, seed: int, start: str, loss: list[float], began: float
    ) -> None:
        """Sums over all pairs (the reference log-probs of every cell of this start), scores, then
        the model.
        """
        train, heldout = pair_sums(model, self.train_pairs), pair_sums(model, self.heldout_pairs)
        sums = {
            "train_chosen": train.chosen,
            "train_rejected": train.rejected,
            "heldout_chosen": heldout.chosen,
            "heldout_rejected": heldout.rejected,
        }
        replace_file(self.path(seed, start, ".npz"), lambda stream: np.savez(stream, **sums))  # type: ignore[arg-type]
        text = corpus.heldout_text(
            self.encoded, self.training.model.context, self.training.text_tokens
        )
        heldout_scores = score_pairs(heldout, heldout, self.heldout_pairs.chosen.tokens)
        scores = {
            "seed": seed,
            "start": start,
            "text_nll": -float(sequence_sums(model, text).sum(dtype=np.float64)) / text.tokens,
            "chosen_nll": heldout_scores.chosen_nll,
            "logp_hits": heldout_scores.logp_hits.tolist(),
            "loss": loss,
            "sample": sample(
                model, self.bpe, self.heldout_pairs.chosen.tail(self.sample_pair), seed
            ),
            "seconds": time.perf_counter() - began,
        }
        write_json(self.path(seed, start, ".json"), scores)
        model.save(self.path(seed, start, ".npy"))  # last: its presence says the phase is done

    def load(self, seed: int, start: str) -> WindowModel:
        """A start model."""
        return WindowModel.load(self.training.model, self.path(seed, start, ".npy"))

    # cells

    def run_cell(self, cell: Cell, report: Report) -> None:
        """Align, score, write the cell's file."""
        training = self.training
        start = self.load(cell.seed, cell.scenario)
        with np.load(self.path(cell.seed, cell.scenario, ".npz")) as arrays:
            sums = dict(arrays)
        chosen_rows = self.order(cell.seed)[: cell.size]
        fit = self.train_pairs.select(chosen_rows)
        fit_start = PairSums(sums["train_chosen"][chosen_rows], sums["train_rejected"][chosen_rows])
        pairs = PairSequences(fit.chosen, fit.rejected, fit_start.chosen, fit_start.rejected)
        settings = AlignSettings(
            method=cell.method,
            beta=training.beta,
            cpo_alpha=training.cpo_alpha,
            learning_rate=training.align_learning_rate,
            epochs=training.align_epochs,
            batch_pairs=training.align_batch_pairs,
        )
        model = start.copy()
        began = time.perf_counter()
        curve = align(model, start, pairs, settings, cell.seed, progress=report)
        trained = time.perf_counter() - began
        scored = min(training.train_scored, len(fit))
        fit_scores = score_pairs(
            pair_sums(model, fit.first(scored)),
            PairSums(fit_start.chosen[:scored], fit_start.rejected[:scored]),
            fit.first(scored).chosen.tokens,
        )
        heldout_start = PairSums(sums["heldout_chosen"], sums["heldout_rejected"])
        heldout = score_pairs(
            pair_sums(model, self.heldout_pairs), heldout_start, self.heldout_pairs.chosen.tokens
        )
        result = {
            "scenario": cell.scenario,
            "method": cell.method,
            "size": cell.size,
            "seed": cell.seed,
            "train": _as_json(fit_scores),
            "heldout": _as_json(heldout),
            "kl": kl_from_start(model, start, self.heldout_pairs.chosen),
            "loss": curve.loss,
            "train_margin": curve.margin,
            "sample": sample(
                model, self.bpe, self.heldout_pairs.chosen.tail(self.sample_pair), cell.seed
            ),
            "train_seconds": trained,
            "seconds": time.perf_counter() - began,
        }
        write_json(self.folder / "cells" / f"{cell.name}.json", result)


def _as_json(scores: PairScores) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in vars(scores).items()
    }


def text_baselines(bench: Workbench) -> dict[str, Any]:
    """NLL of the n-gram baselines on the text that the start models are scored on, nats a token."""
    training = bench.training
    text = corpus.base_text(bench.encoded, training.model.context, training.base_text_tokens)
    heldout = corpus.heldout_text(bench.encoded, training.model.context, training.text_tokens)
    ngrams = NgramModel(triples_of(text), training.model.vocab)
    triples = triples_of(heldout)
    return {
        "train_tokens": text.tokens,
        "heldout_tokens": heldout.tokens,
        "unigram": -float(ngrams.log_probs(triples, 1).mean()),
        "trigram": -float(ngrams.log_probs(triples, 3).mean()),
    }


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that write_json wrote."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(
            f"{path}: damaged ({error}); delete it and its task is done again"
        ) from None
    assert isinstance(value, dict)
    return value
