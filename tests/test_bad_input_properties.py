"""Hypothesis: valid random calls match the oracle, random calls of any kind raise nothing but
ValueError and TypeError.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import logps as oracle
from support import DTYPES, Dtype

import prefopt
from prefopt import _core

SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ALL = oracle.OPTIONAL_STATS
DTYPE_NAMES = ("float16", "bfloat16_raw", "float32", "float64")
# Values that meet: zeros of both signs, denormals, huge ones, infinities and NaN.
SPECIAL = (0.0, -0.0, 1.0, -1.0, 1e-40, -5e-324, 1e4, -1e4, 1e36, -65504.0, np.inf, -np.inf, np.nan)


@st.composite
def valid_calls(draw: st.DrawFn) -> tuple[Dtype, np.ndarray, dict[str, Any]]:
    """Dtype, logits and the other arguments of a valid token_logps call of small, odd shapes and
    strides.
    """
    dtype = DTYPES[draw(st.sampled_from(DTYPE_NAMES))]
    lead = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    vocab = draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.normal(size=(*lead, vocab)) * 10.0 ** draw(st.integers(-3, 2))
    for special in draw(st.lists(st.sampled_from(SPECIAL), max_size=3)):
        values[rng.random(values.shape) < 0.1] = special
    with np.errstate(all="ignore"):  # 1e36 is beyond float16: inf, which is legal
        logits = dtype.make(values)
    if lead and draw(st.booleans()):
        axis = draw(st.integers(0, len(lead) - 1))
        index = (slice(None),) * axis + (slice(None, None, -1),)
        logits = np.ascontiguousarray(logits[index])[index]
    if len(lead) > 1 and draw(st.booleans()):
        logits = np.ascontiguousarray(logits.swapaxes(0, 1)).swapaxes(0, 1)
    ignore_index = draw(st.sampled_from((-100, 0, vocab, 2**40)))
    labels = rng.integers(0, vocab, lead)
    labels = np.where(rng.random(lead) < 0.2, ignore_index, labels)
    if ignore_index < 2**31:
        labels = labels.astype(draw(st.sampled_from(("int64", "int32"))))
    temperature = draw(st.sampled_from((1.0, 0.5, 1.7, 1e-3, 1e3)))
    return (
        dtype,
        logits,
        {"labels": labels, "ignore_index": ignore_index, "temperature": temperature},
    )


@SETTINGS
@given(valid_calls())
def test_valid_calls_match_the_oracle(call: tuple[Dtype, np.ndarray, dict[str, Any]]) -> None:
    dtype, logits, arguments = call
    got = prefopt.token_logps(logits, **arguments, stats=ALL, **dtype.arguments)
    want = oracle.token_stats(dtype.exact(logits), precision=np.longdouble, **arguments)
    assert np.array_equal(got.correct, want.correct)
    kind = "float64" if dtype.kind == "float64" else "float32"
    largest = float(np.finfo(dtype.result).max) / 4
    for name in oracle.FLOAT_STATS:
        result, true = np.asarray(getattr(got, name)), np.asarray(getattr(want, name))
        assert result.shape == logits.shape[:-1]
        inside = np.isfinite(true) & (np.abs(true) < largest)
        outside = ~np.isfinite(true)
        assert np.array_equal(
            result[outside], true[outside].astype(result.dtype), equal_nan=True
        ), name
        scale = np.where(np.isfinite(want.mean_abs_logit), want.mean_abs_logit, 1) + np.abs(true)
        unit = oracle.spacing(np.maximum(1, np.minimum(scale, largest))[inside], kind)
        assert (np.abs(result[inside].astype(np.longdouble) - true[inside]) <= 16 * unit).all(), (
            name
        )


@SETTINGS
@given(
    valid_calls(),
    st.booleans(),
    st.sets(st.sampled_from(("grad_logps", "grad_entropy", "grad_lse")), min_size=1),
)
def test_valid_gradients_match_the_oracle(
    call: tuple[Dtype, np.ndarray, dict[str, Any]], in_place: bool, names: set[str]
) -> None:
    dtype, logits, arguments = call
    forward = prefopt.token_logps(logits, **arguments, stats=("entropy",), **dtype.arguments)
    rng = np.random.default_rng(0)
    upstream = {
        name: rng.normal(size=logits.shape[:-1]).astype(dtype.result) for name in sorted(names)
    }
    exact = dtype.exact(logits)
    grad = prefopt.token_logps_grad(
        logits,
        lse=forward.lse,
        entropy=forward.entropy if "grad_entropy" in names else None,
        out=logits if in_place else None,
        **upstream,
        **arguments,
        **dtype.arguments,
    )
    assert grad.shape == exact.shape
    assert (grad is logits) == in_place
    want, condition = oracle.token_grad(
        exact,
        lse=forward.lse,
        entropy=forward.entropy,
        precision=np.longdouble,
        **upstream,
        **arguments,
    )
    got = dtype.exact(grad)
    # Beyond, the rounding of lse itself is near 1 and p means nothing.
    coarse = np.abs(forward.lse) > 1e4
    want = np.where(coarse[..., None], np.nan, want)
    got = np.where(coarse[..., None], np.nan, got)
    nan = np.isnan(want)
    assert np.array_equal(np.isnan(got), nan)
    limit = {"float16": 65504.0, "bfloat16": 1e38, "float32": 1e38, "float64": 1e300}[dtype.kind]
    inside = ~nan & (np.abs(want) < limit)
    rounding = oracle.spacing(want[inside], dtype.kind)
    eps: Any = float(np.finfo(dtype.result).eps)
    scaled = np.broadcast_to(np.abs(forward.lse)[..., None], want.shape)[inside]
    if dtype.kind == "float64":  # logits / temperature rounds where lse is, and has no wider type
        eps = eps * np.maximum(1, scaled)
    # What exp flushes to 0, times |log p| (of the entropy term).
    tiny = 4096 * float(np.finfo(dtype.result).tiny) / arguments["temperature"]
    bound = rounding + 16 * eps * condition[inside] + tiny
    assert (np.abs(got[inside] - want[inside]) <= bound).all()


WEIRD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=8),
    st.lists(st.integers(-200, 200), max_size=4),
    st.builds(object),
    st.sampled_from(
        (
            np.float32,
            "float32",
            "bfloat16",
            "entropy",
            ("entropy",),
            ("correct", "lse2"),
            np.ma.masked,
        )
    ),
)
ARRAY_DTYPES = (
    "float16",
    "float32",
    "float64",
    "longdouble",
    "int8",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint64",
    "bool",
    "complex64",
    "object",
    ">f4",
    ">i8",
    "S3",
    "M8[s]",
)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Any small array: shape, dtype, strides, writeability, subclass; contents mostly usable as
    labels.
    """
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.integers(-2, 4, shape)
    array = values.astype(draw(st.sampled_from(ARRAY_DTYPES)))
    if array.ndim > 1 and draw(st.booleans()):
        array = array.swapaxes(0, -1)
    if array.ndim and draw(st.booleans()):
        array = array[..., ::-1]
    if draw(st.booleans()):
        array = np.broadcast_to(array, (2, *array.shape))
    if draw(st.integers(0, 9)) == 0:
        array = np.ma.masked_array(array)
    return array


ANYTHING = st.one_of(arrays(), arrays(), WEIRD)
KEYWORDS = {
    prefopt.token_logps: ("dtype", "ignore_index", "temperature", "stats"),
    prefopt.token_logps_grad: (
        "grad_logps",
        "grad_entropy",
        "grad_lse",
        "entropy",
        "logps",
        "dtype",
        "ignore_index",
        "temperature",
        "out",
    ),
    prefopt.sequence_logps: ("mask", "cu_seqlens", "average", "normalizer"),
}
POSITIONAL = {prefopt.token_logps: 2, prefopt.token_logps_grad: 3, prefopt.sequence_logps: 1}


@SETTINGS
@given(st.data())
def test_random_calls_of_the_public_functions(data: st.DataObject) -> None:
    function = data.draw(st.sampled_from(list(KEYWORDS)))
    arguments = [data.draw(ANYTHING) for _ in range(POSITIONAL[function])]
    names = data.draw(st.sets(st.sampled_from(KEYWORDS[function]), max_size=4))
    keywords = {name: data.draw(ANYTHING) for name in sorted(names)}
    with contextlib.suppress(ValueError, TypeError):
        function(*arguments, **keywords)


@SETTINGS
@given(st.data())
def test_one_wrong_argument_in_a_valid_call(data: st.DataObject) -> None:
    """Nearer to valid: every argument but one (or two) is right, so that late checks are
    reached.
    """
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 8)).astype(np.float32)
    labels = rng.integers(0, 8, (2, 3))
    forward = prefopt.token_logps(logits, labels, stats=("entropy",))
    ones = np.ones((2, 3), np.float32)
    call = {
        "logits": logits,
        "labels": labels,
        "lse": forward.lse,
        "grad_logps": ones,
        "grad_entropy": ones,
        "grad_lse": ones,
        "entropy": forward.entropy,
        "logps": forward.logps,
        "dtype": None,
        "ignore_index": -100,
        "temperature": 1.0,
        "out": np.zeros_like(logits),
    }
    for name in data.draw(st.sets(st.sampled_from(list(call)), min_size=1, max_size=2)):
        call[name] = data.draw(ANYTHING)
    with contextlib.suppress(ValueError, TypeError):
        prefopt.token_logps_grad(**call)


@SETTINGS
@given(st.data())
def test_random_calls_of_the_extension(data: st.DataObject) -> None:
    """The C functions without the wrappers: no crash, and no other exception either."""
    counts = {
        "token_logps": 7,
        "token_logps_grad": 12,
        "sequence_logps": 5,
        "sequence_logps_grad": 6,
        "exp_f32": 1,
        "exp_f64": 1,
        "log_f64": 1,
        "advise_huge_pages": 1,
    }
    name = data.draw(st.sampled_from(list(counts)))
    count = counts[name] + data.draw(st.sampled_from((0, 0, 0, 0, -1, 1)))
    with contextlib.suppress(ValueError, TypeError):
        getattr(_core, name)(*(data.draw(ANYTHING) for _ in range(count)))
