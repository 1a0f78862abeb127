"""`assert_loss_matches`: a function against the golden values of a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import prefopt
from prefopt._loss_call import find
from prefopt.testing import _backends
from prefopt.testing._adapter import Adapter, Caller
from prefopt.testing._backends import Outcome
from prefopt.testing._cases import Fitting, derived_cases, fitting_cases, published_cases, take_word
from prefopt.testing._compare import DIFFERENCES, TOLERANCES, Mismatch, Wanted, compare, wanted_of
from prefopt.testing._describe import show_case, show_findings
from prefopt.testing._golden import SETS, GoldenCase
from prefopt.testing._search import DEFAULT, Run, identify

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class MatchReport:
    """What was compared.

    `derived` of the `cases` set a parameter that no published one sets; their values are prefopt's.
    `left_out` counts the published cases left out, by what the function does not take; `worst` is
    the worst error as a share of the allowed one.
    """

    loss: str
    convention: str
    backend: str
    cases: int
    derived: int
    left_out: Mapping[str, int]
    worst: float

    def __str__(self) -> str:
        text = f"{self.cases} cases of {self.loss}@{self.convention} agree ({self.backend})"
        left = ", ".join(f"{count} with {name}" for name, count in self.left_out.items())
        return f"{text}; left out: {left}" if left else text


def assert_loss_matches(
    fn: Callable[..., Any],
    loss: str,
    *,
    convention: str | None = None,
    adapter: Adapter = None,
    backend: str | None = None,
    gradients: bool = True,
    rewards: bool = False,
    sets: Iterable[str] = SETS,
    dtype: str | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> MatchReport:
    """Raises AssertionError unless `fn` gives the golden values of `loss` under `convention`.

    `fn` is called with the row's inputs and parameters by keyword (`prefopt.losses()` lists them):
    all inputs of the case, and the parameters that it sets; the others have the convention's
    defaults, which `fn` must have too or require. Cases with an input or a parameter that `fn` does
    not take are left out, and counted in the report that is returned; a parameter that it takes and
    that no case left sets is tried against prefopt's own value. `adapter` maps the row's
    names to those of `fn`, or is a function from one dict of keywords to the other (None leaves the
    case out). `fn` returns the losses or a tuple that starts with them; a scalar is compared with
    their mean. With `rewards=True` the rest of the tuple is compared with the rewards.

    `backend` is "numpy", "torch" or "jax", by default that of the names which the code of `fn`
    uses. Gradients by every differentiable input come from autograd, for NumPy from finite
    differences (in float64, and not at kinks). `sets` picks "ordinary", "extreme", "edge" and
    "kink" cases. `dtype` is that of the real inputs: float64 (for JAX without its 64-bit mode
    float32). A number may be off by `atol` + `rtol` * scale, the scale being the size of the
    numbers that went into it; by default 1e-14 and 1e-12 in float64, 1e-6 and 1e-5 in float32.

    The AssertionError shows the case, got and expected, and says which known loss and convention
    `fn` does agree with. Unknown names raise ValueError with the nearest valid ones.
    """
    info = find(loss, "name")
    chosen, published = published_cases(info, convention, sets)
    backend = take_word("backend", backend or _backends.detect(fn), _backends.BACKENDS)
    dtype = _backends.take_dtype(backend, dtype)
    caller = Caller(fn, info, chosen, adapter)
    kept, left_out = fitting_cases(caller, published)
    derived = derived_cases(caller, kept)
    kept += derived
    test = _Test(caller, backend, dtype, gradients, rewards, rtol, atol)
    name = DEFAULT if chosen is None else chosen.name
    worst = 0.0
    for number, (case, parameters) in enumerate(kept, 1):
        error, mismatch = test.compare(case, parameters)
        worst = max(worst, error)
        if mismatch is not None:
            title = f"{caller.name} does not match {loss}@{name} in {mismatch.name}"
            lines = [f"{title} (case {number} of {len(kept)}, {case.set})"]
            lines += show_case({**case.inputs, **parameters}, mismatch)
            lines += test.what_it_is(mismatch, kept)
            raise AssertionError("\n".join(lines))
    return MatchReport(loss, name, backend, len(kept), len(derived), left_out, worst)


@dataclass(frozen=True)
class _Test:
    """Compares one case at a time."""

    caller: Caller
    backend: str
    dtype: str
    gradients: bool
    rewards: bool
    rtol: float | None
    atol: float | None

    def run(self, case: GoldenCase, parameters: Mapping[str, Any], grads: bool) -> Outcome:
        with np.errstate(all="ignore"):
            return _backends.evaluate(
                self.backend,
                lambda inputs: self.caller.call(inputs, parameters),
                case.inputs,
                self.dtype,
                tuple(case.grads) if grads else (),
            )

    def compare(
        self, case: GoldenCase, parameters: Mapping[str, Any]
    ) -> tuple[float, Mismatch | None]:
        """The worst error as a share of what is allowed, and the first mismatch."""
        # Differences of float32 numbers would only show their rounding.
        grads = self.gradients and (self.backend != "numpy" or self.dtype == "float64")
        try:
            outcome = self.run(case, parameters, grads)
        except Exception as error:
            return np.inf, Mismatch.of_call(f"raised {type(error).__name__}: {error}")
        wanted = wanted_of(case, self.rewards)
        if len(outcome.outputs) < len(wanted):
            names = ", ".join(each.name for each in wanted)
            return np.inf, Mismatch.of_call(f"returned {len(outcome.outputs)} arrays, not {names}")
        tolerance = self.tolerance(outcome.outputs[0])
        checks = [
            (got, want, *tolerance) for got, want in zip(outcome.outputs, wanted, strict=False)
        ]
        worst = 0.0
        for got, want, rtol, atol in (*checks, *self.gradient_checks(case, outcome, *tolerance)):
            share, mismatch = compare(got, want, rtol, atol, self.dtype)
            worst = max(worst, share)
            if mismatch is not None:
                return worst, mismatch
        return worst, None

    def gradient_checks(
        self, case: GoldenCase, outcome: Outcome, rtol: float, atol: float
    ) -> Iterator[tuple[Array, Wanted, float, Any]]:
        # The golden gradients are those of the sum.
        count = 1 if outcome.outputs[0].ndim else max(case.losses.size, 1)
        for name, grad in (outcome.grads or {}).items():
            want = Wanted(f"gradient by {name}", case.grads[name], case.scales[name])
            got = np.asarray(grad, np.float64) * count
            if self.backend == "numpy":
                got = np.where(self.has_difference(case, name), got, want.value)
                yield got, want, DIFFERENCES, outcome.noise[name] * count
            else:
                yield got, want, rtol, atol

    def has_difference(self, case: GoldenCase, name: str) -> Array:
        """Where finite differences can give the derivative, which is where prefopt's own do.

        Not at kinks and poles, and not where the loss takes a part of itself as a constant.
        """
        convention = self.caller.convention
        given = {**case.parameters, "convention": convention and convention.name}
        own = _backends.evaluate(
            "numpy",
            lambda inputs: prefopt.loss(case.loss, **inputs, **given),
            case.inputs,
            self.dtype,
            (name,),
        )
        assert own.grads is not None
        with np.errstate(invalid="ignore"):
            error = np.abs(own.grads[name] - case.grads[name])
            scale = np.minimum(case.scales[name], np.finfo(np.float64).max)
            return np.asarray(error <= own.noise[name] + DIFFERENCES * scale)

    def tolerance(self, losses: Array) -> tuple[float, float]:
        """rtol and atol: as given, or of the narrower of the two dtypes."""
        kinds = (self.dtype, str(losses.dtype))
        rtol, atol = max(TOLERANCES[kind] for kind in kinds if kind in TOLERANCES)
        return (
            rtol if self.rtol is None else self.rtol,
            atol if self.atol is None else self.atol,
        )

    def what_it_is(self, mismatch: Mismatch, kept: list[Fitting]) -> list[str]:
        """Which known loss the function agrees with on all ordinary cases."""
        if mismatch.name.startswith("gradient"):
            return ["The losses of this case agree, the derivative does not."]
        ordinary = [fitting for fitting in kept if fitting[0].set == "ordinary"]
        if mismatch.is_call or not ordinary or not ordinary[0][0].losses.size:
            return []
        runs = []
        for case, parameters in ordinary:
            try:
                losses = self.run(case, parameters, grads=False).outputs[0]
            except Exception as error:
                return [f"Another ordinary case raised {type(error).__name__}: {error}"]
            runs.append(Run({**case.inputs, **parameters}, losses.astype(np.float64)))
        rtol, _ = self.tolerance(losses)
        found = identify(runs, max(rtol, 1e-9), self.caller.defaults())
        return show_findings(found, self.caller.info.name, len(runs))
