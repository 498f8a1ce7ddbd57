"""Do the contenders solve what they claim? ``pytest benchmarks/test_contenders.py``, a minute.

Their solvers are compared with definitions that share no code with them; whole contenders, ours
included, with an estimator written out in NumPy. Wrong ones must be rejected by the same check.
"""

from __future__ import annotations

import itertools as it
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.contenders import CONTENDERS, agreement, shells
from benchmarks.contenders.base import Solver
from benchmarks.contenders.knapsack import instance
from benchmarks.contenders.paths import MIN_COST
from benchmarks.peers import MAX_Z, z_scores
from benchmarks.workloads import NOISES, ORACLES, Workload

SMALL = {
    "argmax": Workload("argmax", 100, (6,), 300, "normal"),
    "ranks": Workload("ranks", 100, (6,), 300, "normal"),
    "topk": Workload("topk", 100, (6,), 300, "normal", k=3),
    "paths": Workload("paths", 100, (3, 4), 300, "normal"),
    "assignment": Workload("assignment", 100, (3, 3), 300, "normal"),
    "knapsack": Workload("knapsack", 100, (6,), 300, "normal"),
}


def simple_paths(height: int, width: int) -> np.ndarray:
    """Indicators of all self-avoiding 8-neighbour walks between opposite corners, (P, H, W)."""
    found = []

    def extend(walk):
        row, column = walk[-1]
        if (row, column) == (height - 1, width - 1):
            indicator = np.zeros((height, width), np.float32)
            indicator[tuple(zip(*walk, strict=True))] = 1
            found.append(indicator)
            return
        for i, j in it.product((-1, 0, 1), repeat=2):
            cell = row + i, column + j
            if cell not in walk and 0 <= cell[0] < height and 0 <= cell[1] < width:
                extend([*walk, cell])

    extend([(0, 0)])
    return np.unique(np.array(found), axis=0)


PATHS = simple_paths(3, 4)
PERMUTATIONS = np.eye(3)[list(it.permutations(range(3)))]
LOADS = np.array(list(it.product((0.0, 1.0), repeat=6)))
LOADS = LOADS[LOADS @ instance(6)[0] <= instance(6)[1]]


def solution(oracle: str, x: np.ndarray, k: int | None) -> np.ndarray:
    """The definition, on (..., d) or (..., H, W)."""
    if oracle == "paths":
        costs = np.tensordot(np.maximum(x, MIN_COST).astype(float), PATHS, ([-2, -1], [-2, -1]))
        return PATHS[costs.argmin(-1)]
    if oracle == "assignment":
        worth = np.tensordot(x.astype(float), PERMUTATIONS, ([-2, -1], [-2, -1]))
        return PERMUTATIONS[worth.argmax(-1)]
    if oracle == "knapsack":
        return LOADS[(x.astype(float) @ LOADS.T).argmax(-1)]
    beaten = (x[..., :, None] > x[..., None, :]).sum(-1)
    if oracle == "ranks":
        return beaten + 1.0
    return (beaten >= x.shape[-1] - (k or 1)).astype(float)


def estimates(workload: Workload, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The plain value and VJP."""
    theta, v = workload.arrays()
    rng = np.random.default_rng(10_000 + seed)
    z = getattr(rng, workload.noise)(size=(workload.num_samples, *theta.shape))
    y = solution(workload.oracle, theta + workload.scale * z, workload.k)
    score = z if workload.noise == "normal" else 1 - np.exp(-z)
    weights = (y * v).reshape(*y.shape[:2], -1).sum(-1)
    g = np.einsum("mb,mb...->b...", weights, score) / (workload.scale * workload.num_samples)
    return y.mean(0), g


def scores(calls, workload: Workload) -> np.ndarray:
    reference = shells.Calls(None, lambda seed: estimates(workload, seed))
    return np.array(list(z_scores(calls, reference, workload.rows).values()))


@pytest.fixture(params=[c for cs in CONTENDERS.values() for c in cs], ids=lambda c: c.name)
def contender(request):
    if missing := request.param.missing():
        pytest.skip(missing)
    return request.param


def workload_of(contender, noise: str) -> Workload:
    oracle = next(o for o in ORACLES if contender in CONTENDERS[o])
    return replace(SMALL[oracle], noise=noise)


@pytest.mark.parametrize("noise", NOISES)
def test_estimators_agree_with_the_definition(contender, noise):
    workload = workload_of(contender, noise)
    assert np.abs(scores(contender.build(workload), workload)).max() < MAX_Z


def test_solvers_solve(contender):
    """On the same perturbed inputs, mean and products are those of the definition's solutions."""
    workload = workload_of(contender, "normal")
    theta, v = workload.arrays()
    z = np.random.default_rng(1).standard_normal((workload.num_samples, *theta.shape))
    x = (theta + abs(z)).astype(np.float32)  # costs stay positive: clipped ones would tie
    y = solution(workload.oracle, x, workload.k)
    means, products = sums(contender, workload, x, v)
    np.testing.assert_allclose(means, y.mean(0), rtol=1e-5, atol=1e-6)
    weights = (y * v).reshape(*y.shape[:2], -1).sum(-1)
    np.testing.assert_allclose(products, weights, rtol=1e-4, atol=1e-4)


def sums(contender, workload: Workload, x: np.ndarray, v: np.ndarray):
    """What the contender's solver makes of ``x``: the mean solution, and ``<v_b, y_mb>``."""
    solver = contender.solver(workload)
    if contender.shell.__name__.startswith("dpo_"):
        pytest.skip("ours does not take noise: see tests/")
    if contender.shell is shells.torch_function:
        torch = pytest.importorskip("torch")
        x, v = torch.from_numpy(x), torch.from_numpy(v)
    if not isinstance(solver, Solver):  # a JAX function, of one row or of all
        jax = pytest.importorskip("jax")
        all_rows = contender.shell is shells.jax_function
        solver = shells.numpy_dense(solver if all_rows else jax.vmap(jax.vmap(solver)))
    solutions = solver.solve(x)
    return np.asarray(solver.mean(solutions)), np.asarray(solver.products(solutions, v))


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("wrong", ["scale", "sign", "oracle"])
def test_wrong_contenders_are_rejected(oracle, wrong):
    """Negative controls: the VJP at twice its size or negated, and the solution turned around."""
    workload = replace(SMALL[oracle], rows=400)

    def both(seed):
        y, g = estimates(workload, 500 + seed)
        if wrong == "oracle":
            return np.flip(y, -1), g
        return y, {"scale": 2, "sign": -1}[wrong] * g

    assert np.abs(scores(shells.Calls(None, both), workload)).max() > MAX_Z


def test_agreement_is_zero_for_equals():
    x = np.ones((3, 2))
    assert agreement(x, x, x, x) == (0.0, 0.0)
