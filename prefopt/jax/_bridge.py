"""JAX arrays to the C handlers and back: registration, one way to call, checks at trace time.

Every handler of csrc/jax is an XLA FFI target. XLA hands it its own buffers, which are read and
written in place, on threads of XLA's; the kernels start OpenMP threads from there, as many as
`prefopt.set_num_threads` allows. Under `jax.vmap` mapped axes are more rows of one call where an op
has rows, and otherwise calls in turn, inside the handler.

What depends on shapes, dtypes and parameters is refused while JAX traces, by the C op itself: it
runs once on stand-ins, arrays of the same shape and dtype that count no token, so that messages are
NumPy's and have one home. What depends on values (a label out of range) is refused when the program
runs, with the op's message: as a ValueError, or a `jax.errors.JaxRuntimeError` where XLA runs it
on a thread of its own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array
from jax.custom_derivatives import SymbolicZero

from prefopt import _blas, _core

R = TypeVar("R")
Arrays = dict[str, Array]
Shape = jax.ShapeDtypeStruct
shape_of: Callable[..., Shape] = jax.ShapeDtypeStruct  # (shape, dtype), which JAX leaves untyped

# XLA's names of the platforms whose programs would look for a handler of ours.
_OTHER_PLATFORMS = ("CUDA", "ROCM")


def _register() -> None:
    handlers = _core.ffi_handlers()
    refuse = handlers.pop("")
    for name, handler in handlers.items():
        jax.ffi.register_ffi_target(name, handler, platform="cpu")
        for platform in _OTHER_PLATFORMS:
            jax.ffi.register_ffi_target(name, refuse, platform=platform)


_register()
_blas.ensure_loaded()  # linear_token_logps multiplies with it; a handler cannot go and look for it


# ---- arguments -----------------------------------------------------------------------------------


def as_array(name: str, value: Any) -> Array:
    """A JAX array, traced or not, or a NumPy array as one (with the dtype that JAX gives it)."""
    if isinstance(value, Array):
        return value
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"{name}: expected a jax.Array, got {type(value).__name__}")
    return jnp.asarray(value)


def optional_array(name: str, value: Any) -> Array | None:
    """`as_array`, or None for None."""
    return None if value is None else as_array(name, value)


def static_number(name: str, value: Any) -> Any:
    """A parameter that is built into the program: a concrete array of one number becomes a number.

    Anything else that is none is left to the op, which says what it expected.
    """
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name}: expected a number known while tracing, got a traced array; "
            "pass it from outside jit, or mark it static"
        )
    return value.item() if isinstance(value, Array) and value.ndim == 0 else value


def as_bfloat16(array: Array, dtype: str | None) -> Array:
    """16-bit words as the bfloat16 whose bits they hold, if `dtype` says so."""
    if dtype == "bfloat16" and array.dtype == np.uint16:
        return jax.lax.bitcast_convert_type(array, jnp.bfloat16)
    return array


def signature(array: Array | None) -> tuple[tuple[int, ...], Any] | None:
    """What the checks of a call depend on."""
    return None if array is None else (array.shape, np.dtype(array.dtype))


def remembered(function: Callable[..., R]) -> Callable[..., R]:
    """`functools.cache`, but what cannot be a key runs the function, which says what is wrong."""
    cached = functools.lru_cache(4096)(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> R:
        try:
            hash(arguments)
        except TypeError:
            return function(*arguments)
        return cached(*arguments)

    return call


def stand_in(described: tuple[tuple[int, ...], Any] | None) -> npt.NDArray[Any] | None:
    """An array of that shape and dtype whose values nobody reads: no memory is touched."""
    return None if described is None else np.empty(*described)


def result_like(array: npt.NDArray[Any]) -> Shape:
    """The shape and dtype of a NumPy result as JAX has it (float32 and int32 without x64)."""
    return shape_of(array.shape, jax.dtypes.canonicalize_dtype(array.dtype))


def words_of_doubles(shape: tuple[int, ...]) -> Shape:
    """Where float64 values [...] pass through a program that has no float64: their bits."""
    return shape_of((*shape, 2), np.uint32)


# ---- calls ---------------------------------------------------------------------------------------


def call(
    op: str,
    inputs: Mapping[str, Array | None],
    outputs: Mapping[str, Shape],
    *,
    in_place: str | None = None,
    **attributes: Any,
) -> Arrays:
    """The outputs of one handler by name. Inputs that are None are left out.

    in_place: the input whose memory the one output takes where XLA may give it up: inside a
    compiled program XLA copies it first if it is needed later. Outside of one it always is.
    """
    given = {name: each for name, each in inputs.items() if each is not None}

    @jax.custom_jvp
    def run(*arrays: Array) -> Arrays:
        aliases = None
        if in_place is not None and isinstance(arrays[0], jax.core.Tracer):
            aliases = {list(given).index(in_place): 0}
        results = jax.ffi.ffi_call(
            f"prefopt_{op}",
            tuple(outputs.values()),
            # An output in the memory of an input has to be as large: then inputs are repeated.
            vmap_method="broadcast_all" if aliases else "expand_dims",
            input_output_aliases=aliases,
        )(
            *arrays,
            rank=np.int64(arrays[0].ndim),
            inputs=" ".join(given),
            outputs=" ".join(outputs),
            **{name: _attribute(each) for name, each in attributes.items()},
        )
        return dict(zip(outputs, results, strict=True))

    @run.defjvp
    def refuse(_primals: Any, _tangents: Any) -> Any:
        function = op.removesuffix("_grad")
        raise NotImplementedError(
            f"prefopt.jax.{function} has no second derivative: its gradient cannot be "
            "differentiated again. Use jax.nn.log_softmax where you need one"
        )

    results: Arrays = run(*given.values())
    return results


def _attribute(value: Any) -> Any:
    if isinstance(value, (bool, int)):
        return np.int64(value)
    return np.float64(value) if isinstance(value, float) else value


# ---- derivatives ---------------------------------------------------------------------------------


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Static:
    """A constant among the residuals of a custom VJP."""

    value: Any


# The arguments of a forward rule without their marks.
value_of: Callable[[Any], Any] = jax.custom_derivatives.custom_vjp_primal_tree_values


def is_perturbed(argument: Any) -> bool:
    """Whether a derivative by this argument of a forward rule may be asked for."""
    return argument is not None and bool(argument.perturbed)


def cotangent(value: Any) -> Array | None:
    """A cotangent, None where it is known to be zero."""
    return None if isinstance(value, SymbolicZero) else value
