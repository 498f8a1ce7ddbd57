"""Exact expectations for cheapest paths, by enumeration of tiny grids.

Where costs are positive a path with a detour never wins, and on the grids used here the paths that
remain share no cell but those that all of them share. The costs of what each has for itself are
then independent, so the cheapest path is the argmax of independent variables, minus sums of costs:

    y_cell = [all paths pass it] + sum of P_path over the paths that pass it
    F      = sum over the shared cells of (eps E Z - c) + E max_path X_path
    J      = -B^T J_path B          B the incidence of paths and their own cells, (paths, cells)

Derivatives are in *costs*, hence the sign. Sums of noise are convolved numerically. Perturbed costs
must stay above ``min_cost``: choose them so high that clipping has no probability to speak of.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._exact import LAWS, Exact
from ._exact_oracles import Variables, axis, topk_answers


def simple_paths(
    open_cells: np.ndarray, neighbors: int, source: int, target: int, longest: int | None = None
) -> list[tuple[int, ...]]:
    """Every path through the ``True`` cells of an (H, W) grid that visits no cell twice.

    Of at most ``longest`` cells, if that is given.
    """
    most = open_cells.size if longest is None else longest

    def extend(path: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if path[-1] == target:
            yield path
            return
        if len(path) == most:
            return
        for cell in _neighbors(path[-1], open_cells, neighbors):
            if cell not in path:
                yield from extend((*path, cell))

    return list(extend((source,)))


def _neighbors(cell: int, open_cells: np.ndarray, neighbors: int) -> Iterator[int]:
    """In row-major order."""
    height, width = open_cells.shape
    row, column = divmod(cell, width)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            r, c = row + down, column + right
            steps = abs(down) + abs(right)
            inside = 0 <= r < height and 0 <= c < width and open_cells[r, c]
            if inside and (steps == 1 or (steps == 2 and neighbors == 8)):
                yield r * width + c


def paths_answers(
    costs: np.ndarray, epsilon: np.ndarray, noise: str, oracle, refine: int = 1
) -> Exact:
    """``costs`` and ``epsilon`` are (H, W); walls are infinite."""
    shared, own = _minimal_paths(costs, oracle)
    theta, scale = -costs.ravel(), epsilon.ravel()
    incidence = _incidence(own, theta.size)
    best = topk_answers(_sums(theta, scale, noise, own, refine), 1)
    everywhere = np.zeros(theta.size)
    everywhere[shared] = 1
    offset = (theta[shared] + scale[shared] * LAWS[noise].mean).sum()
    return Exact(
        everywhere + best.value @ incidence,
        float(offset + best.max),
        -incidence.T @ best.jacobian @ incidence,
        best.rarest,
    )


def path_chances(
    costs: np.ndarray, epsilon: float, noise: str, oracle
) -> tuple[np.ndarray, np.ndarray]:
    """How probable each minimal path is, (n,), and the cells it has for itself, (n, H W)."""
    _, own = _minimal_paths(costs, oracle)
    theta, scale = -costs.ravel(), np.full(costs.size, float(epsilon))
    chances = topk_answers(_sums(theta, scale, noise, own, 1), 1).value
    return chances, _incidence(own, theta.size)


def _minimal_paths(costs: np.ndarray, oracle) -> tuple[list[int], list[list[int]]]:
    """The cells that all minimal paths share, and what each has for itself."""
    shape = np.array(costs.shape)
    source, target = (
        int(np.ravel_multi_index(tuple(np.array(cell) % shape), costs.shape))
        for cell in (oracle.source, oracle.target)
    )
    return _split(simple_paths(np.isfinite(costs), oracle.neighbors, source, target))


def _incidence(own: list[list[int]], size: int) -> np.ndarray:
    incidence = np.zeros((len(own), size))
    for k, cells in enumerate(own):
        incidence[k, cells] = 1
    return incidence


def _split(paths: list[tuple[int, ...]]) -> tuple[list[int], list[list[int]]]:
    """The cells that all minimal paths share, and what each has for itself."""
    sets = {frozenset(path) for path in paths}
    minimal = [cells for cells in sets if not any(other < cells for other in sets)]
    shared = frozenset.intersection(*minimal)
    own = sorted(sorted(cells - shared) for cells in minimal)
    if sum(map(len, own)) != len(frozenset().union(*own)):
        raise ValueError("minimal paths overlap: there is no exact answer for this grid")
    return sorted(shared), own


def _sums(
    theta: np.ndarray, epsilon: np.ndarray, noise: str, groups: list[list[int]], refine: int
) -> Variables:
    """The sums of ``theta_i + eps_i Z_i`` over groups of coordinates."""
    locations = np.array([theta[group].sum() for group in groups])
    widths = np.array([epsilon[group].sum() for group in groups])
    smallest = min(epsilon[group].min() for group in groups)
    t = axis(locations, widths, noise, refine * float(widths.min() / smallest))
    laws = [_sum(theta[group], epsilon[group], noise, t) for group in groups]
    return Variables(t, *(np.stack(columns, 1) for columns in zip(*laws, strict=True)))


def _sum(
    theta: np.ndarray, epsilon: np.ndarray, noise: str, t: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Density and CDF at ``t`` of one sum: ``f * g`` and ``f * G``, one summand at a time."""
    law = LAWS[noise]
    *rest, last = range(theta.size)
    u = t - theta[last]
    weight = np.ones(1)
    if rest:
        nodes = np.arange(law.lowest, law.highest, (t[1] - t[0]) / epsilon[rest].sum())
        partial = theta[rest].sum() + nodes * epsilon[rest].sum()
        weight = (partial[1] - partial[0]) * _sum(theta[rest], epsilon[rest], noise, partial)[0]
        u = u[:, None] - partial
    u = u.reshape(t.size, -1) / epsilon[last]
    return np.exp(law.log_density(u)) @ weight / epsilon[last], np.exp(law.log_cdf(u)) @ weight
