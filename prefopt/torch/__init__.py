"""prefopt for PyTorch: the same functions and keywords, with autograd and torch.compile.

    from prefopt.torch import token_logps, sequence_logps, dpo_loss

    logps = token_logps(logits, labels).logps          # [2n, T]; labels are -100 where not to count
    sums = sequence_logps(logps, labels != -100)       # [2n], chosen answers first
    loss = dpo_loss(sums[:n], sums[n:], ref[:n], ref[n:], beta=0.1).losses.mean()
    loss.backward()

Without logits, from hidden states and the output head, for every loss of the list:

    loss_function = LinearPreferenceLoss("dpo.sigmoid", beta=0.1)
    loss, metrics = loss_function(hidden, head.weight, labels, ref_hidden=..., ref_weight=...)

CPU tensors are read in place by the C kernels; other devices run a plain torch form. Under
torch.compile the functions are single operators in the graph. `selective_log_softmax`,
`entropy_from_logits` and `selective_log_softmax_and_entropy` have TRL 1.16's signatures.
"""

from __future__ import annotations

from . import _loss_functions
from ._inputs import ld_weights, mix_reference, uniforms, wpo_weights
from ._linear import linear_token_logps
from ._linear_pair import linear_pair_token_stats
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
from ._preference import LinearPreferenceLoss
from ._sequence import sequence_logps
from ._token import TokenLogps, token_logps
from ._trl import entropy_from_logits, selective_log_softmax, selective_log_softmax_and_entropy

__all__ = [
    "LinearPreferenceLoss",
    "PairLoss",
    "PairTokenStats",
    "SequenceLoss",
    "StepPairLoss",
    "TokenLogps",
    "UnpairedLoss",
    "entropy_from_logits",
    "ipo_loss",
    "kto_kl",
    "ld_weights",
    "linear_pair_token_stats",
    "linear_token_logps",
    "loss",
    "mix_reference",
    "pair_token_stats",
    "selective_log_softmax",
    "selective_log_softmax_and_entropy",
    "sequence_logps",
    "token_logps",
    "uniforms",
    "wpo_weights",
]
__all__ += _loss_functions.__all__  # one function a family of the loss list
