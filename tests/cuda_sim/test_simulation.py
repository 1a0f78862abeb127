"""The simulated GPU itself: clean kernels pass every check, instructions do what they should, the
runtime refuses what a device would, traffic is counted, 64-bit offsets work."""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path

import numpy as np
import pytest
from samples.lse import lse_by_block

pytestmark = pytest.mark.cuda_sim

ORDERS = ("forward", "reverse", "shuffled:1", "shuffled:2")


def passes(result) -> bool:
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout + result.stderr == ""
    return True


# ---- the samples: kernels in the shape of the library's, without a fault ---------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("variant", ["source", "ptx-80", "ptx-90"])
def test_samples_in_every_order(run_sim, variant: str, order: str) -> None:
    assert passes(run_sim(variant, "samples", CUDA_SIM_ORDER=order))


@pytest.mark.parametrize("variant", ["source", "ptx-80", "ptx-90"])
def test_samples_with_approximations_off_by_two_ulps(run_sim, variant: str) -> None:
    assert passes(run_sim(variant, "samples", CUDA_SIM_ULPS="2"))


@pytest.mark.parametrize("variant", ["source-asan", "ptx-90-asan"])
def test_samples_stay_in_bounds(run_sim, variant: str) -> None:
    assert passes(run_sim(variant, "samples"))


@pytest.mark.parametrize("variant", ["source-tsan", "source-tsan-blocks"])
def test_samples_have_no_race(run_sim, variant: str) -> None:
    assert passes(run_sim(variant, "samples", ("small",)))


# ---- the runtime -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["source", "ptx-90"])
def test_runtime(run_sim, variant: str) -> None:
    assert passes(run_sim(variant, "runtime"))


def test_launch_bounds_are_checked(run_sim) -> None:
    result = run_sim("ptx-90", "runtime", ("too-many-threads",))
    assert result.returncode != 0
    assert "more threads than its __launch_bounds__" in result.stderr


# ---- instructions: the source run beside the PTX run ----------------------------------------------

DTYPES = dict.fromkeys(("H", "B", "H2", "B2"), np.uint16) | {
    "F": np.float32,
    "D": np.float64,
    "S16": np.int16,
    "U16": np.uint16,
    "S32": np.int32,
    "U32": np.uint32,
    "S64": np.int64,
    "U64": np.uint64,
}
INFINITIES = {"H": 0x7C00, "B": 0x7F80}  # the bits of a positive one; above is NaN


def ulps_apart(name: str, kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Steps between two results; two NaN are none apart, and minima and maxima may sign a zero."""
    if kind in "FD":
        bits = np.int32 if kind == "F" else np.int64
        apart = np.abs(a.view(bits).astype(object) - b.view(bits).astype(object)).astype(float)
        same = np.isnan(a) & np.isnan(b)
        zeros = (a == 0) & (b == 0)
    else:
        apart = np.where(a == b, 0.0, np.inf)
        infinity = INFINITIES.get(kind[0], 0x7FFF)
        halves = kind[0] in INFINITIES
        same = halves & ((a & 0x7FFF) > infinity) & ((b & 0x7FFF) > infinity) if halves else a == b
        zeros = halves & ((a | b) & 0x7FFF == 0) if halves else a == b
    if name.startswith(("min_", "max_")):
        same |= zeros
    return np.where(same, 0.0, apart)


@pytest.mark.parametrize(
    "variant",
    [
        "ptx-80",
        "ptx-90",
        *(pytest.param(f"ptx-{n}", marks=pytest.mark.nightly) for n in (75, 100, 120)),
    ],
)
def test_instructions(run_sim, variant: str, tmp_path: Path) -> None:
    """Bit for bit, but for functions whose result may be off, by the ulps that operations.inc says."""
    written = {}
    for name in ("source", variant):
        written[name] = tmp_path / name
        result = run_sim(name, "instructions", (str(written[name]),))
        assert result.returncode == 0, result.stdout + result.stderr
    data = {name: path.read_bytes() for name, path in written.items()}
    at, differing = 0, []
    operations = result.stdout.split("\n")[:-1]
    assert len(operations) > 150
    for line in operations:
        name, kind, ulps, count = line.split()
        dtype = np.dtype(DTYPES[kind])
        size = int(count) * dtype.itemsize * (2 if kind in ("H2", "B2") else 1)
        a, b = (np.frombuffer(data[run], dtype, size // dtype.itemsize, at) for run in data)
        at += size
        apart = ulps_apart(name, kind, a, b)
        if apart.max() > int(ulps):
            worst = int(apart.argmax())
            differing.append((name, worst, a[worst], b[worst]))
    assert at == len(data["source"]) == len(data[variant])
    assert differing == []


# ---- from Python: the library's pointers are the host's ---------------------------------------------


class Traffic(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("launches", "loaded", "stored", "loaded_wide", "stored_wide")
    )


def samples_library(variant: str) -> ctypes.CDLL:
    import cuda_sim

    library = ctypes.CDLL(str(cuda_sim.build(variant, ["tests/cuda_sim/samples"], "samples")))
    library.cuda_sim_get_traffic.restype = Traffic
    return library


@pytest.mark.parametrize("variant", ["source", "source-asan", "source-tsan", "ptx-90-asan"])
def test_a_program_in_python(run_sim, variant: str) -> None:
    """Python was linked without the sanitizers: they are loaded before it."""
    assert passes(run_sim(variant, "samples", program="lse.py"))


def test_sanitizers_see_what_python_passes(run_sim) -> None:
    result = run_sim("source-asan", "samples", ("over",), program="lse.py")
    assert result.returncode != 0
    assert re.search(r"heap-buffer-overflow.*rows\.cu", result.stderr, re.DOTALL), result.stderr


@pytest.mark.parametrize("variant", ["ptx-80", "ptx-90"])
def test_traffic_is_counted(variant: str) -> None:
    library = samples_library(variant)
    rows, vocab, threads = 3, 4096, 256
    logits = np.random.default_rng(1).normal(size=(rows, vocab)).astype(np.float32)
    library.cuda_sim_reset_traffic()
    lse_by_block(library, logits, vocab)
    traffic = library.cuda_sim_get_traffic(b"lse_block<float>")
    assert traffic.launches == 1
    # All of the logits in 16-byte loads (the rows are aligned to 4 bytes, so a few elements may be
    # alone), each label once a thread, one result a row.
    alone = traffic.loaded - traffic.loaded_wide - rows * threads * 8
    assert 0 <= alone <= rows * 6 * 4
    assert traffic.loaded_wide + alone == rows * vocab * 4
    assert traffic.stored == rows * 4
    assert traffic.stored_wide == 0


@pytest.mark.parametrize("variant", ["source", "ptx-90"])
def test_rows_may_be_gigabytes_apart(variant: str) -> None:
    """Offsets beyond 2^32 bytes and 2^31 elements; pages that nobody touches take no memory."""
    library = samples_library(variant)
    rows, vocab, stride = 3, 40, (1 << 31) + 8
    no_reserve = 0x4000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    memory = mmap.mmap(-1, (rows - 1) * stride * 4 + vocab * 4, flags=flags)
    whole = np.frombuffer(memory, np.float32)
    logits = np.lib.stride_tricks.as_strided(whole, (rows, vocab), (stride * 4, 4))
    logits[:] = np.random.default_rng(2).normal(size=(rows, vocab))
    want = np.log(np.exp(logits.astype(np.float64)).sum(axis=1))
    np.testing.assert_allclose(lse_by_block(library, logits, vocab), want, rtol=2.2e-7)
    del logits, whole
