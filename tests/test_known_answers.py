"""MATH section 6: exact answers within five standard errors at a million samples."""

from __future__ import annotations

import numpy as np
import pytest
from dpo.kernels import reference

import dpo

M = 1_000_000
GUMBEL_THETA = np.array([-0.6, 1.9, -0.2, 1.1, -1.0])
GUMBEL_P = np.array([0.005493, 0.815223, 0.012225, 0.164591, 0.002468])
NORMAL_THETA = np.array([-0.6, -0.5, 0.5])
NORMAL_P = np.array([0.049813, 0.069767, 0.880420])
NORMAL_J = np.array(
    [
        [0.153473, -0.024133, -0.129340],
        [-0.024133, 0.197733, -0.173599],
        [-0.129340, -0.173599, 0.302939],
    ]
)
ROUNDING = 6e-7  # of the printed answers


def check(estimate, exact):
    """Within five standard errors: at most about one false alarm in a million entries."""
    assert (np.abs(estimate.mean - exact) < 5 * estimate.standard_error + ROUNDING).all()
    assert (estimate.standard_error < 0.01).all()


@pytest.fixture(params=["loo", "none"])
def layers(request):
    shared = dict(epsilon=0.5, num_samples=M, variance_reduction=request.param)
    return dpo.Perturbed(noise="gumbel", **shared), dpo.Perturbed(noise="normal", **shared)


def test_value(layers, dtype):
    gumbel, normal = layers
    check(gumbel.estimate(GUMBEL_THETA.astype(dtype), seed=1), GUMBEL_P)
    check(normal.estimate(NORMAL_THETA.astype(dtype), seed=2), NORMAL_P)


def test_max(layers):
    check(layers[0].estimate(GUMBEL_THETA, of="max", seed=3), 2.290754)


def test_vjp(layers):
    """The gradient of ``sum p^2`` is the VJP with ``v = 2 p``."""
    exact = np.array([-0.015081, 0.402259, -0.033234, -0.347138, -0.006806])
    check(layers[0].estimate(GUMBEL_THETA, of="vjp", direction=2 * GUMBEL_P, seed=4), exact)


def test_jacobian_and_its_products(layers):
    normal = layers[1]
    check(normal.estimate(NORMAL_THETA, of="jacobian", seed=5), NORMAL_J)
    direction = np.array([1.0, 2.0, -3.0])
    check(
        normal.estimate(NORMAL_THETA, of="vjp", direction=direction, seed=6), direction @ NORMAL_J
    )
    check(
        normal.estimate(NORMAL_THETA, of="jvp", direction=direction, seed=7), NORMAL_J @ direction
    )


def test_fenchel_young():
    theta, target = np.array([0.1, 0.3, -0.2]), np.eye(3)[0]
    layer = dpo.Perturbed(noise="gumbel", epsilon=0.5, num_samples=M)
    error = layer.estimate(theta, of="max", seed=8).standard_error
    plain = layer.loss(theta, target, seed=8, normalize=False)
    assert abs(plain - 0.844641) < 5 * error
    logistic_loss = 0.5 * np.log(np.exp(theta / 0.5).sum()) - theta[0]
    assert abs(layer.loss(theta, target, seed=8) - logistic_loss) < 5 * error
    gradient = layer(theta, seed=8) - target
    assert np.abs(gradient - [-0.671121, 0.490629, 0.180492]).max() < 0.003


def test_softmax_limit_at_any_temperature():
    for epsilon in (0.05, 1.0, 20.0):
        layer = dpo.Perturbed(noise="gumbel", epsilon=epsilon, num_samples=M)
        weights = np.exp((GUMBEL_THETA - GUMBEL_THETA.max()) / epsilon)
        check(layer.estimate(GUMBEL_THETA, seed=9), weights / weights.sum())


# ----------------------------------------------------------------------------------- other oracles


def test_ranks(dtype):
    layer = dpo.Perturbed(dpo.Ranks(), epsilon=0.1, num_samples=M)
    theta = np.array([1, 20, 7.3, 7.35], dtype)
    check(layer.estimate(theta, seed=10), [1, 4, 2.361837, 2.638163])


def test_topk(dtype):
    layer = dpo.Perturbed(dpo.TopK(2), "gumbel", epsilon=1.0, num_samples=M)
    exact = [0.138234, 0.888089, 0.204306, 0.676156, 0.093215]
    check(layer.estimate(GUMBEL_THETA.astype(dtype), seed=11), exact)


def test_two_paths(dtype):
    """P(through the cheaper cell) and its derivative in both costs."""
    costs = np.array([[1.0, 2.0], [2.3, 1.0]], dtype)
    layer = dpo.Perturbed(dpo.ShortestPath(neighbors=4), epsilon=0.5, num_samples=M)
    check(layer.estimate(costs, seed=12), [[1, 0.664313], [1 - 0.664313, 1]])
    v = np.array([[0, 1], [0, 0]], dtype)
    slope = layer.estimate(costs, of="vjp", direction=v, seed=13)
    check(slope, [[0, -0.515630], [0.515630, 0]])


def test_unperturbed_paths():
    ones = np.ones((4, 4))
    layer = dpo.Perturbed(dpo.ShortestPath(), epsilon=1e-9, num_samples=50)
    np.testing.assert_array_equal(layer(ones, seed=0), np.eye(4))
    blocked = ones.copy()
    blocked[1, 1] = 5
    around = np.zeros((4, 4))
    around[[0, 0, 1, 2, 3], [0, 1, 2, 2, 3]] = 1
    # Without noise the tie rule decides; with it, the mirror image is as likely.
    ((y,),) = reference.grid_path(
        blocked.reshape(1, 1, 16), (4, 4, 8, 0), np.array([[0, 15]])
    ).reshape(1, 1, 1, 4, 4)[0]
    np.testing.assert_array_equal(y, around)
