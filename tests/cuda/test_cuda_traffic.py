"""Bytes of global memory that the kernels' PTX moves, against what the operation cannot do without:
one read of the logits forward, one read and one write backward, nothing of ignored rows.
"""

from __future__ import annotations

import ctypes
from typing import Any

import cuda_device as device
import numpy as np
import pytest
from test_cuda_rows import grad, make, token_logps

from prefopt import _cuda

pytestmark = pytest.mark.skipif(
    not device.VARIANT.startswith("ptx"), reason="a source run counts no traffic"
)

# A warp's rows; a block's; one of several blocks. Not of 16 bytes: rows have heads and tails.
SHAPES = ((40, 501), (6, 5003), (1, 50257))
KINDS = ("bfloat16_raw", "float32")
# Beside the logits every thread of a row reads its label, and backward its lse and gradients, which a
# cache holds: bytes a thread. Several blocks leave states, which are small.
FORWARD_BESIDE, BACKWARD_BESIDE = 24, 40
AGAIN = 32  # bytes of a row that are written twice: its label's
WIDE = 0.9  # the share of the logits in 16-byte accesses


class Traffic(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("launches", "loaded", "stored", "loaded_wide", "stored_wide")
    )


def moved(run: Any, kernel: str = "") -> Traffic:
    """What kernels of that name move in a call; all kernels without a name."""
    library = _cuda.library().handle
    library.cuda_sim_get_traffic.restype = Traffic
    library.cuda_sim_reset_traffic()
    run()
    traffic: Traffic = library.cuda_sim_get_traffic(kernel.encode())
    assert traffic.launches > 0
    return traffic


def threads_of(logits: np.ndarray) -> int:
    """A warp for rows of up to 4 KB, a block for longer ones, several of 32 KB for a few rows."""
    row = logits.strides[0]
    return 32 if row <= 4096 else 256 * max(1, row // (32 << 10))


def read_once(traffic: Traffic, logits: np.ndarray, beside: int) -> None:
    size, threads = logits.nbytes, len(logits) * threads_of(logits)
    assert WIDE * size <= traffic.loaded_wide <= size
    assert size <= traffic.loaded <= size + beside * threads


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_reads_the_logits_once(shape: tuple[int, int], kind: str) -> None:
    """With every statistic."""
    logits, labels = make(kind, *shape)
    labels[:] = np.arange(shape[0])
    traffic = moved(lambda: token_logps(logits, labels))
    read_once(traffic, logits, FORWARD_BESIDE)
    assert traffic.stored <= 0.1 * logits.nbytes + 4096


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_backward_reads_and_writes_once(shape: tuple[int, int], kind: str) -> None:
    logits, labels = make(kind, *shape)
    labels[:] = np.arange(shape[0])
    lse = token_logps(logits, labels)["lse"]
    ones = np.ones(shape[0], np.float32)
    traffic = moved(lambda: grad(logits, labels, lse=lse, grad_logps=ones))
    read_once(traffic, logits, BACKWARD_BESIDE)
    assert WIDE * logits.nbytes <= traffic.stored_wide <= logits.nbytes
    assert logits.nbytes <= traffic.stored <= logits.nbytes + AGAIN * shape[0]


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_rows_are_not_read(kind: str) -> None:
    logits, labels = make(kind, 8, 5003)
    labels[:] = -100
    labels[3] = 7
    traffic = moved(lambda: token_logps(logits, labels))
    assert traffic.loaded <= logits.nbytes / 8 + FORWARD_BESIDE * 8 * threads_of(logits)
