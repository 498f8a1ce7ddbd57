"""Temperatures: arrays of them, derivatives in them, and multiplicative noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr
from test_oracles import COSTS, SCORES, inputs

import dpo
from dpo._seeds import Place

M = 400_000
Z_LIMIT = 5.0  # about one false alarm in a million entries


def test_one_for_each_instance(family):
    epsilon = np.array([0.1, 0.5, 1.0, 3.0])
    layer = dpo.Perturbed(noise=family, epsilon=epsilon, num_samples=300)
    for call in (
        lambda layer, t: layer(t, seed=0),
        lambda layer, t: layer.vjp(t, np.cos(t), seed=0),
        lambda layer, t: layer.max(t, seed=0),
    ):
        batch = call(layer, SCORES)
        np.testing.assert_array_equal(
            call(dpo.Perturbed(noise=family, epsilon=0.1, num_samples=300), SCORES)[0], batch[0]
        )
        whole = call(dpo.Perturbed(noise=family, epsilon=epsilon[:, None], num_samples=300), SCORES)
        np.testing.assert_array_equal(whole, batch)


def test_one_for_each_coordinate():
    """Two scores: their difference is normal, whatever the two temperatures."""
    theta, epsilon = np.array([[0.3, 0.0]]), np.array([[0.5, 2.0]])
    layer = dpo.Perturbed(epsilon=epsilon, num_samples=M)
    scale = np.sqrt((epsilon**2).sum())
    p, density = ndtr(0.3 / scale), np.exp(-0.5 * (0.3 / scale) ** 2) / np.sqrt(2 * np.pi)
    assert_close(layer.estimate(theta, seed=0), [[p, 1 - p]])
    v = np.array([[1.0, 0.0]])
    slope = density / scale
    assert_close(layer.estimate(theta, of="vjp", direction=v, seed=1), [[slope, -slope]])
    by_epsilon = -density * 0.3 / scale**3 * epsilon  # d Phi(0.3 / scale) / d eps_i
    np.testing.assert_allclose(layer.vjp_epsilon(theta, v, seed=2), by_epsilon, atol=6e-3)


def assert_close(estimate, exact):
    error = estimate.standard_error
    assert (np.abs(estimate.mean - exact) < Z_LIMIT * error + 1e-9).all()
    assert (error < 0.01).all()


ORACLES = {
    "argmax": dpo.Argmax(),
    "topk": dpo.TopK(2),
    "ranks": dpo.Ranks(),
    "path": dpo.ShortestPath(),
    "path-clipped": dpo.ShortestPath(min_cost=2.5),
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("reduction", ["loo", "antithetic", "qmc"])
@pytest.mark.parametrize("perturbation", ["additive", "multiplicative"])
def test_derivative_of_the_value(name, reduction, perturbation):
    """Against the difference quotient of independent values, each with its standard error."""
    oracle = ORACLES[name]
    theta, v = inputs(oracle)
    theta, v = theta[:2], v[:2]
    shared = dict(num_samples=M // 20, variance_reduction=reduction, perturbation=perturbation)
    copies = 16
    many = np.repeat(theta, copies, axis=0)
    w = np.repeat(v, copies, axis=0)
    slopes = dpo.Perturbed(oracle, epsilon=0.8, **shared).vjp_epsilon(many, w, seed=1)
    h = 0.1

    def along(epsilon, seed):
        y = dpo.Perturbed(oracle, epsilon=epsilon, **shared)(many, seed=seed)
        return (y * w).reshape(2, copies, -1).sum(-1)

    # Richardson: fourth order in h, so the quotient's own error is below the noise.
    near = (along(0.8 + h / 2, 2) - along(0.8 - h / 2, 3)) / h
    far = (along(0.8 + h, 4) - along(0.8 - h, 5)) / (2 * h)
    quotients, slopes = (4 * near - far) / 3, slopes.reshape(2, copies)
    error = np.sqrt((quotients.var(1, ddof=1) + slopes.var(1, ddof=1)) / copies)
    assert (abs(quotients.mean(1) - slopes.mean(1)) < 6 * error + 1e-3 * abs(v).sum() / 50).all()


@pytest.mark.parametrize("name", ["argmax", "topk", "ranks", "path"])
@pytest.mark.parametrize("noise", ["normal", "gumbel"])
@pytest.mark.parametrize("shape", ["scalar", "instance", "coordinate"])
def test_derivative_of_max_and_loss_in_torch(name, noise, shape):
    """The same samples: a finite difference reproduces the gradient of ``max`` and the loss."""
    torch = pytest.importorskip("torch")
    oracle = ORACLES[name]
    scores, _ = inputs(oracle)
    theta = torch.from_numpy(scores)
    epsilon = {
        "scalar": torch.tensor(0.4, dtype=torch.float64),
        "instance": torch.linspace(0.2, 0.5, 4, dtype=torch.float64),
        "coordinate": torch.linspace(0.2, 0.5, theta[0].numel(), dtype=torch.float64).reshape(
            1, *theta.shape[1:]
        ),
    }[shape]
    target = dpo.Perturbed(oracle, num_samples=1).samples(theta, seed=9)[0]

    def value(e, kind):
        layer = dpo.Perturbed(oracle, noise, e, num_samples=200)
        return (
            layer.max(theta, seed=0) if kind == "max" else layer.loss(theta, target, seed=0)
        ).sum()

    direction = torch.rand(epsilon.shape, dtype=torch.float64)
    for kind in ("max", "loss"):
        leaf = epsilon.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(leaf, kind), leaf)
        assert gradient.shape == epsilon.shape
        h = 1e-7
        quotient = (value(epsilon + h * direction, kind) - value(epsilon - h * direction, kind)) / (
            2 * h
        )
        assert float((gradient * direction).sum()) == pytest.approx(float(quotient), abs=2e-4)


def test_torch_learns_a_temperature():
    """Value gradients reach an epsilon that requires one, in its own shape and dtype."""
    torch = pytest.importorskip("torch")
    theta = torch.from_numpy(SCORES).float().requires_grad_()
    epsilon = torch.nn.Parameter(torch.tensor([[0.5], [1.0], [1.5], [2.0]]))
    layer = dpo.Perturbed(epsilon=epsilon, num_samples=500)
    v = torch.ones(4, 6).cumsum(1)
    (layer(theta, seed=0) * v).sum().backward()
    expected = layer.vjp_epsilon(theta.detach(), v, seed=0)
    torch.testing.assert_close(epsilon.grad[:, 0], expected.detach())
    torch.testing.assert_close(theta.grad, layer.vjp(theta.detach(), v, seed=0).detach())
    loss = layer.loss(theta, torch.eye(6)[:4], seed=0).sum()
    (slope,) = torch.autograd.grad(loss, epsilon, create_graph=True)
    with pytest.raises(NotImplementedError, match="derivatives in epsilon are not"):
        slope.sum().backward()


def test_multiplicative_noise_keeps_signs_and_zeros():
    layer = dpo.Perturbed(dpo.Ranks(), epsilon=1.0, num_samples=500, perturbation="multiplicative")
    theta = np.array([[-1.0, 0.0, 2.0, 3.0]])
    y = layer.samples(theta, seed=0)
    assert (y[..., 0] == 1).all() and (y[..., 1] == 2).all()
    assert (layer.vjp(theta, np.ones((1, 4)) + np.arange(4), seed=0)[0, 1] == 0).all()


def test_multiplicative_pair():
    """Two positive scores: P(first wins) = Phi(log(a / b) / (eps sqrt 2)), and E max."""
    a, b, epsilon = 1.5, 1.0, 0.7
    layer = dpo.Perturbed(epsilon=epsilon, num_samples=M, perturbation="multiplicative")
    theta = np.array([[a, b]])
    x = np.log(a / b) / (epsilon * np.sqrt(2))
    assert_close(layer.estimate(theta, seed=0), [[ndtr(x), ndtr(-x)]])
    density = np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi) / (epsilon * np.sqrt(2))
    v = np.array([[1.0, 0.0]])
    assert_close(
        layer.estimate(theta, of="vjp", direction=v, seed=1), [[density / a, -density / b]]
    )
    # Margrabe's formula for the exchange of two log-normal values.
    s = epsilon * np.sqrt(2)
    plus = np.log(a / b) / s + s / 2
    maximum = b + a * ndtr(plus) - b * ndtr(plus - s)
    assert_close(layer.estimate(theta, of="max", seed=2), [maximum])


def test_multiplicative_max_has_the_slope_of_its_samples():
    torch = pytest.importorskip("torch")
    layer = dpo.Perturbed(
        ORACLES["path"], epsilon=0.5, num_samples=200, perturbation="multiplicative"
    )
    theta = torch.from_numpy(COSTS).requires_grad_()
    (gradient,) = torch.autograd.grad(layer.max(theta, seed=0).sum(), theta)
    v, h = np.cos(np.arange(COSTS.size)).reshape(COSTS.shape), 1e-7
    quotient = (layer.max(COSTS + h * v, seed=0) - layer.max(COSTS - h * v, seed=0)).sum() / (2 * h)
    assert float((gradient.numpy() * v).sum()) == pytest.approx(quotient, abs=1e-5)


@pytest.mark.parametrize("oracle", [dpo.Argmax(), dpo.TopK(2), dpo.Ranks()], ids=str)
@pytest.mark.parametrize("method", ["mc", "exact"])
def test_a_constant_in_the_scores_adds_no_noise(oracle, method):
    """It changes no decision, and so must not change a derivative: an estimate least of all."""
    theta = np.array([[0.25, -0.5, 1.0, 0.0], [0.5, -np.inf, 0.125, 0.0]])
    v, t = np.array([[1.0, 0.5, 2.0, -1.0], [1.0, 0.0, 2.0, -1.0]]), np.array([[1.0], [2.0]])
    layer = dpo.Perturbed(oracle, num_samples=64, method=method)
    for shift in (32.0, 4096.0):
        moved, here = (layer.vjp_epsilon(x, v, seed=1) for x in (theta + shift, theta))
        np.testing.assert_allclose(moved, here, rtol=1e-9)
        call, _ = layer._prepare(theta + shift, Place(1), "value")
        other, _ = layer._prepare(theta, Place(1), "value")
        moved, here = (c.sampler.epsilon_jvp(t) for c in (call, other))
        np.testing.assert_allclose(moved, here, rtol=1e-9, atol=1e-12)
    single = layer.vjp_epsilon((theta + 4096).astype(np.float32), v.astype(np.float32), seed=1)
    np.testing.assert_allclose(single, layer.vjp_epsilon(theta, v, seed=1), rtol=1e-4)


@pytest.mark.parametrize("oracle", [dpo.Argmax(), dpo.TopK(2), dpo.Ranks()], ids=str)
def test_a_maximum_that_is_infinite_has_a_slope_in_the_temperature(oracle):
    theta = np.array([[0.3, np.inf, 0.5, -0.1]])
    layer = dpo.Perturbed(oracle, num_samples=100_000)
    call, _ = layer._prepare(theta, Place(1), "max")
    maximum, _, mean = call.sampler.maximum()
    exact, _ = dpo.Perturbed(oracle, method="exact")._prepare(theta, Place(1), "max")
    expected = exact.sampler.epsilon_slope_of_maximum(None, None)
    assert np.isinf(maximum).all()
    ours = call.sampler.epsilon_slope_of_maximum(maximum, mean)
    np.testing.assert_allclose(ours, expected, atol=0.08)


def test_slopes_of_scores_that_multiplicative_noise_leaves_alone():
    """``dF / d theta_i = E[y_i w_i]``, and where theta_i is 0 the weight and y are independent."""
    layer = dpo.Perturbed(
        dpo.ShortestPath(4), epsilon=0.3, perturbation="multiplicative", num_samples=50_000
    )
    costs = np.array([[0.0, 1.0], [1.25, 1.0]])
    call, _ = layer._prepare(costs, Place(1), "max")
    slope = call.sampler.slope_of_maximum(call.sampler.maximum()[2])
    step = 1e-3
    for i in range(4):
        there = costs.ravel() + step * np.eye(4)[i]
        change = layer.max(there.reshape(2, 2), seed=1) - layer.max(costs, seed=1)
        np.testing.assert_allclose(slope[0, i], change / step, atol=0.01)
    top = dpo.Perturbed(perturbation="multiplicative", num_samples=64)
    call, _ = top._prepare(np.array([[0.0, -1.0, -2.0]]), Place(1), "max")
    np.testing.assert_array_equal(
        call.sampler.slope_of_maximum(call.sampler.maximum()[2]), [[1.0, 0.0, 0.0]]
    )
