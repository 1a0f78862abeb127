"""Every loss and procedure a second time, typed from its paper, to test prefopt against.

Nothing here imports prefopt or shares a line with it; `oracle.core` says how the formulas are run.
`ORACLES[name]` also says, again independently, what a row takes; a test compares that with
`prefopt.losses()`.
"""

from __future__ import annotations

from oracle import dpo, procedures, reference_free, relatives, singles, tokens
from oracle.core import DIGITS_EXTREME, ORACLES, Oracle, Truth, evaluate

FAMILIES = (dpo, relatives, singles, reference_free, tokens, procedures)

__all__ = ["DIGITS_EXTREME", "FAMILIES", "ORACLES", "Oracle", "Truth", "evaluate"]
