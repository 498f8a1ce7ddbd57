"""Identities between estimators: they see the same samples, so most hold exactly."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import adversarial_scores

import dpo

THETA = np.random.default_rng(0).standard_normal((3, 6))
V = np.random.default_rng(1).standard_normal((3, 6))


@pytest.fixture(params=["loo", "none"])
def layer(request, family):
    return dpo.Perturbed(noise=family, num_samples=700, variance_reduction=request.param)


def test_products_of_the_jacobian(layer):
    jacobian = layer.jacobian(THETA, seed=3)
    vjp, jvp = layer.vjp(THETA, V, seed=3), layer.jvp(THETA, V, seed=3)
    np.testing.assert_allclose(vjp, np.einsum("bi,bik->bk", V, jacobian), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jvp, np.einsum("bik,bk->bi", jacobian, V), rtol=1e-9, atol=1e-12)


def test_value_is_the_mean_of_the_samples(layer):
    samples = layer.samples(THETA, seed=3)
    assert samples.shape == (700, 3, 6)
    assert (samples.sum(-1) == 1).all()
    np.testing.assert_allclose(samples.mean(0), layer(THETA, seed=3), rtol=1e-15)


def test_estimates_are_the_methods(layer):
    pairs = [
        (layer.estimate(THETA, seed=3), layer(THETA, seed=3)),
        (layer.estimate(THETA, of="max", seed=3), layer.max(THETA, seed=3)),
        (layer.estimate(THETA, of="vjp", direction=V, seed=3), layer.vjp(THETA, V, seed=3)),
        (layer.estimate(THETA, of="jvp", direction=V, seed=3), layer.jvp(THETA, V, seed=3)),
        (layer.estimate(THETA, of="jacobian", seed=3), layer.jacobian(THETA, seed=3)),
    ]
    for estimate, direct in pairs:
        np.testing.assert_array_equal(estimate.mean, direct)
        assert estimate.standard_error.shape == direct.shape
        assert (estimate.standard_error >= 0).all() and estimate.num_samples == 700


def test_standard_errors_are_those_of_the_terms(family):
    """Against the textbook formula on materialised samples."""
    m = 700
    layer = dpo.Perturbed(noise=family, num_samples=m, variance_reduction="none")
    samples = layer.samples(THETA, seed=3)
    expected = samples.std(0, ddof=1) / np.sqrt(m)
    np.testing.assert_allclose(layer.estimate(THETA, seed=3).standard_error, expected, rtol=1e-12)


def test_finite_difference_of_max_is_the_value(family):
    """With the same seed ``Fbar`` is piecewise linear and its slope is ``ybar``, exactly."""
    layer = dpo.Perturbed(noise=family, num_samples=300)
    theta, h = THETA[0], 1e-9
    for i in range(6):
        step = h * np.eye(6)[i]
        slope = (layer.max(theta + step, seed=3) - layer.max(theta - step, seed=3)) / (2 * h)
        assert abs(slope - layer(theta, seed=3)[i]) < 1e-5


def test_one_sample_uses_the_plain_estimator(family):
    one = dict(noise=family, num_samples=1)
    loo, plain = dpo.Perturbed(**one), dpo.Perturbed(**one, variance_reduction="none")
    np.testing.assert_array_equal(loo.vjp(THETA, V, seed=3), plain.vjp(THETA, V, seed=3))
    np.testing.assert_array_equal(loo.jvp(THETA, V, seed=3), plain.jvp(THETA, V, seed=3))
    np.testing.assert_array_equal(loo.jacobian(THETA, seed=3), plain.jacobian(THETA, seed=3))
    assert np.isnan(loo.estimate(THETA, seed=3).standard_error).all()


def test_two_samples(family):
    """The smallest leave-one-out: each sample is centred by the other."""
    layer = dpo.Perturbed(noise=family, num_samples=2, epsilon=2.0)
    assert np.isfinite(layer.jacobian(THETA, seed=3)).all()
    constant = np.ones_like(V)
    assert (layer.vjp(THETA, constant, seed=3) == 0).all()


def test_leave_one_out_of_a_constant_direction_is_zero(family):
    """``<1, y> = 1`` always: its derivative is 0, and centring makes the estimate exactly so."""
    layer = dpo.Perturbed(noise=family, num_samples=333)
    np.testing.assert_allclose(layer.vjp(THETA, np.ones_like(V), seed=3), 0, atol=1e-12)
    np.testing.assert_allclose(layer.jacobian(THETA, seed=3).sum(1), 0, atol=1e-12)


def test_masked_scores(family, dtype):
    """-inf never wins and has derivative zero; +inf always wins; nothing is NaN."""
    theta = adversarial_scores(9, 7, dtype)
    layer = dpo.Perturbed(noise=family, num_samples=500)
    value = layer(theta, seed=1)
    masked = np.isneginf(theta) & np.isfinite(theta).any(-1, keepdims=True)
    assert (value[masked] == 0).all()
    always = np.isposinf(theta)
    assert (value[always.any(-1)].argmax(-1) == always[always.any(-1)].argmax(-1)).all()
    v = np.random.default_rng(2).standard_normal(theta.shape).astype(dtype)
    for derivative in (layer.vjp(theta, v, seed=1), layer.jvp(theta, v, seed=1)):
        assert np.isfinite(derivative).all()
    assert (layer.vjp(theta, v, seed=1)[np.isinf(theta)] == 0).all()
    assert (
        layer.jacobian(theta, seed=1)[np.isinf(theta).nonzero()[0][0]][:, np.isinf(theta[5])] == 0
    ).all()


def test_loss_of_masked_targets():
    theta = np.array([[0.0, -np.inf, 1.0]])
    assert np.isfinite(dpo.fenchel_young_loss(theta, [[1.0, 0.0, 0.0]], seed=0)).all()
    assert np.isposinf(dpo.fenchel_young_loss(theta, [[0.0, 1.0, 0.0]], seed=0)).all()


def test_loss_is_linear_in_the_target_up_to_its_constant(family):
    layer = dpo.Perturbed(noise=family, num_samples=100)
    a, b = np.eye(6)[[0, 1, 2]], np.eye(6)[[3, 4, 5]]
    mixed = layer.loss(THETA, (a + b) / 2, seed=0, normalize=False)
    parts = layer.loss(THETA, a, seed=0, normalize=False) + layer.loss(
        THETA, b, seed=0, normalize=False
    )
    np.testing.assert_allclose(mixed, parts / 2, rtol=1e-13)
