"""Dijkstra on grids with a binary heap, compiled by Numba, on as many threads as Numba has.

The heap is two arrays, keys and cells, used again from grid to grid: a quarter faster than Numba's
``heapq``. The threads are Python's, the interpreter lock released: ``prange`` is as fast on a quiet
machine, but its threads wait for each other by spinning, and lose much more on a busy one.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def _push(keys, cells, size, key, cell):
    """Add an entry to a heap of ``size`` entries."""
    i = size
    while i > 0 and key < keys[(i - 1) >> 1]:
        parent = (i - 1) >> 1
        keys[i], cells[i] = keys[parent], cells[parent]
        i = parent
    keys[i], cells[i] = key, cell


@numba.njit(cache=True, nogil=True)
def _drop_first(keys, cells, size):
    """Remove the smallest entry of a heap that has ``size`` entries afterwards."""
    key, cell, i = keys[size], cells[size], 0
    while True:
        child = 2 * i + 1
        if child + 1 < size and keys[child + 1] < keys[child]:
            child += 1
        if child >= size or key <= keys[child]:
            break
        keys[i], cells[i] = keys[child], cells[child]
        i = child
    keys[i], cells[i] = key, cell


@numba.njit(cache=True, nogil=True)
def _mark_path(costs, y, best, predecessor, keys, cells):
    """Set ``y`` to 1 on the cheapest path of one grid, from its first cell to its last."""
    height, width = costs.shape
    best[:] = np.inf
    best[0, 0] = keys[0] = costs[0, 0]
    cells[0], size = 0, 1
    while cells[0] != costs.size - 1:
        so_far, cell = keys[0], cells[0]
        size -= 1
        _drop_first(keys, cells, size)
        row, column = cell // width, cell % width
        if so_far > best[row, column]:
            continue
        for i in range(max(row - 1, 0), min(row + 2, height)):
            for j in range(max(column - 1, 0), min(column + 2, width)):
                cost = so_far + costs[i, j]
                if cost < best[i, j]:
                    best[i, j] = cost
                    predecessor[i, j] = cell
                    _push(keys, cells, size, cost, i * width + j)
                    size += 1
    cell = cells[0]
    while cell > 0:
        y[cell // width, cell % width] = 1
        cell = predecessor[cell // width, cell % width]
    y[0, 0] = 1


@numba.njit(cache=True, nogil=True)
def _mark_paths(costs, y):
    best = np.empty(costs.shape[1:], np.float32)
    predecessor = np.empty(costs.shape[1:], np.int32)
    entries = 8 * best.size  # each cell once an edge at most
    keys, cells = np.empty(entries, np.float32), np.empty(entries, np.int32)
    for n in range(len(costs)):
        _mark_path(costs[n], y[n], best, predecessor, keys, cells)


_POOL = ThreadPoolExecutor(numba.get_num_threads())


def shortest_paths(costs: np.ndarray) -> np.ndarray:
    """0/1 indicators, float32, of the cheapest paths of ``costs``, ``(N, H, W)``."""
    y = np.zeros(costs.shape, np.float32)
    parts = 4 * numba.get_num_threads()  # a few a thread, since paths differ in work,
    parts = max(1, min(parts, len(costs) // 32))  # but none too small for the trip to a thread
    list(_POOL.map(_mark_paths, np.array_split(costs, parts), np.array_split(y, parts)))
    return y
