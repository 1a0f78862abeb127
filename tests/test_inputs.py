"""Weights, random numbers and the mixed reference: numbers, in NumPy, torch and the reference."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import prefopt
from prefopt import reference

try:
    import torch

    from prefopt import torch as prefopt_torch
    from prefopt.torch import _bridge
except ImportError:
    torch = None


def _to_tensor(value: Any) -> Any:
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def _through_torch(name: str) -> Any:
    """The function of prefopt.torch, taking and returning arrays."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        tensors = [_to_tensor(each) for each in arguments]
        got = getattr(prefopt_torch, name)(*tensors, **keywords)
        assert not got.requires_grad
        return got.numpy()

    return call


NAMES = ("ld_weights", "wpo_weights", "uniforms", "mix_reference", "sequence_logps")
PLACES: dict[str, Any] = {"numpy": prefopt, "reference": reference}
if torch is not None:
    PLACES["torch"] = SimpleNamespace(**{name: _through_torch(name) for name in NAMES})


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Any:
    return PLACES[request.param]


# ------------------------------------------------------------------------------- LD-DPO


def test_ld_weights_by_hand(place: Any) -> None:
    """Lengths 4, 2, 3 against 2, 3, 0: positions count in answer tokens, gaps left out."""
    mask = np.array([[0, 1, 1, 0, 1, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]], dtype=bool)
    got = place.ld_weights(mask, np.array([2, 3, 0]), 0.25)
    assert got.dtype == np.float64
    assert got.tolist() == [
        [0, 1, 1, 0, 0.25, 0.25],
        [1, 1, 0, 0, 0, 0],
        [0.25, 0.25, 0.25, 0, 0, 0],
    ]
    inexact = place.ld_weights(mask, np.array([2, 3, 0]), 0.3)
    assert set(inexact.flat) == {0.0, 0.3, 1.0}  # 0.3 of float64, not of float32
    same = place.ld_weights(mask.astype(np.int64), np.array([2, 3, 0]), 1.0)
    assert (same == mask).all()


def test_ld_weights_make_ld_sums(place: Any) -> None:
    """pi = sum_{t <= M} + alpha sum_{t > M}, with M = min(n_w, n_l) for both sides."""
    logps = np.array([[-1.0, -2.0, -4.0, -8.0], [-1.0, -3.0, -5.0, -7.0]])
    chosen = np.array([[True] * 4, [True, True, False, False]])
    rejected = np.array([[True, True, False, False], [True] * 4])
    w = place.ld_weights(chosen, rejected.sum(1), 0.5)
    assert place.sequence_logps(logps, w).tolist() == [-3.0 - 6.0, -4.0]
    w = place.ld_weights(rejected, chosen.sum(1), 0.5)
    assert place.sequence_logps(logps, w).tolist() == [-3.0, -4.0 - 6.0]


# ------------------------------------------------------------------------------- WPO


def test_wpo_weights_are_those_of_the_probabilities(place: Any, rng: np.random.Generator) -> None:
    """exp(mean_t log(p(y_t) / sum_v p(v)^2)) from probabilities made without a logarithm."""
    logits = rng.normal(0, 2, (3, 4, 11))
    labels = rng.integers(0, 11, (3, 4))
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]], dtype=bool)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    ratio = np.take_along_axis(p, labels[..., None], -1)[..., 0] / (p**2).sum(-1)
    expected = [np.prod(r[m]) ** (1 / max(m.sum(), 1)) for r, m in zip(ratio, mask, strict=True)]
    out = prefopt.token_logps(logits, labels, stats=("lse2",))
    got = place.wpo_weights(out.logps, out.lse, out.lse2, mask)
    np.testing.assert_allclose(got, expected, rtol=2e-15)
    assert got[1] == 1.0
    spoilt = np.where(mask, out.logps, np.nan)
    np.testing.assert_array_equal(place.wpo_weights(spoilt, out.lse, out.lse2, mask), got)
    full = place.wpo_weights(out.logps, out.lse, out.lse2)
    np.testing.assert_allclose(full, np.prod(ratio, axis=1) ** 0.25, rtol=2e-15)
    if place is not reference:
        singles = [each.astype(np.float32) for each in (out.logps, out.lse, out.lse2)]
        narrow = place.wpo_weights(*singles, mask)
        assert narrow.dtype == np.float32
        np.testing.assert_allclose(narrow, expected, rtol=1e-6)


def test_wpo_weight_of_a_uniform_model_is_one(place: Any) -> None:
    """Whatever is drawn, p(y) = sum_v p(v)^2 = 1 / V."""
    out = prefopt.token_logps(np.zeros((2, 3, 8)), np.ones((2, 3), np.int64), stats=("lse2",))
    got = place.wpo_weights(out.logps, out.lse, out.lse2)
    np.testing.assert_allclose(got, [1.0, 1.0], rtol=5e-16)


# ------------------------------------------------------------------------------- uniforms


def test_uniforms_are_splitmix64(place: Any) -> None:
    """The first outputs for seed 1234567 of the published generator, by their upper 53 bits."""
    published = (
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    )
    expected = [(each >> 11) / 2**53 for each in published]
    assert place.uniforms(1234567, 5).tolist() == expected
    assert place.uniforms(1234567, (1, 5)).tolist() == [expected]


def test_uniforms_are_the_same_everywhere_and_for_any_cut(place: Any) -> None:
    for seed in (0, 7, 2**63, 2**64 - 1):
        whole = place.uniforms(seed, (3, 50))
        assert whole.dtype == np.float64
        np.testing.assert_array_equal(whole, reference.uniforms(seed, (3, 50)))
        np.testing.assert_array_equal(place.uniforms(seed, 7), whole.reshape(-1)[:7])
        assert 0 <= whole.min() < whole.max() < 1
    assert place.uniforms(1, (0, 4)).shape == (0, 4)
    assert place.uniforms(1, ()).shape == ()


def test_uniforms_look_uniform() -> None:
    """Ten equal bins of 100,000: chi-square of 9 degrees below its 99.99 % point."""
    counts = np.bincount((prefopt.uniforms(3, 100_000) * 10).astype(int), minlength=10)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 33.7
    left, right = prefopt.uniforms(4, 10_000), prefopt.uniforms(5, 10_000)
    assert abs(np.corrcoef(left, right)[0, 1]) < 0.04


# ------------------------------------------------------------------------------- TR-DPO


def test_mix_reference_by_hand(place: Any) -> None:
    policy, ref = np.array([[1.0, -2.0], [3.0, 0.5]]), np.array([[2.0, 4.0], [-1.0, 0.5]])
    got = place.mix_reference(policy, ref, 0.25)
    assert got.tolist() == [[1.75, 2.5], [0.0, 0.5]]
    assert place.mix_reference(policy, ref, 0.0).tolist() == ref.tolist()
    assert place.mix_reference(policy, ref, 1.0).tolist() == policy.tolist()
    np.testing.assert_allclose(place.mix_reference(policy, ref), 0.6 * policy + 0.4 * ref)
    assert place.mix_reference(np.ones(()), np.zeros(()), 0.5).shape == ()
    assert place.mix_reference(np.ones((0, 3)), np.ones((0, 3))).shape == (0, 3)


def test_mix_reference_in_place() -> None:
    policy, ref = np.float32([1.0, -2.0, 3.0]), np.float32([2.0, 4.0, -1.0])
    for module in (prefopt, reference):
        out = ref.copy()
        assert module.mix_reference(policy, out, 0.25, out=out) is out
        assert out.tolist() == [1.75, 2.5, 0.0]
        strided = np.zeros((3, 2), np.float32)[:, 0]
        module.mix_reference(policy, ref, 0.25, out=strided)
        assert strided.tolist() == [1.75, 2.5, 0.0]
    assert prefopt.mix_reference(policy, ref).dtype == np.float32


@pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
def test_mix_reference_of_modules() -> None:
    """In place on parameters, in their dtype, without a graph; the plain form within a rounding."""
    torch.manual_seed(0)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        policy, ref = (torch.nn.Linear(3, 2, dtype=dtype) for _ in range(2))
        before = [each.detach().clone() for each in ref.parameters()]
        for p, r in zip(policy.parameters(), ref.parameters(), strict=True):
            assert prefopt_torch.mix_reference(p, r, 0.25, out=r) is r
        for p, r, old in zip(policy.parameters(), ref.parameters(), before, strict=True):
            exact = 0.25 * p.detach().double() + 0.75 * old.double()
            assert r.dtype == dtype
            assert r.requires_grad
            assert r.grad_fn is None
            assert torch.equal(r.detach(), exact.to(dtype))
            with _bridge.force_plain():
                plain = prefopt_torch.mix_reference(p, old, 0.25)
            torch.testing.assert_close(plain, r.detach(), rtol=torch.finfo(dtype).eps, atol=1e-7)


# ------------------------------------------------------------------------------- errors

MASK = np.ones((2, 3), bool)
GRID = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("ld_weights", (MASK[0], np.ones(2), 0.5), ValueError, "mask: expected two dimensions"),
        ("ld_weights", (GRID, np.ones(2), 0.5), TypeError, "mask: expected bool"),
        ("ld_weights", (MASK, np.ones(3), 0.5), ValueError, "other_lengths: expected shape .2."),
        ("ld_weights", (MASK, np.ones(2), 1.5), ValueError, r"alpha: expected a value in \[0, 1\]"),
        ("ld_weights", (MASK, np.ones(2), "x"), TypeError, "alpha: expected a number, got str"),
        ("wpo_weights", (GRID[0], GRID[0], GRID[0]), ValueError, "logps: expected .*B, T"),
        ("wpo_weights", (GRID, GRID[:1], GRID), ValueError, "lse: expected the shape of logps"),
        ("wpo_weights", (GRID, GRID, GRID > 0), TypeError, "lse2: expected a float"),
        ("wpo_weights", (GRID, GRID, GRID, MASK[:1]), ValueError, "mask: expected"),
        ("uniforms", (-1, 3), ValueError, r"seed: expected an integer in \[0, 2\^64\)"),
        ("uniforms", (2**64, 3), ValueError, "seed: expected an integer in"),
        ("uniforms", (True, 3), TypeError, "seed: expected an integer, got bool"),
        ("uniforms", (0.5, 3), TypeError, "seed: expected an integer, got float"),
        ("uniforms", (1, (2, -1)), ValueError, "shape: a size may not be negative"),
        ("uniforms", (1, (2, 1.5)), TypeError, "shape: expected integers"),
        ("mix_reference", (GRID, GRID[0]), ValueError, "ref: expected the shape of policy"),
        ("mix_reference", (GRID, GRID, -0.1), ValueError, "alpha: expected a value in"),
        ("mix_reference", (GRID, GRID, np.nan), ValueError, "alpha: expected a value in"),
    ],
)
@pytest.mark.parametrize("where", [each for each in PLACES if each != "reference"])
def test_errors_name_the_argument(
    where: str, name: str, arguments: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        getattr(PLACES[where], name)(*arguments)


def test_more_errors_of_numpy() -> None:
    with pytest.raises(ValueError, match=r"^other_lengths: .* got -1 at index 1"):
        prefopt.ld_weights(MASK, [2, -1], 0.5)
    with pytest.raises(ValueError, match=r"^out: expected an array of shape \(2, 3\)"):
        prefopt.mix_reference(GRID, GRID, out=GRID[0])
    with pytest.raises(TypeError, match="policy_parameters: expected a float dtype"):
        prefopt.mix_reference(MASK, MASK)
