"""DLPack capsules made by hand: bfloat16, and everything a producer can get wrong. Refused, never
read out of bounds.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from oracle import logps as oracle
from support import DTYPES, same_results

import prefopt

CPU, CUDA, HOST_PINNED = 1, 2, 3
INT, UINT, FLOAT, BFLOAT, COMPLEX, BOOL = 0, 1, 2, 4, 5, 6


class Device(ctypes.Structure):
    _fields_ = (("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32))


class DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", Device),
        ("ndim", ctypes.c_int32),
        ("dtype", DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class ManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", Tensor), ("manager_ctx", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(ManagedTensor))
DESTRUCTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # not py_object: the capsule is being freed
# Its own handle: functions of ctypes.pythonapi are shared, and the last to set argument types wins.
python_api = ctypes.PyDLL(None)
new_capsule = python_api.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, DESTRUCTOR)
is_valid = python_api.PyCapsule_IsValid
is_valid.restype = ctypes.c_int
is_valid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)


class Producer:
    """An array of another library, by its DLPack methods alone; counts how often its deleter
    ran.
    """

    def __init__(self, array: np.ndarray, code: int, **changes: Any) -> None:
        self.array = array
        self.deleted = 0
        self.changes = changes
        ndim = changes.get("ndim", array.ndim)
        size = max(ndim, 1) if ndim < 1000 else 1
        shape = changes.get("shape", array.shape)
        strides = changes.get("strides", [stride // array.itemsize for stride in array.strides])
        self.shape = (ctypes.c_int64 * max(size, len(shape)))(*shape)
        self.strides = (
            None if strides is None else (ctypes.c_int64 * max(size, len(strides)))(*strides)
        )
        self.device = changes.get("device", (CPU, 0))
        self.deleter = DELETER(self._delete)
        self.managed = ManagedTensor(
            tensor=Tensor(
                data=changes.get("data", array.ctypes.data),
                device=Device(*self.device),
                ndim=ndim,
                dtype=DataType(
                    code, changes.get("bits", 8 * array.itemsize), changes.get("lanes", 1)
                ),
                shape=ctypes.cast(self.shape, ctypes.POINTER(ctypes.c_int64)),
                strides=None
                if self.strides is None
                else ctypes.cast(self.strides, ctypes.POINTER(ctypes.c_int64)),
                byte_offset=changes.get("byte_offset", 0),
            ),
            deleter=ctypes.cast(self.deleter, ctypes.c_void_p),
        )

        # A capsule that nobody consumed frees its tensor itself; a consumer renames it and does so
        # instead.
        self.destructor = DESTRUCTOR(self._destroy)

    def _delete(self, _managed: Any) -> None:
        self.deleted += 1

    def _destroy(self, capsule: int) -> None:
        if is_valid(capsule, b"dltensor"):
            self.deleted += 1

    def __dlpack__(self, **_arguments: Any) -> Any:
        # The name must outlive the capsule: a bytes constant does.
        name = self.changes.get("name", b"dltensor")
        return new_capsule(ctypes.addressof(self.managed), name, self.destructor)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


@pytest.fixture
def logits() -> np.ndarray:
    return DTYPES["float32"].make(np.random.default_rng(0).normal(size=(4, 30)))


LABELS = np.array([3, 0, 29, -100])


def test_bfloat16_capsule() -> None:
    """NumPy's from_dlpack refuses bfloat16; it is read in C."""
    dtype = DTYPES["bfloat16_raw"]
    values = dtype.make(np.random.default_rng(0).normal(size=(4, 30)))
    want = prefopt.token_logps(values, LABELS, stats=oracle.OPTIONAL_STATS, dtype="bfloat16")
    for keyword in (None, "bfloat16"):
        producer = Producer(values, BFLOAT)
        got = prefopt.token_logps(producer, LABELS, stats=oracle.OPTIONAL_STATS, dtype=keyword)
        assert same_results(got, want)
        assert producer.deleted == 1


def test_layouts(logits: np.ndarray) -> None:
    """Strides in elements, a NULL for C order, a byte offset, pinned host memory."""
    want = prefopt.token_logps(logits, LABELS)
    padded = np.zeros((4, 33), np.float32)
    padded[:, 3:] = logits
    for producer in (
        Producer(logits, FLOAT),
        Producer(logits, FLOAT, strides=None),
        Producer(padded[:, 3:], FLOAT),
        Producer(padded, FLOAT, shape=(4, 30), byte_offset=12),
    ):
        assert same_results(prefopt.token_logps(producer, LABELS), want)
        assert producer.deleted == 1
    labels = Producer(LABELS, INT)
    assert same_results(prefopt.token_logps(logits, labels), want)
    assert labels.deleted == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"device": (CUDA, 0)},
        {"device": (77, 0)},
        {"code": INT},
        {"code": COMPLEX, "bits": 64},
        {"code": BOOL, "bits": 8},
        {"code": FLOAT, "bits": 8},
        {"code": FLOAT, "bits": 128},
        {"code": BFLOAT, "bits": 32},
        {"code": 99},
        {"lanes": 4},
        {"lanes": 0},
        {"ndim": -1},
        {"ndim": 65},
        {"ndim": 2**31 - 1},
        {"shape": (4, -30)},
        {"shape": (-4, 30)},
        {"shape": (2**62, 30)},
        {"shape": (2**62, 2**62), "strides": (0, 0)},
        {"strides": (2**62, 1)},
        {"strides": (30, 2)},
        {"data": None},
        {"byte_offset": 1},
        {"name": b"used_dltensor"},
        {"name": b"something else"},
    ],
    ids=str,
)
def test_refused(logits: np.ndarray, changes: dict[str, Any]) -> None:
    """A wrong device, dtype, lane count, size or alignment; the deleter runs at most once all the
    same.
    """
    changes = dict(changes)
    code = changes.pop("code", FLOAT)
    producer = Producer(logits, code, **changes)
    with pytest.raises((ValueError, TypeError, BufferError), match="logits"):
        prefopt.token_logps(producer, LABELS)
    assert producer.deleted <= 1


def test_producer_that_raises(logits: np.ndarray) -> None:
    """An error of the producer becomes a TypeError that names the argument; an interrupt passes."""

    class Broken(Producer):
        def __dlpack__(self, **_arguments: Any) -> Any:
            raise RuntimeError("the producer says no")

    class Interrupted(Producer):
        def __dlpack__(self, **_arguments: Any) -> Any:
            raise KeyboardInterrupt

    class NotACapsule(Producer):
        def __dlpack__(self, **_arguments: Any) -> Any:
            return 5

    with pytest.raises(TypeError, match=r"logits.*says no"):
        prefopt.token_logps(Broken(logits, FLOAT), LABELS)
    with pytest.raises((TypeError, ValueError), match="logits"):
        prefopt.token_logps(NotACapsule(logits, FLOAT), LABELS)
    with pytest.raises(KeyboardInterrupt):
        prefopt.token_logps(Interrupted(logits, FLOAT), LABELS)
