"""Perturbed grid shortest paths: ``y*(c)`` is the 0/1 indicator of the cheapest path.

From (0, 0) to (H-1, W-1), eight neighbours, the cost of a path is the sum over its cells, both ends
counted. Whether the source counts changes no path, so SciPy, which has costs on edges, charges each
edge with the cell that it enters. Perturbed costs are clipped from below at ``MIN_COST``, the same
for all and positive: the solvers break ties differently, and a zero would make detours free. Our
default is to clip at 0, which is another problem where free cells touch (under Gumbel noise, one or
two standard errors of a run here) and takes our kernel longer: it has a row of its own.
"""

from __future__ import annotations

import functools as ft
import heapq
import itertools as it

import numpy as np

from ..workloads import Workload
from . import shells
from .base import Contender, Solver

MIN_COST = 1e-3
"""Far above a rounding error of a path's float32 cost, far below any real cost."""
OFFSETS = [(i, j) for i, j in it.product((-1, 0, 1), repeat=2) if (i, j) != (0, 0)]
"""The eight neighbours, row-major."""


def dpo_oracle(workload: Workload):
    import dpo

    return dpo.ShortestPath(neighbors=8, min_cost=MIN_COST)


def dpo_default(workload: Workload):
    import dpo

    return dpo.ShortestPath(neighbors=8)


# ------------------------------------------------------------------- one grid at a time, on a host


def _one_at_a_time(path) -> Solver:
    """``path(costs)`` gives the cells of one grid's path as an index; a Python loop does the rest.

    Only a loop over the grids is possible: neither package solves more than one in a call.
    """

    def solve(costs):
        y = np.zeros(costs.shape, np.float32)
        costs = np.maximum(costs, np.float32(MIN_COST))
        for index in np.ndindex(costs.shape[:-2]):
            y[index][path(costs[index])] = 1
        return y

    return shells.numpy_dense(solve)


def _neighbours(x: int, y: int, height: int, width: int):
    for i, j in OFFSETS:
        if 0 <= x + i < height and 0 <= y + j < width:
            yield x + i, y + j


def _heapq_idiom(costs: np.ndarray):
    """Dijkstra as users of blackbox-differentiation have it, in its ``shortest_path.py``.

    What that does and costs, in our words: every cell is settled, the target being one of them;
    cells that come off the heap a second time are expanded again; NumPy is indexed row by row and
    cell by cell; the number of cheapest paths is kept beside the costs.
    """
    height, width = costs.shape
    neighbours = ft.partial(_neighbours, height=height, width=width)
    best, ways = np.full_like(costs, 1e10), np.zeros_like(costs)
    best[0][0], ways[0][0] = costs[0][0], 1
    queue, settled, predecessor = [(costs[0][0], (0, 0))], set(), {}
    while queue:
        _, (x, y) = heapq.heappop(queue)
        for i, j in neighbours(x, y):
            if (i, j) in settled:
                continue
            if costs[i][j] + best[x][y] < best[i][j]:
                best[i][j] = costs[i][j] + best[x][y]
                heapq.heappush(queue, (best[i][j], (i, j)))
                predecessor[(i, j)] = x, y
                ways[i, j] = ways[x, y]
            elif costs[i][j] + best[x][y] == best[i][j]:
                ways[i, j] += 1
        settled.add((x, y))
    return _walk_back(predecessor, (height - 1, width - 1))


def _heapq_tidied(costs: np.ndarray):
    """The same with what is not needed left out: the target ends it, no cell is expanded twice."""
    height, width = costs.shape
    source, target = (0, 0), (height - 1, width - 1)
    best = np.full(costs.shape, 1e10)
    best[source] = costs[source]
    queue, done, predecessor = [(best[source], source)], set(), {}
    while queue:
        so_far, cell = heapq.heappop(queue)
        if cell in done:
            continue
        done.add(cell)
        if cell == target:
            break
        for other in _neighbours(*cell, height, width):
            cost = so_far + costs[other]
            if other not in done and cost < best[other]:
                best[other] = cost
                predecessor[other] = cell
                heapq.heappush(queue, (cost, other))
    return _walk_back(predecessor, target)


def _walk_back(predecessor: dict, target: tuple[int, int]):
    cells = [target]
    while cells[-1] != (0, 0):
        cells.append(predecessor[cells[-1]])
    return tuple(zip(*cells, strict=True))


def heapq_idiom(workload: Workload) -> Solver:
    return _one_at_a_time(_heapq_idiom)


def heapq_tidied(workload: Workload) -> Solver:
    return _one_at_a_time(_heapq_tidied)


def scipy_dijkstra(workload: Workload) -> Solver:
    """``scipy.sparse.csgraph.dijkstra`` on one graph, its weights set anew for each grid."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    height, width = workload.shape
    cells = np.arange(workload.d).reshape(workload.shape)
    entered = [
        cells[xy] for cell in np.ndindex(*cells.shape) for xy in _neighbours(*cell, *cells.shape)
    ]
    degrees = [
        sum(1 for _ in _neighbours(*cell, height, width)) for cell in np.ndindex(height, width)
    ]
    entered, starts = np.array(entered, np.int32), np.append(0, np.cumsum(degrees)).astype(np.int32)
    graph = csr_array((np.ones(len(entered)), entered, starts), shape=(workload.d, workload.d))

    def path(costs):
        graph.data[:] = costs.ravel()[entered]
        _, predecessors = dijkstra(graph, indices=0, return_predecessors=True)
        predecessors = predecessors.tolist()
        steps = [workload.d - 1]
        while steps[-1] != 0:
            steps.append(predecessors[steps[-1]])
        return np.unravel_index(steps, costs.shape)

    return _one_at_a_time(path)


def skimage_mcp(workload: Workload) -> Solver:
    """``skimage.graph.MCP``, which has costs on cells and counts both ends, as we do.

    ``MCP``, not ``MCP_Geometric`` or ``route_through_array``'s default: those charge a move with
    its length times the mean of two cells.
    """
    from skimage.graph import MCP

    source, target = (0, 0), tuple(n - 1 for n in workload.shape)

    def path(costs):
        grid = MCP(costs, fully_connected=True)
        grid.find_costs([source], [target])
        return tuple(zip(*grid.traceback(target), strict=True))

    return _one_at_a_time(path)


# ------------------------------------------------------------------------------ compiled, all grids


def numba_dijkstra(workload: Workload) -> Solver:
    """A binary heap in Numba, grids spread over threads."""
    from .numba_paths import shortest_paths

    shortest_paths(np.ones((1, *workload.shape), np.float32))  # compiles

    def solve(costs):
        grids = np.maximum(costs, np.float32(MIN_COST)).reshape(-1, *costs.shape[-2:])
        return shortest_paths(grids).reshape(costs.shape)

    return shells.numpy_dense(solve)


def jax_bellman_ford(workload: Workload):
    """All grids at once: relax every cell until nothing changes, then walk back from the targets.

    ``D[i] = c[i] + min_{j ~ i} D[j]``: as many sweeps as the longest cheapest path has cells.
    """
    import jax
    from jax import numpy as jnp

    height, width = workload.shape
    steps = jnp.array([i * width + j for i, j in OFFSETS])

    def neighbours(distance):  # (8, N, H, W)
        wide = jnp.pad(distance, ((0, 0), (1, 1), (1, 1)), constant_values=jnp.inf)
        return jnp.stack([wide[:, 1 + i :, 1 + j :][:, :height, :width] for i, j in OFFSETS])

    def distances(costs):
        def relax(state):
            distance, _ = state
            closer = jnp.minimum(distance, costs + neighbours(distance).min(0))
            return closer, (closer < distance).any()

        start = jnp.full_like(costs, jnp.inf).at[:, 0, 0].set(costs[:, 0, 0])
        return jax.lax.while_loop(lambda state: state[1], relax, (start, jnp.array(True)))[0]

    def walk_back(predecessors):  # (N, H W) cells
        grids = jnp.arange(len(predecessors))

        def step(state):
            cell, y = state
            cell = predecessors[grids, cell]
            return cell, y.at[grids, cell].set(1)

        target = jnp.full(len(predecessors), workload.d - 1)
        y = jnp.zeros(predecessors.shape).at[:, -1].set(1)
        return jax.lax.while_loop(lambda state: state[0].any(), step, (target, y))[1]

    def solve(costs):
        grids = jnp.maximum(costs, MIN_COST).reshape(-1, height, width)
        nearest = neighbours(distances(grids)).argmin(0).reshape(len(grids), -1)
        predecessors = (jnp.arange(workload.d) + steps[nearest]).at[:, 0].set(0)
        return walk_back(predecessors).reshape(costs.shape)

    return solve


CONTENDERS = (
    Contender("dpo, torch", ("dpo.ShortestPath", "torch"), shells.dpo_torch, dpo_oracle),
    Contender("dpo, NumPy", ("dpo.ShortestPath",), shells.dpo_numpy, dpo_oracle),
    Contender("dpo, JAX", ("dpo.ShortestPath", "jax"), shells.dpo_jax, dpo_oracle),
    Contender("dpo, NumPy, clipped at 0", ("dpo.ShortestPath",), shells.dpo_numpy, dpo_default),
    Contender("Numba, heap", ("numba",), shells.numpy_function, numba_dijkstra, 17),
    Contender("JAX, Bellman-Ford", ("jax",), shells.jax_function, jax_bellman_ford, 37),
    Contender("scikit-image, MCP", ("skimage",), shells.numpy_function, skimage_mcp, 17),
    Contender("SciPy, dijkstra", ("scipy",), shells.numpy_function, scipy_dijkstra, 17),
    Contender("heapq, idiom", (), shells.numpy_function, heapq_idiom, 17, 6e-6),
    Contender("heapq, tidied", (), shells.numpy_function, heapq_tidied, 17, 2.3e-6),
)
