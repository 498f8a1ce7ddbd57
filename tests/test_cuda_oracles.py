"""CUDA top-k, ranks and shortest paths, run in the simulator, equal the reference and the CPU.

Solutions, counts and path distances with ``==``, as are JVP, Jacobian and moments, whose sums run
over the shared tree; VJP and maximum to a few roundings (``kernels/cuda/launch.py``).
"""

from __future__ import annotations

import numpy as np
import pytest
import simt
from dpo.kernels import codes, reference
from dpo.kernels.codes import JACOBIAN, JVP, MAXIMUM, MOMENTS, SCALE_SCORE, VALUE, VJP, Problem
from dpo.kernels.cpu import launch as cpu
from dpo.kernels.cuda import launch as cuda
from dpo.kernels.cuda import solvers
from helpers import draws, grid, temperatures
from test_cuda_argmax import DESIGNS, close
from test_reference import PROBLEMS, scores_for

ORACLES = [name for name in PROBLEMS if name != "argmax"]


def launch(problem, theta, epsilon, noise, operation=VALUE, seed=0, **parameters):
    """A launch in the simulator."""
    device = simt.Simulator(seed)
    return cuda.launch(problem, theta, epsilon, noise, operation, device=device, **parameters)


def compare(name, rows, d, m, family, dtype, design="iid", epsilon=0.5, multiplicative=False):
    """Every operation of a launch against the reference and the CPU."""
    problem, theta = PROBLEMS[name](d), scores_for(name, rows, d, dtype)
    epsilon = temperatures(theta, epsilon)
    noise = draws(family, m, d, DESIGNS[design], multiplicative=multiplicative)
    v = np.random.default_rng(5).standard_normal((rows, d)).astype(dtype)
    expected = reference.Pass(problem, theta, epsilon, noise)
    counts, arguments = expected.counts(), (problem, theta, epsilon, noise)

    solutions = np.full((rows, m, d), -1, np.int32)
    ours = launch(*arguments, solutions=solutions, squares=True)
    np.testing.assert_array_equal(np.moveaxis(solutions, 1, 0), expected.solutions())
    np.testing.assert_array_equal(ours.counts, counts)
    np.testing.assert_array_equal(launch(*arguments, squares=True).counts, counts)
    for operation, parameters in [(JVP, dict(direction=v)), (JACOBIAN, {}), (MOMENTS, {})]:
        ours = launch(*arguments, operation, squares=True, **parameters)
        theirs = cpu.launch(*arguments, operation, squares=True, **parameters)
        np.testing.assert_array_equal(ours.counts[:, 0], counts[:, 0])
        np.testing.assert_array_equal(ours.totals, theirs.totals)

    ours, theirs = launch(*arguments, MAXIMUM), cpu.launch(*arguments, MAXIMUM)
    np.testing.assert_array_equal(ours.counts[:, 0], counts[:, 0])
    with np.errstate(invalid="ignore"):
        seen = np.abs(expected.p(MAXIMUM)).astype(np.float64) * np.abs(expected.solutions())
        magnitude = np.nansum(seen, axis=(0, 2))[:, None, None]
    magnitude = np.concatenate([magnitude, 4 * magnitude**2], axis=1)
    assert close(ours.totals, theirs.totals, magnitude, np.float64).all()

    directed = dict(direction=v, mean=(counts[:, 0] / m).astype(dtype), squares=True)
    for weighting in (codes.SCORE, SCALE_SCORE):
        scores = reference.Pass(*arguments, weighting).scores
        ours = launch(*arguments, VJP, weighting=weighting, **directed)
        theirs = cpu.launch(*arguments, VJP, weighting=weighting, **directed)
        largest = np.abs(expected.solutions()).max() + 1
        magnitude = m * largest * np.abs(v).sum(1)[:, None] * np.abs(scores).max(0)
        assert close(ours.totals[:, 0], theirs.totals[:, 0], magnitude, dtype).all()
        assert close(ours.totals[:, 1], theirs.totals[:, 1], 4 * magnitude**2, dtype).all()


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("rows, d, m", [(9, 1, 5), (9, 12, 40), (3, 35, 9)])
def test_every_oracle(name, dtype, rows, d, m):
    compare(name, rows, d, m, "normal", dtype)


@pytest.mark.parametrize("name", ["top-half", "ranks", "grid-8"])
def test_every_design(name, dtype):
    compare(name, 5, 10, 70, "gumbel", dtype, "antithetic")
    compare(name, 5, 10, 64, "logistic", dtype, "sobol")


@pytest.mark.parametrize("name", ["top-half", "ranks", "grid-4"])
def test_every_kind_of_temperature(name, dtype):
    compare(name, 5, 10, 33, "normal", dtype, epsilon=np.linspace(0.1, 2, 10))
    compare(name, 5, 10, 33, "normal", dtype, epsilon=0.7, multiplicative=True)


SIZES = [
    ("top-1", 1000), ("top-half", 32), ("top-half", 33), ("top-half", 1025), ("top-half", 5000),
    ("ranks", 32), ("ranks", 33), ("ranks", 128), ("ranks", 129), ("ranks", 1025), ("ranks", 2049),
    ("ranks", 4097),
]  # fmt: skip


def counts_of(problem, theta, noise):
    """On the device and on the CPU."""
    arguments = problem, theta, temperatures(theta, 0.5), noise
    return launch(*arguments).counts, cpu.launch(*arguments).counts


@pytest.mark.parametrize("name, d", SIZES)
def test_sizes_on_either_side_of_every_limit(name, dtype, d):
    problem, theta = PROBLEMS[name](d), scores_for(name, 9, d, dtype)[[0, 1, 5, 8]]
    np.testing.assert_array_equal(
        *counts_of(problem, theta, draws("normal", 150 if d <= 33 else 3))
    )


@pytest.fixture
def many_samples(monkeypatch):
    """As if any number of samples kept a GPU busy: a warp then solves whatever it can."""
    monkeypatch.setattr(solvers, "_MANY", 1)


@pytest.mark.parametrize("name", ["top-1", "top-half", "ranks"])
@pytest.mark.parametrize("d", [129, 300, 1024])
def test_what_warps_solve_where_samples_are_many(name, dtype, d, many_samples):
    problem, theta = PROBLEMS[name](d), scores_for(name, 9, d, dtype)[[0, 1, 5, 8]]
    np.testing.assert_array_equal(*counts_of(problem, theta, draws("normal", 3)))


PATHS = [(1, 1), (12, 12), (3, 60), (16, 16), (30, 30), (64, 64), (70, 70)]


@pytest.mark.parametrize("height, width", PATHS)
@pytest.mark.parametrize("neighbors", [4, 8])
def test_paths_of_every_size(height, width, neighbors, dtype):
    costs = scores_for("grid", 4, height * width, dtype)
    problem = grid(height, width, neighbors, len(costs))
    np.testing.assert_array_equal(*counts_of(problem, costs, draws("gumbel", 2)))


def test_paths_of_many_large_grids(many_samples):
    costs = scores_for("grid", 4, 1024, np.float32)
    problem = grid(32, 32, 8, len(costs))
    np.testing.assert_array_equal(*counts_of(problem, costs, draws("gumbel", 2)))


def test_no_path_of_finite_cost_is_an_error():
    costs = np.ones((2, 9), np.float32)
    costs[1, 3:6] = np.inf
    arguments = grid(3, 3, 8, 2), costs, temperatures(costs, 0.5), draws("normal", 4)
    with pytest.raises(ValueError, match="without a path of finite cost"):
        launch(*arguments)


@pytest.mark.parametrize("name", ["top-half", "ranks", "grid-8"])
@pytest.mark.parametrize("d", [40, 400])
@pytest.mark.parametrize("threads", [32, 64, 256])
def test_no_result_depends_on_the_plan_or_the_order_of_threads(name, d, threads):
    """Of warps that share a block, and of blocks."""
    problem, theta = PROBLEMS[name](d), scores_for(name, 4, d, np.float32)
    arguments = problem, theta, temperatures(theta, 0.5), draws("normal", 20)
    v = np.random.default_rng(5).standard_normal((4, d)).astype(np.float32)
    plan = cuda.Plan(threads, 1)
    ours = launch(*arguments, VJP, seed=threads, plan=plan, direction=v, mean=v)
    np.testing.assert_array_equal(ours.totals, launch(*arguments, VJP, direction=v, mean=v).totals)
    assert (launch(*arguments, plan=plan).counts == launch(*arguments).counts).all()


@pytest.mark.parametrize("name, d", [("ranks", 40), ("ranks", 140), ("grid-8", 40)])
@pytest.mark.parametrize("design", ["iid", "antithetic"])
def test_tasks_of_many_samples(name, d, design, monkeypatch):
    """As when there are more samples than a GPU has room for."""
    problem, theta = PROBLEMS[name](d), scores_for(name, 2, d, np.float32)
    noise = draws("normal", 22, d, DESIGNS[design])
    arguments = problem, theta, temperatures(theta, 0.5), noise
    expected = launch(*arguments, squares=True)
    weighed = launch(*arguments, VJP, direction=theta, mean=theta)
    monkeypatch.setattr(solvers, "_TASKS", {"OneWarp": 2, "WholeBlock": 2})
    np.testing.assert_array_equal(launch(*arguments, squares=True).counts, expected.counts)
    again = launch(*arguments, VJP, direction=theta, mean=theta)
    np.testing.assert_array_equal(again.totals, weighed.totals)


def test_windows_of_solutions(monkeypatch):
    """So little workspace that every row has its own, and more samples than fit a window."""
    monkeypatch.setattr(solvers, "WORKSPACE_BYTES", 1)
    theta = scores_for("ranks", 2, 3, np.float32)
    arguments = Problem("ranks"), theta, temperatures(theta, 0.5), draws("normal", 4096 + 300)
    ours, theirs = launch(*arguments, JACOBIAN), cpu.launch(*arguments, JACOBIAN)
    np.testing.assert_array_equal(ours.totals, theirs.totals)
    np.testing.assert_array_equal(ours.counts, theirs.counts)


@pytest.mark.parametrize("name", ["top-half", "ranks", "grid-8"])
def test_no_rows(name):
    problem, theta = PROBLEMS[name](6), np.zeros((0, 6), np.float32)
    ours = launch(problem, theta, temperatures(theta, 0.5), draws("normal", 4))
    assert ours.counts.shape == (0, 1, 6)
