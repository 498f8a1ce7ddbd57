"""The fused kernels equal ``reference.py`` bit for bit: decisions, counts and float sums."""

from __future__ import annotations

import numpy as np
import pytest
import user_oracles
from dpo.kernels import codes, reference
from dpo.kernels.codes import JACOBIAN, JVP, MAXIMUM, MOMENTS, SCALE_SCORE, VALUE, VJP, Problem
from dpo.kernels.cpu import launch, ranks
from helpers import adversarial_scores, call, draws, grid, temperatures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba import njit

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


# ------------------------------------------------------------------------------ the plain argmax


@pytest.mark.parametrize("rows, d, num_samples", SHAPES)
def test_decisions_and_counts(family, dtype, rows, d, num_samples):
    theta = adversarial_scores(rows, d, dtype)
    noise = draws(family, num_samples)
    expected = reference.argmax_winners(theta, temperatures(theta, 0.5), noise)
    ours = np.empty((rows, num_samples), np.int32)
    counts = call(theta, family, num_samples, memo=ours).counts[:, 0]
    assert (expected == ours.T).all()
    assert (counts == np.stack([np.bincount(w, minlength=d) for w in expected.T])).all()
    assert (call(theta, family, num_samples).counts[:, 0] == counts).all()


@pytest.mark.parametrize("rows, d, num_samples", SHAPES)
def test_float_sums(family, dtype, rows, d, num_samples):
    theta = adversarial_scores(rows, d, dtype, seed=1)
    theta = np.where(np.isposinf(theta), dtype(3), theta)
    v = np.random.default_rng(5).standard_normal((rows, d)).astype(dtype)
    mean = (call(theta, family, num_samples).counts[:, 0] / num_samples).astype(dtype)
    arguments = theta, temperatures(theta, 0.5), draws(family, num_samples)
    maximum = call(theta, family, num_samples, MAXIMUM).totals
    np.testing.assert_array_equal(maximum[:, :, 0], reference.argmax_maximum(*arguments))
    directed = dict(direction=v, mean=mean)
    vjp = call(theta, family, num_samples, VJP, squares=True, **directed).totals
    np.testing.assert_array_equal(vjp, reference.argmax_vjp(*arguments, v, mean))
    won = np.empty((rows, num_samples), np.int32)
    call(theta, family, num_samples, memo=won)
    again = call(theta, family, num_samples, VJP, memo=won, **directed).totals
    np.testing.assert_array_equal(again[:, 0], vjp[:, 0])


# ------------------------------------------------------------------------------------ every oracle

PROBLEMS = {
    "argmax": lambda d: Problem(),
    "top-1": lambda d: Problem("topk", (1,)),
    "top-half": lambda d: Problem("topk", ((d + 1) // 2,)),
    "top-all": lambda d: Problem("topk", (d,)),
    "ranks": lambda d: Problem("ranks"),
    "row": lambda d: grid(1, d, 8, 99),
    "grid-4": lambda d: grid(*sides(d), 4, 99),
    "grid-8": lambda d: grid(*sides(d), 8, 99, source=d // 2, target=0, min_cost=0.25),
    "user": lambda d: user_oracles.fitting_interval(d, 99).problem((99, d)),
    "user-ranks": lambda d: user_oracles.ranks.problem((99, d)),
}
DESIGNS = {"iid": codes.INDEPENDENT, "antithetic": codes.ANTITHETIC, "sobol": codes.SOBOL}


def sides(d):
    """The grid nearest to a square with d cells."""
    height = max(h for h in range(1, int(d**0.5) + 1) if d % h == 0)
    return height, d // height


def scores_for(name, rows, d, dtype):
    """Adversarial scores, or costs: among them zeros, equal ones, walls that leave a way."""
    if not name.startswith(("grid", "row")):
        return adversarial_scores(rows, d, dtype)
    rng = np.random.default_rng(d)
    costs = rng.uniform(0.2, 2, (rows, d)).astype(dtype)
    costs[1::4] = np.round(costs[1::4])
    costs[2::4] = 0.0
    costs[3::8] *= dtype(1e30)
    return costs


def compare(name, rows, d, m, family, dtype, design="iid", epsilon=0.5, multiplicative=False):
    """Every operation of a launch against the reference."""
    problem, theta = PROBLEMS[name](d), scores_for(name, rows, d, dtype)
    epsilon = temperatures(theta, epsilon)
    noise = draws(family, m, d, DESIGNS[design], multiplicative=multiplicative)
    rng = np.random.default_rng(5)
    v = rng.standard_normal((rows, d)).astype(dtype)
    expected = reference.Pass(problem, theta, epsilon, noise)
    counts = expected.counts()

    def run(operation, **parameters):
        return launch.launch(problem, theta, epsilon, noise, operation, **parameters)

    solutions, scores = np.empty((rows, m, d), np.int32), np.empty((rows, m, d), dtype)
    run(VALUE, solutions=solutions)
    np.testing.assert_array_equal(np.moveaxis(solutions, 1, 0), expected.solutions())
    np.testing.assert_array_equal(run(VALUE, squares=True).counts[:, 0], counts[:, 0])
    mean = (counts[:, 0] / m).astype(dtype)
    directed = dict(direction=v, mean=mean)
    plain = launch.is_plain(problem, epsilon, noise, VJP)
    if not plain:
        np.testing.assert_array_equal(run(VALUE, squares=True).counts, counts)
        np.testing.assert_array_equal(run(MAXIMUM).totals[:, :, 0], expected.sums(MAXIMUM)[:, :, 0])
        vjp = run(VJP, squares=True, **directed).totals
        np.testing.assert_array_equal(vjp, expected.sums(VJP, v, mean))
        memo = launch.new_memo(problem, theta, epsilon, noise)
        if memo is not None:
            run(VALUE, memo=memo)
            again = run(VJP, memo=memo, **directed).totals
            np.testing.assert_array_equal(again[:, 0], vjp[:, 0])
        if m <= codes.FEW:
            kept = run(VALUE, solutions=solutions, scores=scores).counts
            np.testing.assert_array_equal(kept, counts[:, :1])
            again = launch.vjp_of_kept(noise, solutions, scores, v, mean)
            np.testing.assert_array_equal(again[:, 0], vjp[:, 0])
            again = run(VJP, solutions=solutions, **directed).totals
            np.testing.assert_array_equal(again[:, 0], vjp[:, 0])
        by_scale = reference.Pass(problem, theta, epsilon, noise, SCALE_SCORE)
        vjp = run(VJP, weighting=SCALE_SCORE, squares=True, **directed).totals
        np.testing.assert_array_equal(vjp, by_scale.sums(VJP, v, mean))
        again = run(VJP, memo=memo, weighting=SCALE_SCORE, **directed).totals
        np.testing.assert_array_equal(again[:, 0], vjp[:, 0])
        if m <= codes.FEW:
            given = dict(solutions=solutions, weighting=SCALE_SCORE, **directed)
            np.testing.assert_array_equal(run(VJP, **given).totals[:, 0], vjp[:, 0])
    jvp = run(JVP, direction=v, squares=True).totals
    np.testing.assert_array_equal(jvp, expected.sums(JVP, v))
    np.testing.assert_array_equal(run(MOMENTS).totals, expected.sums(MOMENTS))
    if d <= 40:
        jacobian = expected.sums(JACOBIAN)
        np.testing.assert_array_equal(run(JACOBIAN, squares=True).totals, jacobian)
        np.testing.assert_array_equal(run(JACOBIAN).totals[:, 0], jacobian[:, 0])


@pytest.mark.parametrize("name", ["normal", "gumbel", "logistic", "student"])
@pytest.mark.parametrize("rows, d, m", [(9, 10, 300), (9, 2, 33), (9, 32, 70), (2, 7, 4200)])
def test_scores_added_up_by_winner(name, rows, d, m):
    """Jacobians of an argmax of few coordinates, which have a kernel of their own."""
    theta = adversarial_scores(rows, d, np.float32)
    epsilon, noise = temperatures(theta, 0.5), draws(name, m, sample_offset=3)
    expected = reference.Pass(Problem(), theta, epsilon, noise)
    ours = launch.launch(Problem(), theta, epsilon, noise, JACOBIAN)
    np.testing.assert_array_equal(ours.counts[:, 0], expected.counts()[:, 0])
    np.testing.assert_array_equal(ours.totals[:, 0], expected.sums(JACOBIAN)[:, 0])


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    "rows, d, m", [(9, 1, 5), (40, 6, 2), (9, 12, 41), (2, 12, 265), (3, 35, 65)]
)
def test_every_oracle(name, family, dtype, rows, d, m):
    compare(name, rows, d, m, family, dtype)


@pytest.mark.parametrize("name", ["argmax", "top-half", "ranks"])
@pytest.mark.parametrize("d", [82, 130])
def test_many_coordinates(name, dtype, d):
    """Where ranks are sorted and the k-th largest is found by bisection."""
    compare(name, 9, d, 40, "normal", dtype)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    "design, m, family",
    [
        ("antithetic", 2, "gumbel"),
        ("antithetic", 6, "logistic"),
        ("antithetic", 70, "normal"),
        ("antithetic", 260, "gumbel"),
        ("sobol", 1, "normal"),
        ("sobol", 8, "gumbel"),
        ("sobol", 64, "logistic"),
        ("sobol", 260, "normal"),
    ],
)
def test_every_design(name, design, m, family, dtype):
    compare(name, 5, 10, m, family, dtype, design)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("m, family", [(3, "logistic"), (70, "gumbel"), (70, "normal")])
def test_a_temperature_for_each_coordinate(name, m, family, dtype):
    compare(name, 5, 10, m, family, dtype, epsilon=np.linspace(0.1, 2, 10))


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("m", [3, 70])
def test_multiplicative_noise(name, dtype, m):
    compare(name, 5, 10, m, "normal", dtype, epsilon=0.7, multiplicative=True)


# -------------------------------------------------------------------------------- hard decisions


def any_rows(data, d, least=None):
    """Rows of scores from a small pool: ties, signed zeros, infinities, extreme magnitudes."""
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    width = 32 if dtype == np.float32 else 64
    numbers = st.floats(allow_nan=False, width=width, min_value=least) | st.just(1.0)
    pool = data.draw(st.lists(numbers, min_size=1, max_size=6))
    row = data.draw(st.lists(st.sampled_from(pool), min_size=d, max_size=d))
    return np.array([row], dtype)


PATIENT = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@PATIENT
@given(data=st.data())
@pytest.mark.parametrize("name", ["argmax", "top-1", "top-half", "top-all", "ranks"])
def test_decisions_on_any_scores(name, data):
    d = data.draw(st.integers(1, 40) | st.sampled_from([90, 100]))
    theta = any_rows(data, d)
    epsilon = data.draw(st.sampled_from([1e-20, 1e-6, 0.5, 30.0, 1e12]))
    family = data.draw(st.sampled_from(["normal", "gumbel", "logistic"]))
    problem, noise = PROBLEMS[name](d), draws(family, 64)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = reference.Pass(problem, theta, temperatures(theta, epsilon), noise).counts()
    counts = call(theta, family, 64, epsilon=epsilon, problem=problem).counts
    np.testing.assert_array_equal(counts[:, 0], expected[:, 0])


@PATIENT
@given(data=st.data())
def test_paths_on_any_costs(data):
    """Zero, huge, infinite and equal costs; one row, one column, one cell; source = target."""
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    cells = st.integers(0, height * width - 1)
    connectivity = data.draw(st.sampled_from([4, 8]))
    problem = grid(height, width, connectivity, 1, data.draw(cells), data.draw(cells))
    costs = np.minimum(any_rows(data, height * width, least=0.0), 1e30)
    costs = np.where(data.draw(st.booleans()), costs, np.where(costs == 1, np.inf, costs))
    epsilon = data.draw(st.sampled_from([1e-20, 0.5, 1e12]))
    expected = reference.Pass(problem, costs, temperatures(costs, epsilon), draws("normal", 40))
    try:
        counts = expected.counts()
    except ValueError:
        with pytest.raises(ValueError, match="without a path of finite cost"):
            call(costs, "normal", 40, epsilon=epsilon, problem=problem)
        return
    ours = call(costs, "normal", 40, epsilon=epsilon, problem=problem).counts
    np.testing.assert_array_equal(ours[:, 0], counts[:, 0])


@pytest.mark.parametrize("spread", [0.0, 0.5, 5.0])
def test_dropped_quads_never_matter(family, dtype, spread):
    """At large d most coordinates are ruled out by an integer comparison, without effect."""
    theta = (np.random.default_rng(6).standard_normal((1, 5000)) * spread).astype(dtype)
    expected = reference.argmax_winners(theta, temperatures(theta, 0.5), draws(family, 96))
    counts = call(theta, family, 96).counts[0, 0]
    assert (counts == np.bincount(expected[:, 0], minlength=5000)).all()


@pytest.mark.parametrize("name", ["normal", "gumbel", "logistic", "student"])
@pytest.mark.parametrize("rows, d, k, m", [(9, 403, 10, 70), (9, 300, 24, 9), (6, 60, 1, 4200)])
def test_candidates_are_all_that_matters(name, dtype, rows, d, k, m):
    """Top-k of few of many."""
    if name == "student" and dtype == np.float64:
        pytest.skip("compiled in one precision: what tables change is in the argmax too")
    compare_candidates(name, dtype, rows, d, k, m)


def test_candidates_whose_indices_take_a_word_each():
    """And samples whose candidates are too few."""
    compare_candidates("normal", np.float32, 2, 65600, 2, 33)


def compare_candidates(name, dtype, rows, d, k, m):
    """The sparse kernel against the reference."""
    problem, theta = Problem("topk", (k,)), adversarial_scores(rows, d, dtype)
    epsilon, noise = temperatures(theta, 0.5), draws(name, m, sample_offset=3)
    assert launch.is_sparse_topk(problem, epsilon, noise, d)
    expected = reference.Pass(problem, theta, epsilon, noise)
    memo = launch.new_memo(problem, theta, epsilon, noise)
    counts = launch.launch(problem, theta, epsilon, noise, memo=memo).counts
    np.testing.assert_array_equal(counts[:, 0], expected.counts()[:, 0])
    squares = launch.launch(problem, theta, epsilon, noise, squares=True).counts
    np.testing.assert_array_equal(squares, np.concatenate((counts, counts), axis=1))
    v = np.random.default_rng(5).standard_normal((rows, d)).astype(dtype)
    directed = dict(direction=v, mean=(counts[:, 0] / m).astype(dtype))
    vjp = launch.launch(problem, theta, epsilon, noise, VJP, squares=True, **directed).totals
    np.testing.assert_array_equal(vjp, expected.sums(VJP, v, directed["mean"]))
    again = launch.launch(problem, theta, epsilon, noise, VJP, memo=memo, **directed).totals
    np.testing.assert_array_equal(again[:, 0], vjp[:, 0])
    # What another kernel computes on the same samples does not need the memo.
    given = dict(weighting=SCALE_SCORE, **directed)
    scaled = [
        launch.launch(problem, theta, epsilon, noise, VJP, memo=x, **given).totals
        for x in (None, memo)
    ]
    np.testing.assert_array_equal(*scaled)


@njit
def solve_ranks(theta, p, y, count):
    work = ranks.workspace(theta, None, p.shape[1])
    ranks.solve(p, p.shape[0], count, None, None, None, work, y)


def scores_to_rank(d, dtype):
    """Scores, (d, 32), that a ranking may meet; those far apart, or equal in the bits that words
    have room for, are sorted in other ways than most."""
    rng, limits = np.random.default_rng(d), np.finfo(dtype)
    z = rng.normal(size=(d, 32)).astype(dtype)
    rare, often = rng.random((d, 32)) < 0.05, rng.random((d, 32)) < 0.4
    steps = 1 + rng.integers(0, 3, (d, 32)) * limits.eps
    first = np.arange(d)[:, None] == 0
    return {
        "apart": z,
        "equal": np.zeros((d, 32)),
        "zeros of both signs": np.where(often, 0.0, -0.0),
        "few values": rng.integers(0, 5, (d, 32)),
        "few ties": np.where(rare, z[0], z),
        "masked": np.where(often, -np.inf, z),
        "infinite": np.where(often, -np.inf, np.where(rare, np.inf, z)),
        "all masked": np.full((d, 32), -np.inf),
        "masked by a number": np.where(often, -1e9, z),
        "one far away": np.where(first, 1e9, z),
        "neighbours": steps,
        "neighbours, one far away": np.where(first, 0.0, steps),
        "offset": z + dtype(1e6),
        "exponential": np.exp(8 * z),
        "largest of the type": z / 6 * limits.max,
        "end to end": np.where(rare, limits.max, limits.min),
        "subnormal": z * limits.smallest_normal * dtype(1e-5),
        "ascending": np.sort(z, 0),
        "descending": np.sort(z, 0)[::-1],
    }


@pytest.mark.parametrize("d", [1, 2, 31, 32, 33, 64, 65, 100, 128, 129, 600, 1025, 4096, 4097])
def test_ranks_are_exact_wherever_scores_lie(d, dtype):
    y = np.empty((d, 32), np.int32)
    for name, p in scores_to_rank(d, dtype).items():
        p = np.ascontiguousarray(p, dtype)
        solve_ranks(np.empty((1, d), dtype), p, y, 32)
        lowest_last = np.lexsort((np.broadcast_to(-np.arange(d)[:, None], p.shape), p), axis=0)
        ranked = np.take_along_axis(y, lowest_last, 0)
        assert (ranked == np.arange(1, d + 1)[:, None]).all(), name


@pytest.mark.parametrize("count", [1, 16, 17, 100, 256])
def test_ranks_do_not_depend_on_lanes_beyond_them(count, dtype):
    d, rng = 100, np.random.default_rng(0)
    p, y = rng.normal(size=(d, 256)).astype(dtype), np.zeros((d, 256), np.int32)
    p[:, count:] = rng.choice(
        np.array([np.nan, np.inf, -np.inf, 0.0, 1e38], dtype), (d, 256 - count)
    )
    solve_ranks(np.empty((1, d), dtype), p, y, count)
    order = np.argsort(p[:, :count], axis=0)
    ranked = np.take_along_axis(y[:, :count], order, 0)
    assert (ranked == np.arange(1, d + 1)[:, None]).all()


def test_ranks_of_more_coordinates_than_words_count():
    """Words have 20 bits of an index: rows of more are sorted lane by lane."""
    d = 2**20 + 1
    p, y = np.empty((d, 1), np.float32), np.empty((d, 1), np.int32)
    p[:, 0] = np.random.default_rng(0).integers(0, 1000, d)
    solve_ranks(np.empty((1, d), np.float32), p, y, 1)
    lowest_last = np.lexsort((-np.arange(d), p[:, 0]))
    assert (y[lowest_last, 0] == np.arange(1, d + 1)).all()


def test_ties_after_rounding_go_to_the_lowest_index(dtype):
    """Scores so large that noise is lost in rounding: exact ties that must not be dropped."""
    theta = np.full((1, 100), 1e9 if dtype == np.float32 else 1e18, dtype)
    assert call(theta, "normal", 64, epsilon=1e-3).counts[0, 0, 0] == 64
    top = call(theta, "normal", 64, epsilon=1e-3, problem=Problem("topk", (30,))).counts[0, 0]
    assert (top == np.where(np.arange(100) < 30, 64, 0)).all()
    ranked = call(theta, "normal", 64, epsilon=1e-3, problem=Problem("ranks")).counts[0, 0]
    assert (ranked == 64 * np.arange(100, 0, -1)).all()
