"""Adam with gradient clipping over one flat parameter vector."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass
class Adam:
    """Adam (arXiv 1412.6980) with bias correction; the gradient is first clipped to `clip` in
    Euclidean norm.
    """

    parameters: Floats  # [P], updated in place
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    clip: float = 1.0
    steps: int = 0
    _mean: Floats = field(init=False)
    _square: Floats = field(init=False)
    _scratch: Floats = field(init=False)

    def __post_init__(self) -> None:
        self._mean = np.zeros_like(self.parameters)
        self._square = np.zeros_like(self.parameters)
        self._scratch = np.empty_like(self.parameters)

    def step(self, grad: Floats, learning_rate: float) -> float:
        """One update; grad [P] is used as scratch. Returns the norm before clipping."""
        norm = float(np.sqrt(np.einsum("i,i->", grad, grad, dtype=np.float64)))
        if norm > self.clip:
            grad *= np.float32(self.clip / norm)
        self.steps += 1
        scratch = self._scratch
        self._mean *= np.float32(self.beta1)
        np.multiply(grad, np.float32(1.0 - self.beta1), out=scratch)
        self._mean += scratch
        np.multiply(grad, grad, out=grad)
        grad *= np.float32(1.0 - self.beta2)
        self._square *= np.float32(self.beta2)
        self._square += grad
        correction = np.sqrt(1.0 - self.beta2**self.steps)
        np.sqrt(self._square, out=scratch)
        scratch += np.float32(self.epsilon * correction)
        np.divide(self._mean, scratch, out=scratch)
        scratch *= np.float32(learning_rate * correction / (1.0 - self.beta1**self.steps))
        self.parameters -= scratch
        return norm


def schedule(step: int, steps: int, peak: float, warmup: float = 0.1) -> float:
    """Learning rate of step 0 .. steps-1: linear warm-up over a tenth of the steps, then linear to
    0 (the paper's).
    """
    warm = max(1.0, warmup * steps)
    return peak * min((step + 1) / warm, (steps - step) / max(1.0, steps - warm + 1.0), 1.0)
