"""Where the estimators under test run: NumPy arrays on the CPU, or CuPy's on a CUDA GPU.

The suite computes in NumPy; only what it hands to the library is moved, and what comes back is.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

BACKENDS = ("cpu", "cuda")
_current = contextvars.ContextVar("backend", default="cpu")


@contextlib.contextmanager
def running_on(backend: str) -> Iterator[None]:
    """Estimators drawn inside run there."""
    token = _current.set(backend)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> str:
    """The backend of what is drawn now."""
    return _current.get()


def put(array: np.ndarray) -> Any:
    """The array where the current backend wants it."""
    if _current.get() == "cpu":
        return array
    import cupy

    return cupy.asarray(array)


def host(array: Any) -> np.ndarray:
    """The same in NumPy, from any framework."""
    if type(array).__module__.startswith("cupy"):
        return array.get()
    return np.asarray(array.detach() if hasattr(array, "detach") else array)


def call(method: Callable, *arrays: np.ndarray, **parameters) -> np.ndarray:
    """The method of a layer on the current backend, NumPy arrays in and out."""
    return host(method(*map(put, arrays), **parameters))


def missing(backend: str) -> str:
    """Why the backend cannot run here, and how it could; empty if it can."""
    if backend == "cpu":
        return ""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed: pip install 'perturbed-optimizers[cuda13]' (or cuda12)"
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CUDA does not start: {error}"
    return "" if count else "there is no CUDA GPU on this machine"
