"""``python -m prefopt study``: DPO, IPO, KTO and CPO compared end to end on real preference pairs.

NumPy only. The public entry is `main`; docs/study/README.md says what is trained, scored and
written.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study's command line; returns 0, 1 (a worker failed), 2 (bad input) or 130
    (interrupted).
    """
    from .cli import main as run

    return run(argv)


__all__ = ["main"]
