"""What the recorders of other projects share: definitions by name, inputs, the record."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

PROJECTS = {
    "halos": "halos-4831988",
    "llama_factory": "llamafactory-ff6d4d1",
    "openrlhf": "openrlhf-3c3be62",
    "torchtune": "torchtune-bd2a0fc",
    "nemo_rl": "nemo-rl-7ea279a",
    "trl_0_24": "trl-0.24",
}
B, T = 4, 5
SCRIPT = "tests/peers/record_others.py"
Values = dict[str, Any]


class Source:
    """Definitions of one project, by file and name."""

    def __init__(self, root: Path, project: str) -> None:
        self.root = root / project
        self.convention = PROJECTS[project]

    def take(self, path: str, *names: str, method_of: str = "", **scope: Any) -> Any:
        """The named functions or classes of a file, executed without decorators or annotations."""
        tree = ast.parse((self.root / path).read_text())
        body = tree.body
        if method_of:
            body = next(n.body for n in body if isinstance(n, ast.ClassDef) and n.name == method_of)
        kinds = (ast.FunctionDef, ast.ClassDef)
        found = [n for n in body if isinstance(n, kinds) and n.name in names]
        assert {n.name for n in found} == set(names), (path, names)
        for node in found:
            for inner in ast.walk(node):
                if isinstance(inner, ast.FunctionDef):
                    static = [d for d in inner.decorator_list if ast.unparse(d) == "staticmethod"]
                    inner.decorator_list = static if inner is not node else []
                    inner.returns = None
                    for argument in (*inner.args.args, *inner.args.kwonlyargs):
                        argument.annotation = None
                elif isinstance(inner, ast.ClassDef):
                    inner.decorator_list = []
        space: Values = {"torch": torch, "F": F, "nn": torch.nn, "np": np, "Tensor": torch.Tensor}
        space |= scope
        module = ast.Module([ast.parse("from __future__ import annotations").body[0], *found], [])
        exec(compile(ast.fix_missing_locations(module), str(self.root / path), "exec"), space)
        taken = [space[name] for name in names]
        return taken[0] if len(taken) == 1 else taken


class Recorder:
    def __init__(self) -> None:
        self.rows: list[Values] = []

    def add(
        self,
        source: Source,
        loss: str,
        function: Callable[..., Any],
        inputs: Values,
        leaves: tuple[str, ...],
        params: Values | None = None,
        file: str = "",
        note: str = "",
    ) -> None:
        """function(**tensors) gives losses, or (losses, rewards); each leaf gets a gradient."""
        tensors = {key: tensor(value) for key, value in inputs.items()}
        for name in leaves:
            tensors[name].requires_grad_()
        result = function(**tensors)
        losses, rewards = result if isinstance(result, tuple) else (result, {})
        mean = losses.mean()
        wanted = [tensors[n] for n in leaves]
        grads = torch.autograd.grad(mean, wanted, allow_unused=True) if leaves else ()
        self.rows.append(
            {
                "convention": source.convention,
                "loss": loss,
                "file": file,
                "script": SCRIPT,
                "inputs": {
                    k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in inputs.items()
                },
                "params": params or {},
                "losses": losses.detach().tolist(),
                "mean": mean.item(),
                "grads": {
                    n: g.tolist() for n, g in zip(leaves, grads, strict=True) if g is not None
                },
                "rewards": {k: v.detach().tolist() for k, v in rewards.items()},
                "note": note,
            }
        )


def tensor(value: Any) -> torch.Tensor:
    return (
        torch.tensor(value)
        if isinstance(value, np.ndarray)
        else torch.tensor(value, dtype=torch.float64)
    )


# ---- inputs ----------------------------------------------------------------------------------------

rng = np.random.default_rng()


def seed(project: str) -> None:
    """Each project's inputs are its own, whatever was recorded before."""
    number = 20261123 + sum(map(ord, project))
    rng.bit_generator.state = np.random.default_rng(number).bit_generator.state


PAIR = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
POLICY = PAIR[:2]


def logps(*shape: int, low: float = 0.05, high: float = 4.0) -> np.ndarray:
    return -rng.uniform(low, high, shape)


def pair() -> Values:
    return {name: logps(B, low=5, high=60) for name in PAIR}


def lengths() -> Values:
    return {name: rng.integers(1, T + 1, B) for name in ("chosen_lengths", "rejected_lengths")}


def unpaired() -> Values:
    values = {"policy_logps": logps(B, low=5, high=60), "ref_logps": logps(B, low=5, high=60)}
    return values | {"desirable": np.array([True, False, False, True]), "kl": 0.75}


def group(*names: str, empty: bool = False) -> Values:
    mask = np.arange(T) < np.array([T, 3, 4, 2])[:, None]
    base = logps(B, T)
    values = {
        "logps": base,
        "old_logps": base + rng.normal(0, 0.3, (B, T)),
        "ref_token_logps": base + rng.normal(0, 0.5, (B, T)),
        "advantages": rng.normal(0, 1, B),
        "token_advantages": rng.normal(0, 1, (B, T)),
        "mask": mask,
        "values": rng.normal(0, 1, (B, T)),
        "old_values": rng.normal(0, 1, (B, T)),
        "returns": rng.normal(0, 1, (B, T)),
        "token_rewards": rng.normal(0, 1, (B, T)),
    }
    return {name: values[name] for name in names}


def rewards_of(chosen: torch.Tensor, rejected: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"chosen_rewards": chosen, "rejected_rewards": rejected}


def spread(sums: torch.Tensor, count: Any) -> torch.Tensor:
    """[B, T] with the sums over the first `count` positions, none of them 0, and 0 after."""
    weight = torch.arange(1, T + 1, dtype=torch.float64) * (torch.arange(T) < count[:, None])
    return sums[:, None] * weight / weight.sum(1, keepdim=True)


def generalised(
    record: Recorder, source: Source, function: Any, file: str, note: str, mask: bool = True
) -> None:
    """GAE: only the returns A + V are recorded, as "losses"."""
    names = ("token_rewards", "values", *(("mask",) if mask else ()))
    inputs = group(*names)
    x = {key: tensor(value) for key, value in inputs.items()}
    if mask:
        x["mask"] = x["mask"].double()
    out = function(x)
    record.rows.append(
        {
            "convention": source.convention,
            "loss": "gae.gae",
            "file": file,
            "script": SCRIPT,
            "inputs": {k: v.tolist() for k, v in inputs.items()},
            "params": {"gamma": 0.99, "gae_lambda": 0.9},
            "losses": out.tolist(),
            "mean": None,
            "grads": {},
            "rewards": {},
            "note": note,
        }
    )


def in_order(labels: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """From desirable ones first, then the others, to the order of the batch."""
    return values[torch.argsort(torch.argsort(~labels, stable=True))]


def without_kl(values: Values, kind: str) -> Values:
    return values if kind == "kto" else {k: v for k, v in values.items() if k != "kl"}
