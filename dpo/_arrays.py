"""Any array in, the same kind out, without copies.

Requirements that shaped this file:
* a framework is recognised only if it is already in ``sys.modules``; nothing is ever imported for
  a type test;
* kernels see NumPy or CuPy views of the caller's memory; float16 and bfloat16 alone are converted;
* results are allocated by the caller's framework where it has its own memory pool on the GPU;
* arrays that live elsewhere get an error that says what to do.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ._checks import HIGHEST, LOWEST, check_temperatures
from ._device import as_host, beside, is_host, kernels, namespace, require_cupy, rounded

_COMPUTE = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float32,
    "bfloat16": np.float32,
}
_DL_CPU, _DL_CUDA = 1, 2  # device types of DLPack
_MAX_COORDINATES = 2**31 - 2**10  # a winner is one int32, and so is the end of a loop's last step
_NATIVE = {np.dtype(np.float32), np.dtype(np.float64)}


class Scores(NamedTuple):
    """An array as the kernels take it, and the way back to its own kind."""

    rows: Any
    """(rows, d), C-contiguous, float32 or float64: NumPy's or CuPy's."""
    shape: tuple[int, ...]
    """The original shape: the batch's, then an instance's."""
    batch: tuple[int, ...]
    """The batch's shape alone."""
    kind: str
    """"numpy", "cupy", "torch", "jax" or "dlpack"."""
    restore: Callable[[Any], Any]
    """A result of reals, of any shape, as a new array of the caller's kind and dtype; rounded to
    the compute dtype first."""


def as_scores(x: Any, name: str, event_ndim: int = 1) -> Scores:
    """View ``x`` as a batch of rows, its last ``event_ndim`` axes flattened.

    Raises what ``name`` should have been.
    """
    kind = kind_of(x, name)
    array, restore = _VIEWS[kind](x, name)
    event = array.shape[-event_ndim:]
    d = math.prod(event)
    if array.ndim < event_ndim or d == 0:
        axes = "its last axis" if event_ndim == 1 else f"its last {event_ndim} axes"
        raise ValueError(
            f"{name} must have at least one coordinate on {axes}, got shape {array.shape}"
        )
    if d > _MAX_COORDINATES:
        raise ValueError(f"{name} may have at most 2**31 - 1024 coordinates an instance, got {d}")
    batch = array.shape[:-event_ndim]
    rows = namespace(array).ascontiguousarray(array).reshape(math.prod(batch), d)
    if _has_nan(rows):
        place = tuple(np.argwhere(np.isnan(as_host(array)))[0].tolist())
        raise ValueError(f"{name} contains NaN, first at index {place}; {INSTEAD_OF_NAN}")
    return Scores(rows, array.shape, batch, kind, restore)


INSTEAD_OF_NAN = "to rule something out, a score is -inf, and a cost, or a cell of a map, +inf"

_device_checks = True


def set_device_checks(enabled: bool) -> None:
    """Whether scores and directions on a GPU are searched for NaN and infinity (the default).

    Every call then waits until the GPU has reached it, to know. Without, calls only enqueue work,
    as torch's own do, and what they return for NaN means nothing. Raises ``TypeError`` unless
    ``enabled`` is True or False. Arrays on the CPU are always searched.
    """
    global _device_checks
    if not isinstance(enabled, bool):
        raise TypeError(f"enabled must be True or False, got {enabled!r}")
    _device_checks = enabled


def get_device_checks() -> bool:
    """What ``set_device_checks`` was told last."""
    return _device_checks


def _has_nan(rows: Any) -> bool:
    return (is_host(rows) or _device_checks) and kernels(rows).has_nan(rows)


def all_finite(rows: Any) -> bool:
    """Whether no entry is NaN or infinite, as far as that is searched for."""
    return not (is_host(rows) or _device_checks) or kernels(rows).all_finite(rows)


def as_companion(x: Any, name: str, like: Scores, of: str = "theta") -> np.ndarray:
    """A second array (a cotangent, a target) beside ``like``: same kind, broadcast to its shape.

    Unlike scores it may be of integers or booleans: one-hot targets often are.
    """
    array = _beside(x, name, like)
    if name == "y_true" and _is_integer(x):
        refuse_labels(like.kind, array.ndim, like.shape)
    try:
        if array.shape != like.shape:
            array = np.broadcast_to(array, like.shape)
    except ValueError:
        raise ValueError(
            f"{name} must broadcast to {of}'s shape {like.shape}, got shape {array.shape}"
        ) from None
    rows = _contiguous(array, like.rows.dtype).reshape(like.rows.shape)
    if not all_finite(rows):
        raise ValueError(f"{name} must be finite, but it contains NaN or infinity")
    return rows


def refuse_labels(kind: str, ndim: int, shape: tuple[int, ...]) -> None:
    """Raise where integers have fewer axes than scores of that ``shape``: they may be class labels,
    which are no targets."""
    if ndim >= len(shape):
        return
    one_hot = {
        "torch": f"torch.nn.functional.one_hot(y_true, {shape[-1]})",
        "jax": f"jax.nn.one_hot(y_true, {shape[-1]})",
    }.get(kind, f"numpy.eye({shape[-1]})[y_true]")
    raise ValueError(
        f"y_true must be solutions, of theta's shape {shape}, got integers with {ndim} axes: of "
        f"class labels pass one-hot rows, {one_hot}; one solution for all is y_true[None]"
    )


def _is_integer(x: Any) -> bool:
    dtype = x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype
    return str(dtype).removeprefix("torch.").startswith(("int", "uint"))


def as_temperatures(epsilon: Any, like: Scores) -> np.ndarray:
    """``epsilon`` beside ``like``: (rows, 1), or (rows, d) for a temperature a coordinate.

    An array with as many axes as the scores broadcasts against them; one with fewer axes has an
    entry an instance and broadcasts against the batch.
    """
    if isinstance(epsilon, float):
        shape, dtype = (len(like.rows), 1), like.rows.dtype
        if is_host(like.rows):
            return np.full(shape, epsilon, dtype)
        return kernels(like.rows).filled(shape, epsilon, dtype.type)
    if kind_of(epsilon) == "numpy":
        array = beside(np.asarray(epsilon), like.rows)
    else:
        array = _beside(epsilon, "epsilon", like)
    if not _are_temperatures(array):
        check_temperatures(array)  # says what is wrong
    return spread(array, like)


def _are_temperatures(array: Any) -> bool:
    """Whether one launch says that all are; False leaves it open."""
    if is_host(array) or array.dtype not in _NATIVE:
        return False
    whole = namespace(array).ascontiguousarray(array)
    return kernels(whole).all_within(whole, LOWEST, HIGHEST)


def spread(array: Any, like: Scores) -> Any:
    """An array of temperatures, or of what they move by, as rows: (rows, 1) or (rows, d)."""
    dtype = like.rows.dtype
    shape = like.shape if array.ndim == len(like.shape) else like.batch
    try:
        whole = np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"epsilon must be one number, or broadcast to the batch {like.batch}, or have as many "
            f"axes as theta and broadcast to its shape {like.shape}; got shape {array.shape}"
        ) from None
    event = like.shape[len(like.batch) :]
    if shape == like.shape and array.shape[-len(event) :] != (1,) * len(event):
        return _contiguous(whole, dtype).reshape(like.rows.shape)
    if shape == like.shape and event:
        whole = whole.reshape(len(like.rows), math.prod(event))[:, 0]
    return _contiguous(whole, dtype).reshape(-1, 1)


def _contiguous(array: Any, dtype: np.dtype) -> Any:
    return namespace(array).ascontiguousarray(array, dtype=dtype)


def _beside(x: Any, name: str, like: Scores) -> np.ndarray:
    kind = kind_of(x, name)
    if kind != like.kind:
        raise TypeError(other_kind(x, name, like.kind))
    array = _VIEWS[kind](_floating(x, kind), name)[0]
    if is_host(array) != is_host(like.rows):
        raise TypeError(f"{name} and theta must be on one device; move {name} to theta's")
    return array


def other_kind(x: Any, name: str, theta: str) -> str:
    """What to say of ``x``, which is of another framework than theta."""
    kind = type(x).__name__ if isinstance(x, (list, tuple, float, int)) else kind_of(x, name)
    kind = f"{kind} array" if kind in _VIEWS else kind
    return f"{name} is a {kind} but theta is a {theta} array: pass {name} as that, too"


def kind_of(x: Any, name: str = "theta") -> str:
    """Which framework ``x`` belongs to; lists and numbers count as NumPy."""
    if type(x) is np.ndarray:
        return "numpy"
    torch, jax, cupy = (sys.modules.get(name) for name in ("torch", "jax", "cupy"))
    if torch is not None and isinstance(x, torch.Tensor):
        return "torch"
    if jax is not None and isinstance(x, jax.Array):
        return "jax"
    if isinstance(x, (np.ndarray, np.generic, list, tuple, float, int)):
        return "numpy"
    if cupy is not None and isinstance(x, cupy.ndarray):
        return "cupy"
    if hasattr(x, "__dlpack__"):
        return "dlpack"
    hint = f": pass {name}.to_numpy()" if hasattr(x, "to_numpy") else ""
    raise TypeError(
        f"{name} must be an array (NumPy, CuPy, torch, JAX or __dlpack__), got "
        f"{type(x).__name__}{hint}"
    )


def _floating(x, kind):
    """``x``, with integers and booleans as floats (exact for every target in use)."""
    if kind == "torch":
        exact = x.is_floating_point() or x.is_complex()
        return x if exact else x.double()
    if kind == "numpy":
        x = np.asarray(x)
    if kind == "jax" and x.dtype.kind in "iub":
        with sys.modules["jax"].ensure_compile_time_eval():
            return x.astype(np.float32)
    if kind in ("numpy", "cupy") and x.dtype.kind in "iub":
        return x.astype(np.float64)
    return x


def compute_dtype(dtype_name: str, name: str, cast: str) -> type:
    """What kernels compute in, for a dtype; otherwise the error names the cast."""
    if dtype_name in _COMPUTE:
        return _COMPUTE[dtype_name]
    raise TypeError(
        f"{name} must be float16, bfloat16, float32 or float64, got {dtype_name}; "
        f"cast it first: {cast}"
    )


def _from_numpy(x, name):
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} has a mask, which would be lost: {INSTEAD_OF_NAN}")
    array = np.asarray(x)
    if isinstance(x, (list, tuple, int)) and array.dtype.kind in "iu":
        array = array.astype(np.float64)  # a literal such as [1, 2, 3]
    dtype = array.dtype
    if dtype in _NATIVE:
        return array, lambda out: out.astype(dtype)[()]
    compute = compute_dtype(dtype.name, name, f"{name}.astype(numpy.float32)")
    return array.astype(compute), lambda out: out.astype(compute).astype(dtype)[()]


def _cast(array, dtype):
    """An array of that type: the same, if it is."""
    return array if array.dtype == dtype else array.astype(dtype)


def _from_cupy(x, name):
    dtype = x.dtype
    compute = compute_dtype(dtype.name, name, f"{name}.astype('float32')")
    view = _cast(x, compute)
    return view, lambda out: _cast(rounded(beside(out, x), compute), dtype)


def _from_torch(x, name):
    import torch

    if x.device.type not in ("cpu", "cuda"):
        raise NotImplementedError(
            f"{name} is on {x.device}: kernels are for the CPU and CUDA, pass {name}.cpu()"
        )
    dtype = x.dtype
    compute = compute_dtype(str(dtype).removeprefix("torch."), name, f"{name}.float()")
    view = x.detach()
    if compute is np.float32 and dtype is not torch.float32:
        view = view.float()

    if x.device.type == "cuda":
        require_cupy(name, str(x.device))
        on_device = view_on_device(view)

        def restore_device(out):
            result = torch.empty(out.shape, dtype=view.dtype, device=x.device)
            out = beside(out, on_device)
            kernels(out).divided(out, 1, compute, view_on_device(result))
            return result if result.dtype is dtype else result.to(dtype)

        return on_device, restore_device

    def restore(out):
        result = torch.from_numpy(owned(out.astype(compute)))
        return result if result.dtype is dtype else result.to(dtype)

    return view.numpy(), restore


def view_on_device(x: Any) -> Any:
    """A torch tensor on a GPU, of float32 or float64, as an array of CuPy's.

    As ``cupy.from_dlpack``, in a quarter of its time: launches go to torch's own stream, so there
    is none to wait for.
    """
    size = x.element_size()
    strides = None if x.is_contiguous() else [size * s for s in x.stride()]
    dtype = np.float64 if size == 8 else np.float32
    return borrowed(x.data_ptr(), x.shape, dtype, x, x.device.index, strides)


def borrowed(
    pointer: int, shape: Sequence[int], dtype: Any, owner: Any, device: int, strides: Any = None
) -> Any:
    """Memory of ``owner`` on a GPU as an array of CuPy's, which keeps its owner alive."""
    import cupy

    if 0 in shape:
        return cupy.empty(tuple(shape), dtype)
    size = np.dtype(dtype).itemsize
    if strides is None:
        span = size * math.prod(shape)
    else:
        span = size + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    memory = cupy.cuda.UnownedMemory(pointer, span, owner, device)
    return cupy.ndarray(tuple(shape), dtype, cupy.cuda.MemoryPointer(memory, 0), strides)


def owned(array: np.ndarray) -> np.ndarray:
    """An array that torch can share: C-contiguous and writable, copied only if it is not."""
    flags = array.flags
    return array if flags.c_contiguous and flags.writeable else np.array(array, order="C")


def _from_jax(x, name):
    import jax

    platforms = {device.platform for device in x.devices()}
    if not platforms <= {"cpu", "gpu"} or len(x.devices()) > 1:
        raise NotImplementedError(
            f"{name} must be on one CPU or one CUDA device, it is on {x.devices()}: "
            f"pass jax.device_put({name}, jax.devices('cpu')[0])"
        )
    dtype = x.dtype
    compute = compute_dtype(dtype.name, name, f"{name}.astype('float32')")
    with jax.ensure_compile_time_eval():  # a constant of a function being compiled stays one
        view = x if dtype.name == np.dtype(compute).name else x.astype(compute)
    if platforms == {"gpu"}:
        view = require_cupy(name, "a GPU").from_dlpack(view)
        to_jax = jax.dlpack.from_dlpack
        return view, lambda out: to_jax(rounded(beside(out, view), compute)).astype(dtype)
    # Results narrower than 64 bits keep their type whatever jax_enable_x64 says.
    return np.from_dlpack(view), lambda out: jax.numpy.asarray(out.astype(compute), dtype=dtype)


def _from_dlpack(x, name):
    device = int(x.__dlpack_device__()[0]) if hasattr(x, "__dlpack_device__") else _DL_CPU
    if device not in (_DL_CPU, _DL_CUDA):
        raise NotImplementedError(f"{name} is neither in CPU nor in CUDA memory: copy it there")
    module = np if device == _DL_CPU else require_cupy(name, "a GPU")
    array = module.from_dlpack(x)
    dtype = array.dtype
    compute = compute_dtype(dtype.name, name, f"{name} as float32")
    namespace = x.__array_namespace__() if hasattr(x, "__array_namespace__") else None
    back = getattr(namespace, "from_dlpack", lambda out: out)
    view = _cast(array, compute)
    return view, lambda out: back(_cast(rounded(beside(out, view), compute), dtype))


_VIEWS: dict[str, Callable[[Any, str], tuple[np.ndarray, Callable]]] = {
    "numpy": _from_numpy,
    "cupy": _from_cupy,
    "torch": _from_torch,
    "jax": _from_jax,
    "dlpack": _from_dlpack,
}
