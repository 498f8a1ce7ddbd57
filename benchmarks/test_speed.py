"""Local A/B timings: ``pytest benchmarks/test_speed.py --benchmark-group-by=group``.

Each group holds the same call made in several ways. Nothing asserts a time: a slow machine is not
a defect. Compare two states of the tree with ``--benchmark-save`` and ``--benchmark-compare``.
"""

from __future__ import annotations

import numpy as np
import pytest

import dpo

pytest.importorskip("pytest_benchmark")

ROWS, D, M = 16, 1000, 1000


@pytest.fixture
def arrays():
    """``theta`` and ``v``, float64: each test casts to what it measures."""
    return np.random.default_rng(0).standard_normal((2, ROWS, D))


@pytest.fixture
def threads():
    """Sets the thread count for one test."""
    before = dpo.get_num_threads()
    yield dpo.set_num_threads
    dpo.set_num_threads(before)


@pytest.mark.benchmark(group="value: noise and dtype")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("noise", ["normal", "gumbel", "logistic"])
def test_noise(benchmark, arrays, noise, dtype):
    theta, _ = arrays.astype(dtype)
    y = benchmark(dpo.Perturbed(noise=noise, num_samples=M), theta, seed=0)
    np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-5)


@pytest.mark.benchmark(group="VJP: variance reduction")
@pytest.mark.parametrize("variance_reduction", ["loo", "none"])
def test_variance_reduction(benchmark, arrays, variance_reduction):
    """Leave-one-out needs the mean first: one more pass over the noise."""
    theta, v = arrays.astype("float32")
    layer = dpo.Perturbed(num_samples=M, variance_reduction=variance_reduction)
    gradient = benchmark(layer.vjp, theta, v, seed=0)
    assert np.isfinite(gradient).all()


@pytest.mark.benchmark(group="value and VJP: NumPy or torch")
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_interface(benchmark, arrays, kind):
    """torch's backward is handed the mean; ``vjp`` computes it again."""
    theta, v = arrays.astype("float32")
    layer = dpo.Perturbed(num_samples=M)
    if kind == "numpy":
        benchmark(lambda: (layer(theta, seed=0), layer.vjp(theta, v, seed=0)))
        return
    torch = pytest.importorskip("torch")
    theta, v = torch.from_numpy(theta).requires_grad_(), torch.from_numpy(v)

    def step():
        theta.grad = None
        layer(theta, seed=0).backward(v)

    benchmark(step)


@pytest.mark.benchmark(group="value: threads")
@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_threads(benchmark, arrays, threads, num_threads, rows):
    """One row is split by samples, many are split by rows."""
    threads(num_threads)
    theta = arrays[0, :rows].astype("float32")
    benchmark(dpo.Perturbed(num_samples=M), theta, seed=0)


@pytest.mark.benchmark(group="VJP around the limit of small problems (d = 16)")
@pytest.mark.parametrize("d", [16, 17])
def test_small_problems(benchmark, arrays, d):
    """Up to the limit one pass adds up ``sum y s^T``; above it the noise is drawn twice."""
    theta, v = arrays[:, :, :d].astype("float32")
    gradient = benchmark(dpo.Perturbed(num_samples=M).vjp, theta, v, seed=0)
    assert np.isfinite(gradient).all()
