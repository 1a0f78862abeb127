"""What the tests of LinearPreferenceLoss share: batches in three layouts, and the truth of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import row_cases
from row_cases import LOSSES, ROWS

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_linear_cases import leaves_of, logits, make, truth, worst  # noqa: E402

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


HEADS = {*PARAMETERS, "ref_weight", "ref_bias"} - {"hidden"}


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
        both["kept"] = kept
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


def packed(extra: dict[str, Any], name: str, kept: Any) -> dict[str, Any]:
    """The caller's values of tokens without padding, those that have the batch's shape."""
    types = {item.name: item.type for item in ROWS[name].inputs}
    return {
        key: each[kept] if types[key] == "tokens" and each.shape == kept.shape else each
        for key, each in extra.items()
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
    extra = of_caller(name)
    if layout == "packed":
        extra = packed(extra, name, call["kept"])
    loss, _ = module(**arguments(call, name), **extra)
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


def call(
    both: dict[str, Any], loss: Any, *, extra: dict[str, Any] | None = None, **options: Any
) -> Any:
    """(loss, metrics) of the batch."""
    name = loss if isinstance(loss, str) else loss[0]
    module = LinearPreferenceLoss(loss, **OPTIONS, **options)
    return module(**arguments(both, name), **(extra or of_caller(name)))
