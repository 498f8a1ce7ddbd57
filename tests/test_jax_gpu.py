"""The callback of JAX programs on a GPU: on the simulator of CUDA kernels, in buffers of the CPU.

What is simulated is all but the memory and the stream: XLA calls back, CuPy's stand-in borrows the
buffers, kernels run thread by thread and results are written in place.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import simt.cupy

import dpo

jax = pytest.importorskip("jax")
jnp = jax.numpy

from jax.interpreters import mlir  # noqa: E402

from dpo import _jax  # noqa: E402

SEED = (3 << 32) | 9
WORDS = np.array([9, 3], np.uint32)
LAYERS = {
    "argmax": dpo.Perturbed(num_samples=24),
    "topk": dpo.Perturbed(dpo.TopK(2), noise="gumbel", num_samples=24),
    "antithetic ranks": dpo.Perturbed(dpo.Ranks(), num_samples=24, variance_reduction="antithetic"),
    "paths": dpo.Perturbed(dpo.ShortestPath(), num_samples=16),
}


@pytest.fixture
def launches(monkeypatch):
    """Programs for the CPU are lowered as for a GPU; the streams that were launched on."""
    device, streams = simt.cupy.Device(), []

    @contextmanager
    def launching(index, stream):
        streams.append((index, stream))
        yield

    simt.cupy.stand_in_for_programs(device, monkeypatch, launching)
    mlir.register_lowering(_jax.perturbed_p, _jax._on_gpu, platform="cpu")
    yield streams
    mlir.register_lowering(_jax.perturbed_p, _jax._compiled, platform="cpu")


def arrays(layer):
    rng = np.random.default_rng(0)
    theta, v = rng.uniform(0.5, 2, (2, 2, *((3, 3) if layer.oracle.event_ndim == 2 else (5,))))
    target = dpo.Perturbed(layer.oracle, epsilon=1e-6, num_samples=1)(theta + v, seed=0)
    return (x.astype(np.float32) for x in (theta, v, target))


def close(actual, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("name", LAYERS)
def test_programs_give_the_cpus_results(launches, name):
    layer = LAYERS[name]
    theta, v, target = arrays(layer)
    x, u, y = map(jnp.asarray, (theta, v, target))

    @jax.jit
    def program(x, e, words):
        def at(e):
            return layer._at(e)

        value, pullback = jax.vjp(lambda x, e: at(e)(x, seed=words), x, e)
        loss = jax.value_and_grad(lambda x: at(e).loss(x, y, seed=words).sum())
        push = jax.jvp(lambda x: at(e)(x, seed=words), (x,), (u,))[1]
        return value, pullback(u), push, loss(x)

    value, (by_theta, by_epsilon), pushed, (loss, residual) = program(x, jnp.array(0.5), WORDS)
    assert set(launches) == {(0, 7)}
    np.testing.assert_array_equal(value, layer(theta, seed=SEED))
    close(by_theta, layer.vjp(theta, v, seed=SEED))
    close(by_epsilon, layer.vjp_epsilon(theta, v, seed=SEED).sum())
    close(pushed, layer.jvp(theta, v, seed=SEED))
    close(loss, layer.loss(theta, target, seed=SEED).sum())
    sign = -1 if name == "paths" else 1
    close(residual, sign * (np.asarray(value) - target))


def test_mapped_calls_half_precision_and_errors(launches):
    layer = LAYERS["argmax"]
    theta, v, _ = arrays(layer)
    many, words = np.stack([theta, v]), np.array([[9, 3], [1, 2]], np.uint32)
    mapped = jax.jit(jax.vmap(lambda x, w: layer(x, seed=w)))(jnp.asarray(many), words)
    expected = [layer(t, seed=w) for t, w in zip(many, words, strict=True)]
    np.testing.assert_array_equal(mapped, expected)
    half = jnp.asarray(theta, jnp.bfloat16)
    y = jax.jit(lambda x: layer(x, seed=WORDS))(half)
    assert y.dtype == jnp.bfloat16
    expected = layer(np.asarray(half.astype(np.float32)), seed=SEED)
    np.testing.assert_array_equal(y, jnp.asarray(expected, jnp.bfloat16))
    with pytest.raises(Exception, match="theta contains NaN"):
        bad = jnp.asarray(theta).at[0, 0].set(jnp.nan)
        jax.block_until_ready(jax.jit(lambda x: layer(x, seed=WORDS))(bad))
