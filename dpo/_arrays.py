"""Any array in, the same kind out, without copies.

Requirements that shaped this file:
* a framework is recognised only if it is already in ``sys.modules``; nothing is ever imported for
  a type test;
* the CPU kernels see NumPy views of the caller's memory; float16 and bfloat16 alone are converted;
* arrays that live elsewhere, or are being traced, get an error that says what to do.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ._checks import check_temperatures

_COMPUTE = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float32,
    "bfloat16": np.float32,
}
_MAX_COORDINATES = 2**31 - 1  # a winner is one int32
_NATIVE = {np.dtype(np.float32), np.dtype(np.float64)}


class Scores(NamedTuple):
    """An array as the kernels take it, and the way back to its own kind."""

    rows: np.ndarray
    """(rows, d), C-contiguous, float32 or float64."""
    shape: tuple[int, ...]
    """The original shape: the batch's, then an instance's."""
    batch: tuple[int, ...]
    """The batch's shape alone."""
    kind: str
    """"numpy", "torch", "jax" or "dlpack"."""
    restore: Callable[[np.ndarray], Any]
    """A NumPy result in the compute dtype, of any shape, as the caller's kind and dtype."""


def as_scores(x: Any, name: str, event_ndim: int = 1) -> Scores:
    """View ``x`` as a batch of rows, its last ``event_ndim`` axes flattened.

    Raises what ``name`` should have been.
    """
    kind = kind_of(x)
    array, restore = _VIEWS[kind](x, name)
    event = array.shape[-event_ndim:]
    d = math.prod(event)
    if array.ndim < event_ndim or d == 0:
        axes = "its last axis" if event_ndim == 1 else f"its last {event_ndim} axes"
        raise ValueError(
            f"{name} must have at least one coordinate on {axes}, got shape {array.shape}"
        )
    if d > _MAX_COORDINATES:
        raise ValueError(f"{name} may have at most 2**31 - 1 coordinates an instance, got {d}")
    batch = array.shape[:-event_ndim]
    rows = np.ascontiguousarray(array).reshape(math.prod(batch), d)
    if (rows != rows).any():
        row, column = np.argwhere(np.isnan(rows))[0]
        raise ValueError(
            f"{name} contains NaN, first at row {row}, coordinate {column} (rows are all leading "
            "axes flattened); mask a score with -inf instead"
        )
    return Scores(rows, array.shape, batch, kind, restore)


def as_companion(x: Any, name: str, like: Scores) -> np.ndarray:
    """A second array (a cotangent, a target) beside ``like``: same kind, broadcast to its shape.

    Unlike scores it may be of integers or booleans: one-hot targets often are.
    """
    array = _beside(x, name, like)
    try:
        array = np.broadcast_to(array, like.shape)
    except ValueError:
        raise ValueError(
            f"{name} must broadcast to theta's shape {like.shape}, got shape {array.shape}"
            + ("; for class labels pass one-hot rows" if name == "y_true" else "")
        ) from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, but it contains NaN or infinity")
    return np.ascontiguousarray(array, dtype=like.rows.dtype).reshape(like.rows.shape)


def as_temperatures(epsilon: Any, like: Scores) -> np.ndarray:
    """``epsilon`` beside ``like``: (rows, 1), or (rows, d) for a temperature a coordinate.

    An array with as many axes as the scores broadcasts against them; one with fewer axes has an
    entry an instance and broadcasts against the batch.
    """
    dtype = like.rows.dtype
    if isinstance(epsilon, float):
        return np.full((len(like.rows), 1), epsilon, dtype)
    array = (
        np.asarray(epsilon) if kind_of(epsilon) == "numpy" else _beside(epsilon, "epsilon", like)
    )
    check_temperatures(array)
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
        return np.ascontiguousarray(whole, dtype).reshape(like.rows.shape)
    if shape == like.shape and event:
        whole = whole.reshape(len(like.rows), math.prod(event))[:, 0]
    return np.ascontiguousarray(whole, dtype).reshape(-1, 1)


def _beside(x: Any, name: str, like: Scores) -> np.ndarray:
    kind = kind_of(x)
    if kind != like.kind:
        raise TypeError(f"{name} is a {kind} array but theta is a {like.kind} array; pass one kind")
    return _VIEWS[kind](_floating(x, kind), name)[0]


def kind_of(x: Any) -> str:
    """Which framework ``x`` belongs to; lists and numbers count as NumPy."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and isinstance(x, torch.Tensor):
        return "torch"
    if jax is not None and isinstance(x, jax.Array):
        return "jax"
    if isinstance(x, (np.ndarray, np.generic, list, tuple, float, int)):
        return "numpy"
    if hasattr(x, "__dlpack__"):
        return "dlpack"
    raise TypeError(f"expected an array (NumPy, torch, JAX or __dlpack__), got {type(x).__name__}")


def _floating(x, kind):
    """``x``, with integers and booleans as floats (exact for every target in use)."""
    if kind == "torch":
        exact = x.is_floating_point() or x.is_complex()
        return x if exact else x.double()
    if kind == "numpy":
        x = np.asarray(x)
    if kind in ("numpy", "jax") and x.dtype.kind in "iub":
        return x.astype(np.float64 if kind == "numpy" else np.float32)
    return x


def _compute_dtype(dtype_name: str, name: str, cast: str) -> type:
    if dtype_name in _COMPUTE:
        return _COMPUTE[dtype_name]
    raise TypeError(
        f"{name} must be float16, bfloat16, float32 or float64, got {dtype_name}; "
        f"cast it first: {cast}"
    )


def _from_numpy(x, name):
    array = np.asarray(x)
    if isinstance(x, (list, tuple, int)) and array.dtype.kind in "iu":
        array = array.astype(np.float64)  # a literal such as [1, 2, 3]
    dtype = array.dtype
    if dtype in _NATIVE:
        return array, lambda out: out[()]
    compute = _compute_dtype(dtype.name, name, f"{name}.astype(numpy.float32)")
    return array.astype(compute), lambda out: out.astype(dtype)[()]


def _from_torch(x, name):
    import torch

    if x.device.type != "cpu":
        raise NotImplementedError(
            f"{name} is on {x.device}; the CUDA kernels are not available yet: pass {name}.cpu()"
        )
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        raise NotImplementedError(
            f"{name} is inside a torch.func transform (grad, vmap, ...), which dpo does not "
            "support yet; use backward(), or .vjp, .jvp and .jacobian"
        )
    dtype = x.dtype
    compute = _compute_dtype(str(dtype).removeprefix("torch."), name, f"{name}.float()")
    view = x.detach()
    if compute is np.float32:
        view = view.float()

    def restore(out):
        return torch.from_numpy(np.require(out, requirements=["C", "W"])).to(dtype)

    return view.numpy(), restore


def _from_jax(x, name):
    import jax

    if isinstance(x, jax.core.Tracer):
        raise NotImplementedError(
            f"{name} is being traced by JAX (jit, grad or vmap), which dpo does not support yet; "
            "call it on concrete arrays, and use .vjp, .jvp or .jacobian for derivatives"
        )
    if any(device.platform != "cpu" for device in x.devices()):
        raise NotImplementedError(
            f"{name} is on an accelerator; the CUDA kernels are not available yet: "
            f"pass jax.device_put({name}, jax.devices('cpu')[0])"
        )
    dtype = x.dtype
    compute = _compute_dtype(dtype.name, name, f"{name}.astype('float32')")
    view = x if dtype.name == np.dtype(compute).name else x.astype(compute)
    # Results narrower than 64 bits keep their type whatever jax_enable_x64 says.
    return np.from_dlpack(view), lambda out: jax.numpy.asarray(out, dtype=dtype)


def _from_dlpack(x, name):
    device = x.__dlpack_device__()[0] if hasattr(x, "__dlpack_device__") else 1
    if int(device) != 1:  # kDLCPU
        raise NotImplementedError(
            f"{name} is not in CPU memory; the CUDA kernels are not available yet: copy it there"
        )
    array = np.from_dlpack(x)
    dtype = array.dtype
    compute = _compute_dtype(dtype.name, name, f"{name} as float32")
    namespace = x.__array_namespace__() if hasattr(x, "__array_namespace__") else None
    back = getattr(namespace, "from_dlpack", lambda out: out)
    return array.astype(compute, copy=False), lambda out: back(out.astype(dtype, copy=False))


_VIEWS: dict[str, Callable[[Any, str], tuple[np.ndarray, Callable]]] = {
    "numpy": _from_numpy,
    "torch": _from_torch,
    "jax": _from_jax,
    "dlpack": _from_dlpack,
}
