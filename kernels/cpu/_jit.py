"""How the shared formulas become machine code: one place for every Numba setting."""

from __future__ import annotations

import functools as ft
import hashlib
from pathlib import Path
from types import FunctionType

from numba import njit, types
from numba.core.typing.templates import infer_global, make_intrinsic_template
from numba.extending import overload, register_jitable
from numba.np.unsafe.ndarray import to_fixed_tuple

from .. import bits, codes, noise32, noise64, noise_table, philox
from ._piece import PIECE
from .simd import (
    CHECK_BOUNDS,
    NUMPY_TO_NUMBA,
    ROW_WIDTH,
    Vector,
    call_llvm,
    common_vector,
    convert,
    lane_rows,
    to_lanes,
)

jitable = register_jitable(**PIECE)
"""A piece of a kernel: inlined into the kernel that uses it."""


def _real(argument_types):
    """The common real type of scalar arguments of a primitive."""
    return max((t for t in argument_types if isinstance(t, types.Float)), key=lambda t: t.bitwidth)


def _fma(typing_context, a, b, c):
    vector = common_vector(a, b, c)
    result = vector or _real((a, b, c))

    def codegen(context, builder, sig, args):
        if vector:
            pairs = zip(args, sig.args, strict=True)
            args = [to_lanes(context, builder, x, t, vector) for x, t in pairs]
        return call_llvm(builder, "fma", args)

    return (result(a, b, c) if vector else result(result, result, result)), codegen


def _select(typing_context, condition, if_true, if_false):
    vector = common_vector(if_true, if_false)
    result = vector or if_true

    def codegen(context, builder, sig, args):
        if vector:
            a = to_lanes(context, builder, args[1], sig.args[1], vector)
            b = to_lanes(context, builder, args[2], sig.args[2], vector)
        else:
            a, b = args[1:]
        return builder.select(args[0], a, b)

    return (
        result(condition, if_true, if_false) if vector else result(condition, result, result)
    ), codegen


def _sqrt(typing_context, x):
    return x(x), lambda context, builder, sig, args: call_llvm(builder, "sqrt", args)


def _bitcast(pairs):
    def cast(typing_context, x):
        result = Vector(pairs[x.dtype], x.lanes) if isinstance(x, Vector) else pairs[x]

        def codegen(context, builder, sig, args):
            return builder.bitcast(args[0], context.get_value_type(result))

        return result(x), codegen

    return cast


_float_bits = _bitcast({types.float32: types.int32, types.float64: types.int64})
_bits_float = _bitcast({types.int32: types.float32, types.int64: types.float64})


def _register(function, implementation):
    """Let Numba compile calls of ``bits.<function>`` as the intrinsic ``implementation``.

    (An ``overload`` that calls it would be compiled for every type that it meets.)
    """
    name = function.__name__
    infer_global(function, types.Function(make_intrinsic_template(function, implementation, name)))


for _function, _implementation in (
    (bits.fma, _fma),
    (bits.select, _select),
    (bits.sqrt, _sqrt),
    (bits.float_bits, _float_bits),
    (bits.bits_float, _bits_float),
):
    _register(_function, _implementation)


@overload(bits.columns, jit_options=PIECE)
def _(table, row):
    if isinstance(row, Vector):
        return lambda table, row: lane_rows(table, row)
    width = ROW_WIDTH[table.dtype]
    return lambda table, row: to_fixed_tuple(table[row], width)


def _register_conversion(function, to_dtype):
    def conversion(typing_context, x):
        result = Vector(to_dtype, x.lanes) if isinstance(x, Vector) else to_dtype

        def codegen(context, builder, sig, args):
            if isinstance(x, Vector):
                return convert(context, builder, args[0], x.dtype, to_dtype)
            return context.cast(builder, args[0], x, to_dtype)

        return result(x), codegen

    _register(function, conversion)


for _numpy_type, _numba_type in NUMPY_TO_NUMBA.items():
    _register_conversion(getattr(bits, _numpy_type.__name__), _numba_type)


def register_formulas(module):
    """Let Numba compile every function that ``module`` defines."""
    for value in list(vars(module).values()):
        if isinstance(value, FunctionType) and value.__module__ == module.__name__:
            jitable(value)


for _module in (codes, philox, noise32, noise64, noise_table):
    register_formulas(_module)


_SETTINGS = dict(nogil=True, error_model="numpy")

inlined = njit(inline="always", **_SETTINGS)
"""The large piece that a kernel is made of: as ``jitable``, but inlined before LLVM sees it, which
would optimise it once more for itself."""


@ft.cache
def source_stamp() -> str:
    """A hash of every kernel source: what compiled code on disk was made from."""
    digest = hashlib.sha256()
    kernels = Path(__file__).parents[1]
    for path in sorted(kernels.rglob("*.py")):
        if kernels / "cuda" in path.parents:
            continue  # nothing there is compiled by Numba
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def kernel(function):
    """Compile an entry point on first call, and cache the machine code on disk.

    Numba's cache looks only at the file that holds ``function``; its pieces live in other files, so
    an edit there would leave stale code. The stamp covers them all. Where no directory can be
    written the kernel is compiled in every process.
    """
    stamp = function.__module__, source_stamp(), CHECK_BOUNDS
    try:
        dispatcher = njit(cache=True, **_SETTINGS)(function)
    except RuntimeError:  # "no locator available"
        return njit(**_SETTINGS)(function)
    dispatcher._cache._cache_file._source_stamp = stamp
    return dispatcher
