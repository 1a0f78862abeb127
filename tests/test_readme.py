"""The examples of README.md run as they stand."""

from __future__ import annotations

import functools
import re
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prefopt

README = Path(__file__).resolve().parent.parent / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="README.md is not beside the tests")


def run_example(heading: str, **given: Any) -> dict[str, Any]:
    """Runs the first Python block after the bold `heading`; returns its names."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"\*\*{heading}.*?```python\n(.*?)```", text, re.DOTALL)
    assert found, heading
    names = dict(given)
    exec(compile(found[1], str(README), "exec"), names)
    return names


def test_in_place_of_a_trainers_loss_code() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
    embedding, head = torch.nn.Embedding(50, 16), torch.nn.Linear(16, 50)

    def policy(input_ids: Any) -> Any:
        return types.SimpleNamespace(logits=head(embedding(input_ids)))

    ids = torch.randint(0, 50, (4, 9))
    labels = ids.clone()
    labels[:, :3] = -100
    step = run_example("In place of a trainer's loss code")["step"]
    loss, *rewards = step(policy, policy, ids, labels)
    assert loss.item() == pytest.approx(np.log(2), rel=1e-6)
    assert not any(reward.any() for reward in rewards)
    loss.backward()
    assert head.weight.grad.abs().sum() > 0


def test_ones_own_loss(capsys: pytest.CaptureFixture[str]) -> None:
    def my_dpo_loss(
        policy_chosen_logps: np.ndarray,
        policy_rejected_logps: np.ndarray,
        ref_chosen_logps: np.ndarray,
        ref_rejected_logps: np.ndarray,
        beta: float = 0.1,
    ) -> np.ndarray:
        chosen, rejected = (
            policy_chosen_logps - ref_chosen_logps,
            policy_rejected_logps - ref_rejected_logps,
        )
        return np.logaddexp(0, -beta * (chosen - rejected))

    run_example("To test your own loss", my_dpo_loss=my_dpo_loss)
    printed = capsys.readouterr().out
    assert printed.startswith(
        "0.6808 is\n  0.680803414: mean of dpo.sigmoid@default (also paper, trl-1.16"
    )
    wrong = functools.partial(my_dpo_loss, beta=0.05)
    with pytest.raises(AssertionError, match=r"agrees with\n  dpo.sigmoid@nemo-rl-7ea279a"):
        run_example("To test your own loss", my_dpo_loss=wrong)


def test_numpy_only() -> None:
    names = run_example("NumPy only")
    assert names["grad"] is names["logits"]
    assert not names["grad"][:, :40].any()
    assert np.abs(names["grad"][:, 40:]).max() > 0


def test_jax() -> None:
    """Policy equal to reference: ln 2, with a gradient that pulls the pairs apart."""
    pytest.importorskip("jax", reason="JAX is not installed")
    step = run_example("JAX")["step"]
    rng = np.random.default_rng(0)
    head, hidden = (rng.normal(size=s).astype(np.float32) for s in ((50, 16), (4, 9, 16)))
    labels = rng.integers(0, 50, (4, 9)).astype(np.int32)
    labels[:, :3] = -100
    ref = prefopt.sequence_logps(prefopt.linear_token_logps(hidden, head, labels).logps)
    value, grads = step({"head": head}, hidden, labels, ref)
    assert value == np.float32(np.log(2))
    assert np.abs(grads["head"]).max() > 0
