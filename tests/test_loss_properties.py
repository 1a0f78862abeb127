"""Hypothesis: what holds for losses whatever the numbers are, over every row of the list.

Order of the batch, scales and signs, and how a batch is cut: with global inputs (z0, delta, the
gathered log-ratios, token counts) the parts add up to the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import row_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from row_cases import LOSSES, ROWS, run

import prefopt

SETTINGS = settings(max_examples=12, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**32 - 1)
SIZE = 5
Arrays = dict[str, Any]


def batch(name: str, seed: int, *, optional: bool = True, exact: bool = False) -> Arrays:
    """Inputs of a row; exact: real ones are multiples of 1/64, so that differences do not round."""
    arrays = row_cases.inputs(name, seed=seed, size=SIZE, optional=optional)
    if exact:
        for key, value in arrays.items():
            if isinstance(value, np.ndarray) and value.dtype == np.float64:
                arrays[key] = np.round(value * 64) / 64
    return arrays


def take(arrays: Arrays, rows: Any) -> Arrays:
    """Some rows of the batch; single numbers stay."""
    return {k: v[rows] if isinstance(v, np.ndarray) and v.ndim else v for k, v in arrays.items()}


def named(result: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of a result under its name."""
    yield from zip(result._fields, map(np.asarray, result), strict=True)
    yield from (getattr(result, "grads", None) or {}).items()


# ---- the order of the batch ----------------------------------------------------------------------

ORDERED = ("rso.accept",)  # passes over its candidates in the order that they come in


@pytest.mark.parametrize("name", sorted(set(ROWS) - set(ORDERED)))
@SETTINGS
@given(seed=SEEDS, order=st.permutations(range(SIZE)), optional=st.booleans())
def test_order_of_the_batch(name: str, seed: int, order: list[int], optional: bool) -> None:
    """Another order gives the same results in that order: sums over the batch round otherwise."""
    arrays = batch(name, seed, optional=optional)
    options = {} if ROWS[name].kind == "procedure" else {"return_grads": True}
    straight = dict(named(run(name, arrays, **options)))
    for key, got in named(run(name, take(arrays, order), **options)):
        want = straight[key][order] if straight[key].ndim else straight[key]
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13, err_msg=key)


# ---- scales and signs ----------------------------------------------------------------------------

BY_MARGIN = (  # functions of beta D_w and beta D_l alone
    *(f"dpo.{v}" for v in ("sigmoid", "robust", "hinge", "exo_pair", "nca_pair", "discopop")),
    *("dpo.apo_zero", "dpo.apo_down", "dpo.aot", "dpo.aot_unpaired", "spin.sigmoid"),
    *("dpo.kto_pair", "kto.apo_zero_unpaired", "cpo.sigmoid", "cpo.hinge", "tpo.sigmoid"),
    *("sampo.sigmoid", "tpo.hinge"),
)
REAL_LOGPS = ("logps", "_kl_mean")


@pytest.mark.parametrize("name", BY_MARGIN)
@SETTINGS
@given(seed=SEEDS, power=st.integers(-3, 3))
def test_beta_scales_log_probabilities(name: str, seed: int, power: int) -> None:
    """Log-probabilities 2^k as large at beta 2^-k: the same bits, rewards too; gradients 2^-k."""
    arrays = batch(name, seed, optional=False)
    scale = 2.0**power
    scaled = {k: v * scale if k.endswith(REAL_LOGPS) else v for k, v in arrays.items()}
    one = run(name, arrays, beta=0.25, return_grads=True)
    two = run(name, scaled, beta=0.25 / scale, return_grads=True)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    for key, grad in one.grads.items():
        np.testing.assert_array_equal(grad, two.grads[key] * scale)


REFERENCED = [name for name in LOSSES if any(i.name.startswith("ref_") for i in ROWS[name].inputs)]
TOGETHER = {"old_logps": "logps", "ref_token_logps": "logps"}


@pytest.mark.parametrize("name", sorted(set(REFERENCED) - {"dpo.sft", "grpo.cispo"}))
@SETTINGS
@given(seed=SEEDS, shift=st.integers(-64, 64))
def test_only_log_ratios_count(name: str, seed: int, shift: int) -> None:
    """The same added to policy and reference of an answer changes no bit."""
    arrays = batch(name, seed, exact=True)
    moved = {k: v + shift / 8 if k.endswith("logps") else v for k, v in arrays.items()}
    for (key, a), (_, b) in zip(
        named(run(name, arrays, return_grads=True)),
        named(run(name, moved, return_grads=True)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b, err_msg=key)


LOGISTIC = (
    "dpo.sigmoid",
    "dpo.robust",
    "spin.sigmoid",
    "sampo.sigmoid",
    "cpo.sigmoid",
    "tpo.sigmoid",
)


@pytest.mark.parametrize("name", LOGISTIC)
@SETTINGS
@given(seed=SEEDS)
def test_exchanged_answers(name: str, seed: int) -> None:
    """-log sigmoid(-x) + log sigmoid(x) = x: the loss grows by the margin; rewards change places."""
    arrays = batch(name, seed, optional=False)
    other = {"chosen": "rejected", "rejected": "chosen"}
    exchanged = {
        "_".join(other.get(word, word) for word in key.split("_")): value
        for key, value in arrays.items()
    }
    one, two = (run(name, each, return_grads=True) for each in (arrays, exchanged))
    np.testing.assert_array_equal(one.chosen_rewards, two.rejected_rewards)
    margin = one.chosen_rewards - one.rejected_rewards
    np.testing.assert_allclose(two.losses - one.losses, margin, rtol=1e-11, atol=1e-12)
    first, second = (key for key in one.grads if "logps" in key)
    if name != "sampo.sigmoid":  # whose two answers have tokens of their own
        np.testing.assert_array_equal(one.grads[first], -one.grads[second])


# Losses that fall with every log-probability of the chosen answer and rise with the rejected one's.
MONOTONE = (
    *(
        f"dpo.{v}"
        for v in ("sigmoid", "robust", "hinge", "bco_pair", "apo_zero", "kto_pair", "aot")
    ),
    *("dpo.aot_unpaired", "rdpo.sigmoid", "dpop.sigmoid", "odpo.sigmoid", "spin.sigmoid"),
    *("beta_dpo.sigmoid", "tdpo.tdpo1", "tdpo.tdpo2", "sampo.sigmoid", "eps_dpo.sigmoid"),
    *("cpo.sigmoid", "cpo.hinge", "cpo.simpo", "cpo.simpo_hinge", "orpo.orpo", "slic.hinge"),
    *("simper.simper", "tpo.sigmoid", "tpo.hinge", "tpo.tpo_l", "dpo.sigmoid_norm"),
    "reward_model.bradley_terry",
)


@pytest.mark.parametrize("name", MONOTONE)
@SETTINGS
@given(seed=SEEDS)
def test_signs_of_gradients(name: str, seed: int) -> None:
    grads = run(name, batch(name, seed), return_grads=True).grads
    for key, grad in grads.items():
        if "chosen" in key and "kl" not in key and "nll" not in key:
            assert (grad <= 0).all(), key
        if "rejected" in key and "kl" not in key:
            assert (grad >= 0).all(), key


@pytest.mark.parametrize(
    "name",
    ["ppo.clip", "ppo.dual_clip", *(n for n in LOSSES if n.startswith("grpo."))],
)
@SETTINGS
@given(seed=SEEDS, power=st.integers(-4, 4))
def test_advantages_scale_group_losses(name: str, seed: int, power: int) -> None:
    """Twice the advantage, twice the loss and gradient, bit for bit."""
    arrays = batch(name, seed)
    key = "advantages" if "advantages" in arrays else "token_advantages"
    scaled = {**arrays, key: arrays[key] * 2.0**power}
    one, two = (run(name, each, return_grads=True) for each in (arrays, scaled))
    np.testing.assert_array_equal(one.losses * 2.0**power, two.losses)
    np.testing.assert_array_equal(one.grads["logps"] * 2.0**power, two.grads["logps"])


@SETTINGS
@given(seed=SEEDS)
def test_estimates_of_kl(seed: int) -> None:
    """k1 changes its sign with policy and reference, k2 does not; k3 is not negative."""
    arrays = batch("kl.k1", seed, optional=False)
    swapped = {"logps": arrays["ref_token_logps"], "ref_token_logps": arrays["logps"]}
    np.testing.assert_array_equal(run("kl.k1", arrays).losses, -run("kl.k1", swapped).losses)
    np.testing.assert_array_equal(run("kl.k2", arrays).losses, run("kl.k2", swapped).losses)
    assert (run("kl.k3", arrays).losses >= 0).all()


# ---- how a batch is cut --------------------------------------------------------------------------

# Sums over tokens of the whole batch: the count that each part is given.
TOKEN_COUNTS = {
    **dict.fromkeys(("ppo.clip", "ppo.dual_clip", "ppo.value_clip"), "num_tokens"),
    **dict.fromkeys(("grpo.dapo", "grpo.bnpo", "grpo.cispo"), "num_tokens"),
    **dict.fromkeys(("sft.nll", "dpo.sft"), "nll_tokens"),
}
NLL_TERMS = {
    name: "nll_tokens" for name in LOSSES if name.split(".")[0] in ("cpo", "orpo", "arpo", "tpo")
}
NOT_CUT = ("beta_dpo.sigmoid",)  # its beta is made from the kept pairs of the batch it sees


def global_inputs(name: str, whole: Arrays) -> Arrays:
    """What a part needs to know of the whole batch, as a trainer would reduce it over ranks."""
    if name == "dpo.kto_pair":
        means = {}
        for side in ("chosen", "rejected"):
            ratios = whole[f"policy_{side}_logps"] - whole[f"ref_{side}_logps"]
            means[f"{side}_kl_mean"] = prefopt.kto_kl(state=(ratios.sum(), len(ratios)))
        return means
    pairs = {
        "gathered_policy_logratios": ("policy_chosen_logps", "policy_rejected_logps"),
        "gathered_ref_logratios": ("ref_chosen_logps", "ref_rejected_logps"),
        "gathered_chosen_logratios": ("policy_chosen_logps", "ref_chosen_logps"),
        "gathered_rejected_logratios": ("policy_rejected_logps", "ref_rejected_logps"),
    }
    mine = [item.name for item in ROWS[name].inputs if item.name in pairs]
    return {key: whole[pairs[key][0]] - whole[pairs[key][1]] for key in mine}


def token_count(name: str, whole: Arrays) -> float:
    if "mask" in whole:
        return float(whole["mask"].sum())
    key = next(k for k in ("gold_lengths", "chosen_lengths", "lengths") if k in whole)
    return float(whole[key].sum())


@pytest.mark.parametrize("name", sorted(set(LOSSES) - set(NOT_CUT)))
@SETTINGS
@given(seed=SEEDS, cut=st.integers(1, SIZE - 1))
def test_parts_with_global_inputs_add_up(name: str, seed: int, cut: int) -> None:
    """Each part's losses over the global count: their sum is the mean of one process, and every
    gradient is the same.
    """
    whole = batch(name, seed)
    if name == "dpo.kto_pair":
        del whole["chosen_kl_mean"], whole["rejected_kl_mean"]
    shape = run(name, whole).losses.shape
    weight = 1 / np.prod(shape)
    single = run(name, whole, grad_losses=np.full(shape, weight))
    total, grads = 0.0, []
    for rows in (slice(0, cut), slice(cut, SIZE)):
        part = take(whole, rows)
        options: Arrays = global_inputs(name, whole)
        if any(key.startswith("gathered") for key in options):
            options["gather_offset"] = float(rows.start)
        size = rows.stop - rows.start
        if parameter := (TOKEN_COUNTS | NLL_TERMS).get(name):  # the part's share of all tokens
            options[parameter] = token_count(name, whole) * size / SIZE
        losses = run(name, part, **options).losses
        each = np.full(losses.shape, weight)
        found = run(name, part, **options, grad_losses=each)
        total += float((found.losses * each).sum())
        grads.append(found.grads)
    np.testing.assert_allclose(total, single.losses.mean(), rtol=1e-12, atol=1e-13)
    for key, want in single.grads.items():
        got = np.concatenate([part[key] for part in grads])
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-14, err_msg=key)


@pytest.mark.parametrize("name", sorted(TOKEN_COUNTS))
@SETTINGS
@given(seed=SEEDS, cut=st.integers(1, SIZE - 1))
def test_means_over_parts_with_the_global_token_count_add_up(
    name: str, seed: int, cut: int
) -> None:
    """The same seen from accumulation steps: each takes the mean of its losses, unscaled."""
    whole = batch(name, seed)
    count = {TOKEN_COUNTS[name]: token_count(name, whole)}
    parts = (take(whole, slice(0, cut)), take(whole, slice(cut, SIZE)))
    means = [run(name, part, **count).losses.mean() for part in parts]
    np.testing.assert_allclose(sum(means), run(name, whole).losses.mean(), rtol=1e-12, atol=1e-13)


@SETTINGS
@given(seed=SEEDS, cut=st.integers(1, SIZE - 1))
def test_state_of_parts_is_that_of_the_whole(seed: int, cut: int) -> None:
    """z0 from (sum, count) of two ranks; delta from one rank's state, then the other's."""
    rng = np.random.default_rng(seed)
    policy, ref = rng.uniform(-60, -50, (2, SIZE))
    ratios = policy - ref
    state = (ratios[:cut].sum() + ratios[cut:].sum(), SIZE)
    np.testing.assert_allclose(prefopt.kto_kl(policy, ref), prefopt.kto_kl(state=state), rtol=1e-13)
    whole = prefopt.bco_delta(ratios)
    first = prefopt.bco_delta(ratios[:cut])
    both = prefopt.bco_delta(ratios[cut:], state_mean=first.mean, state_count=first.count)
    np.testing.assert_allclose(both, whole, rtol=1e-13)
