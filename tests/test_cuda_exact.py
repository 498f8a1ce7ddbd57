"""Exact expectations in CUDA, run in the simulator, equal the CPU's to the rounding of sums."""

from __future__ import annotations

import itertools as it
import re

import numpy as np
import pytest
import simt
from dpo.kernels import noise
from dpo.kernels.codes import Problem
from dpo.kernels.cuda import exact_launch as cuda
from dpo.kernels.cuda import sources
from dpo.kernels.exact import codes
from dpo.kernels.exact import launch as cpu
from dpo.kernels.exact.codes import JACOBIAN, MOMENTS, PRODUCT, SCALE, SECOND, VALUE
from helpers import FAMILIES, adversarial_scores

LIMITS = {np.float64: 1e-13, np.float32: 1e-6}
"""Of the error, over one plus the largest entry of a row."""


def launch(*arguments, seed=0, **parameters):
    """A launch in the simulator."""
    return cuda.launch(*arguments, device=simt.Simulator(seed), **parameters)


def temperatures(theta, per_coordinate):
    """One for all, or one each, a factor of nine apart."""
    rows, d = theta.shape
    if not per_coordinate:
        return np.full((rows, 1), 0.7, theta.dtype)
    return np.tile(np.geomspace(0.3, 2.7, d).astype(theta.dtype), (rows, 1))


def compare(problem, theta, family, per_coordinate, operations, wide=False, **parameters):
    """Operations of a launch on both; on the CPU in float64 if ``wide``."""
    dtype = theta.dtype.type
    rng = np.random.default_rng(1)
    v, w = rng.standard_normal((2, *theta.shape)).astype(dtype)
    arguments = problem, theta, temperatures(theta, per_coordinate), FAMILIES[family]
    to = np.float64 if wide else dtype
    expected = problem, theta.astype(to), arguments[2].astype(to), arguments[3]
    for operation in operations:
        ours = launch(*arguments, operation, v=v, w=w, **parameters)
        theirs = cpu.launch(*expected, operation, v=v.astype(to), w=w.astype(to))
        assert ours.dtype == np.float64 and ours.shape == theirs.shape
        scale = np.abs(theirs).max((1, 2), keepdims=True) + 1
        error = np.abs(ours - theirs) - LIMITS[dtype] * scale
        assert (error <= 0).all(), (operation, np.abs(ours - theirs).max())


ALL = VALUE, MOMENTS, PRODUCT, SECOND, JACOBIAN
"""With one temperature a row; SCALE is for one a coordinate."""


@pytest.mark.parametrize("per_coordinate", [False, True])
def test_argmax(family, dtype, per_coordinate):
    """Ordinary, equal, tiny, huge, one leader, masked, +inf, all -inf, signed zeros."""
    theta = adversarial_scores(9, 10, dtype)
    operations = (*ALL, SCALE) if per_coordinate else ALL
    compare(Problem(), theta, family, per_coordinate, operations)


@pytest.mark.parametrize("d", [1, 2, 31, 33, 300])
def test_argmax_of_many_sizes(dtype, d):
    theta = adversarial_scores(1, d, dtype) / 4
    compare(Problem(), theta, "normal", False, ALL)
    compare(Problem(), theta, "gumbel", True, (VALUE, PRODUCT))


@pytest.mark.parametrize("d", [1025, 2500])
def test_argmax_of_rows_in_parts(dtype, d):
    theta = adversarial_scores(2, d, dtype) / 4
    compare(Problem(), theta, "logistic", False, (MOMENTS, PRODUCT))


def test_the_jacobian_of_the_argmax_is_symmetric(dtype):
    """To the last bit, across bands of it; its rows add up to nothing."""
    theta = adversarial_scores(1, 40, dtype) / 4
    arguments = Problem(), theta, temperatures(theta, True), FAMILIES["normal"], JACOBIAN
    jacobian = launch(*arguments).reshape(40, 40)
    np.testing.assert_array_equal(jacobian, jacobian.T)
    assert np.abs(jacobian.sum(1)).max() < 1e-15 < jacobian.max()


@pytest.mark.parametrize("per_coordinate", [False, True])
def test_ranks(family, dtype, per_coordinate):
    theta = adversarial_scores(9, 10, dtype)
    operations = (*ALL, SCALE) if per_coordinate else ALL
    compare(Problem("ranks"), theta, family, per_coordinate, operations)


@pytest.mark.parametrize("d", [1, 2, 31, 33, 300])
def test_ranks_of_many_sizes(dtype, d):
    """The CPU goes over nodes where d > 256: ``z`` agrees one by one for symmetric noise, and the
    error of nodes disappears in float64."""
    theta = adversarial_scores(1, d, dtype)
    operations = (VALUE, MOMENTS, PRODUCT, SECOND) if d > 256 else ALL
    compare(Problem("ranks"), theta, "logistic", False, operations, wide=d > 256)
    if d < 300:
        compare(Problem("ranks"), theta, "normal", True, (VALUE, PRODUCT))


@pytest.mark.parametrize("per_coordinate", [False, True])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_topk(family, dtype, per_coordinate, k):
    """Some rows have fewer than k finite scores, others k that are +inf."""
    theta = adversarial_scores(9, 10, dtype)
    operations = (*ALL, SCALE) if per_coordinate else ALL
    compare(Problem("topk", (k,)), theta, family, per_coordinate, operations)


@pytest.mark.parametrize("d, k", [(1, 1), (2, 1), (31, 20), (33, 5), (300, 3)])
def test_topk_of_many_sizes(dtype, d, k):
    theta = adversarial_scores(1, d, dtype)
    compare(Problem("topk", (k,)), theta, "normal", False, (MOMENTS, PRODUCT, SECOND))


# ------------------------------------------------------------------------------------- any oracle

PROBLEMS = {"argmax": Problem(), "ranks": Problem("ranks"), "topk": Problem("topk", (3,))}


def request(name, per_coordinate, d=None, rows=3):
    """Scores, for the argmax of more than one chunk of a sum."""
    d = d or (70 if name == "argmax" else 35)
    theta = np.random.default_rng(2).standard_normal((rows, d)).astype(np.float32)
    return PROBLEMS[name], theta, temperatures(theta, per_coordinate), noise.LOGISTIC


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("threads", [32, 64, 256])
def test_no_result_depends_on_the_launch(name, threads):
    """Nor on the order of threads, nor on the other rows."""
    for per_coordinate, operation in it.product([False, True], [MOMENTS, SECOND]):
        problem, theta, epsilon, family = request(name, per_coordinate)
        here = dict(v=theta, w=theta[:1])
        expected = launch(problem, theta, epsilon, family, operation, **here)
        there = dict(threads=threads, seed=threads, **here)
        ours = launch(problem, theta, epsilon, family, operation, **there)
        np.testing.assert_array_equal(ours, expected)
        alone = dict(v=theta[2:], w=theta[:1])
        ours = launch(problem, theta[2:], epsilon[2:], family, operation, **alone)
        np.testing.assert_array_equal(ours, expected[2:])


@pytest.mark.parametrize("name", PROBLEMS)
def test_rows_that_do_not_fit_the_workspace(name, monkeypatch):
    given = request(name, True, d=6, rows=5)
    v = given[1]
    expected = [launch(*given, operation, v=v) for operation in (PRODUCT, JACOBIAN)]
    monkeypatch.setattr(cuda, "WORKSPACE_BYTES", 1)
    for operation, all_at_once in zip((PRODUCT, JACOBIAN), expected, strict=True):
        np.testing.assert_array_equal(launch(*given, operation, v=v), all_at_once)


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_rows(name):
    for operation, shape in [(MOMENTS, (0, 2, 5)), (JACOBIAN, (0, 1, 25))]:
        problem, theta, epsilon, family = request(name, True, d=5, rows=0)
        assert launch(problem, theta, epsilon, family, operation).shape == shape


@pytest.mark.parametrize("tolerance", [1e-4, 1e-9])
def test_a_tolerance_is_kept(tolerance):
    """And bought with fewer nodes."""
    problem, theta, epsilon, family = request("argmax", True)
    theta, epsilon = theta.astype(np.float64), epsilon.astype(np.float64)
    ours = launch(problem, theta, epsilon, family, VALUE, tolerance=tolerance)
    exact = cpu.launch(problem, theta, epsilon, family, VALUE)
    assert tolerance / 1e5 < np.abs(ours - exact).max() < 2 * tolerance


def test_top_k_that_does_not_fit_is_refused():
    theta = np.zeros((1, 40_000), np.float32)
    with pytest.raises(ValueError, match=r"would take [\d.]+ GB a row .* use method='mc'"):
        launch(Problem("topk", (20_000,)), theta, temperatures(theta, False), 0, VALUE)


def test_temperatures_far_apart_are_refused():
    """Else nodes as fine as the smallest needs would keep the device for hours."""
    theta = np.zeros((2, 3), np.float32)
    epsilon = np.array([[1, 1, 1], [1e-3, 1, 1e3]], np.float32)
    with pytest.raises(ValueError, match="differ by a factor of at most"):
        launch(Problem("ranks"), theta, epsilon, noise.NORMAL, VALUE)


def test_codes_are_those_of_python():
    text = (sources.FOLDER / "exact.cuh").read_text()
    (names,) = re.findall(r"enum Expectation \{ ([^}]+) \};", text)
    assert [getattr(codes, name) for name in names.split(", ")] == list(range(6))
