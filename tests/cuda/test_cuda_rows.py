"""token_logps, pair_token_stats and their gradients of the CUDA library against float64."""

from __future__ import annotations

from typing import Any

import cuda_device as device
import numpy as np
import pytest
from oracle import logps as oracle
from support import DTYPES

import prefopt
from prefopt import _cuda
from prefopt._cuda_abi import (
    PairTokenStatsArgs,
    PairTokenStatsGradArgs,
    TokenLogpsArgs,
    TokenLogpsGradArgs,
)

KINDS = ("float16", "bfloat16_raw", "float32", "float64")
OUTPUTS = ("logps", "lse", "entropy", "correct", "mean_logit", "max_logit", "lse2")
PAIR_OUTPUTS = (
    *("policy_logps", "ref_logps", "policy_lse", "ref_lse"),
    *("ref_policy_kl", "policy_ref_kl", "plus_logps", "minus_logps"),
)
# One element; less and more than 16 bytes; a warp's rows, whose limit is 4 KB, and a block's; a row
# of several blocks.
VOCABULARIES = (
    (7, 700, 2100) if device.SMALL else (1, 2, 7, 8, 9, 33, 1003, 2047, 2049, 5000, 50257)
)
# Twice the worst measured, in the source run and in that of sm_90's PTX; results are below 40 here.
LIMITS = {"float64": 1.4e-14}
LIMIT = 3.9e-6
PAIR_LIMIT = 2.5e-6
# Of gradients, relative: twice the rounding to the dtype. Of an entry's own error, absolute.
STEPS = {"float16": 2**-10, "bfloat16_raw": 2**-7, "float32": 0.0, "float64": 0.0}


def make(kind: str, rows: int, vocab: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = DTYPES[kind].make(rng.normal(0, 4, (rows, vocab)))
    labels = rng.integers(0, vocab, rows)
    labels[rows // 2] = -100
    return logits, labels


def token_logps(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0, **options: Any
) -> dict[str, np.ndarray]:
    """Every output, in memory full of NaN."""
    wide = np.float64 if logits.dtype == np.float64 else np.float32
    dtypes: dict[str, Any] = {"lse": np.float64, "correct": np.bool_}
    out = {
        name: np.full(labels.shape, np.nan).astype(dtypes.get(name, wide))
        for name in options.get("outputs", OUTPUTS)
    }
    args = TokenLogpsArgs(ignore_index=-100, temperature=temperature)
    device.run("pfo_cuda_token_logps", args, logits=logits, labels=labels, **out)
    return out


def grad(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0, **vectors: Any
) -> np.ndarray:
    out = vectors.pop("out", None)
    if out is None:
        out = np.full(logits.shape, 0x7FC0).astype(logits.dtype)
    args = TokenLogpsGradArgs(ignore_index=-100, temperature=temperature)
    device.run("pfo_cuda_token_logps_grad", args, logits=logits, labels=labels, out=out, **vectors)
    return out


def close(got: np.ndarray, want: np.ndarray, kind: str, limit: float = LIMIT) -> None:
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=0, atol=LIMITS.get(kind, limit))


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_gradient_of_an_impossible_label(kind: str) -> None:
    """p of a label underflows, or is 0 as its logit is -inf: what is left is its own share."""
    logits, labels = make(kind, 3, 40)
    labels[:] = (1, 2, 3)
    logits[0, 1], logits[1, 2] = -1e5, -np.inf
    vectors = {name: np.array([0.5, 0.25, -1.0]) for name in ("grad_logps", "grad_entropy")}
    out = prefopt.token_logps(logits.astype(np.float64), labels, stats=("entropy",))
    got = grad(logits, labels, lse=out.lse, entropy=out.entropy, **vectors)
    want = prefopt.token_logps_grad(
        logits.astype(np.float64), labels, out.lse, entropy=out.entropy, **vectors
    )
    assert np.isfinite(want[0]).all()
    np.testing.assert_allclose(got, want, rtol=0, atol=1.3e-14 if kind == "float64" else 7.5e-7)


@pytest.mark.parametrize("vocab", [7, 5000])
def test_no_rows(vocab: int) -> None:
    """Forward, backward and the pair's statistics of an empty batch of short and of long rows."""
    logits, labels, lse = np.empty((0, vocab), np.float32), np.empty(0, np.int64), np.empty(0)
    assert token_logps(logits, labels)["logps"].shape == (0,)
    assert grad(logits, labels, lse=lse, grad_logps=np.empty(0)).shape == (0, vocab)
    given = {"policy_logits": logits, "ref_logits": logits, "labels": labels}
    args = PairTokenStatsArgs(ignore_index=-100, temperature=1.0, perturbation=0.1)
    both = {"policy_lse": lse, "ref_lse": np.empty(0)}
    logps = {"policy_logps": np.empty(0, np.float32), "ref_logps": np.empty(0, np.float32)}
    device.run("pfo_cuda_pair_token_stats", args, **given, **both, **logps)
    args = PairTokenStatsGradArgs(ignore_index=-100, temperature=1.0)
    out = np.empty_like(logits)
    vectors = {**both, "grad_policy_logps": np.empty(0)}
    device.run("pfo_cuda_pair_token_stats_grad", args, **given, **vectors, out=out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_token_logps(kind: str, vocab: int, order: str) -> None:
    """Every statistic, at every offset from 16 bytes, in every order of threads."""
    for offset in (3,) if device.SMALL else (0, 3, 6):
        logits, labels = make(kind, 3 if vocab > 2000 else 11, vocab, seed=offset)
        exact = DTYPES[kind].exact(logits)
        want = oracle.token_stats(exact, labels, temperature=0.7)
        got = token_logps(device.misaligned(logits, offset), labels, 0.7)
        for name in OUTPUTS:
            if name == "correct":
                assert np.array_equal(got[name], want.correct)
            else:
                close(got[name], getattr(want, name), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_gradient(kind: str, vocab: int, order: str) -> None:
    """All three gradients together, out of place and in place, with offsets of their own."""
    rng = np.random.default_rng(1)
    logits, labels = make(kind, 3, vocab)
    stats = token_logps(logits, labels, 0.7)
    vectors = {f"grad_{k}": rng.normal(size=3) for k in ("logps", "entropy", "lse")}
    want = prefopt.token_logps_grad(
        DTYPES[kind].exact(logits),
        labels,
        stats["lse"],
        entropy=stats["entropy"].astype(np.float64),
        temperature=0.7,
        **vectors,
    )
    atol = 4e-16 if kind == "float64" else 9e-8
    given = {**vectors, "lse": stats["lse"], "entropy": stats["entropy"]}
    for offset in (1,) if device.SMALL else (0, 1, 5):
        moved = device.misaligned(logits, offset)
        out = device.misaligned(np.zeros_like(logits), 8 - offset)
        for target in (out, moved):
            got = DTYPES[kind].exact(grad(moved, labels, 0.7, out=target, **given))
            np.testing.assert_allclose(got, want, rtol=STEPS[kind], atol=atol)
            assert not got[1].any()


def test_rows_of_two_axes(order: str) -> None:
    """[B, T] cut out of a wider array, labels transposed; three axes that do not fit are refused."""
    wide = DTYPES["float32"].make(np.random.default_rng(2).normal(0, 3, (3, 6, 41)))
    logits = wide[:, 1:5, 3:40]
    labels = np.arange(12).reshape(4, 3).T
    want = oracle.token_stats(DTYPES["float32"].exact(logits), labels)
    got = token_logps(logits, labels)
    close(got["logps"], want.logps.reshape(3, 4), "float32")
    cut = np.zeros((4, 4, 4, 8), np.float32)[::2, ::2, ::2]
    with pytest.raises(ValueError, match="make a contiguous copy"):
        token_logps(cut, np.zeros((2, 2, 2), np.int64), outputs=("logps",))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", [9, 700] if device.SMALL else [9, 1500, 40000])
def test_special_values(kind: str, vocab: int, order: str) -> None:
    """-inf beside numbers, nothing but -inf, +inf, NaN, ties, an ignored row of NaN."""
    logits, labels = make(kind, 7, vocab)
    values = DTYPES[kind].exact(logits)
    labels[:] = np.arange(7) % vocab
    values[0, 1:] = -np.inf
    values[1] = -np.inf
    values[2, vocab - 1] = np.inf
    values[3, vocab // 2] = np.nan
    values[4] = 1.5
    values[5, ::2] = -np.inf
    values[6] = np.nan
    labels[4], labels[6] = 0, -100  # the first of many maxima
    logits = DTYPES[kind].make(values)
    want = oracle.token_stats(values, labels)
    got = token_logps(logits, labels)
    for name in ("logps", "lse", "entropy", "max_logit", "lse2", "correct"):
        close(got[name].astype(np.float64), getattr(want, name).astype(np.float64), kind)
    gradient = DTYPES[kind].exact(
        grad(logits, labels, lse=got["lse"], grad_logps=np.ones(7, np.float32))
    )
    assert np.isnan(gradient[[1, 2, 3]]).all()
    assert np.isfinite(gradient[[0, 4, 5, 6]]).all()
    assert not gradient[6].any()
    assert not gradient[5, ::2].any()


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"])
def test_bad_labels_are_noted(dtype: str) -> None:
    """NaN and a gradient row of 0; the note has the lowest index, and is cleared."""
    logits, _ = make("float32", 6, 50)
    labels = np.array([3, 49, 50, 0, 120, 7]).astype(dtype)
    got = token_logps(logits, labels)
    assert np.flatnonzero(np.isnan(got["logps"])).tolist() == [2, 4]
    assert np.isfinite(got["entropy"]).all()
    assert not got["correct"][[2, 4]].any()
    with pytest.raises(ValueError, match=r"labels: expected .* at index 2"):
        _cuda.library().check()
    _cuda.library().check()
    gradient = grad(logits, labels, lse=got["lse"], grad_logps=np.ones(6))
    assert np.flatnonzero(~gradient.any(axis=1)).tolist() == [2, 4]
    with pytest.raises(ValueError, match="at index 2"):
        _cuda.library().check()


def test_offsets_beyond_two_gigabytes() -> None:
    """Rows that lie 2^31 elements apart."""
    if device.SMALL:
        pytest.skip("a sanitizer's shadow memory is too small")
    try:
        memory = np.zeros((2, 2**31 + 8), np.float32)  # pages that are never touched
    except MemoryError:
        pytest.skip("no such address space")
    logits = memory[:, -33:]
    logits[:] = np.random.default_rng(3).normal(size=(2, 33))
    labels = np.array([4, 5])
    got = token_logps(logits, labels, outputs=("logps",))
    close(got["logps"], oracle.token_stats(logits, labels).logps, "float32")


# ---- two rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", [7, 300] if device.SMALL else [1, 7, 33, 1003, 5000])
def test_pair_token_stats(kind: str, vocab: int, order: str) -> None:
    """Every statistic and the gradient, against the CPU's float64 kernels."""
    rng = np.random.default_rng(5)
    policy, labels = make(kind, 5, vocab)
    exact = DTYPES[kind].exact(policy)
    ref = DTYPES[kind].make(exact + rng.normal(0, 0.5, exact.shape))
    exact_ref = DTYPES[kind].exact(ref)
    want = prefopt.pair_token_stats(
        exact, exact_ref, labels, temperature=0.7, perturbation=0.1, stats=PAIR_OUTPUTS[4:]
    )
    wide = np.float64 if kind == "float64" else np.float32
    got = {
        name: np.full(5, np.nan, np.float64 if name.endswith("lse") else wide)
        for name in PAIR_OUTPUTS
    }
    policy, ref = device.misaligned(policy, 1), device.misaligned(ref, 3)
    args = PairTokenStatsArgs(ignore_index=-100, temperature=0.7, perturbation=0.1)
    given = {"policy_logits": policy, "ref_logits": ref, "labels": labels}
    device.run("pfo_cuda_pair_token_stats", args, **given, **got)
    for name in PAIR_OUTPUTS:
        close(got[name], getattr(want, name), kind, PAIR_LIMIT)
    vectors = {
        f"grad_{k}": rng.normal(size=5) for k in ("policy_logps", "ref_policy_kl", "policy_ref_kl")
    }
    exact_stats = {k: getattr(want, k) for k in ("policy_lse", "ref_lse", "policy_ref_kl")}
    expected = prefopt.pair_token_stats_grad(
        exact, exact_ref, labels, **exact_stats, **vectors, temperature=0.7
    )
    stats = {k: got[k] for k in exact_stats}
    out = np.zeros_like(policy)
    args = PairTokenStatsGradArgs(ignore_index=-100, temperature=0.7)
    device.run("pfo_cuda_pair_token_stats_grad", args, **given, **stats, **vectors, out=out)
    atol = 1.3e-14 if kind == "float64" else 7.5e-7
    np.testing.assert_allclose(DTYPES[kind].exact(out), expected, rtol=STEPS[kind], atol=atol)


# ---- refusals --------------------------------------------------------------------------------------


def test_refusals_name_the_argument() -> None:
    logits, labels = make("float32", 4, 9)
    with pytest.raises(ValueError, match="labels"):
        token_logps(logits, labels[:3], outputs=("logps",))
    with pytest.raises(TypeError, match="labels"):
        token_logps(logits, labels.astype(np.float32), outputs=("logps",))
    with pytest.raises(ValueError, match="logits"):
        token_logps(logits[:, ::2], labels, outputs=("logps",))
    with pytest.raises(ValueError, match="temperature"):
        token_logps(logits, labels, 0.0)
    args = TokenLogpsArgs(ignore_index=-100, temperature=1.0)
    library, call = _cuda.library(), device.Call(device=0)
    logps = np.zeros(4, np.float32)
    for field, array in (("logits", logits), ("labels", labels), ("logps", logps)):
        device.describe(getattr(args, field), array)
    with pytest.raises(MemoryError, match="workspace: expected"):
        library.run("pfo_cuda_token_logps", args, call)
    call.device = 99
    call.workspace, call.workspace_bytes = 256, 1 << 20
    with pytest.raises(RuntimeError, match=r"(?i)invalid ?device"):
        library.run("pfo_cuda_token_logps", args, call)


def test_a_failed_launch_is_an_exception() -> None:
    logits, labels = make("float32", 4, 9)
    _cuda.library().handle.cuda_sim_fail_launch(0, 2)
    with pytest.raises(
        RuntimeError, match=r"cuda: launch of a kernel: .*cudaErrorMemoryAllocation"
    ):
        token_logps(logits, labels, outputs=("logps",))
    token_logps(logits, labels, outputs=("logps",))
