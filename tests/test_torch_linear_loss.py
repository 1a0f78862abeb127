"""LinearPreferenceLoss: every row of the list against prefopt.torch's losses on whole logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import row_cases
from row_cases import LOSSES, ROWS

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_linear_cases import WAYS, leaves_of, make, truth, within, worst  # noqa: E402

from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt.torch import LinearPreferenceLoss  # noqa: E402

PAIRS, TOKENS, VOCAB = 3, 7, 19
NO_HEAD = ("reward_model.bradley_terry", "ppo.value_clip")  # scores and values, no vocabulary
ROWS_WITH_HEAD = [name for name in LOSSES if name not in NO_HEAD]
LAYOUTS = ("padded", "shared", "packed")
PARAMETERS = ("hidden", "weight", "bias", "lora_a", "lora_b")
EXACT = 3e-15  # float64, relative to the largest value; 1.7e-15 measured (2026-11, Zen 5)
REFERENCE = ("hidden", "weight", "bias")
OPTIONS = {"logit_scale": 0.8, "softcap": 6.0, "temperature": 1.2}
# Inputs that the passes give; every other one is the caller's.
DERIVED = {
    *("policy_logps", "ref_logps", "lengths", "logps", "ref_token_logps", "mask"),
    *(f"{side}_{what}" for side in ("chosen", "rejected") for what in ("lengths", "nll", "kl")),
    *(f"{model}_{side}_logps" for model in ("policy", "ref") for side in ("chosen", "rejected")),
    *(f"{side}_{sign}_logps" for side in ("chosen", "rejected") for sign in ("plus", "minus")),
    *(f"{m}_{side}_token_logps" for m in ("policy", "ref") for side in ("chosen", "rejected")),
    *("gold_nll", "gold_lengths", "target_nll", "chosen_weights", "rejected_weights"),
}


def is_paired(name: str) -> bool:
    return ROWS[name].kind == "pair" or name.startswith("sampo")


def needs_reference(name: str) -> bool:
    return any(i.name.startswith("ref_") or "_plus_" in i.name for i in ROWS[name].inputs)


def needs_gold(name: str) -> bool:
    return any(item.name in ("gold_nll", "target_nll") for item in ROWS[name].inputs)


# ---- a batch, and what is true of it -------------------------------------------------------------


def batch(answers: int = 2 * PAIRS, dtype: Any = torch.float64) -> dict[str, Any]:
    """Policy, reference and gold answers, padded; answers of different lengths, one of them empty
    beside its prompt.
    """
    made = make((answers, TOKENS), 5, VOCAB, dtype=dtype, bias=True, rank=2)
    ref = make((answers, TOKENS), 4, VOCAB, dtype=dtype, bias=True, seed=1)
    gold = make((answers // 2, 4), 5, VOCAB, dtype=dtype, seed=2)
    for k in range(answers):
        made["labels"][k, : 1 + k % 2] = -100
        made["labels"][k, TOKENS - 1 - (5 * k) % 4 :] = -100
    if answers > 3:
        made["labels"][3] = -100
    made.update({f"ref_{name}": ref[name] for name in ("hidden", "weight", "bias")})
    made.update({f"gold_{name}": gold[name] for name in ("hidden", "labels")})
    return made


def laid_out(both: dict[str, Any], layout: str) -> dict[str, Any]:
    """The batch as another layout has it, every token's hidden state the same."""
    both = dict(both)
    if layout == "packed":
        kept = torch.ones_like(both["labels"], dtype=torch.bool)
        kept[0, -1] = kept[2, -3:] = False  # lengths differ; what goes does not count
        both["cu_seqlens"] = torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))
        for name in ("hidden", "labels", "ref_hidden"):
            both[name] = both[name][kept]
        gold = both["gold_labels"].shape
        both["gold_cu_seqlens"] = torch.arange(gold[0] + 1) * gold[1]
        both["gold_hidden"] = both["gold_hidden"].flatten(0, 1)
        both["gold_labels"] = both["gold_labels"].flatten()
    return both


def tied(both: dict[str, Any]) -> dict[str, Any]:
    """Both answers of a pair from the same hidden states."""
    both = dict(both)
    for name in ("hidden", "ref_hidden"):
        half = both[name][: both[name].shape[0] // 2]
        both[name] = torch.cat([half, half])
    return both


def of_caller(name: str) -> dict[str, Any]:
    """Inputs that no pass gives."""
    size = PAIRS if is_paired(name) else 2 * PAIRS
    arrays = row_cases.inputs(name, size=size, width=TOKENS)
    return {
        key: torch.from_numpy(each) if isinstance(each, np.ndarray) else each
        for key, each in arrays.items()
        if key not in DERIVED
    }


def true_inputs(both: dict[str, Any], name: str, *, wpo: bool = False) -> dict[str, Any]:
    """Every derived input that the row takes, from whole logits."""
    policy = truth(both, **OPTIONS)
    given = {key: both[f"ref_{key}"] for key in ("hidden", "weight", "bias")}
    ref = truth({**given, "labels": both["labels"]}, **OPTIONS)
    mask = both["labels"] != -100
    stats = pair_stats(both, given, mask)
    of_tokens = {"policy_{}logps": policy["logps"], "ref_{}logps": ref["logps"], **stats}
    sums = {stem: each.sum(1) for stem, each in of_tokens.items()}
    sums["{}lengths"] = mask.sum(1)
    sums["policy_{}token_logps"], sums["ref_{}token_logps"] = policy["logps"], ref["logps"]
    if wpo:
        excess = policy["logps"] - (policy["lse2"] - 2 * policy["lse"])
        sums["{}weights"] = (excess.sum(1) / mask.sum(1).clamp(min=1)).exp().detach()
    if not is_paired(name):
        found = {stem.format(""): each for stem, each in sums.items()}
        found.update(logps=policy["logps"], mask=mask)
    else:
        half = both["labels"].shape[0] // 2
        parts = {"chosen_": slice(None, half), "rejected_": slice(half, None)}
        found = {s.format(side): e[part] for s, e in sums.items() for side, part in parts.items()}
        found["chosen_nll"] = -found["policy_chosen_logps"]
        gold = {**both, "hidden": both["gold_hidden"], "labels": both["gold_labels"]}
        found["gold_nll"] = found["target_nll"] = -truth(gold, **OPTIONS)["logps"].sum(1)
        found["gold_lengths"] = (both["gold_labels"] != -100).sum(1)
    names = {item.name for item in ROWS[name].inputs}
    return {key: each for key, each in found.items() if key in names}


def pair_stats(both: dict[str, Any], given: dict[str, Any], mask: Any) -> dict[str, Any]:
    from torch_linear_cases import logits

    x, y = logits(both, OPTIONS), logits(given, OPTIONS)
    log_p, log_r = x.log_softmax(-1), y.log_softmax(-1)
    index = both["labels"].clamp(min=0).unsqueeze(-1)
    found = {"{}kl": (log_r.exp() * (log_r - log_p)).sum(-1)}
    for sign, factor in (("plus", 0.01), ("minus", -0.01)):
        moved = (x + factor * (x - y)).log_softmax(-1)
        found["{}" + sign + "_logps"] = moved.gather(-1, index).squeeze(-1)
    return {key: torch.where(mask, each, 0) for key, each in found.items()}


def true_loss(both: dict[str, Any], name: str, **options: Any) -> Any:
    """The mean of the row's losses, and its result."""
    wpo = options.pop("wpo", False)
    inputs = {**true_inputs(both, name, wpo=wpo), **of_caller(name)}
    result = prefopt_torch.loss(name, **inputs, **options)
    if ROWS[name].tokenwise:
        return result.losses.sum() / inputs["mask"].sum(), result
    return result.losses.mean(), result


def arguments(both: dict[str, Any], name: str) -> dict[str, Any]:
    """The tensors of a batch that a call for the row takes."""
    names = [*PARAMETERS, "labels", "cu_seqlens"]
    names += [key for key in both if key.startswith("ref_") and needs_reference(name)]
    names += [key for key in both if key.startswith("gold_") and needs_gold(name)]
    return {key: both[key] for key in names if key in both}


def differences(name: str, layout: str, trained: tuple[str, ...], **options: Any) -> list[float]:
    """Of the loss and of each gradient from the truth."""
    params = {key: options.pop(key) for key in list(options) if key != "wpo"}
    both = tied(batch()) if layout == "shared" else batch()
    exact = leaves_of(both, ())
    ours = leaves_of(both, ())
    for key in trained:
        ours[key].requires_grad_(), exact[key].requires_grad_()
    call = laid_out(ours, layout)
    if layout == "shared":
        half = call["labels"].shape[0] // 2
        call.update({key: call[key][:half] for key in ("hidden", "ref_hidden")})
    module = LinearPreferenceLoss(name, **OPTIONS, **options, **params)
    loss, _ = module(**arguments(call, name), **of_caller(name))
    expected, _ = true_loss(exact, name, **options, **params)
    found = torch.autograd.grad(loss, [ours[key] for key in trained])
    wanted = list(torch.autograd.grad(expected, [exact[key] for key in trained]))
    if layout == "shared" and "hidden" in trained:
        half = wanted[0].shape[0] // 2
        wanted[0] = torch.cat(
            [wanted[0][:half] + wanted[0][half:], torch.zeros_like(wanted[0][half:])]
        )
    pairs = zip([loss, *found], [expected, *wanted], strict=True)
    return [worst(got, want) / (1 + float(want.detach().abs().max())) for got, want in pairs]


# ---- every row -----------------------------------------------------------------------------------


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with WAYS[request.param]():
        yield request.param


CASES = [
    (name, layout)
    for name in ROWS_WITH_HEAD
    for layout in LAYOUTS
    if layout != "shared" or is_paired(name)  # the answers of a pair share their prompt
]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_every_row_is_that_of_whole_logits(name: str, layout: str) -> None:
    for trained in (PARAMETERS, ("hidden",)):
        for error in differences(name, layout, trained):
            within(error, EXACT)


@pytest.mark.parametrize("name", NO_HEAD)
def test_rows_without_a_vocabulary_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"loss: {name} takes no log-probabilities"):
        LinearPreferenceLoss(name)


@pytest.mark.parametrize("name", ["dpo.ipo", "kto.kto", "tdpo.tdpo1", "grpo.grpo", "orpo.orpo"])
def test_ways_into_the_operators(way: str, name: str) -> None:
    for trained in (PARAMETERS, ("hidden",)):
        for error in differences(name, "padded", trained):
            within(error, EXACT)


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


def call(
    both: dict[str, Any], loss: Any, *, extra: dict[str, Any] | None = None, **options: Any
) -> Any:
    """(loss, metrics) of the batch."""
    name = loss if isinstance(loss, str) else loss[0]
    module = LinearPreferenceLoss(loss, **OPTIONS, **options)
    return module(**arguments(both, name), **(extra or of_caller(name)))


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
    both, alpha = batch(), 0.25
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
        laid_out(both, layout), "dpo.sigmoid", ld_alpha=alpha, ld_reference=ld_reference
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


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_metrics_of_pairs(layout: str) -> None:
    both = batch()
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
    both = batch()
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


# ---- denominators --------------------------------------------------------------------------------

# A sort, a mean or a statistic over the batch makes the loss of a part another one.
COUPLED = {"dpo.aot", "dpo.aot_unpaired", "beta_dpo.sigmoid", "dpo.kto_pair"}


HEADS = {*PARAMETERS, "ref_weight", "ref_bias"} - {"hidden"}


def parts_of(both: dict[str, Any], extra: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The batch in two calls of one and two pairs (or two and four answers)."""
    size = PAIRS if is_paired(name) else 2 * PAIRS
    for items in (slice(0, size // 3), slice(size // 3, None)):
        answers = torch.arange(2 * PAIRS)
        answers = torch.cat([a[items] for a in answers.split(size)])
        part = {}
        for key, each in {**arguments(both, name), **extra}.items():
            if not isinstance(each, torch.Tensor) or key in HEADS:
                part[key] = each
            elif each.shape[0] == 2 * PAIRS and key not in ("udm_weights",):
                part[key] = each[answers]
            else:
                part[key] = each[items]
        yield part


@pytest.mark.parametrize("name", sorted(set(ROWS_WITH_HEAD) - COUPLED))
def test_micro_batches_add_up(name: str) -> None:
    both = leaves_of(batch(), PARAMETERS)
    extra = of_caller(name)
    module = LinearPreferenceLoss(name, **OPTIONS)
    whole, _ = module(**arguments(both, name), **extra)
    wanted = torch.autograd.grad(whole, [both[key] for key in PARAMETERS])
    tokens = (both["labels"] != -100).sum()
    nll_tokens = tokens if name == "sft.nll" else (both["labels"][:PAIRS] != -100).sum()
    if needs_gold(name):
        nll_tokens = (both["gold_labels"] != -100).sum()
    numbers = {
        "num_items": PAIRS if is_paired(name) else 2 * PAIRS,
        "nll_tokens": nll_tokens,
        "num_tokens": tokens,
    }
    parts = [module(**part, **numbers)[0] for part in parts_of(both, extra, name)]
    assert len(parts) == 2
    found = torch.autograd.grad(sum(parts), [both[key] for key in PARAMETERS])
    for got, want in zip([sum(parts), *found], [whole, *wanted], strict=True):
        within(worst(got, want) / (1 + float(want.detach().abs().max())), EXACT)


def test_denominators_that_are_missing() -> None:
    both = batch()
    for name, missing in (("cpo.sigmoid", "nll_tokens"), ("grpo.dapo", "num_tokens")):
        with pytest.raises(ValueError, match=f"{missing}: {name} needs it beside num_items"):
            call(both, name, extra={**of_caller(name), "num_items": 8})
    for number in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="num_items: expected a finite number > 0"):
            call(both, "dpo.sigmoid", extra={"num_items": number})


# ---- nothing there -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS_WITH_HEAD)
def test_no_answers(name: str) -> None:
    """A loss of 0 with gradients of 0: a process without answers still takes part in backward."""
    both = {k: e if k in HEADS else e[:0] for k, e in batch().items()}
    both = leaves_of(both, PARAMETERS)
    extra = {k: e[:0] if isinstance(e, torch.Tensor) else e for k, e in of_caller(name).items()}
    loss, logged = call(both, name, extra=extra)
    assert loss.item() == 0
    grads = torch.autograd.grad(loss, [both[key] for key in PARAMETERS])
    assert not any(each.any() for each in grads)
    assert not any(each.item() for key, each in logged.items() if key != "kl")


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize(
    "name", ["dpo.sigmoid", "cpo.simpo", "orpo.orpo", "dpo.sft", "kto.kto", "grpo.dapo"]
)
def test_no_tokens(name: str, layout: str) -> None:
    """Answers without tokens that count have log-probability 0; no gradient comes of them."""
    both = batch()
    both["labels"].fill_(-100)
    both = leaves_of(laid_out(both, layout), PARAMETERS)
    loss, logged = call(both, name)
    assert loss.isfinite()
    loss.backward()
    assert not any(both[key].grad.any() for key in PARAMETERS)
    assert all(each.isfinite() for each in logged.values())


# ---- dtypes, compilers ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["dpo.sigmoid", "tdpo.tdpo2"])
def test_dtypes(dtype: Any, name: str) -> None:
    """Computed in float32 from exact inputs; gradients in the parameters' dtypes."""
    both = batch(dtype=dtype)
    ours = leaves_of(both, PARAMETERS)
    exact = leaves_of(both, PARAMETERS, torch.float64)
    for key, each in exact.items():
        exact[key] = each if each.is_floating_point() else both[key]
    got, expected = call(ours, name)[0], true_loss(exact, name)[0]
    assert got.dtype is torch.float32
    within(worst(got, expected), 1.2e-7)
    found = torch.autograd.grad(got, [ours[key] for key in PARAMETERS])
    wanted = torch.autograd.grad(expected, [exact[key] for key in PARAMETERS])
    rounding = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}.get(dtype, 0.0)
    for key, ours_, theirs in zip(PARAMETERS, found, wanted, strict=True):
        assert ours_.dtype is both[key].dtype
        within(worst(ours_, theirs, rounding), 2.6e-8)


@pytest.mark.parametrize("name", ["dpo.sigmoid", "grpo.grpo", "tdpo.tdpo2"])
def test_compiles_without_a_graph_break(name: str) -> None:
    both = leaves_of(batch(dtype=torch.float32), PARAMETERS)
    module, extra = LinearPreferenceLoss(name, **OPTIONS), of_caller(name)
    given = arguments(both, name)

    def step(hidden: Any) -> Any:
        return module(**{**given, "hidden": hidden * 1}, **extra)

    torch._dynamo.reset()
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(both["hidden"])
    expected = step(both["hidden"])
    assert torch.equal(got[0], expected[0])
    assert {key: float(each) for key, each in got[1].items()} == {
        key: float(each) for key, each in expected[1].items()
    }
    leaves = [both[key] for key in PARAMETERS]
    for ours, theirs in zip(
        torch.autograd.grad(got[0], leaves), torch.autograd.grad(expected[0], leaves), strict=True
    ):
        assert torch.equal(ours, theirs)


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
