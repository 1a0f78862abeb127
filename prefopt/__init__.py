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
from ._cuda import cuda_available, cuda_check
from ._losses import (
    LossInfo,
    PairLoss,
    SequenceLoss,
    UnpairedLoss,
    cpo_loss,
    dpo_loss,
    ipo_loss,
    kto_kl,
    kto_loss,
    loss,
    losses,
    sft_loss,
)
from ._threads import get_num_threads, isas, set_num_threads, using_isa
from ._token import RowState, TokenLogps, sequence_logps, token_logps, token_logps_grad

__all__ = [
    "LossInfo",
    "PairLoss",
    "RowState",
    "SequenceLoss",
    "TokenLogps",
    "UnpairedLoss",
    "__version__",
    "cpo_loss",
    "cuda_available",
    "cuda_check",
    "dpo_loss",
    "get_num_threads",
    "ipo_loss",
    "isas",
    "kto_kl",
    "kto_loss",
    "loss",
    "losses",
    "sequence_logps",
    "set_num_threads",
    "sft_loss",
    "token_logps",
    "token_logps_grad",
    "using_isa",
]
