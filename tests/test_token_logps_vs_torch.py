"""prefopt beside torch's log_softmax at the same dtype: never less accurate, on the families of the
accuracy test.
"""

from __future__ import annotations

import numpy as np
import pytest
from oracle import logps as oracle
from support import DTYPES
from test_token_logps_accuracy import KINDS, accumulator, families

import prefopt
from prefopt import _core

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch", reason="torch is not installed")

VOCABS = (2, 33, 1000, 8192)


def to_torch(logits: np.ndarray, kind: str) -> torch.Tensor:
    if kind == "bfloat16_raw":
        return torch.from_numpy(logits.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(logits.copy())


def peer(
    logits: np.ndarray, labels: np.ndarray, kind: str, temperature: float
) -> dict[str, np.ndarray]:
    """logps, lse, entropy and d sum(logps) / d logits as torch users compute them, in the dtype of
    the logits.
    """
    x = to_torch(logits, kind).requires_grad_()
    scaled = x / temperature
    log_p = torch.log_softmax(scaled, dim=-1)
    logps = log_p.gather(-1, torch.from_numpy(labels)[:, None])[:, 0]
    entropy = torch.special.entr(log_p.exp()).sum(dim=-1)
    (grad,) = torch.autograd.grad(logps.sum(), x)
    results = {
        "logps": logps,
        "entropy": entropy,
        "lse": torch.logsumexp(scaled, dim=-1),
        "grad": grad,
    }
    return {name: value.detach().double().numpy() for name, value in results.items()}


# Where torch is all but exact, prefopt may be off by this many spacings of the result's dtype;
# float16, bfloat16 and float32 logits need 1, float64 logps 1.51 (torch 1.32), float64 lse 1.23
# (torch 0.96).
FLOOR = {"float16": 1.0, "bfloat16": 1.0, "float32": 1.0, "float64": 2.0}
GRAD_FLOOR = 1.5  # masked float32 logits with a temperature: 1.49 (torch 1.12)


def worst(got: np.ndarray, want: np.ndarray, kind: str) -> float:
    """Worst error in spacings of `kind` at max(1, |true|), over what is finite."""
    finite = np.isfinite(want)
    unit = oracle.spacing(np.maximum(1, np.abs(want[finite])), kind)
    return float((np.abs(got[finite].astype(want.dtype) - want[finite]) / unit).max(initial=0.0))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_results_no_less_accurate_than_torch(kind: str, temperature: float) -> None:
    """Worst error of a family over vocabularies: no worse than torch's at the same dtype."""
    dtype = DTYPES[kind]
    precision, result_kind = accumulator(dtype)
    errors: dict[tuple[str, str], list[list[float]]] = {}
    for vocab in VOCABS:
        for family, values, labels in families(dtype.kind, vocab, 16 if vocab <= 1000 else 4):
            logits = dtype.make(values)
            want = oracle.token_stats(
                dtype.exact(logits), labels, temperature=temperature, precision=precision
            )
            got = prefopt.token_logps(
                logits, labels, temperature=temperature, stats=("entropy",), **dtype.arguments
            )
            theirs = peer(logits, labels, kind, temperature)
            for name in ("logps", "lse", "entropy"):
                pair = [
                    worst(result, getattr(want, name), result_kind)
                    for result in (getattr(got, name), theirs[name])
                ]
                errors.setdefault((family, name), []).append(pair)
    for case, pairs in errors.items():
        ours, torchs = np.max(pairs, axis=0)
        assert ours <= max(torchs, FLOOR[dtype.kind]), case


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_no_less_accurate_than_torch(kind: str, temperature: float) -> None:
    """The same for d logps / d logits, with lse handed over unrounded as prefopt.torch does.

    float64 has no wider type for lse: its rounding, 2^-53 min(|lse|, |logps|), reaches p there.
    """
    dtype = DTYPES[kind]
    precision, _ = accumulator(dtype)
    errors: dict[str, list[list[float]]] = {}
    for vocab in VOCABS:
        for family, values, labels in families(dtype.kind, vocab, 16 if vocab <= 1000 else 4):
            logits = dtype.make(values)
            ones = np.ones(len(labels), dtype.result)
            logps, lse, *_ = _core.token_logps(
                logits, labels, dtype.keyword, -100, temperature, (), True
            )
            grad = prefopt.token_logps_grad(
                logits,
                labels,
                lse,
                grad_logps=ones,
                logps=logps,
                temperature=temperature,
                **dtype.arguments,
            )
            want, _ = oracle.token_grad(
                dtype.exact(logits),
                labels,
                grad_logps=ones,
                temperature=temperature,
                precision=precision,
            )
            theirs = peer(logits, labels, kind, temperature)["grad"]
            carried = np.minimum(np.abs(lse), np.abs(logps))
            inherited = carried[np.isfinite(carried)].max() if kind == "float64" else 0.0
            pair = [worst(result, want, dtype.kind) for result in (dtype.exact(grad), theirs)]
            errors.setdefault(family, []).append([*pair, GRAD_FLOOR + inherited])
    for case, rows in errors.items():
        ours, torchs, floor = np.max(rows, axis=0)
        assert ours <= max(torchs, floor), case


def test_same_special_values_as_torch() -> None:
    """Masked logits, masked label: torch's values; an all -inf row: NaN logps and lse -inf in
    both.
    """
    values = np.array([[0.0, -np.inf, 1.0], [0.0, -np.inf, 1.0], [-np.inf] * 3], np.float32)
    labels = np.array([0, 1, 0])
    got = prefopt.token_logps(values, labels)
    log_p = torch.log_softmax(torch.from_numpy(values), dim=-1)
    theirs = log_p.gather(-1, torch.from_numpy(labels)[:, None])[:, 0].numpy()
    np.testing.assert_allclose(got.logps, theirs, rtol=1e-6)
    np.testing.assert_allclose(
        got.lse, torch.logsumexp(torch.from_numpy(values), -1).numpy(), rtol=1e-6
    )


def test_bfloat16_tensor_by_dlpack() -> None:
    """A bfloat16 tensor is taken through its DLPack capsule, without a copy to another dtype."""
    rng = np.random.default_rng(0)
    bits = DTYPES["bfloat16_raw"].make(rng.normal(size=(4, 333)))
    labels = rng.integers(0, 333, 4)
    want = prefopt.token_logps(bits, labels, dtype="bfloat16")
    got = prefopt.token_logps(to_torch(bits, "bfloat16_raw"), torch.from_numpy(labels))
    assert got.logps.tobytes() == want.logps.tobytes()
    assert got.lse.tobytes() == want.lse.tobytes()


def test_flush_denormal_of_torch_changes_nothing() -> None:
    """torch.set_flush_denormal(True) sets the control word of the calling thread."""
    logits = (np.arange(80, dtype=np.float32).reshape(2, 40) * np.float32(1e-44)).astype(np.float32)
    labels = np.array([0, 39])
    want = prefopt.token_logps(logits, labels, stats=("max_logit", "mean_logit"))
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        got = prefopt.token_logps(logits, labels, stats=("max_logit", "mean_logit"))
    finally:
        torch.set_flush_denormal(False)
    assert got.max_logit.tobytes() == want.max_logit.tobytes()
    assert got.mean_logit.tobytes() == want.mean_logit.tobytes()
    assert want.max_logit[1] > 0
