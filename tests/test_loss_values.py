"""Values, rewards and gradients of every loss against the oracle typed from the papers."""

from __future__ import annotations

import math
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from loss_cases import (
    PARAMETERS,
    batch,
    cast_reals,
    run,
    smoothing_floor,
    ulps,
    variants,
    without_optional,
)
from oracle.losses import DIGITS_EXTREME, ORACLES, evaluate

import prefopt

NAMES = sorted(PARAMETERS)

# Twice the worst error measured (value, gradient), in ulp of float64, where inputs and parameters
# are such that their differences and products are exact and only the formula rounds. Measured over
# 240 batches of 8 a loss and the extremes below: dpo.sigmoid 1.24, 2.41; dpo.ipo 1e-7, 0; kto.kto
# 2.01, 3.57 (4.42 with other weights); cpo.sigmoid 1.34, 2.32; sft.nll 0.98, 0.89.
BUDGET = {
    "dpo.sigmoid": (2.4, 4.8),
    "dpo.ipo": (2e-7, 0.0),
    "kto.kto": (4.0, 8.0),
    "cpo.sigmoid": (2.6, 4.6),
    "sft.nll": (1.9, 1.7),
}
REWARD_BUDGET = 0.5  # one rounding at most
# Everything is double until one rounding to float32, so half an ulp and what double can add to it.
BUDGET_FLOAT32 = (0.5 + 1e-6, 0.5 + 1e-6)


def exact_variants(name: str, rng: np.random.Generator) -> list[tuple[Any, Any]]:
    """Batches whose arithmetic before the formula is exact: parameters are multiples of 1/64."""
    cases = []
    for inputs, params in variants(name, rng, exact=True):
        exact = {k: v for k, v in params.items() if float(64 * v).is_integer()}
        default = {} if name == "sft.nll" else {"beta": 0.125}
        cases.append((inputs, {**default, **exact}))
    return cases


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_oracle(name: str, dtype: Any, rng: np.random.Generator) -> None:
    value_budget, grad_budget = BUDGET[name] if dtype is np.float64 else BUDGET_FLOAT32
    for inputs, params in exact_variants(name, rng):
        weights = rng.integers(1, 9, 8) / 4.0
        weights[0] = -0.125  # so that they never add up to 0
        got = run(name, cast_reals(inputs, dtype), params, grad_losses=weights.astype(dtype))
        truth = evaluate(name, inputs, params, weights)
        assert got.losses.dtype == dtype
        assert ulps(got.losses, truth.losses) <= value_budget
        for position, key in enumerate(ORACLES[name].rewards, start=1):
            assert got._fields[position] == key
            assert ulps(got[position], truth.rewards[key]) <= REWARD_BUDGET
        assert set(got.grads) == set(truth.grads)
        for key, expected in truth.grads.items():
            assert got.grads[key].dtype == dtype
            floor = smoothing_floor(params, weights)
            assert ulps(got.grads[key], expected, floor) <= grad_budget, key


@pytest.mark.parametrize("name", NAMES)
def test_default_parameters_and_rounded_inputs(name: str, rng: np.random.Generator) -> None:
    """Ordinary numbers, beta = 0.1 among them. x = beta (a - b) is rounded before exp(x) multiplies
    its error by |x|, and IPO's residual may cancel. Relative errors, twice the worst measured.
    """
    rtol = {
        "dpo.sigmoid": 7.6e-15,
        "dpo.ipo": 3e-14,
        "kto.kto": 3.5e-15,
        "cpo.sigmoid": 1.1e-15,
        "sft.nll": 4.4e-16,
    }[name]
    for inputs, params in variants(name, rng):
        got = run(name, inputs, params, return_grads=True)
        truth = evaluate(name, inputs, params)
        np.testing.assert_allclose(got.losses, [float(v) for v in truth.losses], rtol=rtol)
        for key, expected in truth.grads.items():
            np.testing.assert_allclose(got.grads[key], [float(v) for v in expected], rtol=rtol)


# ------------------------------------------------------------------------------- extremes

RATIOS = [0.0, 2.0**-40, 1.0, 40.0, 300.0, 709.0, 745.0, 746.0, 5000.0, 9999.5, 1e4]
SIGNED = np.array([sign * ratio for ratio in RATIOS for sign in (1.0, -1.0)])


def extreme(name: str) -> dict[str, Any]:
    """Log-ratios (or their difference) from 0 to +-1e4, split over the inputs."""
    if name in ("kto.kto", "sft.nll"):
        inputs: dict[str, Any] = {"policy_logps": SIGNED}
        if name == "kto.kto":
            ones = np.arange(len(SIGNED)) % 4 < 2
            inputs |= {"ref_logps": 0 * SIGNED, "desirable": ones, "kl": 0.0}
        return inputs
    inputs = {"policy_chosen_logps": SIGNED / 2, "policy_rejected_logps": -SIGNED / 2}
    if name.startswith("dpo"):
        inputs |= {"ref_chosen_logps": 0 * SIGNED, "ref_rejected_logps": 0 * SIGNED}
    return inputs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [0.125, 1.0, 2.0])
def test_extreme_ratios(name: str, dtype: Any, beta: float) -> None:
    """|log-ratio| up to 1e4: the true value down to the smallest denormal, never NaN."""
    value_budget, grad_budget = BUDGET[name] if dtype is np.float64 else BUDGET_FLOAT32
    inputs = extreme(name)
    for smoothing in (0.0, 0.125):
        params: dict[str, float] = {"nll_tokens": 64.0} if name == "sft.nll" else {"beta": beta}
        if name in ("dpo.sigmoid", "cpo.sigmoid"):
            params["label_smoothing"] = smoothing
        got = run(name, cast_reals(inputs, dtype), params, return_grads=True)
        truth = evaluate(name, inputs, params, digits=DIGITS_EXTREME)
        assert ulps(got.losses, truth.losses) <= value_budget
        for key, expected in truth.grads.items():
            floor = smoothing_floor(params)
            assert ulps(got.grads[key], expected, floor) <= grad_budget, key


@pytest.mark.parametrize("name", ["dpo.ipo", "dpo.sigmoid", "cpo.sigmoid"])
def test_value_beyond_the_dtype_is_inf_with_its_sign(name: str) -> None:
    """1e4 beta overflows: the loss is +inf (0 on the good side), the gradient has its sign."""
    inputs = extreme(name)
    tiny_or_huge = 1e-200 if name == "dpo.ipo" else 1e306
    got = run(name, inputs, {"beta": tiny_or_huge}, return_grads=True)
    assert not np.isnan(got.losses).any()
    truth = evaluate(name, inputs, {"beta": tiny_or_huge}, digits=900)
    assert ulps(got.losses, truth.losses) <= 2
    for key, expected in truth.grads.items():
        assert ulps(got.grads[key], expected) <= 4, key


# ------------------------------------------------------------------------------- exact values


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3, 0.499])
@pytest.mark.parametrize("beta", [1e-3, 0.1, 7.0])
def test_policy_equal_to_reference_is_ln2(dtype: Any, smoothing: float, beta: float) -> None:
    """Correctly rounded ln 2 in either dtype, whatever the log-probabilities are."""
    chosen, rejected = (np.array([-0.1, -333.3, -1e4], dtype) for _ in range(2))
    got = prefopt.dpo_loss(
        chosen, rejected, chosen, rejected, beta=beta, label_smoothing=smoothing, return_grads=True
    )
    assert (got.losses == dtype(math.log(2))).all()
    assert float(mp.log(2)) == math.log(2)
    assert (got.chosen_rewards == 0).all()
    assert (got.rejected_rewards == 0).all()
    expected = dtype(beta * (smoothing - 0.5))
    np.testing.assert_allclose(
        got.grads["policy_chosen_logps"], expected, rtol=4e-16 if dtype is np.float64 else 6e-8
    )


def test_ipo_at_its_target_is_zero() -> None:
    zero = np.zeros(1)
    got = prefopt.ipo_loss(zero + 5, zero, zero, zero, beta=0.1, return_grads=True)
    assert got.losses == 0
    assert got.grads["policy_chosen_logps"] == 0


def test_ipo_of_sums_and_of_averages_differ_by_the_lengths() -> None:
    rng = np.random.default_rng(0)
    sums = [rng.uniform(-80, -20, 4) for _ in range(4)]
    n_w, n_l = np.array([3, 10, 7, 1]), np.array([5, 2, 7, 4])
    averaged = [sums[0] / n_w, sums[1] / n_l, sums[2] / n_w, sums[3] / n_l]
    given = prefopt.ipo_loss(*sums, chosen_lengths=n_w, rejected_lengths=n_l, return_grads=True)
    taken = prefopt.ipo_loss(*averaged, return_grads=True)
    np.testing.assert_allclose(given.losses, taken.losses, rtol=1e-13)
    np.testing.assert_allclose(
        given.grads["policy_chosen_logps"], taken.grads["policy_chosen_logps"] / n_w, rtol=1e-13
    )
    np.testing.assert_array_equal(given.chosen_rewards, 0.1 * (sums[0] - sums[2]))


def test_kto_of_one_class() -> None:
    """A batch of one class gives what its elements give in a mixed batch."""
    rng = np.random.default_rng(3)
    policy, ref = rng.uniform(-60, -50, (2, 6))
    flags = np.array([True, True, True, False, False, False])
    keywords = {"kl": 1.5, "desirable_weight": 2.0, "undesirable_weight": 0.5, "return_grads": True}
    mixed = prefopt.kto_loss(policy, ref, flags, **keywords)
    for part in (slice(0, 3), slice(3, 6)):
        alone = prefopt.kto_loss(policy[part], ref[part], flags[part], **keywords)
        np.testing.assert_array_equal(alone.losses, mixed.losses[part])
        np.testing.assert_array_equal(
            alone.grads["policy_logps"], mixed.grads["policy_logps"][part]
        )


def test_means_are_token_means() -> None:
    """losses.mean() of CPO is the preference mean plus alpha NLL, and of SFT the NLL per token."""
    rng = np.random.default_rng(5)
    chosen, rejected = rng.uniform(-60, -50, (2, 6))
    lengths = np.array([3, 1, 9, 4, 4, 7])
    plain = prefopt.cpo_loss(chosen, rejected)
    total = prefopt.cpo_loss(
        chosen, rejected, chosen_nll=-chosen, chosen_lengths=lengths, cpo_alpha=0.3
    )
    nll = -chosen.sum() / lengths.sum()
    np.testing.assert_allclose(total.losses.mean(), plain.losses.mean() + 0.3 * nll, rtol=1e-14)
    np.testing.assert_allclose(
        prefopt.sft_loss(chosen, lengths=lengths).losses.mean(), nll, rtol=1e-14
    )
    # A global token count makes the parts of a batch add up: accumulation, ranks.
    parts = [
        prefopt.sft_loss(chosen[part], nll_tokens=lengths.sum()).losses.mean()
        for part in (slice(0, 2), slice(2, 6))
    ]
    np.testing.assert_allclose(sum(parts), nll, rtol=1e-14)


# ------------------------------------------------------------------------------- special inputs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_empty_batch(name: str, dtype: Any, rng: np.random.Generator) -> None:
    inputs = cast_reals(batch(name, rng, size=0), dtype)
    got = run(name, inputs, {}, return_grads=True)
    for array in (*got, *got.grads.values()):
        assert array.shape == (0,)
        assert array.dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_batch_of_one_is_an_element_of_a_batch(name: str, rng: np.random.Generator) -> None:
    """Uncoupled losses only: a mean over the batch is not its element's."""
    inputs = batch(name, rng)
    params = {"nll_tokens": 4.0} if name == "sft.nll" else {}
    inputs = without_optional(name, inputs) if name in ("cpo.sigmoid", "sft.nll") else inputs
    whole = run(name, inputs, params, return_grads=True)
    one = {k: v[2:3] if isinstance(v, np.ndarray) else v for k, v in inputs.items()}
    single = run(name, one, params, return_grads=True)
    share = len(whole.losses) if name == "sft.nll" else 1  # SFT's shares are B / nll_tokens
    assert single.losses[0] * share == whole.losses[2]
    for key, grad in single.grads.items():
        assert grad[0] * share == whole.grads[key][2]


@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_in_its_element(name: str, rng: np.random.Generator) -> None:
    for key in ORACLES[name].inputs + tuple(
        k for k in ORACLES[name].constants if k.startswith("ref")
    ):
        inputs = batch(name, rng)
        before = run(name, inputs, {}, return_grads=True)
        inputs[key] = inputs[key].copy()
        inputs[key][3] = np.nan
        got = run(name, inputs, {}, return_grads=True)
        if key == "chosen_nll":  # a mean over the batch
            assert np.isnan(got.losses).all()
            continue
        others = np.arange(8) != 3
        assert np.isnan(got.losses[3])
        np.testing.assert_array_equal(got.losses[others], before.losses[others])
        for grad, old in zip(got.grads.values(), before.grads.values(), strict=True):
            np.testing.assert_array_equal(grad[others], old[others])


INF = np.inf


@pytest.mark.parametrize(
    ("function", "inputs", "loss", "grad"),
    [
        # A chosen answer of probability 0 costs inf and is pulled with full strength.
        ("dpo_loss", (-INF, 0, 0, 0), INF, -0.1),
        # A rejected answer of probability 0 costs nothing and is left alone.
        ("dpo_loss", (0, -INF, 0, 0), 0.0, 0.0),
        ("dpo_loss", (0, 0, -INF, 0), 0.0, 0.0),
        ("dpo_loss", (0, 0, 0, -INF), INF, -0.1),
        ("dpo_loss", (-INF, -INF, 0, 0), np.nan, np.nan),  # inf - inf has no value
        ("ipo_loss", (-INF, 0, 0, 0), INF, -INF),
        ("ipo_loss", (0, -INF, 0, 0), INF, INF),
        ("cpo_loss", (-INF, 0), INF, -0.1),
        ("cpo_loss", (0, -INF), 0.0, 0.0),
    ],
)
def test_inf_in(function: str, inputs: tuple[float, ...], loss: float, grad: float) -> None:
    arrays = [np.array([value], np.float64) for value in inputs]
    got = getattr(prefopt, function)(*arrays, return_grads=True)
    np.testing.assert_array_equal(got.losses, [loss])
    np.testing.assert_allclose(got.grads["policy_chosen_logps"], [grad], rtol=1e-15)


@pytest.mark.parametrize(("desirable", "loss"), [(True, 1.0), (False, 0.0)])
def test_inf_in_kto(desirable: bool, loss: float) -> None:
    """KTO saturates: bounded loss, no gradient."""
    got = prefopt.kto_loss(
        np.array([-INF]), np.zeros(1), np.array([desirable]), kl=0.0, return_grads=True
    )
    assert got.losses == loss
    assert got.grads["policy_logps"] == 0
    assert got.rewards == -INF


def test_empty_answers() -> None:
    """Length 0: average 0, gradient 0; a batch without any token has no NLL."""
    zero, ones = np.zeros(2), np.ones(2)
    got = prefopt.ipo_loss(
        ones, ones, zero, zero, beta=0.5, return_grads=True,
        chosen_lengths=np.array([0, 2]), rejected_lengths=np.array([0, 2]),
    )  # fmt: skip
    assert got.losses.tolist() == [1.0, 1.0]
    assert got.grads["policy_chosen_logps"].tolist() == [0.0, -1.0]
    assert got.grads["policy_rejected_logps"].tolist() == [0.0, 1.0]
    nothing = np.zeros(2, int)
    got = prefopt.cpo_loss(zero, zero, chosen_nll=zero, chosen_lengths=nothing, return_grads=True)
    assert got.losses.tolist() == [math.log(2)] * 2
    assert got.grads["chosen_nll"].tolist() == [0.0, 0.0]
    got = prefopt.sft_loss(zero, lengths=nothing, return_grads=True)
    assert got.losses.tolist() == [0.0, 0.0]
    assert got.grads["policy_logps"].tolist() == [0.0, 0.0]


# ------------------------------------------------------------------------------- KTO's z0


def test_kto_kl() -> None:
    policy, ref = np.array([-10.0, -12.0, -9.5]), np.array([-11.0, -12.5, -10.0])
    assert prefopt.kto_kl(policy, ref) == 2.0 / 3
    assert prefopt.kto_kl(policy.astype(np.float32), ref) == 2.0 / 3
    assert prefopt.kto_kl(ref, policy) == 0.0  # clamped
    assert prefopt.kto_kl(np.zeros(0), np.zeros(0)) == 0.0
    assert math.isnan(prefopt.kto_kl(np.array([np.nan]), np.zeros(1)))


def test_kto_kl_state_is_clamped_after_the_reduction() -> None:
    """Two ranks, one with a negative mean: the clamp belongs after their sum."""
    rng = np.random.default_rng(11)
    policy, ref = rng.uniform(-60, -50, (2, 7))
    whole = prefopt.kto_kl(policy, ref)
    ratio = policy - ref
    state = (ratio[:3].sum() + ratio[3:].sum(), 7)
    assert prefopt.kto_kl(state=state) == pytest.approx(whole, rel=1e-14)
    assert prefopt.kto_kl(state=(-3.0, 4)) == 0.0
    assert prefopt.kto_kl(state=np.array([3.0, 4.0])) == 0.75
    assert prefopt.kto_kl(state=(0.0, 0)) == 0.0
    assert math.isnan(prefopt.kto_kl(state=(np.nan, 2)))
    # The state is the whole sum: the batch's own numbers are not added a second time.
    assert prefopt.kto_kl(policy, ref, state=(3.0, 4)) == 0.75


def test_no_gradient_flows_through_kl() -> None:
    kl = prefopt.losses()[[row.name for row in prefopt.losses()].index("kto.kto")].inputs[3]
    assert kl.name == "kl"
    assert not kl.differentiable
