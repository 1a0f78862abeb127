"""Unit tests of loss code against golden values: three lines for a function of one's own, and the
same for TRL's and Liger's own code, unmodified. Run it with `pytest docs/examples`.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest

from prefopt.testing import assert_loss_matches

torch = pytest.importorskip("torch", reason="torch is not installed")

# ---- one's own function --------------------------------------------------------------------------


def my_dpo_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    ref_chosen_logps: torch.Tensor,
    ref_rejected_logps: torch.Tensor,
    beta: float = 0.1,
) -> torch.Tensor:
    margin = (policy_chosen_logps - ref_chosen_logps) - (policy_rejected_logps - ref_rejected_logps)
    return -torch.nn.functional.logsigmoid(beta * margin)


def test_my_loss() -> None:
    assert_loss_matches(my_dpo_loss, "dpo.sigmoid", convention="trl-1.16")


# ---- Liger: a function that takes log-probabilities under other names ----------------------------

PAIR = {
    "policy_chosen_logps": "chosen_logps",
    "policy_rejected_logps": "rejected_logps",
    "ref_chosen_logps": "ref_chosen_logps",
    "ref_rejected_logps": "ref_rejected_logps",
    "beta": "beta",
}


def for_liger(given: dict[str, Any]) -> dict[str, Any] | None:
    """Its own names, and full_target, of which it takes the number of rows."""
    if not given.keys() <= PAIR.keys():
        return None
    target = torch.zeros(2 * len(given["policy_chosen_logps"]), 1, dtype=torch.long)
    return {PAIR[name]: value for name, value in given.items()} | {"full_target": target}


@pytest.mark.parametrize("variant", ["sigmoid", "hinge", "nca_pair", "apo_zero", "sppo_hard"])
def test_liger_dpo(variant: str) -> None:
    module = pytest.importorskip("liger_kernel.chunked_loss.dpo_loss", reason="Liger is absent")
    theirs = module.LigerFusedLinearDPOFunction.preference_loss_fn

    def loss(**given: Any) -> Any:
        return theirs(**given, loss_type=variant)

    assert_loss_matches(
        loss, f"dpo.{variant}", convention="liger-0.8.5", adapter=for_liger, backend="torch"
    )


# ---- TRL: a method of the trainer, which reads log-probabilities from a model's output -----------


def trl_dpo_loss(variant: str, **given: Any) -> Any:
    """`DPOTrainer._compute_loss` on an object with just the attributes that it reads.

    Its model answers with prepared log-probabilities of one answer token a sequence.
    """
    from trl import DPOConfig, DPOTrainer

    chosen, rejected = given["policy_chosen_logps"], given["policy_rejected_logps"]
    log_probs = torch.cat([chosen, rejected])[:, None]  # [2 B, 1]
    zeros = torch.zeros_like(log_probs).detach()
    output = SimpleNamespace(
        log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros > 0,
        log_sum_sq_probs=zeros, aux_loss=None,
    )  # fmt: skip

    class Trainer(DPOTrainer):  # type: ignore[misc]
        def __init__(self) -> None:
            """Nothing but what is set below."""

    trainer = Trainer()
    fields = DPOConfig.__dataclass_fields__
    settings = ("beta", "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef")
    for name in (*settings, "discopop_tau"):
        setattr(trainer, name, given.get(name, fields[name].default))
    trainer.args = SimpleNamespace(**vars(trainer))
    trainer.loss_types, trainer.loss_weights = [variant], [1.0]
    trainer.ld_alpha, trainer.use_weighting, trainer.aux_loss_enabled = None, False, False
    trainer.ref_model, trainer.precompute_ref_logps = None, True
    trainer._total_train_tokens, trainer._tp_size = 0, 1
    trainer.accelerator = SimpleNamespace(
        gather=lambda x: x, gather_for_metrics=lambda x: x, device=torch.device("cpu")
    )
    trainer._metrics = {mode: Metrics() for mode in ("train", "eval")}
    trainer.model = lambda *arguments, **keywords: output
    trainer.model.training = False
    rows = len(log_probs)
    batch = {
        "input_ids": torch.zeros(rows, 2, dtype=torch.long),
        "attention_mask": torch.ones(rows, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]] * rows),
        "ref_chosen_logps": given["ref_chosen_logps"],
        "ref_rejected_logps": given["ref_rejected_logps"],
    }
    return trainer._compute_loss(trainer.model, batch, False)


class Metrics(dict):  # type: ignore[type-arg]
    """Lists made on demand."""

    def __missing__(self, key: str) -> list[float]:
        self[key] = []
        return self[key]


def for_trl(given: dict[str, Any]) -> dict[str, Any] | None:
    return given if given.keys() <= PAIR.keys() else None


def trl_loss(variant: str) -> Any:
    trl = pytest.importorskip("trl", reason="TRL is absent")
    if not trl.__version__.startswith("1.16."):
        pytest.skip("the stub has what TRL 1.16 reads")
    return functools.partial(trl_dpo_loss, variant)  # gives a scalar: compared with the mean


@pytest.mark.parametrize("variant", ["sigmoid", "hinge", "robust", "aot", "sppo_hard"])
def test_trl_dpo(variant: str) -> None:
    assert_loss_matches(
        trl_loss(variant),
        f"dpo.{variant}",
        convention="trl-1.16",
        adapter=for_trl,
        backend="torch",
    )


def test_trl_discopop() -> None:
    """Right for the numbers of a trainer; at log-ratios of 1e4 it is inf * 0."""
    check = functools.partial(
        assert_loss_matches, trl_loss("discopop"), "dpo.discopop", convention="trl-1.16",
        adapter=for_trl, backend="torch",
    )  # fmt: skip
    check(sets=("ordinary", "edge"))
    with pytest.raises(AssertionError, match="got      nan"):
        check(sets="extreme")
