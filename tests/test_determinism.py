"""The same seed gives the same bits for any thread count, batch split or sample split."""

from __future__ import annotations

import numpy as np
import pytest
from dpo.kernels import codes
from dpo.kernels.cpu import launch
from helpers import adversarial_scores, call

OPERATIONS = range(6)


def everything(theta, family, operation, num_samples=6000):
    v = np.random.default_rng(0).standard_normal(theta.shape).astype(theta.dtype)
    mean = np.full(theta.shape, 1 / theta.shape[1], theta.dtype)
    return call(
        theta,
        family,
        num_samples,
        operation,
        direction=v,
        mean=mean,
        squares=operation != codes.VALUE,
    )


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_any_number_of_threads(threads, family, operation, rows):
    theta = np.random.default_rng(1).standard_normal((rows, 11)).astype(np.float32)
    results = []
    for n in (1, 2, 5):
        threads(n)
        results.append(everything(theta, family, operation))
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
