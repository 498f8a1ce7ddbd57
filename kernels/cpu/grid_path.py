"""Cheapest paths through grids of vertex costs, exact, a lane a sample (or an instance).

    D(source) = w(source),    D(v) = min over neighbours u of D(u) + w(v),    w = max(p, min_cost)

**Relaxation.** Rows are relaxed downward and upward in turn until nothing changes. A row takes the
least of its neighbours in the row before, then passes its own values on to the right and back to
the left, in registers. Rows beside which nothing moved are skipped. Sums are associated along the
path and rounding is monotone, so the fixed point is Dijkstra's to the last bit, in any order.

A warm start, from what the tree of another sample's paths costs under this one's noise, was tried:
it saves no sweep, since the slowest of thirty-two lanes decides.

**Path.** From the target back to the first neighbour ``u`` in row-major order that explains
``D(v) = D(u) + w(v)`` with ``D(u) < D(v)``. Where only a neighbour of equal distance does (a cost
of zero, or one lost in rounding) the way leads to the nearest cell that has a smaller one, fewest
steps first, then row-major order: the same path whatever the order of relaxation, and no cycle.

**Memory.** O(32 H W) a thread. A path as a bit a cell is the memo.
"""

from __future__ import annotations

import numpy as np

from ..bits import bits_float, select
from ._jit import jitable, kernel
from .bit_memo import note, recall, words
from .fused import run_tasks
from .simd import LANES, any_lane, broadcast, load, store

NS_PER_COORDINATE = 3.0


def memo_words(problem, d, dtype):
    """A bit a cell."""
    return words(d)


@jitable
def workspace(theta, options, lanes):
    """Distances with a halo, clipped costs, predecessors, flags, scratch for ties."""
    height, width = options[0], options[1]
    distance = np.empty(((height + 2) * (width + 2), LANES), theta.dtype)
    costs = np.empty((height * width, LANES), theta.dtype)
    dirty = np.zeros((2, height + 2), np.bool_)
    before = np.empty((height * width, LANES), np.int32)
    scratch = np.empty(height * width, np.int64), np.full(height * width, -1, np.int64)
    return distance, costs, before, dirty, scratch


# ------------------------------------------------------------------------------------ relaxation


@jitable
def inner(cell, width):
    """A cell's place among distances with a halo."""
    return (cell // width + 1) * (width + 2) + cell % width + 1


@jitable
def lower(a, b):
    """The smaller, lane by lane."""
    return select(a < b, a, b)


@kernel
def relax_row(distance, costs, row, other, width, diagonal):
    """Relax a row from row ``other`` beside it and along itself; whether anything fell."""
    infinity = distance.dtype.type(np.inf)
    here, there = (row + 1) * (width + 2), (other + 1) * (width + 2)
    fell = broadcast(False)
    last = broadcast(infinity)
    before, above = load(distance, there * LANES), load(distance, (there + 1) * LANES)
    for c in range(width):
        after = load(distance, (there + c + 2) * LANES)
        best = lower(above, last)
        if diagonal:
            best = lower(best, lower(before, after))
        old = load(distance, (here + c + 1) * LANES)
        last = lower(best + load(costs, (row * width + c) * LANES), old)
        fell = fell | (last < old)
        store(distance, (here + c + 1) * LANES, last)
        before, above = above, after
    last = broadcast(infinity)
    for c in range(width - 1, -1, -1):
        old = load(distance, (here + c + 1) * LANES)
        last = lower(last + load(costs, (row * width + c) * LANES), old)
        fell = fell | (last < old)
        store(distance, (here + c + 1) * LANES, last)
    return any_lane(fell)


@kernel
def relax(distance, costs, height, width, diagonal, dirty):
    """To the fixed point; ``dirty[0]`` (``[1]``) are rows to relax from above (below)."""
    moving = True
    while moving:
        moving = False
        for row in range(height):
            if dirty[0, row + 1]:
                dirty[0, row + 1] = False
                if relax_row(distance, costs, row, row - 1, width, diagonal):
                    moving = True
                    dirty[0, row + 2] = dirty[1, row] = True
        for row in range(height - 1, -1, -1):
            if dirty[1, row + 1]:
                dirty[1, row + 1] = False
                if relax_row(distance, costs, row, row + 1, width, diagonal):
                    moving = True
                    dirty[0, row + 2] = dirty[1, row] = True


@kernel
def start(p, at, d, least, costs, distance):
    """Clipped costs, and no distance known."""
    stride = p.shape[1]
    floor = broadcast(p.dtype.type(least))
    for i in range(d):
        x = load(p, i * stride + at)
        store(costs, i * LANES, select(x > floor, x, floor))
    distance[...] = np.inf


# ------------------------------------------------------------------------------------------ paths


@jitable
def neighbour(cell, k, height, width, diagonal):
    """The k-th neighbour in row-major order; -1 outside the grid."""
    if diagonal:
        k += k >= 4  # 0 .. 8 without the cell itself
        row, column = cell // width + k // 3 - 1, cell % width + k % 3 - 1
    else:
        row, column = cell // width, cell % width
        if k == 0:
            row -= 1
        elif k == 1:
            column -= 1
        elif k == 2:
            column += 1
        else:
            row += 1
    if row < 0 or row >= height or column < 0 or column >= width:
        return -1
    return row * width + column


@jitable
def tight(distance, costs, u, v, width, lane):
    """Whether ``D(v) = D(u) + w(v)``."""
    through = distance[inner(u, width), lane] + costs[v, lane]
    return through == distance[inner(v, width), lane]


@kernel
def leave_tie(distance, costs, before, v, source, size, lane, scratch, y, column):
    """Mark the way from ``v``, through equal distances, to where a smaller one comes before.

    Breadth first, neighbours in row-major order: the first such cell to be reached ends the way
    that the tie rule wants. Returns it.
    """
    height, width, diagonal = size
    queue, towards = scratch  # towards[u]: the cell that u leads to, -1 where not reached
    queue[0], towards[v] = v, v
    reached, first, found = 1, 0, -1
    while found < 0:
        x = queue[first]
        first += 1
        for k in range(8 if diagonal else 4):
            u = neighbour(x, k, height, width, diagonal)
            if u >= 0 and towards[u] < 0 and tight(distance, costs, u, x, width, lane):
                queue[reached], towards[u] = u, x
                reached += 1
                if before[u, lane] >= 0 or u == source:
                    found = u
                    break
    u = found
    while u != v:
        y[u, column] = 1
        u = towards[u]
    for i in range(reached):
        towards[queue[i]] = -1
    return found


@jitable
def explained(d_u, w, d_v, k, first):
    """``k`` in the lanes where neighbour ``u`` explains ``v`` from a smaller distance."""
    return select((d_u + w == d_v) & (d_u < d_v), np.int32(k), first)


@kernel
def predecessors(distance, costs, height, width, diagonal, before):
    """``before[v]``, which neighbour the way to ``v`` comes from, (k of ``neighbour``) or -1."""
    above, below = -(width + 2), width + 2
    for v in range(height * width):
        x = inner(v, width)
        d_v, w = load(distance, x * LANES), load(costs, v * LANES)
        first = broadcast(np.int32(-1))
        if diagonal:  # from the last to the first, which stays
            first = explained(load(distance, (x + below + 1) * LANES), w, d_v, 7, first)
            first = explained(load(distance, (x + below) * LANES), w, d_v, 6, first)
            first = explained(load(distance, (x + below - 1) * LANES), w, d_v, 5, first)
            first = explained(load(distance, (x + 1) * LANES), w, d_v, 4, first)
            first = explained(load(distance, (x - 1) * LANES), w, d_v, 3, first)
            first = explained(load(distance, (x + above + 1) * LANES), w, d_v, 2, first)
            first = explained(load(distance, (x + above) * LANES), w, d_v, 1, first)
            first = explained(load(distance, (x + above - 1) * LANES), w, d_v, 0, first)
        else:
            first = explained(load(distance, (x + below) * LANES), w, d_v, 3, first)
            first = explained(load(distance, (x + 1) * LANES), w, d_v, 2, first)
            first = explained(load(distance, (x - 1) * LANES), w, d_v, 1, first)
            first = explained(load(distance, (x + above) * LANES), w, d_v, 0, first)
        store(before, v * LANES, first)


@kernel
def walk(distance, costs, before, source, target, size, lane, scratch, y, column):
    """Mark one lane's path in ``y``; raises if there is none of finite cost."""
    width, diagonal = size[1], size[2]
    if not distance[inner(target, width), lane] < np.inf:
        raise ValueError(
            "theta has an instance without a path of finite cost from source to target: "
            "walls (+inf) separate them, or its costs add up to more than the dtype can hold"
        )
    v = target
    y[v, column] = 1
    while v != source:
        k = np.int64(before[v, lane])
        if k < 0:
            v = leave_tie(distance, costs, before, v, source, size, lane, scratch, y, column)
        elif diagonal:
            k += k >= 4
            v += (k // 3 - 1) * width + k % 3 - 1
        else:
            v += (-width, -1, 1, width)[k]
        y[v, column] = 1


# ------------------------------------------------------------------------------------ the oracle


@jitable
def prepare(theta, scale, d, kind):
    """Nothing depends on the row."""


@jitable
def solve(p, d, count, places, which, options, work, y):
    """Distances of a block of lanes, then their paths."""
    distance, costs, before, dirty, scratch = work
    size = options[0], options[1], options[2] == 8
    height, width, diagonal = size
    least = bits_float(options[3])
    y[...] = 0
    for at in range(0, count, LANES):
        start(p, at, d, least, costs, distance)
        for lane in range(LANES):
            source = places[which[lane], 0]
            distance[inner(source, width), lane] = costs[source, lane]
            row = source // width
            dirty[:, row + 1] = True
            dirty[0, row + 2] = dirty[1, row] = True
        relax(distance, costs, height, width, diagonal, dirty)
        predecessors(distance, costs, height, width, diagonal, before)
        for lane in range(min(LANES, count - at)):
            source, target = places[which[lane], 0], places[which[lane], 1]
            walk(distance, costs, before, source, target, size, lane, scratch, y, at + lane)


@kernel
def run(few, begin, end, parts, operation, call, memo, solutions, counts, sums):
    """Tasks ``begin .. end - 1``; see ``fused.py``."""
    run_tasks(
        workspace, prepare, solve, note, recall, few, begin, end, parts, operation, call, memo,
        solutions, counts, sums,
    )  # fmt: skip
