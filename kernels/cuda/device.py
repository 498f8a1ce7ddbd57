"""CuPy as a device to launch on: modules compiled by NVRTC on first use, the caller's stream."""

from __future__ import annotations

import functools as ft
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cupy
import numpy as np

from ..user import Solver
from . import sources, user
from .calls import Record

_NULL = np.uintp(0)


@ft.cache
def _function(device: int, source: str, kernel: str) -> Any:
    """A kernel on one GPU, by the whole text that it is compiled from."""
    module = cupy.RawModule(code=source, options=sources.OPTIONS, name_expressions=(kernel,))
    return _launcher(module.get_function(kernel))


@ft.cache
def _linked(device: int, kernel: str, solver: Solver) -> Any:
    """A kernel on one GPU with a user's function in it."""
    capability = cupy.cuda.Device(device).compute_capability  # "90", "120"
    cubin, name = user.linked(solver, kernel, (int(capability[:-1]), int(capability[-1])))
    module = cupy.cuda.function.Module()
    module.load(cubin)
    return _launcher(module.get_function(name))


@ft.cache
def _constant(device: int, content: bytes, dtype: str, shape: tuple[int, ...]) -> Any:
    """Never let go of: a captured graph may read it."""
    return cupy.asarray(np.frombuffer(content, dtype).reshape(shape))


@ft.lru_cache(maxsize=256)
def _filled(device: int, shape: tuple[int, ...], value: float, dtype: type) -> Any:
    array = cupy.full(shape, value, dtype)
    cupy.cuda.get_current_stream().synchronize()  # other streams will read it
    return array


@ft.lru_cache(maxsize=256)
def _flag(device: int, thread: int) -> Any:
    return cupy.zeros(1, np.int32)


class CupyDevice:
    """One GPU, the current one; launches go to CuPy's current stream."""

    xp = cupy

    def __init__(self, index: int):
        self.index = index

    @property
    def capturing(self) -> bool:
        return cupy.cuda.get_current_stream().is_capturing()

    def constant(self, values: np.ndarray) -> Any:
        return _constant(self.index, values.tobytes(), values.dtype.str, values.shape)

    def filled(self, shape: tuple[int, ...], value: float, dtype: type) -> Any:
        return _filled(self.index, shape, value, dtype)

    def flag(self) -> Any:
        return _flag(self.index, threading.get_ident())

    def function(self, file: str, kernel: str) -> Any:
        return self.compiled(sources.expanded(file), kernel)

    def compiled(self, source: str, kernel: str) -> Any:
        """A kernel of any text."""
        return _function(self.index, source, kernel)

    def linked(self, kernel: str, solver: Solver) -> Any:
        return _linked(self.index, kernel, solver)


def _launcher(compiled: Any) -> Any:
    def launch(grid: tuple[int], block: tuple[int], arguments: Sequence[Any]) -> None:
        # None would be no argument at all, and a struct is an array of NumPy's.
        given = [
            _NULL if x is None else x.packed(_address) if type(x) is Record else x
            for x in arguments
        ]
        compiled(grid, block, tuple(given))

    return launch


def _address(array: Any) -> int:
    return array.data.ptr


def current() -> CupyDevice:
    """CuPy's current device."""
    return CupyDevice(cupy.cuda.runtime.getDevice())


class _Stream:
    """A stream that someone else owns, by CUDA's protocol for such."""

    def __init__(self, pointer: int):
        self.pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


@ft.lru_cache
def _adopted(index: int, stream: int) -> Any:
    """A stream of CuPy's that is someone else's."""
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_Stream(stream))
    return cupy.cuda.ExternalStream(stream, index)  # CuPy 13


@contextmanager
def launching(index: int, stream: int) -> Iterator[CupyDevice]:
    """Launch on GPU ``index``, on the ``cudaStream_t`` that the caller works on."""
    with cupy.cuda.Device(index), _adopted(index, stream):
        yield CupyDevice(index)
