"""A small language model: a window of token embeddings, two hidden layers, a softmax over the
vocabulary.

After Bengio et al. 2003 (JMLR 3, 1137), with the output matrix tied to the embeddings (Press and
Wolf, arXiv 1608.05859). For a row with window w_1 .. w_C (w_C is the token just read):

    e = concat(E[w_1] .. E[w_C])                    [C * H]
    h = relu(e @ W1 + b1)                           [M]
    o = E[w_C] + h @ W2 + b2                        [H]
    x = o @ E.T + b                                 [V] logits

All in float32: the products by NumPy's BLAS, the log-probs of x and their gradient by prefopt
(train.py), in place. The parameters live in one flat vector with named views, so that clipping,
Adam and saving are one line each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .atomic import replace_file

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class ModelConfig:
    """Sizes: vocabulary V, window C, embedding and output state H, inner layer M."""

    vocab: int = 4096
    context: int = 8
    hidden: int = 128
    inner: int = 128

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter names and shapes, in the order of the flat vector."""
        return {
            "embed": (self.vocab, self.hidden),
            "w1": (self.context * self.hidden, self.inner),
            "b1": (self.inner,),
            "w2": (self.inner, self.hidden),
            "b2": (self.hidden,),
            "bias": (self.vocab,),
        }

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return int(sum(np.prod(shape) for shape in self.shapes().values()))


@dataclass
class Activations:
    """What the backward pass needs of a forward pass."""

    windows: Ints  # [rows, C]
    embedded: Floats  # [rows, C * H]
    inner: Floats  # [rows, M], after relu
    output: Floats  # [rows, H]


class WindowModel:
    """Parameters and the two passes. `flat` is the vector of all parameters, `part` the views into
    it.
    """

    def __init__(self, config: ModelConfig, flat: Floats) -> None:
        self.config = config
        self.flat = flat
        self.part = views(config, flat)
        self._logits = np.empty((0, config.vocab), flat.dtype)

    @classmethod
    def initial(cls, config: ModelConfig, seed: int, log_unigram: Floats) -> WindowModel:
        """Random weights; the output bias [V] starts at the unigram log-probs, so training starts
        at that NLL.
        """
        generator = np.random.default_rng([seed, 1])
        model = cls(config, np.zeros(config.parameters, np.float32))
        scales = {
            "embed": 0.5 / np.sqrt(config.hidden),
            "w1": np.sqrt(2.0 / (config.context * config.hidden)),
            "w2": 0.5 / np.sqrt(config.inner),
        }
        for name, scale in scales.items():
            shape = model.part[name].shape
            model.part[name][...] = generator.standard_normal(shape, dtype=np.float32) * np.float32(
                scale
            )
        model.part["bias"][...] = log_unigram
        return model

    def copy(self) -> WindowModel:
        """The same parameters in memory of their own."""
        return WindowModel(self.config, self.flat.copy())

    def forward(self, windows: Ints) -> tuple[Floats, Activations]:
        """Logits [rows, V] and what backward needs.

        The logits lie in memory of the model, valid until its next forward; the caller may
        overwrite them. (Fresh pages for them would cost more than the softmax: 32 MiB a batch.)
        """
        part, config = self.part, self.config
        embedded = part["embed"][windows].reshape(len(windows), config.context * config.hidden)
        inner = embedded @ part["w1"]
        inner += part["b1"]
        np.maximum(inner, 0.0, out=inner)
        output: Floats = np.matmul(inner, part["w2"])
        output += part["b2"]
        output += embedded[:, -config.hidden :]
        if len(windows) > len(self._logits):
            self._logits = np.empty((len(windows), config.vocab), self.flat.dtype)
        logits = np.matmul(output, part["embed"].T, out=self._logits[: len(windows)])
        logits += part["bias"]
        return logits, Activations(windows, embedded, inner, output)

    def backward(self, grad_logits: Floats, kept: Activations) -> Floats:
        """d loss / d parameters, as one flat vector, from d loss / d logits [rows, V]."""
        part, config = self.part, self.config
        flat_grad = np.zeros_like(self.flat)
        grad = views(config, flat_grad)
        np.matmul(grad_logits.T, kept.output, out=grad["embed"])
        grad["bias"][...] = grad_logits.sum(axis=0)
        grad_output = grad_logits @ part["embed"]
        np.matmul(kept.inner.T, grad_output, out=grad["w2"])
        grad["b2"][...] = grad_output.sum(axis=0)
        grad_inner = grad_output @ part["w2"].T
        grad_inner *= kept.inner > 0.0
        np.matmul(kept.embedded.T, grad_inner, out=grad["w1"])
        grad["b1"][...] = grad_inner.sum(axis=0)
        grad_embedded = grad_inner @ part["w1"].T
        grad_embedded[:, -config.hidden :] += grad_output
        _add_rows(grad["embed"], kept.windows.ravel(), grad_embedded.reshape(-1, config.hidden))
        return flat_grad

    def save(self, path: Path) -> None:
        """Write the parameters in one atomic step."""
        replace_file(path, lambda stream: np.save(stream, self.flat))

    @classmethod
    def load(cls, config: ModelConfig, path: Path) -> WindowModel:
        """Read what save wrote."""
        return cls(config, np.load(path))


def views(config: ModelConfig, flat: Floats) -> dict[str, Floats]:
    """Named views into a flat vector [parameters]."""
    parts, start = {}, 0
    for name, shape in config.shapes().items():
        size = int(np.prod(shape))
        parts[name] = flat[start : start + size].reshape(shape)
        start += size
    return parts


def _add_rows(target: Floats, indices: Ints, rows: Floats) -> None:
    """target[indices[i]] += rows[i], with repeated indices summed in a fixed order (np.add.at is
    far slower).
    """
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    target[ordered[starts]] += np.add.reduceat(rows[order], starts, axis=0)
