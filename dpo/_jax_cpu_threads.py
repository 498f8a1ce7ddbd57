"""A launch inside a JAX program, shared between XLA's own threads.

The units of a launch (rows, strands of rows, or blocks of rows: see ``kernels/cpu``) are split into
pieces, which threads claim from a counter: the one that XLA has called the handler on, and helpers
that it schedules on XLA's pool. Results do not depend on who computes what.

**It cannot deadlock.** The pool may be busy, or its only thread may be the one that waits here, so
that a helper begins late or only after the call: XLA promises nothing. The caller therefore works
until no piece is left, and waits only for pieces that some thread is computing. A helper that comes
late finds nothing to do, but it has read the counter: the job's record, unlike the arrays of the
launch, belongs to all who hold it, and the last one frees it.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, NamedTuple

from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils

from . import _jax_ffi as ffi
from ._jax_cpu_frames import intrinsic, to_tuple, words
from ._jax_cpu_kernels import NUM_THREADS, TASKS, Launch, address, run_units
from .kernels.cpu._jit import jitable
from .kernels.cpu.threads import SMALL_CALL_NS


class Shares(NamedTuple):
    """The head of a job's record: who does what."""

    next_piece: int
    """The first piece that nobody has claimed."""
    done: int
    """How many pieces are done."""
    failed: int
    """Whether a kernel has raised."""
    holders: int
    """Threads that may still read the record."""
    pieces: int
    pool: int
    """How many threads XLA has."""
    arguments: int
    """The first of the words of a ``Schedule``."""


_PIECES_PER_THREAD = 8
"""Slack for uneven or descheduled threads."""
_SCHEDULE = ctypes.sizeof(ffi.Schedule) // ffi.WORD
_HEAD = len(Shares._fields) + _SCHEDULE
_NEXT, _DONE, _FAILED, _HOLDERS, _PIECES, _POOL, _ARGUMENTS = range(len(Shares._fields))
_LAUNCH = len(Launch._fields)
_JOB = _HEAD + _LAUNCH


# ------------------------------------------------------------------------------- what a thread does


@intrinsic
def _fetch_add(typing_context, address, value):
    """Add to the word at an address, atomically; what it was before."""

    def codegen(context, builder, signature, args):
        word = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", word, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@jitable
def add(job, field, value):
    """Add to a word of a job's head, atomically; what it was before."""
    return _fetch_add(job + field * ffi.WORD, value)


@njit(nogil=True, error_model="numpy")
def work(job, like):
    """Claim pieces and compute them until there is none left."""
    record = words(job, _JOB)
    w = Launch(*to_tuple(record[_HEAD:], _LAUNCH))
    pieces, units = record[_PIECES], w.calls * w.call_units
    while True:
        piece = add(job, _NEXT, 1)
        if piece >= pieces:
            return
        begin, last = units * piece // pieces, units * (piece + 1) // pieces
        while begin < last:
            call = begin // w.call_units
            before = call * w.call_units
            end = min(last, before + w.call_units)
            if not run_units(w, call, begin - before, end - before, like):
                add(job, _FAILED, 1)
            begin = end
        add(job, _DONE, 1)


@intrinsic
def _allocate(typing_context, size):
    def codegen(context, builder, signature, args):
        block = context.nrt.allocate_unchecked(builder, args[0])
        return builder.ptrtoint(block, ir.IntType(64))

    return types.int64(types.int64), codegen


@intrinsic
def _free(typing_context, address):
    def codegen(context, builder, signature, args):
        context.nrt.free(builder, builder.inttoptr(args[0], cgutils.voidptr_t))
        return context.get_dummy_value()

    return types.none(types.int64), codegen


@jitable
def let_go(job):
    """One holder fewer."""
    if add(job, _HOLDERS, -1) == 1:
        _free(job)


def task(like):
    """What helpers run, for scores of the precision of ``like``; XLA wants no result."""

    def run(job):
        work(job, like)
        let_go(job)
        return 0

    return run


# -------------------------------------------------------------------------------- sharing a launch


@intrinsic
def _invoke(typing_context, function, argument):
    """Call one of XLA's functions, or the operating system's: ``void* function(void*)``."""

    def codegen(context, builder, signature, args):
        word = ir.IntType(64)
        function = builder.inttoptr(args[0], ir.FunctionType(word, [word]).as_pointer())
        return builder.call(function, [args[1]])

    return types.int64(types.int64, types.int64), codegen


def _yield_address() -> int | None:
    """The system's function that lets another thread run."""
    if hasattr(os, "sched_yield"):
        return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value
    kernel32 = ctypes.windll.kernel32  # type: ignore[attr-defined]
    return ctypes.cast(kernel32.SwitchToThread, ctypes.c_void_p).value


binding.add_symbol("dpo_yield", _yield_address())
_yield: Any = types.ExternalFunction("dpo_yield", types.int32())

_API, _CONTEXT = (ffi.at(ffi.CallFrame, name) for name in ("api", "context"))
_POOL_SIZE, _SCHEDULER, _DESTROY = (
    ffi.at(ffi.Api, name) for name in ("num_threads", "schedule", "destroy_error")
)
_DESTROY_BYTES, _SIZE_BYTES, _SCHEDULE_BYTES = map(
    ctypes.sizeof, (ffi.DestroyError, ffi.NumThreads, ffi.Schedule)
)
_API_WORDS = ctypes.sizeof(ffi.Api) // ffi.WORD


@jitable
def succeeds(frame, function, arguments):
    """Call a function of XLA's with a record of arguments; whether it returns no error."""
    api = words(frame[_API], _API_WORDS)
    error = _invoke(api[function], arguments)
    if error != 0:
        record = words(arguments, 3)
        record[0], record[1], record[2] = _DESTROY_BYTES, 0, error
        _invoke(api[_DESTROY], arguments)
    return error == 0


@jitable
def pool_size(frame, job):
    """How many threads XLA's pool has; 0 if there is no pool."""
    arguments, record = job + _ARGUMENTS * ffi.WORD, words(job, _JOB)
    record[_ARGUMENTS], record[_ARGUMENTS + 1] = _SIZE_BYTES, 0
    record[_ARGUMENTS + 2], record[_ARGUMENTS + 3] = frame[_CONTEXT], job + _POOL * ffi.WORD
    return record[_POOL] if succeeds(frame, _POOL_SIZE, arguments) else 0


@jitable
def schedule(frame, job, like):
    """Ask XLA for a helper; whether one will come."""
    arguments, record = job + _ARGUMENTS * ffi.WORD, words(job, _JOB)
    record[_ARGUMENTS], record[_ARGUMENTS + 1] = _SCHEDULE_BYTES, 0
    record[_ARGUMENTS + 2], record[_ARGUMENTS + 4] = frame[_CONTEXT], job
    record[_ARGUMENTS + 3] = address(TASKS + like.itemsize // 8)
    add(job, _HOLDERS, 1)
    if succeeds(frame, _SCHEDULER, arguments):
        return True
    add(job, _HOLDERS, -1)
    return False


@jitable
def num_threads():
    """How many a call may use."""
    return words(address(NUM_THREADS), 1)[0]


@njit(nogil=True, error_model="numpy")
def share(frame, launch, cost, like):
    """Compute a launch that takes about ``cost`` ns; whether every kernel has come to its end."""
    job = _allocate(_JOB * ffi.WORD)
    record, units = words(job, _JOB), launch.calls * launch.call_units
    for i in range(_HEAD):
        record[i] = 0
    for i in range(len(launch)):
        record[_HEAD + i] = launch[i]
    record[_HOLDERS] = record[_PIECES] = 1
    limit = 1 if cost < SMALL_CALL_NS else min(num_threads(), units)
    if limit > 1:
        limit = min(limit, 1 + pool_size(frame, job))
    if limit > 1:
        record[_PIECES] = min(units, limit * _PIECES_PER_THREAD)
    helpers = 1
    while helpers < limit and schedule(frame, job, like):
        helpers += 1
    work(job, like)
    while add(job, _DONE, 0) < record[_PIECES]:
        _yield()
    failed = record[_FAILED] != 0
    let_go(job)
    return not failed
