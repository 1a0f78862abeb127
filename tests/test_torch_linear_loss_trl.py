"""LinearPreferenceLoss beside TRL 1.16: `DPOTrainer._compute_loss` itself, on the same tokens.

The trainer is a stand-in that carries what the method reads; its model gives what TRL's fused head
gives, from float64 logits. Loss, gradients and every metric of the same name.
"""

from __future__ import annotations

import collections
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
trl = pytest.importorskip("trl", reason="TRL is not installed")
if not trl.__version__.startswith("1.16."):
    pytest.skip(f"written for TRL 1.16, found {trl.__version__}", allow_module_level=True)

from torch_linear_cases import leaves_of, make, truth, within, worst  # noqa: E402

from prefopt.torch import LinearPreferenceLoss  # noqa: E402

pytestmark = pytest.mark.peers

PAIRS, TOKENS = 3, 8
# TRL's loss types and options, and ours where they differ.
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]] = {
    **{
        name: ((name,), {}, {})
        for name in (
            *("sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "aot", "apo_zero"),
            *("aot_unpaired", "apo_down", "discopop", "sft", "sigmoid_norm"),
        )
    },
    "exo_pair": (("exo_pair",), {"label_smoothing": 0.01}, {"label_smoothing": 0.01}),
    "robust": (("robust",), {"label_smoothing": 0.1}, {"label_smoothing": 0.1}),
    "mpo": (("sigmoid", "bco_pair", "sft"), {"loss_weights": (0.8, 0.2, 1.0)}, {}),
    "js": (
        ("sigmoid",),
        {"f_divergence_type": "js_divergence"},
        {"f_divergence_type": "js_divergence"},
    ),
    "wpo": (("sigmoid",), {"use_weighting": True}, {"wpo": True}),
    "ld": (("sigmoid",), {"ld_alpha": 0.3}, {"ld_alpha": 0.3}),
}


def batch() -> tuple[dict[str, Any], dict[str, Any]]:
    """Policy and reference over [2 PAIRS, TOKENS - 1] predicted tokens, and completion masks."""
    shape = (2 * PAIRS, TOKENS - 1)
    policy = make(shape, 6, 23, dtype=torch.float64)
    ref = make(shape, 6, 23, dtype=torch.float64, seed=1)
    for k in range(2 * PAIRS):
        policy["labels"][k, : 1 + k % 3] = -100
        policy["labels"][k, TOKENS - 2 - k % 2 :] = -100
    best = (policy["hidden"] @ policy["weight"].T).argmax(-1)
    policy["labels"][1, 3], policy["labels"][5, 4] = best[1, 3], best[5, 4]
    ref["labels"] = policy["labels"]
    return policy, ref


def trainer(loss_types: tuple[str, ...], **options: Any) -> Any:
    def same(value: Any) -> Any:
        return value

    made = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same),
        args=SimpleNamespace(discopop_tau=0.05),
        loss_types=loss_types, loss_weights=(1.0,) * len(loss_types), beta=0.3, label_smoothing=0.0,
        aux_loss_enabled=False, precompute_ref_logps=True, ld_alpha=None, use_weighting=False,
        f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5,
        _metrics={"train": collections.defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    made.__dict__.update(options)
    return made


def by_trl(
    policy: dict[str, Any], ref: dict[str, Any], stand_in: Any
) -> tuple[Any, dict[str, float]]:
    from trl.trainer.dpo_trainer import DPOTrainer

    mask = policy["labels"] != -100
    tokens = truth(policy)
    outputs = SimpleNamespace(
        log_probs=tokens["logps"],
        entropy=tokens["entropy"],
        mean_logits=tokens["mean_logit"],
        is_top1=tokens["correct"],
        log_sum_sq_probs=tokens["lse2"] - 2 * tokens["lse"],
    )
    ref_logps = truth(ref)["logps"]
    if stand_in.ld_alpha is not None:
        lengths = mask.sum(1)
        shorter = torch.minimum(lengths, lengths.roll(PAIRS))[:, None]
        beyond = (mask.cumsum(1) > shorter).double()
        ref_logps = ref_logps * (1 - beyond * (1 - stand_in.ld_alpha))
    chosen, rejected = ref_logps.sum(1).chunk(2)
    completion = torch.nn.functional.pad(mask, (1, 0)).long()
    inputs = {
        "input_ids": torch.zeros_like(completion),
        "attention_mask": torch.ones_like(completion),
        "completion_mask": completion,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    loss = DPOTrainer._compute_loss(stand_in, lambda **_: outputs, inputs, False)
    return loss, {name: values[0] for name, values in stand_in._metrics["train"].items()}


@pytest.mark.parametrize("case", CASES)
def test_same_as_trl(case: str) -> None:
    loss_types, theirs, ours = CASES[case]
    policy, ref = batch()
    mine, exact = (leaves_of(policy, ("hidden", "weight")) for _ in range(2))
    want, want_metrics = by_trl(exact, ref, trainer(loss_types, **theirs))

    names = [f"dpo.{name}" for name in loss_types]
    weights = theirs.get("loss_weights")
    module = LinearPreferenceLoss(
        names, loss_weights=weights, convention="trl-1.16", beta=0.3, **ours
    )
    got, metrics = module(**mine, ref_hidden=ref["hidden"], ref_weight=ref["weight"])
    want_metrics.pop("num_tokens")
    assert set(want_metrics) <= set(metrics)
    pairs = [(metrics[name], torch.tensor(each)) for name, each in want_metrics.items()]
    pairs.append((got, want))
    leaves = [mine["hidden"], mine["weight"]]
    true = [exact["hidden"], exact["weight"]]
    pairs += zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, true), strict=True)
    for result, expected in pairs:
        # Metrics come from TRL as numbers: float32 tensors here. EXO's epsilon is float32 in TRL.
        budget = 1.3e-15 if expected.dtype is torch.float64 else 1.1e-7
        budget = 3e-8 if case == "exo_pair" and budget < 3e-8 else budget
        within(worst(result, expected) / (1 + float(expected.detach().abs().max())), budget)
