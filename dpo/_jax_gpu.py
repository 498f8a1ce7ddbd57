"""Layers inside JAX programs on a GPU: CUDA kernels on XLA's stream, in XLA's memory.

XLA calls back with its buffers and its stream when it reaches the operation. CuPy borrows the
buffers where they are, kernels are launched on the stream, and results are written in place; the
program goes on without waiting for them. The host waits once, to read the seed and the offsets,
which travel to kernels as arguments. Half precision is converted by XLA, on the way in and out.

Without a GPU it is tested on the simulator of the CUDA kernels, with buffers of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from ._arrays import borrowed, compute_dtype
from ._device import as_host, beside, require_cupy


def in_buffers(
    run: Callable[..., Sequence], results: Sequence, theta, seeds, offsets, epsilon, *arrays
):
    """``run`` of the operands, on the device that holds them; ``results`` have shape and dtype."""
    compute = np.dtype(compute_dtype(theta.dtype.name, "theta", "theta.astype('float32')"))

    def computed(dtype) -> np.dtype:
        return compute if dtype == theta.dtype else dtype

    def placed(theta, seeds, offsets, *arrays):
        return run(theta, as_host(seeds), as_host(offsets), *arrays)

    theta, *beside_it = (x.astype(compute) for x in (theta, epsilon, *arrays))
    types = [jax.ShapeDtypeStruct(r.shape, computed(r.dtype)) for r in results]
    outputs = called_in_buffers(placed, types, theta, seeds, offsets, *beside_it)
    return [x.astype(r.dtype) for x, r in zip(outputs, results, strict=True)]


def called_in_buffers(fun: Callable[..., Sequence], results: Sequence, *operands):
    """``fun`` of the operands as CuPy's arrays; what it returns is of the shapes and dtypes of
    ``results``."""

    def call(context, buffers, *operands) -> None:
        require_cupy("theta", "a GPU")
        from .kernels.cuda.device import launching

        device = operands[0].__dlpack_device__()[1]
        with launching(device, _stream(context)):
            views = [_view(x, device) for x in operands]
            for buffer, output in zip(buffers, fun(*views), strict=True):
                _copy(_view(buffer, device), beside(output, views[0]))

    shapes = [jax.ShapeDtypeStruct(r.shape, r.dtype) for r in results]
    return buffer_callback(call, shapes)(*operands)


def _view(buffer: Any, device: int) -> Any:
    """A buffer of XLA's as an array of CuPy's, in a third of the time of ``cupy.asarray``."""
    interface = buffer.__cuda_array_interface__
    pointer, dtype = interface["data"][0], np.dtype(interface["typestr"])
    return borrowed(pointer, interface["shape"], dtype, buffer, device)


def _copy(result: Any, output: Any) -> None:
    """Into a buffer, on the stream."""
    if output.dtype != result.dtype or not output.flags.c_contiguous:
        result[...] = output
    elif result.nbytes:
        result.data.copy_from_device_async(output.data, result.nbytes)


def _stream(context: Any) -> int:
    """XLA's ``cudaStream_t``."""
    return int(context.stream)
