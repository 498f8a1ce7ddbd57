"""The pool that shares out the tasks of a launch (``kernels/cpu/threads.py``)."""

from __future__ import annotations

import threading
import time
import weakref

import numpy as np
import pytest
from dpo.kernels.cpu.threads import SMALL_CALL_NS, run_tasks


@pytest.mark.parametrize("num_threads", [1, 2, 3, 16])
def test_every_task_runs_once(threads, num_threads):
    threads(num_threads)
    for num_tasks in (1, 2, 3, 10, 31, 128, 1000):
        done = np.zeros(num_tasks, np.int64)

        def kernel(begin, end, done=done):
            assert begin < end
            done[begin:end] += 1

        run_tasks(kernel, num_tasks, SMALL_CALL_NS)
        assert (done == 1).all()


def test_a_small_call_stays_on_its_thread(threads):
    threads(4)
    calls = []
    run_tasks(lambda *piece: calls.append((piece, threading.get_ident())), 100, SMALL_CALL_NS / 2)
    assert calls == [((0, 100), threading.get_ident())]


@pytest.mark.parametrize("by_caller", [True, False], ids=["caller", "helper"])
def test_an_error_of_any_thread_is_raised_and_ends_the_call(threads, by_caller):
    threads(2)
    caller, both = threading.get_ident(), threading.Barrier(2)
    begun = []

    def kernel(begin, end):
        begun.append(begin)
        both.wait(timeout=60)  # a piece of each thread's
        if (threading.get_ident() == caller) == by_caller:
            raise ValueError("piece")
        time.sleep(0.1)  # the other has raised when this one goes on

    with pytest.raises(ValueError, match="piece"):
        run_tasks(kernel, 1000, SMALL_CALL_NS)
    assert len(begun) == 2
    done = []
    run_tasks(lambda begin, end: done.extend(range(begin, end)), 50, SMALL_CALL_NS)
    assert sorted(done) == list(range(50))


def test_a_call_does_not_wait_for_helpers_that_are_busy_elsewhere(threads):
    threads(2)
    begun, released = threading.Semaphore(0), threading.Event()

    def blocked(begin, end):
        begun.release()
        assert released.wait(timeout=60)

    other = threading.Thread(target=run_tasks, args=(blocked, 2, SMALL_CALL_NS))
    other.start()
    for _ in range(2):  # its own thread, and the only helper
        assert begun.acquire(timeout=60)
    done = []
    run_tasks(lambda begin, end: done.extend(range(begin, end)), 50, SMALL_CALL_NS)
    assert done == list(range(50))
    released.set()
    other.join(timeout=60)
    assert not other.is_alive()


def test_helpers_end_when_there_are_to_be_others(threads):
    def helpers():
        return [t for t in threading.enumerate() if t.name.startswith("dpo_")]

    threads(4)
    run_tasks(lambda begin, end: None, 100, SMALL_CALL_NS)
    assert len(helpers()) >= 3
    threads(1)
    deadline = time.monotonic() + 60
    while helpers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not helpers()


def test_idle_helpers_hold_no_arrays(threads):
    threads(3)

    def call():
        array = np.zeros(100)
        run_tasks(lambda begin, end: array[begin:end].sum(), 100, SMALL_CALL_NS)
        return weakref.ref(array)

    array = call()
    deadline = time.monotonic() + 60
    while array() is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert array() is None
