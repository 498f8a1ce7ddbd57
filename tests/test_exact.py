"""Exact expectations: their error, their derivatives, extreme scores, and what is refused."""

from __future__ import annotations

import functools as ft
import itertools as it

import mpmath
import numpy as np
import pytest
from dpo.kernels.codes import Problem
from dpo.kernels.exact import launch as exact_launch
from dpo.kernels.exact import laws, nodes
from dpo.kernels.exact.codes import MOMENTS, VALUE
from dpo.kernels.noise import FAMILIES, GUMBEL, LOGISTIC, NORMAL
from scipy.integrate import quad_vec
from scipy.special import expit, log_expit, log_ndtr, ndtr

import dpo
from dpo._seeds import Place

NOISES = ("normal", "gumbel", "logistic")
ORACLES = (dpo.Argmax(), dpo.TopK(2), dpo.TopK(4), dpo.Ranks())
PRECISIONS = {np.float64: 1e-12, np.float32: 2e-6}


def exact(oracle=dpo.Argmax(), noise="normal", epsilon=1.0, **parameters):  # noqa: B008
    return dpo.Perturbed(oracle, noise, epsilon=epsilon, method="exact", **parameters)


# ------------------------------------------------------------------------------------------- laws


def _law(family, u):
    """``-log G, r, f, Q, G`` at ``u`` in 40 digits."""
    u = mpmath.mpf(float(u))
    if family == NORMAL:
        above, below = (mpmath.erfc(s * u / mpmath.sqrt(2)) / 2 for s in (1, -1))
        f = mpmath.npdf(u)
    elif family == GUMBEL:
        e = mpmath.exp(-u)
        below, above = mpmath.exp(-e), -mpmath.expm1(-e)
        f = e * below
    else:
        below, above = 1 / (1 + mpmath.exp(-u)), 1 / (1 + mpmath.exp(u))
        f = below * above
    minus_log = -mpmath.log1p(-above) if above < 0.5 else -mpmath.log(below)
    return [float(x) for x in (minus_log, f / below, f, above, below)]


@pytest.mark.parametrize("dtype, limit", [(np.float64, 8e-15), (np.float32, 5e-6)])
@pytest.mark.parametrize(
    "family, low, high", [(NORMAL, -9, 11), (GUMBEL, -4, 60), (LOGISTIC, -60, 60)]
)
def test_laws_keep_relative_accuracy_in_both_tails(family, low, high, dtype, limit):
    with mpmath.workdps(40):
        u = np.linspace(low, high, 201).astype(dtype)
        expected = np.array([_law(family, x) for x in u]).T
        actual = np.array([*laws.hazard(family, u), *laws.density(family, u)], np.float64)
        np.testing.assert_allclose(actual, expected, rtol=limit, atol=1e-37)
        np.testing.assert_allclose(laws.hazard_alone(family, u), expected[1], rtol=limit)


@pytest.mark.parametrize("family", [NORMAL, GUMBEL, LOGISTIC])
def test_slopes_of_laws_are_derivatives(family):
    u, h = np.linspace(-3.5, 6, 50), 1e-5
    r = laws.hazard_alone(family, u)
    up, down = (laws.hazard_alone(family, u + s) for s in (h, -h))
    slope = laws.hazard_slope(family, u, r)
    np.testing.assert_allclose(slope, (up - down) / (2 * h), rtol=1e-6, atol=1e-9)
    up, down = (laws.hazard_slope(family, u + s, laws.hazard_alone(family, u + s)) for s in (h, -h))
    bend = laws.hazard_bend(family, u, r)
    np.testing.assert_allclose(bend, (up - down) / (2 * h), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("family", [NORMAL, GUMBEL, LOGISTIC])
def test_differences_are_derivatives_of_their_integral(family):
    """``H = K'`` and so on, across the switch from series to formula at 1."""
    x, h = np.linspace(-3, 3, 121) + 1e-3, 1e-4
    of_difference, slope, bend, _ = laws.difference(family, x)

    def integral(x):
        y = laws.difference(family, x)
        return y[3] + x * y[0]

    np.testing.assert_allclose(
        of_difference, (integral(x + h) - integral(x - h)) / (2 * h), atol=1e-8
    )
    up, down = (laws.difference(family, x + s) for s in (h, -h))
    np.testing.assert_allclose(slope, (up[0] - down[0]) / (2 * h), atol=1e-8)
    np.testing.assert_allclose(bend, (up[1] - down[1]) / (2 * h), atol=1e-8)


# ------------------------------------------------------------------------- against other quadrature

_CDF = {"normal": ndtr, "gumbel": lambda u: np.exp(-np.exp(-u)), "logistic": expit}
_PDF = {
    "normal": lambda u: np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi),
    "gumbel": lambda u: np.exp(-u - np.exp(-u)),
    "logistic": lambda u: expit(u) * expit(-u),
}
_RANGE = {"normal": 12.0, "gumbel": 45.0, "logistic": 50.0}


def _adaptive(theta, epsilon, noise, inner):
    """``int f_i(t) inner_i(chances of all to lie below t) dt`` by adaptive quadrature."""

    def integrand(t):
        u = (t - theta) / epsilon
        return _PDF[noise](u) / epsilon * inner(_CDF[noise](u))

    reach = _RANGE[noise] * np.max(epsilon)
    points = np.concatenate([theta, theta - 3 * epsilon, theta + 3 * epsilon])
    return quad_vec(
        integrand,
        theta.min() - reach,
        theta.max() + reach,
        points=np.sort(points),
        epsabs=1e-14,
        epsrel=1e-14,
        limit=10_000,
    )[0]


def _others(below):
    """Everyone's others, (d, d - 1)."""
    return np.array([np.delete(below, i) for i in range(len(below))])


def _inner(oracle):
    if isinstance(oracle, dpo.Ranks):
        return lambda below: 1 + _others(below).sum(1)
    k = getattr(oracle, "k", 1)

    def fewer_than_k_above(below):
        others = _others(below)
        chances = np.zeros((k, len(below)))
        chances[0] = 1
        for g in others.T:
            chances[1:] = chances[1:] * g + chances[:-1] * (1 - g)
            chances[0] *= g
        return chances.sum(0)

    return fewer_than_k_above


_ADVERSARIAL = {
    "random": np.array([0.3, -1.2, 0.8, 0.1, -0.4]),
    "equal": np.zeros(5),
    "two groups": np.array([0.0, 0.0, 2.5, 2.5, 2.5]),
    "one far up": np.array([9.0, 0.0, 0.1, 0.2, 0.3]),
    "spread": np.array([-30.0, -3.0, 0.0, 3.0, 30.0]),
}


@pytest.mark.parametrize("name", _ADVERSARIAL)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_values_equal_adaptive_quadrature(oracle, noise, name):
    theta = _ADVERSARIAL[name]
    for epsilon in (0.2, 20.0, np.array([0.5, 1.0, 2.0, 0.7, 1.5])):
        expected = _adaptive(theta, np.broadcast_to(epsilon, 5), noise, _inner(oracle))
        for dtype, limit in PRECISIONS.items():
            actual = exact(oracle, noise, epsilon)(theta.astype(dtype))
            np.testing.assert_allclose(actual, expected, rtol=0, atol=5 * limit)


def _reference_argmax(theta, epsilon, noise):
    """The trapezoid rule once more, twenty times as fine, on SciPy's functions."""
    x = (theta - theta.max()) / epsilon
    t = np.arange(-9.0, 10.0, 0.02) if noise == "normal" else np.arange(-45.0, 55.0, 0.05)
    total = np.zeros(len(x))
    for part in np.array_split(t, 1 + len(t) * len(x) // 2**21):
        u = part[:, None] - x
        if noise == "normal":
            log_cdf = log_ndtr(u)
            hazard = np.exp(-0.5 * u * u - 0.5 * np.log(2 * np.pi) - log_cdf)
        else:
            log_cdf, hazard = log_expit(u), expit(-u)
        total += np.exp(log_cdf.sum(1)) @ hazard
    return total * (t[1] - t[0])


def _many_scores(d):
    rng = np.random.default_rng(d)
    yield rng.normal(size=d)
    yield np.zeros(d)
    yield np.r_[3.0, np.zeros(d - 1)]
    yield np.linspace(0, 1, d)
    yield -np.geomspace(1e-3, 20, d)


@pytest.mark.parametrize("noise", ["normal", "logistic"])
@pytest.mark.parametrize("d", [2, 100, 1000, 32000])
def test_the_argmax_of_many(d, noise):
    for theta, epsilon in it.product(_many_scores(d), (0.1, 1.0, 1e3)):
        if d > 1000 and (epsilon != 1.0 or np.ptp(theta) in (0, 1)):
            continue  # the reference takes long
        for dtype, limit in PRECISIONS.items():
            scores = theta.astype(dtype)
            expected = _reference_argmax(scores.astype(float), float(dtype(epsilon)), noise)
            actual = exact(noise=noise, epsilon=epsilon)(scores)
            assert np.abs(actual - expected).max() <= limit
            assert abs(actual.sum(dtype=float) - 1) <= limit


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("noise", NOISES)
def test_ranks_over_nodes_equal_ranks_over_pairs(noise, dtype, monkeypatch):
    rng = np.random.default_rng(0)
    theta = np.concatenate([rng.normal(size=60), 1e5 + rng.normal(size=40), [np.inf, -np.inf]])
    rows = theta.astype(dtype)[None]
    family = [f.name for f in FAMILIES].index(noise)

    def solve():
        problem = Problem("ranks", total=1.0)
        return exact_launch.launch(problem, rows, np.full((1, 1), 0.8), family, MOMENTS)

    pairs = solve()
    monkeypatch.setattr(exact_launch, "PAIRS", 0)
    over_nodes = solve()
    limit = PRECISIONS[dtype] * rows.size
    np.testing.assert_allclose(over_nodes[:, 0], pairs[:, 0], rtol=0, atol=limit)
    if noise != "gumbel":  # there only the sum of moments is that of pairs
        np.testing.assert_allclose(over_nodes[:, 1], pairs[:, 1], rtol=0, atol=limit)
    np.testing.assert_allclose(over_nodes[:, 1].sum(), pairs[:, 1].sum(), rtol=PRECISIONS[dtype])


def test_ranks_of_thousands():
    theta = np.sort(np.random.default_rng(1).normal(size=5000))
    ranks = exact(dpo.Ranks(), epsilon=0.1)(theta)
    assert abs(ranks.sum() - 5000 * 5001 / 2) < 1e-6
    some = [0, 1, 2500, 4998, 4999]
    expected = 0.5 + ndtr((theta[some, None] - theta) / (0.1 * np.sqrt(2))).sum(1)
    np.testing.assert_allclose(ranks[some], expected, rtol=1e-13)


def test_topk_of_many_sums_to_k():
    theta = np.random.default_rng(2).normal(size=(2, 300))
    for k in (1, 7, 150, 293, 300):
        y = exact(dpo.TopK(k), epsilon=0.7)(theta)
        np.testing.assert_allclose(y.sum(1), k, rtol=0, atol=1e-11)
        assert (y >= -1e-13).all() and (y <= 1 + 1e-13).all()
    one = exact(dpo.TopK(1), epsilon=0.7)(theta)
    np.testing.assert_allclose(one, exact(epsilon=0.7)(theta), rtol=0, atol=1e-13)


def test_small_chances_of_topk_are_relatively_accurate():
    """Two variables: the chance of the lower one is that of a normal difference."""
    for gap in (1.0, 4.0, 8.0):
        y = exact(dpo.TopK(1), epsilon=1.0)(np.array([0.0, -gap]))
        assert abs(y[1] / ndtr(-gap / np.sqrt(2)) - 1) < 1e-3 * max(1, 1e-9 / y[1])


# -------------------------------------------------------------------------------------- extremes


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_a_small_temperature_leaves_the_solution(oracle, noise):
    """Scores a million temperatures apart; the solver itself, at the limit."""
    theta = np.array([3e5, -2e5, 1e5, 0.0, 7e5])
    solution = dpo.Perturbed(oracle, epsilon=1e-3, num_samples=1)(theta, seed=0)
    for dtype, limit in PRECISIONS.items():
        layer = exact(oracle, noise, epsilon=1.0)
        np.testing.assert_allclose(layer(theta.astype(dtype)), solution, rtol=0, atol=5 * limit)
        np.testing.assert_allclose(
            layer.vjp(theta.astype(dtype), theta.astype(dtype) / 7e5), 0, atol=limit
        )


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_masked_scores_are_as_good_as_absent(oracle, noise):
    theta = np.array([0.5, -np.inf, 0.1, 1.2, -np.inf, -0.3, 0.4])
    v = np.arange(7.0)
    layer, kept = exact(oracle, noise, epsilon=0.6), np.isfinite(theta)
    offset = 2 if isinstance(oracle, dpo.Ranks) else 0  # ranks below are taken
    value = layer(theta)
    np.testing.assert_allclose(value[kept], layer(theta[kept]) + offset, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(value[~kept], [2.0, 1.0] if offset else 0.0)
    product = layer.vjp(theta, v)
    np.testing.assert_allclose(product[kept], layer.vjp(theta[kept], v[kept]), atol=1e-12)
    np.testing.assert_array_equal(product[~kept], 0)
    assert layer.max(theta) > layer.max(theta[kept]) - 1e-12 if not offset else True


@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_infinite_scores_decide_as_the_solver_does(oracle):
    rows = np.array(
        [
            [np.inf, 0.0, np.inf, 1.0, np.inf],
            [-np.inf] * 5,
            [np.inf] * 5,
            [-np.inf, -np.inf, -np.inf, 2.0, -np.inf],
        ]
    )
    solver = dpo.Perturbed(oracle, epsilon=1e-3, num_samples=1)(rows, seed=0)
    for noise in NOISES:
        layer = exact(oracle, noise, epsilon=1e-3)
        np.testing.assert_allclose(layer(rows), solver, rtol=0, atol=1e-12)
        assert np.isfinite(layer.vjp(rows, np.ones_like(rows))).all()
        assert np.isfinite(layer.jacobian(rows)).all()


def test_ties_share():
    for oracle, share in ((dpo.Argmax(), 1 / 4), (dpo.TopK(3), 3 / 4), (dpo.Ranks(), 2.5)):
        for noise in NOISES:
            np.testing.assert_allclose(exact(oracle, noise)(np.ones(4)), share, atol=1e-13)


def test_sizes_one_and_zero():
    for oracle, only in ((dpo.Argmax(), 1.0), (dpo.TopK(1), 1.0), (dpo.Ranks(), 1.0)):
        for noise in NOISES:
            layer = exact(oracle, noise, epsilon=2.0)
            np.testing.assert_allclose(layer(np.array([[3.0]])), only, atol=1e-13)
            mean = FAMILIES[[f.name for f in FAMILIES].index(noise)].mean
            assert abs(layer.max(np.array([3.0])) - (3 + 2 * mean)) < 1e-11
            assert layer(np.empty((0, 4))).shape == (0, 4)
            assert layer.jacobian(np.empty((0, 4))).shape == (0, 4, 4)
            assert layer.loss(np.empty((0, 4)), np.empty((0, 4))).shape == (0,)


# ----------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("per_coordinate", [False, True])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_derivatives_are_finite_differences(oracle, noise, per_coordinate):
    rng = np.random.default_rng(3)
    theta, v, w = rng.normal(size=(3, 2, 5))
    epsilon = rng.uniform(0.4, 1.5, (2, 5)) if per_coordinate else np.array([0.6, 1.1])
    layer, h = exact(oracle, noise, epsilon), 1e-5

    def central(function, direction):
        return (function(theta + h * direction) - function(theta - h * direction)) / (2 * h)

    jacobian = layer.jacobian(theta)
    units = np.eye(5)
    differences = np.stack([central(layer, e) for e in units], -1)
    np.testing.assert_allclose(jacobian, differences, rtol=0, atol=1e-8)
    np.testing.assert_allclose(jacobian, jacobian.swapaxes(1, 2), rtol=0, atol=1e-13)
    np.testing.assert_allclose(jacobian.sum(2), 0, atol=1e-12)
    slope = np.stack([central(layer.max, e) for e in units], -1)
    np.testing.assert_allclose(layer(theta), slope, rtol=0, atol=1e-8)
    product = np.einsum("bij,bj->bi", jacobian, v)
    np.testing.assert_allclose(layer.vjp(theta, v), product, rtol=0, atol=1e-12)
    np.testing.assert_allclose(layer.jvp(theta, v), product, rtol=0, atol=1e-12)
    second = layer.second_order_product(theta, v, w)
    expected = central(lambda x: layer.vjp(x, v), w)
    np.testing.assert_allclose(second, expected, rtol=0, atol=1e-7)
    np.testing.assert_allclose(second, layer.second_order_product(theta, w, v), atol=1e-12)

    def at(change):
        return (v * exact(oracle, noise, epsilon + change)(theta)).sum(-1)

    steps = [h * e for e in units] if per_coordinate else [h]
    expected = np.stack([(at(s) - at(-s)) / (2 * h) for s in steps], -1)
    actual = layer.vjp_epsilon(theta, v)
    np.testing.assert_allclose(actual.reshape(expected.shape), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("oracle", (dpo.Argmax(), dpo.TopK(20), dpo.Ranks()), ids=str)
def test_derivatives_of_large_rows_in_float32(oracle):
    rng = np.random.default_rng(4)
    theta, v, w = rng.normal(size=(3, 2, 400))
    layer = exact(oracle, epsilon=1.0)
    for method, operands in (("vjp", (v,)), ("second_order_product", (v, w))):
        double = getattr(layer, method)(theta, *operands)
        single = getattr(layer, method)(*(np.float32(x) for x in (theta, *operands)))
        assert single.dtype == np.float32
        scale = np.abs(double).max()
        np.testing.assert_allclose(single, double, rtol=0, atol=3e-6 * max(1, scale))


# ---------------------------------------------------------------------------------- the layer


def test_long_rows_are_split_without_a_trace():
    """One row of many coordinates goes over threads by blocks, and equals its place in a batch."""
    theta = np.random.default_rng(5).normal(size=(5, 5000))
    whole = exact(epsilon=0.5)(theta)
    alone = exact(epsilon=0.5)(theta[:1])
    np.testing.assert_allclose(alone[0], whole[0], rtol=0, atol=1e-16)


def test_results_do_not_depend_on_threads():
    theta = np.random.default_rng(6).normal(size=(3, 6000)).astype(np.float32)
    threads = dpo.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            dpo.set_num_threads(n)
            results.append([exact(o)(theta) for o in (dpo.Argmax(), dpo.TopK(3), dpo.Ranks())])
    finally:
        dpo.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_errors_are_reported_and_bound_the_truth():
    theta = np.random.default_rng(7).normal(size=(3, 50))
    for oracle, tolerance in it.product((dpo.Argmax(), dpo.TopK(5), dpo.Ranks()), (None, 1e-4)):
        layer = exact(oracle, epsilon=2.0, tolerance=tolerance)
        estimate = layer.estimate(theta)
        assert estimate.num_samples == 0
        bound = 50 * (tolerance or 1e-12)
        assert (estimate.standard_error <= bound).all()
        truth = exact(oracle, epsilon=2.0)(theta)
        assert np.abs(estimate.mean - truth).max() <= bound
        for of in ("max", "vjp", "jvp", "jacobian"):
            direction = theta if of in ("vjp", "jvp") else None
            result = layer.estimate(theta, of=of, direction=direction)
            assert (result.standard_error >= 0).all()
            assert result.standard_error.max() <= 20 * bound


def test_a_larger_tolerance_is_honoured_by_fewer_nodes():
    fine, coarse = (nodes.rules(NORMAL, 1000, t)[-1] for t in (1e-13, 1e-5))
    assert coarse[0] > 1.5 * fine[0] and coarse[2] < fine[2]


def test_auto_is_exact_where_that_is_cheaper():
    theta = np.zeros((2, 100))
    for oracle in (dpo.Argmax(), dpo.TopK(3), dpo.Ranks()):
        for num_samples, is_exact in ((10**6, True), (2, False), (dpo.Adaptive(0.1), True)):
            layer = dpo.Perturbed(oracle, num_samples=num_samples, method="auto")
            assert (np.max(layer.estimate(theta, seed=0).num_samples) == 0) == is_exact
            if not isinstance(num_samples, dpo.Adaptive):
                assert layer.samples(theta[:, :3], seed=0).shape[0] == num_samples or is_exact
    paths = dpo.Perturbed(dpo.ShortestPath(), num_samples=10, method="auto")
    assert paths.estimate(np.ones((3, 3)), seed=0).num_samples == 10
    scaled = dpo.Perturbed(perturbation="multiplicative", num_samples=10**6, method="auto")
    assert scaled.estimate(np.ones(3), seed=0).num_samples == 10**6


@pytest.mark.parametrize(
    "parameters, message",
    [
        (dict(oracle=dpo.ShortestPath()), "not for ShortestPath.*use method='mc'"),
        (dict(perturbation="multiplicative"), "not for perturbation='multiplicative'"),
        (dict(tolerance=0.0), "tolerance must be a positive number, got 0.0"),
        (dict(tolerance="small"), "tolerance must be a positive number, got 'small'"),
        (dict(method="mc", tolerance=0.1), "num_samples=dpo.Adaptive\\(0.1\\)"),
    ],
)
def test_refusals(parameters, message):
    with pytest.raises(ValueError, match=message):
        dpo.Perturbed(**{"method": "exact", **parameters})


def test_refusals_of_calls():
    with pytest.raises(ValueError, match="samples needs method='mc'"):
        exact().samples(np.zeros(3))
    with pytest.raises(ValueError, match="second_order_product needs method='exact'"):
        dpo.Perturbed().second_order_product(np.zeros(3), np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="temperatures differ by a factor of at most 1e"):
        exact(epsilon=np.array([1e-3, 1e3, 1.0]))(np.zeros(3))
    with pytest.raises(ValueError, match="GB a thread for the top 100000 of 1000000"):
        exact(dpo.TopK(100_000))(np.zeros(10**6, np.float32))


# ----------------------------------------------------------------------------------------- losses


def _targets(oracle, noise):
    """Interior targets, a solution, and means of two solutions (on a face)."""
    rng = np.random.default_rng(8)
    theta = rng.normal(size=(2, 6))
    solver = dpo.Perturbed(oracle, epsilon=1e-6, method="exact")
    vertices = solver(rng.normal(size=(3, 6))).round()
    inside = exact(oracle, noise, epsilon=1.5)(theta)
    return np.concatenate([inside, vertices[:1], (vertices[1:2] + vertices[2:]) / 2])


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_losses_are_not_negative_and_zero_at_a_match(oracle, noise):
    layer = exact(oracle, noise, epsilon=0.7)
    rng = np.random.default_rng(9)
    for scale in (0.1, 1.0, 5.0):
        targets = _targets(oracle, noise)
        theta = scale * rng.normal(size=targets.shape)
        assert (layer.loss(theta, targets) > -1e-9).all()
        np.testing.assert_allclose(layer.loss(theta, layer(theta)), 0, atol=1e-9)
    # A solution is matched where its scores are far above the others.
    vertex = targets[2]
    assert abs(layer.loss(200.0 * (vertex - vertex.mean()), vertex)) < 1e-9


@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_offsets_are_continuous_up_to_faces(oracle):
    """The dual has no jump where a target leaves the inside."""
    layer, targets = exact(oracle, epsilon=1.0), _targets(oracle, "normal")
    inside, vertex, between = targets[0], targets[2], targets[3]
    theta = np.zeros(6)
    for face in (vertex, between):
        nearby = [(1 - s) * face + s * inside for s in (0.0, 1e-5, 1e-3)]
        values = [float(layer.loss(theta, y)) for y in nearby]
        assert abs(values[1] - values[0]) < 2e-3 and abs(values[2] - values[0]) < 0.1


def test_the_dual_of_gumbel_argmax_is_the_entropy(monkeypatch):
    """The general solver against the closed form, by not letting it use that."""
    from dpo import _dual

    y = np.array([[0.2, 0.5, 0.3], [0.01, 0.98, 0.01]])
    layer = exact(noise="gumbel", epsilon=np.array([0.5, 2.0]))
    closed = layer.loss(np.zeros((2, 3)), y)
    whole = layer._prepare(np.zeros((2, 3)), Place(), "max")[0].whole
    split = whole._replace(epsilon=np.repeat(whole.epsilon, 3, 1) * [1, 1 + 1e-12, 1])
    general = _dual.exact_offset(split, y)[0]
    expected = closed - layer.max(np.zeros((2, 3)))
    np.testing.assert_allclose(general, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("per_coordinate", [False, True])
@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_offsets_have_the_right_slope_in_epsilon(oracle, per_coordinate):
    from dpo import _dual

    targets = _targets(oracle, "normal")
    rng = np.random.default_rng(10)
    epsilon = rng.uniform(0.5, 1.5, (4, 6 if per_coordinate else 1))
    layer = exact(oracle, "gumbel", epsilon=1.0)
    whole = layer._prepare(targets, Place(), "max")[0].whole
    slope = _dual.exact_offset(whole._replace(epsilon=epsilon), targets)[1]
    h = 1e-5
    for i in range(epsilon.shape[1]):
        step = h * np.eye(epsilon.shape[1])[i]
        up, down = (
            _dual.exact_offset(whole._replace(epsilon=epsilon + s), targets)[0]
            for s in (step, -step)
        )
        np.testing.assert_allclose(slope[:, i], (up - down) / (2 * h), rtol=0, atol=1e-5)


def test_monte_carlo_losses_have_the_offset_of_solutions():
    """So that they vanish where a solution is matched, whatever the mean of the noise."""
    for oracle in ORACLES:
        vertex = _targets(oracle, "normal")[2]
        layer = dpo.Perturbed(oracle, "gumbel", num_samples=20_000)
        loss = layer.loss(50.0 * (vertex - vertex.mean()), vertex, seed=0)
        assert abs(loss) < 0.2


# ------------------------------------------------------------------------------------- frameworks


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("oracle", (dpo.Argmax(), dpo.TopK(2), dpo.Ranks()), ids=str)
def test_torch_differentiates_to_any_order(oracle, noise):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theta = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    epsilon = torch.tensor([[0.8], [1.3]], dtype=torch.float64, requires_grad=True)
    y = exact(oracle, noise)(torch.randn(2, 4, dtype=torch.float64))

    def value(x, e):
        return exact(oracle, noise, e)(x)

    def loss(x, e):
        return exact(oracle, noise, e).loss(x, y)

    def third(x):
        layer = exact(oracle, noise, 0.8)
        return torch.autograd.grad((layer(x) ** 2).sum(), x, create_graph=True)[0]

    # In fast mode: by products with random vectors, not entry by entry.
    again = ft.partial(torch.autograd.gradgradcheck, fast_mode=True)
    for function in (value, loss):
        assert torch.autograd.gradcheck(function, (theta, epsilon), atol=1e-6)
        assert again(function, (theta, epsilon), atol=1e-6)
    fixed = exact(oracle, noise, 0.8)
    assert again(fixed, theta)
    assert again(third, theta)


def test_torch_and_jax_get_their_own_arrays():
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    theta = np.random.default_rng(11).normal(size=(2, 3, 4)).astype(np.float32)
    for oracle in (dpo.Argmax(), dpo.TopK(2), dpo.Ranks()):
        layer = exact(oracle)
        expected = layer(theta)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            result = layer(torch.from_numpy(theta).to(dtype))
            assert result.dtype == dtype
            np.testing.assert_allclose(result.float(), expected, atol=0.05)
        result = layer(jax.numpy.asarray(theta))  # and no key, since there is no noise
        assert isinstance(result, jax.Array)
        np.testing.assert_array_equal(np.asarray(result), expected)
        vjp = layer.vjp(jax.numpy.asarray(theta), jax.numpy.asarray(theta))
        np.testing.assert_array_equal(np.asarray(vjp), layer.vjp(theta, theta))


def test_torch_refuses_derivatives_it_cannot_afford():
    torch = pytest.importorskip("torch")
    theta = torch.tensor([0.0, 1e9], dtype=torch.float64, requires_grad=True)
    layer = exact(epsilon=torch.tensor(1.0, dtype=torch.float64, requires_grad=True))
    with pytest.raises(NotImplementedError, match="spread"):
        torch.autograd.grad(layer(theta)[0], theta, create_graph=True)


def test_samplers_agree_with_the_exact_answers():
    """z-scores of every estimate, bounded as fixed beforehand (Bonferroni over about 400)."""
    theta = np.random.default_rng(12).normal(size=(1, 6)).astype(np.float32)
    v = np.linspace(-1, 1, 6, dtype=np.float32)
    for oracle, noise in it.product(ORACLES, NOISES):
        truth = exact(oracle, noise, epsilon=0.8)
        sampled = dpo.Perturbed(oracle, noise, epsilon=0.8, num_samples=200_000)
        for of in ("value", "max", "vjp", "jvp", "jacobian"):
            direction = v if of in ("vjp", "jvp") else None
            estimate = sampled.estimate(theta, of=of, direction=direction, seed=1)
            gap = estimate.mean - truth.estimate(theta, of=of, direction=direction).mean
            z = np.abs(gap) / np.maximum(estimate.standard_error, 1e-5)
            assert z.max() < 5.0, (oracle, noise, of)


def test_value_is_the_launch_that_was_documented():
    """The low-level interface: arrays, sizes, codes."""
    theta = np.array([[0.0, 1.0]])
    out = exact_launch.launch(Problem(total=1.0), theta, np.ones((1, 1)), NORMAL, VALUE)
    np.testing.assert_allclose(out[0, 0, 1], ndtr(1 / np.sqrt(2)), rtol=1e-13)
