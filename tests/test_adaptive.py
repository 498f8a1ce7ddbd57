"""Adaptive sampling: as many samples as each row needs, and no row more."""

from __future__ import annotations

import numpy as np
import pytest

import dpo

EASY_AND_HARD = np.array([[8.0, 0.0, 0.0], [0.1, 0.0, 0.0], [30.0, -30.0, 0.0]])
V = np.array([[1.0, 2.0, -1.0]] * 3)


@pytest.mark.parametrize("reduction", ["loo", "none", "antithetic", "qmc"])
@pytest.mark.parametrize("of", ["value", "max", "vjp", "jvp", "jacobian"])
def test_errors_are_within_the_tolerance(of, reduction):
    layer = dpo.Perturbed(num_samples=dpo.Adaptive(0.01), variance_reduction=reduction, epsilon=1.0)
    direction = V if of in ("vjp", "jvp") else None
    estimate = layer.estimate(EASY_AND_HARD, of=of, direction=direction, seed=0)
    assert (estimate.standard_error <= 0.01).all()
    assert estimate.num_samples.shape == (3,)
    assert (estimate.num_samples >= 256).all()


def test_easy_rows_stop_early():
    layer = dpo.Perturbed(num_samples=dpo.Adaptive(0.002), epsilon=1.0)
    easy, hard, sure = layer.estimate(EASY_AND_HARD, seed=0).num_samples
    assert hard > 16 * sure and easy == sure
    assert sure >= 500  # an outcome never seen is known to 1 / M only


def test_the_bound_holds():
    layer = dpo.Perturbed(num_samples=dpo.Adaptive(1e-9, max_samples=1000))
    estimate = layer.estimate(EASY_AND_HARD, seed=0)
    assert (estimate.num_samples == 1000).all()
    fixed = dpo.Perturbed(num_samples=1000).estimate(EASY_AND_HARD, seed=0)
    np.testing.assert_array_equal(estimate.mean, fixed.mean)
    np.testing.assert_array_equal(estimate.standard_error, fixed.standard_error)


@pytest.mark.parametrize("oracle", [dpo.Argmax(), dpo.TopK(2), dpo.Ranks()])
def test_a_row_is_that_of_its_number_of_samples(oracle):
    """The samples are the first M of the row's own: a layer with that M gives the same bits."""
    layer = dpo.Perturbed(oracle, num_samples=dpo.Adaptive(0.01))
    estimate = layer.estimate(EASY_AND_HARD, seed=5)
    np.testing.assert_array_equal(layer(EASY_AND_HARD, seed=5), estimate.mean)
    for b, m in enumerate(estimate.num_samples):
        fixed = dpo.Perturbed(oracle, num_samples=int(m))
        np.testing.assert_array_equal(fixed(EASY_AND_HARD, seed=5)[b], estimate.mean[b])


def test_batches_of_any_shape():
    layer = dpo.Perturbed(dpo.Ranks(), num_samples=dpo.Adaptive(0.05))
    theta = np.random.default_rng(0).standard_normal((2, 3, 4))
    assert layer.estimate(theta, seed=0).num_samples.shape == (2, 3)
    assert layer.estimate(theta[0, 0], seed=0).num_samples.shape == ()
    assert layer(theta[:0], seed=0).shape == (0, 3, 4)
    assert np.isfinite(layer.max(theta, seed=0)).all()
    assert np.isfinite(layer.vjp_epsilon(theta, theta, seed=0)).all()


def test_torch_gradients_use_the_forward_samples():
    torch = pytest.importorskip("torch")
    theta = torch.from_numpy(EASY_AND_HARD).requires_grad_()
    layer = dpo.Perturbed(num_samples=dpo.Adaptive(0.01))
    (layer(theta, seed=0) * torch.from_numpy(V)).sum().backward()
    counts = layer.estimate(EASY_AND_HARD, seed=0).num_samples
    for b, m in enumerate(counts):
        fixed = dpo.Perturbed(num_samples=int(m)).vjp(EASY_AND_HARD, V, seed=0)
        np.testing.assert_allclose(theta.grad[b].numpy(), fixed[b], rtol=1e-12)
    loss = layer.loss(theta, torch.eye(3, dtype=torch.float64), seed=0)
    loss.sum().backward()
    assert torch.isfinite(theta.grad).all()
