"""Write the golden values: prefopt/testing/golden/golden-1.json.

    python tools/gen_golden.py [--check] [--loss TEXT]

Every number comes from tests/oracle (typed from the papers and the projects' code) at 80 digits or
more, by mpmath of the pinned version; nothing is computed by prefopt. --check exits 1 if the file
is not what this script would write. Published values never change: another schema version gets
another file, and tests/test_golden.py holds the sha256 of each. --loss prints the cases of the
losses whose name holds the text.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import mpmath as mp
from oracle.cases import cases, conventions
from oracle.conventions import evaluate_as
from oracle.core import LARGEST_EXPONENT
from oracle.dual import to_mpf
from oracle.losses import ORACLES

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "prefopt" / "testing" / "golden"
SCHEMA = 1
DIGITS = 30
MPMATH = "1.3.0"
FLAGS = ("keep", "accepted")  # outputs that are true or false
WHOLE = ("chosen_indices", "rejected_indices", "steps")


def text(value: Any) -> str:
    """The number rounded to 30 significant digits, without trailing zeros."""
    with mp.workdps(DIGITS + 30):
        number = to_mpf(value)
        if mp.isnan(number) or mp.isinf(number) or number == 0:
            return str(float(number)).removesuffix(".0")
        power = mp.floor(mp.log10(abs(number)))
        if abs(power) > LARGEST_EXPONENT:
            return "0" if power < 0 else "inf" if number > 0 else "-inf"
        exponent = int(power)
        whole = str(int(mp.nint(abs(number) * mp.mpf(10) ** (DIGITS - 1 - exponent))))
    exponent += len(whole) - DIGITS  # where rounding made 10 of 9.99...
    sign, digits = "-" if number < 0 else "", whole.rstrip("0")
    if exponent < -6 or exponent >= DIGITS:
        return f"{sign}{digits[0]}.{digits[1:] or '0'}e{exponent}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    digits = digits.ljust(exponent + 1, "0")
    return f"{sign}{digits[: exponent + 1]}.{digits[exponent + 1 :]}".removesuffix(".")


def scale_of(value: Any) -> float | str:
    """A scale with two digits, rounded up."""
    with mp.workdps(20):
        number = to_mpf(value) * mp.mpf(1.05)
        if not mp.isfinite(number) or number > 1.7e308:
            return "inf"
        return float(mp.nstr(number, 2)) if number > 1e-305 else 0.0


def nested(values: Any, function: Any) -> Any:
    return [nested(v, function) for v in values] if isinstance(values, list) else function(values)


def number_of(value: Any) -> Any:
    """Inputs and parameters as JSON takes them."""
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return value


def outputs(named: dict[str, Any]) -> dict[str, Any]:
    kinds = {**dict.fromkeys(FLAGS, bool), **dict.fromkeys(WHOLE, int)}
    return {key: nested(value, kinds.get(key, text)) for key, value in named.items()}


def golden_cases(wanted: str = "") -> Iterator[dict[str, Any]]:
    """Every case, in the order of the list."""
    for loss, oracle in ORACLES.items():
        if wanted not in loss:
            continue
        for convention in conventions(loss):
            for kind, inputs, params in cases(loss, convention):
                truth = evaluate_as(loss, convention, inputs, params, scales=True)
                sizes = truth.scales or {}
                names = [*(() if oracle.is_procedure else ("losses",)), *truth.rewards]
                scales = {key: nested(sizes[key], scale_of) for key in names}
                scales |= {k: nested(sizes[f"grad {k}"], scale_of) for k in truth.grads}
                yield {
                    "loss": loss,
                    "convention": convention,
                    "set": kind,
                    "inputs": nested_dict(inputs),
                    "parameters": nested_dict(params),
                    "losses": nested(truth.losses, text),
                    "rewards": outputs(truth.rewards),
                    "grads": {k: nested(v, text) for k, v in truth.grads.items()},
                    "scales": scales,
                }


def nested_dict(values: dict[str, Any]) -> dict[str, Any]:
    return {key: nested(value, number_of) for key, value in values.items()}


def render(wanted: str = "") -> str:
    """The whole file: one case a line."""
    head = json.dumps({"schema": SCHEMA, "mpmath": MPMATH, "digits": DIGITS})
    lines = [json.dumps(case, separators=(",", ":")) for case in golden_cases(wanted)]
    return head[:-1] + ', "cases": [\n' + ",\n".join(lines) + "\n]}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the golden values.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--loss", default="", help="print the cases of these losses instead")
    arguments = parser.parse_args()
    assert mp.__version__ == MPMATH, f"mpmath {MPMATH} is pinned, found {mp.__version__}"
    made = render(arguments.loss)
    if arguments.loss:
        print(made, end="")
        return 0
    target = FOLDER / f"golden-{SCHEMA}.json"
    if not arguments.check:
        target.write_text(made, encoding="utf-8")
        return 0
    if target.read_text(encoding="utf-8") == made:
        return 0
    print(f"{target.relative_to(ROOT)} is not what tools/gen_golden.py writes")
    return 1


if __name__ == "__main__":
    sys.exit(main())
