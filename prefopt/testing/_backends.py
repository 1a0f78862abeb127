"""Calls a function with arrays of the library that it is written in, and brings numbers back.

NumPy functions are differentiated by finite differences, torch and JAX ones by autograd. The
libraries are imported only when a function of theirs is tested.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Call = Callable[[dict[str, Any]], Any]  # inputs by name -> what the function returns

BACKENDS = ("numpy", "torch", "jax")
# Central differences of fourth order, x +- h and x +- 2 h: short steps in binary, so that x + h is
# exact for the numbers of the golden cases.
STEP = 2.0**-10
WEIGHTS = ((1, 8.0 / 12), (-1, -8.0 / 12), (2, -1.0 / 12), (-2, 1.0 / 12))


class Outcome(NamedTuple):
    """What one call returned.

    `outputs` are arrays, the losses first; `grads` those of the sum of the losses, None where not
    asked for. `noise` is how far rounding may have moved a finite difference, 0 for autograd; a
    gradient is NaN where it could not be taken.
    """

    outputs: tuple[Array, ...]
    grads: dict[str, Array] | None
    noise: dict[str, Array]


def evaluate(
    backend: str, call: Call, inputs: Mapping[str, Any], dtype: str, leaves: tuple[str, ...]
) -> Outcome:
    """The outputs of `call` on `inputs`, real ones in `dtype`, and gradients by `leaves`."""
    if backend == "torch":
        return _torch(call, inputs, dtype, leaves)
    if backend == "jax":
        return _jax(call, inputs, dtype, leaves)
    return _numpy(call, inputs, dtype, leaves)


def _parts(result: Any) -> tuple[Any, ...]:
    """The losses and what a tuple has after them."""
    return tuple(result) if isinstance(result, tuple) else (result,)


# ---- NumPy ---------------------------------------------------------------------------------------


def _numpy(call: Call, inputs: Mapping[str, Any], dtype: str, leaves: tuple[str, ...]) -> Outcome:
    arrays = {name: _take(value, dtype) for name, value in inputs.items()}

    def run(changed: Mapping[str, Any]) -> tuple[Array, ...]:
        copies = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in changed.items()}
        return tuple(np.asarray(part) for part in _parts(call(copies)))

    outputs = run(arrays)
    grads, noise = {}, {}
    for name in leaves:
        grads[name], noise[name] = _differences(run, arrays, name)
    return Outcome(outputs, grads if leaves else None, noise)


def _take(value: Any, dtype: str) -> Any:
    """Arrays of flags and counts as they are; a single number as a NumPy scalar."""
    array = np.asarray(value)
    if array.dtype.kind == "f":
        array = array.astype(dtype)
    return array if array.ndim else array[()]


def _differences(
    run: Callable[[Mapping[str, Any]], tuple[Array, ...]], arrays: Mapping[str, Any], name: str
) -> tuple[Array, Array]:
    """d sum(losses) / d arrays[name], element by element, and the noise of each."""
    at = arrays[name]
    grad, noise = np.zeros(at.shape), np.zeros(at.shape)
    for index in np.ndindex(at.shape):
        total: Any = 0.0
        for steps, weight in WEIGHTS:
            moved = at.copy()
            moved[index] += steps * STEP
            losses = run({**arrays, name: moved})[0].astype(np.float64)
            # Added element by element: losses that do not move cancel exactly.
            with np.errstate(invalid="ignore"):
                total = total + weight * losses
            noise[index] += np.sum(np.abs(weight * losses)) * np.finfo(np.float64).eps / STEP
        grad[index] = np.sum(total) / STEP
    return grad, noise


# ---- torch ---------------------------------------------------------------------------------------


def _torch(call: Call, inputs: Mapping[str, Any], dtype: str, leaves: tuple[str, ...]) -> Outcome:
    import torch

    kind = getattr(torch, dtype)
    tensors = {}
    for name, value in inputs.items():
        tensor = torch.tensor(np.asarray(value))
        tensors[name] = tensor.to(kind) if tensor.is_floating_point() else tensor
        if name in leaves:
            tensors[name].requires_grad_()
    parts = _parts(call(dict(tensors)))

    def numbers(tensor: Any) -> Array:
        if not isinstance(tensor, torch.Tensor):
            return np.asarray(tensor)
        plain = tensor.detach().cpu()
        return plain.float().numpy() if plain.dtype == torch.bfloat16 else plain.numpy()

    grads = {name: np.zeros(np.shape(inputs[name])) for name in leaves}
    if leaves and isinstance(parts[0], torch.Tensor) and parts[0].requires_grad:
        wanted = [tensors[name] for name in leaves]
        found = torch.autograd.grad(parts[0].sum(), wanted, allow_unused=True)
        for name, grad in zip(leaves, found, strict=True):
            if grad is not None:
                grads[name] = numbers(grad)
    return Outcome(tuple(map(numbers, parts)), grads if leaves else None, {})


# ---- JAX -----------------------------------------------------------------------------------------


def _jax(call: Call, inputs: Mapping[str, Any], dtype: str, leaves: tuple[str, ...]) -> Outcome:
    import jax
    import jax.numpy as jnp

    arrays = {name: jnp.asarray(_take(value, dtype)) for name, value in inputs.items()}
    outputs = tuple(np.asarray(part) for part in _parts(call(dict(arrays))))
    if not leaves:
        return Outcome(outputs, None, {})

    def total(moving: dict[str, Any]) -> Any:
        return jnp.sum(_parts(call({**arrays, **moving}))[0])

    grads = jax.grad(total)({name: arrays[name] for name in leaves})
    return Outcome(outputs, {name: np.asarray(grad) for name, grad in grads.items()}, {})


def take_dtype(backend: str, dtype: str | None) -> str:
    """float64 where none is given, but float32 for JAX without its 64-bit mode."""
    if dtype not in (None, "float64", "float32"):
        raise ValueError(f"dtype: expected 'float64' or 'float32', got {dtype!r}")
    wide = True
    if backend == "jax":
        import jax.numpy as jnp

        wide = jnp.asarray(np.zeros(1)).dtype == np.float64
    if dtype == "float64" and not wide:
        raise ValueError("dtype: float64 needs jax.config.update('jax_enable_x64', True)")
    return dtype or ("float64" if wide else "float32")


# ---- which library -------------------------------------------------------------------------------


def detect(function: Any) -> str:
    """The library whose names the function's code uses: torch, jax, or else numpy."""
    for backend in ("torch", "jax"):
        if backend in sys.modules and any(_is_of(thing, backend) for thing in _reached(function)):
            return backend
    return "numpy"


def _is_of(thing: Any, backend: str) -> bool:
    """A module, function, class or instance of that library, or of prefopt's part for it."""
    if isinstance(thing, str):  # an annotation
        return thing.split(".")[0] == backend
    names = [getattr(thing, "__module__", None)]
    for owner in (thing, getattr(thing, "__self__", None)):
        names += [base.__module__ for base in type(owner).__mro__]
    if isinstance(thing, types.ModuleType):
        names.append(thing.__name__)
    return any(isinstance(name, str) and backend in name.split(".") for name in names)


def _reached(function: Any, limit: int = 100) -> Iterator[Any]:
    """The function, what its code names, and so on through functions of the same package."""
    waiting = [function]
    seen: set[int] = set()
    while waiting and len(seen) < limit:
        thing = waiting.pop(0)
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        yield thing
        plain = _plain_function(thing)
        if plain is None:
            continue
        names = set(_names(plain.__code__))
        yield from plain.__annotations__.values()
        values = [plain.__globals__[name] for name in names if name in plain.__globals__]
        values += [cell.cell_contents for cell in plain.__closure__ or () if _is_filled(cell)]
        values += [sys.modules[name] for name in names & {"torch", "jax"} if name in sys.modules]
        package = plain.__module__.split(".")[0]
        for value in values:
            if str(getattr(value, "__module__", "")).split(".")[0] == package:
                waiting.append(value)
            else:
                yield value


def _plain_function(thing: Any) -> types.FunctionType | None:
    while isinstance(thing, functools.partial):
        thing = thing.func
    thing = inspect.unwrap(thing) if callable(thing) else thing
    thing = getattr(thing, "__func__", thing)
    if not isinstance(thing, (types.FunctionType, type)) and callable(thing):
        thing = getattr(type(thing).__call__, "__func__", type(thing).__call__)
    return thing if isinstance(thing, types.FunctionType) else None


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _names(code: types.CodeType) -> Iterator[str]:
    """Global names that the code and the functions inside it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
