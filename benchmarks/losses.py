"""Losses on [B] sequence log-probabilities: prefopt beside the torch code of a trainer.

    python benchmarks/losses.py [--quick]

A loss is tiny next to its logits: what counts is the time of a call. Values are checked against the
torch form in float64 first. Forward of NumPy with and without gradients, forward and
forward + backward of torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import common
from common import Peer, measure

SECTIONS = ("dpo", "ipo", "kto", "cpo", "sft")
OPTIONS = common.arguments(__doc__.splitlines()[0], SECTIONS)

import numpy as np  # noqa: E402
import report as reporting  # noqa: E402
import torch  # noqa: E402
from torch.nn.functional import logsigmoid  # noqa: E402

import prefopt  # noqa: E402
import prefopt.torch as prefopt_torch  # noqa: E402

BETA = 0.1


# As TRL's trainers write them.
def dpo(w: Any, lose: Any, ref_w: Any, ref_l: Any) -> Any:
    return -logsigmoid(BETA * ((w - ref_w) - (lose - ref_l)))


def ipo(w: Any, lose: Any, ref_w: Any, ref_l: Any) -> Any:
    return ((w - ref_w) - (lose - ref_l) - 1 / (2 * BETA)) ** 2


def kto(policy: Any, ref: Any, desirable: Any) -> Any:
    ratio = policy - ref
    good, bad = 1 - torch.sigmoid(BETA * (ratio - 0.1)), 1 - torch.sigmoid(BETA * (0.1 - ratio))
    return torch.where(desirable, good, bad)


def cpo(w: Any, lose: Any) -> Any:
    return -logsigmoid(BETA * (w - lose))


def sft(policy: Any) -> Any:
    return -policy * len(policy) / 100.0


# name -> (function of prefopt, torch form, number of vectors, keywords)
CASES: dict[str, tuple[str, Callable[..., Any], int, dict[str, Any]]] = {
    "dpo": ("dpo_loss", dpo, 4, {"beta": BETA}),
    "ipo": ("ipo_loss", ipo, 4, {"beta": BETA}),
    "kto": ("kto_loss", kto, 2, {"beta": BETA, "kl": 0.1}),
    "cpo": ("cpo_loss", cpo, 2, {"beta": BETA}),
    "sft": ("sft_loss", sft, 1, {"nll_tokens": 100.0}),
}


def peers(section: str, batch: int) -> list[Peer]:
    """Ours and the torch form on the same float32 inputs."""
    name, form, count, keywords = CASES[section]
    generator = torch.Generator().manual_seed(batch)
    inputs: list[Any] = [20 * torch.randn(batch, generator=generator) for _ in range(count)]
    if section == "kto":
        inputs.append(torch.rand(batch, generator=generator) > 0.5)
    exact = form(*(each.double() if each.is_floating_point() else each for each in inputs))
    arrays = [each.numpy() for each in inputs]
    leaves = [
        each.clone().requires_grad_() if each.is_floating_point() else each for each in inputs
    ]
    array, tensor = getattr(prefopt, name), getattr(prefopt_torch, name)

    def error(result: Any) -> float:
        worst = float((torch.as_tensor(np.asarray(result)) - exact).abs().max())
        assert worst <= 1e-3, f"{section}: error {worst:.1e}"
        return worst

    def backward(function: Callable[..., Any]) -> Callable[[], Any]:
        def run() -> Any:
            losses = function(*leaves)
            losses.mean().backward()
            return losses.detach()

        return run

    layout = f"[{batch}]"
    return [
        Peer("prefopt NumPy", layout, lambda: array(*arrays, **keywords).losses, error),
        Peer(
            "prefopt NumPy, gradients",
            layout,
            lambda: array(*arrays, **keywords, return_grads=True).losses,
            error,
        ),
        Peer("prefopt.torch", layout, lambda: tensor(*inputs, **keywords).losses, error),
        Peer("torch", layout, lambda: form(*inputs), error),
        Peer(
            "prefopt.torch fwd+bwd",
            layout,
            backward(lambda *given: tensor(*given, **keywords).losses),
            error,
        ),
        Peer("torch fwd+bwd", layout, backward(form), error),
    ]


def main() -> None:
    torch.set_num_threads(OPTIONS.threads)
    facts = reporting.machine(OPTIONS)
    print(reporting.describe(facts))
    records = []
    for section in OPTIONS.sections:
        for batch in (4,) if OPTIONS.quick else (4, 64, 4096):
            timings = measure(peers(section, batch), OPTIONS.rounds)
            print(f"\n## {section}, float32 [{batch}]")
            print(reporting.table(timings))
            records += [
                each.record(section=section, shape=f"[{batch}]", dtype="float32")
                for each in timings
            ]
    print(f"\nresults: {reporting.write('losses', OPTIONS, facts, records, [])}")


if __name__ == "__main__":
    main()
