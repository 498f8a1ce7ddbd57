"""The fused kernels equal ``reference.py`` bit for bit: decisions, counts and float sums."""

from __future__ import annotations

import numpy as np
import pytest
from dpo.kernels import reference
from dpo.kernels.cpu import launch
from helpers import FAMILIES, SEED, adversarial_scores, call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SHAPES = [
    (75, 6, 1),
    (40, 35, 3),
    (67, 130, 8),
    (9, 1, 33),
    (9, 2, 1),
    (9, 5, 300),
    (3, 33, 257),
    (2, 130, 64),
    (1, 600, 70),
    (2, 4, 5000),
]


@pytest.mark.parametrize("rows, d, num_samples", SHAPES)
def test_decisions_and_counts(family, dtype, rows, d, num_samples):
    theta = adversarial_scores(rows, d, dtype)
    expected = reference.argmax_winners(theta, 0.5, FAMILIES[family], SEED, num_samples)
    ours = np.empty((rows, num_samples), np.int32)
    counts = call(theta, family, num_samples, decided=ours).counts
    assert (expected == ours.T).all()
    assert (
        counts == reference.argmax_counts(theta, 0.5, FAMILIES[family], SEED, num_samples)
    ).all()
    assert (call(theta, family, num_samples).counts == counts).all()


@pytest.mark.parametrize("rows, d, num_samples", SHAPES)
def test_float_sums(family, dtype, rows, d, num_samples):
    theta = adversarial_scores(rows, d, dtype, seed=1)
    theta = np.where(np.isposinf(theta), dtype(3), theta)
    rng = np.random.default_rng(5)
    v = rng.standard_normal((rows, d)).astype(dtype)
    mean = (call(theta, family, num_samples).counts / num_samples).astype(dtype)
    arguments = theta, 0.5, FAMILIES[family], SEED, num_samples
    maximum = call(theta, family, num_samples, launch.MAXIMUM)
    total, squares = reference.argmax_maximum(*arguments)
    np.testing.assert_array_equal(maximum.total[:, 0], total)
    np.testing.assert_array_equal(maximum.total_of_squares[:, 0], squares)
    vjp = call(theta, family, num_samples, launch.VJP, direction=v, mean=mean, squares=True)
    total, squares = reference.argmax_vjp(*arguments, v, mean)
    np.testing.assert_array_equal(vjp.total, total)
    np.testing.assert_array_equal(vjp.total_of_squares, squares)
    won = np.empty((rows, num_samples), np.int32)
    call(theta, family, num_samples, decided=won)
    again = call(theta, family, num_samples, launch.VJP, direction=v, mean=mean, decided=won)
    np.testing.assert_array_equal(again.total, total)
    jvp = call(theta, family, num_samples, launch.JVP, direction=v)
    np.testing.assert_array_equal(jvp.total, reference.argmax_jvp(*arguments, v))
    if d < 50:
        jacobian = call(theta, family, num_samples, launch.JACOBIAN).total
        expected = reference.argmax_jacobian(*arguments)
        np.testing.assert_array_equal(jacobian.reshape(expected.shape), expected)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_decisions_on_any_scores(data):
    """Ties, signed zeros, infinities, extreme magnitudes and temperatures."""
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    width = 32 if dtype == np.float32 else 64
    d = data.draw(st.integers(1, 40))
    pool = data.draw(
        st.lists(st.floats(allow_nan=False, width=width) | st.just(1.0), min_size=1, max_size=6)
    )
    row = data.draw(st.lists(st.sampled_from(pool), min_size=d, max_size=d))
    epsilon = data.draw(st.sampled_from([1e-20, 1e-6, 0.5, 30.0, 1e12]))
    family = data.draw(st.sampled_from(sorted(FAMILIES)))
    theta = np.array([row], dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = reference.argmax_counts(theta, epsilon, FAMILIES[family], SEED, 64)
    assert (call(theta, family, 64, epsilon=epsilon).counts == expected).all()


@pytest.mark.parametrize("spread", [0.0, 0.5, 5.0])
def test_dropped_quads_never_matter(family, dtype, spread):
    """At large d most coordinates are ruled out by an integer comparison, without effect."""
    rng = np.random.default_rng(6)
    theta = (rng.standard_normal((1, 5000)) * spread).astype(dtype)
    expected = reference.argmax_counts(theta, 0.5, FAMILIES[family], SEED, 96)
    assert (call(theta, family, 96).counts == expected).all()


def test_ties_after_rounding_go_to_the_lowest_index(dtype):
    """Scores so large that noise is lost in rounding: exact ties that must not be dropped."""
    theta = np.full((1, 100), 1e9 if dtype == np.float32 else 1e18, dtype)
    counts = call(theta, "normal", 64, epsilon=1e-3).counts
    expected = reference.argmax_counts(theta, 1e-3, FAMILIES["normal"], SEED, 64)
    assert (counts == expected).all()
    assert counts[0, 0] == 64
