"""The published golden values of TRL 1.16, TRL 1.13 and Liger 0.8.5, against their unmodified code.

Every published case of these conventions that a stub can put before the project's code: value,
rewards and gradient in float64, without prefopt's arithmetic in between.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from peers import PeerError, peer_value, why_not
from peers.cases import ALL
from prefopt.testing import GoldenCase, golden

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

GROUPS: dict[tuple[str, str], list[GoldenCase]] = {}
for _case in golden():
    if _case.convention in ALL:
        GROUPS.setdefault((_case.convention, _case.loss), []).append(_case)

# Of the condition scale. Measured in float64: 5.1e-16 (nca_pair).
RTOL = 1e-15
# A rounding of 1 in 1 - sigmoid(x), where that is nearly 0.
ATOL = 1.2e-16
# Where float32 is on the project's path.
NARROW = {
    "dpo.exo_pair": 2.5e-8,  # log of a float32 label_smoothing; measured 1.3e-8
    "grpo.sapo": 4.3e-8,  # temperatures in float32; measured 2.2e-8
}
FLOAT32 = 1.4e-7  # TRL's alpha divergences know no float64; measured 7.2e-8

# What the stubs cannot put before a project's code.
STUB = ("stub: ", "KeyError: 'sft'")
# Losses of which no case can be put: TRL's trainers have one set of log-probs for loss and NLL.
NOT_RUN = {("trl-1.16", "orpo.orpo"), ("trl-1.13", "orpo.orpo"),
           ("trl-1.16", "sft.nll"), ("trl-1.13", "sft.nll")}  # fmt: skip
# Where a project gives NaN at extremes (inf * 0, inf - inf); the exact answer is a number or inf.
NAN = ("dpo.discopop", "dpo.exo_pair", "cpo.hinge", "cpo.ipo", "cpo.sigmoid", "cpo.simpo")


def is_comparable(case: GoldenCase) -> bool:
    """Not: an NLL term (its share is in other gradients there), a sum of no tokens."""
    for side in ("chosen", "rejected"):
        if np.any(empty(case, side) & (case.inputs.get(f"policy_{side}_logps", 0) != 0)):
            return False
    return not {"chosen_nll", "gold_nll"} & case.inputs.keys()


def empty(case: GoldenCase, side: str) -> Any:
    return np.asarray(case.inputs.get(f"{side}_lengths", 1)) == 0


def call_of(case: GoldenCase) -> tuple[dict[str, Any], dict[str, Any]]:
    """Averages are sums of one token; the NLL term, which needs an input, is turned off."""
    inputs, params = dict(case.inputs), dict(case.parameters)
    if case.loss in ("cpo.simpo", "orpo.orpo"):
        for side in ("chosen", "rejected"):
            inputs.setdefault(f"{side}_lengths", np.ones(len(case.losses), int))
    weight = {"cpo": "cpo_alpha", "tpo": "tpo_alpha"}.get(case.loss.split(".")[0])
    return inputs, {**params, weight: 0.0} if weight else params


def ask(case: GoldenCase) -> tuple[dict[str, Any], float] | None:
    """What the project gives, and rtol; None where the stub cannot ask."""
    try:
        return peer(case, "float64"), NARROW.get(case.loss, RTOL)
    except PeerError as error:
        why = str(error)
    if why == "KeyError: torch.float64":
        return peer(case, "float32"), FLOAT32
    assert any(text in why for text in STUB), (case, why)
    return None


def peer(case: GoldenCase, dtype: str) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peer_value(case.convention, case.loss, *call_of(case), dtype)


@pytest.mark.parametrize(("convention", "loss"), sorted(GROUPS))
def test_golden_values_are_the_projects(convention: str, loss: str) -> None:
    if reason := why_not(convention):
        pytest.skip(reason)
    sets = set()
    for case in filter(is_comparable, GROUPS[convention, loss]):
        answer = ask(case)
        if answer is None:
            continue
        theirs, rtol = answer
        if np.isnan(theirs["mean"]):
            assert (case.set, loss in NAN) == ("extreme", True)
            continue
        sets.add(case.set)
        compare(case, theirs, rtol)
    assert "ordinary" in sets or (convention, loss) in NOT_RUN


def compare(case: GoldenCase, theirs: dict[str, Any], rtol: float) -> None:
    count = max(case.losses.size, 1)
    narrow = rtol == FLOAT32 and case.set == "extreme"  # beyond float32
    if not narrow:
        scale = case.scales["losses"].mean()
        close(case, "losses", theirs["mean"], case.losses.mean(), scale, rtol)
    if narrow or np.isinf(theirs["mean"]):  # inf * 0 in the derivative
        return
    for name, grad in theirs["grads"].items():
        if name in case.grads:
            side = "chosen" if "chosen" in name else "rejected"
            known = ~empty(case, side) + np.zeros(grad.shape, bool)
            if case.set == "extreme" and case.loss in NAN:
                known &= ~np.isnan(grad)
            got, want = grad * count, case.grads[name]
            close(case, name, got[known], want[known], case.scales[name][known], rtol)
    for name, reward in theirs["rewards"].items():
        if name in case.rewards and case.loss != "dpo.sft":  # which logs none that mean anything
            ours = case.rewards[name] if reward.ndim else case.rewards[name].mean()
            close(case, name, reward, ours, np.max(case.scales[name]), rtol)


def close(case: GoldenCase, name: str, got: Any, want: Any, scale: Any, rtol: float) -> None:
    finite = np.isfinite(want)
    with np.errstate(invalid="ignore"):
        error = np.where(finite, np.abs(got - want), np.where(got == want, 0.0, np.inf))
        allowed = ATOL + rtol * np.where(finite, scale, 0.0)
    assert (error <= allowed).all(), (case, name, got, want)
