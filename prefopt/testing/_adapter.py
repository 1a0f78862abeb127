"""What a function under test takes, and the call of it with a golden case's inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from prefopt._conventions import Convention
from prefopt._loss_call import nearest
from prefopt._loss_types import LossInfo
from prefopt.testing._golden import GoldenCase

Adapter = Mapping[str, str] | Callable[[dict[str, Any]], dict[str, Any] | None] | None


class Caller:
    """Calls `function` with inputs and parameters by keyword, under the names it has for them.

    `adapter` maps the row's names to the function's, or is itself a function from the row's
    keywords to the function's, None for a case that it cannot take.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        info: LossInfo,
        convention: Convention | None,
        adapter: Adapter,
    ) -> None:
        if not callable(function):
            raise TypeError(f"fn: expected a callable, got {type(function).__name__}")
        self.function = function
        self.info = info
        self.convention = convention
        self.adapter = adapter if callable(adapter) else None
        self.names = dict(adapter) if isinstance(adapter, Mapping) else {}
        known = [*(i.name for i in info.inputs), *(p.name for p in info.parameters)]
        for name in self.names:
            if name not in known:
                raise ValueError(
                    f"adapter: {info.name} has no input or parameter {name!r}; "
                    f"{nearest(name, known)}"
                )
        self.accepted, self.needed = _signature(function)
        theirs = {self.names.get(name, name): name for name in known}
        if self.adapter is None:
            for name in self.needed:
                if name not in theirs:
                    raise TypeError(
                        f"fn: {info.name} has nothing to give to its argument {name!r}; "
                        f"{nearest(name, known)} (adapter= maps names, functools.partial binds "
                        "the rest)"
                    )
        # Row's names that the function cannot do without.
        self.required = tuple(theirs[name] for name in self.needed if name in theirs)

    @property
    def name(self) -> str:
        """What messages call the function."""
        function = getattr(self.function, "func", self.function)  # of a functools.partial
        return str(getattr(function, "__name__", type(function).__name__))

    def arguments(self, case: GoldenCase) -> dict[str, Any] | str:
        """The parameters to give beside the case's inputs, or the name that rules the case out."""
        parameters = dict(case.parameters)
        if self.adapter is not None:
            fits = self.adapter({**case.inputs, **parameters}) is not None
            return parameters if fits else "what the adapter refuses"
        for name in (*case.inputs, *parameters):
            if self.accepted is not None and self.names.get(name, name) not in self.accepted:
                return name
        for name in self.required:
            if name in case.inputs or name in parameters:
                continue
            value = self._default(name, case)
            if value is None:
                return f"no {name}"
            parameters[name] = value
        return parameters

    def call(self, inputs: dict[str, Any], parameters: Mapping[str, Any]) -> Any:
        """What the function returns."""
        given = {**inputs, **parameters}
        if self.adapter is not None:
            return self.function(**(self.adapter(given) or {}))
        return self.function(**{self.names.get(name, name): x for name, x in given.items()})

    def defaults(self) -> dict[str, float]:
        """The numbers that the function's signature has for parameters of the row."""
        found = {}
        for parameter in self.info.parameters:
            value = (self.accepted or {}).get(self.names.get(parameter.name, parameter.name))
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found[parameter.name] = float(value)
        return found

    def _default(self, name: str, case: GoldenCase) -> float | str | None:
        """What the convention has where the parameter is not given."""
        row = next((p for p in self.info.parameters if p.name == name), None)
        if row is None:
            return None
        if self.convention is None:
            return row.default
        numbers = {k: v for k, v in case.parameters.items() if not isinstance(v, str)}
        _, merged = self.convention.apply(dict(case.inputs), numbers)
        return merged.get(name, row.default)


def _signature(function: Callable[..., Any]) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Names with their defaults, None where anything goes, and the names that must be given."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None, ()
    accepted: dict[str, Any] = {}
    needed = []
    anything = False
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            anything = True
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"fn: its argument {name!r} cannot be given by keyword; wrap it")
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            accepted[name] = parameter.default
            if parameter.default is parameter.empty:
                needed.append(name)
    return (None if anything else accepted), tuple(needed)
