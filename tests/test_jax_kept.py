"""In JAX programs a value leaves its mean and, where that is small, what it decided."""

from __future__ import annotations

import numpy as np
import pytest

import dpo

jax = pytest.importorskip("jax")

from dpo import _jax_operands as operands  # noqa: E402
from dpo._engine import Sampler  # noqa: E402
from dpo._jax_operations import Spec  # noqa: E402

CASES = {
    "argmax, outer sums": (dpo.Argmax(), (64, 10), 700, "loo"),
    "argmax, outer sums, plain": (dpo.Argmax(), (64, 10), 700, "none"),
    "argmax, winners": (dpo.Argmax(), (16, 40), 500, "loo"),
    "argmax, winners, plain": (dpo.Argmax(), (16, 40), 500, "none"),
    "top-k": (dpo.TopK(2), (6, 30), 100, "loo"),
    "top-k, plain": (dpo.TopK(2), (6, 30), 100, "none"),
    "ranks": (dpo.Ranks(), (6, 12), 100, "loo"),
    "paths": (dpo.ShortestPath(), (3, 5, 6), 40, "loo"),
    "paths, plain": (dpo.ShortestPath(), (3, 5, 6), 40, "none"),
    "paths, one sample": (dpo.ShortestPath(), (35, 5, 6), 1, "loo"),
    "paths, few samples": (dpo.ShortestPath(), (35, 5, 6), 3, "loo"),
    "paths, a pair": (dpo.ShortestPath(), (35, 5, 6), 2, "antithetic"),
    "paths, few samples of many cells": (dpo.ShortestPath(), (35, 40, 40), 3, "loo"),
    "paths, few samples whose words vmap makes large": (dpo.ShortestPath(), (35, 22, 22), 3, "loo"),
    "top-k, few samples": (dpo.TopK(2), (6, 30), 7, "loo"),
    "top-k of one": (dpo.TopK(1), (6, 1), 3, "loo"),
    "ranks, few samples": (dpo.Ranks(), (40, 9), 5, "loo"),
    "ranks, a pair": (dpo.Ranks(), (40, 9), 2, "antithetic"),
    "ranks, only their mean": (dpo.Ranks(), (6, 40), 100, "loo"),
    "top-k, only the mean of many": (dpo.TopK(2), (2, 30), 150_000, "loo"),
    "argmax, only the mean of many": (dpo.Argmax(), (2, 20), 150_000, "loo"),
    "ranks of pairs, only their mean": (dpo.Ranks(), (6, 40), 100, "antithetic"),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    oracle, shape, num_samples, reduction = request.param
    rng = np.random.default_rng(3)
    theta, v = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    if oracle == dpo.ShortestPath():
        theta = np.abs(theta) + 2
    layer = dpo.Perturbed(oracle, num_samples=num_samples, variance_reduction=reduction)
    return layer, theta, v


def count_launches(monkeypatch) -> list[int]:
    """The operations launched from here on."""
    operations: list[int] = []
    launch = Sampler._launch

    def counted(self, operation, **parameters):
        operations.append(operation)
        return launch(self, operation, **parameters)

    monkeypatch.setattr(Sampler, "_launch", counted)
    return operations


def facts(layer, theta):
    """What a program that takes a value of ``layer`` is told."""
    spec = Spec("value", layer._at(1.0), theta.ndim)
    ones = np.ones(theta.shape[: -layer.oracle.event_ndim] + (1,) * layer.oracle.event_ndim)
    return operands.facts(spec, theta, None, None, ones)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_gradients_are_those_that_decide_again(case, compiled, monkeypatch):
    layer, theta, v = case

    def both(theta, epsilon):
        value, pull = jax.vjp(lambda t, e: layer._at(e)(t, seed=5), theta, epsilon)
        return value, *pull(v)

    assert facts(layer, theta).kept > 0
    function = jax.jit(both) if compiled else both
    operations = count_launches(monkeypatch)
    value, by_theta, by_epsilon = function(theta, np.float32(0.5))
    jax.block_until_ready(by_epsilon)
    kept = list(operations)
    np.testing.assert_array_equal(value, layer(theta, seed=5))
    np.testing.assert_array_equal(by_theta, layer.vjp(theta, v, seed=5))
    np.testing.assert_allclose(
        by_epsilon, layer.vjp_epsilon(theta, v, seed=5).sum(dtype=np.float32), rtol=1e-5
    )
    monkeypatch.setattr(Sampler, "kept_words", lambda self: 0)
    operands.checked.cache_clear()
    try:
        operations.clear()
        again = (jax.jit(lambda *x: both(*x)) if compiled else both)(theta, np.float32(0.5))
        jax.block_until_ready(again)
    finally:
        operands.checked.cache_clear()
    for a, b in zip((value, by_theta, by_epsilon), again, strict=True):
        np.testing.assert_array_equal(a, b)
    if compiled:
        assert not kept and not operations  # by handlers, which launch without Python
    elif layer.variance_reduction == "loo" and layer.num_samples > 1:
        assert len(kept) < len(operations)
    else:  # what nothing is centred by decides as it accumulates
        assert len(kept) <= len(operations)


@pytest.mark.parametrize("name", [name for name in CASES if "only" in name])
def test_what_is_too_large_leaves_the_mean_alone(name):
    oracle, shape, num_samples, reduction = CASES[name]
    layer = dpo.Perturbed(oracle, num_samples=num_samples, variance_reduction=reduction)
    assert facts(layer, np.zeros(shape, np.float32)).kept == 2 * shape[-1]


def test_on_a_gpu_nothing_is_kept(case, monkeypatch):
    """By arrays of the CPU that are said to be elsewhere."""
    layer, theta, v = case
    monkeypatch.setattr("dpo._jax._is_on_cpu", lambda x: False)
    monkeypatch.delattr(Sampler, "packed_forward")
    monkeypatch.delattr(Sampler, "unpacked")
    value, pull = jax.vjp(lambda t: layer(t, seed=5), theta)
    np.testing.assert_array_equal(value, layer(theta, seed=5))
    np.testing.assert_array_equal(pull(v)[0], layer.vjp(theta, v, seed=5))


def test_under_vmap_rows_keep_what_they_decided(case):
    layer, theta, v = case
    many, tangents = np.stack([theta, theta + 1, 2 * theta]), np.stack([v, v, -v])
    keys = jax.random.split(jax.random.key(1), 3)

    def gradient(theta, v, key):
        return jax.vjp(lambda t: layer(t, seed=key), theta)[1](v)[0]

    mapped = jax.jit(jax.vmap(gradient))(many, tangents, keys)
    shared = jax.jit(jax.vmap(gradient, (0, 0, None)))(many, tangents, keys[0])
    for i in range(3):
        np.testing.assert_array_equal(
            mapped[i],
            layer.vjp(many[i], tangents[i], seed=np.asarray(jax.random.key_data(keys[i]))),
        )
        np.testing.assert_array_equal(shared[i], gradient(many[i], tangents[i], keys[0]))


def test_small_programs_keep_nothing():
    for m in (1, 100):
        layer = dpo.Perturbed(num_samples=m)
        assert facts(layer, np.zeros((4, 5), np.float32)).kept == 0


def test_a_second_derivative_is_still_an_error(case):
    layer, theta, v = case

    def slope(theta):
        return (jax.grad(lambda t: (layer(t, seed=1) * v).sum())(theta) ** 2).sum()

    with pytest.raises(NotImplementedError, match="differentiated twice"):
        jax.grad(slope)(theta)
