"""Rows and samples over four devices give what one device gives; numbers of rows and samples."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dpo

jax = pytest.importorskip("jax")
jnp = jax.numpy

ROOT = Path(__file__).parent.parent
SEED = (3 << 32) | 9

ON_FOUR_DEVICES = """
import dataclasses, os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import jax, numpy as np, dpo
from jax import numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P

mesh = jax.sharding.Mesh(np.array(jax.devices()), "i")
rng = np.random.default_rng(0)
theta, v = rng.standard_normal((2, 8, 5)).astype(np.float32)
words = np.array([9, 3], np.uint32)
x, u, key = jnp.asarray(theta), jnp.asarray(v), jnp.asarray(words)
equal, close = np.testing.assert_array_equal, np.testing.assert_allclose


def over(f, *specs, out):
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=out))


for oracle in (dpo.Argmax(), dpo.Ranks()):
    layer = dpo.Perturbed(oracle, num_samples=64)
    target = dpo.Perturbed(oracle, epsilon=1e-6, num_samples=1)(theta + v, seed=0)
    y = jnp.asarray(target)
    value, slope = layer(theta, seed=words), layer.vjp(theta, v, seed=words)
    first = lambda: 2 * jax.lax.axis_index("i")

    # Rows: values and gradients to the bit, forward and reverse.
    rows = over(
        lambda x, key: layer(x, seed=key, row_offset=first()), P("i"), P(), out=P("i")
    )
    equal(rows(x, key), value)
    equal(jax.grad(lambda x: (rows(x, key) * u).sum())(x), slope)
    equal(jax.jvp(lambda x: rows(x, key), (x,), (u,))[1], layer.jvp(theta, v, seed=words))

    # A loss of all rows, and one temperature for all: its gradient adds up over the devices.
    def loss(x, y, e, key):
        part = dataclasses.replace(layer, epsilon=e)
        return jax.lax.psum(part.loss(x, y, seed=key, row_offset=first()).sum(), "i")

    total = over(loss, P("i"), P("i"), P(), P(), out=P())
    e = jnp.array(0.5)
    sharded = jax.value_and_grad(total, (0, 2))(x, y, e, key)
    whole = lambda x, e: dataclasses.replace(layer, epsilon=e).loss(x, y, seed=key).sum()
    alone = jax.value_and_grad(whole, (0, 1))(x, e)
    close(sharded[0], alone[0], rtol=1e-6)
    equal(sharded[1][0], alone[1][0])
    close(sharded[1][1], alone[1][1], rtol=1e-5)

    # The same with an explicit mesh, where a type says how an array is placed.
    with jax.set_mesh(jax.make_mesh((4,), ("i",), (jax.sharding.AxisType.Explicit,))):
        placed = jax.device_put(theta, P("i", None))
        assert "i" in str(jax.typeof(placed))
        weighted = jax.jit(jax.grad(lambda x: (layer(x, seed=words) * v).sum()))(placed)
        equal(weighted, slope)

    # Samples: a quarter on every device; counts over a power of two add up without rounding.
    part = dataclasses.replace(layer, num_samples=16)
    samples = over(
        lambda x, key: jax.lax.pmean(
            part(x, seed=key, sample_offset=16 * jax.lax.axis_index("i")), "i"
        ),
        P(), P(), out=P(),
    )
    equal(samples(x, key), value)
    quarters = [part.vjp(theta, v, seed=words, sample_offset=16 * k) for k in range(4)]
    gradient = jax.grad(lambda x: (samples(x, key) * u).sum())(x)
    close(gradient, np.mean(quarters, 0), rtol=1e-5, atol=1e-6)

    # An array that is sharded, and a program that does not say so.
    spread = jax.device_put(x, NamedSharding(mesh, P("i")))
    equal(jax.jit(lambda x: layer(x, seed=key))(spread), value)
    equal(jax.jit(jax.grad(lambda x: (layer(x, seed=key) * u).sum()))(spread), slope)
print("equal")
"""


def test_four_devices_give_what_one_gives():
    run = [sys.executable, "-c", ON_FOUR_DEVICES]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        run, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment, check=False
    )
    assert done.stdout == "equal\n", done.stderr[-3000:]


LAYERS = {
    "plain": dpo.Perturbed(num_samples=32),
    "few": dpo.Perturbed(num_samples=2),
    "ranks": dpo.Perturbed(dpo.Ranks(), num_samples=32),
    "antithetic": dpo.Perturbed(num_samples=32, variance_reduction="antithetic"),
    "qmc": dpo.Perturbed(num_samples=32, variance_reduction="qmc"),
    "adaptive": dpo.Perturbed(num_samples=dpo.Adaptive(0.05)),
}
THETA, V = np.random.default_rng(1).standard_normal((2, 6, 5)).astype(np.float32)
numbered = pytest.mark.parametrize("traced", [False, True], ids=["number", "traced"])


def call(layer, theta, v, traced, **offsets):
    """Value and VJP of a part, the offsets being numbers or traced operands."""

    def both(x, u, **offsets):
        y, pullback = jax.vjp(lambda x: layer(x, seed=SEED, **offsets), x)
        return y, pullback(u)[0]

    if traced:
        return jax.jit(both)(jnp.asarray(theta), jnp.asarray(v), **offsets)
    return layer(theta, seed=SEED, **offsets), layer.vjp(theta, v, seed=SEED, **offsets)


@pytest.mark.parametrize("name", LAYERS)
@numbered
def test_a_part_of_the_rows_has_their_noise(name, traced):
    layer = LAYERS[name]
    whole = call(layer, THETA, V, traced)
    parts = [call(layer, THETA[k : k + 2], V[k : k + 2], traced, row_offset=k) for k in (0, 2, 4)]
    for of, expected in zip(zip(*parts, strict=True), whole, strict=True):
        np.testing.assert_array_equal(np.concatenate(of), expected)


@pytest.mark.parametrize("name", ["plain", "few", "ranks", "antithetic"])
@numbered
def test_parts_of_the_samples_add_up(name, traced):
    layer = LAYERS[name]
    m = 4 * layer.num_samples
    whole = dpo.Perturbed(layer.oracle, num_samples=m, variance_reduction=layer.variance_reduction)
    parts = [
        call(layer, THETA, V, traced, sample_offset=k * layer.num_samples)[0] for k in range(4)
    ]
    np.testing.assert_array_equal(np.mean(parts, 0), whole(THETA, seed=SEED))


def test_vmap_over_parts():
    parts = THETA.reshape(3, 2, 5)
    first = jnp.arange(0, 6, 2)
    mapped = jax.vmap(lambda x, k: LAYERS["plain"](x, seed=SEED, row_offset=k))
    for f in (mapped, jax.jit(mapped)):
        y = f(jnp.asarray(parts), first)
        np.testing.assert_array_equal(y.reshape(6, 5), LAYERS["plain"](THETA, seed=SEED))


@numbered
def test_offsets_that_cannot_be(traced):
    wrap = (lambda f: jax.jit(f)) if traced else (lambda f: f)
    for layer, offsets, message in (
        ("plain", {"row_offset": -1}, r"row_offset must be in 0 .. 2\*\*32 - 1, got -1"),
        ("plain", {"sample_offset": -1}, r"sample_offset must be in 0 .. 2\*\*32 - 1, got -1"),
        ("antithetic", {"sample_offset": 3}, "must be even for antithetic pairs"),
        ("qmc", {"sample_offset": 8}, "not for dpo.Adaptive"),
        ("adaptive", {"sample_offset": 8}, "not for dpo.Adaptive"),
    ):
        f = wrap(lambda x, layer=layer, **offsets: LAYERS[layer](x, seed=SEED, **offsets))
        with pytest.raises(Exception, match=message):
            jax.block_until_ready(f(jnp.asarray(THETA), **offsets))
    with pytest.raises(TypeError, match="row_offset must be an integer"):
        LAYERS["plain"](THETA, seed=SEED, row_offset=0.5)
    with pytest.raises(TypeError, match="row_offset must be an integer"):
        jax.jit(lambda k: LAYERS["plain"](jnp.asarray(THETA), seed=SEED, row_offset=k))(0.5)
