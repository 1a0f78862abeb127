"""Any loss or procedure by its name in `prefopt.losses()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefopt._loss_types import PairLoss, SequenceLoss, StepPairLoss, UnpairedLoss

# The modules whose formulas `ROWS` holds.
from prefopt.reference import (  # noqa: F401
    cpo,
    dpo,
    dpo_relatives,
    dpo_tokens,
    groups,
    ppo,
    procedures,
    reference_free,
    tpo,
    unpaired,
)
from prefopt.reference._call import ROWS, call

RESULTS: dict[str, Callable[..., Any]] = {  # of a family; PairLoss for the others
    "eps_dpo": StepPairLoss,
    "kto": UnpairedLoss,
    "bco": UnpairedLoss,
    "sft": SequenceLoss,
    "reward_model": SequenceLoss,
    "ppo": SequenceLoss,
    "kl": SequenceLoss,
    "grpo": SequenceLoss,
}
PROCEDURES: dict[str, Callable[..., Any]] = {
    "bco.delta": procedures.bco_delta,
    "bco.udm_weights": procedures.bco_udm_weights,
    "beta_dpo.state": procedures.beta_dpo_state,
    "beta_dpo.keep": procedures.beta_dpo_keep,
    "eps_dpo.beta": procedures.eps_dpo_beta,
    "sampo.indices": procedures.sampo_indices,
    "rso.accept": procedures.rso_accept,
    "gae.gae": procedures.gae,
    "tr_dpo.mix": procedures.tr_dpo_mix,
}


def loss(name: str, **inputs: Any) -> Any:
    """The row `name`, such as "dpo.sigmoid" or "gae.gae", of inputs and parameters by their names.

    `convention`, `grad_losses` and `return_grads` are as for the functions of the families.
    """
    if name in PROCEDURES:
        return PROCEDURES[name](**inputs)
    if name not in ROWS:
        raise ValueError(f"name: no loss is called {name!r}")
    family, variant = name.split(".")
    return call(family, RESULTS.get(family, PairLoss), {**inputs, "loss_type": variant})
