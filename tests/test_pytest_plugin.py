"""The pytest plugin: items, errors, fixtures, and what it costs runs that do not use it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[1]
LOSSES = """
import numpy as np

def my_dpo_loss(
    policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1
):
    margin = policy_chosen_logps - policy_rejected_logps - ref_chosen_logps + ref_rejected_logps
    return np.logaddexp(0, -beta * margin)

class Family:
    loss = staticmethod(my_dpo_loss)

NUMBER = 3
"""


@pytest.fixture(autouse=True)
def _module(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin by name: whether or not prefopt is installed with its entry point."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(my_losses=LOSSES)


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest("-p", "_prefopt_pytest", "-p", "no:cacheprovider", *arguments)


def test_one_item_a_set(pytester: pytest.Pytester) -> None:
    result = run(pytester, "-v", "--prefopt-losses", "my_losses:my_dpo_loss=dpo.sigmoid@trl-1.16")
    result.assert_outcomes(passed=3, skipped=1)  # no kink without a divergence
    result.stdout.fnmatch_lines(
        [
            "*my_losses:my_dpo_loss=dpo.sigmoid@trl-1.16::ordinary PASSED*",
            "*my_losses:my_dpo_loss=dpo.sigmoid@trl-1.16::kink SKIPPED*",
        ]
    )


def test_repeated_and_beside_other_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_other(): pass")
    names = ("my_losses:my_dpo_loss=dpo.sigmoid", "my_losses:Family.loss=spin.sigmoid")
    options = [part for name in names for part in ("--prefopt-losses", name)]
    result = run(pytester, *options)
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] >= 1 + 3 + 3
    assert "failed" not in outcomes


def test_failure_says_what_it_is_instead(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--prefopt-losses", "my_losses:my_dpo_loss=dpo.hinge@trl-1.16")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "my_dpo_loss does not match dpo.hinge@trl-1.16 in losses*",
            "*agrees with",
            "*dpo.sigmoid@default (also *trl-1.16*",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*assert_loss_matches(*")


def test_selection_and_counts(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--prefopt-losses", "my_losses:my_dpo_loss=dpo.sigmoid", "-k", "edge")
    result.assert_outcomes(passed=1, deselected=3)
    result.stdout.fnmatch_lines(["collected 4 items / 3 deselected / 1 selected"])


def test_rtol(pytester: pytest.Pytester) -> None:
    # 15 % covers even the wrong beta of NeMo-RL's default
    names = ["--prefopt-losses", "my_losses:my_dpo_loss=dpo.sigmoid@nemo-rl-7ea279a"]
    assert run(pytester, *names, "-k", "edge").ret == pytest.ExitCode.TESTS_FAILED
    loose = run(pytester, *names, "-k", "edge", "--prefopt-rtol", "1")
    assert loose.ret == pytest.ExitCode.TESTS_FAILED  # the gradient is what differs then
    assert "in gradient by" in loose.stdout.str()


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("my_losses:my_dpo_los=dpo.sigmoid", "my_losses has no 'my_dpo_los'; did you mean my_dpo_loss"),
        ("my_losses:my_dpo_loss=dpo.sigmod", "did you mean dpo.sigmoid"),
        ("my_losses:my_dpo_loss=dpo.sigmoid@trl-1.61", "did you mean trl-1.16"),
        ("my_losses:my_dpo_loss=slic.hinge@trl-1.16", "slic.hinge has no convention 'trl-1.16'"),
        ("my_losses:my_dpo_loss", "expected MODULE:FUNCTION=LOSS"),
        ("my_losses:my_dpo_loss=dpo.sigmoid@", "expected MODULE:FUNCTION=LOSS"),
        ("my_losses=dpo.sigmoid", "expected MODULE:FUNCTION=LOSS"),
        ("not_there:f=dpo.sigmoid", "cannot import not_there: ModuleNotFoundError"),
        ("my_losses:NUMBER=dpo.sigmoid", "NUMBER is not callable"),
    ],
)  # fmt: skip
def test_usage_errors(pytester: pytest.Pytester, specification: str, message: str) -> None:
    result = run(pytester, "--prefopt-losses", specification)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str() + result.stdout.str()


def test_a_function_that_takes_nothing_of_the_row_fails(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(others="def f(logits): return logits\ndef g(): return 0\n")
    for name in ("f", "g"):
        result = run(pytester, "--prefopt-losses", f"others:{name}=dpo.sigmoid", "-k", "ordinary")
        result.assert_outcomes(failed=1, deselected=3)


def test_fixtures(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import numpy as np
        from my_losses import my_dpo_loss

        def test_golden(prefopt_golden):
            case = prefopt_golden("dpo.sigmoid", "paper", "ordinary")[0]
            np.testing.assert_allclose(my_dpo_loss(**case.inputs), case.losses, rtol=1e-12)

        def test_match(prefopt_assert_loss_matches):
            assert prefopt_assert_loss_matches(my_dpo_loss, "dpo.sigmoid").cases > 3

        def test_explain(prefopt_explain, prefopt_golden):
            case = prefopt_golden("dpo.hinge", "paper", "ordinary")[0]
            assert prefopt_explain(case.losses.mean(), **case.inputs).matches[0].loss == "dpo.hinge"
        """
    )
    run(pytester).assert_outcomes(passed=3)


def test_other_runs_load_nothing_of_it(pytester: pytest.Pytester) -> None:
    """Neither prefopt nor NumPy, and a broken installation of either does no harm."""
    pytester.makepyfile(
        """
        import sys

        def test_loaded():
            loaded = {name.split(".")[0] for name in sys.modules}
            assert "_prefopt_pytest" in loaded
            assert not loaded & {"prefopt", "numpy", "torch", "jax", "mpmath"}
        """
    )
    result = pytester.runpytest_subprocess("-p", "_prefopt_pytest", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)


def test_a_broken_prefopt_is_a_usage_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pytester.mkdir("shadow")
    (folder / "prefopt").mkdir()
    (folder / "prefopt" / "__init__.py").write_text("raise ImportError('the C core is not built')")
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    name = "my_losses:my_dpo_loss=dpo.sigmoid"
    result = pytester.runpytest_subprocess("-p", "_prefopt_pytest", "--prefopt-losses", name)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "the C core is not built" in result.stderr.str() + result.stdout.str()


def test_the_entry_point_names_the_module() -> None:
    settings = (ROOT / "pyproject.toml").read_text()
    assert '[project.entry-points.pytest11]\nprefopt = "_prefopt_pytest"\n' in settings
    assert 'py-modules = ["_prefopt_pytest"]' in settings
    assert (ROOT / "_prefopt_pytest.py").exists()
