"""The handlers as XLA targets: registration, refusals, and every JAX test once more with x64."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from ctypes import c_int, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

from jax_cases import RUN_ERRORS, X64  # noqa: E402
from support import run_script  # noqa: E402

from prefopt import _core  # noqa: E402
from prefopt import jax as prefopt_jax  # noqa: E402

EXECUTE, UNIMPLEMENTED = 3, 12  # XLA_FFI_ExecutionStage, XLA_FFI_Error_Code
FILES = ("test_jax_tokens.py", "test_jax_linear.py", "test_jax_losses.py", "test_jax_sequence.py")


def test_import_prefopt_does_not_import_jax() -> None:
    done = run_script(
        "import sys, prefopt; assert not any(m.startswith('jax') for m in sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_one_target_for_each_handler() -> None:
    """Registered once; a second registration of the same handler is not an error."""
    handlers = _core.ffi_handlers()
    assert len(handlers) == 13
    assert all(name.startswith("prefopt_") or not name for name in handlers)
    for name, handler in handlers.items():
        if name:
            jax.ffi.register_ffi_target(name, handler, platform="cpu")


def test_a_platform_without_kernels() -> None:
    """The handler that CUDA and ROCm programs find, run here: it says what to do."""
    jax.ffi.register_ffi_target("prefopt_elsewhere", _core.ffi_handlers()[""], platform="cpu")
    call = jax.ffi.ffi_call("prefopt_elsewhere", jax.ShapeDtypeStruct((2,), np.float32))
    message = r'UNIMPLEMENTED: prefopt\.jax: runs on the CPU only, .*jax\.devices\("cpu"\)\[0\]'
    with pytest.raises((*RUN_ERRORS, NotImplementedError), match=message):
        jax.block_until_ready(jax.jit(call)(np.zeros(2, np.float32)))


def test_programs_for_other_platforms_name_the_target() -> None:
    """Lowered for CUDA here, where no GPU is: the same target, for which that handler stands."""
    logits, labels = np.zeros((2, 3), np.float32), np.zeros(2, np.int32)
    check = jax.export.DisabledSafetyCheck.custom_call("prefopt_token_logps")
    exporter = jax.export.export(
        jax.jit(lambda x, y: prefopt_jax.token_logps(x, y).logps),
        platforms=["cuda"],
        disabled_checks=[check],
    )
    assert "prefopt_token_logps" in exporter(logits, labels).mlir_module()


@pytest.mark.parametrize(
    ("target", "attributes", "message"),
    [
        ("token_logps", {}, "rank: expected it, an input and an output"),
        ("token_logps", {"rank": np.int64(1)}, "inputs: expected a name for each of 1 buffers"),
        ("token_logps", {"rank": np.float64(1)}, "rank: number of dtype 12, expected 5"),
        ("token_logps", {"rank": "1"}, "rank: attribute of type 4, expected 3"),
        ("token_logps", {"rank": np.int64(2)}, "rank: expected at most 16 nested vmaps, got -1"),
        (
            "token_logps",
            {"rank": np.int64(1), "inputs": "logit"},
            "logit: the op has no such array",
        ),
        (
            "token_logps",
            {"rank": np.int64(1), "inputs": "logits labels"},
            "inputs: more names than the 1 buffers",
        ),
        (
            "token_logps",
            {"rank": np.int64(1), "inputs": "logits", "outputs": "exact_lse"},
            "exact_lse: expected pairs of uint32 words",
        ),
        (
            "token_logps",
            {"rank": np.int64(1), "inputs": "logits", "outputs": "logps"},
            "labels: expected an array, got none",
        ),
        ("loss", {"rank": np.int64(1)}, "loss: no loss has this name"),
        (
            "loss",
            {"rank": np.int64(1), "loss": "sft.nll", "numbers": "beta"},
            "fewer than the names",
        ),
        (
            "loss",
            {"rank": np.int64(1), "loss": "sft.nll", "numbers": "b", "values": np.ones(1)},
            "numbers: sft.nll has no such number",
        ),
        (
            "loss",
            {"rank": np.int64(1), "loss": "sft.nll", "inputs": "policy_logps", "outputs": "grad_x"},
            "grad_x: the op has no such array",
        ),
        ("weighted_sum", {"rank": np.int64(1), "inputs": "a", "outputs": "sum"}, "one for each"),
    ],
)
def test_frames_that_make_no_sense(target: str, attributes: dict[str, Any], message: str) -> None:
    """What no caller of ours sends: an error, not a crash."""
    shape = jax.ShapeDtypeStruct((4,), np.float32)
    call = jax.ffi.ffi_call(f"prefopt_{target}", shape)
    with pytest.raises(RUN_ERRORS, match=message):
        jax.block_until_ready(jax.jit(lambda x: call(x, **attributes))(np.zeros(4, np.float32)))


class Version(ctypes.Structure):
    """XLA_FFI_Api_Version."""

    _fields_ = [("size", c_size_t), ("extension", c_void_p), ("major", c_int), ("minor", c_int)]


class Metadata(ctypes.Structure):
    """XLA_FFI_Metadata; the rest of it is not ours to write."""

    _fields_ = [("size", c_size_t), ("version", Version), ("traits", c_uint32), ("rest", c_int64)]


class MetadataExtension(ctypes.Structure):
    """XLA_FFI_Metadata_Extension; its type is 1."""

    _fields_ = [
        *(("size", c_size_t), ("type", c_int), ("next", c_void_p)),
        ("metadata", ctypes.POINTER(Metadata)),
    ]


class ErrorArguments(ctypes.Structure):
    """XLA_FFI_Error_Create_Args."""

    _fields_ = [
        *(("size", c_size_t), ("extension", c_void_p)),
        *(("message", ctypes.c_char_p), ("code", c_int)),
    ]


CreateError = ctypes.CFUNCTYPE(c_void_p, ctypes.POINTER(ErrorArguments))


class Api(ctypes.Structure):
    """The head of XLA_FFI_Api."""

    _fields_ = [
        *(("size", c_size_t), ("extension", c_void_p), ("version", Version)),
        *(("internal", c_void_p), ("create_error", CreateError)),
    ]


class Frame(ctypes.Structure):
    """XLA_FFI_CallFrame up to its stage; arguments, results and attributes are none."""

    _fields_ = [
        *(("size", c_size_t), ("extension", c_void_p), ("api", ctypes.POINTER(Api))),
        *(("context", c_void_p), ("stage", c_int), ("rest", c_int64 * 40)),
    ]


def address_of(capsule: object) -> int:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(get(capsule, None))


@pytest.mark.parametrize("name", sorted(_core.ffi_handlers()))
def test_versions_of_the_interface(name: str) -> None:
    """Called as XLA does, by hand: tells its version when asked, refuses a caller of another."""
    errors: list[tuple[str, int]] = []

    @CreateError
    def create_error(given: Any) -> int:
        errors.append((given.contents.message.decode(), given.contents.code))
        return 1234

    prototype = ctypes.CFUNCTYPE(c_void_p, ctypes.POINTER(Frame))
    handler = prototype(address_of(_core.ffi_handlers()[name]))
    metadata = Metadata(version=Version(major=-1, minor=-1), traits=7)
    extension = MetadataExtension(type=1, metadata=ctypes.pointer(metadata))
    api = Api(version=Version(major=0, minor=99), create_error=create_error)
    asked = Frame(extension=ctypes.addressof(extension), api=ctypes.pointer(api), stage=EXECUTE)
    assert handler(ctypes.byref(asked)) is None
    assert (metadata.version.major, metadata.version.minor, metadata.traits) == (0, 1, 0)
    assert errors == []
    api.version.major = 1
    for frame in (asked, Frame(api=ctypes.pointer(api), stage=EXECUTE)):
        assert handler(ctypes.byref(frame)) == 1234
        message, code = errors.pop()
        assert message.startswith(
            "prefopt.jax: built for version 0 of XLA's FFI, this jaxlib has 1"
        )
        assert code == UNIMPLEMENTED


@pytest.mark.skipif(X64, reason="runs without x64 and starts this")
def test_everything_in_float64() -> None:
    """The float64 cases of the other files, in a process that has x64."""
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k"]
    command += ["float64 or labels or configuration or uniforms or procedures or a_whole_step"]
    done = subprocess.run(
        [*command, *(str(folder / name) for name in FILES)],
        env={**os.environ, "JAX_ENABLE_X64": "1"},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
