"""Every row of the list behaves alike: results, dtypes, strides, refusals, procedures too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from row_cases import LOSSES, PROCEDURES, ROWS, inputs, results, run
from support import same_bits

import prefopt

ALL = sorted(ROWS)
RESULTS = {0: prefopt.SequenceLoss, 1: prefopt.UnpairedLoss, 2: prefopt.PairLoss}
REALS = [
    (name, item.name, item.type)
    for name, row in sorted(ROWS.items())
    for item in row.inputs
    if item.type in ("real", "tokens") and not name.startswith("tr_dpo")
]
GRIDS = [
    (name, item.name, item.type)
    for name, row in sorted(ROWS.items())
    for item in row.inputs
    if item.type in ("tokens", "mask")
]


def options(name: str) -> dict[str, Any]:
    return {} if name in PROCEDURES else {"return_grads": True}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results(name: str, optional: bool, dtype: Any) -> None:
    """Types, shapes and dtypes; finite numbers; a gradient by each differentiable input given."""
    row = ROWS[name]
    arrays = cast(inputs(name, optional=optional), dtype)
    got = run(name, arrays, return_grads=True)
    assert type(got) is RESULTS.get(len(row.outputs), prefopt.StepPairLoss)
    assert got.losses.shape == ((4, 5) if row.tokenwise else (4,))
    for array in got:
        assert array.dtype == dtype
        assert np.isfinite(array).all()
    differentiable = [i.name for i in row.inputs if i.differentiable and i.name in arrays]
    assert list(got.grads) == differentiable
    assert differentiable
    for key, grad in got.grads.items():
        assert grad.shape == arrays[key].shape
        assert grad.dtype == dtype
        assert np.isfinite(grad).all()
    assert run(name, arrays).grads is None


@pytest.mark.parametrize("name", PROCEDURES)
def test_procedures(name: str) -> None:
    """A named tuple of the outputs that the row names; numbers are floats."""
    row = ROWS[name]
    got = run(name, inputs(name))
    assert got._fields == tuple(key for key, _ in row.outputs)
    for value, (_, shape) in zip(got, row.outputs, strict=True):
        if shape == "number":
            assert isinstance(value, float)
            continue
        assert value.shape == ((4, 5) if shape in ("tokens", "positions") else (4,))
        kinds = {"flags": "bool", "positions": "int64"}
        assert value.dtype == kinds.get(shape, "float64")
    with pytest.raises(TypeError, match=r"return_grads: .* takes no such argument"):
        run(name, inputs(name), return_grads=True)


def cast(arrays: dict[str, Any], dtype: Any) -> dict[str, Any]:
    return {
        key: value.astype(dtype)
        if isinstance(value, np.ndarray) and value.dtype == np.float64
        else value
        for key, value in arrays.items()
    }


@pytest.mark.parametrize("name", ALL)
def test_same_bits_over_strides(name: str) -> None:
    """Every other row, reversed, Fortran order, unaligned, read-only: the same bits."""
    arrays = inputs(name)
    plain = results(run(name, arrays, **options(name)))

    def unaligned(a: np.ndarray) -> np.ndarray:
        raw = np.zeros(a.nbytes + 1, np.uint8)
        raw[1:] = np.ascontiguousarray(a).reshape(-1).view(np.uint8)
        return raw[1:].view(a.dtype).reshape(a.shape)

    def frozen(a: np.ndarray) -> np.ndarray:
        out = a.copy()
        out.flags.writeable = False
        return out

    for form in (
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: np.ascontiguousarray(a[::-1])[::-1],
        lambda a: np.asfortranarray(a),
        unaligned,
        frozen,
    ):
        formed = {k: form(v) if isinstance(v, np.ndarray) else v for k, v in arrays.items()}
        got = results(run(name, formed, **options(name)))
        assert all(same_bits(a, b) for a, b in zip(got, plain, strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_linear_in_grad_losses(name: str) -> None:
    arrays = inputs(name, optional=False)
    shape = run(name, arrays).losses.shape
    rng = np.random.default_rng(1)
    first, second = rng.uniform(-1, 1, (2, *shape))
    one, two, both = (run(name, arrays, grad_losses=g) for g in (first, second, first + second))
    ones = run(name, arrays, grad_losses=np.ones(shape))
    same = run(name, arrays, return_grads=True)
    for key, grad in both.grads.items():
        parts = one.grads[key] + two.grads[key]
        np.testing.assert_allclose(grad, parts, rtol=1e-11, atol=1e-11)
        np.testing.assert_array_equal(ones.grads[key], same.grads[key])


@pytest.mark.parametrize("name", LOSSES)
def test_empty_batch(name: str) -> None:
    got = run(name, inputs(name, size=0), return_grads=True)
    for array in results(got):
        assert array.shape[0] == 0


@pytest.mark.parametrize(("name", "key", "type_"), REALS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.astype(np.int64), "expected a float dtype, got int64"),
        (lambda a: a > 0, "expected a float dtype, got bool"),
        (lambda a: a.astype(complex), "complex128"),
        (lambda a: "abc", "expected an array"),
    ],
)
def test_wrong_dtype(name: str, key: str, type_: str, change: Any, message: str) -> None:
    arrays = inputs(name)
    with pytest.raises(TypeError, match=f"^{key}: .*({message})"):
        run(name, {**arrays, key: change(arrays[key])})


@pytest.mark.parametrize(("name", "key", "type_"), REALS)
def test_wrong_shape(name: str, key: str, type_: str) -> None:
    arrays = inputs(name)
    others = [
        k for k, v in arrays.items() if k != key and isinstance(v, np.ndarray) and k != "uniforms"
    ]
    changes = [lambda a: a[None], lambda a: np.float64(1)]
    if others:
        changes.append(lambda a: np.concatenate([a, a[:1]]))
    for change in changes:
        with pytest.raises(ValueError, match="expected"):
            run(name, {**arrays, key: change(arrays[key])})


@pytest.mark.parametrize(("name", "key", "type_"), GRIDS)
def test_wrong_width(name: str, key: str, type_: str) -> None:
    arrays = inputs(name)
    arrays[key] = np.concatenate([arrays[key], arrays[key][:, :1]], axis=1)
    with pytest.raises(ValueError, match=r"expected T = \d in \[B, T\] like \w+, got \d"):
        run(name, arrays)


@pytest.mark.parametrize("name", ALL)
def test_missing_and_unknown_names(name: str) -> None:
    arrays = inputs(name)
    for item in ROWS[name].inputs:
        if item.optional:
            continue
        with pytest.raises(TypeError, match=f"^{item.name}: {name} needs this input"):
            run(name, {k: v for k, v in arrays.items() if k != item.name})
    known = next(iter(arrays))
    with pytest.raises(TypeError, match=f"^{known}x: .* did you mean .*{known}"):
        run(name, {**arrays, f"{known}x": 1.0})


@pytest.mark.parametrize("name", [n for n in ALL if any(i.type == "mask" for i in ROWS[n].inputs)])
def test_masked_tokens_do_not_matter(name: str) -> None:
    """NaN under the mask is not read; its gradient and its outputs are 0."""
    arrays = inputs(name)
    masks = {k: v for k, v in arrays.items() if k.endswith("mask")}
    plain = results(run(name, arrays, **options(name)))
    for key, value in arrays.items():
        if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype != np.float64:
            continue
        mask = masks.get("mask", masks.get(f"{key.split('_')[0]}_mask"))
        spoilt = np.where(mask, value, np.nan if not key.endswith("uniforms") else 0.5)
        got = run(name, {**arrays, key: spoilt}, **options(name))
        assert all(same_bits(a, b) for a, b in zip(results(got), plain, strict=True)), key
        for grad in (getattr(got, "grads", None) or {}).values():
            assert (grad[~mask] == 0).all()


def test_positions_are_checked() -> None:
    arrays = inputs("sampo.sigmoid")
    for bad in ([0, 0, -1], [2, 1, -1], [0, 5, -1], [-2, -1, -1], [-1, 1, -1]):
        arrays["chosen_indices"] = np.tile(np.array(bad), (4, 1))
        with pytest.raises(ValueError, match=r"^chosen_indices: expected rising positions in"):
            run("sampo.sigmoid", arrays)


def test_mixture_is_the_weighted_sum() -> None:
    arrays = inputs("dpo.ipo")
    arrays.pop("chosen_weights"), arrays.pop("rejected_weights")
    types, weights = ("sigmoid", "ipo", "sft"), (0.5, 2.0, -1.0)
    got = prefopt.dpo_loss(**arrays, loss_type=types, loss_weights=weights, return_grads=True)
    lengths = ("chosen_lengths", "rejected_lengths")
    parts = []
    for each in types:
        drop = {"sigmoid": lengths, "ipo": (), "sft": lengths[1:]}[each]
        given = {k: v for k, v in arrays.items() if k not in drop}
        parts.append(prefopt.dpo_loss(**given, loss_type=each, return_grads=True))
    total = sum(w * p.losses for w, p in zip(weights, parts, strict=True))
    np.testing.assert_allclose(got.losses, total, rtol=1e-14)
    for key, grad in got.grads.items():
        total = sum(w * p.grads.get(key, 0) for w, p in zip(weights, parts, strict=True))
        np.testing.assert_allclose(grad, total, rtol=1e-13)
    for bad, message in (
        ({"loss_weights": (1.0,)}, "loss_weights: expected 3 numbers, got 1"),
        ({"loss_weights": (1.0, np.nan, 1.0)}, "loss_weights: expected finite"),
        ({"discopop_tau": 0.1}, "discopop_tau: none of dpo.sigmoid"),
        ({"loss_type": ()}, "loss_type: expected a string, or a sequence"),
        ({"loss_type": ("sigmoid", "ipoo", "sft")}, "loss_type: dpo has no loss 'ipoo'"),
        ({"loss_type": "sigmoid", "loss_weights": (1.0,)}, "loss_weights: expected with"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            prefopt.dpo_loss(**{**arrays, "loss_type": types, **bad})


def test_weights_multiply_losses_and_gradients() -> None:
    """WPO, with hinge and sft too, where peers crash."""
    for name in ("dpo.hinge", "dpo.sft", "dpo.sigmoid"):
        arrays = inputs(name)
        weights = arrays.pop("chosen_weights"), arrays.pop("rejected_weights")
        if name == "dpo.sft":
            arrays = {k: v for k, v in arrays.items() if not k.startswith("ref_")}
        plain = run(name, arrays, return_grads=True)
        both = {"chosen_weights": weights[0], "rejected_weights": weights[1]}
        got = run(name, {**arrays, **both}, return_grads=True)
        product = weights[0] * weights[1]
        np.testing.assert_allclose(got.losses, plain.losses * product, rtol=1e-15)
        for key, grad in plain.grads.items():
            np.testing.assert_allclose(got.grads[key], grad * product, rtol=1e-15)
        np.testing.assert_array_equal(got.chosen_rewards, plain.chosen_rewards)
