"""Calls of the linear op for the tests: shapes, dtypes and options, with the oracle of each."""

from __future__ import annotations

from typing import Any

import numpy as np
from oracle.linear import Head
from support import DTYPES, Dtype

import prefopt

ALL_STATS = ("entropy", "correct", "mean_logit", "max_logit", "lse2")
FLOAT_STATS = ("logps", "lse", "entropy", "mean_logit", "max_logit", "lse2")
NEEDS = ("hidden", "weight", "bias", "lora_a", "lora_b")
ARRAYS = ("hidden", "weight", "bias", "lora_a", "lora_b")

# Every option by itself, then all together.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": True},
    "temperature": {"temperature": 0.7},
    "logit_scale": {"logit_scale": -1.25},
    "softcap": {"softcap": 3.0},
    "lora": {"lora": 3},
    "all": {"bias": True, "softcap": 5.0, "lora": 2, "temperature": 1.5, "logit_scale": 0.75},
}


class Case:
    """Arrays of one call, the keywords that go with them, and the exact head."""

    def __init__(
        self,
        tokens: int,
        hidden: int,
        vocab: int,
        dtype: Dtype = DTYPES["float32"],
        weight_dtype: Dtype | None = None,
        *,
        seed: int = 0,
        bias: bool = False,
        lora: int = 0,
        scale: float = 1.0,
        ignored: float = 0.2,
        **options: Any,
    ) -> None:
        rng = np.random.default_rng(seed)
        head = weight_dtype or dtype
        self.hidden = dtype.make(scale * rng.normal(size=(tokens, hidden)))
        self.weight = head.make(rng.normal(size=(vocab, hidden)) / np.sqrt(hidden))
        self.bias = head.make(rng.normal(size=vocab)) if bias else None
        self.lora_a = head.make(rng.normal(size=(lora, hidden)) / np.sqrt(hidden)) if lora else None
        self.lora_b = head.make(rng.normal(size=(vocab, lora))) if lora else None
        self.labels = rng.integers(0, vocab, tokens)
        self.labels[rng.random(tokens) < ignored] = -100
        self.options = options
        exact = [
            None if a is None else (dtype if a is self.hidden else head).exact(a)
            for a in (self.hidden, self.weight, self.bias, self.lora_a, self.lora_b)
        ]
        self.head = Head.of(*exact, **options)
        self.upstream = {
            name: rng.normal(size=tokens).astype(dtype.result)
            for name in ("grad_logps", "grad_entropy", "grad_lse")
        }
        self.raw = "bfloat16" if "bfloat16" in (dtype.keyword, head.keyword) else None

    @property
    def live(self) -> np.ndarray:
        return self.labels != -100

    @property
    def keywords(self) -> dict[str, Any]:
        extra = {"bias": self.bias, "lora_a": self.lora_a, "lora_b": self.lora_b}
        return {**extra, **self.options, "dtype": self.raw}

    def forward(self, **more: Any) -> prefopt.TokenLogps:
        return prefopt.linear_token_logps(
            self.hidden, self.weight, self.labels, **{"stats": ALL_STATS, **self.keywords, **more}
        )

    def backward(self, lse: Any, entropy: Any, **more: Any) -> prefopt.LinearGrads:
        arguments = {"needs": NEEDS, **self.upstream, **self.keywords, **more}
        return prefopt.linear_token_logps_grad(
            self.hidden, self.weight, self.labels, lse, entropy=entropy, **arguments
        )


def unit(case: Case, dtype: Any) -> float:
    """Half a rounding of the arithmetic type at the scale of one x's terms; tanh is off by some
    units of 1.
    """
    cap = (case.head.softcap or 0.0) / case.head.temperature
    return float(np.finfo(dtype).eps) / 2 * (1 + case.head.reach() + 2 * cap)


def relative_error(got: np.ndarray, want: np.ndarray, floor: float = 0.0) -> float:
    """The largest error of a gradient in units of its largest element, or of `floor`."""
    if want.size == 0:
        return 0.0
    size = max(float(np.abs(want).max()), floor) or 1.0
    return float(np.abs(got - want).max()) / size


def hidden_floor(case: Case) -> float:
    """A tenth of the terms that a gradient by hidden is a difference of."""
    chain = abs(case.head.logit_scale) / case.head.temperature
    return 0.1 * chain * float(case.head.weight_terms().max())
