"""linear_token_logps_grad: gradients of every input, recomputed, kept and filtered."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_cases import NEEDS, OPTIONS, Case, relative_error
from oracle.linear import grads as oracle_grads
from support import DTYPES, Dtype, same_results

import prefopt
from prefopt import _core

# Errors in units of each gradient's largest element: the worst of the cases here, times two.
BUDGET = {"float32": 2.3e-6, "float64": 6.1e-15}


def check(case: Case, got: prefopt.LinearGrads, dtype: Any) -> None:
    want = oracle_grads(
        case.head, case.labels, *(case.upstream[f"grad_{k}"] for k in ("logps", "entropy", "lse"))
    )
    for name in NEEDS:
        result = getattr(got, f"grad_{name}")
        if getattr(case, name) is None:
            assert result is None
            continue
        assert result.dtype == dtype
        assert result.shape == getattr(case, name).shape
        assert relative_error(result, want[name]) <= BUDGET[np.dtype(dtype).name], name
    assert (got.grad_hidden[~case.live] == 0).all()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (60, 33, 1100)])
def test_accuracy(
    products: str,
    dtype: Dtype,
    options: str,
    shape: tuple[int, int, int],
) -> None:
    case = Case(*shape, dtype, **OPTIONS[options])
    out = case.forward()
    check(case, case.backward(out.lse, out.entropy), dtype.result)
    kept = case.forward(keep_logits=True).kept
    assert kept.shape == (case.live.sum(), shape[2])
    check(case, case.backward(out.lse, out.entropy, kept=kept), dtype.result)


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 90),
    hidden=st.integers(1, 60),
    vocab=st.integers(1, 900),
    dtype=st.sampled_from(["float16", "bfloat16_raw", "float32", "float64"]),
    options=st.sampled_from(sorted(OPTIONS)),
    limit=st.sampled_from([None, 1 << 19, 1 << 24]),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    needs=st.sets(st.sampled_from(["hidden", "weight", "bias"]), min_size=1),
    seed=st.integers(0, 99),
)
def test_shapes_and_options(
    tokens: int,
    hidden: int,
    vocab: int,
    dtype: str,
    options: str,
    limit: int | None,
    ignored: float,
    needs: set[str],
    seed: int,
) -> None:
    case = Case(
        tokens, hidden, vocab, DTYPES[dtype], seed=seed, ignored=ignored, **OPTIONS[options]
    )
    out = case.forward()
    check(case, case.backward(out.lse, out.entropy, memory_limit=limit), DTYPES[dtype].result)
    if case.bias is None:
        needs -= {"bias"}
    if needs:
        some = case.backward(out.lse, out.entropy, needs=tuple(needs), memory_limit=limit)
        whole = case.backward(out.lse, out.entropy, memory_limit=limit)
        for name in NEEDS:
            part = getattr(some, f"grad_{name}")
            assert (part is None) == (name not in needs)
            if part is not None:
                np.testing.assert_array_equal(part, getattr(whole, f"grad_{name}"))


def test_finite_differences() -> None:
    """Of prefopt's own float64 forward, by every input."""
    case = Case(4, 3, 11, DTYPES["float64"], ignored=0.0, **OPTIONS["all"])
    out = case.forward()
    got = case.backward(out.lse, out.entropy)

    def objective() -> float:
        result = case.forward()
        return sum(
            float((case.upstream[f"grad_{name}"] * getattr(result, name)).sum())
            for name in ("logps", "entropy", "lse")
        )

    for name in NEEDS:
        array, grad = getattr(case, name), getattr(got, f"grad_{name}")
        for index in np.ndindex(array.shape):
            before = array[index]
            array[index] = before + 1e-5
            up = objective()
            array[index] = before - 1e-5
            down = objective()
            array[index] = before
            assert grad[index] == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=2e-9)


def test_frozen_and_trained_agree() -> None:
    """The sweep's gradients by hidden, combined, are the second pass's."""
    case = Case(60, 32, 900, DTYPES["float64"], **OPTIONS["all"])
    out = case.forward(return_grad_hidden=("logps", "lse", "entropy"))
    second = case.backward(out.lse, out.entropy).grad_hidden
    first = (
        case.upstream["grad_logps"][:, None] * out.grad_hidden
        + case.upstream["grad_lse"][:, None] * out.grad_hidden_lse
        + case.upstream["grad_entropy"][:, None] * out.grad_hidden_entropy
    )
    assert relative_error(first, second) <= 1e-14


def test_peaked_rows_keep_their_digits() -> None:
    """A label of probability near 1: p - 1 does not cancel in float32."""
    case = Case(20, 16, 300, scale=30.0, ignored=0.0)
    x = case.head.logits()
    case.labels[:] = x.argmax(axis=-1)
    out = case.forward()
    got = case.backward(
        out.lse.astype(np.float64), None, grad_entropy=None, grad_lse=None, needs=("hidden",)
    )
    want = oracle_grads(
        case.head, case.labels, case.upstream["grad_logps"], np.zeros(20), np.zeros(20)
    )["hidden"]
    assert relative_error(got.grad_hidden, want) <= 2e-4  # lse is a float32's, near 100


# ---- the filter ----------------------------------------------------------------------------------


def filtered(
    case: Case, out: prefopt.TokenLogps, eps: float | None, kept: Any = None
) -> tuple[Any, ...]:
    """_core's tuple, with the counts of entries."""
    return _core.linear_token_logps_grad(
        *(case.hidden, case.weight, case.labels, case.bias, case.lora_a, case.lora_b, None, -100),
        *(1.0, None, 1.0, None, 0, 0, out.lse, out.entropy),
        *(case.upstream["grad_logps"], case.upstream["grad_entropy"], case.upstream["grad_lse"]),
        *(kept, eps, (True,) * 5),
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("kept", [False, True])
def test_filter_leaves_out_improbable_entries(dtype: str, kept: bool) -> None:
    """Those below it for each of a span's 256 tokens, which are no label of theirs."""
    case = Case(300, 8, 2048, DTYPES[dtype], ignored=0.1, bias=True, lora=2)
    case.bias[512:] = -25.0
    case.labels[:40] = np.arange(40) * 17 + 600  # labels among what is left out
    out = case.forward()
    *whole, made, left_out = filtered(case, out, None)
    assert (made, left_out) == (2048, 0)
    logits = case.forward(keep_logits=True).kept if kept else None
    *part, used, gone = filtered(case, out, 1e-6, logits)
    assert used + gone == 2 * 2048
    labels = case.labels[case.live]
    spans = labels[:256], labels[256:]
    assert gone == sum(1536 - np.unique(each[each >= 512]).size for each in spans)
    for exact, approximate in zip(whole, part, strict=True):
        assert relative_error(approximate, exact) <= 2e-5
    *same, _, none = filtered(case, out, 1e-30)
    assert none == 0
    for exact, close in zip(whole, same, strict=True):
        assert relative_error(close, exact) <= 1e-6  # another order of sums


def test_filter_of_everything_keeps_the_labels() -> None:
    """Those of all rows in each row's sum: p = 1 / 5000 of every entry is below 0.01."""
    case = Case(30, 6, 5000, ignored=0.0)
    case.hidden[:] = 0.0
    out = case.forward()
    got = case.backward(
        out.lse,
        None,
        grad_entropy=None,
        grad_lse=None,
        needs=("hidden", "weight"),
        grad_filter=0.01,
    )
    g = case.upstream["grad_logps"][:, None]
    labels = np.unique(case.labels)
    rows = case.weight.astype(np.float64)
    want = g * (rows[case.labels] - rows[labels].sum(axis=0) / 5000)
    np.testing.assert_allclose(got.grad_hidden, want, rtol=2e-6, atol=1e-7)


def test_filter_within_a_small_workspace() -> None:
    """Spans of fewer entries give what one of all gives, but for the order of sums."""
    case = Case(300, 16, 3000, **OPTIONS["all"])
    out = case.forward()
    whole = case.backward(out.lse, out.entropy, grad_filter=1e-4)
    cut = case.backward(out.lse, out.entropy, grad_filter=1e-4, memory_limit=1_200_000)
    for one, other in zip(whole, cut, strict=True):
        assert relative_error(one, other) <= 1e-6


# ---- bits, threads, memory -----------------------------------------------------------------------


def test_same_bits_for_any_thread_count() -> None:
    """Forward, frozen and trained, BLAS and plain loop: 1, 2, 3, 7 threads and again."""
    name = _core.blas_name()
    case = Case(700, 24, 3000, **OPTIONS["all"])
    before = prefopt.get_num_threads()
    for library in {name, ""}:
        _core.blas_load(library or None)
        results = []
        for threads in (1, 2, 3, 7, 2):
            prefopt.set_num_threads(threads)
            out = case.forward(return_grad_hidden=("logps", "lse", "entropy"), topk=4)
            back = case.backward(out.lse, out.entropy)
            kept = case.backward(out.lse, out.entropy, kept=case.forward(keep_logits=True).kept)
            results.append((*out, *back, *kept))
        assert all(same_results(each, results[0]) for each in results[1:])
    prefopt.set_num_threads(before)
    _core.blas_load(name or None)


def test_workspace_stays_under_the_limit() -> None:
    """Peak resident memory beyond inputs and results, in a fresh process, for two limits."""
    from support import run_script

    done = run_script(
        """
        import resource, sys
        import numpy as np
        import prefopt

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

        rng = np.random.default_rng(0)
        hidden = rng.standard_normal((3000, 64), dtype=np.float32)
        weight = rng.standard_normal((20000, 64), dtype=np.float32)
        labels = rng.integers(0, 20000, 3000)
        prefopt.set_num_threads(2)
        small = slice(0, 8)
        out = prefopt.linear_token_logps(hidden[small], weight[:64], labels[small] % 64)
        begin = peak()  # the BLAS has its buffers now
        for limit in (4 << 20, 64 << 20):
            out = prefopt.linear_token_logps(
                hidden, weight, labels, memory_limit=limit, return_grad_hidden=True
            )
            prefopt.linear_token_logps_grad(
                hidden, weight, labels, out.lse, grad_logps=out.logps, memory_limit=limit
            )
            results = 3 * hidden.nbytes + weight.nbytes + 4 * out.logps.nbytes
            print(limit, peak() - begin - results)
        """,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        limit, used = map(int, line.split())
        assert used <= limit + (6 << 20), line  # allocator slack


def test_fork_runs_alone_with_the_same_bits() -> None:
    from support import run_script

    done = run_script(
        """
        import os
        import numpy as np
        import prefopt

        rng = np.random.default_rng(0)
        hidden = rng.standard_normal((600, 32), dtype=np.float32)
        weight = rng.standard_normal((3000, 32), dtype=np.float32)
        labels = rng.integers(0, 3000, 600)
        prefopt.set_num_threads(2)
        run = lambda: prefopt.linear_token_logps(hidden, weight, labels, return_grad_hidden=True)
        before = run()
        pid = os.fork()
        if pid == 0:
            after = run()
            same = all(a is b or np.array_equal(a, b) for a, b in zip(before, after))
            os._exit(0 if same else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    assert done.stdout.strip() == "0", done.stderr


# ---- a split vocabulary --------------------------------------------------------------------------


def test_parts_of_the_vocabulary_merge() -> None:
    """Row states of three parts, merged in order, give the whole; so do the parts' gradients."""
    case = Case(40, 12, 1000, DTYPES["float64"], **OPTIONS["all"])
    out = case.forward(return_grad_hidden=("logps", "lse", "entropy"))
    back = case.backward(out.lse, out.entropy)
    cuts = [0, 100, 640, 1000]
    states, hidden_grad, head_grads = [], np.zeros_like(case.hidden), []
    options = (case.options["logit_scale"], case.options["softcap"], case.options["temperature"])
    for start, stop in itertools.pairwise(cuts):
        part = slice(start, stop)
        inputs = (
            *(case.hidden, case.weight[part], case.labels, case.bias[part], case.lora_a),
            *(case.lora_b[part], None, -100, *options, None, start, 1000),
        )
        results = _core.linear_token_logps(
            *inputs, (False,) * 7, 0, (False,) * 3, True, False, False
        )
        states.append(results[-2])
        upstream = [case.upstream[f"grad_{name}"] for name in ("logps", "entropy", "lse")]
        grads = _core.linear_token_logps_grad(
            *inputs, out.lse, out.entropy, *upstream, None, None, (True,) * 5
        )
        hidden_grad += grads[0]
        head_grads.append(grads[1])
    merged = _core.row_states_finish(np.stack(states), case.labels, -100, True, False)
    for one, name in zip(
        merged,
        ("logps", "lse", "entropy", "correct", "mean_logit", "max_logit", "lse2"),
        strict=True,
    ):
        np.testing.assert_allclose(one, getattr(out, name), rtol=1e-13, atol=1e-14)
    assert relative_error(hidden_grad, back.grad_hidden) <= 1e-13
    assert relative_error(np.concatenate(head_grads), back.grad_weight) <= 1e-13
