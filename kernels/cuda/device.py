"""CuPy as a device to launch on: modules compiled by NVRTC on first use, the caller's stream."""

from __future__ import annotations

import ctypes
import functools as ft
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cupy
import numpy as np

from ..user import Solver
from . import sources, user
from .calls import fields, layout

_PARAMETER_BYTES = 4096
"""The most that a kernel takes."""
_AT, _OF_SIZE, _END = 1, 2, 0
"""What the driver is told next: CU_LAUNCH_PARAM_BUFFER_POINTER, _BUFFER_SIZE and _END."""


@ft.cache
def _function(device: int, source: str, kernel: str) -> Any:
    """A kernel on one GPU, by the whole text that it is compiled from."""
    module = cupy.RawModule(code=source, options=sources.OPTIONS, name_expressions=(kernel,))
    return Launcher(module.get_function(kernel))


@ft.cache
def _linked(device: int, kernel: str, solver: Solver) -> Any:
    """A kernel on one GPU with a user's function in it."""
    capability = cupy.cuda.Device(device).compute_capability  # "90", "120"
    cubin, name = user.linked(solver, kernel, (int(capability[:-1]), int(capability[-1])))
    module = cupy.cuda.function.Module()
    module.load(cubin)
    return Launcher(module.get_function(name))


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
def _flag(device: int, thread: int) -> HostFlag:
    return HostFlag(device)


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

    def flag(self) -> HostFlag:
        return _flag(self.index, threading.get_ident())

    def function(self, file: str, kernel: str) -> Any:
        return self.compiled(sources.expanded(file), kernel)

    def compiled(self, source: str, kernel: str) -> Any:
        """A kernel of any text."""
        return _function(self.index, source, kernel)

    def linked(self, kernel: str, solver: Solver) -> Any:
        return _linked(self.index, kernel, solver)


class _Parameters(threading.local):
    """Where a thread puts the parameters of a kernel; the driver copies them at the launch."""

    def __init__(self):
        self.content = ctypes.create_string_buffer(_PARAMETER_BYTES)
        self.size = ctypes.c_size_t()
        content, size = ctypes.addressof(self.content), ctypes.addressof(self.size)
        self._extra = (ctypes.c_void_p * 5)(_AT, content, _OF_SIZE, size, _END)
        self.address = ctypes.addressof(self._extra)


_parameters = _Parameters()


class Launcher:
    """A compiled kernel. It is handed the bytes of its parameters, in one piece, by the driver's
    own call, which takes a third of the time of CuPy's: that looks at every argument."""

    def __init__(self, compiled: Any):
        self._compiled = compiled  # or its module would be unloaded
        self._handle = getattr(compiled, "kernel", compiled).ptr
        self._layout: Any = None
        self._addresses: Sequence[int] = ()
        """Which fields are those of arrays."""

    def __call__(self, grid: tuple[int], block: tuple[int], arguments: Sequence[Any]) -> None:
        values = fields(arguments)
        if self._layout is None:
            self._addresses = [k for k, x in enumerate(values) if not isinstance(x, np.generic)]
            self._layout = layout(arguments)
        for k in self._addresses:
            values[k] = 0 if values[k] is None else values[k].data.ptr
        parameters = _parameters
        self._layout.pack_into(parameters.content, 0, *values)
        parameters.size.value = self._layout.size
        stream = cupy.cuda.get_current_stream().ptr
        cupy.cuda.driver.launchKernel(
            self._handle, grid[0], 1, 1, block[0], 1, 1, 0, stream, 0, parameters.address
        )


class HostFlag:
    """``calls.Flag`` in the host's own memory, which kernels reach: it is read without a copy."""

    def __init__(self, device: int):
        memory = cupy.cuda.alloc_pinned_memory(4)
        self._word = np.frombuffer(memory, np.int32, 1)
        self._word[0] = 0
        unowned = cupy.cuda.UnownedMemory(memory.ptr, 4, memory, device)
        self.array = cupy.ndarray(1, np.int32, cupy.cuda.MemoryPointer(unowned, 0))

    def raised(self) -> bool:
        cupy.cuda.get_current_stream().synchronize()
        if not self._word[0]:
            return False
        self._word[0] = 0
        return True


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
