"""Arrays of other libraries on a CUDA device (CuPy, JAX, ...), read where they lie.

DLPack where an array has it, else ``__cuda_array_interface__``. Both say on which stream the array
is still being filled, and torch's current stream is made to wait for that: DLPack by the array's
own library, which is told our stream; the interface by us, from its `stream` entry.

Its library may give the array's memory to somebody else as soon as nobody refers to it, on a stream
that knows nothing of ours. So the array is kept until the kernels that were queued up to the death
of its tensor are done.
"""

from __future__ import annotations

import functools
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

_CUDA_DEVICES = (2, 13)  # DLPack's kDLCUDA and kDLCUDAManaged
_LEGACY = 1  # of __cuda_array_interface__'s streams, which are handles from 3 on
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Cuda:
    """What is asked of torch's CUDA; tests without a GPU have their own."""

    @staticmethod
    def from_dlpack(value: Any) -> Tensor:
        """Tells the array's library torch's current stream of its device."""
        return from_dlpack(value)

    @staticmethod
    def from_interface(value: Any) -> Tensor:
        """On the current device, as the interface does not say which."""
        return torch.as_tensor(value, device="cuda")

    @staticmethod
    def wait_for(handle: int) -> None:
        """Makes torch's current stream wait for what stream `handle` has been given."""
        current = torch.cuda.current_stream()
        if handle != current.cuda_stream:
            stream: Any = torch.cuda.ExternalStream
            current.wait_stream(stream(handle))

    @staticmethod
    def is_capturing() -> bool:
        return torch.cuda.is_current_stream_capturing()

    @staticmethod
    def record(device: torch.device) -> Any:
        """An event behind everything on the current stream."""
        make: Any = torch.cuda.Event
        event = make()
        event.record(torch.cuda.current_stream(device))
        return event


_cuda = Cuda()
_protocols: dict[type, str] = {}
_retired: deque[tuple[Any, Any]] = deque()  # (event, array) whose kernels may still run


def _protocol(value: object) -> str:
    """ "dlpack", "interface", or "" for what is no other library's array."""
    type_ = type(value)
    known = _protocols.get(type_)
    if known is None:
        known = ""
        if issubclass(type_, Tensor):
            pass
        elif hasattr(type_, "__dlpack__") and hasattr(type_, "__dlpack_device__"):
            known = "dlpack"
        elif hasattr(type_, "__cuda_array_interface__"):
            known = "interface"
        _protocols[type_] = known
    return known


def _take(name: str, value: Any, protocol: str) -> Any:
    """The tensor of an array on a CUDA device; anything else as it is."""
    if protocol == "dlpack":
        if value.__dlpack_device__()[0] not in _CUDA_DEVICES:
            return value
        tensor = _cuda.from_dlpack(value)
    elif protocol == "interface":
        tensor = _by_interface(name, value)
    else:
        return value
    _collect()
    weakref.finalize(tensor, _retire, value, tensor.device).atexit = False
    return tensor


def _by_interface(name: str, value: Any) -> Tensor:
    interface = value.__cuda_array_interface__
    if interface.get("mask") is not None:
        raise TypeError(f"{name}: expected an array without a mask")
    stream = interface.get("stream")
    if stream is not None and (type(stream) is not int or stream <= 0):
        raise ValueError(
            f"{name}: expected a stream of at least 1 in its __cuda_array_interface__, got {stream!r}"
        )
    if stream is not None:
        # torch's number of the legacy default stream is 0; that of a thread's own is CUDA's.
        _cuda.wait_for(0 if stream == _LEGACY else stream)
    return _cuda.from_interface(value)


def _retire(value: Any, device: torch.device) -> None:
    """Called when a tensor dies. What a captured graph reads is kept by whoever replays it."""
    if not _cuda.is_capturing():
        _retired.append((_cuda.record(device), value))


def _collect() -> None:
    """Lets go of arrays whose kernels are done."""
    while _retired and not _cuda.is_capturing():
        try:
            event, value = _retired.popleft()
        except IndexError:  # another thread took it
            return
        if not event.query():
            _retired.appendleft((event, value))
            return


def _has_any(values: Iterable[object]) -> bool:
    for each in values:  # noqa: SIM110 (any() and a generator take three times as long)
        if type(each) is not Tensor and _protocol(each):
            return True
    return False


def take_gpu_arrays(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """`values` with tensors in place of other libraries' arrays on a CUDA device."""
    if torch.compiler.is_compiling() or not _has_any(values.values()):
        return values
    return {name: _take(name, each, _protocol(each)) for name, each in values.items()}


def takes_gpu_arrays(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function of tensors that also takes other libraries' arrays on a CUDA device."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch.compiler.is_compiling() or not (_has_any(args) or _has_any(kwargs.values())):
            return function(*args, **kwargs)
        taken: Any = args
        if len(args) <= len(names):  # else the function says so
            taken = take_gpu_arrays(dict(zip(names, args, strict=False))).values()
        more: Any = take_gpu_arrays(kwargs)
        return function(*taken, **more)

    return call
