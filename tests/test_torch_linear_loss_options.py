"""LinearPreferenceLoss: modifiers, what is given beside hidden states, metrics, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_linear_cases import logits, truth, within, worst  # noqa: E402
from torch_linear_loss_cases import (  # noqa: E402
    EXACT,
    LAYOUTS,
    OPTIONS,
    PAIRS,
    PARAMETERS,
    REFERENCE,
    TOKENS,
    VOCAB,
    arguments,
    batch,
    call,
    differences,
    laid_out,
    of_caller,
    true_inputs,
    true_loss,
)

from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt.torch import LinearPreferenceLoss, _preference_passes  # noqa: E402

# ---- modifiers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dpo.sigmoid", "dpo.hinge", "tdpo.tdpo2", "rdpo.sigmoid"])
def test_wpo(name: str) -> None:
    for layout in LAYOUTS:
        for error in differences(name, layout, PARAMETERS, wpo=True):
            within(error, EXACT)


PARAMETER_SETS: dict[str, dict[str, Any]] = {
    "dpo.sigmoid": {"beta": 0.4, "label_smoothing": 0.2, "f_divergence_type": "js_divergence"},
    "dpo.hinge": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
    "cpo.simpo": {"beta": 2.0, "simpo_gamma": 1.1, "cpo_alpha": 0.3},
    "eps_dpo.sigmoid": {"beta": 0.5, "perturbation": 0.01},
    "grpo.grpo": {"epsilon": 0.1, "kl_beta": 0.2},
    "dpo.robust": {"label_smoothing": 0.1, "convention": "trl-1.16"},
    "dpo.ipo": {"convention": "trl-1.16", "beta": 0.3},
}


@pytest.mark.parametrize("name", PARAMETER_SETS)
def test_parameters(name: str) -> None:
    for error in differences(name, "padded", PARAMETERS, **PARAMETER_SETS[name]):
        within(error, EXACT)


def test_ipo_by_sums() -> None:
    """average=False is the paper's form, and OpenRLHF's, which knows no other."""
    both = batch()
    inputs = true_inputs(both, "dpo.ipo")
    sums = {key: each for key, each in inputs.items() if "lengths" not in key}
    expected = prefopt_torch.loss("dpo.ipo", **sums).losses.mean()
    for options in ({"average": False}, {"convention": "openrlhf-3c3be62"}):
        within(worst(call(both, "dpo.ipo", **options)[0], expected), 5e-14)
    assert abs(float(call(both, "dpo.ipo")[0] - expected)) > 1


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("ld_reference", [True, False])
def test_ld_dpo(layout: str, ld_reference: bool) -> None:
    """Tokens beyond the shorter answer count alpha; the reference's too, or not."""
    both, alpha = batch(), torch.tensor(0.3, dtype=torch.float64)
    given = {key: both[f"ref_{key}"] for key in ("hidden", "weight", "bias")}
    policy = truth(both, **OPTIONS)["logps"]
    ref = truth({**given, "labels": both["labels"]}, **OPTIONS)["logps"]
    mask = both["labels"] != -100
    lengths = mask.sum(1)
    shorter = torch.minimum(lengths, lengths.roll(PAIRS))
    weights = torch.where(mask.cumsum(1) <= shorter[:, None], 1.0, alpha) * mask
    policy_sums = (policy * weights).sum(1)
    ref_sums = (ref * (weights if ld_reference else 1)).sum(1)
    expected = prefopt_torch.dpo_loss(
        *policy_sums.split(PAIRS), *ref_sums.split(PAIRS)
    ).losses.mean()
    got, logged = call(
        laid_out(both, layout), "dpo.sigmoid", ld_alpha=0.3, ld_reference=ld_reference
    )
    within(worst(got, expected), EXACT)
    within(worst(logged["logps/chosen"], policy_sums[:PAIRS].mean()), EXACT)


def test_several_losses() -> None:
    """MPO's sum; inputs and parameters go to the losses that have them."""
    both = batch()
    names, weights = (
        ("dpo.sigmoid", "dpo.bco_pair", "dpo.sft", "rdpo.sigmoid"),
        (0.8, 0.2, 1.0, 0.5),
    )
    got, logged = call(
        both, names, loss_weights=weights, rdpo_alpha=0.2, beta=0.3, extra={"delta": 0.1}
    )
    parts = [
        prefopt_torch.loss(name, **true_inputs(both, name), **options, beta=0.3).losses.mean()
        for name, options in zip(names, ({}, {"delta": 0.1}, {}, {"rdpo_alpha": 0.2}), strict=True)
    ]
    within(worst(got, sum(w * part for w, part in zip(weights, parts, strict=True))), EXACT)
    alone = call(both, "dpo.sigmoid", beta=0.3)[1]
    assert {key: float(each) for key, each in alone.items()}.items() <= {
        key: float(each) for key, each in logged.items()
    }.items()


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_reference_log_probs_that_were_made_before(layout: str) -> None:
    both = laid_out(batch(dtype=torch.float32), layout)
    expected = call(both, "dpo.sigmoid")
    ref = prefopt_torch.linear_token_logps(
        both["ref_hidden"], both["ref_weight"], both["labels"], bias=both["ref_bias"], **OPTIONS
    ).logps
    sums = prefopt_torch.sequence_logps(
        ref, both["labels"] != -100, cu_seqlens=both.get("cu_seqlens")
    )
    bare = {key: each for key, each in both.items() if not key.startswith("ref_")}
    for given in ({"ref_logps": sums}, {"ref_token_logps": ref}):
        got = call({**bare, **given}, "dpo.sigmoid")
        assert torch.equal(got[0], expected[0])
        assert got[1] == expected[1]


def test_reference_is_not_read_where_nothing_counts() -> None:
    both = batch()
    ref = torch.full((2 * PAIRS, TOKENS), -1.5, dtype=torch.float64)
    bare = {key: each for key, each in both.items() if not key.startswith("ref_")}
    expected = call({**bare, "ref_token_logps": ref}, "dpo.sigmoid")[0]
    ref = ref.masked_fill(both["labels"] == -100, math.nan)
    assert torch.equal(call({**bare, "ref_token_logps": ref}, "dpo.sigmoid")[0], expected)


def test_perturbation_of_both_models_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(policy: Any, ref: Any, perturbation: float, *rest: Any, **options: Any) -> Any:
        seen.append(perturbation)
        return real(policy, ref, perturbation, *rest, **options)

    real = _preference_passes.pair_values
    monkeypatch.setattr(_preference_passes, "pair_values", spy)
    call(batch(), "eps_dpo.sigmoid")
    call(batch(), "eps_dpo.sigmoid", perturbation=0.2)
    assert seen == [0.01, 0.2]


def test_a_policy_that_is_its_reference_has_ln_2() -> None:
    both = batch(dtype=torch.float32)
    both["lora_a"].zero_()
    both.update({f"ref_{key}": both[key] for key in REFERENCE})
    got, logged = call(both, "dpo.sigmoid")
    assert got.item() == pytest.approx(math.log(2), rel=1e-7)
    assert logged["rewards/margins"].item() == 0.0


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("name", ["orpo.orpo", "cpo.sigmoid"])
def test_nll_over_other_tokens(name: str, layout: str) -> None:
    """TRL's ORPO counts the prompt's tokens too."""
    both = batch()
    nll_labels = both["labels"][:PAIRS].clone()
    nll_labels[:, :2] = 3
    if layout == "packed":
        both = laid_out(both, layout)
        kept = torch.ones(PAIRS, TOKENS, dtype=torch.bool)
        kept[0, -1] = kept[2, -3:] = False
        given = nll_labels[kept]
        nll_labels[~kept] = -100
    else:
        given = nll_labels
    padded = batch()
    chosen = {**padded, "hidden": padded["hidden"][:PAIRS], "labels": nll_labels}
    inputs = true_inputs(padded, name)
    inputs["chosen_nll"] = -truth(chosen, **OPTIONS)["logps"].sum(1)
    count = int((nll_labels != -100).sum())
    expected = prefopt_torch.loss(name, **inputs, nll_tokens=count).losses.mean()
    got, logged = call(both, name, extra={"nll_labels": given})
    within(worst(got, expected), EXACT)
    within(worst(logged["nll_loss"], inputs["chosen_nll"].sum() / count), EXACT)
    convention = "trl-1.16" if name == "orpo.orpo" else None
    assert torch.equal(call(both, name, extra={"nll_labels": given}, convention=convention)[0], got)


def test_state_that_has_this_batch_in_it() -> None:
    """BCO's running mean is updated with a batch before its loss; eps-DPO's beta after it."""
    both = batch()
    state: list[Any] = []

    def delta(given: Any) -> float:
        assert not any(e.requires_grad for e in given.values() if isinstance(e, torch.Tensor))
        rewards = 0.3 * (given["policy_logps"] - given["ref_logps"])
        state.append(prefopt_torch.bco_delta(rewards, state_mean=1.5, state_count=10.0))
        return float(state[0].mean)

    both["weight"].requires_grad_()
    given = {**of_caller("bco.bco"), "delta": delta}
    got, logged = call(both, "bco.bco", beta=0.3, extra=given, per_item=True)
    inputs = {**of_caller("bco.bco"), **true_inputs(both, "bco.bco")}
    rewards = 0.3 * (inputs["policy_logps"] - inputs["ref_logps"])
    mean = (15 + rewards.sum().item()) / 16
    result = prefopt_torch.loss("bco.bco", **{**inputs, "delta": mean}, beta=0.3)
    within(worst(got, result.losses.mean()), EXACT)
    within(worst(logged["losses"], result.losses), 8e-15)
    within(worst(logged["rewards"], result.rewards), 8e-15)
    assert not logged["losses"].requires_grad

    module = LinearPreferenceLoss("eps_dpo.sigmoid", beta=0.1, per_item=True)
    _, logged = module(**arguments(both, "eps_dpo.sigmoid"), beta=0.4)
    fixed = LinearPreferenceLoss("eps_dpo.sigmoid", beta=0.4, per_item=True)
    assert torch.equal(fixed(**arguments(both, "eps_dpo.sigmoid"))[1]["losses"], logged["losses"])
    assert float(prefopt_torch.eps_dpo_beta(logged["steps"], beta=0.4).beta) != 0.4


# ---- metrics -------------------------------------------------------------------------------------


def with_hits(both: dict[str, Any]) -> dict[str, Any]:
    """Labels that are the most probable entries: of the chosen answers more than of the others."""
    best = logits(both, OPTIONS).argmax(-1)
    for k in (0, 1, 4):
        both["labels"][k, 2] = best[k, 2]
    return both


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_metrics_of_pairs(layout: str) -> None:
    both = with_hits(batch())
    for tensor in (both["hidden"], both["weight"]):
        tensor.requires_grad_()
    got = call(laid_out(both, layout), "dpo.sigmoid", beta=0.3)[1]
    assert not any(each.requires_grad or each.dim() for each in got.values())
    _, result = true_loss(both, "dpo.sigmoid", beta=0.3)
    tokens, mask = truth(both, **OPTIONS), both["labels"] != -100
    chosen, rejected = result.chosen_rewards, result.rejected_rewards
    sides = {"chosen": slice(None, PAIRS), "rejected": slice(PAIRS, None)}
    expected = {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/accuracies": (chosen > rejected).double().mean(),
        "rewards/margins": (chosen - rejected).mean(),
        "entropy": tokens["entropy"][mask].mean(),
        "mean_token_accuracy": tokens["correct"][:PAIRS][mask[:PAIRS]].double().mean(),
    }
    for side, part in sides.items():
        expected[f"logps/{side}"] = tokens["logps"][part].sum(1).mean()
        expected[f"logits/{side}"] = tokens["mean_logit"][part][mask[part]].mean()
    assert set(got) == set(expected)
    for name, each in expected.items():
        within(worst(got[name], each), 1.4e-14)


def test_metrics_of_single_answers() -> None:
    both = with_hits(batch())
    got = call(both, "kto.kto", beta=0.3)[1]
    _, result = true_loss(both, "kto.kto", beta=0.3)
    tokens, mask, desirable = (
        truth(both, **OPTIONS),
        both["labels"] != -100,
        of_caller("kto.kto")["desirable"],
    )
    expected = {
        "kl": torch.tensor(0.75),
        "entropy": tokens["entropy"][mask].mean(),
        "mean_token_accuracy": tokens["correct"][mask].double().mean(),
        "rewards/margins": result.rewards[desirable].mean() - result.rewards[~desirable].mean(),
    }
    for side, kept in (("chosen", desirable), ("rejected", ~desirable)):
        expected[f"rewards/{side}"] = result.rewards[kept].mean()
        expected[f"logps/{side}"] = tokens["logps"][kept].sum(1).mean()
        expected[f"logits/{side}"] = tokens["mean_logit"][kept][mask[kept]].mean()
    assert set(got) == set(expected)
    for name, each in expected.items():
        within(worst(got[name], each), 1.4e-14)


def test_other_metrics() -> None:
    both = batch()
    inputs = true_inputs(both, "tdpo.tdpo1")
    got = call(both, "tdpo.tdpo1")[1]
    for side in ("chosen", "rejected"):
        within(worst(got[f"kl/{side}"], inputs[f"{side}_kl"].mean()), 1.4e-14)
    inputs = true_inputs(both, "grpo.grpo")
    mask = inputs["mask"]
    difference = (inputs["logps"] - inputs["ref_token_logps"])[mask]
    expected = ((-difference).exp() + difference - 1).mean()
    got = call(both, "grpo.grpo")[1]
    within(worst(got["kl"], expected) / float(expected), 1.4e-14)
    assert set(got) == {"kl", "entropy", "mean_token_accuracy"}
    assert call(both, "dpo.sigmoid", metrics=False)[1] == {}


# ---- what is refused -----------------------------------------------------------------------------

BAD_CONSTRUCTION = {
    "name": ({"loss": "dpo.nonsense"}, ValueError, "no loss is called"),
    "no name": ({"loss": ()}, ValueError, "loss: expected a name"),
    "procedure": ({"loss": "eps_dpo.beta"}, ValueError, "eps_dpo.beta is a procedure"),
    "kinds": ({"loss": ("dpo.sigmoid", "kto.kto")}, ValueError, "over pairs, or losses over"),
    "parameter": ({"loss": "dpo.sigmoid", "betta": 1.0}, TypeError, "betta: .* mean beta"),
    "denominator": ({"loss": "sft.nll", "nll_tokens": 3}, TypeError, "expected in the call"),
    "weights": ({"loss": ("dpo.sft",), "loss_weights": (1, 2)}, ValueError, "expected 1 numbers"),
    "infinite": ({"loss": "dpo.sft", "loss_weights": (math.inf,)}, ValueError, "finite numbers"),
    "wpo": ({"loss": "dpo.aot", "wpo": True}, ValueError, "wpo: dpo.aot takes no weights"),
    "ld": ({"loss": "kto.kto", "ld_alpha": 0.5}, ValueError, "ld_alpha: kto.kto is no loss over"),
    "ld range": ({"loss": "dpo.sigmoid", "ld_alpha": 2}, ValueError, "ld_alpha: expected"),
    "average": ({"loss": "cpo.simpo", "average": False}, ValueError, "average: cpo.simpo has one"),
}


@pytest.mark.parametrize("case", BAD_CONSTRUCTION)
def test_bad_construction(case: str) -> None:
    given, error, match = BAD_CONSTRUCTION[case]
    with pytest.raises(error, match=match):
        LinearPreferenceLoss(**given)


BAD_CALLS: dict[str, tuple[str, dict[str, Any], Any, str]] = {
    "input": ("dpo.sigmoid", {"desirable": 1}, TypeError, "desirable: dpo.sigmoid takes no such"),
    "odd": ("dpo.sigmoid", {"labels": torch.zeros(5, 7, dtype=torch.long)}, ValueError, "even num"),
    "flat": ("dpo.sigmoid", {"labels": torch.zeros(4).long()}, ValueError, r"expected \[S, T\]"),
    "none": ("dpo.sigmoid", {"ref_hidden": None, "ref_weight": None, "ref_bias": None}, ValueError,
             "ref_logps: dpo.sigmoid needs a reference: ref_logps, ref_token_logps, or"),
    "token reference": ("kl.k3", {"ref_hidden": None, "ref_weight": None, "ref_bias": None},
                        ValueError, "ref_token_logps: kl.k3 needs a reference"),
    "half": ("dpo.sigmoid", {"ref_weight": None}, ValueError, "ref_weight: expected ref_hidden"),
    "both": ("dpo.sigmoid", {"ref_logps": torch.zeros(6)}, ValueError, "ref_logps: expected one"),
    "unused": ("cpo.simpo", {"ref_logps": torch.zeros(6)}, ValueError, "none of the losses has a"),
    "size": ("dpo.sigmoid", {"ref_hidden": None, "ref_weight": None, "ref_bias": None,
             "ref_logps": torch.zeros(3)}, ValueError, r"ref_logps: expected \(6,\)"),
    "whole rows": ("tdpo.tdpo1", {"ref_hidden": None, "ref_weight": None, "ref_bias": None,
                   "ref_logps": torch.zeros(6)}, ValueError, "ref_hidden: tdpo.tdpo1 reads both"),
    "missing": ("kto.kto", {"desirable": None}, ValueError, "desirable: kto.kto needs it"),
    "gold": ("tpo.sigmoid", {"gold_labels": None}, ValueError, "gold_labels: expected gold_hidden"),
    "no gold": ("dpo.sigmoid", {"gold_hidden": torch.zeros(3, 4, 5), "gold_labels": torch.zeros(
                3, 4).long()}, ValueError, "gold_hidden: none of the losses"),
    "no nll": ("dpo.sigmoid", {"nll_labels": torch.zeros(3, 7).long()}, ValueError, "nll_labels:"),
    "cuts": ("dpo.sigmoid", {"labels": torch.zeros(42).long(), "cu_seqlens": torch.tensor([0, 50])},
             ValueError, "cu_seqlens"),
    "list of cuts": ("dpo.sigmoid", {"cu_seqlens": [0, 50]}, TypeError, "cu_seqlens: expected a"),
    "range": ("dpo.sigmoid", {"labels": torch.full((6, 7), VOCAB)}, ValueError, "labels"),
    "group": ("tdpo.tdpo1", {"group": 1}, ValueError, "group: losses over whole rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_call(case: str) -> None:
    name, change, error, match = BAD_CALLS[case]
    given = {**arguments(batch(), name), **of_caller(name), **change}
    with pytest.raises(error, match=match):
        LinearPreferenceLoss(name)(**given)


def test_repr_shows_losses_and_parameters() -> None:
    module = LinearPreferenceLoss(("dpo.sigmoid", "dpo.sft"), beta=0.2)
    assert repr(module) == "LinearPreferenceLoss(dpo.sigmoid, dpo.sft, beta=0.2)"
