"""Cheapest paths once more: plain NumPy, its own generator, brute force over all simple paths.

For grids without an exact answer: overlapping paths, and costs that are clipped. An instance is
solved by adding up every simple path's costs. Of paths that cost the same, the one whose cells,
read backwards from the target, come first is taken: at each cell the predecessor that comes first
in row-major order, where all costs are positive. Means come with their standard errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import dpo

from ._exact_paths import simple_paths

_BLOCK = 2**14  # samples; what they need stays in the cache

_DRAWS: dict[str, Callable] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "gumbel": lambda rng, size: rng.gumbel(size=size),
    "logistic": lambda rng, size: rng.logistic(size=size),
}
_SCORES: dict[str, Callable] = {
    "normal": lambda z: z,
    "gumbel": lambda z: 1 - np.exp(-z),
    "logistic": lambda z: np.tanh(z / 2),
}


class Sampled(NamedTuple):
    """Means and standard errors of independent samples, by output."""

    mean: dict[str, np.ndarray]
    error: dict[str, np.ndarray]


def sampled_answers(
    costs: np.ndarray,
    epsilon: float,
    noise: str,
    oracle: dpo.ShortestPath,
    direction: np.ndarray,
    blocks: int,
    seed: int,
) -> Sampled:
    """From ``blocks`` of 16,384 samples of one (H, W) instance, source and target its corners.

        w = max(c - eps Z, min_cost)              what a sample sees; y its cheapest path
        value      y                              maximum  -<y, c - eps Z>
        Jacobian   -(y - ybar) s^T / eps          vjp in eps  <v, y - ybar> (<s, Z> - d) / eps

    ``ybar`` is the mean of a block of samples of its own, which leaves all unbiased.
    """
    rng = np.random.default_rng(seed)
    open_cells = np.isfinite(costs)
    paths = simple_paths(open_cells, oracle.neighbors, 0, costs.size - 1)
    paths.sort(key=lambda path: path[::-1])

    def solve() -> tuple[np.ndarray, np.ndarray]:
        z = _DRAWS[noise](rng, (_BLOCK, costs.size))
        w = np.maximum(costs.ravel() - epsilon * z, oracle.min_cost)
        totals = np.stack([_along(w, path) for path in paths])
        indicators = np.zeros((len(paths), costs.size))
        for k, path in enumerate(paths):
            indicators[k, path] = 1
        return z, indicators[totals.argmin(0)]

    centre = solve()[1].mean(0)
    sums: dict[str, np.ndarray] = {}
    for _ in range(blocks):
        z, y = solve()
        for name, moments in _moments(z, y, centre, costs, epsilon, noise, direction).items():
            sums[name] = sums.get(name, 0) + moments / (blocks * _BLOCK)
    count = blocks * _BLOCK
    return Sampled(
        {name: first for name, (first, _) in sums.items()},
        {
            name: np.sqrt(np.maximum(second - first**2, 0) / count)
            for name, (first, second) in sums.items()
        },
    )


def _along(w: np.ndarray, path: tuple[int, ...]) -> np.ndarray:
    """The cost of a path, added from the source: equal costs are then equal to the last bit."""
    total = w[:, path[0]]
    for cell in path[1:]:
        total = total + w[:, cell]
    return total


def _moments(z, y, centre, costs, epsilon, noise, direction) -> dict[str, np.ndarray]:
    """Sums over a block of each output's terms and of their squares, (2, ...)."""
    s, gap = _SCORES[noise](z), y - centre
    terms = {
        "value": y,
        "max": -(y * (costs.ravel() - epsilon * z)).sum(-1),
        "vjp_epsilon": gap @ direction * ((s * z).sum(-1) - costs.size) / epsilon,
    }
    moments = {name: np.stack([x.sum(0), (x * x).sum(0)]) for name, x in terms.items()}
    moments["jacobian"] = np.stack([-gap.T @ s / epsilon, (gap**2).T @ s**2 / epsilon**2])
    return moments
