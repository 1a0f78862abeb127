"""The CUDA library's fused linear op on a few rows: what a thread sanitizer can run, to which every
thread of every block is a thread of its own.
"""

from __future__ import annotations

import numpy as np
import pytest
from cuda_linear_cases import backward, forward
from linear_cases import Case, relative_error
from oracle import logps as oracle
from oracle.linear import grads
from support import DTYPES

LIMIT = 4 * 9 * 9  # bytes: spans of eight rows


@pytest.mark.parametrize("num_tokens", [0, 3])
def test_a_few_rows(num_tokens: int) -> None:
    case = Case(4, 5, 40, DTYPES["bfloat16"], ignored=0.0, lora=2, softcap=5.0)
    case.labels[1] = -100
    limits = {"memory_limit": 4 * 24 * 12, "num_tokens": num_tokens}
    got = forward(case, topk=2, **limits)
    back = backward(case, got["lse"], got["entropy"], **limits)
    want = grads(case.head, case.labels, *case.upstream.values())
    for name in ("lora_a", "lora_b"):
        assert relative_error(back[name], want[name]) <= 1.8e-6
    assert np.isfinite(got["grad_hidden_entropy"]).all()


def test_rows_in_several_spans_read_in_place() -> None:
    """Eight rows and the three that remain, behind which there is nothing to read."""
    case = Case(11, 8, 40, ignored=0.0)
    got = forward(case, outputs=("logps", "lse", "entropy"), memory_limit=LIMIT)
    want = oracle.token_stats(case.head.logits(), case.labels, precision=np.longdouble)
    np.testing.assert_allclose(got["logps"], want.logps, rtol=0, atol=4.2e-6)
    back = backward(case, got["lse"], got["entropy"], memory_limit=LIMIT)
    exact = grads(case.head, case.labels, *case.upstream.values())
    for name in ("hidden", "weight"):
        assert relative_error(back[name], exact[name]) <= 1e-6
