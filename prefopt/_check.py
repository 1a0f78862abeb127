"""``python -m prefopt check``: recompute stored reference values on this machine.

The stored values (data/check_values.json, and for losses the golden values of prefopt.testing) were
made with mpmath from the definitions, not by prefopt. Each usable ISA row recomputes the token
statistics in every dtype, one and several threads must agree bit for bit, and every loss is
recomputed with its gradients under every convention. A figure in the table is the worst error over
its cases in units in the last place of the result, for losses at its condition scale; it may not
exceed LIMITS.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import prefopt
from prefopt import reference, testing

Array = NDArray[Any]

STATS = ("entropy", "correct", "mean_logit", "max_logit", "lse2")
COMPARED = ("logps", "lse", "entropy", "mean_logit", "max_logit", "lse2")

# Twice the worst measured over all rows and dtypes: 1.0 (float64 lse), 1.2 (float32 gradient).
TOKEN_LIMIT = 2.0
GRAD_LIMIT = 2.4


class Case(NamedTuple):
    """One comparison: the worst error in ulp, and how much is allowed."""

    group: str
    name: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return bool(self.error <= self.limit)


def test_row(vocab: int) -> Array:
    """The row of logits that data/check_values.json is about: exact in every dtype. [vocab]
    float64.
    """
    index = np.arange(vocab)
    return ((index * 37 + index // 255 * 11 + vocab) % 255 - 127) / 16.0


def encode(values: Array, dtype: str) -> tuple[Array, str | None]:
    """values in dtype, and the `dtype=` argument that says so (bfloat16 as raw uint16)."""
    if dtype != "bfloat16":
        return values.astype(dtype), None
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16), "bfloat16"


def decode(values: Array, dtype: str) -> Array:
    """float64 of values."""
    if dtype != "bfloat16":
        return values.astype(np.float64)
    return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def error_in_ulps(got: Any, want: Any, dtype: Any, floor: float = 1.0) -> float:
    """Worst |got - want| in spacings of dtype at max(|want|, floor); inf where one is NaN alone."""
    actual = np.asarray(got, np.float64)
    wanted = np.asarray(want, np.float64)
    if np.any(np.isnan(actual) != np.isnan(wanted)):
        return float("inf")
    size = np.maximum(np.abs(wanted), floor).astype(dtype)
    distance = np.abs(actual - wanted) / np.spacing(size).astype(np.float64)
    return float(np.max(distance, initial=0.0))


def check_tokens(isa: str, dtype: str, stored: list[dict[str, Any]]) -> Iterator[Case]:
    """token_logps and its gradient in one row and dtype."""
    result = np.float64 if dtype == "float64" else np.float32
    worst = dict.fromkeys(COMPARED, 0.0)
    worst_grad = 0.0
    all_correct = True
    for case in stored:
        row = test_row(case["vocab"])
        logits, keyword = encode(row, dtype)
        labels = np.array([case["label"], -100])
        both = np.stack([logits, logits])
        out = prefopt.token_logps(
            both, labels, dtype=keyword, temperature=case["temperature"], stats=STATS
        )
        for name in COMPARED:
            values = getattr(out, name)
            ignored = 0.0 if values[1] == 0 else float("inf")
            # x = logits / temperature is rounded where it enters, so errors are in its ulps.
            floor = max(1.0, abs(case["max_logit"]))
            error = error_in_ulps(values[0], case[name], result, floor)
            worst[name] = max(worst[name], error, ignored)
        assert out.correct is not None
        all_correct &= bool(out.correct[0]) == (int(np.argmax(row)) == case["label"])
        worst_grad = max(worst_grad, _grad_error(both, labels, case, dtype, keyword, out))
    for name in COMPARED:
        yield Case(f"token_logps {dtype} {isa}", name, worst[name], TOKEN_LIMIT)
    yield Case(f"token_logps {dtype} {isa}", "correct", 0.0 if all_correct else float("inf"), 0.0)
    yield Case(f"token_logps_grad {dtype} {isa}", "logps + entropy / 2", worst_grad, GRAD_LIMIT)


def _grad_error(
    both: Array, labels: Array, case: dict[str, Any], dtype: str, keyword: str | None, out: Any
) -> float:
    """Error of d (logp + entropy / 2) / d logits: the label against the stored value, all against
    prefopt.reference.
    """
    grad = prefopt.token_logps_grad(
        both,
        labels,
        out.lse,
        grad_logps=np.ones(2, np.float32),
        grad_entropy=np.full(2, 0.5, np.float32),
        entropy=out.entropy,
        dtype=keyword,
        temperature=case["temperature"],
    )
    got = decode(grad, dtype)
    exact = np.stack([test_row(case["vocab"])] * 2)
    truth = reference.token_logps(
        exact, labels, temperature=case["temperature"], stats=("entropy",)
    )
    want = reference.token_logps_grad(
        exact,
        labels,
        truth.lse,
        grad_logps=np.ones(2),
        grad_entropy=np.full(2, 0.5),
        entropy=truth.entropy,
        temperature=case["temperature"],
    )
    # bfloat16 has no spacing in NumPy: 2^-7 relative, as float32 has 2^-23. Compared in float32's
    # ulps after that rounding is taken off.
    rounding = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(dtype, 0.0)
    smallest = {"float16": 2.0**-24}.get(dtype, 0.0)
    result = np.float64 if dtype == "float64" else np.float32
    spacing = float(np.spacing(result(max(1.0, abs(case["max_logit"]), abs(case["lse"])))))
    allowance = np.abs(want) * rounding + smallest / 2
    excess = np.maximum(np.abs(got - want) - allowance, 0.0)
    at_label = abs(got[0, case["label"]] - case["grad_at_label"]) - allowance[0, case["label"]]
    return float(max(excess.max(), at_label, 0.0) / spacing)


def check_threads(isa: str) -> Iterator[Case]:
    """One, two and three threads give the same bits."""
    rows = np.stack([np.roll(test_row(40009), 7 * shift) for shift in range(4)]).astype(np.float32)
    labels = np.arange(4)
    before = prefopt.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            prefopt.set_num_threads(threads)
            results.append(prefopt.token_logps(rows, labels, stats=("entropy",)))
    finally:
        prefopt.set_num_threads(before)
    first = results[0]
    same = all(
        np.array_equal(getattr(other, name).view(np.uint32), getattr(first, name).view(np.uint32))
        for other in results[1:]
        for name in ("logps", "lse", "entropy")
    )
    yield Case(f"threads {isa}", "same bits for 1, 2, 3", 0.0 if same else float("inf"), 0.0)


def check_same_bits(rows: tuple[str, ...]) -> Iterator[Case]:
    """Every row of the list gives the bits of the first."""
    logits = np.stack([np.roll(test_row(33001), 11 * shift) for shift in range(2)])
    labels = np.array([5, 33000])
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        values, keyword = encode(logits, dtype)
        outputs = []
        for isa in rows:
            with prefopt.using_isa(isa):
                out = prefopt.token_logps(values, labels, dtype=keyword, stats=STATS)
                outputs.append(b"".join(np.asarray(item).tobytes() for item in out))
        same = all(item == outputs[0] for item in outputs)
        yield Case("rows agree", f"{dtype}: {', '.join(rows)}", 0.0 if same else float("inf"), 0.0)


def check_sequences() -> Iterator[Case]:
    """sequence_logps against prefopt.reference: sum and average, padded and packed."""
    logps = -np.abs(test_row(5 * 64)).reshape(5, 64)
    mask = np.arange(64) < np.array([[64], [1], [0], [33], [7]])
    ends = np.array([0, 64, 65, 65, 200, 320])
    for dtype in (np.float32, np.float64):
        values = logps.astype(dtype)
        worst = 0.0
        for average in (False, True):
            got = prefopt.sequence_logps(values, mask, average=average)
            want = reference.sequence_logps(logps, mask, average=average)
            worst = max(worst, error_in_ulps(got, want, dtype))
            packed = prefopt.sequence_logps(values.ravel(), cu_seqlens=ends, average=average)
            exact = reference.sequence_logps(logps.ravel(), cu_seqlens=ends, average=average)
            worst = max(worst, error_in_ulps(packed, exact, dtype))
        yield Case("sequence_logps", np.dtype(dtype).name, worst, 1.0)


def check_losses() -> Iterator[Case]:
    """Every row of the loss list under every convention: losses, rewards and gradients, outputs of
    procedures. A row without golden values fails.
    """
    worst: dict[str, dict[str, float]] = {info.name: {} for info in prefopt.losses()}
    for case in testing.golden():
        options: dict[str, Any] = {}
        if case.losses.size:
            convention = None if case.convention == "default" else case.convention
            options = {"return_grads": True, "convention": convention}
        errors = worst.setdefault(case.loss, {})
        try:
            result = prefopt.loss(case.loss, **case.inputs, **case.parameters, **options)
        except ValueError as problem:
            errors[f"raised {problem}"] = float("inf")
            continue
        for name, error in case.errors(result).items():
            errors[name] = max(errors.get(name, 0.0), error)
    for loss, errors in worst.items():
        if not errors:
            yield Case(f"loss {loss}", "no golden value", float("inf"), 0.0)
        for name, error in errors.items():
            yield Case(f"loss {loss}", name, error, testing.ULPS)


def collect(report: Callable[[Case], None] | None = None) -> list[Case]:
    """Run every check; report is called with each case as it is done."""
    text = (resources.files("prefopt") / "data" / "check_values.json").read_text(encoding="utf-8")
    stored = json.loads(text)
    rows = prefopt.isas()
    cases: list[Case] = []

    def take(found: Iterator[Case]) -> None:
        for case in found:
            cases.append(case)
            if report is not None:
                report(case)

    for isa in rows:
        with prefopt.using_isa(isa):
            for dtype in ("float16", "bfloat16", "float32", "float64"):
                take(check_tokens(isa, dtype, stored["tokens"]))
            take(check_threads(isa))
    take(check_same_bits(rows))
    take(check_sequences())
    take(check_losses())
    return cases


def _table(cases: list[Case], verbose: bool) -> Iterator[str]:
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    yield f"{'check':<34}{'cases':>6}{'worst error / ulp':>20}{'allowed':>9}"
    for group, members in groups.items():
        failed = [case for case in members if not case.passed]
        shown = max(members, key=lambda case: case.error)
        line = f"{group:<34}{len(members):>6}{shown.error:>20.2f}{shown.limit:>9.1f}"
        yield line + ("" if not failed else "   FAILED: " + ", ".join(c.name for c in failed))
        if verbose:
            for case in members:
                yield f"    {case.name:<30}{'':>6}{case.error:>20.3f}{case.limit:>9.1f}"


def run(*, as_json: bool, verbose: bool) -> int:
    """Print the table (or JSON). Returns 0, or 1 if a value is off."""
    begin = time.perf_counter()
    cases = collect()
    seconds = time.perf_counter() - begin
    failed = [case for case in cases if not case.passed]
    if as_json:
        payload = {
            "prefopt": prefopt.__version__,
            "rows": list(prefopt.isas()),
            "passed": not failed,
            "cases": [
                {**case._asdict(), "error": _finite(case.error), "passed": case.passed}
                for case in cases
            ],
        }
        json.dump(payload, sys.stdout, indent=1)
        print()
    else:
        print("\n".join(_table(cases, verbose)))
        verdict = "all as stored" if not failed else f"{len(failed)} of {len(cases)} OFF"
        print(f"{len(cases)} checks in {seconds:.1f} s: {verdict}")
    return 1 if failed else 0


def _finite(value: float) -> float | str:
    """JSON has no infinity."""
    return value if np.isfinite(value) else "inf"
