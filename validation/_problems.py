"""The problems that estimators are tested on: scores and solvers with exact answers."""

from __future__ import annotations

import functools as ft

import numpy as np

import dpo

from ._estimators import Case, in_float32

THREE = in_float32([-0.6, -0.5, 0.5])
FIVE = in_float32([-0.6, 1.9, -0.2, 1.1, -1.0])
_NEAR = in_float32([-0.3, 0.675, 0.075, 0.375, -0.15])
"""Closer to each other, so that no order of two is rare."""

ORACLES = {"argmax": "Argmax", "topk": "Top-k", "ranks": "Ranks", "paths": "Paths"}
"""The oracles as a sentence begins with them."""


def random_scores(rows: int, d: int) -> np.ndarray:
    """Fixed scores, spread so little that every coordinate wins now and then, (rows, d)."""
    scores = np.random.default_rng(1000 + d).uniform(-0.6, 0.6, size=(rows, d))
    return scores.astype(np.float32).astype(np.float64)


@ft.cache
def small(oracle: str, noise: str) -> Case:
    """Five scores at temperature 3/4, or a 3 x 3 grid of three disjoint paths; made once."""
    if oracle == "paths":
        return Case("3 × 3 grid", _SQUARE[None], 0.5, noise, dpo.ShortestPath(8))
    solver = {"argmax": dpo.Argmax(), "topk": dpo.TopK(2), "ranks": dpo.Ranks()}[oracle]
    return Case("d = 5", _NEAR, 0.75, noise, solver)


@ft.cache
def wide(oracle: str, noise: str) -> Case:
    """More than sixteen coordinates, where the VJP is a pass of its own; two rows, made once."""
    if oracle == "paths":
        solver = dpo.ShortestPath(8, source=(1, 0), target=(1, -1))
        return Case("3 × 6 grid", np.stack([_RING, _RING[::-1]]), 0.5, noise, solver)
    solvers = {"argmax": dpo.Argmax(), "topk": dpo.TopK(5), "ranks": dpo.Ranks()}
    return Case("2 rows of d = 20", random_scores(2, 20), 1.0, noise, solvers[oracle])


_SQUARE = in_float32([10.0, 10.2, 10.0], [10.1, 20.1, 9.9], [10.0, 9.8, 10.0])
"""The centre alone, or two cells on either side: three paths of about the same cost. Costs are
twenty temperatures and more: clipping at zero has probability 2e-9 at most, for Gumbel noise."""
_WALL = np.inf
_RING = in_float32(
    [10.0, 10.0, 10.1, 9.9, 10.0, 10.0],
    [10.0, _WALL, _WALL, _WALL, _WALL, 10.0],
    [10.0, 10.1, 10.2, 10.0, 10.1, 10.0],
)
"""Four cells above the wall, or four below."""
