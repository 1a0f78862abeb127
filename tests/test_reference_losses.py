"""Every loss and procedure of prefopt.reference: against the C library, and against its own slopes.

The two share no formula. They agree to the rounding of their different orders of arithmetic.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from reference_cases import OFF_DEFAULTS, convention_calls, extreme_calls, ordinary_calls
from row_cases import LOSSES, PROCEDURES, ROWS, inputs

import prefopt
from prefopt import reference
from prefopt.reference import _call, losses

# Twice the worst relative difference measured: 1.7e-14 (cpo.ipo), 9.9e-15 (dpo.aot), 6.5e-14
# (orpo.orpo). Where a result is a difference that cancels, of sigma' in apo_down, of exponents of
# 1e4 in beta_dpo, what counts is the array's largest number: 9e-17 and 1.9e-15 of it were measured.
RTOL, RTOL_CONVENTIONS, RTOL_EXTREME = 3.4e-14, 2e-14, 1.3e-13
CANCELS = {"dpo.apo_down": 2e-16, "beta_dpo.sigmoid": 3.8e-15}


def results(got: Any) -> dict[str, Any]:
    return {**dict(zip(got._fields, got, strict=True)), **(getattr(got, "grads", None) or {})}


def compare(name: str, arguments: dict[str, Any], rtol: float, label: str) -> None:
    """Names, types, shapes and numbers of both results."""
    ours = prefopt.loss(name, **arguments)
    theirs = reference.loss(name, **arguments)
    assert type(ours).__name__ == type(theirs).__name__
    expected, got = results(ours), results(theirs)
    assert set(got) == set(expected), label
    for key, wanted in expected.items():
        assert np.shape(got[key]) == np.shape(wanted), (label, key)
        finite = np.abs(wanted)[np.isfinite(wanted)]
        atol = CANCELS.get(name, 0.0) * finite.max(initial=0.0)
        np.testing.assert_allclose(
            got[key], wanted, rtol=rtol, atol=atol, err_msg=f"{name}, {label}: {key}"
        )


# ------------------------------------------------------------------------------- the same rows


def test_has_every_row_with_its_arguments_and_defaults() -> None:
    assert set(_call.ROWS) == set(LOSSES)
    assert set(losses.PROCEDURES) == set(PROCEDURES)
    for name, row in _call.ROWS.items():
        listed = ROWS[name]
        assert {*row.inputs, *row.weights} == {item.name for item in listed.inputs}, name
        assert row.parameters == {item.name: item.default for item in listed.parameters}, name
    for name, function in losses.PROCEDURES.items():
        arguments = inspect.signature(function).parameters
        listed = ROWS[name]
        assert list(arguments) == [i.name for i in (*listed.inputs, *listed.parameters)], name
        assert all(arguments[p.name].default == p.default for p in listed.parameters), name


def test_cases_leave_no_parameter_at_its_default() -> None:
    for row in ROWS.values():
        calls = [arguments for _, arguments in ordinary_calls(row.name)]
        for parameter in row.parameters:
            value = OFF_DEFAULTS[parameter.name]
            assert value != parameter.default
            assert any(arguments.get(parameter.name) == value for arguments in calls), row.name
        for item in row.inputs:
            assert any(item.name in arguments for arguments in calls), (row.name, item.name)


# ------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("name", LOSSES)
def test_ordinary_losses_agree(name: str) -> None:
    rng = np.random.default_rng(1)
    for label, arguments in ordinary_calls(name):
        shape = prefopt.loss(name, **arguments).losses.shape
        weights = rng.uniform(0.5, 2, shape)
        if label == "gathered":
            weights = np.full(shape, 0.75)  # the weights of other ranks' losses are not known
        compare(name, {**arguments, "grad_losses": weights}, RTOL, label)
        compare(name, {**arguments, "return_grads": True}, RTOL, label)
        assert reference.loss(name, **arguments).grads is None


@pytest.mark.parametrize("name", PROCEDURES)
def test_procedures_agree(name: str) -> None:
    for label, arguments in ordinary_calls(name):
        compare(name, arguments, RTOL, label)


@pytest.mark.parametrize("name", LOSSES)
def test_conventions_agree(name: str) -> None:
    for label, arguments in convention_calls(name):
        compare(name, {**arguments, "return_grads": True}, RTOL_CONVENTIONS, label)


@pytest.mark.parametrize("name", LOSSES)
def test_extremes_agree(name: str) -> None:
    """Where float64 mathematics has a value, infinite ones included, both give it."""
    for label, arguments in extreme_calls(name):
        compare(name, {**arguments, "return_grads": True}, RTOL_EXTREME, label)


@pytest.mark.parametrize("name", LOSSES)
def test_one_and_no_element(name: str) -> None:
    for size in (0, 1):
        arguments = {**inputs(name, size=size), "return_grads": True}
        compare(name, arguments, RTOL, f"{size} elements")


@pytest.mark.parametrize(
    "name", [n for n in LOSSES if any(i.type == "mask" for i in ROWS[n].inputs)]
)
def test_masked_tokens_are_not_read(name: str) -> None:
    arrays = inputs(name, size=5)
    arrays["mask"][2] = False
    for key, value in arrays.items():
        if value.ndim == 2 and key != "mask":
            arrays[key] = np.where(arrays["mask"], value, np.nan)
    compare(name, {**arrays, "return_grads": True}, RTOL, "NaN under the mask")


def test_ties_keep_the_order_of_the_batch() -> None:
    zeros = np.zeros(4)
    pairs = {"policy_chosen_logps": zeros, "policy_rejected_logps": np.array([1.0, 2.0, 3.0, 4.0])}
    pairs |= {"ref_chosen_logps": zeros, "ref_rejected_logps": np.array([2.0, 1.0, 1.0, 2.0])}
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    for name in ("dpo.aot", "dpo.aot_unpaired"):
        compare(name, {**pairs, "grad_losses": weights}, RTOL, "ties")


def test_mixtures_agree() -> None:
    arrays = inputs("dpo.ipo", size=6)
    arrays.pop("chosen_weights"), arrays.pop("rejected_weights")
    for options in (
        {"loss_type": ("sigmoid", "ipo", "sft"), "loss_weights": (0.5, 2.0, -1.0)},
        {"loss_type": ["sft", "sigmoid"], "label_smoothing": 0.2},
        {"loss_type": ("hinge", "bco_pair", "sft"), "loss_weights": (0.8, 0.0, 1.0), "delta": 0.3},
    ):
        arguments = {**arrays, **options, "return_grads": True}
        if "ipo" not in options["loss_type"]:
            arguments.pop("rejected_lengths")
        ours, theirs = prefopt.dpo_loss(**arguments), reference.dpo_loss(**arguments)
        for key, wanted in results(ours).items():
            np.testing.assert_allclose(results(theirs)[key], wanted, rtol=RTOL, err_msg=key)


def test_unused_arguments_are_refused_as_in_prefopt() -> None:
    arrays = inputs("dpo.sigmoid")
    for options in (
        {"loss_type": "ipo", "label_smoothing": 0.1},
        {"loss_type": "nca_pair", "f_divergence_type": "forward_kl"},
        {"delta": 0.5},
        {"loss_type": "zzz"},
        {"convention": "trl-1.16", "label_smoothing": 0.1},
        {"convention": "zzz"},
    ):
        for module in (prefopt, reference):
            with pytest.raises(ValueError, match=next(reversed(options))):
                module.dpo_loss(**arrays, **options)
    for module in (prefopt, reference):
        module.dpo_loss(**arrays, loss_type="nca_pair", f_divergence_type="reverse_kl")
        with pytest.raises(ValueError, match=r"no loss is called 'dpo.zzz'"):
            module.loss("dpo.zzz")


# ------------------------------------------------------------------------------- their slopes

STEP = 1e-3  # so small that no kink of these cases lies within two steps
# Twice the worst difference measured, in units of the largest slope of its array: 9.1e-10 for the
# NLL of cpo.ipo, a slope of 0.02 beside losses of 200.
SLOPES = 1.9e-9

# Arguments under which what a loss takes as a constant does not move with its inputs: the batch's
# beta (its lower bound), the reference points, the clipped ratio of cispo.
CONSTANT = {
    "beta_dpo.sigmoid": {"min_beta": 0.6},
    "dpo.kto_pair": {"chosen_kl_mean": 0.75, "rejected_kl_mean": 0.5},
    "grpo.cispo": {"epsilon_low": 0.8, "epsilon_high": 0.8},
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_the_slopes_of_the_losses(name: str) -> None:
    """Five-point differences of sum_i g_i losses_i by every element of every input."""
    rng = np.random.default_rng(2)
    for label, given in ordinary_calls(name):
        if label == "gathered":
            continue  # a batch's own numbers would have to move in the gathered ones too
        arguments = {**given, **CONSTANT.get(name, {})}
        if name.startswith("grpo"):
            arguments.setdefault("old_logps", arguments["logps"])
        weights = rng.uniform(0.5, 2, reference.loss(name, **arguments).losses.shape)
        got = reference.loss(name, **arguments, grad_losses=weights)
        for key, grad in got.grads.items():
            if (name, key) == ("tdpo.tdpo2", "chosen_kl"):
                assert not grad.any()  # which stops the gradient by the chosen answer's KL
                continue
            slopes = [
                difference(name, arguments, weights, key, at) for at in np.ndindex(grad.shape)
            ]
            error = np.abs(np.reshape(slopes, grad.shape) - grad).max()
            assert grad.any()
            assert error <= SLOPES * np.abs(grad).max(), (label, key, error / np.abs(grad).max())


def difference(name: str, arguments: Any, weights: Any, key: str, at: tuple[int, ...]) -> float:
    def objective(steps: int) -> float:
        moved = {**arguments, key: arguments[key].copy()}
        moved[key][at] += steps * STEP
        return float((reference.loss(name, **moved).losses * weights).sum())

    near, far = objective(1) - objective(-1), objective(2) - objective(-2)
    return (8 * near - far) / (12 * STEP)
