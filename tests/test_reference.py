"""prefopt.reference against the oracles, and as what it is meant to be: plain NumPy, on its own."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from loss_cases import PARAMETERS, run, variants
from oracle import logps as oracle
from oracle.losses import DIGITS_EXTREME, evaluate
from support import run_script

import prefopt
from prefopt import reference

FOLDER = Path(reference.__file__).parent
FUNCTIONS = {
    "dpo.sigmoid": ("dpo_loss", {}),
    "dpo.ipo": ("dpo_loss", {"loss_type": "ipo"}),
    "kto.kto": ("kto_loss", {}),
    "cpo.sigmoid": ("cpo_loss", {}),
    "sft.nll": ("sft_loss", {}),
}
NAMES = sorted(PARAMETERS)
INF, NAN = np.inf, np.nan

# ------------------------------------------------------------------------------- independence


def test_imports_numpy_and_itself_only() -> None:
    """No extension, no torch: it can be read, and copied, alone."""
    for path in [*FOLDER.glob("*.py"), FOLDER.parent / "_loss_types.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                root = name.split(".")[0]
                assert root in (
                    "__future__",
                    "collections",
                    "typing",
                    "itertools",
                    "numpy",
                    "prefopt",
                )
                assert root != "prefopt" or name.startswith(
                    ("prefopt.reference", "prefopt._loss_types")
                )


def test_works_without_the_extension() -> None:
    """The package's __init__ is left out and _core made unimportable."""
    done = run_script(f"""
        import sys, types
        package = types.ModuleType("prefopt")
        package.__path__ = [{str(FOLDER.parent)!r}]
        sys.modules["prefopt"] = package
        sys.modules["prefopt._core"] = None
        from prefopt import reference
        print(float(reference.dpo_loss([0.0], [0.0], [0.0], [0.0]).losses[0]))
    """)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == np.log(2)


# ------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("name", NAMES)
def test_losses_against_the_oracle(name: str, rng: np.random.Generator) -> None:
    function, choice = FUNCTIONS[name]
    for inputs, params in variants(name, rng):
        weights = rng.uniform(0.5, 2, 8)
        got = getattr(reference, function)(**inputs, **params, **choice, grad_losses=weights)
        truth = evaluate(name, inputs, params, weights)
        expected = [truth.losses, *truth.rewards.values()]
        for array, wanted in zip(got, expected, strict=True):
            np.testing.assert_allclose(array, [float(v) for v in wanted], rtol=1e-13, atol=1e-15)
        assert set(got.grads) == set(truth.grads)
        for key, grad in truth.grads.items():
            np.testing.assert_allclose(
                got.grads[key], [float(v) for v in grad], rtol=1e-12, atol=1e-15
            )


@pytest.mark.parametrize("name", NAMES)
def test_losses_agree_with_prefopt(name: str, rng: np.random.Generator) -> None:
    """The two implementations of one formula: same results, same types, same defaults."""
    function, choice = FUNCTIONS[name]
    for inputs, params in variants(name, rng):
        ours = run(name, inputs, params, return_grads=True)
        theirs = getattr(reference, function)(**inputs, **params, **choice, return_grads=True)
        assert type(ours) is type(theirs)
        assert ours._fields == theirs._fields
        for a, b in zip(
            (*ours, *ours.grads.values()), (*theirs, *theirs.grads.values()), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("ratio", [1e4, -1e4, 745.0, -745.0])
def test_losses_at_extreme_ratios(ratio: float) -> None:
    x, zero = np.array([ratio]), np.zeros(1)
    got = reference.dpo_loss(x, zero, zero, zero, beta=1.0, return_grads=True)
    given = {"policy_chosen_logps": x, "policy_rejected_logps": zero}
    given |= {"ref_chosen_logps": zero, "ref_rejected_logps": zero}
    truth = evaluate("dpo.sigmoid", given, {"beta": 1.0}, digits=DIGITS_EXTREME)
    np.testing.assert_allclose(got.losses, [float(truth.losses[0])], rtol=1e-12, atol=1e-323)
    grad = [float(truth.grads["policy_chosen_logps"][0])]
    np.testing.assert_allclose(got.grads["policy_chosen_logps"], grad, rtol=1e-12, atol=1e-323)


def test_kto_kl() -> None:
    policy, ref = np.array([-10.0, -12.0, -9.5]), np.array([-11.0, -12.5, -10.0])
    for module in (reference, prefopt):
        assert module.kto_kl(policy, ref) == 2.0 / 3
        assert module.kto_kl(ref, policy) == 0.0
        assert module.kto_kl(state=(3.0, 4)) == 0.75
        assert module.kto_kl([], []) == 0.0
        assert np.isnan(module.kto_kl([NAN], [0.0]))


def test_unavailable_choices_are_refused() -> None:
    zero = np.zeros(1)
    with pytest.raises(ValueError, match="'hinge' is not available; choose one of: sigmoid, ipo"):
        reference.dpo_loss(zero, zero, zero, zero, loss_type="hinge")
    with pytest.raises(ValueError, match="'js_divergence' is not available"):
        reference.dpo_loss(zero, zero, zero, zero, f_divergence_type="js_divergence")
    with pytest.raises(ValueError, match="'simpo' is not available"):
        reference.cpo_loss(zero, zero, loss_type="simpo")


# ------------------------------------------------------------------------------- token log-probs


def rows(rng: np.random.Generator, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    logits = rng.normal(0, 4, (3, 4, vocab))
    logits[0, 1, 0] = -INF
    logits[0, 2] = -INF
    logits[1, 0, vocab // 2] = NAN
    logits[1, 1, -1] = INF
    logits[1, 2] = 7.0
    labels = rng.integers(0, vocab, (3, 4))
    labels[2, 3] = -100
    return logits, labels


@pytest.mark.parametrize("vocab", [2, 7, 33, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logps_against_the_oracle(
    vocab: int, temperature: float, rng: np.random.Generator
) -> None:
    logits, labels = rows(rng, vocab)
    got = reference.token_logps(
        logits, labels, temperature=temperature, stats=oracle.OPTIONAL_STATS
    )
    truth = oracle.token_stats(logits, labels, temperature=temperature)
    for name in oracle.STATS:
        wanted = getattr(truth, name).reshape(labels.shape)
        np.testing.assert_allclose(getattr(got, name), wanted, rtol=1e-12, atol=1e-13, err_msg=name)
    weights = {
        key: rng.normal(size=labels.shape) for key in ("grad_logps", "grad_entropy", "grad_lse")
    }
    for key, weight in weights.items():
        grad = reference.token_logps_grad(
            logits, labels, got.lse, entropy=got.entropy, temperature=temperature, **{key: weight}
        )
        wanted, _ = oracle.token_grad(logits, labels, temperature=temperature, **{key: weight})
        np.testing.assert_allclose(grad, wanted, rtol=1e-12, atol=1e-13, err_msg=key)


def test_token_logps_of_half_types() -> None:
    """The exact values of the stored halves, float64 results, only the statistics asked for."""
    logits = np.array([[1.0, 2.5, -3.25]])
    label = np.array([1])
    exact = reference.token_logps(logits, label).logps
    assert reference.token_logps(logits.astype("f2"), label).logps == exact
    bits = (logits.astype("f4").view(np.uint32) >> 16).astype(np.uint16)
    got = reference.token_logps(bits, label, dtype="bfloat16", stats=("correct",))
    assert got.logps == exact
    assert got.correct.tolist() == [True]
    assert got.entropy is None
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert reference.token_logps(logits.astype(ml_dtypes.bfloat16), label).logps == exact


def test_token_logps_grad_into_logits() -> None:
    logits = np.array([[1.0, 2.5, -3.25], [0.0, 0.0, 0.0]])
    labels = np.array([1, -100])
    lse = reference.token_logps(logits, labels).lse
    wanted = reference.token_logps_grad(logits, labels, lse, grad_logps=np.ones(2))
    got = reference.token_logps_grad(logits, labels, lse, grad_logps=np.ones(2), out=logits)
    assert got is logits
    np.testing.assert_array_equal(got, wanted)


def test_sequence_logps() -> None:
    values = np.array([[-1.0, -2.0, NAN], [-4.0, -INF, -0.5]])
    mask = np.array([[1, 1, 0], [1, 0, 1]])
    assert reference.sequence_logps(values, mask).tolist() == [-3.0, -4.5]
    assert reference.sequence_logps(values, mask, average=True).tolist() == [-1.5, -2.25]
    weights = np.array([[0.5, 1, 0], [0, 0, 0]])
    assert reference.sequence_logps(values, weights).tolist() == [-2.5, 0.0]
    assert reference.sequence_logps(values, weights, average=True).tolist() == [-2.5 / 1.5, 0.0]
    lengths = np.array([4, 2])
    averages = reference.sequence_logps(values, mask, average=True, normalizer=lengths)
    assert averages.tolist() == [-0.75, -2.25]
    packed = np.array([-1.0, -2.0, -4.0, -0.5])
    assert reference.sequence_logps(packed, cu_seqlens=[0, 2, 2, 4]).tolist() == [-3.0, 0.0, -4.5]
    assert reference.sequence_logps(packed, cu_seqlens=[0, 2, 2, 4], average=True).tolist() == [
        -1.5, 0.0, -2.25,
    ]  # fmt: skip
    assert reference.sequence_logps(np.ones((2, 3))).tolist() == [3.0, 3.0]
