"""From the results of tokens to the inputs that a row of the list takes by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from prefopt._conventions import find_convention
from prefopt._loss_call import nearest
from prefopt._loss_types import LossInfo

from ._layout import Layout

SIDES = ("chosen", "rejected")
REF_NAMES = frozenset(
    ("ref_logps", "ref_token_logps")
    + tuple(f"ref_{side}{token}_logps" for side in SIDES for token in ("", "_token"))
)
# What only the whole rows of both models give, and the statistic of a token that it sums.
WHOLE_ROWS = {
    **{f"{side}_kl": "ref_policy_kl" for side in SIDES},
    **{f"{side}_{sign}_logps": f"{sign}_logps" for side in SIDES for sign in ("plus", "minus")},
}
_LENGTHS = ("chosen_lengths", "rejected_lengths")


class Tokens(NamedTuple):
    """What the passes over hidden states gave, and how it becomes numbers of answers."""

    layout: Layout
    values: Mapping[str, Tensor]  # of the policy by name, each in the shape of the labels
    ref_logps: Tensor | None  # the same of the reference
    ref_sums: Tensor | None  # [S]: the reference's logps where only their sums are known
    nlls: Mapping[str, tuple[Tensor, Tensor]]  # by input name: sums [B] of -logp, lengths [B]


class Modifiers(NamedTuple):
    """What changes a sum of token log-probabilities."""

    wpo: bool
    ld_alpha: float | None
    ld_reference: bool
    average: bool


def is_paired(rows: Sequence[LossInfo]) -> bool:
    """Whether the answers of these rows come in pairs; all rows agree."""
    paired = {info.kind == "pair" or info.family == "sampo" for info in rows}
    if len(paired) > 1:
        raise ValueError(
            f"loss: expected losses over pairs, or losses over single answers, got "
            f"{', '.join(info.name for info in rows)}"
        )
    return paired.pop()


def check_rows(rows: Sequence[LossInfo]) -> None:
    """Losses of log-probabilities only."""
    for info in rows:
        if info.kind == "procedure":
            raise ValueError(f"loss: {info.name} is a procedure, not a loss")
        if not any(item.name.endswith("logps") and item.differentiable for item in info.inputs):
            raise ValueError(f"loss: {info.name} takes no log-probabilities")
    is_paired(rows)


def derived(
    tokens: Tokens, modifiers: Modifiers, wanted: frozenset[str], paired: bool
) -> dict[str, Tensor]:
    """Every input out of `wanted` that the passes give."""
    layout, logps = tokens.layout, tokens.values["logps"]
    answers = {"policy_{}logps": _weighted(layout, logps, modifiers, True)}
    if tokens.ref_logps is not None:
        answers["ref_{}logps"] = _weighted(layout, tokens.ref_logps, modifiers, False)
    elif tokens.ref_sums is not None:
        answers["ref_{}logps"] = tokens.ref_sums
    answers["{}lengths"] = layout.lengths
    for stem in ("{}kl", "{}plus_logps", "{}minus_logps"):
        statistic = WHOLE_ROWS.get(stem.format("chosen_"), "")
        if statistic in tokens.values:
            answers[stem] = layout.sums(tokens.values[statistic])
    if modifiers.wpo:
        answers["{}weights"] = layout.wpo_weights(
            logps, tokens.values["lse"], tokens.values["lse2"]
        )
    if {"logps", "policy_chosen_token_logps"} & wanted:
        answers["policy_{}token_logps" if paired else "logps"] = layout.padded(logps)
        answers["mask"] = layout.padded(layout.mask)
        if tokens.ref_logps is not None:
            answers["ref_{}token_logps"] = layout.padded(tokens.ref_logps)
    found = _named(answers, paired)
    for name, (sums, lengths) in tokens.nlls.items():
        found[name] = sums
        if name == "gold_nll":
            found["gold_lengths"] = lengths
    return {name: each for name, each in found.items() if name in wanted}


def _named(answers: Mapping[str, Tensor], paired: bool) -> dict[str, Tensor]:
    """The two halves of each by their names, or the whole."""
    if not paired:
        return {stem.format(""): each for stem, each in answers.items()}
    found = {}
    for stem, each in answers.items():
        half = each.shape[0] // 2
        for side, part in zip(SIDES, (each[:half], each[half:]), strict=True):
            found[stem.format(f"{side}_")] = part
    return found


def _weighted(layout: Layout, logps: Tensor, modifiers: Modifiers, policy: bool) -> Tensor:
    if modifiers.ld_alpha is None or not (policy or modifiers.ld_reference):
        return layout.sums(logps)
    return layout.sums(logps, layout.ld_weights(modifiers.ld_alpha))


def inputs_of(
    info: LossInfo,
    found: Mapping[str, Tensor],
    given: Mapping[str, Any],
    modifiers: Modifiers,
    convention: str | None,
) -> dict[str, Any]:
    """The row's own: what the caller gave goes before what was derived."""
    refused: tuple[str, ...] = ()
    if convention is not None:
        refused = find_convention(info.name, convention).refused
    if not modifiers.average:
        refused += _LENGTHS
    names = [item.name for item in info.inputs]
    inputs: dict[str, Any] = {
        name: found[name] for name in names if name in found and name not in refused
    }
    inputs.update({name: given[name] for name in names if name in given})
    functions = {name: inputs.pop(name) for name in names if callable(inputs.get(name))}
    known = {k: e.detach() if isinstance(e, Tensor) else e for k, e in inputs.items()}
    inputs.update({name: function(known) for name, function in functions.items()})
    for item in info.inputs:
        if item.optional or item.name in inputs:
            continue
        if item.name in WHOLE_ROWS:
            raise ValueError(
                f"ref_hidden: {info.name} reads both models' whole rows; expected ref_hidden and "
                "ref_weight"
            )
        if item.name in REF_NAMES:
            ways = "ref_token_logps, or ref_hidden and ref_weight"
            ways = ways if "token" in item.name else f"ref_logps, {ways}"
            raise ValueError(f"{ways.split(',')[0]}: {info.name} needs a reference: {ways}")
        raise ValueError(f"{item.name}: {info.name} needs it: {item.meaning}")
    return inputs


def split_given(
    rows: Sequence[LossInfo], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Further inputs and parameters of the rows; everything belongs to one of them."""
    inputs = {item.name for info in rows for item in info.inputs}
    params = {item.name for info in rows for item in info.parameters}
    for name in given:
        if name not in inputs | params:
            names = ", ".join(info.name for info in rows)
            raise TypeError(
                f"{name}: {names} takes no such input; {nearest(name, inputs | params)}"
            )
    taken = {name: each for name, each in given.items() if name in inputs}
    return taken, {name: each for name, each in given.items() if name in params}


def laid_out(rows: Sequence[LossInfo], given: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Packed values of tokens that the caller gave as rows [S, T]; None is left out."""
    types = {item.name: item.type for info in rows for item in info.inputs}
    laid = {}
    for name, each in given.items():
        packed = types[name] in ("tokens", "mask") and layout.cu_seqlens is not None
        if packed and isinstance(each, Tensor) and each.shape == layout.labels.shape:
            each = layout.padded(each)
        if each is not None:
            laid[name] = each
    return laid
