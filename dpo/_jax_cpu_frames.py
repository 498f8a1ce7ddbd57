"""Reading a call of XLA's in compiled code: its operands, its results, its constants.

``_jax_ffi.py`` has the records. ``vmap`` makes several calls of one; their rows follow each other,
and arrays here are (rows of all calls, columns).
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np
from numba import carray, extending, types
from numba.np.unsafe import ndarray

from . import _jax_ffi as ffi
from .kernels.cpu._jit import jitable

OPERATIONS = ("value", "max", "loss", "adjoint", "product", "epsilon_adjoint", "epsilon_product")
VALUE_OF, MAX_OF, LOSS_OF, ADJOINT, PRODUCT, EPSILON_ADJOINT, EPSILON_PRODUCT = range(7)
ORACLES = ("argmax", "topk", "ranks", "grid_path")
ARGMAX, TOPK, RANKS, GRID_PATH = range(4)
NONE, ENTROPY, TOTAL = range(3)
"""Offsets of losses: in Gumbel noise the argmax's, and that of other solutions with one sum."""
OPTIONS = 4
"""How many of the oracle's integers there are; those it does not have are 0."""


class Parameters(NamedTuple):
    """The constants of a call, all integers. Those of the oracle follow them, ``OPTIONS``, and the
    ends of paths."""

    operation: int
    """An index into ``OPERATIONS``."""
    calls: int
    """Independent ones, of ``rows`` rows each."""
    rows: int
    d: int
    family: int
    num_samples: int
    columns: int
    """Temperatures of a row: one, or one a coordinate."""
    multiplicative: int
    """Whether noise multiplies scores."""
    centred: int
    """Whether derivatives leave one sample out, or one pair."""
    paired: int
    """Whether samples come in pairs."""
    words: int
    """Of a seed: 1 or 2."""
    by_theta: int
    """Whether the slope in theta is a result, for ``max`` and ``loss``."""
    by_epsilon: int
    offset: int
    """What the loss is offset by: ``NONE``, ``ENTROPY`` or ``TOTAL``."""
    kept: int
    """Words a row of what a value leaves for its derivatives: ``Spec.kept``."""
    by_jacobian: int
    """Whether an adjoint, or what is kept for it, is by the whole Jacobian."""
    memo_words: int
    """Of what the samples of a call decided, if that is written down or read; else 0."""
    solution_words: int
    """Of a solution in it."""
    keeps_samples: int
    """Whether what is kept is solutions and scores."""
    oracle: int
    """An index into ``ORACLES``."""
    sign: int
    """-1 where scores are costs."""
    ends: int
    """Of how many rows of a call there are ends of paths: none, one for all, or all."""
    kernel: int
    """An index into the table of ``_jax_cpu_kernels.py``."""
    form: int
    """How the kernel is called."""
    cost: int
    """About how long a launch takes on one thread, in ns."""


_FRAME, _BUFFER = (ctypes.sizeof(s) // ffi.WORD for s in (ffi.CallFrame, ffi.Buffer))
OPERANDS = ffi.at(ffi.CallFrame, "operands", "values")
RESULTS = ffi.at(ffi.CallFrame, "results", "values")
_ATTRIBUTES = ffi.at(ffi.CallFrame, "attributes", "values")
_DTYPE, _DATA = ffi.at(ffi.Buffer, "dtype"), ffi.at(ffi.Buffer, "data")
_CONSTANTS, _COUNT = ffi.at(ffi.Constants, "data"), len(Parameters._fields)
_INT32, _INT64, _UINT32, _UINT64 = (
    next(code for code, dtype in ffi.DTYPES.items() if dtype == of)
    for of in (np.int32, np.int64, np.uint32, np.uint64)
)
LOW = 2**32 - 1
"""The low half of a word."""


intrinsic: Any = extending.intrinsic
"""To call what it decorates is not to call that function."""

to_tuple: Any = ndarray.to_fixed_tuple
"""Of an array, with its length."""

word: Any = np.int64
"""An integer that is no literal: those are of another type, for which Numba compiles again."""


@intrinsic
def pointer(typing_context, address):
    """An address as ``carray`` takes it."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.intp), codegen


@jitable
def address_of(array):
    """Where an array is, for as long as somebody holds it."""
    return word(array.ctypes.data)


@jitable
def words(address, n):
    """The first ``n`` words of a record."""
    return carray(pointer(address), (n,), np.int64)


@jitable
def call_frame(address):
    """A call, as words."""
    return words(address, _FRAME)


@jitable
def buffer(frame, kind, k):
    """Operand or result ``k``."""
    return words(words(frame[kind], k + 1)[k], _BUFFER)


@jitable
def array(frame, kind, k, p, columns, like):
    """Operand or result ``k`` as an array, (rows, columns)."""
    shape = (p.calls * p.rows, columns)
    return carray(pointer(buffer(frame, kind, k)[_DATA]), shape, like.dtype)


@jitable
def array_beside(frame, p, like):
    """The array beside the scores, or the scores."""
    columns = p.columns if p.operation == EPSILON_PRODUCT else p.d
    return array(frame, OPERANDS, 4 if p.operation >= LOSS_OF else 0, p, columns, like)


@jitable
def temperatures(frame, p, like):
    """Those of every row."""
    return array(frame, OPERANDS, 3, p, p.columns, like)


@jitable
def words_kept(frame, kind, k, p):
    """Operand or result ``k``, of what a value keeps: (rows, words) int32."""
    shape = (p.calls * p.rows, p.kept)
    return carray(pointer(buffer(frame, kind, k)[_DATA]), shape, np.int32)


@jitable
def constants(frame):
    """The address of the constants of a call."""
    return words(words(frame[_ATTRIBUTES], 1)[0], _CONSTANTS + 1)[_CONSTANTS]


@jitable
def parameters(frame):
    """The constants of the call."""
    return Parameters(*to_tuple(words(constants(frame), _COUNT), _COUNT))


@jitable
def option_address(frame):
    """Where the oracle's integers are."""
    return constants(frame) + _COUNT * ffi.WORD


@jitable
def ends_of(frame, p):
    """Source and target of paths, a row for all or one each."""
    at = option_address(frame) + OPTIONS * ffi.WORD
    return carray(pointer(at), (p.ends, 2), np.int64)


@jitable
def total_of(frame, p):
    """What the solutions of an oracle all add up to, as ``Problem.total``; not those of paths."""
    if p.oracle == ARGMAX:
        return 1.0
    if p.oracle == TOPK:
        return np.float64(words(option_address(frame), 1)[0])
    return p.d * (p.d + 1) / 2


@jitable
def integer(integers, i):
    """Entry ``i`` of an operand of any integer type, and whether it is one of an unsigned type."""
    kind, address = integers[_DTYPE] & LOW, integers[_DATA]
    if kind == _UINT32:
        return np.uint64(carray(pointer(address), (i + 1,), np.uint32)[i]), True
    if kind == _UINT64:
        return carray(pointer(address), (i + 1,), np.uint64)[i], True
    if kind == _INT32:
        signed = np.int64(carray(pointer(address), (i + 1,), np.int32)[i])
    else:
        signed = carray(pointer(address), (i + 1,), np.int64)[i]
    return np.uint64(signed), signed >= 0


@jitable
def seed_of(frame, p, call):
    """The two words of a call's seed, and whether it is good."""
    seeds = buffer(frame, OPERANDS, 1)
    low, good = integer(seeds, call * p.words)
    if p.words == 1:
        return low & np.uint64(LOW), low >> np.uint64(32), good
    high, too = integer(seeds, call * p.words + 1)
    return low, high, good and too and low <= np.uint64(LOW) and high <= np.uint64(LOW)


@jitable
def first_of(frame, p, call):
    """The numbers of a call's first row and first sample, and whether they are good."""
    offsets = buffer(frame, OPERANDS, 2)
    row, good = integer(offsets, 2 * call)
    sample, too = integer(offsets, 2 * call + 1)
    too = too and sample <= np.uint64(LOW + 1 - p.num_samples)
    too = too and sample & np.uint64(p.paired) == np.uint64(0)
    return row, sample, good and too and row <= np.uint64(LOW)
