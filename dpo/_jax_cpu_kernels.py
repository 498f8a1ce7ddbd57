"""Kernels called by address, in the machine code that NumPy's calls have compiled.

Nothing of a kernel is compiled again for a JAX program. What takes its place is a record of
integers and addresses, ``Launch``, that any thread can compute a part of.
"""

from __future__ import annotations

import ctypes
import functools as ft
import importlib
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import carray, types
from numba.core import cgutils

from ._jax_cpu_frames import OPTIONS, intrinsic, pointer, to_tuple, words
from .kernels.codes import ANTITHETIC, pull_of
from .kernels.cpu._jit import jitable
from .kernels.cpu.simd import LANES
from .kernels.cpu.threads import num_threads_address

BY_SAMPLES, BY_ROWS, SPARSE, OUTER, FUSED = range(5)
"""The forms of kernels: those of ``argmax.py``, ``argmax_rows.py``, ``topk_sparse.py``,
``argmax_jacobian.py`` and of every oracle's file (``fused.py``)."""

KERNELS = (
    "argmax", "argmax_rows", "topk_sparse", "argmax_jacobian", "argmax_dense", "topk", "ranks",
    "grid_path",
)  # fmt: skip
"""Files of ``kernels/cpu``."""


def form(kernel: str) -> int:
    """How a kernel is called."""
    return min(KERNELS.index(kernel), FUSED)


def module(kernel: str):
    """The file of a kernel, imported (not yet compiled) on first use."""
    return importlib.import_module(f".kernels.cpu.{kernel}", __package__)


# ------------------------------------------------------------------------ kernels called by address

_i1, _i4, _i8, _u4, _u8, _f8 = (
    types.boolean, types.int32, types.int64, types.uint32, types.uint64, types.float64,
)  # fmt: skip


def _of(dtype, axes: int):
    return types.Array(dtype, axes, "C")


def operand_types(form: int, real) -> tuple:
    """What a kernel is called with, for scores of type ``real``: by ``kernels/cpu/launch.py``."""
    begin_end, key, scores = (_i8, _i8), types.UniTuple(_u8, 3), _of(real, 2)
    counts, sums = _of(_i8, 2), _of(_f8, 3)
    if form == FUSED:
        call = types.Tuple(
            (
                types.UniTuple(_i8, 4), key, _of(_u4, 2), scores, scores, _of(_u8, 1),
                types.UniTuple(_i8, 2), scores, scores, real, _of(_i8, 1), _of(_i8, 2),
            )
        )  # fmt: skip
        memo = _of(_i4, 3)
        split = types.UniTuple(_i8, 2)
        return (_i1, *begin_end, split, _i8, call, memo, memo, _of(real, 3), _of(_i8, 3), sums)
    if form == OUTER:
        window = key, _i8, _i8, _of(_u8, 1)
        return (*begin_end, _i8, scores, _of(real, 1), _i8, *window, counts, _of(_f8, 2))
    what = {BY_SAMPLES: (_i8, _i8, _i1), BY_ROWS: (_i8, _i1), SPARSE: (_i8, _i8, _i1, _i8)}[form]
    return (
        *begin_end, *what, scores, _of(real, 1), _i8, key, _i8, _i8, _of(_u8, 1), scores, scores,
        _of(_i4, 3 if form == SPARSE else 2), counts, sums,
    )  # fmt: skip


def _caller(form: int) -> Any:
    """``call(like, address, operands)``: whether the kernel there has come to its end."""

    @intrinsic
    def call(typing_context, like, address, operands):
        expected = operand_types(form, like.dtype)
        if tuple(operands.types) != expected:
            raise TypeError(f"the kernel takes {expected}, not {operands.types}")

        def codegen(context, builder, signature, args):
            convention = context.call_conv
            function = convention.get_function_type(types.none, expected)
            kernel = builder.inttoptr(args[1], function.as_pointer())
            given = cgutils.unpack_tuple(builder, args[2])
            status, _ = convention.call_function(builder, kernel, types.none, expected, given)
            return status.is_ok

        return types.boolean(like, address, operands), codegen

    return call


_call_by_samples, _call_by_rows, _call_sparse, _call_outer, _call_fused = map(
    _caller, (BY_SAMPLES, BY_ROWS, SPARSE, OUTER, FUSED)
)


# --------------------------------------------------------------------------- addresses, at run time

NUM_THREADS, TASKS, _TABLE = 0, 1, 3
_addresses = (ctypes.c_int64 * (_TABLE + 2 * len(KERNELS)))()
"""Of the number of threads that a call may use, of the tasks, and of kernels, for both types of
scores. As a symbol: machine code that reads it can be kept on disk."""

binding.add_symbol("dpo_addresses", ctypes.addressof(_addresses))


@intrinsic
def _table(typing_context):
    def codegen(context, builder, signature, args):
        symbols = builder.module.globals
        name = "dpo_addresses"
        table = symbols.get(name) or ir.GlobalVariable(builder.module, ir.IntType(64), name)
        return builder.ptrtoint(table, ir.IntType(64))

    return types.int64(), codegen


@jitable
def address(k):
    """Entry ``k`` of the table."""
    return words(_table(), k + 1)[k]


def _is_double(dtype: str) -> int:
    return int(dtype == "float64")


def kernel_index(kernel: str, dtype: str) -> int:
    """Where the table has a kernel."""
    return _TABLE + 2 * KERNELS.index(kernel) + _is_double(dtype)


@ft.cache
def load_kernel(kernel: str, dtype: str) -> None:
    """Compile a kernel, unless it is on disk, and enter its address into the table."""
    run, operands = module(kernel).run, operand_types(form(kernel), getattr(types, dtype))
    run.compile(operands)
    compiled = run.overloads[operands]
    entry = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    _addresses[kernel_index(kernel, dtype)] = entry


def set_addresses(dtype: str, task: int) -> None:
    """Let jobs find the task, and the number of threads."""
    _addresses[TASKS + _is_double(dtype)] = task
    _addresses[NUM_THREADS] = num_threads_address()


# ----------------------------------------------------------------------------------------- launches


class Launch(NamedTuple):
    """What is launched: integers, and addresses of arrays of the rows of all calls."""

    kernel: int
    form: int
    few: int
    """Whether units are blocks of rows."""
    parts: int
    """Units a row is split into, otherwise."""
    together: int
    """Rows of a unit, of ``FUSED``, where they are not split."""
    call_units: int
    """Units of a call."""
    calls: int
    operation: int
    rows: int
    """Of a call."""
    d: int
    columns: int
    """Temperatures of a row: one, except for ``FUSED``."""
    family: int
    kind: int
    """How noise meets scores, for ``FUSED``."""
    weighting: int
    """By which scores of it derivatives are weighed, for ``FUSED``."""
    num_samples: int
    design: int
    """Of samples, for ``FUSED``."""
    slots: int
    size: int
    """Of a unit's sums."""
    memo_words: int
    """Of a call; 0 where there is no memo."""
    solution_words: int
    """Of a solution in the memo."""
    theta: int
    scales: int
    """Temperatures, negative where noise is taken from costs."""
    ids: int
    """Of rows; room for ``LANES`` more, as ``scales``."""
    keys: int
    """Of calls, three words."""
    samples: int
    """The first sample of every call."""
    direction: int
    mean: int
    memo: int
    solutions: int
    """Where a value leaves samples, or a VJP is given them; else 0."""
    scores: int
    """Where a value leaves them; else 0."""
    counts: int
    sums: int
    options: int
    """The oracle's integers, ``OPTIONS`` words."""
    places: int
    """Those of every row of a call, two."""


@jitable
def run_units(w, call, begin, end, like):
    """Units ``begin .. end - 1`` of a call; whether the kernel has come to its end.

    Allocates nothing, so that nothing but the kernel can fail.
    """
    first, real = call * w.rows, like.itemsize
    shape, room = (w.rows, w.d), w.rows + LANES
    theta = carray(pointer(w.theta + first * w.d * real), shape, like.dtype)
    direction = carray(pointer(w.direction + first * w.d * real), shape, like.dtype)
    mean = carray(pointer(w.mean + first * w.d * real), shape, like.dtype)
    scales_at = pointer(w.scales + first * w.columns * real)
    scales = carray(scales_at, (room,), like.dtype)
    ids = carray(pointer(w.ids + first * 8), (room,), np.uint64)
    key = to_tuple(carray(pointer(w.keys + call * 24), (3,), np.uint64), 3)
    sample = words(w.samples, call + 1)[call]
    units = w.rows * w.parts
    counts_at = pointer(w.counts + call * units * w.d * 8)
    counts = carray(counts_at, (units, w.d), np.int64)
    sums_at = pointer(w.sums + call * units * w.slots * w.size * 8)
    sums = carray(sums_at, (units, w.slots, w.size), np.float64)
    memo_at = pointer(w.memo + call * w.memo_words * 4)
    groups, room_of_group = w.memo_words // (w.solution_words * LANES), (w.solution_words, LANES)
    if w.few != 0:
        groups, room_of_group = w.rows, (w.num_samples, w.solution_words)
    memo = carray(memo_at, (groups if w.memo_words > 0 else 0, *room_of_group), np.int32)
    winners = carray(memo_at, (w.rows if w.memo_words > 0 else 0, w.num_samples), np.int32)
    options = words(w.options, OPTIONS)
    no = w.rows < 0  # not a literal, which is of another type
    if w.form == BY_SAMPLES:
        return _call_by_samples(
            like, w.kernel,
            (
                begin, end, w.parts, w.operation, no, theta, scales, w.family, key, w.num_samples,
                sample, ids, direction, mean, winners, counts, sums,
            ),
        )  # fmt: skip
    if w.form == BY_ROWS:
        return _call_by_rows(
            like, w.kernel,
            (
                begin, end, w.operation, no, theta, scales, w.family, key, w.num_samples, sample,
                ids, direction, mean, winners, counts, sums,
            ),
        )  # fmt: skip
    if w.form == SPARSE:
        return _call_sparse(
            like, w.kernel,
            (
                begin, end, w.parts, w.operation, no, options[0], theta, scales, w.family, key,
                w.num_samples, sample, ids, direction, mean, memo, counts, sums,
            ),
        )  # fmt: skip
    if w.form == OUTER:
        outer = carray(sums_at, (units, w.size), np.float64)
        return _call_outer(
            like, w.kernel,
            (
                begin, end, w.parts, theta, scales, w.family, key, w.num_samples, sample, ids,
                counts, outer,
            ),
        )  # fmt: skip
    scale = carray(scales_at, (w.rows, w.columns), like.dtype)
    places = carray(pointer(w.places), (w.rows, 2), np.int64)
    no_directions = carray(scales_at, (0, 0), np.uint32)
    pull = like.dtype.type(pull_of(w.design == ANTITHETIC, w.num_samples))
    samples, before = (w.num_samples, w.d), first * w.num_samples * w.d
    solutions = carray(
        pointer(w.solutions + before * 4), (w.rows if w.solutions != 0 else 0, *samples), np.int32
    )
    scores = carray(
        pointer(w.scores + before * real), (w.rows if w.scores != 0 else 0, *samples), like.dtype
    )
    return _call_fused(
        like, w.kernel,
        (
            w.few != 0, begin, end, (w.parts, w.together), w.operation,
            (
                (w.family, w.kind, w.design, w.weighting), key,
                no_directions, theta, scale, ids, (w.num_samples, sample), direction, mean,
                pull, options, places,
            ),
            memo, solutions, scores, carray(counts_at, (units, 1, w.d), np.int64), sums,
        ),
    )  # fmt: skip
