"""Tests of loss code against published reference values: prefopt's own code and anyone's.

`golden()` gives the values, `assert_loss_matches(fn, "dpo.sigmoid", convention="trl-1.16")` tests a
function of NumPy arrays, torch tensors or JAX arrays against them, and `explain(0.6931, ...)` says
which loss and convention gave a number. `pytest --prefopt-losses module:function=dpo.sigmoid` runs
the same test from the command line.

    for case in golden("dpo.sigmoid", "trl-1.16"):
        losses = my_dpo_loss(**case.inputs, **case.parameters)
        np.testing.assert_allclose(losses, case.losses, rtol=0, atol=ULPS * case.ulps("losses"))

Importing this module imports NumPy and nothing else that is not prefopt's.
"""

from __future__ import annotations

from prefopt.testing._cases import NoCaseFits, published_sets
from prefopt.testing._explain import Explanation, explain
from prefopt.testing._golden import SETS, ULPS, GoldenCase, golden
from prefopt.testing._match import MatchReport, assert_loss_matches
from prefopt.testing._search import Finding

__all__ = [
    "SETS",
    "ULPS",
    "Explanation",
    "Finding",
    "GoldenCase",
    "MatchReport",
    "NoCaseFits",
    "assert_loss_matches",
    "explain",
    "golden",
    "published_sets",
]
