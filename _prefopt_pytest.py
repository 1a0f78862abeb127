"""pytest plugin: `pytest --prefopt-losses mymodule:my_dpo_loss=dpo.sigmoid@trl-1.16`, and fixtures.

pytest imports this module in every run on a machine where prefopt is installed. It stands outside
the package for that reason: importing `prefopt` would load NumPy and the C core, and a fault there
would stop test runs that have nothing to do with it. prefopt itself is imported only when the
option or a fixture is used.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

OPTION = "--prefopt-losses"
FORM = "MODULE:FUNCTION=LOSS[@CONVENTION]"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("prefopt", "losses against published reference values")
    group.addoption(
        OPTION,
        action="append",
        default=[],
        metavar=FORM,
        help="test a loss function against prefopt's golden values, one test a set of cases; "
        "may be repeated",
    )
    group.addoption(
        "--prefopt-rtol",
        type=float,
        default=None,
        metavar="RTOL",
        help="how far a value may be off, as a share of what went into it (default: by dtype)",
    )


@pytest.hookimpl(tryfirst=True)  # so that -k and -m see the items
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    for specification in session.config.getoption(OPTION):
        collector = LossCollector.from_parent(
            session, name=specification, path=session.path, nodeid=specification
        )
        found: list[pytest.Item | pytest.Collector] = list(collector.collect())
        report = pytest.CollectReport(specification, "passed", None, found)
        session.ihook.pytest_collectreport(report=report)  # so that they are counted
        items.extend(item for item in found if isinstance(item, pytest.Item))


class LossCollector(pytest.Collector):
    """One function and the loss that it should be."""

    def collect(self) -> Iterator[LossItem]:
        target, loss, convention = _parse(self.name)
        sets = _published_sets(self.name, loss, convention)
        function = _load(self.name, target, self.config.invocation_params.dir)
        rtol = self.config.getoption("--prefopt-rtol")
        for each in sets:
            yield LossItem.from_parent(
                self,
                name=each,
                function=function,
                loss=loss,
                options={"convention": convention, "sets": each, "rtol": rtol},
            )


class LossItem(pytest.Item):
    """The cases of one set."""

    def __init__(
        self, *, function: Callable[..., Any], loss: str, options: dict[str, Any], **node: Any
    ) -> None:
        super().__init__(**node)
        self.function = function
        self.loss = loss
        self.options = options

    def runtest(self) -> None:
        from prefopt.testing import NoCaseFits, assert_loss_matches

        try:
            report = assert_loss_matches(self.function, self.loss, **self.options)
        except NoCaseFits as error:
            # Every row has plain ordinary cases: without one nothing would be tested.
            if self.name == "ordinary":
                raise
            pytest.skip(str(error))
        self.add_report_section("call", "prefopt", str(report))

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        if isinstance(excinfo.value, (AssertionError, TypeError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"{self.name} cases of {self.loss}"


# ---- the specification ---------------------------------------------------------------------------


def _parse(specification: str) -> tuple[str, str, str | None]:
    target, sign, known = specification.partition("=")
    loss, at, convention = known.partition("@")
    module, colon, function = target.partition(":")
    if not (sign and colon and module and function and loss and (convention or not at)):
        raise pytest.UsageError(f"{OPTION}: expected {FORM}, got {specification!r}")
    return target, loss, convention or None


def _published_sets(specification: str, loss: str, convention: str | None) -> list[str]:
    """The sets that have cases; errors of unknown names come here, before anything runs."""
    try:
        from prefopt.testing import published_sets

        return list(published_sets(loss, convention))
    except (ImportError, ValueError) as error:
        raise pytest.UsageError(f"{OPTION} {specification}: {error}") from None


def _load(specification: str, target: str, folder: Path) -> Callable[..., Any]:
    module_name, _, path = target.partition(":")
    if str(folder) not in sys.path:  # as `python -m pytest` has it
        sys.path.insert(0, str(folder))
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        text = f"cannot import {module_name}: {type(error).__name__}: {error}"
        raise pytest.UsageError(f"{OPTION} {specification}: {text}") from None
    for name in path.split("."):
        if not hasattr(found, name):
            text = f"{getattr(found, '__name__', module_name)} has no {name!r}"
            raise pytest.UsageError(f"{OPTION} {specification}: {text}{_near(name, found)}")
        found = getattr(found, name)
    if not callable(found):
        raise pytest.UsageError(f"{OPTION} {specification}: {path} is not callable")
    return found  # type: ignore[no-any-return]


def _near(name: str, owner: Any) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, dir(owner), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


# ---- fixtures ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def prefopt_golden() -> Any:
    """`prefopt.testing.golden`: published reference values by loss, convention and set."""
    from prefopt.testing import golden

    return golden


@pytest.fixture(scope="session")
def prefopt_assert_loss_matches() -> Any:
    """`prefopt.testing.assert_loss_matches`."""
    from prefopt.testing import assert_loss_matches

    return assert_loss_matches


@pytest.fixture(scope="session")
def prefopt_explain() -> Any:
    """`prefopt.testing.explain`."""
    from prefopt.testing import explain

    return explain
