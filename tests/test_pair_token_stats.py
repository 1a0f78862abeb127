"""pair_token_stats and its gradient: accuracy, special values, bits, strides, bad input."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from oracle import pair as oracle
from support import Dtype, run_script, same_bits, same_results

import prefopt
from prefopt._pair import PAIR_STATS

# 1, the lanes and their neighbours, the block (2048) and its neighbours, two real vocabularies.
VOCABULARIES = (1, 2, 7, 8, 15, 16, 17, 33, 512, 1000, 2047, 2048, 2049, 5000, 32000, 50257)
GRADS = ("grad_policy_logps", "grad_ref_policy_kl", "grad_policy_ref_kl")

# Worst errors over the cases of test_accuracy, in units of half a rounding of the result's dtype at
# the scale that `scales` gives: 3.3 in float32, 4.4 in float64 (2026-11-27), times two.
BUDGET = {"float32": 6.6, "float64": 8.8}


def rows(
    rng: np.random.Generator, dtype: Dtype, vocab: int, spread: float = 3.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four pairs of rows: near, far, equal, shifted by a constant."""
    policy = spread * rng.normal(size=(4, vocab))
    ref = policy + 0.3 * rng.normal(size=(4, vocab))
    ref[1] = spread * rng.normal(size=vocab)
    ref[2] = policy[2]
    ref[3] += 50
    return dtype.make(policy), dtype.make(ref), rng.integers(0, vocab, 4)


def scales(policy: np.ndarray, ref: np.ndarray, temperature: float) -> np.ndarray:
    """What the roundings of a row are relative to: its largest value, where the sums start from."""
    with np.errstate(invalid="ignore"):
        tops = [np.abs(np.where(np.isfinite(a), a, 0)).max(-1) for a in (policy, ref)]
    return 1 + np.maximum(*tops) / temperature


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_accuracy(
    isa: str, dtype: Dtype, vocab: int, temperature: float, rng: np.random.Generator
) -> None:
    policy, ref, labels = rows(rng, dtype, vocab)
    x, y = dtype.exact(policy), dtype.exact(ref)
    got = prefopt.pair_token_stats(
        policy,
        ref,
        labels,
        temperature=temperature,
        perturbation=0.25,
        stats=PAIR_STATS,
        **dtype.arguments,
    )
    want = oracle.pair_stats(x, y, labels, temperature, 0.25)
    unit = np.finfo(dtype.result).eps / 2 * scales(x, y, temperature)
    for name in oracle.NAMES:
        result = getattr(got, name)
        assert result.dtype == dtype.result
        error = np.abs(result - want[name]) / unit
        assert (error <= BUDGET[dtype.result.name]).all(), (name, error)


@pytest.mark.parametrize("vocab", [2, 17, 1000])
def test_against_fifty_digits(vocab: int, rng: np.random.Generator) -> None:
    policy, ref = 4 * rng.normal(size=(2, vocab))
    want = oracle.exact(policy, ref, 1, 0.9, 0.01)
    got = prefopt.pair_token_stats(policy, ref, np.int64(1), temperature=0.9, stats=PAIR_STATS)
    for name in oracle.NAMES:
        assert getattr(got, name) == pytest.approx(want[name], rel=2e-14, abs=1e-15)


def test_equal_rows(isa: str, dtype: Dtype, rng: np.random.Generator) -> None:
    """Policy equal to reference: divergences exactly 0, all four log-probabilities the same bits."""
    policy, _, labels = rows(rng, dtype, 3001)
    got = prefopt.pair_token_stats(
        policy, policy.copy(), labels, stats=PAIR_STATS, **dtype.arguments
    )
    assert (got.ref_policy_kl == 0).all()
    assert (got.policy_ref_kl == 0).all()
    for name in ("ref_logps", "plus_logps", "minus_logps"):
        assert same_bits(getattr(got, name), got.policy_logps)


def test_agrees_with_token_logps(isa: str, dtype: Dtype, rng: np.random.Generator) -> None:
    policy, ref, labels = rows(rng, dtype, 50257)
    got = prefopt.pair_token_stats(policy, ref, labels, **dtype.arguments)
    for logits, logps, lse in (
        (policy, got.policy_logps, got.policy_lse),
        (ref, got.ref_logps, got.ref_lse),
    ):
        one = prefopt.token_logps(logits, labels, **dtype.arguments)
        unit = np.finfo(dtype.result).eps * scales(dtype.exact(policy), dtype.exact(ref), 1.0)
        assert (np.abs(one.logps - logps) <= 4 * unit).all()
        assert (np.abs(one.lse - lse) <= 4 * unit).all()
    assert got.ref_policy_kl is None


@pytest.mark.parametrize("vocab", [40, 5000])
def test_special_values(isa: str, vocab: int) -> None:
    """What prefopt.h states of infinities and NaN, in blocks with and without finite neighbours."""
    inf, nan = np.inf, np.nan
    rng = np.random.default_rng(3)
    policy = rng.normal(size=(10, vocab)).astype(np.float32)
    ref = rng.normal(size=(10, vocab)).astype(np.float32)
    for ruled_out in (slice(5, 9), slice(-9, -6)):  # by both, in the first block and in the last
        policy[0, ruled_out] = ref[0, ruled_out] = -inf
    policy[1, 7] = -inf  # ruled out by the policy alone
    ref[2, 7] = -inf  # by the reference alone
    policy[3] = -inf
    ref[4] = -inf
    policy[5, 2] = inf
    ref[6, 2] = nan
    policy[7, : vocab - 1] = ref[7, : vocab - 1] = -inf  # one entry is left
    policy[8, : vocab // 2] = -inf  # whole blocks of one row
    policy[9, -9] = -inf  # by the policy alone, in the last block
    labels = np.full(10, vocab - 1)
    got = prefopt.pair_token_stats(policy, ref, labels, perturbation=0.5, stats=PAIR_STATS)
    want = oracle.pair_stats(policy, ref, labels, 1.0, 0.5)
    for name in oracle.NAMES:
        result = getattr(got, name)
        for row in (0, 1, 2, 7, 8, 9):
            expected = float(want[name][row])
            if name == "plus_logps" and row == 2:
                assert np.isnan(result[row])
            elif np.isfinite(expected):
                assert result[row] == pytest.approx(expected, rel=2e-6, abs=2e-6), (name, row)
            else:
                assert result[row] == expected, (name, row)
    alone = prefopt.pair_token_stats(policy, ref, labels, stats=PAIR_STATS[:2])
    for name in ("policy_logps", "policy_lse", *PAIR_STATS[:2]):  # without the perturbed rows
        np.testing.assert_allclose(getattr(alone, name), getattr(got, name), rtol=2e-6, atol=2e-6)
    assert got.ref_policy_kl[1] == inf
    assert np.isfinite(got.policy_ref_kl[1])
    assert got.policy_ref_kl[2] == inf
    assert np.isfinite(got.ref_policy_kl[2])
    assert got.ref_policy_kl[8] == inf
    for name in ("policy_logps", "ref_policy_kl", "policy_ref_kl", "plus_logps", "minus_logps"):
        assert np.isnan(getattr(got, name)[[3, 5]]).all(), name
    for name in ("ref_logps", "ref_policy_kl", "policy_ref_kl"):
        assert np.isnan(getattr(got, name)[[4, 6]]).all(), name
    assert np.isfinite(got.ref_logps[[3, 5]]).all()
    assert np.isfinite(got.policy_logps[[4, 6]]).all()
    assert got.policy_lse[3] == -inf
    assert got.ref_lse[4] == -inf
    assert got.policy_lse[5] == inf


def test_ignored_rows_are_not_read(isa: str, rng: np.random.Generator) -> None:
    policy, ref = rng.normal(size=(2, 3, 50))
    policy[1] = ref[1] = np.nan
    labels = np.array([4, -100, 6])
    got = prefopt.pair_token_stats(policy, ref, labels, stats=PAIR_STATS)
    for result in got:
        assert result[1] == 0
        assert np.isfinite(result).all()
    grad = prefopt.pair_token_stats_grad(
        policy, ref, labels, got.policy_lse, got.ref_lse, grad_policy_logps=np.ones(3)
    )
    assert (grad[1] == 0).all()
    assert np.isfinite(grad).all()


# ---- bits ----------------------------------------------------------------------------------------


def test_same_bits(threads: int, isa: str, dtype: Dtype) -> None:
    """Threads, ISA rows, strides and read-only memory change no bit, forward or backward."""
    rng = np.random.default_rng(5)
    policy, ref, labels = (np.stack([each] * 3) for each in rows(rng, dtype, 4099))
    policy[1, 2, 7] = policy[2, 0, 4000]

    def run(p: np.ndarray, r: np.ndarray, y: np.ndarray) -> tuple[Any, ...]:
        got = prefopt.pair_token_stats(p, r, y, stats=PAIR_STATS, **dtype.arguments)
        grads = {name: np.full(y.shape, 0.75 + k) for k, name in enumerate(GRADS)}
        return *got, prefopt.pair_token_stats_grad(
            p,
            r,
            y,
            got.policy_lse,
            got.ref_lse,
            policy_ref_kl=got.policy_ref_kl,
            **grads,
            **dtype.arguments,
        )

    plain = run(policy, ref, labels)
    with prefopt.using_isa("scalar"):
        prefopt.set_num_threads(1)
        assert same_results(run(policy, ref, labels), plain)
    wide = np.stack([policy, policy], axis=1)[:, 0]
    backwards = np.ascontiguousarray(ref[::-1])[::-1]
    backwards.flags.writeable = False
    assert same_results(run(wide, backwards, labels.astype(np.int32)), plain)


# ---- gradients -----------------------------------------------------------------------------------


def gradient(
    policy: Any, ref: Any, labels: Any, temperature: float, upstream: Any, dtype: Dtype, **more: Any
) -> np.ndarray:
    got = prefopt.pair_token_stats(
        policy, ref, labels, temperature=temperature, stats=PAIR_STATS, **dtype.arguments
    )
    return prefopt.pair_token_stats_grad(
        policy,
        ref,
        labels,
        got.policy_lse,
        got.ref_lse,
        policy_ref_kl=got.policy_ref_kl,
        temperature=temperature,
        **upstream,
        **more,
        **dtype.arguments,
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocab", [1, 17, 33, 2049])
def test_gradient_against_the_oracle(
    isa: str, dtype: Dtype, vocab: int, temperature: float, rng: np.random.Generator
) -> None:
    policy, ref, labels = rows(rng, dtype, vocab)
    by = rng.normal(size=(3, 4)).astype(np.float32)
    got = dtype.exact(
        gradient(policy, ref, labels, temperature, dict(zip(GRADS, by, strict=True)), dtype)
    )
    x, y = dtype.exact(policy), dtype.exact(ref)
    want = oracle.pair_grad(x, y, labels, temperature, *by.astype(np.float64))
    # Each p carries the roundings of its lse (at the scale of the row) and of log p; the terms are of
    # the size of the upstream gradients times (1 + |log p - log r|); then one rounding to the dtype.
    stored = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-24, "float64": 2**-53}
    relative = np.finfo(dtype.result).eps * scales(x, y, temperature)[:, None]
    gap = np.abs((x - y) - (x - y).mean(-1, keepdims=True)) / temperature
    size = np.abs(by).sum(0)[:, None] * (2 + gap) / temperature
    allowed = (
        3 * relative * size + np.abs(want) * stored[dtype.kind] + 1e-7 * (dtype.kind == "float16")
    )
    assert (np.abs(got - want) <= allowed).all()


@pytest.mark.parametrize("name", GRADS)
def test_finite_differences(isa: str, name: str, rng: np.random.Generator) -> None:
    """Central differences of prefopt's own float64 forward."""
    policy, ref = rng.normal(size=(2, 3, 23))
    labels = rng.integers(0, 23, 3)
    result = name.removeprefix("grad_")

    def value(logits: np.ndarray) -> np.ndarray:
        got = prefopt.pair_token_stats(logits, ref, labels, temperature=0.7, stats=PAIR_STATS)
        return getattr(got, result)

    got = prefopt.pair_token_stats(policy, ref, labels, temperature=0.7, stats=PAIR_STATS)
    grad = prefopt.pair_token_stats_grad(
        policy,
        ref,
        labels,
        got.policy_lse,
        got.ref_lse,
        policy_ref_kl=got.policy_ref_kl,
        temperature=0.7,
        **{name: np.ones(3)},
    )
    for v in range(23):
        up, down = policy.copy(), policy.copy()
        up[:, v] += 1e-5
        down[:, v] -= 1e-5
        slope = (value(up) - value(down)) / 2e-5
        np.testing.assert_allclose(grad[:, v], slope, rtol=0, atol=2e-10)


@pytest.mark.parametrize("place", ["policy", "ref"])
def test_in_place(isa: str, dtype: Dtype, place: str, rng: np.random.Generator) -> None:
    policy, ref, labels = rows(rng, dtype, 1001)
    upstream = {name: np.full(4, 0.5 + k) for k, name in enumerate(GRADS)}
    fresh = gradient(policy, ref, labels, 1.0, upstream, dtype)
    out = {"policy": policy, "ref": ref}[place]
    assert gradient(policy, ref, labels, 1.0, upstream, dtype, out=out) is out
    assert same_bits(out, fresh)


def test_gradient_of_masked_logits(isa: str) -> None:
    """-inf logits get 0; a divergence of inf poisons nothing where its gradient is 0."""
    rng = np.random.default_rng(1)
    policy, ref = rng.normal(size=(2, 2, 40)).astype(np.float32)
    policy[:, 3:6] = ref[:, 3:6] = -np.inf
    ref[1, 8] = -np.inf
    labels = np.array([1, 2])
    got = prefopt.pair_token_stats(policy, ref, labels, stats=PAIR_STATS)
    assert np.isinf(got.policy_ref_kl[1])
    grad = prefopt.pair_token_stats_grad(
        policy,
        ref,
        labels,
        got.policy_lse,
        got.ref_lse,
        policy_ref_kl=got.policy_ref_kl,
        grad_policy_logps=np.array([1.0, 1.0]),
        grad_ref_policy_kl=np.array([0.5, 0.5]),
        grad_policy_ref_kl=np.array([2.0, 0.0]),
    )
    assert (grad[:, 3:6] == 0).all()
    want = oracle.pair_grad(
        policy, ref, labels, 1.0, np.ones(2), np.full(2, 0.5), np.array([2.0, 0.0])
    )
    want[1] = (
        oracle.pair_grad(
            policy[1:], ref[1:], labels[1:], 1.0, np.ones(1), np.full(1, 0.5), np.zeros(1)
        )[0]
        if np.isfinite(want[1]).all()
        else want[1]
    )
    finite = np.isfinite(want)
    np.testing.assert_allclose(grad[finite], want[finite].astype(float), rtol=2e-5, atol=2e-6)
    assert np.isfinite(grad).all()


# ---- bad input -----------------------------------------------------------------------------------


def forward_call() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    policy, ref = rng.normal(size=(2, 4, 3, 10)).astype(np.float32)
    return {
        "policy_logits": policy,
        "ref_logits": ref,
        "labels": rng.integers(0, 10, (4, 3)),
        "stats": PAIR_STATS,
    }


def backward_call() -> dict[str, Any]:
    call = forward_call()
    got = prefopt.pair_token_stats(**call)
    del call["stats"]
    upstream = {name: np.ones((4, 3), np.float32) for name in GRADS}
    lse = {"policy_lse": got.policy_lse, "ref_lse": got.ref_lse}
    out = np.full((4, 3, 10), 7, np.float32)
    return {**call, **lse, "policy_ref_kl": got.policy_ref_kl, **upstream, "out": out}


BAD = [
    ("policy_logits", lambda a: a.astype(np.int32), "expected float16"),
    ("policy_logits", lambda a: np.asfortranarray(a), "contiguous last axis"),
    ("policy_logits", lambda a: a[..., :0], "vocabulary"),
    ("policy_logits", lambda a: np.float32(1), r"expected \[..., vocab\]|expected an array"),
    ("ref_logits", lambda a: a.astype(np.float64), "expected float32, got float64"),
    ("ref_logits", lambda a: a[:3], "expected shape"),
    ("ref_logits", lambda a: a[..., :9].copy(), "expected shape"),
    ("ref_logits", lambda a: a.astype(">f4"), "byte"),
    ("labels", lambda a: np.where(np.arange(12).reshape(4, 3) == 5, 10, a), "at index 5"),
    ("labels", lambda a: np.where(np.arange(12).reshape(4, 3) == 7, -1, a), "at index 7"),
    ("labels", lambda a: a.astype(float), "integer"),
    ("labels", lambda a: a[:, :2], "expected shape|shape"),
    ("labels", lambda a: None, "expected an array"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD)
@pytest.mark.parametrize("function", ["pair_token_stats", "pair_token_stats_grad"])
def test_bad_arrays(function: str, name: str, change: Any, message: str) -> None:
    call = forward_call() if function == "pair_token_stats" else backward_call()
    before = copy.deepcopy(call.get("out"))
    call[name] = change(call[name])
    with pytest.raises((ValueError, TypeError), match=f"^{name}: .*({message})"):
        getattr(prefopt, function)(**call)
    if before is not None:
        assert same_bits(call["out"], before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": np.nan}, "temperature"),
        ({"perturbation": 0.0}, "perturbation: expected a number in"),
        ({"perturbation": 1.0}, "perturbation"),
        ({"perturbation": np.nan}, "perturbation"),
        ({"perturbation": "x"}, "perturbation"),
        ({"stats": "ref_policy_kl"}, "stats: expected a sequence"),
        ({"stats": ("ref_policy_klx",)}, "stats: unknown .* did you mean .*ref_policy_kl"),
        ({"dtype": "bfloat16"}, "policy_logits: dtype"),
        ({"ignore_index": 1.5}, "ignore_index"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        prefopt.pair_token_stats(**{**forward_call(), **change})


def test_bad_gradient_calls() -> None:
    def refused(message: str, **change: Any) -> None:
        call = {**backward_call(), **change}
        before = np.array(call["out"]) if call["out"] is not None else None
        with pytest.raises((ValueError, TypeError), match=f"^{message}"):
            prefopt.pair_token_stats_grad(**call)
        if before is not None:
            assert same_bits(call["out"], before)

    call = backward_call()
    nothing = dict.fromkeys(GRADS)
    refused("grad_policy_logps: expected at least one", **nothing)
    refused("policy_ref_kl: expected the forward's", policy_ref_kl=None)
    refused("policy_lse: expected an array", policy_lse=None)
    refused("ref_lse: expected shape", ref_lse=call["ref_lse"][:2])
    refused(
        "grad_ref_policy_kl: expected float32 or float64", grad_ref_policy_kl=np.ones((4, 3), int)
    )
    refused("out: expected float32", out=np.zeros((4, 3, 10)))
    refused("out: expected shape", out=np.zeros((4, 3, 11), np.float32))
    frozen = np.zeros((4, 3, 10), np.float32)
    frozen.flags.writeable = False
    refused("out: expected a writable", out=frozen)
    both = np.zeros((4, 3, 11), np.float32)
    policy = np.lib.stride_tricks.as_strided(both, (4, 3, 10), (132, 44, 4))
    shifted = np.lib.stride_tricks.as_strided(both[..., 1:], (4, 3, 10), (132, 44, 4))
    refused(
        "out: the range of memory it spans overlaps that of policy_logits",
        policy_logits=policy,
        out=shifted,
    )
    refused(
        "out: the range of memory it spans overlaps that of ref_logits",
        ref_logits=policy,
        out=shifted,
    )


def test_empty_batch() -> None:
    empty = np.zeros((0, 5), np.float32)
    got = prefopt.pair_token_stats(empty, empty, np.zeros(0, int), stats=PAIR_STATS)
    assert all(each.shape == (0,) for each in got)


def test_works_in_a_fork() -> None:
    """The child runs alone and gives the same bits."""
    done = run_script(
        """
        import os, numpy as np, prefopt
        rng = np.random.default_rng(0)
        policy, ref = rng.normal(size=(2, 64, 5000)).astype(np.float32)
        labels = rng.integers(0, 5000, 64)
        run = lambda: prefopt.pair_token_stats(policy, ref, labels, stats=("ref_policy_kl",))
        prefopt.set_num_threads(2)
        before = run()
        pid = os.fork()
        if pid == 0:
            after = run()
            os._exit(0 if all(a is b or (a == b).all() for a, b in zip(before, after)) else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    assert done.stdout.strip() == "0", done.stderr
