"""Batches and parameters for the loss tests, and the two ways to ask how far off a result is."""

from __future__ import annotations

from typing import Any

import mpmath as mp
import numpy as np
from oracle.losses import ORACLES

import prefopt

Inputs = dict[str, Any]

# Parameters off their defaults, one a time and together; beta values are exact in binary where the
# point is the last bit, and 0.1 where the point is the default.
PARAMETERS: dict[str, list[dict[str, float]]] = {
    "dpo.sigmoid": [
        {},
        {"beta": 0.5},
        {"beta": 0.25, "label_smoothing": 0.125},
        {"label_smoothing": 0.3},
    ],
    "dpo.ipo": [{}, {"beta": 0.5}, {"beta": 2.0}],
    "kto.kto": [
        {},
        {"beta": 0.5},
        {"beta": 0.25, "desirable_weight": 1.5, "undesirable_weight": 0.75},
        {"desirable_weight": 0.0},
    ],
    "cpo.sigmoid": [
        {},
        {"beta": 0.5},
        {"beta": 0.25, "label_smoothing": 0.125},
        {"cpo_alpha": 0.5, "nll_tokens": 96.0},
        {"cpo_alpha": 0.0, "nll_tokens": 96.0},
    ],
    "sft.nll": [{}, {"nll_tokens": 96.0}],
}


def batch(name: str, rng: np.random.Generator, size: int = 8, *, exact: bool = False) -> Inputs:
    """Inputs of the loss `name` like those of a trainer: sums near -100, ratios of some tens.

    exact: multiples of 1/64, lengths powers of two, so that differences and averages do not round
    and the last bit of a result can be asked for.
    """

    def draw(low: float, high: float) -> np.ndarray:
        if exact:
            return rng.integers(int(low * 64), int(high * 64), size) / 64.0
        return rng.uniform(low, high, size)

    def lengths() -> np.ndarray:
        return 2 ** rng.integers(2, 7, size) if exact else rng.integers(1, 90, size)

    makers = {
        "desirable": lambda: rng.integers(0, 2, size).astype(bool),
        "kl": lambda: 1.25 if exact else float(rng.uniform(0, 3)),
        "chosen_lengths": lengths,
        "rejected_lengths": lengths,
        "lengths": lengths,
        "chosen_nll": lambda: draw(0, 90),
    }
    oracle = ORACLES[name]
    keys = [key for key in (*oracle.inputs, *oracle.constants) if not key.endswith("weights")]
    return {key: makers[key]() if key in makers else draw(-120, -60) for key in keys}


def without_optional(name: str, inputs: Inputs) -> Inputs:
    """The same batch with the inputs that may be absent left out."""
    return {key: value for key, value in inputs.items() if key not in ORACLES[name].optional}


def variants(name: str, rng: np.random.Generator, **options: Any) -> list[tuple[Inputs, Inputs]]:
    """(inputs, parameters) for every set of parameters, with and without optional inputs."""
    pairs = []
    for params in PARAMETERS[name]:
        inputs = batch(name, rng, **options)
        pairs.append((inputs, params))
        bare = without_optional(name, inputs)
        if name == "sft.nll" and "nll_tokens" not in params:
            continue  # it needs a number of tokens from somewhere
        if len(bare) < len(inputs):
            drop = ("nll_tokens", "cpo_alpha") if name == "cpo.sigmoid" else ()
            pairs.append((bare, {k: v for k, v in params.items() if k not in drop}))
    return pairs


def run(name: str, inputs: Inputs, params: Inputs, **options: Any) -> Any:
    """prefopt.loss of the case."""
    return prefopt.loss(name, **inputs, **params, **options)


def cast_reals(inputs: Inputs, dtype: Any) -> Inputs:
    """Float arrays rounded to dtype; counts, flags and numbers as they are."""
    return {
        key: value.astype(dtype)
        if isinstance(value, np.ndarray) and value.dtype == np.float64
        else value
        for key, value in inputs.items()
    }


def smoothing_floor(params: Inputs, weights: Any = 1.0) -> Any:
    """What the gradient of a smoothed logistic loss is a difference of: e beta |g|.

    It is e sigma(x) - (1 - e) sigma(-x), which has a root; near it an error is measured against the
    terms, since their own rounding remains.
    """
    return params.get("label_smoothing", 0.0) * params.get("beta", 0.1) * np.abs(weights)


def ulps(got: np.ndarray, truth: list[Any], floor: Any = 0.0) -> float:
    """The worst |got - truth| in units of the spacing of got's dtype at the truth, or at `floor`
    where that is larger. Where the truth has no finite value in that dtype, got must be inf with
    its sign.
    """
    worst = 0.0
    floors = np.broadcast_to(floor, got.shape)
    for value, true, least in zip(got, truth, floors, strict=True):
        with mp.workdps(40):
            nearest = got.dtype.type(float(true))
            if np.isinf(nearest):
                worst = max(worst, 0.0 if value == nearest else np.inf)
                continue
            spacing = mp.mpf(float(np.spacing(max(abs(nearest), got.dtype.type(least)))))
            worst = max(worst, float(abs(mp.mpf(float(value)) - true) / spacing))
    return worst
