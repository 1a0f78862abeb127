"""Write prefopt/data/check_values.json: what `python -m prefopt check` compares with.

    python tools/gen_check_values.py [--check]

Every number comes from mpmath at 50 digits: the token statistics from their definitions. Nothing is
computed by prefopt. --check exits 1 if the file is not what this script would write (CI runs it).
The losses are checked against the golden values (tools/gen_golden.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import mpmath as mp

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "prefopt" / "data" / "check_values.json"

VOCABS = (1, 2, 7, 8, 15, 16, 17, 31, 33, 1000, 4097, 33001)
TEMPERATURES = (1.0, 0.5)


def logit(vocab: int, index: int) -> float:
    """Logit `index` of the test row: eight significant bits, so exact in every dtype there is.

    prefopt/_check.py makes the same rows with NumPy.
    """
    return ((index * 37 + index // 255 * 11 + vocab) % 255 - 127) / 16.0


def token_values(vocab: int, temperature: float) -> dict[str, Any]:
    """The statistics of the row by their definitions."""
    label = vocab * 5 // 7
    with mp.workdps(50):
        counts: dict[float, int] = {}
        for index in range(vocab):
            value = logit(vocab, index)
            counts[value] = counts.get(value, 0) + 1
        x = {value: mp.mpf(value) / mp.mpf(temperature) for value in counts}
        total = mp.fsum(count * mp.exp(x[value]) for value, count in counts.items())
        squares = mp.fsum(count * mp.exp(2 * x[value]) for value, count in counts.items())
        lse = mp.log(total)
        share = {value: mp.exp(x[value] - lse) for value in counts}
        logp = x[logit(vocab, label)] - lse
        entropy = -mp.fsum(
            count * share[value] * (x[value] - lse) for value, count in counts.items()
        )
        mean = mp.fsum(count * x[value] for value, count in counts.items()) / vocab
        return {
            "vocab": vocab,
            "temperature": temperature,
            "label": label,
            "logps": float(logp),
            "lse": float(lse),
            "entropy": float(entropy),
            "mean_logit": float(mean),
            "max_logit": float(max(x.values())),
            "lse2": float(mp.log(squares)),
            # d (logp + entropy / 2) / d logit at the label
            "grad_at_label": float(
                (1 - mp.exp(logp) - mp.exp(logp) * (logp + entropy) / 2) / mp.mpf(temperature)
            ),
        }


def render() -> str:
    values = {
        "about": "made by tools/gen_check_values.py with mpmath; do not edit",
        "tokens": [token_values(vocab, t) for vocab in VOCABS for t in TEMPERATURES],
    }
    return json.dumps(values, indent=1) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write prefopt/data/check_values.json.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    text = render()
    if not arguments.check:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.read_text(encoding="utf-8") == text:
        return 0
    print(f"{TARGET.relative_to(ROOT)} is stale: run tools/gen_check_values.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
