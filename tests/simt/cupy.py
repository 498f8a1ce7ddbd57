"""A stand-in for CuPy, so that the whole API runs on the simulator.

Its arrays live in host memory but behave as if they did not: they never become NumPy arrays unless
asked by ``get``, and functions that are given both kinds refuse, as CuPy's do. So code that works
here keeps the two apart.
"""

from __future__ import annotations

import sys
import types
from contextlib import nullcontext
from typing import Any

import numpy as np

from . import Flag, Simulator

COPIES: list[str] = []
"""Every copy between host and device, and so every wait of one for the other."""


CALLS: list[str] = []
"""Every function that is called on arrays, by name."""


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that only this module's functions may touch."""

    device = nullcontext()

    def __init__(self, memory: np.ndarray):
        self.memory = memory

    def get(self) -> np.ndarray:
        COPIES.append("from the device")
        return self.memory.copy()

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc, method, *inputs, **parameters):
        return _call(getattr(ufunc, method), *inputs, **parameters)

    def __array_function__(self, function, types, args, parameters):
        return _call(function, *args, **parameters)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # __array_interface__ would be a way around
            raise AttributeError(name)
        attribute = getattr(self.memory, name)
        if not callable(attribute):
            return _wrap(attribute)
        return lambda *args, **parameters: _call(attribute, *args, **parameters)

    def __getitem__(self, index):
        return _call(self.memory.__getitem__, index)

    def __setitem__(self, index, value):
        _call(self.memory.__setitem__, index, value)

    def __len__(self):
        return len(self.memory)

    def __bool__(self):
        return bool(self.get())

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    def __dlpack__(self, **parameters):
        return self.memory.__dlpack__(**parameters)

    def __dlpack_device__(self):
        return self.memory.__dlpack_device__()


def _wrap(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_wrap, value)) if type(value) is tuple else value
    if isinstance(value, list):
        return list(map(_wrap, value))
    return ndarray(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic)) else value


def _unwrap(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value.memory
    if isinstance(value, (tuple, list)):
        return type(value)(map(_unwrap, value))
    if isinstance(value, np.ndarray) and value.ndim > 0:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return value


def _call(function, *args, **parameters):
    CALLS.append(function.__name__)
    args = [_unwrap(a) for a in args]
    return _wrap(function(*args, **{k: _unwrap(v) for k, v in parameters.items()}))


def module(device: Device) -> types.ModuleType:
    """A module to stand for ``cupy`` in ``sys.modules``."""
    fake = types.ModuleType("cupy")
    fake.ndarray = ndarray
    fake.asarray = _asarray
    fake.cuda = types.SimpleNamespace(Device=nullcontext)
    fake.from_dlpack = lambda x: ndarray(np.from_dlpack(x))
    fake.empty = lambda shape, dtype=float: ndarray(device.simulator.xp.empty(shape, dtype))
    fake.__getattr__ = _function
    return fake


def _asarray(x: Any, dtype: Any = None) -> ndarray:
    if isinstance(x, np.ndarray):
        COPIES.append("to the device")
    return ndarray(np.array(getattr(x, "memory", x), dtype))


def _function(name: str) -> Any:
    """NumPy's of that name, for these arrays."""
    function = getattr(np, name)
    if not callable(function) or isinstance(function, type):
        return function
    return lambda *args, **parameters: _call(function, *args, **parameters)


class Device:
    """The simulator, with these arrays in and out."""

    capturing = False

    def __init__(self, seed: int = 0):
        self.simulator = Simulator(seed)
        self.xp = module(self)
        self._constants: dict[bytes, ndarray] = {}
        self._flag = Flag(ndarray(np.zeros(1, np.int32)))

    def constant(self, values: np.ndarray) -> ndarray:
        content = values.tobytes()
        if content not in self._constants:
            self._constants[content] = self.xp.asarray(values)
        return self._constants[content]

    def filled(self, shape: tuple[int, ...], value: float, dtype: type) -> ndarray:
        return self.xp.full(shape, value, dtype)

    def flag(self) -> Flag:
        return self._flag

    def function(self, file: str, kernel: str):
        return _launcher(self.simulator.function(file, kernel))

    def linked(self, kernel: str, solver: Any):
        return _launcher(self.simulator.linked(kernel, solver))


def _launcher(compiled: Any):
    return lambda grid, block, arguments: compiled(grid, block, [_unwrap(a) for a in arguments])


def stand_in(device, monkeypatch):
    """Let the simulated device be CuPy's current one."""
    monkeypatch.setitem(sys.modules, "cupy", device.xp)
    current = types.ModuleType("dpo.kernels.cuda.device")
    current.current = lambda: device
    monkeypatch.setitem(sys.modules, "dpo.kernels.cuda.device", current)


def stand_in_for_programs(device, monkeypatch, launching):
    """The same inside JAX programs, in buffers of the CPU; ``launching(index, stream)`` is entered
    around every callback."""

    def copy(result, output):
        assert result.shape == output.shape
        result[...] = output

    stand_in(device, monkeypatch)
    monkeypatch.setattr(sys.modules["dpo.kernels.cuda.device"], "launching", launching, False)
    monkeypatch.setattr("dpo._jax_gpu._stream", lambda context: 7)
    monkeypatch.setattr("dpo._jax_gpu._view", lambda x, _: ndarray(np.asarray(x)))
    monkeypatch.setattr("dpo._jax_gpu._copy", copy)


ndarray.__module__ = "cupy"
