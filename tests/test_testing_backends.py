"""`assert_loss_matches` with torch and JAX: detection, autograd, dtypes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import row_cases

import prefopt
from prefopt.testing import assert_loss_matches, golden
from prefopt.testing._backends import detect

NAMES = {
    "policy_chosen_logps": "chosen",
    "policy_rejected_logps": "rejected",
    "ref_chosen_logps": "ref_chosen",
    "ref_rejected_logps": "ref_rejected",
}


# ---- which library -------------------------------------------------------------------------------


def test_detect_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    functional = torch.nn.functional

    def by_global(x: Any) -> Any:
        return torch_helper(x)

    def by_closure(x: Any) -> Any:
        return functional.relu(x)

    def by_import(x: Any) -> Any:
        import torch

        return torch.relu(x)

    def by_annotation(x: torch.Tensor) -> Any:
        return x.relu()

    class Module(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x

    by_text = functools.partial(by_import)
    by_method = Module().forward
    import prefopt.torch

    for function in (
        by_global, by_closure, by_import, by_annotation, by_text, by_method, Module(),
        prefopt.torch.dpo_loss, functools.partial(prefopt.torch.loss, "dpo.sigmoid"),
    ):  # fmt: skip
        assert detect(function) == "torch", function


def torch_helper(x: Any) -> Any:
    import torch

    return torch.relu(x)


def test_detect_numpy() -> None:
    pytest.importorskip("torch", reason="torch is not installed")

    def plain(x: Any) -> Any:
        return np.maximum(x, 0)

    for function in (plain, functools.partial(plain), prefopt.dpo_loss, prefopt.loss, np.maximum):
        assert detect(function) == "numpy", function


def test_detect_jax() -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    jnp = jax.numpy

    def plain(x: Any) -> Any:
        return jnp.maximum(x, 0)

    assert detect(plain) == "jax"
    assert detect(jax.jit(plain)) == "jax"


# ---- torch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", row_cases.LOSSES)
def test_prefopts_torch_losses_match(name: str) -> None:
    """Every row under one convention: rewards, and gradients by autograd at kinks too."""
    torch_loss = pytest.importorskip("prefopt.torch", reason="torch is not installed").loss
    convention = sorted({case.convention for case in golden(name)})[-1]
    function = functools.partial(torch_loss, name)
    if convention != "default":
        function = functools.partial(function, convention=convention)
    report = assert_loss_matches(
        function, name, convention=convention, rewards=True, backend="torch", rtol=1e-14, atol=0
    )
    assert report.left_out == {}


def dpo(torch: Any, beta: float = 0.1) -> Any:
    def my_dpo_loss(chosen: Any, rejected: Any, ref_chosen: Any, ref_rejected: Any) -> Any:
        margin = (chosen - ref_chosen) - (rejected - ref_rejected)
        return -torch.nn.functional.logsigmoid(beta * margin)

    return my_dpo_loss


def test_torch_scalar_and_gradient() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    right = dpo(torch)

    def stopped(**given: Any) -> Any:
        return right(**{**given, "chosen": given["chosen"].detach()}).mean()

    options: dict[str, Any] = {"adapter": NAMES, "convention": "trl-1.16"}
    for function in (right, lambda **x: right(**x).mean(), lambda **x: (right(**x).mean(), None)):
        only = {**options, "adapter": keep} if function is not right else options
        report = assert_loss_matches(function, "dpo.sigmoid", **only, backend="torch")
        assert report.cases > 2
    for message, function in (
        ("in gradient by policy_chosen_logps", stopped),
        ("in gradient by policy_chosen_logps", lambda **x: right(**x).detach()),
        ("in the mean of losses", lambda **x: right(**x).sum()),
        ("in losses", dpo(torch, beta=0.2)),
    ):
        with pytest.raises(AssertionError, match=message):
            assert_loss_matches(
                function, "dpo.sigmoid", **{**options, "adapter": keep}, backend="torch"
            )
    stop = assert_loss_matches(
        stopped, "dpo.sigmoid", adapter=keep, backend="torch", gradients=False
    )
    assert stop.cases > 2


def keep(given: dict[str, Any]) -> dict[str, Any] | None:
    """The four sums under other names; no other case."""
    return {NAMES[k]: v for k, v in given.items()} if given.keys() == NAMES.keys() else None


def test_torch_narrow_results() -> None:
    """float32 and bfloat16 losses of float64 inputs: the default tolerance follows float32."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    right = dpo(torch)
    single = lambda **x: right(**x).float()  # noqa: E731
    assert_loss_matches(single, "dpo.sigmoid", adapter=keep, backend="torch")
    assert_loss_matches(right, "dpo.sigmoid", adapter=keep, backend="torch", dtype="float32")
    half = lambda **x: right(**x).bfloat16()  # noqa: E731
    options: dict[str, Any] = {"adapter": keep, "backend": "torch", "gradients": False}
    with pytest.raises(AssertionError, match="in losses"):
        assert_loss_matches(half, "dpo.sigmoid", **options)
    assert_loss_matches(half, "dpo.sigmoid", **options, rtol=2**-8)


# ---- JAX -----------------------------------------------------------------------------------------


def test_jax() -> None:
    """float32 as JAX is by default, float64 where it has been turned on; jit; a wrong gradient."""
    jax = pytest.importorskip("jax", reason="JAX is not installed")

    @jax.jit
    def my_dpo_loss(chosen: Any, rejected: Any, ref_chosen: Any, ref_rejected: Any) -> Any:
        margin = (chosen - ref_chosen) - (rejected - ref_rejected)
        return -jax.nn.log_sigmoid(0.1 * margin)

    @jax.jit
    def stopped(chosen: Any, rejected: Any, ref_chosen: Any, ref_rejected: Any) -> Any:
        chosen = jax.lax.stop_gradient(chosen)
        return my_dpo_loss(chosen, rejected, ref_chosen, ref_rejected).mean()

    if not jax.config.jax_enable_x64:
        assert assert_loss_matches(my_dpo_loss, "dpo.sigmoid", adapter=NAMES).backend == "jax"
        with pytest.raises(ValueError, match="jax_enable_x64"):
            assert_loss_matches(my_dpo_loss, "dpo.sigmoid", adapter=NAMES, dtype="float64")
    with jax.enable_x64(True):
        report = assert_loss_matches(my_dpo_loss, "dpo.sigmoid", adapter=NAMES, sets="ordinary")
        assert report.worst < 0.01  # of 1e-12
        with pytest.raises(AssertionError, match="in gradient by policy_chosen_logps"):
            assert_loss_matches(stopped, "dpo.sigmoid", adapter=NAMES, sets="ordinary")
