"""Threads: nogil kernels mapped over tasks by a pool of this process's own.

Numba's parallel layers either abort when two Python threads call at once, or kill a forked child
(a data-loader worker). Here the calling thread takes its share of the tasks, helpers from a plain
``ThreadPoolExecutor`` take the rest, a child makes its own pool after a fork, and small calls never
leave the calling thread. Nothing is decided by who computes what: kernels define their results task
by task.
"""

from __future__ import annotations

import ctypes
import itertools as it
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

SMALL_CALL_NS = 100_000  # waking a helper costs about 20 us
PIECES_PER_THREAD = 8  # slack for uneven or descheduled threads

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_num_threads = ctypes.c_int64(0)  # 0 until someone asks


def get_num_threads() -> int:
    """How many threads a call may use: ``set_num_threads``, ``NUMBA_NUM_THREADS``, or the CPUs."""
    if _num_threads.value == 0:
        _num_threads.value = _default_num_threads()
    return _num_threads.value


def num_threads_address() -> int:
    """Where that number is in memory, an int64: for programs that run without Python."""
    get_num_threads()
    return ctypes.addressof(_num_threads)


def set_num_threads(num_threads: int) -> None:
    """Use at most ``num_threads`` threads from the next call on. Results do not depend on it.

    Raises ``ValueError`` unless ``num_threads`` is a positive integer.
    """
    global _pool
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
        raise ValueError(f"num_threads must be a positive integer, got {num_threads!r}")
    with _lock:
        _num_threads.value = num_threads
        _pool = None  # running calls keep the old pool; the next one makes its own


def run_tasks(kernel: Callable[[int, int], object], num_tasks: int, cost_ns: float) -> None:
    """Call ``kernel(begin, end)`` over disjoint ranges that cover ``0 .. num_tasks - 1``.

    ``cost_ns`` is a rough estimate of the work; small calls stay on the calling thread. The first
    exception of any range is raised once every thread has stopped.
    """
    threads = min(get_num_threads(), num_tasks)
    if threads < 2 or cost_ns < SMALL_CALL_NS:
        kernel(0, num_tasks)
        return
    pieces = min(num_tasks, threads * PIECES_PER_THREAD)
    bounds = [num_tasks * i // pieces for i in range(pieces + 1)]
    next_piece = it.count()  # next() on it is atomic

    def work() -> None:
        for i in next_piece:
            if i >= pieces:
                return
            kernel(bounds[i], bounds[i + 1])

    helpers = [_get_pool().submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        # A helper that has not begun finds nothing left to do; one that has is waited for.
        running = [h for h in helpers if not h.cancel()]
        errors = [e for h in running if (e := h.exception()) is not None]
    if errors:
        raise errors[0]


def _default_num_threads() -> int:
    text = os.environ.get("NUMBA_NUM_THREADS", "")
    if text.isdigit() and int(text) > 0:
        return int(text)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _get_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            helpers = max(1, get_num_threads() - 1)
            _pool = ThreadPoolExecutor(helpers, thread_name_prefix="dpo")
        return _pool


def _forget_parent_pool() -> None:
    """After a fork: the parent's threads do not exist here, and its lock may be held."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent_pool)
