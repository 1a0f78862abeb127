"""Logits of a head, whole, and what a loss through them gives to every input: long double NumPy.

    z = hidden weight^T + (hidden lora_a^T) lora_b^T + bias,  u = logit_scale z
    x = softcap tanh(u / softcap) / temperature, or u / temperature

The statistics of x and their gradients are oracle.logps's; here is the chain to the inputs. Nothing
imports prefopt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import logps

Array = np.ndarray


@dataclass(frozen=True)
class Head:
    """Inputs of one call as exact long doubles, and its options."""

    hidden: Array  # [N, H]
    weight: Array  # [V, H]
    bias: Array | None = None
    lora_a: Array | None = None
    lora_b: Array | None = None
    logit_scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    @classmethod
    def of(cls, *arrays: Any, **options: float | None) -> Head:
        """Arrays in the order of the fields, None for absent."""
        wide = [None if a is None else np.asarray(a, np.longdouble) for a in arrays]
        return cls(*wide, **options)  # type: ignore[arg-type]

    def whole_weight(self) -> Array:
        """weight + lora_b lora_a."""
        if self.lora_a is None or self.lora_b is None:
            return self.weight
        return self.weight + self.lora_b @ self.lora_a

    def weight_terms(self) -> Array:
        """|weight| + |lora_b| |lora_a|: what rounding in the product is relative to."""
        if self.lora_a is None or self.lora_b is None:
            return np.abs(self.weight)
        return np.abs(self.weight) + np.abs(self.lora_b) @ np.abs(self.lora_a)

    def logits(self) -> Array:
        """x [N, V]."""
        z = self.hidden @ self.whole_weight().T
        if self.bias is not None:
            z = z + self.bias
        u = np.longdouble(self.logit_scale) * z
        if self.softcap:
            u = np.longdouble(self.softcap) * np.tanh(u / np.longdouble(self.softcap))
        return u / np.longdouble(self.temperature)

    def slope(self, x: Array) -> Array:
        """dx / dz."""
        chain = np.longdouble(self.logit_scale) / np.longdouble(self.temperature)
        if not self.softcap:
            return np.full_like(x, chain)
        capped = x * np.longdouble(self.temperature) / np.longdouble(self.softcap)
        return chain * (1 - capped**2)

    def reach(self) -> float:
        """The largest sum of absolute terms behind one x: what its rounding is relative to."""
        z = np.abs(self.hidden) @ np.abs(self.weight).T
        if self.lora_a is not None and self.lora_b is not None:
            z = z + (np.abs(self.hidden) @ np.abs(self.lora_a).T) @ np.abs(self.lora_b).T
        if self.bias is not None:
            z = z + np.abs(np.where(np.isfinite(self.bias), self.bias, 0))
        return float(abs(self.logit_scale) * z.max() / self.temperature) if z.size else 0.0


def grads(
    head: Head, labels: Array, by_logps: Array, by_entropy: Array, by_lse: Array
) -> dict[str, Array]:
    """Gradients of sum(by_logps logps + by_entropy entropy + by_lse lse) by every input."""
    x = head.logits()
    by_x, _ = logps.token_grad(
        x,
        labels,
        grad_logps=by_logps,
        grad_entropy=by_entropy,
        grad_lse=by_lse,
        precision=np.longdouble,
    )
    z = by_x * head.slope(x)
    z[labels == -100] = 0
    result = {"hidden": z @ head.whole_weight(), "weight": z.T @ head.hidden, "bias": z.sum(axis=0)}
    if head.lora_a is not None and head.lora_b is not None:
        result["lora_b"] = z.T @ (head.hidden @ head.lora_a.T)
        result["lora_a"] = (z @ head.lora_b).T @ head.hidden
    return result
