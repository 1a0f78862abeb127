"""Extreme inputs and edges, for whatever a loss takes.

Each function gets the names of a loss's inputs and `ordinary(loss, names, size, seed)`, and yields
(inputs, parameters): ordinary numbers with some of them replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from oracle.losses import ORACLES

Values = dict[str, Any]
Ordinary = Callable[..., Values]
Special = Iterator[tuple[Values, Values]]

POLICY = ("policy_chosen_logps", "policy_rejected_logps")
REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
LENGTHS = ("chosen_lengths", "rejected_lengths")
AVERAGED = ("dpo.ipo", "dpo.sigmoid_norm", "cpo.ipo", "cpo.simpo", "cpo.simpo_hinge", "orpo.orpo")
AVERAGED += ("simper.simper", "tpo.ipo", "tpo.tpo_l", "arpo.sigmoid")

# D_w and D_l, each at most 1e4 in size, from margins that saturate everything to close ones.
RATIOS = (
    (1e4, 0.25),
    (-1e4, 0.5),
    (5000.0, -5000.0),
    (-700.5, 45.25),
    (9999.5, 9999.0),
    (1.0, -746.0),
)
# The same for divergences: no pair of scores that differ only beyond thousands of digits.
DIVERGED = ((1e4, 0.25), (-1e4, 0.5), (700.5, -700.5), (-700.5, 45.25))
DIVERGED += ((-2000.0, -1999.0), (-1999.0, -2000.0))  # both scores beyond float64, in either order
LOW = -12000.25  # a long sum of log-probabilities, with room for a reference above it
# pi_w and pi_l of losses without a reference.
SUMS = ((-20000.5, -1.0), (-1.0, -20000.5), (-12000.25, -12000.0), (-(2.0**-10), -746.0))
SUMS += ((-40.0, -1.5), (-12000.0, -12000.25))
STEPS = ((30.0, -30.0, 700.5, -700.5), (1e4, -1e4, 2.0**-10, -1.0), (0.0, 0.25, -0.125, 90.0))


def has(names: list[str], *wanted: str) -> bool:
    """All of them."""
    return set(wanted) <= set(names)


def columns(pairs: Any) -> list[list[float]]:
    """Rows to columns, as floats."""
    return [[float(value) for value in column] for column in zip(*pairs, strict=True)]


def of_pairs(base: Values, ratios: Any, policy: float = LOW) -> Values:
    """Pairs with the given log-ratios D_w, D_l."""
    chosen, rejected = columns(ratios)
    size = len(chosen)
    return {
        **base,
        **dict.fromkeys(POLICY, [policy] * size),
        "ref_chosen_logps": [policy - d for d in chosen],
        "ref_rejected_logps": [policy - d for d in rejected],
    }


def of_sums(base: Values, sums: Any) -> Values:
    """Pairs with the given log-probabilities."""
    return {**base, **dict(zip(POLICY, columns(sums), strict=True))}


def with_lengths(loss: str, names: list[str]) -> list[str]:
    """The names and the lengths that the loss divides by, in the order of the row."""
    oracle = ORACLES[loss]
    return [n for n in (*oracle.inputs, *oracle.constants) if n in names or n in LENGTHS]


def divergences(loss: str) -> Iterator[Values]:
    """Parameters that try each divergence that the loss takes."""
    if "f_divergence_type" in ORACLES[loss].parameters:
        yield {"f_divergence_type": "forward_kl"}
        yield {"f_divergence_type": "js_divergence"}
        yield {"f_divergence_type": "alpha_divergence"}


# ---- extremes ------------------------------------------------------------------------------------


def extremes(loss: str, names: list[str], ordinary: Ordinary) -> Special:
    """Log-ratios up to 1e4, long sums, averages of very long answers."""
    if has(names, *POLICY, *REFERENCE):
        yield of_pairs(ordinary(loss, names, len(RATIOS), "extreme"), RATIOS), {}
        for params in divergences(loss):
            yield of_pairs(ordinary(loss, names, len(DIVERGED), "extreme"), DIVERGED), params
    elif has(names, *POLICY):
        base = ordinary(loss, names, len(SUMS), "extreme")
        yield of_sums(base, SUMS), {}
        if "alpha" in ORACLES[loss].parameters:
            yield of_sums(base, SUMS), {"alpha": 0.25}
            # without the pairs whose rewards differ only beyond a thousand digits
            apart = [pair for pair in SUMS if abs(pair[0] - pair[1]) > 1]
            yield of_sums(ordinary(loss, names, len(apart), "extreme"), apart), {"alpha": -0.25}
    elif has(names, "policy_logps", "ref_logps"):
        ratios = [d for pair in RATIOS for d in pair]
        base = ordinary(loss, names, len(ratios), "extreme")
        ref = [LOW - float(d) for d in ratios]
        labels = [i % 4 in (0, 3) for i in range(len(ratios))]
        policy = [LOW] * len(ratios)
        yield {**base, "policy_logps": policy, "ref_logps": ref, "desirable": labels}, {}
    elif has(names, "logps") or has(names, "values", "old_values"):
        yield of_steps(ordinary(loss, names, len(STEPS), "extreme"), STEPS), {}
    else:
        yield _long(ordinary(loss, names, 4, "extreme")), {}
    if loss in AVERAGED:
        base = ordinary(loss, with_lengths(loss, names), len(SUMS), "long")
        base |= {
            "chosen_lengths": [4096, 1, 30000, 2, 4096, 3],
            "rejected_lengths": [1, 8192, 3, 4096, 7, 3],
        }
        if has(names, *REFERENCE):
            yield of_pairs(base, RATIOS[: len(SUMS)]), {}
        else:
            yield of_sums(base, SUMS), {}


def of_steps(base: Values, steps: Any) -> Values:
    """Tokens whose log-ratios to the old policy and to the reference are the steps."""
    if "values" in base:
        values = [[LOW + t for t in row] for row in steps]
        return {**base, "values": values}
    low = [[LOW] * len(row) for row in steps]
    moved = [[LOW - step for step in row] for row in steps]
    others = {name: moved for name in ("old_logps", "ref_token_logps") if name in base}
    return {**base, "logps": low, **others}


def _long(base: Values) -> Values:
    """Numbers a thousand times as large, probabilities apart."""

    def larger(name: str, values: Any) -> Any:
        if name.endswith(
            ("uniforms", "mask", "indices", "lengths", "probabilities", "state_count")
        ):
            return values
        return each(values, lambda value: value * 1024.0)

    return {name: larger(name, values) for name, values in base.items()}


def each(values: Any, function: Callable[[Any], Any]) -> Any:
    return [each(v, function) for v in values] if isinstance(values, list) else function(values)


# ---- edges ---------------------------------------------------------------------------------------


def edges(loss: str, names: list[str], ordinary: Ordinary) -> Special:
    """Policy equal to reference, one class, empty answers, nothing counted, weights of 0."""
    base = ordinary(loss, names, 2, "edge")
    for sides in ((POLICY, REFERENCE), (("policy_logps",), ("ref_logps",))):
        if has(names, *sides[0], *sides[1]):
            yield {**base, **{r: base[p] for p, r in zip(*sides, strict=True)}}, {}
    if has(names, *POLICY) and not has(names, *REFERENCE) and loss != "simper.simper":
        yield {**base, POLICY[1]: base[POLICY[0]]}, {}  # SimPER: exp(a) - exp(a) has no digits
    if "desirable" in names:
        for label in (True, False):
            yield {**base, "desirable": [label] * 2}, {}
    if "desirable_weight" in ORACLES[loss].parameters:
        mixed = {**base, "desirable": [True, False]}
        yield mixed, {"desirable_weight": 0.0}
        yield mixed, {"undesirable_weight": 0.0}
    yield from _empty_answers(loss, names, ordinary)
    yield from _tokens(loss, names, ordinary)
    yield from _EDGES.get(loss, _nothing)(base)


def _nothing(base: Values) -> Special:
    yield from ()


def _empty_answers(loss: str, names: list[str], ordinary: Ordinary) -> Special:
    """Lengths of 0, whose log-probabilities are 0; at last no token in the whole batch."""
    oracle = ORACLES[loss]
    whole = [n for n in (*oracle.inputs, *oracle.constants) if not n.endswith("weights")]
    counts = [n for n in whole if n.endswith("lengths")]
    if not counts:
        return
    for empty in ({"chosen": {0}, "rejected": {1}}, {"chosen": {0, 1}, "rejected": {0, 1}}):
        base = ordinary(loss, whole, 2, "empty")
        for name, values in base.items():
            side = next((s for s in empty if s in name), "chosen")
            zero = 0 if name.endswith("lengths") else 0.0
            base[name] = [zero if i in empty[side] else v for i, v in enumerate(values)]
        yield base, {}


def _tokens(loss: str, names: list[str], ordinary: Ordinary) -> Special:
    """An answer without a counted token, a batch without one, advantages of 0, the policy's own."""
    oracle = ORACLES[loss]
    if "mask" not in oracle.optional:
        return
    whole = [n for n in (*oracle.inputs, *oracle.constants) if n in names or n == "mask"]
    base = ordinary(loss, whole, 2, "masked")
    width = len(base["mask"][0])
    yield {**base, "mask": [[False] * width, [True] * width]}, {}
    yield {**base, "mask": [[False] * width] * 2}, {}
    for key in ("advantages", "token_advantages"):
        if key in base:
            yield {**base, key: each(base[key], lambda value: 0.0)}, {}
    if "old_logps" in oracle.constants:
        yield {**base, "old_logps": base["logps"]}, {}


def _kto_pair(base: Values) -> Special:
    """Both reference points are clamped to 0; or neither."""
    yield of_pairs(base, [(-3.0, -2.0), (1.0, -1.0)], -40.0), {}
    yield of_pairs(base, [(3.0, 2.0), (1.0, -1.0)], -40.0), {}


def _beta_dpo(base: Values) -> Special:
    """No pair is kept; the batch's beta is at its floor."""
    yield {**base, "keep": [False, False]}, {}
    yield {**base, "gap_mean": 8.0}, {}


def _sampo(base: Values) -> Special:
    """Nothing sampled."""
    none = [[-1, -1, -1], [0, 1, 2]]
    yield {**base, "chosen_indices": none, "rejected_indices": none}, {}


def _sampo_indices(base: Values) -> Special:
    """An empty answer leaves nothing of the other."""
    width = len(base["chosen_mask"][0])
    yield {**base, "chosen_mask": [[False] * width, [True] * width]}, {}


def _beta_dpo_keep(base: Values) -> Special:
    """The weights decide: an outlier with a large uniform number loses, or just wins."""
    named = {"gaps": [0.75, 3.75, -2.25, 0.0], "uniforms": [0.5, 0.875, 0.25, 0.375]}
    yield {**base, **named}, {"keep_ratio": 0.5}


def _udm(base: Values) -> Special:
    """Certain prompts: the weights are at their bounds."""
    yield {**base, "desirable_probabilities": [0.0, 1.0]}, {}


_EDGES = {
    "dpo.kto_pair": _kto_pair,
    "beta_dpo.sigmoid": _beta_dpo,
    "sampo.sigmoid": _sampo,
    "sampo.indices": _sampo_indices,
    "bco.udm_weights": _udm,
    "beta_dpo.keep": _beta_dpo_keep,
}
