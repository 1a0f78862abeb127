"""Points without a derivative, hit exactly, with neighbours on either side.

Each function gets ordinary inputs of three rows and yields (inputs, parameters).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oracle.losses import ORACLES
from oracle.special import Ordinary, Special, Values, each, of_pairs, of_sums

EIGHTH = {"beta": 0.125}


def kinks(loss: str, names: list[str], ordinary: Ordinary) -> Special:
    """Points without a derivative, hit exactly, with a neighbour on either side."""
    function = _KINKS.get(loss)
    if function is not None:
        yield from function(ordinary(loss, names, 3, "kink"))
    if "f_exponent_cap" in ORACLES[loss].parameters:
        base = ordinary(loss, names, 4, "kink")
        cap = {"f_divergence_type": "alpha_divergence", "f_exponent_cap": 2.0}
        yield of_pairs(base, [(-4.0, 1.0), (-3.75, 1.0), (1.0, -4.25), (-6.0, 1.0)], -40.0), cap


def less(values: Any, steps: Any) -> Any:
    """values - steps, row by row."""
    if isinstance(values, list):
        return [less(*pair) for pair in zip(values, steps, strict=True)]
    return values - steps


def _around(value: float) -> tuple[tuple[float, float], ...]:
    return (value, 0.0), (value - 0.25, 0.0), (value + 0.25, 0.0)


def _hinge(base: Values) -> Special:
    yield of_pairs(base, _around(8.0), -40.0), EIGHTH


def _free_hinge(gamma: float, params: Values) -> Callable[[Values], Special]:
    def kink(base: Values) -> Special:
        sums = [(d - 30.0, -30.0) for d, _ in _around(8.0 * (1 + gamma))]
        yield of_sums(base, sums), {**EIGHTH, **params}

    return kink


def _slic(base: Values) -> Special:
    yield of_sums(base, [(d - 30.0, -30.0) for d, _ in _around(1.0)]), {}


def _dpop(base: Values) -> Special:
    yield of_pairs(base, [(0.0, 1.0), (0.25, 1.0), (-0.25, 1.0)], -40.0), {}


def _orpo(base: Values) -> Special:
    """Averages of 0: a sure answer, on either side and on both."""
    yield of_sums(base, [(0.0, -1.0), (-1.0, 0.0), (0.0, 0.0)]), {}


def _arpo(base: Values) -> Special:
    """Equal averages; and there the factor 2 exp(0) - 1 reaches 1 too."""
    equal = {"chosen_lengths": [4, 2, 1], "rejected_lengths": [2, 4, 1]}
    sums = [(-12.0, -6.0), (-6.0, -12.0), (-9.0, -8.0)]
    yield of_sums({**base, **equal}, sums), {}
    yield of_sums({**base, **equal}, sums), {"relax_coefficient_1": 2.0}


def _ties(base: Values) -> Special:
    """Two equal values in either sample."""
    yield of_pairs(base, [(2.0, 1.0), (2.0, 1.0), (-1.0, 3.0)], -40.0), {}
    yield of_pairs(base, [(1.0, 2.0), (3.0, 2.0), (3.0, -1.0)], -40.0), {}


def _eps_dpo(base: Values) -> Special:
    """u+ = u, u = u-, and a step."""
    named = {"policy_chosen_logps": [-9.0] * 3, "policy_rejected_logps": [-8.0] * 3}
    named |= {"chosen_plus_logps": [-9.0, -8.0, -8.0], "rejected_plus_logps": [-8.0] * 3}
    named |= {"chosen_minus_logps": [-9.5, -9.0, -9.5], "rejected_minus_logps": [-8.0] * 3}
    yield {**base, **named}, {}
    flipped = {
        k.replace("plus", "*").replace("minus", "plus").replace("*", "minus"): v
        for k, v in named.items()
    }
    yield {**base, **flipped}, {"perturbation": 0.125}


def _clip(base: Values) -> Special:
    """A ratio of 1 at both ends of a clip range of no width; exponents at their bound."""
    width = len(base["logps"][0])
    steps = [[0.0, 0.25, -0.25, 0.5], [0.0, 0.25, -0.25, -0.5], [0.0, 0.0, 0.25, 0.125]]
    moved = {
        **base,
        "old_logps": [
            [a - s for a, s in zip(*pair, strict=True)]
            for pair in zip(base["logps"], steps, strict=True)
        ],
    }
    signs = [1.5, -1.5, 0.75]
    if "advantages" in base:
        moved["advantages"] = signs
    else:
        moved["token_advantages"] = [[sign] * width for sign in signs]
    yield moved, {"epsilon": 0.0}
    yield moved, {"log_ratio_limit": 0.25}
    # The cap inside the clip range, and at its end; its own tie with a ratio of 1.
    for delta in (1.125, 1.25, 1.0):
        yield moved, {"delta": delta, "epsilon": 0.25}


def _cispo(base: Values) -> Special:
    for moved, _ in _clip(base):
        yield moved, {"epsilon_high": 1.0}
        yield moved, {"epsilon_low": 1.0, "epsilon_high": 1.25}
        return


def _value_clip(base: Values) -> Special:
    """The end of the clip range, and two errors of one size."""
    old = [[0.0] * 4] * 3
    values = [[0.25, -0.25, 0.5, -0.5], [0.5, 0.5, 0.5, 0.5], [0.125, 0.25, -1.0, 1.0]]
    returns = [[1.0, 1.0, 1.0, 1.0], [0.375, 0.25, 0.5, 0.3125], [0.375, -0.5, -0.625, 0.625]]
    yield {**base, "values": values, "old_values": old, "returns": returns}, {"value_clip": 0.25}


def _kl(base: Values) -> Special:
    rows = [[0.25, -0.25, 0.0, 0.5], [-0.5, 0.25, 0.125, -0.125], [0.0, 0.25, 8.0, -8.0]]
    ref = [
        [a - s for a, s in zip(*pair, strict=True)]
        for pair in zip(base["logps"], rows, strict=True)
    ]
    yield {**base, "ref_token_logps": ref}, {"log_ratio_limit": 0.25}
    far = [
        [a - 40 * s for a, s in zip(*pair, strict=True)]
        for pair in zip(base["logps"], rows, strict=True)
    ]
    yield {**base, "ref_token_logps": far}, {}


def _sampo_ties(base: Values) -> Special:
    equal = {k: each(v, lambda value: 0.5) for k, v in base.items() if k.endswith("uniforms")}
    yield {**base, **equal}, {}


def _udm_bounds(base: Values) -> Special:
    yield {**base, "desirable_probabilities": [0.25, 0.5, 0.75]}, {"min_density_ratio": 1.0}


_KINKS: dict[str, Callable[[Values], Special]] = {
    "dpo.hinge": _hinge,
    "cpo.hinge": _free_hinge(0.0, {}),
    "tpo.hinge": _free_hinge(0.0, {}),
    "cpo.simpo_hinge": _free_hinge(0.25, {"simpo_gamma": 0.25}),
    "slic.hinge": _slic,
    "dpop.sigmoid": _dpop,
    "arpo.sigmoid": _arpo,
    "orpo.orpo": _orpo,
    "dpo.aot": _ties,
    "dpo.aot_unpaired": _ties,
    "eps_dpo.sigmoid": _eps_dpo,
    "ppo.clip": _clip,
    "ppo.dual_clip": _clip,
    "ppo.value_clip": _value_clip,
    "grpo.cispo": _cispo,
    "sampo.indices": _sampo_ties,
    "bco.udm_weights": _udm_bounds,
    **{f"kl.{k}": _kl for k in ("k1", "k2", "k3")},
    **{f"grpo.{v}": _clip for v in ("grpo", "dr_grpo", "dapo", "bnpo", "gspo")},
}
