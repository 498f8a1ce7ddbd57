"""What the API asks of whole arrays: kernels beside NumPy's functions."""

from __future__ import annotations

import numpy as np
import pytest
import simt
from dpo.kernels.cuda import arrays

pytestmark = pytest.mark.simulator
REALS = [np.float32, np.float64]


@pytest.fixture(scope="module")
def device():
    return simt.Simulator()


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 257), (2, 3, 5), (0, 4)])
def test_what_is_unusual_is_found_wherever_it_is(device, shape, dtype):
    x = np.ones(shape, dtype)
    assert not arrays.has_nan(x, device) and arrays.all_finite(x, device)
    for at in {0, x.size // 2, x.size - 1} if x.size else ():
        for unusual in (np.nan, np.inf, -np.inf):
            y = x.copy()
            y.flat[at] = unusual
            assert arrays.has_nan(y, device) == np.isnan(unusual)
            assert not arrays.all_finite(y, device)
    largest = np.full(3, np.finfo(dtype).max, dtype)
    assert arrays.all_finite(largest, device) and arrays.all_finite(-largest, device)


@pytest.mark.parametrize("dtype", REALS)
def test_a_range_has_its_ends(device, dtype):
    x = np.array([0.5, 2, 1], dtype)
    assert arrays.all_within(x, 0.5, 2, device) and arrays.all_within(x[:0], 3, 2, device)
    assert not arrays.all_within(x, 0.6, 2, device) and not arrays.all_within(x, 0.5, 1.9, device)


@pytest.mark.parametrize("to", REALS)
@pytest.mark.parametrize("of", [np.int64, *REALS, np.int32])
def test_divided_is_rounded_once(device, of, to):
    rng = np.random.default_rng(0)
    x = (1000 * rng.normal(size=(3, 2, 300))).astype(of)
    for given in (x, x[:, 0], x[:, 1, ::2], x[0, 0], x[0, 0, 0].reshape(()), x[:0, 0]):
        expected = (given / np.float64(7)).astype(to)
        ours = arrays.divided(given, 7, to, device=device)
        assert ours.dtype == to and ours.shape == given.shape
        assert not np.shares_memory(ours, given)
        np.testing.assert_array_equal(ours, expected)
        result = np.empty(given.shape, to)
        assert arrays.divided(given, 7, to, result, device) is result
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("columns", [1, 70])
@pytest.mark.parametrize("multiplicative", [False, True])
def test_slopes(device, multiplicative, columns, dtype):
    rng = np.random.default_rng(0)
    rows, d = 5, 70
    theta = rng.normal(size=(rows, d)).astype(dtype)
    theta[0, 3], theta[1, 4], theta[2, 5] = np.inf, -np.inf, 0
    epsilon = rng.uniform(0.5, 2, (rows, columns)).astype(dtype)
    sums = rng.normal(size=(rows, 2, d))
    ours = arrays.apply_slope(sums, 9, theta, epsilon, -1.0, multiplicative, device)
    x, eps = theta.astype(float), epsilon.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = -1 / (eps * x) if multiplicative else np.broadcast_to(-1 / eps, x.shape)
        expected = sums[:, 0] / 9 * slope
    fixed = np.isinf(x) | (multiplicative & (x == 0))
    np.testing.assert_array_equal(ours, np.where(fixed, 0, expected))
