"""Threads: nogil kernels mapped over tasks by a pool of this process's own.

Numba's parallel layers either abort when two Python threads call at once, or kill a forked child
(a data-loader worker). Here the calling thread takes its share of the tasks, plain Python threads
that wait at a queue take the rest, a child starts its own after a fork, and small calls never leave
the calling thread. Nothing is decided by who computes what: kernels define their results task by
task.

Not a ``ThreadPoolExecutor``: its futures take 25 us a call, a fortieth of a call of a millisecond.
"""

from __future__ import annotations

import ctypes
import itertools as it
import os
import queue
import threading
from collections.abc import Callable
from typing import TypeAlias

SMALL_CALL_NS = 100_000  # a helper begins some 60 us after it is asked to

_Jobs: TypeAlias = "queue.SimpleQueue[_Job | None]"

_lock = threading.Lock()
_jobs: _Jobs | None = None
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
    global _jobs
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
        raise ValueError(f"num_threads must be a positive integer, got {num_threads!r}")
    with _lock:
        _num_threads.value = num_threads
        if _jobs is not None:
            _jobs.put(None)  # helpers finish what was asked of them, and end
        _jobs = None  # the next call starts its own


def run_tasks(kernel: Callable[[int, int], object], num_tasks: int, cost_ns: float) -> None:
    """Call ``kernel(begin, end)`` over disjoint ranges that cover ``0 .. num_tasks - 1``.

    ``cost_ns`` is a rough estimate of the work; small calls stay on the calling thread. The first
    exception of any range is raised once every thread has stopped.
    """
    threads = min(get_num_threads(), num_tasks)
    if threads < 2 or cost_ns < SMALL_CALL_NS:
        kernel(0, num_tasks)
        return
    job, jobs = _Job(kernel, _bounds(num_tasks, threads)), _get_jobs()
    for _ in range(threads - 1):
        jobs.put(job)
    try:
        job.work()
        job.all_done.acquire()
    except BaseException as error:  # an interrupt: helpers stop after the pieces they are at
        job.errors.append(error)
        raise
    if job.errors:
        raise job.errors.pop(0)  # out of the job that its traceback refers to


class _Job:
    """A call's pieces, which threads claim one by one.

    The caller waits for pieces, not for threads: a helper that comes late finds none left.
    """

    def __init__(self, kernel: Callable[[int, int], object], bounds: list[int]):
        self.kernel, self.bounds = kernel, bounds
        self.next_piece = it.count()  # next() on it is atomic
        self.done = 0
        self.lock, self.all_done = threading.Lock(), threading.Lock()
        self.all_done.acquire()
        self.errors: list[BaseException] = []

    def work(self) -> None:
        """Claim pieces and compute them until there is none left."""
        done, pieces = 0, len(self.bounds) - 1
        for i in self.next_piece:
            if i >= pieces:
                break
            done += 1
            try:
                if not self.errors:
                    self.kernel(self.bounds[i], self.bounds[i + 1])
            except BaseException as error:
                self.errors.append(error)
        with self.lock:
            self.done += done
            if done > 0 and self.done == pieces:
                self.all_done.release()


def _bounds(num_tasks: int, threads: int) -> list[int]:
    """Where pieces begin and end: large ones first, for each costs some 5 us, then ever smaller
    ones, so that threads end together however uneven or late they are."""
    bounds, least = [0], max(1, num_tasks // (16 * threads))
    while bounds[-1] < num_tasks:
        left = num_tasks - bounds[-1]
        bounds.append(bounds[-1] + min(left, max(least, 2 * left // (3 * threads))))
    return bounds


def _default_num_threads() -> int:
    text = os.environ.get("NUMBA_NUM_THREADS", "")
    if text.isdigit() and int(text) > 0:
        return int(text)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _get_jobs() -> _Jobs:
    """Where helpers take jobs from. They start when they are first needed."""
    global _jobs
    with _lock:
        if _jobs is None:
            _jobs = queue.SimpleQueue()
            for i in range(get_num_threads() - 1):
                helper = threading.Thread(None, _help, f"dpo_{i}", (_jobs,), daemon=True)
                helper.start()
        return _jobs


def _help(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        job.work()
        del job  # and, while waiting for the next, the arrays that it holds
    jobs.put(None)  # the next helper is to end too


def _forget_parent_pool() -> None:
    """After a fork: the parent's threads do not exist here, and its lock may be held."""
    global _jobs, _lock
    _jobs, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent_pool)
