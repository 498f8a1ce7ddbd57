"""The shipped solvers against enumeration: their solutions exist, and none is worth more."""

from __future__ import annotations

import itertools as it

import numpy as np
import pytest

import dpo
from dpo import solvers


def one_hot_rows(indices, columns):
    return np.eye(columns, dtype=int)[list(indices)]


def binary_vectors(d):
    return [np.array(y) for y in it.product((0, 1), repeat=d)]


def sequences(steps, states):
    return [one_hot_rows(p, states) for p in it.product(range(states), repeat=steps)]


def has_cycle(chosen, ends):
    label = list(range(int(ends.max()) + 1))
    for a, b in ends[chosen != 0]:
        a, b = label[a], label[b]
        if a == b:
            return True
        label = [a if x == b else x for x in label]
    return False


def a_knapsack(rng):
    d, capacity = int(rng.integers(1, 7)), int(rng.integers(0, 10))
    weights = rng.integers(0, 5, d)
    oracle = solvers.knapsack(weights=weights, capacity=capacity)
    return oracle, [y for y in binary_vectors(d) if y @ weights <= capacity]


def a_budgeted_choice(rng):
    shape, budget = tuple(rng.integers(1, 4, 2)), int(rng.integers(0, 7))
    costs = rng.integers(0, 4, shape)
    costs[:, 0] = 0
    oracle = solvers.budgeted_choice(costs=costs, budget=budget)
    return oracle, [y for y in sequences(*shape) if (y * costs).sum() <= budget]


def a_monotone_path(rng):
    paths = sequences(*rng.integers(1, 5, 2))
    return solvers.monotone_path, [y for y in paths if (np.diff(y.argmax(1)) >= 0).all()]


def a_chain(rng):
    steps, states = rng.integers(1, 5, 2)
    allowed = (rng.random((states, states)) < 0.6) | np.eye(states, dtype=bool)
    paths = [(y, y.argmax(1)) for y in sequences(steps, states)]
    possible = [y for y, path in paths if allowed[path[:-1], path[1:]].all()]
    return solvers.viterbi(allowed=allowed), possible


def a_graph(rng):
    nodes = int(rng.integers(2, 6))
    pairs = rng.permutation([(a, b) for a in range(nodes) for b in range(a)])
    ends = pairs[: rng.integers(1, 9)]
    forests = [y for y in binary_vectors(len(ends)) if not has_cycle(y, ends)]
    most = max(y.sum() for y in forests)
    return solvers.spanning_tree(ends=ends), [y for y in forests if y.sum() == most]


def an_assignment(rng):
    rows, columns = sorted(rng.integers(1, 6, 2).tolist())
    choices = it.permutations(range(columns), rows)
    return solvers.assignment, [one_hot_rows(p, columns) for p in choices]


INSTANCES = {
    f.__name__: f
    for f in (a_knapsack, a_budgeted_choice, a_monotone_path, a_chain, a_graph, an_assignment)
}


@pytest.mark.parametrize("kind", INSTANCES)
def test_no_solution_is_worth_more(kind):
    rng = np.random.default_rng(0)
    for _ in range(150):
        oracle, possible = INSTANCES[kind](rng)
        scores = rng.standard_normal(possible[0].shape)
        solution = oracle.solve(scores)
        assert any((solution == y).all() for y in possible)
        most = max((y * scores).sum() for y in possible)
        np.testing.assert_allclose((solution * scores).sum(), most, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", INSTANCES)
def test_compiled_solvers_decide_alike(kind):
    """Every sample, on equal scores too (epsilon so small that noise is lost in half the rows)."""
    rng = np.random.default_rng(1)
    for epsilon in (0.5, 1e-300):
        oracle, possible = INSTANCES[kind](rng)
        scores = np.round(rng.standard_normal((2, *possible[0].shape)), 1)
        if epsilon < 1e-30:
            epsilon, scores = 1e-25, np.round(scores) + 1
        samples = dpo.Perturbed(oracle, num_samples=40, epsilon=epsilon).samples(scores, seed=0)
        for solution in samples.reshape(-1, *possible[0].shape):
            assert any((solution == y).all() for y in possible)
        if epsilon < 1e-20:
            np.testing.assert_array_equal(samples[7], oracle.solve(scores))


def a_pairing(rng, kind, rows, columns):
    """Scores of an assignment that exists."""
    scores = rng.standard_normal((rows, columns))
    if kind == "integer":
        scores = rng.integers(-2, 3, scores.shape).astype(float)
    elif kind == "equal rows":
        scores[1:] = scores[0]
    elif kind == "masked":
        scores[rng.random(scores.shape) < 0.7] = -np.inf
        scores[np.arange(rows), rng.permutation(columns)[:rows]] = rng.integers(-2, 3, rows)
    elif kind == "of every size":
        scores = np.exp(8 * scores)
    elif kind == "huge":
        scores *= 1e30
    elif kind == "tiny":
        scores *= 1e-9
    return scores


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "kind", ["normal", "integer", "equal rows", "masked", "of every size", "huge", "tiny"]
)
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (20, 20), (60, 60), (1, 5), (19, 20), (25, 60)])
def test_assignments_are_worth_what_scipys_are(shape, kind, dtype):
    """Compiled: the noise is too small to be seen."""
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(2)
    scores = np.array([a_pairing(rng, kind, *shape) for _ in range(30)], dtype)
    layer = dpo.Perturbed(solvers.assignment, epsilon=1e-30, num_samples=1)
    ours = layer.samples(scores, seed=0)[0]
    assert (ours.sum(2) == 1).all() and (ours.sum(1) <= 1).all()
    for solution, x in zip(ours, scores.astype(np.float64), strict=True):
        theirs = x[linear_sum_assignment(x, maximize=True)].sum()
        error = 0 if kind == "integer" else 1e-14 * abs(x[np.isfinite(x)]).max()
        assert abs(x[solution != 0].sum() - theirs) <= error


def test_forced_pairs():
    """Three rows that must take three of four columns."""
    from scipy.optimize import linear_sum_assignment

    scores = np.random.default_rng(2).standard_normal((10, 25, 31))
    scores[:, :3, 4:] = -np.inf
    for solution, x in zip(solvers.assignment.solve(scores), scores, strict=True):
        np.testing.assert_array_equal(solution.argmax(1), linear_sum_assignment(-x)[1])


@pytest.mark.parametrize("shape", [(6, 6), (6, 8)])
def test_assignments_that_do_not_exist(shape):
    """Found wherever SciPy finds them."""
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(3)
    impossible = 0
    for _ in range(60):
        scores = np.where(rng.random(shape) < 0.3, rng.standard_normal(shape), -np.inf)
        try:
            linear_sum_assignment(scores, maximize=True)
        except ValueError:
            impossible += 1
            with pytest.raises(ValueError, match="no assignment of finite score"):
                solvers.assignment.solve(scores)
        else:
            assert np.isfinite(scores[solvers.assignment.solve(scores) != 0]).all()
    assert 10 < impossible < 50
    scores[...] = 0.0
    scores[2, 3] = np.inf
    with pytest.raises(ValueError, match="a score is inf"):
        solvers.assignment.solve(scores)


def test_isotonic_regression_to_levels():
    """``monotone_path`` on squared distances is the regression, to a level's width."""
    rng = np.random.default_rng(3)
    x, levels = np.cumsum(rng.normal(0.1, 1, 30)), np.linspace(-3, 8, 200)
    path = solvers.monotone_path.solve(-((x[:, None] - levels) ** 2))
    ours = path @ levels
    assert (np.diff(ours) >= 0).all()
    from scipy.optimize import isotonic_regression

    real = isotonic_regression(x).x
    assert abs(ours - real).max() < (levels[1] - levels[0])
    assert ((ours - x) ** 2).sum() >= ((real - x) ** 2).sum()


@pytest.mark.parametrize(
    "oracle, shape, message",
    [
        (solvers.assignment, (3, 2), "at least as many columns as rows"),
        (solvers.knapsack(weights=[1, -1], capacity=3), (2,), "weights must not be negative"),
        (solvers.budgeted_choice(costs=[[3], [3]], budget=4), (2, 1), "no choice of finite score"),
        (solvers.viterbi(allowed=[[0, 0], [0, 0]]), (2, 2), "no sequence of finite score"),
        (solvers.spanning_tree(ends=[[0, 1], [1, -2]]), (2,), "must not be negative"),
    ],
)
def test_instances_without_a_solution(oracle, shape, message):
    with pytest.raises(RuntimeError, match=message):
        dpo.Perturbed(oracle, num_samples=10)(np.zeros(shape), seed=0)


@pytest.mark.parametrize(
    "oracle, shape, message",
    [
        (solvers.knapsack(weights=[1], capacity=3), (2,), r"weights must be \(2,\), one an item"),
        (solvers.knapsack(weights=[1.5, 2], capacity=3), (2,), "weights must be integers"),
        (solvers.knapsack(weights=[1, 2], capacity=3.0), (2,), "capacity must be integers"),
        (solvers.budgeted_choice(costs=[[3]], budget=4), (2, 1), r"costs must be \(2, 1\)"),
        (solvers.viterbi(allowed=[[1]]), (3, 2), r"allowed must be \(2, 2\)"),
        (solvers.spanning_tree(ends=[[0, 1]]), (2,), r"ends must be \(2, 2\), two nodes an edge"),
    ],
)
def test_parameters_that_do_not_fit(oracle, shape, message):
    with pytest.raises((TypeError, ValueError), match=message):
        dpo.Perturbed(oracle, num_samples=10)(np.zeros(shape), seed=0)


def test_forbidden_pairs():
    scores = np.full((2, 2), -np.inf)
    scores[0] = 1
    with pytest.raises(RuntimeError, match="no assignment of finite score"):
        dpo.Perturbed(solvers.assignment, num_samples=10)(scores, seed=0)
    scores[1, 0] = 0
    y = dpo.Perturbed(solvers.assignment, num_samples=10)(scores, seed=0)
    np.testing.assert_array_equal(y, [[0, 1], [1, 0]])


def test_a_budget_for_each_instance():
    scores = np.random.default_rng(4).standard_normal((3, 5)) + 2
    capacity = np.array([0, 3, 100])
    oracle = solvers.knapsack(weights=[1, 2, 3, 1, 2], capacity=capacity)
    y = dpo.Perturbed(oracle, num_samples=50).samples(scores, seed=0)
    assert ((y @ [1, 2, 3, 1, 2]) <= capacity).all()
    assert (y[:, 0] == 0).all() and y[:, 2].mean() > 0.9
