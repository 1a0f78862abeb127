"""TRL 1.16, TRL 1.13 and Liger 0.8.5, their own unmodified code, against prefopt's conventions.

Value, rewards and gradient of every line of cases.py. A convention whose project is not installed
here or behind PREFOPT_PEERS_PYTHON skips with that reason.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import prefopt
from peers import PeerError, peer_value, why_not
from peers.cases import ALL, CASES, IGNORED, Case, draw

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

B = 6


def need(convention: str) -> None:
    reason = why_not(convention)
    if reason:
        pytest.skip(reason)


def run_ours(case: Case, convention: str, inputs: dict[str, Any]) -> Any:
    params = {**case.params, **case.ours}
    if case.loss == "orpo.orpo" and convention.startswith(
        "trl"
    ):  # with the stub's one prompt token
        params["nll_tokens"] = float(B + inputs["chosen_lengths"].sum())
    given = {**inputs, **params, "grad_losses": np.full(B, 1 / B)}
    return prefopt.loss(case.loss, **given, convention=convention)


def our_rewards(result: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    if "desirable" not in inputs:
        names = ("chosen_rewards", "rejected_rewards")
        return {name: getattr(result, name) for name in names if hasattr(result, name)}
    labels = inputs["desirable"]
    return {"chosen": result.rewards[labels], "rejected": result.rewards[~labels]}


LINES = [
    pytest.param(case, kind, convention, id=f"{convention}-{case}-{kind}")
    for case in CASES
    for convention in case.conventions
    for kind in case.sets
]


@pytest.mark.parametrize(("case", "kind", "convention"), LINES)
def test_value_rewards_and_gradient(case: Case, kind: str, convention: str) -> None:
    need(convention)
    inputs = draw(case, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer_value(convention, case.loss, inputs, case.params, case.dtype)
    ours = run_ours(case, convention, inputs)
    close(ours.losses.mean(), theirs["mean"], case, "value", scale=np.abs(ours.losses).mean())
    assert theirs["grads"], "no gradient was compared"
    for name, wanted in theirs["grads"].items():
        if name not in ours.grads:  # a constant here
            assert not wanted.any(), name
            continue
        got = ours.grads[name]
        if (
            theirs.get("nll_in_grads")
            and name == "policy_chosen_logps"
            and "chosen_nll" in ours.grads
        ):
            got = got - ours.grads["chosen_nll"]
        close(got, wanted, case, f"gradient by {name}", scale=np.abs(wanted).max())
    rewards = our_rewards(ours, inputs)
    for name, wanted in theirs["rewards"].items():
        got = rewards[name] if wanted.ndim else rewards[name].mean()
        close(got, wanted, case, name, scale=np.abs(rewards[name]).max())


# 1 - sigmoid(x) in the projects: each is known to a rounding of 1, and its derivative of 1/4
CANCELS = ("kto.kto", "kto.apo_zero_unpaired", "dpo.apo_zero", "dpo.apo_down")


def close(got: Any, wanted: Any, case: Case, what: str, scale: float) -> None:
    """Within rtol of the largest number that went into it: a mean or a difference may cancel."""
    if case.loss in CANCELS:
        scale = max(scale, 0.01)
    np.testing.assert_allclose(
        got, wanted, rtol=case.rtol, atol=case.rtol * scale, err_msg=f"{what} {case.note}"
    )


@pytest.mark.parametrize(
    ("loss", "convention", "params"),
    [(loss, c, params) for loss, conventions, params in IGNORED for c in conventions],
)
def test_what_a_project_ignores_is_refused(
    loss: str, convention: str, params: dict[str, Any]
) -> None:
    need(convention)
    family = loss.split(".")[0]
    optional = {"dpo": ("chosen_lengths", "rejected_lengths")}.get(family, ())
    if loss not in ("dpo.ipo", "dpo.sigmoid_norm"):
        optional = ()
    if family == "cpo":
        base: dict[str, Any] = {"cpo_alpha": 0.0}
    else:
        base = {"tpo_alpha": 0.0} if family == "tpo" else {}
    if loss in ("cpo.ipo", "tpo.ipo"):
        optional = ("chosen_lengths", "rejected_lengths")
    case = Case(loss, ALL, base, inputs=optional)
    inputs = draw(case, "ordinary")
    without = peer_value(convention, loss, inputs, base)
    assert peer_value(convention, loss, inputs, {**base, **params})["mean"] == without["mean"]
    with pytest.raises((ValueError, TypeError), match=next(iter(params))):
        prefopt.loss(loss, **inputs, **base, **params, convention=convention)


def test_the_table_covers_every_loss_of_these_conventions() -> None:
    """Each row that a convention offers has a line above, or is run in another test."""
    elsewhere = {"bco.delta", "bco.udm_weights", "sft.nll"}
    for convention in ALL:
        offered = {
            info.name
            for info in prefopt.losses()
            if convention in {known.name for known in prefopt.conventions(info.name)}
        }  # fmt: skip
        run = {case.loss for case in CASES if convention in case.conventions}
        assert offered - run - elsewhere == set(), convention
        assert run - offered == set(), convention


@pytest.mark.parametrize("convention", ["trl-1.16", "trl-1.13"])
def test_weights_that_crash_there_are_refused(convention: str) -> None:
    """TRL multiplies in place: hinge's backward raises, and sft's expanded loss cannot be written."""
    need("trl-1.16")  # the stub of 1.13 has no WPO weights; the lines of code are the same
    weights = {"chosen_weights": np.full(B, 0.5), "rejected_weights": np.full(B, 0.8)}
    for loss, names in (("dpo.hinge", ()), ("dpo.sft", ("chosen_lengths",))):
        inputs = draw(Case(loss, ALL, inputs=names), "ordinary")
        with pytest.raises(PeerError, match="RuntimeError"):
            peer_value("trl-1.16", loss, {**inputs, **weights})
        with pytest.raises((ValueError, TypeError), match="weights"):
            prefopt.loss(loss, **inputs, **weights, convention=convention)
