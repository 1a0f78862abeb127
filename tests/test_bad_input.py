"""Wrong input to the token ops: ValueError or TypeError before anything is written, naming argument
and first bad index.

Each case is a change to a valid call. Every case runs with an `out` (or on freshly filled buffers)
whose bytes must be the same afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from support import run_script

import prefopt
from prefopt import _core

Call = dict[str, Any]
REFUSED = (ValueError, TypeError)


class Array(np.ndarray):
    """A subclass of no particular meaning: refused or taken, but never misread."""


def forward_call() -> Call:
    rng = np.random.default_rng(0)
    return {
        "logits": rng.normal(size=(4, 3, 10)).astype(np.float32),
        "labels": rng.integers(0, 10, (4, 3)),
    }


def backward_call() -> Call:
    call = forward_call()
    result = prefopt.token_logps(**call, stats=("entropy",))
    rng = np.random.default_rng(1)
    return {
        **call,
        "lse": result.lse,
        "entropy": result.entropy,
        "logps": result.logps,
        "grad_logps": rng.normal(size=(4, 3)).astype(np.float32),
        "grad_entropy": rng.normal(size=(4, 3)).astype(np.float32),
        "grad_lse": rng.normal(size=(4, 3)).astype(np.float32),
        "out": np.full((4, 3, 10), 7, np.float32),
    }


def sequence_call() -> Call:
    rng = np.random.default_rng(0)
    return {"logps": -rng.random((4, 6)), "mask": rng.random((4, 6)) < 0.5}


def packed_call() -> Call:
    rng = np.random.default_rng(0)
    return {"logps": -rng.random(10), "mask": rng.random(10), "cu_seqlens": np.array([0, 3, 3, 10])}


def refused(function: Callable[..., Any], call: Call, match: str, *, out: Any = None) -> None:
    """The call raises ValueError or TypeError matching `match`, and every array in it keeps its
    bytes.
    """
    arrays = {
        name: value
        for name, value in call.items()
        if type(value) is np.ndarray and value.size < 10**6
    }
    before = {name: value.tobytes() for name, value in arrays.items() if value.dtype != object}
    with pytest.raises(REFUSED, match=match):
        function(**call)
    for name, data in before.items():
        assert arrays[name].tobytes() == data, f"{name} was written"


def with_value(array: np.ndarray, index: tuple[int, ...], value: Any) -> np.ndarray:
    changed = array.copy()
    changed[index] = value
    return changed


# ---- what is wrong with an array, whatever its meaning -------------------------------------------

# Each takes a valid array and returns what must be refused in its place.
NOT_AN_ARRAY: dict[str, Callable[[np.ndarray], Any]] = {
    "object": lambda a: a.astype(object),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")) if a.itemsize > 1 else None,
    "masked array": lambda a: np.ma.masked_array(a, mask=np.zeros(a.shape, bool)),
    "matrix": lambda a: np.matrix(a.reshape(-1, a.shape[-1] if a.ndim else 1)),
    "complex": lambda a: a.astype(np.complex128),
    "string": lambda a: a.astype(str),
    "structured": lambda a: np.zeros(a.shape, [("x", "f4"), ("y", "f4")]),
    "datetime": lambda a: np.zeros(a.shape, "M8[s]"),
    "text": lambda a: "not an array",
    "None in a list": lambda a: [None],
    "a type": lambda a: np.ndarray,
    "a dict": lambda a: {},
    "misaligned": lambda a: _misaligned(a),
}


def _misaligned(a: np.ndarray) -> Any:
    if a.itemsize == 1:
        return None
    buffer = np.zeros(a.nbytes + 8, np.uint8)
    view = (
        np.frombuffer(buffer.data, dtype=np.uint8)[1 : 1 + a.nbytes].view(a.dtype).reshape(a.shape)
    )
    assert not view.flags.aligned
    return view


ARGUMENTS = [
    (prefopt.token_logps, forward_call, "logits"),
    (prefopt.token_logps, forward_call, "labels"),
    *(
        (prefopt.token_logps_grad, backward_call, name)
        for name in (
            "logits",
            "labels",
            "lse",
            "entropy",
            "logps",
            "grad_logps",
            "grad_entropy",
            "grad_lse",
            "out",
        )
    ),
    (prefopt.sequence_logps, sequence_call, "logps"),
    (prefopt.sequence_logps, sequence_call, "mask"),
    (prefopt.sequence_logps, packed_call, "cu_seqlens"),
]


@pytest.mark.parametrize("wrong", NOT_AN_ARRAY)
@pytest.mark.parametrize(
    ("function", "make", "name"), ARGUMENTS, ids=lambda v: v if isinstance(v, str) else v.__name__
)
def test_not_an_array(
    function: Callable[..., Any], make: Callable[[], Call], name: str, wrong: str
) -> None:
    call = make()
    call[name] = NOT_AN_ARRAY[wrong](call[name])
    if call[name] is None:
        pytest.skip("one byte has no byte order and no alignment")
    refused(function, call, name)


@pytest.mark.parametrize(
    ("function", "make", "name"), ARGUMENTS, ids=lambda v: v if isinstance(v, str) else v.__name__
)
def test_wrong_shapes(function: Callable[..., Any], make: Callable[[], Call], name: str) -> None:
    """One element more or fewer on each axis, an axis more, an axis fewer: nothing broadcasts."""
    original = make()[name]
    wrong = [
        np.zeros((*original.shape, 1), original.dtype),
        np.zeros((1, *original.shape), original.dtype),
    ]
    # Another last axis of logits is another vocabulary, and more offsets are more sequences.
    axes = original.ndim - (name in ("logits", "cu_seqlens"))
    for axis in range(axes):
        for size in {0, 1, original.shape[axis] - 1, original.shape[axis] + 1}:
            shape = list(original.shape)
            shape[axis] = size
            wrong.append(np.zeros(shape, original.dtype))
    if original.ndim > 1:
        wrong.append(np.ascontiguousarray(original[0]))
    for array in wrong:
        call = make()
        call[name] = array
        refused(function, call, "|".join((name, "shape")))


@pytest.mark.parametrize(
    ("name", "dtypes"),
    {
        "logits": ("int32", "uint16", "bool", "uint8", "longdouble"),
        "labels": ("float32", "float64", "bool"),
        "lse": ("float16", "int32", "bool"),
        "entropy": ("float16", "int32"),
        "grad_logps": ("float16", "int64"),
        "grad_entropy": ("float16", "int64"),
        "grad_lse": ("float16", "int64"),
        "out": ("float16", "float64", "int32"),
    }.items(),
)
def test_wrong_dtypes(name: str, dtypes: tuple[str, ...]) -> None:
    for dtype in dtypes:
        call = backward_call()
        call[name] = np.ones(call[name].shape, dtype)
        refused(prefopt.token_logps_grad, call, name)
        if name in ("logits", "labels"):
            call = forward_call()
            call[name] = np.ones(call[name].shape, dtype)
            refused(prefopt.token_logps, call, name)


def test_wrong_sequence_dtypes() -> None:
    for name, dtypes in (
        ("logps", ("int32", "bool", "float16")),
        ("mask", ("float16", "complex64")),
    ):
        for dtype in dtypes:
            call = sequence_call()
            call[name] = np.ones((4, 6), dtype)
            refused(prefopt.sequence_logps, call, name)
    for dtype in ("float64", "bool"):
        call = packed_call()
        call["cu_seqlens"] = call["cu_seqlens"].astype(dtype)
        refused(prefopt.sequence_logps, call, "cu_seqlens")


# ---- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint16", "uint64"])
@pytest.mark.parametrize("function", [prefopt.token_logps, prefopt.token_logps_grad])
def test_bad_labels(function: Callable[..., Any], dtype: str) -> None:
    """The first bad index and the value are named, for several bad labels at once."""
    make = forward_call if function is prefopt.token_logps else backward_call
    bad_values = [10, 100] if dtype.startswith("u") else [-1, -99, 10, 127]
    if dtype == "uint64":
        bad_values += [2**63, 2**64 - 1, 2**64 - 100]  # the last would be -100 as int64
    if dtype == "int64":
        bad_values += [2**32, -(2**32), 2**63 - 1, -(2**63)]  # the first two would be 0 as int32
    for value in bad_values:
        call = make()
        call["labels"] = call["labels"].astype(dtype)
        call["labels"][1, 2] = value
        call["labels"][3, 1] = 11
        refused(function, call, rf"(?s)labels.*(\b5\b|\[?1, 2).*|labels.*{value}")
        with pytest.raises(ValueError) as caught:
            function(**call)
        message = str(caught.value)
        assert "labels" in message, message
        assert str(value) in message, message
        assert "1, 2" in message or "5" in message.replace(str(value), ""), message


def test_label_next_to_the_ignored_one() -> None:
    call = forward_call()
    call["labels"] = with_value(call["labels"], (0, 1), -100)
    prefopt.token_logps(**call)
    refused(prefopt.token_logps, {**call, "ignore_index": -101}, r"labels.*-100")
    call["labels"] = with_value(call["labels"], (0, 1), -101)
    refused(prefopt.token_logps, call, r"labels.*-101")


def test_vocabulary_of_zero() -> None:
    """Refused with rows and without: no label exists."""
    for lead in ((3,), (0,), ()):
        call = {"logits": np.zeros((*lead, 0), np.float32), "labels": np.full(lead, -100)}
        refused(prefopt.token_logps, call, "logits")
        zeros = np.zeros(lead, np.float32)
        refused(prefopt.token_logps_grad, {**call, "lse": zeros, "grad_logps": zeros}, "logits")


def test_logits_without_an_axis() -> None:
    refused(
        prefopt.token_logps,
        {"logits": np.float32(1.0).reshape(()), "labels": np.array(0)},
        "logits",
    )


# ---- strides and overlap -------------------------------------------------------------------------


def test_last_axis_must_be_contiguous() -> None:
    logits = forward_call()["logits"]
    for view in (
        np.asfortranarray(logits),
        np.repeat(logits, 2, axis=-1)[..., ::2],
        np.ascontiguousarray(logits[..., ::-1])[..., ::-1],
        np.broadcast_to(logits[..., :1], logits.shape),
    ):
        refused(prefopt.token_logps, {**forward_call(), "logits": view}, r"logits.*contiguous")
        refused(
            prefopt.token_logps_grad, {**backward_call(), "logits": view}, r"logits.*contiguous"
        )
        if view.flags.writeable:
            refused(prefopt.token_logps_grad, {**backward_call(), "out": view}, r"out.*contiguous")


def test_read_only_out() -> None:
    call = backward_call()
    call["out"].flags.writeable = False
    refused(prefopt.token_logps_grad, call, "out")
    call["out"] = call["logits"]
    call["logits"].flags.writeable = False
    refused(prefopt.token_logps_grad, call, "out")


def test_out_that_overlaps_itself() -> None:
    call = backward_call()
    broadcast = as_strided(np.zeros((1, 3, 10), np.float32), (4, 3, 10), (0, 40, 4))
    sliding = as_strided(np.zeros(200, np.float32), (4, 3, 10), (120, 20, 4))
    for out in (broadcast, sliding):
        refused(prefopt.token_logps_grad, {**call, "out": out}, "out")


def test_out_that_overlaps_logits_in_part() -> None:
    """Shifted by a row, by an element, row-reversed, transposed, in another dtype: refused. Exactly
    logits: legal.
    """
    call = backward_call()
    buffer = np.zeros(2 * 120, np.float32)
    logits = buffer[:120].reshape(4, 3, 10)
    logits[...] = call["logits"]
    call["logits"] = logits
    shifted = [buffer[shift : shift + 120].reshape(4, 3, 10) for shift in (1, 10, 30, 119)]
    square = np.zeros((3, 3, 10), np.float32)
    for out in (*shifted, logits[::-1], logits[:, ::-1]):
        refused(prefopt.token_logps_grad, {**call, "out": out}, "out")
    small = {name: value[:3] for name, value in call.items() if name != "out"}
    small["logits"] = square
    square[...] = logits[:3]
    refused(prefopt.token_logps_grad, {**small, "out": square.swapaxes(0, 1)}, "out")
    touching = buffer[120:].reshape(4, 3, 10)  # starts where logits end
    prefopt.token_logps_grad(**{**call, "out": touching})
    prefopt.token_logps_grad(**{**call, "out": logits})


def test_interleaved_out() -> None:
    """Rows that lie across or between the rows of logits, in one buffer."""
    call = backward_call()
    buffer = np.zeros((4, 3, 20), np.float32)
    call["logits"] = buffer[..., :10]
    call["logits"][...] = backward_call()["logits"]
    refused(prefopt.token_logps_grad, {**call, "out": buffer[..., 5:15]}, "out")
    # Between the rows of logits no byte is shared; the check compares whole ranges and says no.
    match = "out: the range of memory it spans overlaps that of logits"
    refused(prefopt.token_logps_grad, {**call, "out": buffer[..., 10:]}, match)


@pytest.mark.parametrize(
    "name", ["lse", "entropy", "logps", "grad_logps", "grad_entropy", "grad_lse", "labels"]
)
def test_out_that_overlaps_another_input(name: str) -> None:
    """Anywhere, exactly at the start included: out would be written before the input is read."""
    for shift in (0, 2, 100):
        call = backward_call()
        buffer = np.zeros(200, np.float32)
        shared = (
            buffer[shift : shift + 12 * call[name].itemsize // 4]
            .view(call[name].dtype)
            .reshape(4, 3)
        )
        shared[...] = call[name]
        call[name] = shared
        call["out"] = buffer[:120].reshape(4, 3, 10)
        refused(prefopt.token_logps_grad, call, "out")


# ---- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [forward_call, backward_call])
@pytest.mark.parametrize(
    "temperature",
    [
        0.0,
        -0.0,
        -1.0,
        1e-31,
        1e31,
        5e-324,
        float("nan"),
        float("inf"),
        -float("inf"),
        "1",
        None,
        1j,
        np.complex64(1),
        np.timedelta64(1),
        True,
        10**400,
        [1.0],
        np.ones(2),
        object(),
    ],
    ids=repr,
)
def test_temperature(make: Callable[[], Call], temperature: Any) -> None:
    function = prefopt.token_logps if make is forward_call else prefopt.token_logps_grad
    refused(function, {**make(), "temperature": temperature}, "temperature")


@pytest.mark.parametrize("make", [forward_call, backward_call])
@pytest.mark.parametrize(
    "ignore_index",
    [1.5, "x", None, [1], True, np.timedelta64(1), 2**63, -(2**63) - 1, 2**100, np.ones(3)],
    ids=repr,
)
def test_ignore_index(make: Callable[[], Call], ignore_index: Any) -> None:
    function = prefopt.token_logps if make is forward_call else prefopt.token_logps_grad
    refused(function, {**make(), "ignore_index": ignore_index}, "ignore_index")


@pytest.mark.parametrize(
    "stats",
    [("entropie",), ("logps", "x"), (1,), (None,), 5, None, "entropie", ("entropy", ["correct"])],
    ids=repr,
)
def test_stats(stats: Any) -> None:
    refused(prefopt.token_logps, {**forward_call(), "stats": stats}, "stats")


@pytest.mark.parametrize(
    "dtype", ["float8", "int32", 5, np.int32, ("bfloat16",), "float64", "bfloat16"], ids=repr
)
def test_dtype(dtype: Any) -> None:
    """An unknown name, and a name that is not that of the array (float32 here)."""
    refused(prefopt.token_logps, {**forward_call(), "dtype": dtype}, "dtype")
    refused(prefopt.token_logps_grad, {**backward_call(), "dtype": dtype}, "dtype")


def test_raw_uint16_needs_a_dtype() -> None:
    logits = np.zeros((4, 3, 10), np.uint16)
    refused(prefopt.token_logps, {**forward_call(), "logits": logits}, "logits|dtype")
    prefopt.token_logps(**{**forward_call(), "logits": logits, "dtype": "bfloat16"})


def test_missing_inputs_of_the_gradient() -> None:
    call = backward_call()
    none = {"grad_logps": None, "grad_entropy": None, "grad_lse": None}
    refused(prefopt.token_logps_grad, {**call, **none}, "grad_")
    refused(prefopt.token_logps_grad, {**call, "entropy": None}, "entropy")
    refused(prefopt.token_logps_grad, {**call, "lse": None}, "lse")


def test_unknown_and_positional_keywords() -> None:
    call = forward_call()
    for function, arguments in (
        (prefopt.token_logps, (call["logits"],)),
        (prefopt.token_logps, (call["logits"], call["labels"], None)),
        (prefopt.token_logps_grad, (call["logits"], call["labels"])),
        (prefopt.sequence_logps, ()),
    ):
        with pytest.raises(TypeError):
            function(*arguments)
    with pytest.raises(TypeError, match="temprature"):
        prefopt.token_logps(**call, temprature=1.0)


def test_extension_functions_refuse_wrong_counts() -> None:
    """The C functions under the wrappers: too few, too many and unknown arguments."""
    for name in (
        "token_logps",
        "token_logps_grad",
        "sequence_logps",
        "sequence_logps_grad",
        "exp_f32",
        "exp_f64",
        "log_f64",
        "advise_huge_pages",
        "set_num_threads",
        "check_isa",
    ):
        function = getattr(_core, name)
        for arguments in ((), (None,) * 20):
            with pytest.raises(TypeError):
                function(*arguments)
    for name in ("get_num_threads", "isas", "isa", "build_info"):
        with pytest.raises(TypeError):
            getattr(_core, name)(1)


# ---- sequences -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cu_seqlens", "match"),
    {
        "starts late": ([1, 3, 10], "cu_seqlens.*0"),
        "starts below": ([-1, 3, 10], "cu_seqlens.*0"),
        "ends early": ([0, 3, 9], "cu_seqlens"),
        "ends late": ([0, 3, 11], "cu_seqlens"),
        "decreases": ([0, 7, 3, 10], r"cu_seqlens.*\b2\b"),
        "overshoots": ([0, 30, 10], "cu_seqlens"),
        "negative": ([0, -3, 10], "cu_seqlens"),
        "wraps": ([0, 2**62, 10], "cu_seqlens"),
        "nothing": ([], "cu_seqlens"),
    }.values(),
)
def test_bad_cu_seqlens(cu_seqlens: list[int], match: str) -> None:
    refused(
        prefopt.sequence_logps,
        {**packed_call(), "cu_seqlens": np.array(cu_seqlens, np.int64)},
        match,
    )
    with pytest.raises(REFUSED, match=match):
        _core.sequence_logps_grad(
            np.ones(max(len(cu_seqlens) - 1, 0)),
            np.zeros(10),
            None,
            np.array(cu_seqlens, np.int64),
            False,
            None,
        )


def test_packed_and_padded_do_not_mix() -> None:
    refused(
        prefopt.sequence_logps,
        {**sequence_call(), "cu_seqlens": np.array([0, 4])},
        "logps|cu_seqlens",
    )
    refused(prefopt.sequence_logps, {"logps": np.zeros(5)}, "logps")
    refused(prefopt.sequence_logps, {"logps": np.zeros((2, 3, 4))}, "logps")


def test_bad_normalizer() -> None:
    call = {**sequence_call(), "average": True}
    for value in (0.0, -1.0, np.nan, np.inf):
        normalizer = np.array([1.0, 2.0, value, value])
        refused(prefopt.sequence_logps, {**call, "normalizer": normalizer}, r"normalizer.*\b2\b")
    for normalizer in (np.ones(3), np.ones((4, 1)), np.ones(4, complex), "x", np.ones(4, object)):
        refused(prefopt.sequence_logps, {**call, "normalizer": normalizer}, "normalizer")
    refused(
        prefopt.sequence_logps, {**call, "normalizer": np.ones(4), "average": False}, "normalizer"
    )


def test_bad_average() -> None:
    refused(prefopt.sequence_logps, {**sequence_call(), "average": "yes"}, "average")
    refused(prefopt.sequence_logps, {**sequence_call(), "average": np.ones(2)}, "average")


def test_bad_mask_weights() -> None:
    """Weights that are not finite make no sum; the first bad index is named."""
    for value in (np.nan, np.inf):
        call = {**sequence_call(), "mask": with_value(np.ones((4, 6)), (2, 1), value)}
        refused(prefopt.sequence_logps, call, "mask")


def test_bad_upstream_of_sequences() -> None:
    for grad in (np.ones(3), np.ones((4, 1)), np.ones(4, int), np.ones(4, object), None, "x"):
        out = np.full((4, 6), 7.0)
        with pytest.raises(REFUSED):
            _core.sequence_logps_grad(grad, out, None, None, False, None)
        assert (out == 7).all()


# ---- sizes ---------------------------------------------------------------------------------------


def test_sizes_that_overflow() -> None:
    """Shapes that only strides of 0 can hold: refused as too large before any element is looked at.

    In a subprocess with a time limit: a wrong implementation would read for centuries or crash.
    """
    # AddressSanitizer ends the process at such a size unless malloc may return NULL, as it should.
    sanitizer = os.environ.get("ASAN_OPTIONS", "")
    env = {"ASAN_OPTIONS": f"{sanitizer}:allocator_may_return_null=1"} if sanitizer else {}
    done = run_script(
        """
        import numpy as np, prefopt
        from numpy.lib.stride_tricks import as_strided
        from prefopt import _core

        def shaped(dtype, *shape):
            return as_strided(np.zeros(1, dtype), shape, (0,) * len(shape))

        def refused(function, *arguments, **keywords):
            try:
                function(*arguments, **keywords)
            except MemoryError as error:
                assert "Unable to allocate" in str(error), error
            except (ValueError, TypeError) as error:
                assert str(error).startswith(("logits: ", "logps: ", "grad_logps: ", "policy_")), error
            else:
                raise AssertionError("was taken")

        rows = 2**61  # float32 results would have 2**63 bytes
        refused(prefopt.token_logps, shaped(np.float16, rows, 1), shaped(np.int8, rows))
        half = 2**30, 2**31
        refused(prefopt.token_logps, shaped(np.float16, *half, 1), shaped(np.int8, *half))
        huge = 2**59
        refused(prefopt.token_logps, shaped(np.float32, huge, 1), shaped(np.int64, huge))
        refused(prefopt.token_logps, shaped(np.float32, huge, 1), shaped(np.int8, huge))
        refused(prefopt.token_logps_grad, shaped(np.float32, huge, 1), shaped(np.int64, huge),
                shaped(np.float32, huge), grad_logps=shaped(np.float32, huge))
        refused(prefopt.sequence_logps, shaped(np.float32, huge, 0), average=True)
        refused(_core.sequence_logps_grad, shaped(np.float32, 1), shaped(np.float32, 1, 2**60),
                None, None, False, None)
        losses = (shaped(np.float16, rows),) * 4
        refused(prefopt.dpo_loss, *losses)
        print("refused all")
        """,
        env=env,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "refused all" in done.stdout


def test_huge_shapes_without_rows_are_legal() -> None:
    logits = as_strided(np.zeros(1, np.float32), (0, 2**40, 8), (0, 0, 4))
    labels = as_strided(np.zeros(1, np.int64), (0, 2**40), (0, 0))
    assert prefopt.token_logps(logits, labels).logps.shape == (0, 2**40)
