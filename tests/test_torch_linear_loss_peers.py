"""LinearPreferenceLoss beside Liger's chunked losses: loss, rewards, gradients of hidden and head.

The cases of Liger's own tests of them (test/chunked_loss): with and without bias, reference and NLL,
loss types, other ignore_index. Liger computes in float32.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
chunked = pytest.importorskip("liger_kernel.chunked_loss", reason="Liger is not installed")

from torch_linear_cases import leaves_of, make, within, worst  # noqa: E402

from prefopt.torch import LinearPreferenceLoss  # noqa: E402

pytestmark = pytest.mark.peers

SHAPE, HIDDEN, VOCAB = (6, 7), 16, 41
SIDES = ("chosen", "rejected")
# By case: Liger's class and its keywords, our row and its parameters, further inputs.
CASES: dict[str, tuple[str, dict[str, Any], Any, dict[str, Any]]] = {
    **{
        f"dpo {name}": ("DPO", {"loss_type": name, **extra}, f"dpo.{name}", extra)
        for name, extra in {
            "sigmoid": {},
            "apo_zero": {},
            "apo_down": {},
            "sppo_hard": {},
            "nca_pair": {},
            "robust": {"label_smoothing": 0.1},
            "exo_pair": {"label_smoothing": 0.01},
            "discopop": {},
        }.items()
    },
    "dpo with nll": (
        "DPO", {"compute_nll_loss": True, "alpha": 0.5}, ("dpo.sigmoid", "dpo.sft"),
        {"loss_weights": (1.0, 0.5)},
    ),
    "cpo": ("CPO", {"alpha": 0.7}, "cpo.sigmoid", {"cpo_alpha": 0.7}),
    "cpo smoothed": ("CPO", {"label_smoothing": 0.2}, "cpo.sigmoid", {"label_smoothing": 0.2}),
    "cpo without nll": ("CPO", {"compute_nll_loss": False}, "cpo.sigmoid", {"cpo_alpha": 0.0}),
    "simpo": ("SimPO", {"gamma": 0.8}, "cpo.simpo", {"simpo_gamma": 0.8}),
    "orpo": ("ORPO", {}, "orpo.orpo", {}),
    "kto": ("KTO", {"use_ref_model": True}, "kto.kto", {}),
}  # fmt: skip


@pytest.mark.parametrize("ignore_index", [-100, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_same_as_liger(case: str, bias: bool, ignore_index: int) -> None:
    name, keywords, row, params = CASES[case]
    head = make(SHAPE, HIDDEN, VOCAB, bias=bias, ignore_index=ignore_index)
    ref = make(SHAPE, HIDDEN, VOCAB, bias=bias, seed=1)
    head["labels"][2, 3:] = head["labels"][4, :2] = ignore_index
    names = ("hidden", "weight", "bias") if bias else ("hidden", "weight")
    ours, theirs = leaves_of(head, names), leaves_of(head, names)

    module = LinearPreferenceLoss(row, beta=0.3, ignore_index=ignore_index, **params)
    given = {f"ref_{key}": each for key, each in ref.items() if key != "labels"}
    desirable = torch.tensor([True, False, True, True, False, True])
    inputs = {"desirable": desirable, "kl": 0.4} if name == "KTO" else {}
    if name in ("DPO", "KTO"):
        inputs.update(given)
    got, logged = module(**ours, **inputs)

    peer = getattr(chunked, f"LigerFusedLinear{name}Loss")
    peer = peer(beta=0.3, compiled=False, ignore_index=ignore_index, **keywords)
    reference = {
        "ref_input": ref["hidden"], "ref_weight": ref["weight"], "ref_bias": ref.get("bias"),
    }  # fmt: skip
    kto = {"preference_labels": desirable, "kl": torch.tensor(0.4)} if name == "KTO" else {}
    want, aux = peer(
        _input=theirs["hidden"], lin_weight=theirs["weight"], target=theirs["labels"],
        bias=theirs.get("bias"), **(reference if name in ("DPO", "KTO") else {}), **kto,
    )  # fmt: skip
    pairs = [(got, want), *zip(*gradients(got, ours, want, theirs, names), strict=True)]
    if name == "DPO":
        pairs += [(logged[f"logps/{side}"], aux[k].mean()) for k, side in enumerate(SIDES)]
    for mine, other in pairs:
        within(worst(mine, other) / (1 + float(other.detach().abs().max())), 8e-7)


def gradients(got: Any, ours: Any, want: Any, theirs: Any, names: tuple[str, ...]) -> Any:
    return (
        torch.autograd.grad(got, [ours[key] for key in names]),
        torch.autograd.grad(want, [theirs[key] for key in names]),
    )
