"""Every row of the list through prefopt.torch: NumPy's bits, autograd, both ways into the operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import row_cases
from row_cases import LOSSES, PROCEDURES, ROWS

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_ways import WAYS, agree, parameters  # noqa: E402

import prefopt  # noqa: E402
from prefopt import torch as prefopt_torch  # noqa: E402
from prefopt.torch import _bridge, _loss_operator  # noqa: E402


@pytest.fixture(params=parameters("direct", "operators"))
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with WAYS[request.param]():
        yield request.param


def tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays as tensors; one number for the batch stays a number."""
    return {
        key: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        for key, value in arrays.items()
    }


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_and_gradients_are_those_of_numpy(
    name: str, optional: bool, dtype: Any, way: str
) -> None:
    arrays = {
        key: value.astype(dtype)
        if isinstance(value, np.ndarray) and value.dtype == np.float64
        else value
        for key, value in row_cases.inputs(name, optional=optional).items()
    }
    inputs = tensors(arrays)
    leaves = [i.name for i in ROWS[name].inputs if i.differentiable and i.name in inputs]
    for key in leaves:
        inputs[key].requires_grad_()
    got = prefopt_torch.loss(name, **inputs)
    weights = np.linspace(0.5, 2, got.losses.numel()).reshape(got.losses.shape).astype(dtype)
    (got.losses * torch.from_numpy(weights)).sum().backward()
    expected = row_cases.run(name, arrays, grad_losses=weights)
    assert got._fields == expected._fields
    assert got.losses.requires_grad
    for ours, theirs in zip(got, expected, strict=True):
        agree(ours, theirs, way)
    assert not any(each.requires_grad for each in got[1:])
    for key in leaves:
        agree(inputs[key].grad, expected.grads[key], way)
    constants = [k for k, v in inputs.items() if isinstance(v, torch.Tensor) and k not in leaves]
    assert all(inputs[key].grad is None for key in constants)


@pytest.mark.parametrize("name", PROCEDURES)
def test_procedures_are_those_of_numpy(name: str, way: str) -> None:
    arrays = row_cases.inputs(name)
    got = prefopt_torch.loss(name, **tensors(arrays))
    expected = row_cases.run(name, arrays)
    assert got._fields == expected._fields
    for ours, theirs in zip(got, expected, strict=True):
        assert isinstance(ours, torch.Tensor)
        assert not ours.requires_grad
        agree(ours, theirs, way)


@pytest.mark.parametrize("name", LOSSES)
def test_fake_tensors_have_the_real_shapes(name: str) -> None:
    """Shapes and dtypes under FakeTensorMode, forward and backward: what a compiler sees."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    inputs = tensors(row_cases.inputs(name))
    leaves = [i.name for i in ROWS[name].inputs if i.differentiable and i.name in inputs]
    real = prefopt_torch.loss(name, **inputs)
    with FakeTensorMode() as mode:
        fakes = {
            key: mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
            for key, value in inputs.items()
        }
        for key in leaves:
            fakes[key].requires_grad_()
        got = prefopt_torch.loss(name, **fakes)
        grads = torch.autograd.grad(got.losses.sum(), [fakes[key] for key in leaves])
    assert [(each.shape, each.dtype) for each in got] == [(e.shape, e.dtype) for e in real]
    assert [each.shape for each in grads] == [inputs[key].shape for key in leaves]


@pytest.mark.parametrize(
    "name", ["dpo.robust", "dpo.aot_unpaired", "kto.kto", "cpo.simpo", "grpo.dapo", "kl.k3"]
)
def test_compiles_without_a_graph_break(name: str) -> None:
    inputs = tensors(row_cases.inputs(name))
    key = ROWS[name].inputs[0].name

    def step(policy: Any) -> Any:
        return prefopt_torch.loss(name, **{**inputs, key: policy}).losses.sum()

    eager, compiled = (inputs[key].clone().requires_grad_() for _ in range(2))
    step(eager).backward()
    torch._dynamo.reset()
    torch.compile(step, fullgraph=True, backend="aot_eager")(compiled).backward()
    np.testing.assert_array_equal(compiled.grad.numpy(), eager.grad.numpy())


@pytest.mark.parametrize("name", ["dpo.ipo", "grpo.grpo", "kl.k2", "sampo.sigmoid", "cpo.simpo"])
def test_operator_keeps_its_contract(name: str) -> None:
    """torch.library.opcheck: schema, fake kernel, autograd registration."""
    inputs = tensors(row_cases.inputs(name, optional=False))
    calls: list[Any] = []
    real = _loss_operator.operator

    def spy(*arguments: Any) -> Any:
        calls.append(arguments)
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch, _bridge.force_operators():
        patch.setattr(_loss_operator, "operator", spy)
        prefopt_torch.loss(name, **inputs)
    listed, key, numbers = calls[0]
    flags = _loss_operator._Call.parse(key).differentiable(len(listed))
    leaves = [
        each.clone().requires_grad_(flag) if each.is_floating_point() else each
        for each, flag in zip(listed, flags, strict=True)
    ]
    torch.library.opcheck(real, (leaves, key, numbers))


def test_mixtures_and_conventions(way: str) -> None:
    arrays = row_cases.inputs("dpo.sigmoid", optional=False)
    inputs = tensors(arrays)
    lengths = {"chosen_lengths": np.array([3, 4, 5, 6])}
    options: dict[str, Any] = {
        "loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0], "beta": 0.3,
    }  # fmt: skip
    policy = inputs["policy_chosen_logps"].requires_grad_()
    got = prefopt_torch.dpo_loss(**inputs, **tensors(lengths), **options)
    got.losses.sum().backward()
    expected = prefopt.dpo_loss(**arrays, **lengths, **options, return_grads=True)
    agree(got.losses, expected.losses, way)
    agree(policy.grad, expected.grads["policy_chosen_logps"], way)
    single = prefopt_torch.dpo_loss(**inputs, loss_type=["hinge"])
    expected = prefopt.dpo_loss(**arrays, loss_type="hinge")
    agree(single.losses, expected.losses, way)
    named = prefopt_torch.loss("dpo.sigmoid", **inputs, convention="nemo-rl-7ea279a")
    expected = prefopt.loss("dpo.sigmoid", **arrays, convention="nemo-rl-7ea279a")
    for ours, theirs in zip(named, expected, strict=True):
        agree(ours, theirs, way)
    for call, message in (
        (lambda: prefopt_torch.dpo_loss(**inputs, loss_type="sigmod"), "did you mean sigmoid"),
        (lambda: prefopt_torch.dpo_loss(**inputs, convention="trl"), "has no convention 'trl'"),
        (
            lambda: prefopt_torch.dpo_loss(**inputs, label_smoothing=0.1, convention="liger-0.8.5"),
            "label_smoothing: liger-0.8.5 does not use it",
        ),
        (
            lambda: prefopt_torch.dpo_loss(**{**inputs, "ref_chosen_logps": 1.0}),
            "ref_chosen_logps: expected a torch.Tensor",
        ),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()
    for name, message in (("dpo.sigmod", "did you mean"), ("sft.nll", "takes no such argument")):
        with pytest.raises((ValueError, TypeError), match=message):
            prefopt_torch.loss(name, policy_logp=policy)
