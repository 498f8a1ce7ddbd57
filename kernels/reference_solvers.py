"""The solvers in plain NumPy: what one sample decides. The definition tests compare with."""

from __future__ import annotations

import functools as ft
import heapq

import numpy as np

from . import noise32, noise64


def formulas(dtype):
    """The module of noise formulas in that precision."""
    return noise32 if dtype == np.float32 else noise64


def race_weights(theta, epsilon, largest=None):
    """``exp((max theta - theta) / eps)`` a row; 0 for +inf ("always"), +inf for -inf ("never").

    ``largest``, (rows, 1), is the maximum of the finite scores, where ``theta`` is a shard of them.
    """
    if largest is None:
        largest = np.where(np.isfinite(theta), theta, -np.inf).max(-1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        gap = np.where(np.isfinite(theta), (largest - theta) / epsilon.astype(theta.dtype), 0)
    weights = formulas(theta.dtype).exp(gap.astype(theta.dtype))
    weights = np.where(theta == -np.inf, np.inf, np.where(theta == np.inf, 0, weights))
    return weights.astype(theta.dtype)


def argmax(p):
    """One-hot of the largest score; the lowest index wins a tie."""
    return np.eye(p.shape[-1], dtype=np.int64)[np.argmax(p, axis=-1)]


def ranks(p):
    """Ascending, 1 .. d; of equal scores the lowest index gets the largest rank."""
    order = np.argsort(p[..., ::-1], axis=-1, kind="stable")
    position = np.empty_like(order)
    np.put_along_axis(position, order, np.arange(p.shape[-1]), -1)
    return position[..., ::-1] + 1


def topk(p, k):
    """Ones at the k largest; the lowest index wins a tie."""
    return (ranks(p) > p.shape[-1] - k).astype(np.int64)


def neighbours(cell, height, width, connectivity):
    """A cell's neighbours in row-major order."""
    row, column = divmod(cell, width)
    for i, j in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        inside = 0 <= row + i < height and 0 <= column + j < width
        if inside and (connectivity == 8 or 0 in (i, j)):
            yield (row + i) * width + column + j


def dijkstra(costs, source, connectivity):
    """Distances from ``source`` on an (H, W) grid of vertex costs, both end cells counted."""
    height, width = costs.shape
    costs = costs.ravel()
    distance = np.full(costs.shape, np.inf, costs.dtype)
    distance[source] = costs[source]
    heap = [(distance[source], source)]
    while heap:
        known, v = heapq.heappop(heap)
        if known > distance[v]:
            continue
        for u in neighbours(v, height, width, connectivity):
            through = known + costs[u]
            if through < distance[u]:
                distance[u] = through
                heapq.heappush(heap, (through, u))
    return distance


def cheapest_path(costs, source, target, connectivity):
    """0/1 indicators of the path that the tie rule of ``kernels/cpu/grid_path.py`` chooses."""
    height, width = costs.shape
    distance, flat = dijkstra(costs, source, connectivity), costs.ravel()
    if not np.isfinite(distance[target]):
        raise ValueError("no path of finite cost")

    def explain(v):
        near = neighbours(v, height, width, connectivity)
        return [u for u in near if distance[u] + flat[v] == distance[v]]

    def has_way_on(v):
        return v == source or any(distance[u] < distance[v] for u in explain(v))

    @ft.cache
    def level(v):
        """Steps through equal distances to the nearest cell that has a smaller one."""
        frontier, seen, steps = [v], {v}, 0
        while not any(map(has_way_on, frontier)):
            frontier = list(dict.fromkeys(u for x in frontier for u in explain(x) if u not in seen))
            seen.update(frontier)
            steps += 1
        return steps

    path = np.zeros(flat.shape, np.int64)
    v = target
    path[v] = 1
    while v != source:
        if has_way_on(v):
            v = next(u for u in explain(v) if distance[u] < distance[v])
        else:
            v = next(u for u in explain(v) if level(u) == level(v) - 1)
        path[v] = 1
    return path


def grid_path(p, options, places):
    """The cheapest path of every sample and row, costs clipped from below."""
    height, width, connectivity, bits = options
    least = p.dtype.type(np.int64(bits).view(np.float64))
    solutions = np.empty(p.shape, np.int64)
    for m, b in np.ndindex(p.shape[:2]):
        costs = np.where(p[m, b] > least, p[m, b], least).reshape(height, width)
        solutions[m, b] = cheapest_path(costs, *map(int, places[b]), connectivity)
    return solutions
