"""Threads, forks and fresh processes: imports stay light, memory stays flat, calls may nest."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import dpo

THETA = np.random.default_rng(0).standard_normal((64, 300)).astype(np.float32)
LAYER = dpo.Perturbed(num_samples=500)


def run_python(code):
    """The last line a fresh interpreter prints, as JSON."""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(out.stdout.splitlines()[-1])


def test_import_loads_nothing_heavy():
    heavy = ["cupy", "jax", "llvmlite", "matplotlib", "numba", "scipy", "sklearn", "torch"]
    code = f"import dpo, sys, json; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    assert run_python(code) == []


def test_import_from_a_checkout_that_is_not_installed():
    """In the repository's folder Python finds ./dpo first, beside kernels/ and not around it."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)];"
    code += "import dpo, dpo.kernels, dpo.validation; print(dpo.__file__)"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert os.path.samefile(out.stdout.strip(), os.path.join(root, "dpo", "__init__.py"))


def test_a_call_loads_no_framework():
    code = (
        "import dpo, sys, json; dpo.perturbed_argmax([0.0, 1.0], seed=0, num_samples=2);"
        "print(json.dumps([m for m in ('torch', 'jax', 'cupy') if m in sys.modules]))"
    )
    assert run_python(code) == []


def test_two_python_threads_at_once():
    expected = LAYER(THETA, seed=0)
    results = [[] for _ in range(4)]

    def work(k):
        for _ in range(10):
            results[k].append(LAYER(THETA, seed=0))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(timeout=120)
    assert all(len(r) == 10 for r in results)
    for result in (y for r in results for y in r):
        np.testing.assert_array_equal(result, expected)


def test_changing_the_thread_count_during_calls(threads):
    expected = LAYER(THETA, seed=0)
    stop = threading.Event()
    failures = []

    def call():
        while not stop.is_set():
            if (LAYER(THETA, seed=0) != expected).any():
                failures.append("a result changed")

    worker = threading.Thread(target=call)
    worker.start()
    for n in (1, 3, 2, 4) * 5:
        threads(n)
        LAYER(THETA, seed=0)
    stop.set()
    worker.join(timeout=120)
    assert not failures and not worker.is_alive()


def _in_child(queue):
    queue.put(LAYER(THETA, seed=0))


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_forked_child():
    expected = LAYER(THETA, seed=0)  # the parent's pool is running
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    result = queue.get(timeout=120)
    child.join(timeout=60)
    assert child.exitcode == 0
    np.testing.assert_array_equal(result, expected)


def test_thread_count_from_the_environment():
    code = "import dpo, json; print(json.dumps(dpo.get_num_threads()))"
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**__import__("os").environ, "NUMBA_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(out.stdout) == 3


MEMORY = """
import json, resource, numpy as np, dpo
theta = np.zeros((2, 1000), np.float32)
layer = dpo.Perturbed(num_samples=1000)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def use(m):
    layer = dpo.Perturbed(num_samples=m)
    layer(theta, seed=0); layer.vjp(theta, theta, seed=0); layer.max(theta, seed=0)
use(1000)
before = peak()
use(100_000)
print(json.dumps(peak() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_memory_does_not_grow_with_the_samples():
    """A hundred times the samples, whose noise would take 800 MB; 2 MB are allowed for chance."""
    assert run_python(MEMORY) < 2048
