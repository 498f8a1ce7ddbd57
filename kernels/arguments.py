"""The arguments of a user's solver from addresses, in compiled code: one rule for CPU and GPU.

Numba and Numba-CUDA have their own type systems with the same interfaces; a ``Toolbox`` is one.
"""

from __future__ import annotations

import functools as ft
from typing import Any, NamedTuple

from llvmlite import ir

from .user import ROW, SHARED, WORK, Argument, Solver

_WORD = ir.IntType(64)


class Toolbox(NamedTuple):
    """What a target builds arrays with."""

    types: Any
    intrinsic: Any
    cgutils: Any
    make_array: Any
    populate_array: Any


def _word(builder, address, index: int):
    """The ``index``-th word at an address."""
    pointer = builder.inttoptr(address, _WORD.as_pointer())
    return builder.load(builder.gep(pointer, [ir.Constant(_WORD, index)]))


def _array_at(toolbox: Toolbox, context, builder, array_type, address, layout, first: int):
    """A C-contiguous array whose shape is words ``first ..`` of the layout."""
    item = context.get_data_type(array_type.dtype)
    size = ir.Constant(_WORD, array_type.dtype.bitwidth // 8)
    shape = [_word(builder, layout, first + k) for k in range(array_type.ndim)]
    strides = [size]
    for length in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
    array = toolbox.make_array(array_type)(context, builder)
    toolbox.populate_array(
        array,
        data=builder.inttoptr(address, item.as_pointer()),
        shape=toolbox.cgutils.pack_array(builder, shape),
        strides=toolbox.cgutils.pack_array(builder, strides),
        itemsize=size,
        meminfo=None,
    )
    return array._getvalue()


def _argument_type(types, argument: Argument):
    dtype = getattr(types, argument.dtype)
    if argument.ndim == 0:
        return dtype
    return types.Array(dtype, argument.ndim, "C", readonly=argument.place != WORK)


def all_arguments(toolbox: Toolbox, solver: Solver):
    """The arguments' types, and ``(scores, solution, shared, row, work, layout) -> tuple``.

    That function takes addresses, int64, and is for compiled code.
    """
    types = toolbox.types
    event = [types.Array(dtype, solver.event_ndim, "C") for dtype in (types.float64, types.int32)]
    kinds = [*event, *(_argument_type(types, argument) for argument in solver.arguments)]

    @toolbox.intrinsic
    def arguments_at(typing_context, scores, solution, shared, row, work, layout):
        def codegen(context, builder, sig, args):
            *addresses, layout = args
            array = ft.partial(_array_at, toolbox, context, builder)
            values = [
                array(kind, address, layout, 0)
                for kind, address in zip(event, addresses[:2], strict=True)
            ]
            memory = dict(zip((SHARED, ROW, WORK), addresses[2:], strict=True))
            at = solver.event_ndim
            for argument, kind in zip(solver.arguments, kinds[2:], strict=True):
                offset = builder.shl(_word(builder, layout, at), ir.Constant(_WORD, 3))
                address = builder.add(memory[argument.place], offset)
                if argument.ndim:
                    value = array(kind, address, layout, at + 1)
                else:
                    item = context.get_data_type(kind)
                    value = builder.load(builder.inttoptr(address, item.as_pointer()))
                values.append(value)
                at += 1 + argument.ndim
            return context.make_tuple(builder, sig.return_type, values)

        return types.Tuple(kinds)(*[types.int64] * 6), codegen

    return kinds, arguments_at
