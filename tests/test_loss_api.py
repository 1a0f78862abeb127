"""How the loss functions behave as Python: result tuples, dtypes, strides, names, messages."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from loss_cases import batch, cast_reals, run, without_optional
from support import same_bits

import prefopt
from prefopt._loss_types import SequenceLoss

# Every row: test_loss_rows.py. These five are looked at more closely.
NAMES = ["cpo.sigmoid", "dpo.ipo", "dpo.sigmoid", "kto.kto", "sft.nll"]


def pairs(rng: np.random.Generator, size: int = 6, dtype: Any = np.float64) -> list[np.ndarray]:
    return [rng.uniform(-80, -60, size).astype(dtype) for _ in range(4)]


# ------------------------------------------------------------------------------- result tuples


def test_results_unpack_like_trl(rng: np.random.Generator) -> None:
    losses, chosen_rewards, rejected_rewards = prefopt.dpo_loss(*pairs(rng), return_grads=True)
    assert losses.shape == chosen_rewards.shape == rejected_rewards.shape == (6,)
    policy, ref = pairs(rng)[:2]
    losses, rewards = prefopt.kto_loss(policy, ref, np.ones(6, bool), kl=0.0)
    assert losses.shape == rewards.shape == (6,)
    (losses,) = prefopt.sft_loss(policy, nll_tokens=9)
    assert losses.shape == (6,)


@pytest.mark.parametrize("name", NAMES)
def test_result_types_survive_copies(name: str, rng: np.random.Generator) -> None:
    got = run(name, batch(name, rng), {}, return_grads=True)
    kind = {"pair": prefopt.PairLoss, "unpaired": prefopt.UnpairedLoss}
    row = next(row for row in prefopt.losses() if row.name == name)
    assert isinstance(got, kind[row.kind] if row.rewards else SequenceLoss)
    assert isinstance(got, tuple)
    for again in (pickle.loads(pickle.dumps(got)), copy.deepcopy(got)):
        assert type(again) is type(got)
        assert all(same_bits(a, b) for a, b in zip(again, got, strict=True))
        assert set(again.grads) == set(got.grads)


# ------------------------------------------------------------------------------- dtypes, strides


@pytest.mark.parametrize(
    ("dtypes", "result"),
    [
        (("f4", "f4", "f4", "f4"), "f4"),
        (("f8", "f8", "f8", "f8"), "f8"),
        (("f4", "f4", "f8", "f4"), "f8"),
        (("f2", "f2", "f2", "f2"), "f4"),
        (("f2", "f8", "f2", "f2"), "f8"),
    ],
)
def test_result_dtype(dtypes: tuple[str, ...], result: str, rng: np.random.Generator) -> None:
    arrays = [a.astype(d) for a, d in zip(pairs(rng), dtypes, strict=True)]
    got = prefopt.dpo_loss(*arrays, return_grads=True)
    wide = prefopt.dpo_loss(*[a.astype("f8") for a in arrays], return_grads=True)
    for array, truth in zip(
        (*got, *got.grads.values()), (*wide, *wide.grads.values()), strict=True
    ):
        assert array.dtype == result
        np.testing.assert_array_equal(array, truth.astype(result))  # one rounding, at the end


def test_bfloat16_is_taken_as_float32(rng: np.random.Generator) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arrays = [a.astype(ml_dtypes.bfloat16) for a in pairs(rng)]
    got = prefopt.dpo_loss(*arrays)
    assert got.losses.dtype == np.float32
    assert same_bits(got.losses, prefopt.dpo_loss(*[a.astype("f4") for a in arrays]).losses)


def test_constants_do_not_widen(rng: np.random.Generator) -> None:
    arrays = pairs(rng, dtype=np.float32)
    lengths = np.arange(1.0, 7.0)
    got = prefopt.ipo_loss(*arrays, chosen_lengths=lengths, rejected_lengths=lengths)
    assert got.losses.dtype == np.float32
    got = prefopt.kto_loss(*arrays[:2], np.ones(6, bool), kl=np.float64(0.5))
    assert got.losses.dtype == np.float32
    got = prefopt.dpo_loss(*arrays, grad_losses=np.ones(6))
    assert got.grads["policy_chosen_logps"].dtype == np.float32


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_over_strides(name: str, dtype: Any, rng: np.random.Generator) -> None:
    """Every other element, reversed, unaligned by one byte, read-only: the same bits."""
    inputs = cast_reals(batch(name, rng), dtype)
    weights = rng.uniform(0, 2, 8).astype(dtype)
    plain = run(name, inputs, {}, grad_losses=weights)

    def every_other(a: np.ndarray) -> np.ndarray:
        return np.repeat(a, 2)[::2]

    def backwards(a: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(a[::-1])[::-1]

    def unaligned(a: np.ndarray) -> np.ndarray:
        raw = np.zeros(a.nbytes + 1, np.uint8)
        raw[1:] = a.view(np.uint8)
        return raw[1:].view(a.dtype)

    def frozen(a: np.ndarray) -> np.ndarray:
        out = a.copy()
        out.flags.writeable = False
        return out

    for form in (every_other, backwards, unaligned, frozen):
        formed = {k: form(v) if isinstance(v, np.ndarray) else v for k, v in inputs.items()}
        got = run(name, formed, {}, grad_losses=form(weights))
        assert all(same_bits(a, b) for a, b in zip(got, plain, strict=True))
        assert all(same_bits(got.grads[key], plain.grads[key]) for key in plain.grads)


def test_broadcast_views_are_read_with_stride_0(rng: np.random.Generator) -> None:
    policy = rng.uniform(-5, 5, 6)
    ref = np.broadcast_to(np.float64(-1.5), 6)
    got = prefopt.dpo_loss(policy, policy, ref, ref)
    assert same_bits(got.losses, prefopt.dpo_loss(policy, policy, ref.copy(), ref.copy()).losses)


def test_large_batch_leaves_the_stack(rng: np.random.Generator) -> None:
    arrays = pairs(rng, size=5000)
    got = prefopt.dpo_loss(*arrays, return_grads=True)
    part = prefopt.dpo_loss(*[a[4990:] for a in arrays], return_grads=True)
    assert same_bits(got.losses[4990:], part.losses)
    key = "policy_rejected_logps"
    assert same_bits(got.grads[key][4990:], part.grads[key])


@pytest.mark.parametrize("integer", [np.int8, np.uint8, np.int32, np.int64, np.uint64, bool])
def test_flags_and_counts_of_any_integer_type(integer: Any, rng: np.random.Generator) -> None:
    policy, ref, _, _ = pairs(rng)
    flags = np.array([0, 1, 1, 0, 1, 0])
    expected = prefopt.kto_loss(policy, ref, flags.astype(bool), kl=0.25)
    assert same_bits(
        prefopt.kto_loss(policy, ref, flags.astype(integer), kl=0.25).losses, expected.losses
    )
    if integer is not bool:
        counts = np.array([1, 2, 3, 4, 5, 6])
        expected = prefopt.sft_loss(policy, lengths=counts)
        assert same_bits(
            prefopt.sft_loss(policy, lengths=counts.astype(integer)).losses, expected.losses
        )


def test_lists_and_memory_views() -> None:
    plain = prefopt.dpo_loss(*(np.array([v, -1.0]) for v in (-1.0, -2.0, -1.5, -1.5)))
    lists = prefopt.dpo_loss([-1, -1], [-2, -1], (-1.5, -1), [-1.5, -1.0])
    assert same_bits(plain.losses, lists.losses)
    buffers = prefopt.dpo_loss(*(memoryview(np.array([v, -1.0])) for v in (-1.0, -2.0, -1.5, -1.5)))
    assert same_bits(plain.losses, buffers.losses)
    assert prefopt.kto_loss([-1.0], [-2.0], [True], kl=0).losses.shape == (1,)
    assert prefopt.dpo_loss([], [], [], []).losses.shape == (0,)
    assert prefopt.kto_loss([], [], [], kl=0).losses.shape == (0,)


@pytest.mark.parametrize(
    "kl", [0.5, np.float32(0.5), np.array(0.5), np.array([0.5]), np.float16(0.5)]
)
def test_forms_of_kl(kl: Any, rng: np.random.Generator) -> None:
    policy, ref, _, _ = pairs(rng)
    expected = prefopt.kto_loss(policy, ref, np.ones(6, bool), kl=0.5)
    assert same_bits(prefopt.kto_loss(policy, ref, np.ones(6, bool), kl=kl).losses, expected.losses)


def test_memmap(tmp_path: Any, rng: np.random.Generator) -> None:
    arrays = pairs(rng)
    mapped = np.memmap(tmp_path / "a", dtype="f8", mode="w+", shape=6)
    mapped[:] = arrays[0]
    read = np.memmap(tmp_path / "a", dtype="f8", mode="r", shape=6)
    got = prefopt.dpo_loss(read, *arrays[1:])
    assert same_bits(got.losses, prefopt.dpo_loss(*arrays).losses)


# ------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_batch_does_not_matter(name: str, rng: np.random.Generator) -> None:
    """A permuted batch gives the permuted losses; the NLL sums may differ in their last bit."""
    inputs = batch(name, rng)
    order = rng.permutation(8)
    moved = {k: v[order] if isinstance(v, np.ndarray) else v for k, v in inputs.items()}
    one, two = run(name, inputs, {}), run(name, moved, {})
    np.testing.assert_allclose(two.losses, one.losses[order], rtol=1e-14 if "cpo" in name else 0)


@pytest.mark.parametrize("name", ["dpo.sigmoid", "dpo.ipo", "cpo.sigmoid"])
def test_a_common_shift_cancels(name: str, rng: np.random.Generator) -> None:
    """Both log pi may carry the same constant; multiples of 1/64 shift without rounding."""
    inputs = without_optional(name, batch(name, rng, exact=True))
    shifted = {k: v + 12.5 if k.startswith("policy") else v for k, v in inputs.items()}
    assert same_bits(run(name, inputs, {}).losses, run(name, shifted, {}).losses)


# ------------------------------------------------------------------------------- names, messages


def test_losses_is_a_table() -> None:
    rows = prefopt.losses()
    assert isinstance(rows, tuple)
    assert all(isinstance(row, prefopt.LossInfo) for row in rows)
    beta = rows[0].parameters[0]
    assert (beta.name, beta.default, beta.range) == ("beta", 0.1, "(0, inf)")
    assert rows[0].parameters[1].range == "[0, 0.5)"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: prefopt.loss("dpo.sigmiod"), ValueError, "did you mean dpo.sigmoid"),
        (lambda a: prefopt.loss("xyzzy"), ValueError, "available: arpo.sigmoid, bco.bco"),
        (lambda a: prefopt.loss(3), TypeError, "name: expected a string, got int"),  # type: ignore[arg-type]
        (
            lambda a: prefopt.loss("dpo.sigmoid", policy_chosen_logp=a),
            TypeError,
            "policy_chosen_logp: .* takes no such argument; did you mean policy_chosen_logps",
        ),
        (lambda a: prefopt.loss("dpo.sigmoid", betta=1), TypeError, "did you mean beta?"),
        (
            lambda a: prefopt.loss("dpo.sigmoid"),
            TypeError,
            "policy_chosen_logps: .* needs this input",
        ),
        (
            lambda a: prefopt.dpo_loss(a, a, a, a, loss_type="sigmod"),
            ValueError,
            "did you mean sigmoid?",
        ),
        (
            lambda a: prefopt.dpo_loss(a, a, a, a, loss_type="hing"),
            ValueError,
            "loss_type: dpo has no loss 'hing'; did you mean hinge",
        ),
        (
            lambda a: prefopt.dpo_loss(a, a, a, a, loss_type=[1]),
            TypeError,
            "loss_type: expected a str",
        ),
        (
            lambda a: prefopt.dpo_loss(a, a, a, a, convention="trl-1.17"),
            ValueError,
            "convention: dpo.sigmoid has no convention 'trl-1.17'; did you mean trl-1.16",
        ),
        (
            lambda a: prefopt.kto_loss(a, a, a > 0, kl=0, loss_type="bco"),
            ValueError,
            "loss_type: kto has no",
        ),
        (
            lambda a: prefopt.cpo_loss(a, a, loss_type="simp"),
            ValueError,
            "loss_type: cpo has no loss 'simp'; did you mean simpo",
        ),
    ],
)
def test_unknown_names(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(np.zeros(2))


@pytest.mark.parametrize(
    ("function", "keywords", "message"),
    [
        (
            "dpo_loss",
            {"loss_type": "nca_pair", "f_divergence_type": "js_divergence"},
            "f_divergence_type: .* only 'reverse_kl'",
        ),
        (
            "dpo_loss",
            {"loss_type": "apo_zero", "f_alpha_divergence_coef": 0.4},
            "f_alpha_divergence_coef: .* only 0.5",
        ),
        ("dpo_loss", {"discopop_tau": 0.06}, "discopop_tau: .* only 0.05"),
        (
            "dpo_loss",
            {"loss_type": "ipo", "label_smoothing": 0.1},
            "label_smoothing: dpo.ipo does not",
        ),
        ("dpo_loss", {"chosen_lengths": np.ones(2)}, "chosen_lengths: dpo.sigmoid does not use it"),
        ("cpo_loss", {"simpo_gamma": 0.6}, "simpo_gamma: .* only 0.5"),
        (
            "cpo_loss",
            {"rejected_lengths": np.ones(2)},
            "rejected_lengths: cpo.sigmoid does not use it",
        ),
        (
            "cpo_loss",
            {"chosen_lengths": np.ones(2)},
            "chosen_lengths: expected with chosen_nll only",
        ),
        ("cpo_loss", {"nll_tokens": 3.0}, "nll_tokens: expected with chosen_nll only"),
        (
            "cpo_loss",
            {"chosen_nll": np.ones(2)},
            "nll_tokens: chosen_nll needs nll_tokens or chosen_lengths",
        ),
        (
            "ipo_loss",
            {"chosen_lengths": np.ones(2)},
            "rejected_lengths: expected both lengths or none",
        ),
        (
            "ipo_loss",
            {"rejected_lengths": np.ones(2)},
            "chosen_lengths: expected both lengths or none",
        ),
        ("sft_loss", {}, "lengths: expected lengths or nll_tokens, got neither"),
    ],
)
def test_arguments_that_a_loss_does_not_use_raise(
    function: str, keywords: dict[str, Any], message: str
) -> None:
    count = {"dpo_loss": 4, "ipo_loss": 4, "cpo_loss": 2, "sft_loss": 1}[function]
    with pytest.raises(ValueError, match=message):
        getattr(prefopt, function)(*[np.zeros(2)] * count, **keywords)


def test_rewards_of_a_convention_round_once(rng: np.random.Generator) -> None:
    """float32 rewards are divided in float64: beta 0.1 and lengths are not rounded on the way."""
    arrays = pairs(rng, 100, np.float32)
    lengths = rng.integers(0, 90, (2, 100))
    for name, beta in (("nemo-rl-7ea279a", 0.3), ("halos-4831988", 0.1)):
        options: dict[str, Any] = {"beta": beta}
        divisors = np.full((2, 100), beta)
        if name.startswith("halos"):
            options |= {"loss_type": "ipo", "chosen_lengths": lengths[0]}
            options["rejected_lengths"] = lengths[1]
            divisors = beta * np.maximum(lengths, 1)
        plain = prefopt.dpo_loss(*arrays, **options)
        got = prefopt.dpo_loss(*arrays, **options, convention=name)
        for ours, own, divisor in zip(got[1:], plain[1:], divisors, strict=True):
            assert same_bits(ours, (own.astype(np.float64) / divisor).astype(np.float32))
