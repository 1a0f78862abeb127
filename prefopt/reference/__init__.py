"""The library's mathematics in plain float64 NumPy, to be read beside the papers.

Same names and keywords as `prefopt`, no C, no blocking, no tricks but the usual two: the largest
logit is subtracted before `exp`, and log-sigmoid is taken in the form that cannot overflow.
Everything is float64 inside and out. Arguments are trusted; the checks are `prefopt`'s.
`tokens.py` holds the log-probabilities of tokens and sequences, `losses.py` the losses.
"""

from prefopt.reference.losses import (
    cpo_loss,
    dpo_loss,
    ipo_loss,
    kto_kl,
    kto_loss,
    sft_loss,
)
from prefopt.reference.tokens import TokenLogps, sequence_logps, token_logps, token_logps_grad

__all__ = [
    "TokenLogps",
    "cpo_loss",
    "dpo_loss",
    "ipo_loss",
    "kto_kl",
    "kto_loss",
    "sequence_logps",
    "sft_loss",
    "token_logps",
    "token_logps_grad",
]
