"""What holds for every oracle: sums, shapes, gradients, losses, independence of rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import dpo
from dpo._seeds import Place

ORACLES = {
    "argmax": dpo.Argmax(),
    "topk": dpo.TopK(3),
    "ranks": dpo.Ranks(),
    "path": dpo.ShortestPath(neighbors=4),
    "path-8": dpo.ShortestPath(source=(1, 2), target=(0, 0)),
}
REDUCTIONS = ("loo", "none", "antithetic", "qmc")
RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((4, 6))
COSTS = RNG.uniform(2, 4, (4, 5, 4))
WIDE = RNG.standard_normal((2, 30))


@pytest.fixture(params=ORACLES)
def oracle(request):
    return ORACLES[request.param]


@pytest.fixture(params=REDUCTIONS)
def reduction(request):
    return request.param


def inputs(oracle, dtype=np.float64):
    """Scores (or costs) and a direction."""
    theta = COSTS if isinstance(oracle, dpo.ShortestPath) else SCORES
    v = np.random.default_rng(1).standard_normal(theta.shape)
    return theta.astype(dtype), v.astype(dtype)


def dot(a, b, axes):
    return np.einsum("bi,bi->b", a.reshape(len(a), -1), b.reshape(len(b), -1)) if axes else a * b


def test_solutions_lie_in_the_set(oracle, family):
    theta, _ = inputs(oracle)
    y = dpo.Perturbed(oracle, family, num_samples=64).samples(theta, seed=0)
    assert y.shape == (64, *theta.shape)
    if isinstance(oracle, dpo.Ranks):
        assert (np.sort(y, -1) == np.arange(1, 7)).all()
    elif isinstance(oracle, dpo.ShortestPath):
        assert set(np.unique(y)) == {0, 1}
        for row, column in (oracle.source, oracle.target):
            assert (y[:, :, row, column] == 1).all()
    else:
        assert (y.sum(-1) == getattr(oracle, "k", 1)).all()


@pytest.mark.parametrize("m", [1, 2, 8, 16, 640])
def test_products_of_the_jacobian(oracle, reduction, family, m):
    theta, v = inputs(oracle)
    layer = dpo.Perturbed(oracle, family, num_samples=m, variance_reduction=reduction)
    jacobian = layer.jacobian(theta, seed=3).reshape(4, theta[0].size, theta[0].size)
    vjp = layer.vjp(theta, v, seed=3).reshape(4, -1)
    jvp = layer.jvp(theta, v, seed=3).reshape(4, -1)
    flat = v.reshape(4, -1)
    close = dict(rtol=1e-8, atol=1e-9 * abs(jacobian).max() * abs(flat).max() * flat.shape[1])
    np.testing.assert_allclose(vjp, np.einsum("bi,bik->bk", flat, jacobian), **close)
    np.testing.assert_allclose(jvp, np.einsum("bik,bk->bi", jacobian, flat), **close)


@pytest.mark.parametrize("perturbation", ["additive", "multiplicative"])
@pytest.mark.parametrize("one_a_row", [True, False], ids=["a temperature a row", "a coordinate"])
@pytest.mark.parametrize("m", [8, 320])
def test_adjoints_at_any_temperature(oracle, reduction, perturbation, one_a_row, m):
    """``<v, J t> = <J^T v, t>``, with error bars and without."""
    theta, v = inputs(oracle)
    theta[1] = abs(theta[1]) + 0.1
    t = np.random.default_rng(2).standard_normal(theta.shape)
    shape = len(theta) if one_a_row else theta.shape
    epsilon = np.random.default_rng(3).uniform(0.2, 0.6, shape)
    layer = dpo.Perturbed(
        oracle,
        epsilon=epsilon,
        num_samples=m,
        variance_reduction=reduction,
        perturbation=perturbation,
    )
    vjp, jvp = layer.vjp(theta, v, seed=3), layer.jvp(theta, t, seed=3)
    size = abs(v).sum() * abs(jvp).max()
    np.testing.assert_allclose(dot(vjp, t, 1), dot(v, jvp, 1), rtol=1e-8, atol=1e-10 * size)
    estimate = layer.estimate(theta, of="vjp", direction=v, seed=3)
    np.testing.assert_array_equal(estimate.mean, vjp)


@pytest.mark.parametrize("one_a_row", [True, False], ids=["a temperature a row", "a coordinate"])
@pytest.mark.parametrize("m", [8, 320])
def test_adjoints_in_the_temperature(oracle, reduction, family, one_a_row, m):
    """``<v, dy / d eps t> = <v^T dy / d eps, t>``: what was kept of a value serves the second."""
    theta, v = inputs(oracle)
    rows, d = len(theta), theta[0].size
    rng = np.random.default_rng(3)
    epsilon = rng.uniform(0.2, 0.6, rows if one_a_row else theta.shape)
    t = rng.standard_normal((rows, 1 if one_a_row else d))
    if isinstance(oracle, dpo.ShortestPath):
        oracle = dataclasses.replace(oracle, min_cost=0.3)
    layer = dpo.Perturbed(
        oracle, family, epsilon=epsilon, num_samples=m, variance_reduction=reduction
    )
    sampler = layer._prepare(theta, Place(3), "vjp")[0].sampler
    pushed = sampler.epsilon_jvp(t)
    pulled = sampler.epsilon_vjp(v.reshape(rows, d), None, None)
    size = abs(v).sum() * abs(pushed).max()
    close = dict(rtol=1e-8, atol=1e-10 * size)
    np.testing.assert_allclose(dot(pulled, t, 1), dot(v.reshape(rows, d), pushed, 1), **close)


def test_value_is_the_mean_of_the_samples(oracle, reduction):
    theta, _ = inputs(oracle)
    layer = dpo.Perturbed(oracle, num_samples=320, variance_reduction=reduction)
    np.testing.assert_allclose(
        layer.samples(theta, seed=3).mean(0), layer(theta, seed=3), rtol=1e-14
    )


def test_estimates_are_the_methods(oracle, reduction):
    theta, v = inputs(oracle)
    layer = dpo.Perturbed(oracle, num_samples=320, variance_reduction=reduction)
    for of, direct in [
        ("value", layer(theta, seed=3)),
        ("max", layer.max(theta, seed=3)),
        ("vjp", layer.vjp(theta, v, seed=3)),
        ("jvp", layer.jvp(theta, v, seed=3)),
        ("jacobian", layer.jacobian(theta, seed=3)),
    ]:
        direction = v if of in ("vjp", "jvp") else None
        estimate = layer.estimate(theta, of=of, direction=direction, seed=3)
        np.testing.assert_array_equal(estimate.mean, direct)
        assert (estimate.standard_error >= 0).all() and estimate.num_samples == 320


def test_plain_standard_errors_are_those_of_the_terms(oracle, family):
    """Against the textbook formula on materialised samples: values and, by pairs, antithetic."""
    theta, _ = inputs(oracle)
    layer = dpo.Perturbed(oracle, family, num_samples=320, variance_reduction="none")
    error = layer.estimate(theta, seed=3).standard_error
    np.testing.assert_allclose(error, _error(layer.samples(theta, seed=3)), rtol=1e-10)
    layer = dpo.Perturbed(oracle, family, num_samples=320, variance_reduction="antithetic")
    pairs = layer.samples(theta, seed=3).reshape(160, 2, *theta.shape).mean(1)
    error = layer.estimate(theta, seed=3).standard_error
    np.testing.assert_allclose(error, _error(pairs), rtol=1e-10, atol=1e-12)
    layer = dpo.Perturbed(oracle, family, num_samples=320, variance_reduction="qmc")
    sets = layer.samples(theta, seed=3).reshape(16, 20, *theta.shape).mean(1)
    error = layer.estimate(theta, seed=3).standard_error
    np.testing.assert_allclose(error, _error(sets), rtol=1e-10, atol=1e-12)


def _error(terms):
    return terms.std(0, ddof=1) / np.sqrt(len(terms))


def test_antithetic_samples_mirror_symmetric_noise():
    """With the identity's stand-in, ranks of two scores: a pair is (r, mirrored r)."""
    layer = dpo.Perturbed(dpo.Ranks(), num_samples=100, variance_reduction="antithetic")
    y = layer.samples(np.zeros((1, 2)), seed=0)
    assert (y[0::2] == 3 - y[1::2]).all()


def test_max_of_gumbel_noise_is_a_soft_maximum(reduction):
    """``F_eps = eps (logsumexp(theta / eps) + gamma)``, under every design of samples."""
    layer = dpo.Perturbed(
        noise="gumbel", epsilon=0.5, num_samples=16_000, variance_reduction=reduction
    )
    estimate = layer.estimate(SCORES, of="max", seed=3)
    exact = 0.5 * (np.log(np.exp(SCORES / 0.5).sum(-1)) + np.euler_gamma)
    assert (abs(estimate.mean - exact) < 6 * estimate.standard_error).all()


def test_finite_difference_of_max_is_the_value(oracle, reduction, family):
    """With the same seed ``Fbar`` is piecewise linear and its slope is ``ybar``, exactly."""
    theta, v = inputs(oracle)
    layer = dpo.Perturbed(
        oracle, family, num_samples=320, epsilon=0.4, variance_reduction=reduction
    )
    sign = -1 if isinstance(oracle, dpo.ShortestPath) else 1
    h = 1e-8
    slope = (layer.max(theta + h * v, seed=3) - layer.max(theta - h * v, seed=3)) / (2 * h)
    np.testing.assert_allclose(slope, sign * dot(layer(theta, seed=3), v, 1), atol=2e-5)


def test_loss_and_its_gradient(oracle, reduction):
    """Its slope is ``ybar - target`` (negative for costs), and a step against it descends."""
    theta, v = inputs(oracle)
    layer = dpo.Perturbed(oracle, num_samples=320, epsilon=0.4, variance_reduction=reduction)
    target = dpo.Perturbed(oracle, num_samples=1).samples(theta, seed=9)[0]
    sign = -1 if isinstance(oracle, dpo.ShortestPath) else 1
    h = 1e-8
    up, down = (layer.loss(theta + s * h * v, target, seed=3) for s in (1, -1))
    gradient = sign * (layer(theta, seed=3) - target)
    np.testing.assert_allclose((up - down) / (2 * h), dot(gradient, v, 1), atol=2e-5)
    step = theta - 0.1 * gradient
    assert (layer.loss(step, target, seed=3) < layer.loss(theta, target, seed=3)).all()


def test_rows_are_independent(oracle, reduction):
    """Value, gradient and the noise of a row know nothing of its neighbours or their number."""
    theta, v = inputs(oracle)
    layer = dpo.Perturbed(oracle, num_samples=320, variance_reduction=reduction)
    changed = theta.copy()
    changed[1:] += 1
    for call in (lambda t, w: layer(t, seed=3), lambda t, w: layer.vjp(t, w, seed=3)):
        np.testing.assert_array_equal(call(theta, v)[0], call(changed, v)[0])
        np.testing.assert_array_equal(call(theta, v)[:1], call(theta[:1], v[:1]))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtypes_and_layouts(oracle, dtype):
    """Any dtype comes back; strided, Fortran-ordered, read-only and empty inputs work."""
    theta, v = (x.astype(dtype) for x in inputs(oracle))
    layer = dpo.Perturbed(oracle, num_samples=50)
    expected = layer(theta, seed=0)
    assert expected.dtype == dtype and expected.shape == theta.shape
    frozen = theta.copy()
    frozen.setflags(write=False)
    padded = np.stack([theta, theta], 1)[:, 0]
    for same in (np.asfortranarray(theta), padded, frozen):
        np.testing.assert_array_equal(layer(same, seed=0), expected)
        np.testing.assert_array_equal(layer.vjp(same, v, seed=0), layer.vjp(theta, v, seed=0))
    empty = theta[:0]
    assert layer(empty, seed=0).shape == empty.shape
    assert layer.vjp(empty, v[:0], seed=0).shape == empty.shape
    assert layer.max(empty, seed=0).shape == (0,)


def test_masked_scores():
    """-inf comes last: never among the k largest, smallest ranks, derivative zero, no NaN."""
    theta = SCORES.copy()
    theta[:, 2] = -np.inf
    v = np.ones_like(theta)
    ranks = dpo.Perturbed(dpo.Ranks(), num_samples=100)
    assert (ranks(theta, seed=0)[:, 2] == 1).all()
    topk = dpo.Perturbed(dpo.TopK(5), num_samples=100)
    assert (topk(theta, seed=0)[:, 2] == 0).all()
    for layer in (ranks, topk):
        for x in (layer.vjp(theta, v, seed=0), layer.jvp(theta, v, seed=0)):
            assert np.isfinite(x).all()
        assert (layer.vjp(theta, v, seed=0)[:, 2] == 0).all()
        assert np.isfinite(layer.vjp_epsilon(theta, v, seed=0)).all()
    all_but_one = np.full((1, 4), -np.inf)
    all_but_one[0, 3] = 0
    assert (dpo.perturbed_topk(all_but_one, 2, seed=0) == [[1, 0, 0, 1]]).all()
    assert (dpo.perturbed_ranks(all_but_one, seed=0) == [[3, 2, 1, 4]]).all()


def test_top_k_is_a_threshold_on_ranks(family):
    """The same noise: the k largest are those of rank above d - k."""
    ranks = dpo.Perturbed(dpo.Ranks(), family, num_samples=200).samples(WIDE, seed=0)
    for k in (1, 7, 29, 30):
        top = dpo.Perturbed(dpo.TopK(k), family, num_samples=200).samples(WIDE, seed=0)
        assert (top == (ranks > 30 - k)).all()


# ------------------------------------------------------------------------------------------- grids


def test_walls_are_walked_around():
    costs = np.ones((3, 3))
    costs[1, :2] = np.inf
    y = dpo.perturbed_shortest_path(costs, neighbors=4, epsilon=0.01, target=(2, 0), seed=0)
    np.testing.assert_array_equal(y, [[1, 1, 1], [0, 0, 1], [1, 1, 1]])


def test_ends_for_each_instance():
    costs = np.ones((2, 3, 3)) * 2
    y = dpo.perturbed_shortest_path(
        costs, epsilon=0.01, source=[(0, 0), (2, 2)], target=[(0, 2), (2, 2)], seed=0
    )
    np.testing.assert_array_equal(y[0, 0, [0, 2]], [1, 1])
    np.testing.assert_array_equal(y[1], np.diag([0, 0, 1]))
    alone = dpo.perturbed_shortest_path(costs[0], epsilon=0.01, target=(0, 2), seed=0)
    np.testing.assert_array_equal(y[0], alone)


def test_costs_are_clipped_from_below():
    """Noise far below the costs: every path costs at least ``min_cost`` a cell."""
    layer = dpo.Perturbed(dpo.ShortestPath(min_cost=1.0), epsilon=50.0, num_samples=2000)
    y = layer.samples(np.ones((3, 3)), seed=0)
    assert (y.sum((-2, -1)) <= 9).all() and (y.sum((-2, -1)) >= 3).all()
    layer = dpo.Perturbed(dpo.ShortestPath(min_cost=1e6), epsilon=50.0, num_samples=200)
    np.testing.assert_array_equal(layer(np.ones((3, 3)), seed=0), np.eye(3))
