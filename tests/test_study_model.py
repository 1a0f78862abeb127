"""The study's model, optimiser, losses, baselines and statistics against independent arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

import prefopt
from prefopt.study import stats
from prefopt.study.corpus import PairTokens
from prefopt.study.methods import PairBatch, kto_step, mismatch, pair_step, start_loss
from prefopt.study.model import ModelConfig, WindowModel
from prefopt.study.ngram import NgramModel
from prefopt.study.optim import Adam, schedule
from prefopt.study.score import kl_from_start, pair_sums, score_pairs
from prefopt.study.tokens import Sequences
from prefopt.study.train import (
    AlignSettings,
    PairSequences,
    align,
    bounded_batches,
    fit_text,
    sequence_sums,
)

SMALL = ModelConfig(vocab=11, context=3, hidden=4, inner=5)


def small_model(seed: int = 0) -> WindowModel:
    return WindowModel.initial(SMALL, seed, np.full(SMALL.vocab, -2.4, np.float32))


def random_sequences(rng: np.random.Generator, count: int, length: int = 6) -> Sequences:
    tails = [rng.integers(0, SMALL.vocab, 4).astype(np.int32) for _ in range(count)]
    targets = [
        rng.integers(0, SMALL.vocab, rng.integers(1, length + 1)).astype(np.int32)
        for _ in range(count)
    ]
    return Sequences(tails, targets, SMALL.context)


def test_gradient_is_that_of_finite_differences() -> None:
    rng = np.random.default_rng(0)
    # float64 parameters, so that differences of 1e-6 are exact enough to compare to 6 digits
    model = WindowModel(SMALL, small_model().flat.astype(np.float64))
    rows = random_sequences(rng, 4).rows(np.arange(4))
    weights = rng.standard_normal(len(rows.labels))

    def loss() -> float:
        logits, _ = model.forward(rows.windows)
        return float(prefopt.token_logps(logits, rows.labels).logps @ weights)

    logits, kept = model.forward(rows.windows)
    lse = prefopt.token_logps(logits, rows.labels).lse
    grad_logits = prefopt.token_logps_grad(logits, rows.labels, lse, grad_logps=weights, out=logits)
    grad = model.backward(grad_logits, kept)
    numeric = np.empty_like(grad)
    for i in range(len(grad)):
        before = model.flat[i]
        model.flat[i] = before + 1e-6
        above = loss()
        model.flat[i] = before - 1e-6
        numeric[i] = (above - loss()) / 2e-6
        model.flat[i] = before
    np.testing.assert_allclose(grad, numeric, rtol=1e-6, atol=1e-8)


def test_sequence_sums_are_log_softmax_sums() -> None:
    rng = np.random.default_rng(1)
    model, sequences = small_model(), random_sequences(rng, 7)
    sums = sequence_sums(model, sequences)
    for i in range(7):
        rows = sequences.rows(np.array([i]))
        logits = model.forward(rows.windows)[0].astype(np.float64)
        logps = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected = logps[np.arange(len(rows.labels)), rows.labels].sum()
        assert sums[i] == pytest.approx(expected, rel=1e-5)


def test_bounded_batches_cover_everything_once() -> None:
    lengths = np.array([5, 1, 9, 30, 2, 2])
    batches = list(bounded_batches(lengths, 10))
    assert np.concatenate(batches).tolist() == list(range(6))
    assert [int(lengths[batch].sum()) for batch in batches] == [6, 9, 30, 4]


def pair_batch(rng: np.random.Generator, count: int = 5) -> PairBatch:
    a, b, c, d = (-10 * rng.random(count) - 1 for _ in range(4))
    return PairBatch(a, b, c, d, rng.integers(1, 9, count).astype(np.int64))


@pytest.mark.parametrize("method", ["dpo", "ipo", "cpo"])
def test_pair_step_is_the_papers_loss_and_its_gradient(method: str) -> None:
    batch = pair_batch(np.random.default_rng(2))
    beta, alpha = 0.3, 0.7

    def loss(chosen: np.ndarray, rejected: np.ndarray) -> float:
        ratio = chosen - batch.ref_chosen - rejected + batch.ref_rejected
        if method == "ipo":
            return float(np.mean((ratio - 1 / (2 * beta)) ** 2))
        if method == "dpo":
            return float(np.mean(np.log1p(np.exp(-beta * ratio))))
        sigmoid = np.mean(np.log1p(np.exp(-beta * (chosen - rejected))))
        return float(sigmoid - alpha * chosen.sum() / batch.chosen_lengths.sum())

    step = pair_step(method, batch, beta, alpha)
    chosen, rejected = batch.policy_chosen, batch.policy_rejected
    assert step.loss == pytest.approx(loss(chosen, rejected), rel=1e-12)
    for i in range(len(chosen)):
        move = np.zeros(len(chosen))
        move[i] = 1e-6
        by_chosen = (loss(chosen + move, rejected) - loss(chosen - move, rejected)) / 2e-6
        by_rejected = (loss(chosen, rejected + move) - loss(chosen, rejected - move)) / 2e-6
        assert step.grad_chosen[i] == pytest.approx(by_chosen, rel=1e-6, abs=1e-9)
        assert step.grad_rejected[i] == pytest.approx(by_rejected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_start_loss_is_that_of_the_reference_itself(beta: float) -> None:
    """Whatever the batch: the dashed line of the training curves."""
    sums = pair_batch(np.random.default_rng(4))
    batch = PairBatch(
        sums.ref_chosen,
        sums.ref_rejected,
        sums.ref_chosen,
        sums.ref_rejected,
        sums.chosen_lengths,
    )
    for method in ("dpo", "ipo"):
        step = pair_step(method, batch, beta, 1.0)
        assert start_loss(method, beta) == pytest.approx(step.loss, rel=1e-12)
    ref, desirable = sums.ref_chosen, np.arange(5) % 2 == 0
    loss, _ = kto_step(ref, ref, desirable, ref, ref, beta)
    assert start_loss("kto", beta) == pytest.approx(loss, rel=1e-12)
    assert start_loss("cpo", beta) is None


def test_kto_step_is_the_papers_loss_and_its_gradient() -> None:
    rng = np.random.default_rng(3)
    policy, ref = rng.standard_normal(6), rng.standard_normal(6)
    desirable = np.array([True, False, True, True, False, False])
    shown, shown_ref = rng.standard_normal(6) + 1, rng.standard_normal(6)
    beta = 0.4

    def loss(policy: np.ndarray) -> float:
        z0 = max(0.0, float((shown - shown_ref).mean()))
        signed = np.where(desirable, 1, -1) * beta * (policy - ref - z0)
        return float(np.mean(1 - 1 / (1 + np.exp(-signed))))

    value, grad = kto_step(policy, ref, desirable, shown, shown_ref, beta)
    assert value == pytest.approx(loss(policy), rel=1e-12)
    for i in range(6):
        move = np.zeros(6)
        move[i] = 1e-6
        numeric = (loss(policy + move) - loss(policy - move)) / 2e-6
        assert grad[i] == pytest.approx(numeric, rel=1e-6)


def test_mismatched_answers_belong_to_other_prompts() -> None:
    pair_of = np.array([3, 3, 5, 3, 5])
    partner = mismatch(pair_of)
    assert partner.tolist() == [2, 2, 3, 4, 0]
    assert mismatch(np.array([1, 1])).tolist() == [-1, -1]


def small_pairs(count: int = 24) -> PairTokens:
    """Pairs with a rule that can be learnt: chosen answers hold tokens under 5, rejected over 5."""
    rng = np.random.default_rng(4)
    tails = [rng.integers(0, SMALL.vocab, 3).astype(np.int32) for _ in range(count)]
    chosen = [rng.integers(0, 5, 4).astype(np.int32) for _ in range(count)]
    rejected = [rng.integers(6, 11, 4).astype(np.int32) for _ in range(count)]
    lengths = np.full((count, 2), 4)
    good, bad = (Sequences(tails, side, SMALL.context) for side in (chosen, rejected))
    return PairTokens(good, bad, np.arange(count), lengths)


@pytest.mark.parametrize("method", ["dpo", "ipo", "kto", "cpo"])
def test_alignment_learns_a_rule_and_leaves_the_start_alone(method: str) -> None:
    pairs, start = small_pairs(), small_model()
    before = start.flat.copy()
    sums = pair_sums(start, pairs)
    fit = pairs.first(16)
    sequences = PairSequences(fit.chosen, fit.rejected, sums.chosen[:16], sums.rejected[:16])
    settings = AlignSettings(method, 0.5, 1.0, 0.03, epochs=6, batch_pairs=4)
    model = start.copy()
    curve = align(model, start, sequences, settings, seed=0)
    assert len(curve.loss) == 24
    np.testing.assert_array_equal(start.flat, before)
    heldout = pairs.select(np.arange(16, 24))
    scores = score_pairs(pair_sums(model, heldout), pair_sums(start, heldout), 32)
    assert scores.reward_hits.mean() == 1.0
    assert scores.margin > 0.5  # IPO aims at 1 / (2 beta) = 1
    assert scores.margin == pytest.approx(scores.chosen_drift - scores.rejected_drift)
    assert kl_from_start(model, start, heldout.chosen) > 1e-3
    assert kl_from_start(start.copy(), start, heldout.chosen) == pytest.approx(0.0, abs=1e-7)
    again = start.copy()
    align(again, start, sequences, settings, seed=0)
    np.testing.assert_array_equal(model.flat, again.flat)


def test_dpo_starts_at_ln_2() -> None:
    pairs, start = small_pairs(), small_model()
    sums = pair_sums(start, pairs)
    sequences = PairSequences(pairs.chosen, pairs.rejected, sums.chosen, sums.rejected)
    settings = AlignSettings("dpo", 0.1, 1.0, 1e-3, epochs=1, batch_pairs=8)
    curve = align(start.copy(), start, sequences, settings, seed=0)
    assert curve.loss[0] == pytest.approx(np.log(2.0), abs=1e-6)


def test_text_fitting_goes_below_the_unigram() -> None:
    cycle = np.tile(np.arange(SMALL.vocab), 12).astype(np.int32)
    text = Sequences([np.zeros(0, np.int32)] * 4, [cycle] * 4, SMALL.context)
    model = small_model()
    curve = fit_text(model, text, learning_rate=0.02, epochs=30, batch_tokens=132, seed=0)
    assert curve.loss[0] == pytest.approx(np.log(SMALL.vocab), abs=0.2)
    assert curve.loss[-1] < 0.5


def test_ngrams_are_distributions_and_witten_bell() -> None:
    rng = np.random.default_rng(5)
    triples = rng.integers(0, 4, (30, 3))
    model = NgramModel(triples, 4)
    for order in (1, 2, 3):
        for context in range(16):
            every = np.array([[context // 4, context % 4, token] for token in range(4)])
            assert np.exp(model.log_probs(every, order)).sum() == pytest.approx(1.0)
    count = (triples[:, 2] == 1).sum()
    kinds = len(set(triples[:, 2]))
    assert np.exp(model.unigram()[1]) == pytest.approx((count + kinds / 4) / (30 + kinds))


def test_adam_is_the_papers() -> None:
    rng = np.random.default_rng(6)
    parameters = rng.standard_normal(5).astype(np.float32)
    expected, mean, square = parameters.astype(np.float64), np.zeros(5), np.zeros(5)
    adam = Adam(parameters, beta2=0.95, clip=1.0)
    for step in range(1, 5):
        grad = rng.standard_normal(5).astype(np.float32) * 3
        clipped = grad / np.linalg.norm(grad) if np.linalg.norm(grad) > 1 else grad.copy()
        norm = np.linalg.norm(grad)
        assert adam.step(grad, 0.1) == pytest.approx(norm, rel=1e-6)
        mean = 0.9 * mean + 0.1 * clipped
        square = 0.95 * square + 0.05 * clipped**2
        corrected = mean / (1 - 0.9**step), square / (1 - 0.95**step)
        expected -= 0.1 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    np.testing.assert_allclose(parameters, expected, rtol=1e-5)


def test_schedule_warms_up_and_ends_near_zero() -> None:
    rates = [schedule(step, 20, 1.0) for step in range(20)]
    assert rates[0] == 0.5
    assert max(rates) == 1.0
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.1
    assert schedule(0, 1, 1.0) == 1.0


def test_wilson_is_the_textbooks() -> None:
    # 81 of 263: Newcombe 1998 (Statistics in Medicine 17), table I
    interval = stats.wilson(81, 263)
    assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert stats.wilson(0, 10).low == 0.0
    assert stats.wilson(50, 100).verdict == "no signal"
    assert stats.wilson(70, 100).verdict == "above chance"
    assert stats.wilson(30, 100).verdict == "below chance"


def test_bootstrap_covers_as_a_normal_interval_does() -> None:
    hits = np.repeat([1.0, 0.0], [150, 100])
    interval = stats.bootstrap(hits)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 250)
    assert interval.value == 0.6
    assert interval.low == pytest.approx(0.6 - half, abs=0.01)
    assert interval.high == pytest.approx(0.6 + half, abs=0.01)
    assert stats.bootstrap(hits) == interval


def test_ties_are_half_a_hit() -> None:
    assert stats.hits(np.array([1, 2, 3]), np.array([1, 1, 4])).tolist() == [0.5, 1.0, 0.0]
