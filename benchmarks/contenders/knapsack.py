"""Perturbed knapsack, by one solver: fused into the kernels, or called for each sample in Python.

The solver is that of ``dpo.solvers``, dynamic programming over integer weights, with the same
arrays to work in. What differs is who calls it: compiled code, or a Python loop, which calls the
function as it is written or as Numba compiles it.
"""

from __future__ import annotations

import numpy as np

from ..workloads import INPUT_SEED, Workload
from . import shells
from .base import Contender, Solver


def instance(d: int) -> tuple[np.ndarray, int]:
    """Weights 1 to 9, and a third of their sum."""
    weights = np.random.default_rng(INPUT_SEED + 2).integers(1, 10, d)
    return weights, int(weights.sum()) // 3


def dpo_oracle(workload: Workload):
    from dpo import solvers

    weights, capacity = instance(workload.d)
    return solvers.knapsack(weights=weights, capacity=capacity)


def _in_a_loop(workload: Workload, function) -> Solver:
    weights, capacity = instance(workload.d)
    best = np.empty((workload.d + 1, capacity + 1))

    def solve(x):
        y, x = np.zeros(x.shape, np.int32), x.astype(np.float64)
        for index in np.ndindex(x.shape[:-1]):
            function(x[index], y[index], weights, capacity, best)
        return y.astype(np.float32)

    return shells.numpy_dense(solve)


def python_function(workload: Workload) -> Solver:
    from dpo import solvers

    return _in_a_loop(workload, solvers.knapsack.declaration.function)


def numba_function(workload: Workload) -> Solver:
    import numba

    from dpo import solvers

    return _in_a_loop(workload, numba.njit(solvers.knapsack.declaration.function))


CONTENDERS = (
    Contender("dpo, torch", ("dpo.oracle", "torch"), shells.dpo_torch, dpo_oracle),
    Contender("dpo, NumPy", ("dpo.oracle",), shells.dpo_numpy, dpo_oracle),
    Contender(
        "Python loop, Numba solver", ("dpo.oracle",), shells.numpy_function, numba_function, 40
    ),
    Contender(
        "Python loop, Python solver",
        ("dpo.oracle",),
        shells.numpy_function,
        python_function,
        40,
        seconds_per_draw=1e-5,
    ),
)
