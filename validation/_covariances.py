"""The exact covariance of one perturbed solution, ``Sigma = Cov(y*(theta + eps Z))``.

What a sample sees are independent variables ``X_i`` with densities ``f_i`` and CDFs ``G_i``:

    argmax, paths   diag(p) - p p^T, of winners
    top-k           P(S is the top) = int sum_{i in S} f_i prod_{S-i} (1 - G_j) prod_{not S} G_l dt
    ranks           rank_i = 1 + sum_a 1[X_a < X_i]: covariances of comparisons of two
"""

from __future__ import annotations

import itertools as it

import numpy as np

import dpo

from ._exact_oracles import Variables, variables
from ._exact_paths import path_chances


def covariance(oracle: dpo.Oracle, theta: np.ndarray, epsilon: float, noise: str) -> np.ndarray:
    """``Cov(y*(theta + eps Z))`` of one instance, (d, d); grids are flattened."""
    if isinstance(oracle, dpo.ShortestPath):
        chances, incidence = path_chances(theta, epsilon, noise, oracle)
        return _of_outcomes(incidence, chances)
    x = variables(theta, epsilon, noise)
    if isinstance(oracle, dpo.Ranks):
        return _of_ranks(x)
    k = oracle.k if isinstance(oracle, dpo.TopK) else 1
    tops = list(it.combinations(range(theta.size), k))
    solutions = np.array([np.isin(np.arange(theta.size), top) for top in tops], np.float64)
    return _of_outcomes(solutions, np.array([_chance_of_top(x, top) for top in tops]))


def _of_outcomes(solutions: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Of a variable with finitely many values, (n, d), and their probabilities."""
    centred = solutions - chances @ solutions
    return (centred.T * chances) @ centred


def _chance_of_top(x: Variables, top: tuple[int, ...]) -> float:
    """The least of them is at ``t``, the others above, the rest below."""
    inside = np.isin(np.arange(x.cdf.shape[1]), top)
    below = x.cdf[:, ~inside].prod(1)
    least = sum(x.density[:, i] * (1 - x.cdf[:, [j for j in top if j != i]]).prod(1) for i in top)
    return float(x.integral(least * below))


def _of_ranks(x: Variables) -> np.ndarray:
    """Sums of covariances of comparisons."""
    d = x.cdf.shape[1]
    above = x.integral(x.density[:, :, None] * x.cdf[:, None, :])  # [i, a] = P(X_a < X_i)
    result = np.zeros((d, d))
    for i, j in it.product(range(d), repeat=2):
        for a, b in it.product(range(d), repeat=2):
            if a != i and b != j:
                result[i, j] += _both(x, a, i, b, j) - above[i, a] * above[j, b]
    return result


def _both(x: Variables, a: int, i: int, b: int, j: int):
    """``P(X_a < X_i and X_b < X_j)``, a number."""
    f, g = x.density.T, x.cdf.T
    if (a, i) == (b, j):
        return x.integral(f[i] * g[a])
    if a == j and b == i:
        return 0
    if i == j:
        return x.integral(f[i] * g[a] * g[b])
    if a == b:
        return x.integral(f[a] * (1 - g[i]) * (1 - g[j]))
    if a == j:
        return x.integral(f[j] * g[b] * (1 - g[i]))
    if b == i:
        return x.integral(f[i] * g[a] * (1 - g[j]))
    return x.integral(f[i] * g[a]) * x.integral(f[j] * g[b])
