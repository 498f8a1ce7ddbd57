"""NumPy or CuPy: which module, which kernels, and whose stream.

Arrays of this library's own are NumPy's on the CPU and CuPy's on a GPU, whatever framework they
came from (``_arrays.py``). NumPy's functions dispatch on either; what makes a new array asks
``namespace`` for the module. CuPy is imported only once an array on a GPU has been seen.
"""

from __future__ import annotations

import functools as ft
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

_CPU, _CUDA = 1, 2  # device types of DLPack


def namespace(array: Any) -> Any:
    """The module of an array: ``numpy`` or ``cupy``."""
    if type(array) is np.ndarray:
        return np
    return sys.modules[type(array).__module__.partition(".")[0]]


def is_host(array: Any) -> bool:
    """Whether an array is NumPy's."""
    return type(array) is np.ndarray


def as_host(array: Any) -> np.ndarray:
    """An array as NumPy's; copied from a GPU, after the work on its stream."""
    return np.asarray(array) if isinstance(array, (np.ndarray, np.generic)) else array.get()


def beside(array: Any, like: Any) -> Any:
    """A NumPy array as one of ``like``'s module; any other as it is."""
    return array if is_host(like) or not is_host(array) else namespace(like).asarray(array)


def take(array: Any, index: np.ndarray) -> Any:
    """``array[index]``, wherever the array is."""
    return array[namespace(array).asarray(index)]


def divided(x: Any, divisor: float) -> Any:
    """``x / divisor``, (rows, d) float64; counts take half of NumPy's time, a quarter of CuPy's."""
    return kernels(x).divided(x, divisor, np.float64)


def rounded(x: Any, dtype: Any) -> Any:
    """A new array of the numbers of ``x`` as float32 or float64."""
    return x.astype(dtype) if is_host(x) else _device_kernels().divided(x, 1, dtype)


@ft.cache
def _host_kernels():
    """The CPU kernels; importing them imports Numba, so not before the first call."""
    from .kernels.cpu import launch

    return launch


@ft.cache
def _device_kernels():
    from .kernels.cuda import launch

    return launch


def kernels(array: Any) -> Any:
    """The module that launches kernels on ``array``."""
    return _host_kernels() if is_host(array) else _device_kernels()


def require_cupy(name: str, place: str) -> Any:
    """CuPy, or an error that says how to get it."""
    try:
        import cupy
    except ImportError:
        raise ImportError(
            f"{name} is on {place}, and the CUDA kernels are launched through CuPy, which is not "
            "installed: pip install 'perturbed-optimizers[cuda13]' (cuda12 for CUDA 12), or pass "
            "an array in CPU memory"
        ) from None
    return cupy


def launching_on(x: Any, kind: str) -> AbstractContextManager:
    """The GPU and the stream that ``x``'s framework works on; nothing for arrays on the CPU."""
    if kind == "torch" and x.device.type == "cuda":
        import torch

        require_cupy("theta", str(x.device))
        # torch.cuda.current_stream(x.device).cuda_stream, in a twentieth of its time.
        stream = torch._C._cuda_getCurrentRawStream(x.device.index)
        from .kernels.cuda.device import launching

        return launching(x.device.index, stream)
    if kind == "cupy":
        return x.device
    if kind in ("jax", "dlpack"):
        return _gpu_of(x)
    return nullcontext()


def _gpu_of(x: Any) -> AbstractContextManager:
    """The GPU of an array by DLPack; its producer orders the streams."""
    if hasattr(x, "devices") and len(x.devices()) > 1:
        return nullcontext()  # sharded: refused where it is viewed
    kind, index = x.__dlpack_device__() if hasattr(x, "__dlpack_device__") else (_CPU, 0)
    return require_cupy("theta", "a GPU").cuda.Device(index) if kind == _CUDA else nullcontext()
