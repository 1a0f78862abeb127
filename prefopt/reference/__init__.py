"""The library's mathematics in plain float64 NumPy, to be read beside the papers.

Same names and keywords as `prefopt`, no C, no blocking, no tricks but those that keep float64 from
overflowing where the result does not. Everything is float64 inside and out. Arguments are trusted;
the checks are `prefopt`'s. Where to find what:

    tokens.py           log-probabilities of tokens, their statistics and gradient
    pair_tokens.py      the same of two models' rows read together: KL, perturbed logits
    sequences.py        sums and averages over answers; weights of LD-DPO and WPO
    scalar.py           sigma, log sigma, hinge
    divergence.py       the margin of a pair under an f-divergence
    dpo.py              DPO, IPO, robust, hinge, EXO, NCA, SPPO, BCO, APO, DiscoPOP, ... of pairs
    dpo_batch.py        those of the family that couple a batch: AOT, SFT, KTO on pairs
    dpo_relatives.py    R-DPO, DPOP, ODPO, Cal-DPO, SPIN, beta-DPO
    dpo_tokens.py       TDPO, SamPO, eps-DPO
    unpaired.py         KTO, APO and BCO of single answers, SFT
    cpo.py, tpo.py      CPO, SimPO, AlphaPO; TPO
    reference_free.py   ORPO, SLiC-HF, SimPER, ARPO, Bradley-Terry
    ppo.py, groups.py   PPO, KL estimates; GRPO and its relatives
    procedures.py       running state, samples, advantages
    losses.py           any of them by name
    _call.py            from the arguments of a call to a formula

Notation: pi and ref are the log-probabilities of an answer under the policy and the reference, w
the chosen (winning) and l the rejected (losing) answer, N its tokens, D = pi - ref, a = pi / N. The
formulas are functions in these symbols, named where `_call.SYMBOLS` maps them to the arguments.
"""

from prefopt.reference.cpo import cpo_loss
from prefopt.reference.dpo import dpo_loss, ipo_loss
from prefopt.reference.dpo_relatives import (
    beta_dpo_loss,
    cal_dpo_loss,
    dpop_loss,
    odpo_loss,
    rdpo_loss,
    spin_loss,
)
from prefopt.reference.dpo_tokens import eps_dpo_loss, sampo_loss, tdpo_loss
from prefopt.reference.groups import grpo_loss
from prefopt.reference.losses import loss
from prefopt.reference.pair_tokens import PairTokenStats, pair_token_stats
from prefopt.reference.ppo import kl_loss, ppo_loss
from prefopt.reference.procedures import (
    bco_delta,
    bco_udm_weights,
    beta_dpo_keep,
    beta_dpo_state,
    eps_dpo_beta,
    gae,
    mix_reference,
    rso_accept,
    sampo_indices,
    uniforms,
)
from prefopt.reference.reference_free import (
    arpo_loss,
    orpo_loss,
    reward_model_loss,
    simper_loss,
    slic_loss,
)
from prefopt.reference.sequences import ld_weights, sequence_logps, wpo_weights
from prefopt.reference.tokens import TokenLogps, token_logps, token_logps_grad
from prefopt.reference.tpo import tpo_loss
from prefopt.reference.unpaired import bco_loss, kto_kl, kto_loss, sft_loss

__all__ = [
    "PairTokenStats",
    "TokenLogps",
    "arpo_loss",
    "bco_delta",
    "bco_loss",
    "bco_udm_weights",
    "beta_dpo_keep",
    "beta_dpo_loss",
    "beta_dpo_state",
    "cal_dpo_loss",
    "cpo_loss",
    "dpo_loss",
    "dpop_loss",
    "eps_dpo_beta",
    "eps_dpo_loss",
    "gae",
    "grpo_loss",
    "ipo_loss",
    "kl_loss",
    "kto_kl",
    "kto_loss",
    "ld_weights",
    "loss",
    "mix_reference",
    "odpo_loss",
    "orpo_loss",
    "pair_token_stats",
    "ppo_loss",
    "rdpo_loss",
    "reward_model_loss",
    "rso_accept",
    "sampo_indices",
    "sampo_loss",
    "sequence_logps",
    "sft_loss",
    "simper_loss",
    "slic_loss",
    "spin_loss",
    "tdpo_loss",
    "token_logps",
    "token_logps_grad",
    "tpo_loss",
    "uniforms",
    "wpo_weights",
]
