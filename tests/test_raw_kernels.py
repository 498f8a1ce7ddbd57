"""``dpo.kernels``: the low-level interface gives the sums that the layer is made of."""

from __future__ import annotations

import numpy as np
import pytest
from dpo.kernels import noise, raw

import dpo
from dpo import kernels

SEED, M = (7, 0), 96
RNG = np.random.default_rng(0)


def converter(kind):
    """From NumPy to another framework's arrays."""
    if kind == "numpy":
        return lambda x: x
    module = pytest.importorskip(kind)
    return module.from_numpy if kind == "torch" else module.numpy.asarray


@pytest.mark.parametrize("kind", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("name", ["argmax", "topk", "ranks", "grid_path"])
def test_launches_are_what_layers_are_made_of(kind, name):
    convert = converter(kind)
    theta = RNG.uniform(0.5, 2, (3, 20)).astype(np.float32)
    v = RNG.standard_normal((3, 20)).astype(np.float32)
    oracles = {
        "argmax": (dpo.Argmax(), ()),
        "topk": (dpo.TopK(4), (4,)),
        "ranks": (dpo.Ranks(), ()),
        "grid_path": (dpo.ShortestPath(4), ((4, 5),)),
    }
    oracle, options = oracles[name]
    shaped = theta.reshape(3, 4, 5) if name == "grid_path" else theta
    layer = dpo.Perturbed(oracle, num_samples=M, epsilon=0.25, variance_reduction="none")
    given = {"epsilon": 0.25, "seed": SEED, "num_samples": M}
    if name == "grid_path":
        given["neighbors"] = 4
    call = getattr(kernels, name)
    counts = call(convert(theta), *options, **given).counts
    assert counts.dtype == np.int64
    value = layer(shaped, seed=SEED).reshape(theta.shape)
    np.testing.assert_array_equal((counts[:, 0] / M).astype(np.float32), value)
    sums = call(convert(theta), *options, operation="vjp", direction=convert(v), **given).totals
    sign = -1 if name == "grid_path" else 1
    expected = layer.vjp(shaped, v.reshape(shaped.shape), seed=SEED).reshape(theta.shape)
    np.testing.assert_allclose(sign * sums[:, 0] / M / 0.25, expected, rtol=2e-5, atol=1e-5)
    best = call(convert(theta), *options, operation="max", **given).totals[:, 0, 0]
    np.testing.assert_allclose(sign * best / M, layer.max(shaped, seed=SEED), rtol=1e-5)


def test_families_are_numbered_as_noise_numbers_them():
    assert [getattr(noise, name.upper()) for name in raw._FAMILIES] == [0, 1, 2]


def test_temperatures_rows_and_samples():
    theta = RNG.standard_normal((4, 9))
    epsilon = RNG.uniform(0.2, 1, (4, 9))
    given = {"seed": SEED, "noise": "gumbel"}
    whole = kernels.argmax(theta, epsilon=epsilon, num_samples=M, **given).counts
    parts = [
        kernels.argmax(theta[2:], epsilon=epsilon[2:], num_samples=M // 2, row_ids=np.arange(2, 4),
                       sample_offset=first, **given).counts
        for first in (0, M // 2)
    ]  # fmt: skip
    np.testing.assert_array_equal(sum(parts), whole[2:])


def test_errors_say_what_would_be_right():
    theta = np.zeros((2, 5), np.float32)
    given = {"seed": SEED, "num_samples": 8}
    for call, message in (
        (lambda: kernels.argmax(theta[0], **given), r"theta must be \(rows, d\)"),
        (lambda: kernels.argmax(theta.astype(int), **given), "float32 or float64"),
        (lambda: kernels.topk(theta, 6, **given), r"k must be in 1\.\.5"),
        (lambda: kernels.argmax(theta, operation="mean", **given), "operation must be one of"),
        (lambda: kernels.argmax(theta, operation="vjp", **given), "direction is for"),
        (lambda: kernels.grid_path(theta, (2, 3), **given), "shape must be that of 5 cells"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
