"""A hash of all that a user's function is compiled from: what names its machine code on disk.

The function's byte code and constants, and every value that its names stand for, followed through
other functions. Where a value is found that this file does not know, there is no hash, and the
function is compiled in every process.

Every launch asks, for values may have changed. Byte code cannot, and is read once: that takes a
millisecond, as long as a launch.
"""

from __future__ import annotations

import dis
import functools as ft
import hashlib
import sys
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import numba
import numpy as np

from ..user import Solver

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
_VERSIONED = ("builtins", "cmath", "math", "numba", "numpy")
"""Packages whose functions are told by their names, the versions being part of the hash."""


class _Unknown(Exception):
    """A value whose contents cannot be told."""


def digest(solver: Solver) -> str | None:
    """A hexadecimal hash, the same in every process; None where there is none."""
    parts: list[str] = [sys.version, numba.__version__, np.__version__, repr(solver[1:])]
    try:
        _add(solver.function, parts, set())
    except _Unknown:
        return None
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _add(value, parts: list[str], seen: set[int]) -> None:
    """Append what tells ``value`` from any other."""
    parts.append(type(value).__name__)
    value = getattr(value, "py_func", value)  # of a compiled function
    if isinstance(value, _PLAIN):
        parts.append(repr(value))
    elif isinstance(value, (np.generic, np.ndarray)):
        array = np.ascontiguousarray(value)
        if array.dtype.hasobject:
            raise _Unknown
        parts += [str(array.dtype), str(array.shape), array.tobytes().hex()]
    elif isinstance(value, (tuple, frozenset)):
        for item in sorted(value, key=repr) if isinstance(value, frozenset) else value:
            _add(item, parts, seen)
        parts.append("end")
    elif _is_named(value):
        parts.append(f"{value.__module__}.{value.__qualname__}")
    elif isinstance(value, FunctionType):
        _add_function(value, parts, seen)
    elif isinstance(value, CodeType):
        parts += _code_parts(value)
    elif isinstance(value, ModuleType):
        _add_module(value, parts)
    elif isinstance(value, (np.ufunc, np.dtype)):
        parts.append(repr(value))
    else:
        raise _Unknown


def _is_named(value) -> bool:
    module = getattr(value, "__module__", None)
    named = isinstance(module, str) and module.partition(".")[0] in _VERSIONED
    return named and isinstance(getattr(value, "__qualname__", None), str)


def _add_function(function: FunctionType, parts: list[str], seen: set[int]) -> None:
    parts.append(function.__qualname__)
    if id(function) in seen:
        return
    seen.add(id(function))
    _add(function.__defaults__, parts, seen)
    _add(function.__code__, parts, seen)
    for cell in function.__closure__ or ():
        try:
            _add(cell.cell_contents, parts, seen)
        except ValueError:  # not yet filled
            raise _Unknown from None
    for name in sorted(_global_names(function.__code__)):
        if name in function.__globals__:
            parts.append(name)
            _add(function.__globals__[name], parts, seen)


@ft.lru_cache(maxsize=1024)
def _code_parts(code: CodeType) -> tuple[str, ...]:
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    parts = [code.co_code.hex(), repr(names), str(code.co_flags)]
    _add(code.co_consts, parts, set())
    return tuple(parts)


@ft.lru_cache(maxsize=1024)
def _global_names(code: CodeType) -> frozenset[str]:
    """Names that the code, or code inside it, looks up globally."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    inner = (_global_names(c) for c in code.co_consts if isinstance(c, CodeType))
    return frozenset(names).union(*inner)


def _add_module(module: ModuleType, parts: list[str]) -> None:
    """By its version, or by its source where it has none."""
    parts.append(module.__name__)
    version = getattr(module, "__version__", None)
    if isinstance(version, str):
        parts.append(version)
    elif getattr(module, "__file__", None):
        parts.append(hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest())
    elif module.__name__ not in sys.builtin_module_names:
        raise _Unknown
