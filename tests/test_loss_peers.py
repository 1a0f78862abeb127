"""TRL 1.16's own code, unmodified, on the same numbers: DPO sigmoid and IPO, KTO, CPO.

The trainers' loss methods are called on a bare object that has just the attributes they read; the
log-probabilities reach them through a stub of the model's output. Skipped where TRL is absent.
"""

from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import prefopt

pytestmark = pytest.mark.peers

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("trl", reason="TRL is not installed")
if importlib.metadata.version("trl").split(".")[:2] != ["1", "16"]:
    pytest.skip("these tests read TRL 1.16's internals", allow_module_level=True)

# float64 throughout (TRL's code keeps the dtype of the log-probabilities): a few roundings each.
RTOL = 1e-12
B, T = 5, 7


class OneProcess:
    """What the trainers ask of an accelerator, in one process on the CPU."""

    device = torch.device("cpu")

    def gather(self, tensor: Any) -> Any:
        return tensor

    def gather_for_metrics(self, tensor: Any) -> Any:
        return tensor


class Metrics(dict):  # type: ignore[type-arg]
    """_metrics[mode][name], lists made on demand."""

    def __missing__(self, key: str) -> Any:
        self[key] = Metrics() if key in ("train", "eval") else []
        return self[key]


def bare(trainer: Any, log_probs: Any, **attributes: Any) -> Any:
    """An instance without __init__, and a model that answers every call with `log_probs`."""

    class Model:
        training = False

        def __call__(self, **keywords: Any) -> Any:
            zeros = torch.zeros_like(log_probs)
            return SimpleNamespace(
                log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros > 0,
                log_sum_sq_probs=zeros,
            )  # fmt: skip

    class Bare(trainer):  # type: ignore[misc]
        def __init__(self) -> None:
            """Nothing: the loss methods read only what is set below."""

    instance = Bare()
    defaults = {
        "model": Model(), "accelerator": OneProcess(), "_metrics": Metrics(), "ref_model": None,
        "precompute_ref_logps": True, "aux_loss_enabled": False, "_total_train_tokens": 0,
        "_tp_size": 1,
    }  # fmt: skip
    for name, value in {**defaults, **attributes}.items():
        setattr(instance, name, value)
    return instance


def token_batch(rng: np.random.Generator, rows: int) -> tuple[Any, Any, dict[str, Any]]:
    """Per-token log-probs [rows, T - 1] with a gradient, the mask of answers [rows, T], inputs."""
    prompt = rng.integers(1, 3, rows)
    answer = rng.integers(1, T - 2, rows)
    position = np.arange(T)
    mask = (position >= prompt[:, None]) & (position < (prompt + answer)[:, None])
    values = np.where(mask[:, 1:], rng.uniform(-6, 0, (rows, T - 1)), 0.0)
    inputs = {
        "input_ids": torch.zeros(rows, T, dtype=torch.long),
        "attention_mask": torch.ones(rows, T, dtype=torch.long),
        "completion_mask": torch.tensor(mask.astype(np.int64)),
    }
    return torch.tensor(values, requires_grad=True), mask, inputs


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_dpo(loss_type: str, beta: float, rng: np.random.Generator) -> None:
    from trl import DPOTrainer

    log_probs, mask, inputs = token_batch(rng, 2 * B)
    sums = log_probs.detach().sum(1).numpy()
    refs = sums + rng.uniform(-3, 3, 2 * B)
    inputs["ref_chosen_logps"] = torch.tensor(refs[:B])
    inputs["ref_rejected_logps"] = torch.tensor(refs[B:])
    trainer = bare(
        DPOTrainer, log_probs, beta=beta, loss_types=[loss_type], loss_weights=[1.0], ld_alpha=None,
        f_divergence_type="reverse_kl", label_smoothing=0.0, use_weighting=False,
    )  # fmt: skip
    theirs = trainer._compute_loss(trainer.model, inputs, False)
    theirs.backward()
    lengths = mask.sum(1)
    given = (
        {"chosen_lengths": lengths[:B], "rejected_lengths": lengths[B:]}
        if loss_type == "ipo"
        else {}
    )
    ours = prefopt.dpo_loss(
        sums[:B], sums[B:], refs[:B], refs[B:], loss_type=loss_type, beta=beta,
        grad_losses=np.full(B, 1 / B), **given,
    )  # fmt: skip
    assert ours.losses.mean() == pytest.approx(theirs.item(), rel=RTOL)
    metrics = trainer._metrics["eval"]
    assert ours.chosen_rewards.mean() == pytest.approx(metrics["rewards/chosen"][0], rel=RTOL)
    assert ours.rejected_rewards.mean() == pytest.approx(metrics["rewards/rejected"][0], rel=RTOL)
    per_sequence = np.concatenate(list(ours.grads.values()))
    np.testing.assert_allclose(
        log_probs.grad.numpy(), per_sequence[:, None] + 0 * log_probs.detach().numpy(), rtol=RTOL
    )


@pytest.mark.parametrize("labels", [[1, 0, 1, 1, 0], [1] * 5, [0] * 5])
@pytest.mark.parametrize("shift", [2.0, -2.0])  # a positive KL, and one that is clamped
def test_kto(labels: list[int], shift: float, rng: np.random.Generator) -> None:
    from trl import KTOTrainer

    log_probs, _, inputs = token_batch(rng, B)
    sums = log_probs.detach().sum(1).numpy()
    refs = sums + rng.uniform(-3, 3, B)
    policy_kl = rng.uniform(-20, -10, B)
    ref_kl = policy_kl - shift + rng.uniform(-1, 1, B)
    inputs |= {
        "label": torch.tensor(labels).bool(), "ref_logps": torch.tensor(refs),
        "ref_KL_logps": torch.tensor(ref_kl),
    }  # fmt: skip
    trainer = bare(
        KTOTrainer, log_probs, beta=0.3, loss_type="kto", calculate_KL=True, desirable_weight=1.5,
        undesirable_weight=0.7, _compute_kl_logps=lambda model, batch: torch.tensor(policy_kl),
    )  # fmt: skip
    theirs = trainer._compute_loss(trainer.model, inputs, False)
    theirs.backward()
    kl = prefopt.kto_kl(policy_kl, ref_kl)
    assert kl == pytest.approx(trainer._metrics["eval"]["kl"][0], rel=RTOL)
    ours = prefopt.kto_loss(
        sums, refs, np.array(labels, bool), kl=kl, beta=0.3, desirable_weight=1.5,
        undesirable_weight=0.7, grad_losses=np.full(B, 1 / B),
    )  # fmt: skip
    assert ours.losses.mean() == pytest.approx(theirs.item(), rel=RTOL)
    grads = ours.grads["policy_logps"][:, None] + np.zeros((B, T - 1))
    np.testing.assert_allclose(log_probs.grad.numpy(), grads, rtol=1e-10)
    for name, wanted in (("chosen", 1), ("rejected", 0)):
        if wanted in labels:
            mean = ours.rewards[np.array(labels) == wanted].mean()
            assert mean == pytest.approx(trainer._metrics["eval"][f"rewards/{name}"][0], rel=RTOL)


@pytest.mark.parametrize(("smoothing", "alpha"), [(0.0, 1.0), (0.2, 0.4), (0.0, 0.0)])
def test_cpo(smoothing: float, alpha: float, rng: np.random.Generator) -> None:
    """The whole of get_batch_loss_metrics: logits in, loss with its NLL term out."""
    from trl.experimental.cpo import CPOTrainer

    vocab = 11
    logits = torch.tensor(rng.normal(0, 2, (2 * B, T, vocab)), requires_grad=True)
    labels = rng.integers(0, vocab, (2 * B, T))
    labels[np.arange(T)[None] < rng.integers(1, 4, 2 * B)[:, None]] = -100
    batch = {}
    for part, rows in (("chosen", slice(0, B)), ("rejected", slice(B, 2 * B))):
        batch[f"{part}_labels"] = torch.tensor(labels[rows])
        batch[f"{part}_input_ids"] = torch.tensor(np.maximum(labels[rows], 0))
        batch[f"{part}_attention_mask"] = torch.ones(B, T, dtype=torch.long)
    trainer = bare(
        CPOTrainer, logits, beta=0.3, loss_type="sigmoid", label_smoothing=smoothing, alpha=0.0,
        cpo_alpha=alpha, simpo_gamma=0.5, is_encoder_decoder=False, pad_token_id=0,
    )  # fmt: skip
    theirs, metrics = trainer.get_batch_loss_metrics(
        lambda *_, **__: SimpleNamespace(logits=logits), batch, "train"
    )
    theirs.backward()
    token = prefopt.token_logps(logits.detach().numpy()[:, :-1], labels[:, 1:])
    sums = prefopt.sequence_logps(token.logps, labels[:, 1:] != -100)
    lengths = (labels[:B, 1:] != -100).sum(1)
    ours = prefopt.cpo_loss(
        sums[:B], sums[B:], beta=0.3, label_smoothing=smoothing, chosen_nll=-sums[:B],
        chosen_lengths=lengths, cpo_alpha=alpha, grad_losses=np.full(B, 1 / B),
    )  # fmt: skip
    assert ours.losses.mean() == pytest.approx(theirs.item(), rel=RTOL)
    assert ours.chosen_rewards.mean() == pytest.approx(metrics["rewards/chosen"], rel=RTOL)
    assert ours.rejected_rewards.mean() == pytest.approx(metrics["rewards/rejected"], rel=RTOL)
    chosen = ours.grads["policy_chosen_logps"] - ours.grads["chosen_nll"]
    per_sequence = np.concatenate([chosen, ours.grads["policy_rejected_logps"]])
    grad = np.zeros(logits.shape)
    grad[:, :-1] = prefopt.token_logps_grad(
        logits.detach().numpy()[:, :-1], labels[:, 1:], token.lse,
        grad_logps=np.repeat(per_sequence[:, None], T - 1, 1),
    )  # fmt: skip
    np.testing.assert_allclose(logits.grad.numpy(), grad, rtol=1e-9, atol=1e-15)


def test_sft_is_the_mean_over_chosen_tokens(rng: np.random.Generator) -> None:
    from trl import DPOTrainer

    log_probs, mask, inputs = token_batch(rng, 2 * B)
    inputs["ref_chosen_logps"] = inputs["ref_rejected_logps"] = torch.zeros(B, dtype=torch.float64)
    trainer = bare(
        DPOTrainer, log_probs, beta=0.1, loss_types=["sft"], loss_weights=[1.0], ld_alpha=None,
        f_divergence_type="reverse_kl", label_smoothing=0.0, use_weighting=False,
    )  # fmt: skip
    theirs = trainer._compute_loss(trainer.model, inputs, False).item()
    sums = log_probs.detach().sum(1).numpy()[:B]
    ours = prefopt.sft_loss(sums, lengths=mask[:B].sum(1))
    assert ours.losses.mean() == pytest.approx(theirs, rel=RTOL)
