"""Small calls of the plain argmax run compiled from end to end: bit for bit what launches give."""

from __future__ import annotations

import numpy as np
import pytest
from dpo.kernels.codes import ANTITHETIC, Draws, Problem
from dpo.kernels.cpu import small
from dpo.kernels.noise import GUMBEL, LOGISTIC, NORMAL

from dpo._engine import Sampler

SIZES = [(1, 2, 1), (3, 5, 7), (40, 3, 2), (70, 21, 8), (2, 40, 33), (1, 300, 600), (0, 4, 3)]


def sampler(rows, d, num_samples, dtype, family=NORMAL, **parameters):
    rng = np.random.default_rng(rows + d)
    theta = rng.normal(size=(rows, d)).astype(dtype)
    if rows and d > 4:
        theta[0, :2] = -np.inf
    epsilon = rng.uniform(0.3, 2.0, size=(rows, 1)).astype(dtype)
    draws = Draws(family, (7, 8), num_samples, **parameters.pop("draws", {}))
    return Sampler(Problem(total=1.0), theta, epsilon, draws, **parameters)


def results(one: Sampler):
    """Everything that small calls serve."""
    v = np.random.default_rng(1).normal(size=one.theta.shape).astype(one.theta.dtype)
    kept = one.forward()
    value, error, mean = one.maximum()
    return kept.mean, value, error, mean, one.vjp(v)[0], one.vjp(v, kept)[0]


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("family", [NORMAL, GUMBEL, LOGISTIC])
@pytest.mark.parametrize("rows, d, num_samples", SIZES)
def test_the_bits_are_those_of_launches(rows, d, num_samples, family, dtype, centred, monkeypatch):
    one = sampler(rows, d, num_samples, dtype, family, centred=centred)
    assert one._small() is small
    compiled = results(one)
    monkeypatch.setattr(small, "serves", lambda *_: False)
    launched = results(one)
    for a, b in zip(compiled, launched, strict=True):
        assert a.dtype == b.dtype == np.float64 and a.shape == b.shape
        np.testing.assert_array_equal(a, b)


def test_rows_and_samples_keep_their_names(dtype):
    """A part of a batch, and a later block of samples, see the noise that they see in the whole."""
    whole = sampler(6, 5, 20, dtype)
    part = whole.of_rows(np.array([4, 1]))
    np.testing.assert_array_equal(part.forward().mean, whole.forward().mean[[4, 1]])
    blocks = [
        whole._replace(draws=whole.draws._replace(num_samples=n, sample_offset=first))
        for first, n in ((0, 12), (12, 8))
    ]
    counts = sum(np.rint(b.forward().mean * b.num_samples) for b in blocks)
    np.testing.assert_array_equal(counts / 20, whole.forward().mean)


def test_what_they_leave_serves_a_launch(monkeypatch, dtype):
    """A forward pass may be small and its backward with standard errors a launch."""
    one = sampler(3, 40, 30, dtype)
    v = np.ones_like(one.theta)
    kept = one.forward(for_gradient=True)
    assert kept.memo is not None
    with_errors = one.vjp(v, kept, errors=True)
    again = one.vjp(v, errors=True)
    np.testing.assert_array_equal(with_errors[0], again[0])
    np.testing.assert_array_equal(with_errors[1], again[1])


@pytest.mark.parametrize(
    "one",
    [
        sampler(2, 50_000, 100, np.float32),
        sampler(2, 5, 4, np.float32, draws={"design": ANTITHETIC}),
        sampler(2, 5, 4, np.float32, draws={"multiplicative": True}),
        sampler(2, 5, 4, np.float32)._replace(problem=Problem("ranks")),
        sampler(2, 5, 4, np.float32)._replace(epsilon=np.ones((2, 5), np.float32)),
    ],
    ids=["large", "pairs", "multiplicative", "ranks", "coordinates"],
)
def test_other_calls_are_launched(one):
    assert one._small() is None
