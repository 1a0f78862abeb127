"""lse.py [over]: the samples called from Python, on NumPy's memory; over: with one logit too many."""

import ctypes
import os
import sys

import numpy as np


class Rows(ctypes.Structure):
    """sample_rows."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("labels", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("vocab", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
    )


def lse_by_block(library: ctypes.CDLL, logits: np.ndarray, vocab: int) -> np.ndarray:
    """lse of rows of float32 logits [rows, >= vocab] by sample_lse, one block a row."""
    labels = np.zeros(len(logits), np.int64)
    out = np.full(len(logits), np.nan, np.float32)
    stride = logits.strides[0] // 4
    rows = Rows(logits.ctypes.data, labels.ctypes.data, len(logits), vocab, stride, 0)
    status = library.sample_lse(
        ctypes.byref(rows), 1, out.ctypes.data_as(ctypes.c_void_p), None, None
    )
    assert status == 0
    return out


def main() -> None:
    library = ctypes.CDLL(os.environ["PREFOPT_CUDA_LIB"])
    logits = np.random.default_rng(1).normal(size=(1, 1000)).astype(np.float32)
    vocab = logits.shape[1] + (sys.argv[1:] == ["over"])
    want = np.log(np.exp(logits.astype(np.float64)).sum(axis=1))
    np.testing.assert_allclose(lse_by_block(library, logits, vocab), want, rtol=2.2e-7)


if __name__ == "__main__":
    main()
