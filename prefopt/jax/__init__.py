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

from ._inputs import ld_weights, mix_reference, uniforms, wpo_weights
from ._linear import linear_token_logps
from ._losses import (
    PairLoss,
    SequenceLoss,
    StepPairLoss,
    UnpairedLoss,
    arpo_loss,
    bco_delta,
    bco_loss,
    bco_udm_weights,
    beta_dpo_keep,
    beta_dpo_loss,
    beta_dpo_state,
    cal_dpo_loss,
    cpo_loss,
    dpo_loss,
    dpop_loss,
    eps_dpo_beta,
    eps_dpo_loss,
    gae,
    grpo_loss,
    ipo_loss,
    kl_loss,
    kto_kl,
    kto_loss,
    loss,
    odpo_loss,
    orpo_loss,
    ppo_loss,
    rdpo_loss,
    reward_model_loss,
    rso_accept,
    sampo_indices,
    sampo_loss,
    sft_loss,
    simper_loss,
    slic_loss,
    spin_loss,
    tdpo_loss,
    tpo_loss,
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
    "linear_token_logps",
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
    "tpo_loss",
    "uniforms",
    "wpo_weights",
]
