"""`assert_loss_matches`: what agrees, what it catches, and what it says that the function is."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import row_cases

import prefopt
from prefopt.testing import MatchReport, NoCaseFits, assert_loss_matches, golden, published_sets

Function = Callable[..., Any]


def dpo_loss(
    policy_chosen_logps: Any,
    policy_rejected_logps: Any,
    ref_chosen_logps: Any,
    ref_rejected_logps: Any,
    beta: float = 0.1,
) -> Any:
    """As one would type it from the paper."""
    chosen = policy_chosen_logps - ref_chosen_logps
    rejected = policy_rejected_logps - ref_rejected_logps
    return np.logaddexp(0, -beta * (chosen - rejected))


def failure(function: Function, loss: str, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_loss_matches(function, loss, **options)
    return str(caught.value)


# ---- what agrees ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", row_cases.ROWS)
def test_prefopt_matches(name: str) -> None:
    """Every row, with rewards, and gradients by finite differences."""
    convention = sorted({case.convention for case in golden(name)})[-1]
    function = functools.partial(prefopt.loss, name)
    if row_cases.ROWS[name].kind != "procedure" and convention != "default":
        function = functools.partial(function, convention=convention)
    report = assert_loss_matches(function, name, convention=convention, rewards=True)
    assert report.cases >= len(golden(name, convention))
    assert report.left_out == {}
    # Finite differences, of which 5e-7 is allowed: 0.49 for cpo.ipo at log-ratios of 1e4.
    assert report.worst <= 1


def test_a_function_from_the_paper() -> None:
    report = assert_loss_matches(dpo_loss, "dpo.sigmoid", convention="trl-1.16")
    assert isinstance(report, MatchReport)
    assert report.convention == "trl-1.16"
    assert report.backend == "numpy"
    assert set(report.left_out) == {"chosen_weights", "f_divergence_type"}
    # beta alone is in no published case: tried against prefopt's value.
    assert report.derived == 1
    assert str(report).startswith(f"{report.cases} cases of dpo.sigmoid@trl-1.16 agree (numpy)")


@pytest.mark.parametrize("convention", ["default", None, "paper"])
def test_the_default_has_the_papers_cases_where_it_has_none(convention: str | None) -> None:
    assert assert_loss_matches(dpo_loss, "dpo.sigmoid", convention=convention).cases > 3


def test_scalars_and_tuples() -> None:
    def mean(**given: Any) -> Any:
        return prefopt.loss("dpo.ipo", **given).losses.mean()

    def mean_and_more(**given: Any) -> Any:
        result = prefopt.loss("dpo.ipo", **given)
        return result.losses.mean(), result.chosen_rewards, "anything"

    for function in (mean, mean_and_more):
        assert assert_loss_matches(function, "dpo.ipo").cases > 10


def test_names_by_adapter() -> None:
    def other(pi_w: Any, pi_l: Any, ref_w: Any, ref_l: Any, tau: float) -> Any:
        return ((pi_w - ref_w) - (pi_l - ref_l) - 1 / (2 * tau)) ** 2

    names = {
        "policy_chosen_logps": "pi_w", "policy_rejected_logps": "pi_l", "ref_chosen_logps": "ref_w",
        "ref_rejected_logps": "ref_l", "beta": "tau",
    }  # fmt: skip
    report = assert_loss_matches(other, "dpo.ipo", adapter=names)
    assert report.left_out["chosen_lengths"] > 0  # of which it knows nothing

    def renamed(given: dict[str, Any]) -> dict[str, Any] | None:
        if not given.keys() <= names.keys():
            return None
        return {"tau": 0.1} | {names[key]: value for key, value in given.items()}

    same = assert_loss_matches(other, "dpo.ipo", adapter=renamed)
    assert (same.cases, same.derived) == (report.cases, report.derived)
    assert sum(same.left_out.values()) == sum(report.left_out.values())


def test_what_the_function_requires_gets_the_conventions_default() -> None:
    def needs_all(policy_chosen_logps: Any, policy_rejected_logps: Any, **rest: Any) -> Any:
        return prefopt.loss(
            "cpo.simpo", policy_chosen_logps=policy_chosen_logps,
            policy_rejected_logps=policy_rejected_logps, **rest,
        ).losses  # fmt: skip

    def simpo(
        policy_chosen_logps: Any, policy_rejected_logps: Any, *, beta: float, simpo_gamma: float
    ) -> Any:
        margin = policy_chosen_logps - policy_rejected_logps
        return np.logaddexp(0, simpo_gamma - beta * margin)

    assert assert_loss_matches(needs_all, "cpo.simpo").left_out == {}
    for convention in ("default", "paper"):  # whose gamma is a quarter of beta
        report = assert_loss_matches(simpo, "cpo.simpo", convention=convention)
        assert report.cases > 0


def test_tokens_and_procedures() -> None:
    def k1(logps: Any, ref_token_logps: Any) -> Any:
        return logps - ref_token_logps

    assert assert_loss_matches(k1, "kl.k1").cases > 0

    def gae(token_rewards: Any, values: Any, gamma: float = 1.0, gae_lambda: float = 0.95) -> Any:
        later, advantages = 0.0, np.zeros(token_rewards.shape)
        for t in reversed(range(token_rewards.shape[1])):
            following = values[:, t + 1] if t + 1 < token_rewards.shape[1] else 0.0
            delta = token_rewards[:, t] + gamma * following - values[:, t]
            later = advantages[:, t] = delta + gamma * gae_lambda * later
        return advantages, advantages + values

    report = assert_loss_matches(gae, "gae.gae")
    assert set(report.left_out) == {"mask"}  # given with last_values
    text = failure(lambda **given: gae(**given)[::-1], "gae.gae", adapter=lambda given: (
        given if given.keys() <= {"token_rewards", "values", "gamma", "gae_lambda"} else None
    ))  # fmt: skip
    assert "in gae_advantages" in text


def test_float32() -> None:
    def narrow(**given: Any) -> Any:
        arrays = {k: np.float32(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
        return np.float32(dpo_loss(**arrays))

    plain = {"adapter": lambda given: given if len(given) - ("beta" in given) == 4 else None}
    report = assert_loss_matches(dpo_loss, "dpo.sigmoid", dtype="float32")
    assert report.cases > 3
    # float64 in, float32 out: the tolerance follows the result
    assert_loss_matches(narrow, "dpo.sigmoid", gradients=False, **plain)
    assert "off by" in failure(narrow, "dpo.sigmoid", gradients=False, rtol=1e-9, atol=0, **plain)


# ---- what it catches -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda **x: -dpo_loss(**x), "off by"),
        (lambda **x: dpo_loss(**x) * (1 + 1e-11), "off by"),
        (lambda **x: dpo_loss(**{**x, "beta": 0.1}), "beta = 0.15"),
        (lambda **x: dpo_loss(**x)[:, None], "expected shape [3], got [3, 1]"),
        (lambda **x: np.append(dpo_loss(**x), 0.0), "expected shape [3], got [4]"),
        (lambda **x: np.where(dpo_loss(**x) > 0.5, np.nan, dpo_loss(**x)), "nan"),
        (lambda **x: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda **x: "losses", "raised "),
        (lambda **x: None, "off by"),
    ],
    ids=["sign", "1e-11", "beta", "column", "length", "nan", "raises", "text", "none"],
)  # fmt: skip
def test_wrong_functions(wrong: Function, message: str) -> None:
    def plain(given: dict[str, Any]) -> dict[str, Any] | None:
        extra = given.keys() - {"beta"}
        return given if len(extra) == 4 else None

    assert assert_loss_matches(lambda **x: dpo_loss(**x), "dpo.sigmoid", adapter=plain).derived == 1
    assert message in failure(wrong, "dpo.sigmoid", adapter=plain)


def test_values_that_do_not_move_have_no_gradient() -> None:
    """A table of the published values: only the derivative tells."""
    table = {tuple(c.inputs["policy_chosen_logps"]): c for c in golden("dpo.hinge", "paper")}

    def looked_up(policy_chosen_logps: Any, **rest: Any) -> Any:
        nearest = min(
            (key for key in table if len(key) == len(policy_chosen_logps)),
            key=lambda key: np.abs(np.array(key) - policy_chosen_logps).sum(),
        )
        return table[nearest].losses

    adapter = lambda given: given if given.keys() <= PAIRS else None  # noqa: E731
    text = failure(looked_up, "dpo.hinge", sets="ordinary", adapter=adapter)
    assert "in gradient by policy_chosen_logps (case 1" in text
    assert "The losses of this case agree, the derivative does not." in text
    assert_loss_matches(looked_up, "dpo.hinge", sets="edge", gradients=False, adapter=adapter)


PAIRS = {
    "policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps",
}  # fmt: skip


def test_extremes_are_told_apart() -> None:
    """Right for a trainer's numbers, inf or NaN beyond: the set is named."""

    def naive(**given: Any) -> Any:
        return -np.log(1 / (1 + np.exp(-np.log(np.expm1(dpo_loss(**given))) * -1)))

    plain = {"adapter": lambda given: given if given.keys() <= {*PAIRS, "beta"} else None}
    assert_loss_matches(naive, "dpo.sigmoid", sets="ordinary", **plain)
    text = failure(naive, "dpo.sigmoid", **plain)
    assert "extreme)" in text
    assert "agrees with\n  dpo.sigmoid@default" in text


# ---- what it says that the function is -----------------------------------------------------------


def simple(loss: str, **fixed: Any) -> Function:
    """The loss of plain pairs; `fixed` are what it has hard-wired."""

    def my_loss(
        policy_chosen_logps: Any,
        policy_rejected_logps: Any,
        ref_chosen_logps: Any,
        ref_rejected_logps: Any,
        beta: float = fixed.pop("default_beta", 0.1),
        label_smoothing: float = 0.0,
    ) -> Any:
        given = {
            "policy_chosen_logps": policy_chosen_logps, "policy_rejected_logps": policy_rejected_logps,
            "ref_chosen_logps": ref_chosen_logps, "ref_rejected_logps": ref_rejected_logps,
            "beta": beta, "label_smoothing": label_smoothing,
        }  # fmt: skip
        return prefopt.loss(loss, **{**given, **fixed}).losses

    return my_loss


@pytest.mark.parametrize(
    ("function", "loss", "convention", "says"),
    [
        (simple("dpo.sigmoid", default_beta=0.05), "dpo.sigmoid", None,
         "dpo.sigmoid@default (also paper, trl-0.24, halos-4831988, llamafactory-ff6d4d1, "
         "openrlhf-3c3be62, torchtune-bd2a0fc) with default beta=0.05"),
        (simple("dpo.sigmoid", default_beta=0.05, label_smoothing=0.0), "dpo.sigmoid", None,
         "dpo.sigmoid@nemo-rl-7ea279a not using label_smoothing: beta default .05"),
        (simple("dpo.sigmoid", default_beta=0.37), "dpo.sigmoid", None, "with default beta=0.37"),
        (simple("dpo.sigmoid", beta=0.2), "dpo.sigmoid", None, "with beta=0.2"),
        (simple("dpo.sigmoid", label_smoothing=0.0), "dpo.robust", None,
         "dpo.sigmoid@trl-1.16 (also trl-1.13, liger-0.8.5"),
        (simple("dpo.robust"), "dpo.sigmoid", None, "dpo.robust@default (also paper, trl-1.16"),
        (lambda **x: prefopt.loss("dpo.ipo", **x).losses.sum(), "dpo.ipo", None,
         "the sum of dpo.ipo@default"),
        (lambda **x: prefopt.loss("dpo.ipo", **{
            k: v for k, v in x.items() if not k.endswith("_lengths")
        }).losses, "dpo.ipo", "trl-1.16", "without chosen_lengths and rejected_lengths"),
        (lambda **x: prefopt.loss("kto.kto", **x).rewards, "kto.kto", None, "no known loss"),
    ],
)  # fmt: skip
def test_it_says_what_the_function_is(
    function: Function, loss: str, convention: str | None, says: str
) -> None:
    text = failure(function, loss, convention=convention)
    assert f"does not match {loss}@{convention or 'default'} in " in text
    assert says in text.split("agrees with")[1]


def test_the_message_shows_the_case() -> None:
    text = failure(simple("dpo.sigmoid", default_beta=0.2), "dpo.sigmoid")
    lines = text.splitlines()
    assert re.fullmatch(
        r"my_loss does not match dpo.sigmoid@default in losses \(case 1 of \d+, ordinary\)",
        lines[0],
    )
    case = golden("dpo.sigmoid", "paper", "ordinary")[0]
    assert lines[1].startswith("  off by ")
    assert lines[3].startswith(f"  expected [{case.losses[0]:.9f}"[:18])
    assert lines[4].startswith(f"  policy_chosen_logps = [{case.inputs['policy_chosen_logps'][0]}")


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        ("dpo.sigmod", {}, "did you mean dpo.sigmoid"),
        ("dpo.sigmoid", {"convention": "trl-1.61"}, "did you mean trl-1.16"),
        ("slic.hinge", {"convention": "trl-1.16"}, "slic.hinge has no convention"),
        ("dpo.sigmoid", {"sets": "ordinry"}, "did you mean ordinary"),
        ("dpo.sigmoid", {"sets": ["edge", "kinks"]}, "did you mean kink"),
        ("dpo.sigmoid", {"backend": "pytorch"}, "did you mean torch"),
        ("dpo.sigmoid", {"dtype": "float16"}, "expected 'float64' or 'float32'"),
        ("dpo.sigmoid", {"adapter": {"policy_chosen": "x"}}, "did you mean policy_chosen_logps"),
    ],
)
def test_unknown_names(loss: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assert_loss_matches(dpo_loss, loss, **options)


def test_functions_that_cannot_be_called() -> None:
    with pytest.raises(TypeError, match="expected a callable, got int"):
        assert_loss_matches(3, "dpo.sigmoid")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"'policy_logp'.*did you mean policy_"):
        assert_loss_matches(lambda policy_logp: 0, "dpo.sigmoid")
    with pytest.raises(TypeError, match="'logps' cannot be given by keyword"):
        assert_loss_matches(lambda logps, /: 0, "dpo.sigmoid")
    with pytest.raises(NoCaseFits, match="policy_chosen_logps; adapter= maps names"):
        assert_loss_matches(lambda: 0, "dpo.sigmoid")


def test_published_sets() -> None:
    assert published_sets("dpo.hinge", "trl-1.16") == ("ordinary", "extreme", "edge", "kink")
    with pytest.raises(ValueError, match="did you mean"):
        published_sets("dpo.hing")


def test_it_imports_no_other_library() -> None:
    """Not with a function of NumPy, found or not found, either."""
    script = """if True:
        import sys
        import numpy as np
        from prefopt.testing import assert_loss_matches, explain
        k1 = lambda logps, ref_token_logps: logps - ref_token_logps
        assert_loss_matches(k1, "kl.k1")
        try:
            assert_loss_matches(k1, "kl.k2")
        except AssertionError:
            pass
        explain(0.5, chosen_scores=[1.0], rejected_scores=[0.0])
        loaded = {name.split(".")[0] for name in sys.modules}
        print(sorted(loaded & {"torch", "jax", "mpmath", "pytest", "trl", "hypothesis"}))
    """
    root = Path(prefopt.__file__).resolve().parents[1]
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
