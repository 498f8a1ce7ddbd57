"""Launches inside JAX programs: every oracle, shared between XLA's threads, whatever those do."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import dpo
from dpo._seeds import Place

jax = pytest.importorskip("jax")
jnp = jax.numpy

from dpo import _jax_cpu, _jax_ffi  # noqa: E402

SEED = 7
GRID = dpo.ShortestPath(neighbors=4, source=(0, 1), target=(-1, 0))
# Small and large, few samples and many, by the Jacobian (d <= 16) and with a memo or without.
CASES = {
    "paths, one sample": (dpo.ShortestPath(), (70, 12, 12), 1),
    "paths, few": (dpo.ShortestPath(), (40, 6, 5), 6),
    "paths": (GRID, (5, 7, 6), 60),
    "paths, small": (GRID, (3, 3, 4), 40),
    "paths, strands": (dpo.ShortestPath(), (1, 6, 6), 2000),
    "paths, a least cost": (dpo.ShortestPath(min_cost=0.3), (3, 5, 5), 20),
    "top-k, few": (dpo.TopK(3), (9, 30), 5),
    "top-k": (dpo.TopK(7), (9, 30), 200),
    "top-k, small": (dpo.TopK(3), (40, 12), 300),
    "top-k, sparse": (dpo.TopK(2), (9, 150), 300),
    "top-k, sparse strands": (dpo.TopK(2), (1, 300), 2000),
    "ranks, few": (dpo.Ranks(), (9, 30), 5),
    "ranks": (dpo.Ranks(), (9, 30), 200),
    "ranks, small": (dpo.Ranks(), (20, 7), 300),
}


def arrays(shape, dtype=np.float32):
    """Scores that are costs as well, and a direction."""
    theta, v = np.random.default_rng(0).standard_normal((2, *shape))
    return (np.abs(theta) + 0.5).astype(dtype), v.astype(dtype)


def both(layer):
    """The value and ``v^T J``."""

    def f(theta, v, seed):
        value, pull = jax.vjp(lambda x: layer(x, seed=seed), theta)
        return value, pull(v)[0]

    return f


def is_native(f, *args) -> bool:
    text = jax.jit(f).lower(*args).as_text()
    return "@dpo_" in text and "callback" not in text


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("reduction", ["loo", "none"])
def test_the_bits_of_numpy(case, reduction):
    oracle, shape, m = case
    theta, v = arrays(shape)
    layer = dpo.Perturbed(oracle, epsilon=0.6, num_samples=m, variance_reduction=reduction)

    def program(x, e, v):
        def at(e):
            return layer._at(e)

        value, pull = jax.vjp(lambda x: at(e)(x, seed=SEED), x)
        push = jax.jvp(lambda x: at(e)(x, seed=SEED), (x,), (v,))[1]
        slope = jax.grad(lambda x: at(e).max(x, seed=SEED).sum())(x)
        return value, pull(v)[0], push, at(e).max(x, seed=SEED), slope

    epsilon = np.float32(0.6)
    assert is_native(program, theta, epsilon, v)
    value, product, pushed, maximum, slope = jax.jit(program)(theta, epsilon, v)
    equal = np.testing.assert_array_equal
    equal(value, layer(theta, seed=SEED))
    equal(product, layer.vjp(theta, v, seed=SEED))
    equal(pushed, layer.jvp(theta, v, seed=SEED))
    equal(maximum, layer.max(theta, seed=SEED))
    sign = -1 if isinstance(oracle, dpo.ShortestPath) else 1
    equal(slope, sign * np.asarray(value))


@pytest.mark.parametrize("oracle", [GRID, dpo.TopK(2), dpo.Ranks()], ids=lambda o: type(o).__name__)
def test_derivatives_in_the_temperature(oracle, dtype):
    theta, v = arrays((4, 3, 7) if oracle is GRID else (4, 21), dtype)
    layer = dpo.Perturbed(oracle, epsilon=0.6, num_samples=90)
    with jax.enable_x64(dtype == np.float64):

        def program(x, e, v):
            def optimum(e):
                return layer._at(e)(x, seed=SEED)

            maximum = jax.grad(lambda e: layer._at(e).max(x, seed=SEED).sum())
            return jax.vjp(optimum, e)[1](v)[0], jax.jvp(optimum, (e,), (e / e,))[1], maximum(e)

        e = np.full((4, 1, 1) if oracle is GRID else (4, 1), 0.6, dtype)
        assert is_native(program, jnp.asarray(theta), jnp.asarray(e), jnp.asarray(v))
        pulled, pushed, slope = jax.jit(program)(theta, e, v)
    call = layer._at(e)._prepare(theta, Place(SEED), "value")[0].sampler
    rows = v.reshape(4, -1)
    expected = call.epsilon_vjp(rows, None, None).astype(dtype)
    np.testing.assert_array_equal(pulled.reshape(4, 1), expected)
    expected = call.epsilon_jvp(np.ones((4, 1), dtype)).astype(dtype)
    np.testing.assert_array_equal(pushed.reshape(4, -1), expected)
    maximum, _, mean = call.maximum()
    expected = call.epsilon_slope_of_maximum(maximum, mean).astype(dtype)
    np.testing.assert_array_equal(slope.reshape(4, 1), expected)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_do_not_depend_on_threads(threads, count):
    """The bound is read when a program runs, not when it is compiled."""
    programs, expected = [], []
    for oracle, shape, m in (
        (dpo.Argmax(), (64, 10), 700),
        (dpo.Argmax(), (1, 64), 5000),
        (dpo.Argmax(), (2000, 20), 4),
        (dpo.ShortestPath(), (70, 8, 8), 2),
    ):
        theta, v = arrays(shape)
        layer = dpo.Perturbed(oracle, num_samples=m)
        threads(3)
        programs.append(jax.jit(both(layer)).lower(theta, v, SEED).compile())
        expected.append((layer(theta, seed=SEED), layer.vjp(theta, v, seed=SEED)))
        threads(count)
        for a, b in zip(programs[-1](theta, v, SEED), expected[-1], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", ["argmax", "argmax_rows", "outer", "winners", "sparse", "paths"])
def test_mapped_calls_have_seeds_of_their_own(case):
    """Pieces of a launch may begin and end inside a call."""
    oracle, shape, m = {
        "argmax": (dpo.Argmax(), (3, 50), 20),
        "argmax_rows": (dpo.Argmax(), (70, 30), 3),
        "outer": (dpo.Argmax(), (60, 10), 400),
        "winners": (dpo.Argmax(), (16, 40), 500),
        "sparse": (dpo.TopK(2), (9, 150), 300),
        "paths": (dpo.ShortestPath(), (35, 6, 6), 2),
    }[case]
    theta, v = arrays((7, *shape))
    layer = dpo.Perturbed(oracle, num_samples=m)
    words = np.random.default_rng(1).integers(0, 2**32, (7, 2), dtype=np.uint32)
    mapped = jax.vmap(both(layer))
    assert is_native(mapped, theta, v, words)
    value, product = jax.jit(mapped)(theta, v, words)
    for i in range(7):
        np.testing.assert_array_equal(value[i], layer(theta[i], seed=words[i]))
        np.testing.assert_array_equal(product[i], layer.vjp(theta[i], v[i], seed=words[i]))


def test_many_programs_at_once():
    """From more Python threads than the pool has; each waits only for what is being computed."""
    layers = [
        dpo.Perturbed(num_samples=700),
        dpo.Perturbed(dpo.TopK(3), num_samples=300),
        dpo.Perturbed(dpo.Ranks(), num_samples=100),
    ]
    theta, v = arrays((64, 10))
    programs = [jax.jit(both(layer)) for layer in layers]
    alone = [jax.device_get(f(theta, v, SEED)) for f in programs]
    wrong = []

    def call(k: int) -> None:
        for i in range(12):
            f, expected = programs[(k + i) % 3], alone[(k + i) % 3]
            for a, b in zip(f(theta, v, SEED), expected, strict=True):
                if not np.array_equal(a, b):
                    wrong.append(k)

    callers = [threading.Thread(target=call, args=(k,)) for k in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


# ------------------------------------------------------------------------------------- processes

PRELUDE = """
    import threading, time
    import numpy as np, jax, dpo
    theta = np.random.default_rng(0).standard_normal((256, 32)).astype(np.float32)
    layer = dpo.Perturbed(num_samples=5000)
    f = jax.jit(jax.grad(lambda x, s: (layer(x, seed=s) ** 2).sum()))
"""


def process(body: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs a program in a process of its own, which must not hang."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_a_process_ends_while_programs_run():
    ended = process(
        """
        running = [f(theta, s) for s in range(4)]
        print("end", flush=True)
        """
    )
    assert ended.returncode == 0 and "end" in ended.stdout, ended.stderr


def test_a_process_ends_while_daemon_threads_call():
    """Python ends such threads where they wait for its lock, and JAX, if they wait inside of it,
    may then abort: whatever the program is."""
    ended = process(
        """
        def call():
            while True:
                jax.block_until_ready(f(theta, 0))

        jax.block_until_ready(f(theta, 0))
        for _ in range(3):
            threading.Thread(target=call, daemon=True).start()
        time.sleep(0.5)
        print("end", flush=True)
        """
    )
    assert ended.returncode in (0, -signal.SIGABRT) and "end" in ended.stdout, ended.stderr


@pytest.mark.parametrize("flags", ["", "--xla_cpu_multi_thread_eigen=false"])
def test_a_pool_of_one_thread_is_enough(flags):
    """The one that waits is then the one that helpers wait for."""
    ended = process(
        """
        import os
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        dpo.set_num_threads(4)
        y = jax.jit(lambda x, s: layer(x, seed=s))
        many = [y(theta, s) for s in range(4)]
        print(all(np.array_equal(many[s], layer(theta, seed=s)) for s in range(4)))
        """,
        XLA_FLAGS=flags,
    )
    assert ended.returncode == 0 and "True" in ended.stdout, ended.stderr


# ---------------------------------------------------------------------------------------- errors


def test_errors_of_solvers_are_those_of_the_layer():
    layer = dpo.Perturbed(dpo.ShortestPath(), num_samples=80)
    theta, v = arrays((50, 6, 6))
    for bad, message in ((np.inf, "an instance without a path of finite cost"), (np.nan, "NaN")):
        wrong = theta.copy()
        wrong[33, 2, :] = bad
        for f in (lambda x: layer(x, seed=0), lambda x: both(layer)(x, v, 0)):
            with pytest.raises(Exception, match=message):
                jax.block_until_ready(jax.jit(f)(wrong))
    with pytest.raises(Exception, match="a tangent must be finite"):
        jax.block_until_ready(jax.jit(lambda v: both(layer)(theta, v, 0))(v * np.nan))
    np.testing.assert_array_equal(jax.jit(lambda x: layer(x, seed=0))(theta), layer(theta, seed=0))


@pytest.mark.parametrize(("missing", "answers"), [(0, True), (8, False)])
def test_a_table_without_threads_is_refused(missing, answers):
    """A handler does not answer an interface that is too old to schedule helpers."""
    _jax_cpu.registered("argmax", "value", "float32")
    handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(
        _jax_cpu._handler("value", "float32")
    )
    api, metadata = _jax_ffi.Api(), _jax_ffi.Metadata()
    api.struct_size, api.version.minor = ctypes.sizeof(api) - missing, 3
    asks = _jax_ffi.MetadataExtension(metadata=ctypes.addressof(metadata))
    frame = _jax_ffi.CallFrame(
        struct_size=ctypes.sizeof(_jax_ffi.CallFrame),
        extension=ctypes.addressof(asks),
        api=ctypes.addressof(api),
    )
    assert handler(ctypes.addressof(frame)) is None
    assert metadata.version.minor == (3 if answers else 0)
