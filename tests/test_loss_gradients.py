"""Gradients of the first losses against differences of the library's own values; linearity.

tests/test_golden.py has the exact gradients of every loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from loss_cases import PARAMETERS, batch, run, variants

NAMES = sorted(PARAMETERS)


@pytest.mark.parametrize("name", NAMES)
def test_against_differences(name: str, rng: np.random.Generator) -> None:
    """sum_i g_i losses_i is differenced by one input element at a time, batch coupling included.

    Central differences of step h err by h^2 f''' / 6 + eps f / h: about 1e-9 for h = 1e-3 here.
    """
    for inputs, params in variants(name, rng, size=4):
        params = {"beta": 0.05, **params} if name != "sft.nll" else params
        weights = rng.uniform(0.5, 2, 4)
        got = run(name, inputs, params, grad_losses=weights)
        for key, grad in got.grads.items():
            for j in range(4):
                slope = difference(name, inputs, params, weights, key, j, 1e-3)
                assert grad[j] == pytest.approx(slope, rel=1e-6, abs=3e-10)


def difference(
    name: str, inputs: Any, params: Any, weights: Any, key: str, j: int, step: float
) -> float:
    def objective(move: float) -> float:
        moved = {**inputs, key: inputs[key].copy()}
        moved[key][j] += move
        return float((run(name, moved, params).losses * weights).sum())

    return (objective(step) - objective(-step)) / (2 * step)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_linear_in_grad_losses(name: str, rng: np.random.Generator) -> None:
    """return_grads is grad_losses of ones, and the product is linear."""
    inputs = batch(name, rng)
    ones = run(name, inputs, {}, return_grads=True)
    same = run(name, inputs, {}, grad_losses=np.ones(8))
    first, second = rng.uniform(-1, 1, (2, 8))
    both = run(name, inputs, {}, grad_losses=first + second)
    one, two = (run(name, inputs, {}, grad_losses=g) for g in (first, second))
    for key, grad in ones.grads.items():
        np.testing.assert_array_equal(grad, same.grads[key])
        np.testing.assert_allclose(
            both.grads[key], one.grads[key] + two.grads[key], rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_unless_asked(name: str, rng: np.random.Generator) -> None:
    assert run(name, batch(name, rng), {}).grads is None


@pytest.mark.parametrize("name", ["dpo.sigmoid", "dpo.ipo", "cpo.sigmoid"])
def test_pairs_are_antisymmetric(name: str, rng: np.random.Generator) -> None:
    """Sums enter by their difference: the two gradients are opposite."""
    inputs = batch(name, rng)
    for key in ("chosen_lengths", "rejected_lengths", "chosen_nll"):
        inputs.pop(key, None)
    grads = run(name, inputs, {}, return_grads=True).grads
    np.testing.assert_array_equal(grads["policy_chosen_logps"], -grads["policy_rejected_logps"])
