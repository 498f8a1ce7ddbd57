"""XLA's foreign function interface: how a call is laid out in memory, and registration.

XLA calls a handler with the address of a ``CallFrame`` and takes back the address of an error, or
0. The records below are those of ``xla/ffi/api/c_api.h``, version 0.x: a new major version may move
fields, a new minor one only appends them. Each begins with its size. Python reads them through
ctypes; compiled handlers (``_jax_cpu.py``) read the same memory as arrays of ``WORD``-byte
integers, at the indices that ``at`` gives.

**The version is checked at registration.** XLA then calls the handler with a ``MetadataExtension``,
to be told which version it was written for. A handler answers with XLA's own version if that is one
described here (``MAJOR``, and a frame and a table of functions no smaller than these); else it does
not answer, XLA refuses it, and ``register`` returns False.
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from typing import Any

import jax
import numpy as np

WORD = 8
MAJOR = 0
INVALID_ARGUMENT = 3

_HEAD: list[Any] = [("struct_size", c_size_t), ("extension", c_void_p)]


class Version(Structure):
    """Of the interface; what a handler is asked for."""

    _fields_ = [*_HEAD, ("major", c_int), ("minor", c_int)]


class Metadata(Structure):
    """What XLA asks a handler when it is registered."""

    _fields_ = [("struct_size", c_size_t), ("version", Version), ("traits", c_uint32)]


class MetadataExtension(Structure):
    """The extension of a frame that asks instead of calling."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("type", c_int),
        ("next", c_void_p),
        ("metadata", c_void_p),
    ]


class Buffer(Structure):
    """An operand or a result, row-major; ``dtype`` is a key of ``DTYPES``."""

    _fields_ = [
        *_HEAD, ("dtype", c_int), ("data", c_void_p), ("rank", c_int64), ("dims", c_void_p),
    ]  # fmt: skip


class Values(Structure):
    """Operands, or results: addresses of ``size`` buffers."""

    _fields_ = [*_HEAD, ("size", c_int64), ("types", c_void_p), ("values", c_void_p)]


class Attributes(Structure):
    """Constants of the call, sorted by name; here one, an array."""

    _fields_ = [
        *_HEAD, ("size", c_int64), ("types", c_void_p), ("names", c_void_p), ("values", c_void_p),
    ]  # fmt: skip


class Constants(Structure):
    """An attribute that is an array."""

    _fields_ = [("dtype", c_int), ("size", c_size_t), ("data", c_void_p)]


class CallFrame(Structure):
    """One call."""

    _fields_ = [
        *_HEAD, ("api", c_void_p), ("context", c_void_p), ("stage", c_int), ("operands", Values),
        ("results", Values), ("attributes", Attributes),
    ]  # fmt: skip


class Api(Structure):
    """XLA's functions. Each takes the address of a record of its arguments, and those that can fail
    return the address of an error."""

    _fields_ = [
        *_HEAD,
        ("version", Version),
        ("internal", c_void_p),
        ("create_error", c_void_p),
        ("error_message", c_void_p),
        ("destroy_error", c_void_p),
        ("register_handler", c_void_p),
        ("get_stream", c_void_p),
        ("register_type", c_void_p),
        ("get_context", c_void_p),
        ("set_state", c_void_p),
        ("get_state", c_void_p),
        ("allocate", c_void_p),
        ("free", c_void_p),
        ("schedule", c_void_p),
        ("num_threads", c_void_p),
    ]


class Error(Structure):
    """Arguments of ``create_error``."""

    _fields_ = [*_HEAD, ("message", c_char_p), ("code", c_int)]


class DestroyError(Structure):
    """Arguments of ``destroy_error``."""

    _fields_ = [*_HEAD, ("error", c_void_p)]


class NumThreads(Structure):
    """Arguments of ``num_threads``, which writes an int64 where ``result`` says."""

    _fields_ = [*_HEAD, ("context", c_void_p), ("result", c_void_p)]


class Schedule(Structure):
    """Arguments of ``schedule``: a thread of XLA's will call ``task(data)``."""

    _fields_ = [*_HEAD, ("context", c_void_p), ("task", c_void_p), ("data", c_void_p)]


DTYPES: dict[int, np.dtype] = {
    4: np.dtype(np.int32),
    5: np.dtype(np.int64),
    8: np.dtype(np.uint32),
    9: np.dtype(np.uint64),
    11: np.dtype(np.float32),
    12: np.dtype(np.float64),
}
"""By ``XLA_FFI_DataType``: the types that handlers take."""


def at(structure: Any, *fields: str) -> int:
    """The index, in words, of a field of a field of a record."""
    offset = 0
    for name in fields:
        offset += getattr(structure, name).offset
        structure = dict(structure._fields_)[name]
    return offset // WORD


def operands(frame: int) -> list[np.ndarray]:
    """The operands of a call, as views."""
    return _views(CallFrame.from_address(frame).operands)


def results(frame: int) -> list[np.ndarray]:
    """Where the results of a call go."""
    return _views(CallFrame.from_address(frame).results)


def _views(values) -> list[np.ndarray]:
    addresses = (c_void_p * values.size).from_address(values.values)
    return [_view(Buffer.from_address(address)) for address in addresses]


def _view(buffer: Buffer) -> np.ndarray:
    shape = tuple((c_int64 * buffer.rank).from_address(buffer.dims)) if buffer.rank else ()
    dtype = DTYPES[buffer.dtype]
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(
        memoryview((ctypes.c_char * size).from_address(buffer.data)), dtype
    ).reshape(shape)


def constants(frame: int) -> np.ndarray:
    """The one attribute of a call, an array of int64."""
    (address,) = (c_size_t * 1).from_address(CallFrame.from_address(frame).attributes.values)
    array = Constants.from_address(address)
    return np.frombuffer((c_int64 * array.size).from_address(array.data), np.int64)


def error(frame: int, message: str) -> int:
    """An error for a handler to return; XLA copies the message and owns the error."""
    api = Api.from_address(CallFrame.from_address(frame).api)
    create = ctypes.CFUNCTYPE(c_void_p, c_void_p)(api.create_error)
    arguments = Error(ctypes.sizeof(Error), None, message.encode(), INVALID_ARGUMENT)
    return create(ctypes.addressof(arguments))


def register(name: str, address: int) -> bool:
    """Let compiled programs call the handler at ``address`` on the CPU; False if XLA refuses."""
    jax.devices("cpu")  # before a backend exists, registration is put off, and so are its errors
    try:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")
    except jax.errors.JaxRuntimeError:
        return False
    return True
