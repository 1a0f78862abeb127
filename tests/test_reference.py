"""prefopt.reference against the oracles, and as what it is meant to be: plain NumPy, on its own."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from loss_cases import PARAMETERS, variants
from oracle import logps as oracle
from oracle.losses import evaluate
from support import run_script

import prefopt
from prefopt import reference

FOLDER = Path(reference.__file__).parent
NAMES = sorted(PARAMETERS)
INF, NAN = np.inf, np.nan

# ------------------------------------------------------------------------------- independence


def test_imports_numpy_and_itself_only() -> None:
    """No extension, no torch: it can be read, and copied, with two modules that hold no formula."""
    standard = ("__future__", "collections", "inspect", "itertools", "math", "typing")
    shared = ("prefopt.reference", "prefopt._loss_types", "prefopt._conventions")
    for path in [*FOLDER.glob("*.py"), FOLDER.parent / "_loss_types.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                root = name.split(".")[0]
                assert root in (*standard, "numpy", "prefopt"), path
                assert root != "prefopt" or name.startswith(shared), path


def test_works_without_the_extension() -> None:
    """The package's __init__ is left out and _core made unimportable."""
    done = run_script(f"""
        import sys, types
        package = types.ModuleType("prefopt")
        package.__path__ = [{str(FOLDER.parent)!r}]
        sys.modules["prefopt"] = package
        sys.modules["prefopt._core"] = None
        from prefopt import reference
        pair = [[0.0], [0.0], [0.0], [0.0]]
        print(float(reference.dpo_loss(*pair).losses[0]))
        print(float(reference.dpo_loss(*pair, convention="trl-1.16").losses[0]))
    """)
    assert done.returncode == 0, done.stderr
    assert [float(line) for line in done.stdout.split()] == [np.log(2)] * 2


# ------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("name", NAMES)
def test_losses_against_the_oracle(name: str, rng: np.random.Generator) -> None:
    for inputs, params in variants(name, rng):
        weights = rng.uniform(0.5, 2, 8)
        got = reference.loss(name, **inputs, **params, grad_losses=weights)
        truth = evaluate(name, inputs, params, weights)
        expected = [truth.losses, *truth.rewards.values()]
        for array, wanted in zip(got, expected, strict=True):
            np.testing.assert_allclose(array, [float(v) for v in wanted], rtol=1e-13, atol=1e-15)
        assert set(got.grads) == set(truth.grads)
        for key, grad in truth.grads.items():
            np.testing.assert_allclose(
                got.grads[key], [float(v) for v in grad], rtol=1e-12, atol=1e-15
            )


def test_kto_kl() -> None:
    policy, ref = np.array([-10.0, -12.0, -9.5]), np.array([-11.0, -12.5, -10.0])
    for module in (reference, prefopt):
        assert module.kto_kl(policy, ref) == 2.0 / 3
        assert module.kto_kl(ref, policy) == 0.0
        assert module.kto_kl(state=(3.0, 4)) == 0.75
        assert module.kto_kl([], []) == 0.0
        assert np.isnan(module.kto_kl([NAN], [0.0]))


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


# ------------------------------------------------------------------------------- two rows read together


def test_pair_token_stats_by_hand() -> None:
    """p = (1/4, 3/4) and q = (1/2, 1/2); eps = 1 makes 2 z - z_ref and z_ref."""
    z, z_ref = np.array([[0.0, np.log(3)]]), np.zeros((1, 2))
    names = reference.PairTokenStats._fields[4:]
    got = reference.pair_token_stats(z, z_ref, [1], perturbation=1.0, stats=names)
    expected = {
        "policy_logps": np.log(3 / 4),
        "ref_logps": np.log(1 / 2),
        "policy_lse": np.log(4),
        "ref_lse": np.log(2),
        "ref_policy_kl": np.log(4 / 3) / 2,
        "policy_ref_kl": np.log(1 / 2) / 4 + 3 * np.log(3 / 2) / 4,
        "plus_logps": np.log(9 / 10),
        "minus_logps": np.log(1 / 2),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(got, name), [value], rtol=1e-15, err_msg=name)
    plain = reference.pair_token_stats(z, z_ref, [1])
    assert plain[4:] == (None,) * 4
    ignored = reference.pair_token_stats(z, z_ref, [-100], stats=names)
    assert all(each.tolist() == [0.0] for each in ignored)


def test_pair_token_stats_of_impossible_tokens() -> None:
    """KL(p || q) leaves out p = 0 and is inf where q = 0 < p; what the policy rules out stays so."""
    z = np.array([[0.0, 0.0, -INF, -INF]])
    z_ref = np.array([[0.0, -INF, 0.0, -INF]])
    got = reference.pair_token_stats(z, z, [0], stats=("ref_policy_kl", "plus_logps"))
    assert got.ref_policy_kl.tolist() == [0.0]
    np.testing.assert_allclose(got.plus_logps, [np.log(1 / 2)], rtol=1e-15)
    got = reference.pair_token_stats(z, z_ref, [0], stats=("minus_logps",))  # (0, -inf, -inf, -inf)
    assert got.minus_logps.tolist() == [0.0]
    for pair in ((z, z_ref), (z_ref, z)):
        got = reference.pair_token_stats(*pair, [0], stats=("ref_policy_kl", "policy_ref_kl"))
        assert got.ref_policy_kl.tolist() == got.policy_ref_kl.tolist() == [INF]


def test_pair_token_stats_against_torch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    z, z_ref = (torch.tensor(rng.normal(0, 3, (3, 4, 50))) for _ in range(2))
    labels = torch.tensor(rng.integers(0, 50, (3, 4)))
    names = reference.PairTokenStats._fields[4:]
    got = reference.pair_token_stats(
        z.numpy(), z_ref.numpy(), labels.numpy(), temperature=0.7, perturbation=0.1, stats=names
    )
    z, z_ref = z / 0.7, z_ref / 0.7
    log_p, log_q = z.log_softmax(-1), z_ref.log_softmax(-1)
    kl = torch.nn.functional.kl_div

    def of_label(logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]

    expected = (
        of_label(z), of_label(z_ref), z.logsumexp(-1), z_ref.logsumexp(-1),
        kl(log_p, log_q, log_target=True, reduction="none").sum(-1),
        kl(log_q, log_p, log_target=True, reduction="none").sum(-1),
        of_label(1.1 * z - 0.1 * z_ref), of_label(0.9 * z + 0.1 * z_ref),
    )  # fmt: skip
    for name, array, wanted in zip(got._fields, got, expected, strict=True):
        np.testing.assert_allclose(array, wanted.numpy(), rtol=2e-14, atol=2e-15, err_msg=name)
