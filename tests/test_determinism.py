"""The same seed gives the same bits for any thread count, batch split or sample split."""

from __future__ import annotations

import numpy as np
import pytest
from dpo.kernels import codes
from dpo.kernels.cpu import launch
from helpers import adversarial_scores, call, draws, grid, temperatures

OPERATIONS = range(6)
SHARING = {
    "grid": lambda rows: grid(4, 5, rows=rows, min_cost=0.1),
    "large grid": lambda rows: grid(5, 8, neighbors=4, rows=rows),
    "topk": lambda rows: codes.Problem("topk", (3,)),
    "ranks": lambda rows: codes.Problem("ranks"),
}


def everything(theta, family, operation, num_samples=6000, squares=True, **parameters):
    v = np.random.default_rng(0).standard_normal(theta.shape[1]).astype(theta.dtype)
    mean = np.full(theta.shape, 1 / theta.shape[1], theta.dtype)
    return call(
        theta,
        family,
        num_samples,
        operation,
        direction=np.broadcast_to(v, theta.shape),
        mean=mean,
        squares=squares and operation != codes.VALUE,
        **parameters,
    )


@pytest.mark.parametrize(
    "operation, squares",
    [*((operation, True) for operation in OPERATIONS), (codes.JACOBIAN, False)],
)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_any_number_of_threads(threads, family, operation, squares, rows):
    theta = np.random.default_rng(1).standard_normal((rows, 11)).astype(np.float32)
    results = []
    for n in (1, 2, 5):
        threads(n)
        results.append(everything(theta, family, operation, squares=squares))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_batch_split_in_two(family, dtype):
    theta = adversarial_scores(8, 21, dtype)
    whole = call(theta, family, 500).counts
    first = call(theta[:3], family, 500).counts
    second = call(theta[3:], family, 500, row_offset=3).counts
    assert (np.concatenate([first, second]) == whole).all()


def test_samples_drawn_in_two_calls(family, dtype):
    theta = adversarial_scores(4, 21, dtype)
    whole = call(theta, family, 1000).counts
    halves = call(theta, family, 500).counts + call(theta, family, 500, sample_offset=500).counts
    assert (halves == whole).all()
    odd = call(theta, family, 37).counts + call(theta, family, 963, sample_offset=37).counts
    assert (odd == whole).all()


def test_rows_are_independent(family):
    """A row's value and gradient do not depend on its neighbours (optax issue: they must not)."""
    theta = np.random.default_rng(2).standard_normal((5, 9)).astype(np.float32)
    changed = theta.copy()
    changed[1:] += 1
    for operation in (codes.VALUE, codes.VJP):
        a, b = everything(theta, family, operation), everything(changed, family, operation)
        np.testing.assert_array_equal(a.totals[0], b.totals[0])
        np.testing.assert_array_equal(a.counts[0], b.counts[0])


@pytest.mark.parametrize("num_samples", [10, 36, 100])
@pytest.mark.parametrize("design", [codes.INDEPENDENT, codes.ANTITHETIC])
@pytest.mark.parametrize("problem", SHARING)
def test_rows_whose_remainders_share_lanes(problem, design, num_samples, dtype):
    """A row alone shares with none, and is the same."""
    problem = SHARING[problem]
    d = 20 if problem(1).options[:2] == (4, 5) else 40
    theta = np.random.default_rng(3).uniform(0, 3, (5, d)).astype(dtype)
    for operation in OPERATIONS:
        shared = everything(
            theta, "gumbel", operation, num_samples, problem=problem(5), design=design
        )
        for b in range(5):
            alone = everything(
                theta[b : b + 1], "gumbel", operation, num_samples, problem=problem(1),
                design=design, row_offset=b,
            )  # fmt: skip
            np.testing.assert_array_equal(alone.counts[0], shared.counts[b])
            np.testing.assert_array_equal(alone.totals[0], shared.totals[b])


@pytest.mark.parametrize("num_samples", [3, 10, 36, 100])
@pytest.mark.parametrize("problem", ["grid", "large grid", "topk"])
def test_what_a_value_keeps_of_rows_that_share_lanes(problem, num_samples, dtype):
    """A gradient from what was kept is that of deciding again."""
    problem = SHARING[problem](5)
    d = 20 if problem.options[:2] == (4, 5) else 40
    theta = np.random.default_rng(4).uniform(0, 3, (5, d)).astype(dtype)
    noise = draws("normal", num_samples, d)
    memo = launch.new_memo(problem, theta, temperatures(theta, 0.5), noise)
    value = call(theta, "normal", num_samples, problem=problem, memo=memo)
    again = call(theta, "normal", num_samples, problem=problem)
    np.testing.assert_array_equal(value.counts, again.counts)
    v, mean = np.random.default_rng(5).standard_normal((2, 5, d)).astype(dtype)
    given = dict(problem=problem, direction=v, mean=mean)
    kept = call(theta, "normal", num_samples, codes.VJP, memo=memo, **given)
    again = call(theta, "normal", num_samples, codes.VJP, **given)
    np.testing.assert_array_equal(kept.totals, again.totals)


def test_rows_and_samples_draw_distinct_noise():
    theta = np.zeros((3, 50), np.float32)

    def winners(seed):
        won = np.empty((3, 200), np.int32)
        noise = codes.Draws(0, seed, 200)
        launch.launch(codes.Problem(), theta, np.ones((3, 1), np.float32), noise, memo=won)
        return won

    w, again = winners((1, 2)), winners((1, 3))
    assert (w[0] != w[1]).mean() > 0.9
    assert (w[:, 1:] != w[:, :-1]).mean() > 0.9
    assert (w != again).mean() > 0.9
