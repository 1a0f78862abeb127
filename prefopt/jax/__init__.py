"""prefopt for JAX: the same functions and keywords, with VJPs, under jit and vmap.

    from prefopt.jax import dpo_loss, sequence_logps, token_logps

    def loss(params):
        logps = token_logps(model(params, ids), labels).logps   # [2n, T]; labels are -100 where
        sums = sequence_logps(logps, labels != -100)            # not to count; chosen rows first
        return dpo_loss(sums[:n], sums[n:], ref[:n], ref[n:], beta=0.1).losses.mean()

    value, grads = jax.jit(jax.value_and_grad(loss))(params)

On the CPU, through XLA's foreign function interface: the C kernels read and write XLA's own buffers.
Programs for other devices compile, and raise when they reach a function of this module. Wrong
shapes, dtypes and parameters raise while tracing, wrong values (a label out of range) when the
program runs.
"""

from __future__ import annotations

from . import _loss_functions
from ._inputs import ld_weights, mix_reference, uniforms, wpo_weights
from ._linear import linear_token_logps
from ._loss_functions import *  # noqa: F403 (what its __all__ says)
from ._losses import (
    PairLoss,
    SequenceLoss,
    StepPairLoss,
    UnpairedLoss,
    ipo_loss,
    kto_kl,
    loss,
)
from ._pair import PairTokenStats, pair_token_stats
from ._sequence import sequence_logps
from ._token import TokenLogps, token_logps

__all__ = [
    "PairLoss",
    "PairTokenStats",
    "SequenceLoss",
    "StepPairLoss",
    "TokenLogps",
    "UnpairedLoss",
    "ipo_loss",
    "kto_kl",
    "ld_weights",
    "linear_token_logps",
    "loss",
    "mix_reference",
    "pair_token_stats",
    "sequence_logps",
    "token_logps",
    "uniforms",
    "wpo_weights",
]
__all__ += _loss_functions.__all__  # one function a family of the loss list
