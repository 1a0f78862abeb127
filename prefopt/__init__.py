"""prefopt: token log-probabilities and preference losses in hand-written C, forward and backward.

NumPy arrays in and out; `prefopt.torch` has the same functions for tensors with autograd,
`prefopt.reference` once more in plain float64 NumPy to be read beside the papers.
"""

from __future__ import annotations

try:
    from ._core import __version__
except ModuleNotFoundError as error:  # a source tree that was never built
    raise ImportError(
        "prefopt's C core is not built here: run `pip install -e .` in the source tree, "
        "or leave it and import the installed package"
    ) from error
from . import _loss_functions
from ._cuda import cuda_available, cuda_check
from ._inputs import ld_weights, mix_reference, uniforms, wpo_weights
from ._linear import LinearGrads, linear_token_logps, linear_token_logps_grad
from ._loss_functions import *  # noqa: F403 (what its __all__ says)
from ._losses import (
    Convention,
    LossInfo,
    PairLoss,
    SequenceLoss,
    StepPairLoss,
    UnpairedLoss,
    conventions,
    ipo_loss,
    kto_kl,
    loss,
    losses,
)
from ._pair import PairTokenStats, pair_token_stats, pair_token_stats_grad
from ._threads import get_num_threads, isas, set_num_threads, using_isa
from ._token import RowState, TokenLogps, sequence_logps, token_logps, token_logps_grad

__all__ = [
    "Convention",
    "LinearGrads",
    "LossInfo",
    "PairLoss",
    "PairTokenStats",
    "RowState",
    "SequenceLoss",
    "StepPairLoss",
    "TokenLogps",
    "UnpairedLoss",
    "__version__",
    "conventions",
    "cuda_available",
    "cuda_check",
    "get_num_threads",
    "ipo_loss",
    "isas",
    "kto_kl",
    "ld_weights",
    "linear_token_logps",
    "linear_token_logps_grad",
    "loss",
    "losses",
    "mix_reference",
    "pair_token_stats",
    "pair_token_stats_grad",
    "sequence_logps",
    "set_num_threads",
    "token_logps",
    "token_logps_grad",
    "uniforms",
    "using_isa",
    "wpo_weights",
]
__all__ += _loss_functions.__all__  # one function a family of the loss list
