"""Cheapest paths through grids of vertex costs, exact, a lane a sample (or an instance).

    D(source) = w(source),    D(v) = min over neighbours u of D(u) + w(v),    w = max(p, min_cost)

**Relaxation.** Rows are relaxed downward and upward in turn until nothing changes, at first those
about the source, with every turn some more: far ones then begin from distances that are nearly
final, and fewer are relaxed again (a tenth in 30 x 30 cells, a quarter in 64 x 64). A row takes the
least of its neighbours in the row before, then passes its own values on to the right and back to
the left, in registers. Rows beside which nothing moved are skipped. Sums are associated along the
path and rounding is monotone, so the fixed point is Dijkstra's to the last bit, in any order.

A warm start, from what the tree of another sample's paths costs under this one's noise, was tried:
it saves no sweep, since the slowest of thirty-two lanes decides.

**Path.** From the target back to the first neighbour ``u`` in row-major order that explains
``D(v) = D(u) + w(v)`` with ``D(u) < D(v)``. Where only a neighbour of equal distance does (a cost
of zero, or one lost in rounding) the way leads to the nearest cell that has a smaller one, fewest
steps first, then row-major order: the same path whatever the order of relaxation, and no cycle.
Each lane looks about it as it goes, which takes half the time of steps back from all cells (30 x
30); those are found where costs of zero announce ties, since the search among equals needs them.

**Memory.** O(32 H W) a thread. A path as a bit a cell is the memo.
"""

from __future__ import annotations

import numpy as np

from ..bits import bits_float, float_bits, select
from ._jit import jitable, kernel
from .bit_memo import note, recall, words
from .fused import run_tasks
from .simd import (
    LANES,
    MANY_REGISTERS,
    any_lane,
    broadcast,
    lane_array,
    load,
    own_column,
    smaller,
    store,
)

NS_PER_COORDINATE = 3.0
RECALL_READS_SCORES = False
_JOINING = 4
"""Rows that join with every turn, above and below."""


def memo_words(problem, d, dtype):
    """A bit a cell."""
    return words(d)


@jitable
def workspace(theta, options, lanes):
    """Distances with a halo, clipped costs, steps back, flags; lanes' cells; scratch for ties."""
    height, width = options[0], options[1]
    distance = lane_array((height + 2) * (width + 2), LANES, theta)
    costs = lane_array(height * width, LANES, theta)
    back = lane_array(height * width, LANES, np.empty(0, np.int32))
    dirty = np.zeros((2, height + 2), np.bool_)
    cells, places = np.empty(LANES, np.int32), np.empty(LANES, np.int32)
    scratch = np.empty(height * width, np.int64), np.full(height * width, -1, np.int64)
    return distance, costs, back, dirty, (cells, places), scratch


# ------------------------------------------------------------------------------------ relaxation


@jitable
def inner(cell, width):
    """A cell's place among distances with a halo."""
    return (cell // width + 1) * (width + 2) + cell % width + 1


@kernel
def relax_rightwards(distance, costs, row, other, width, diagonal):
    """Relax a row from row ``other`` beside it and from the left; whether anything fell."""
    here, there = (row + 1) * (width + 2), (other + 1) * (width + 2)
    fell = broadcast(float_bits(distance.dtype.type(0)))  # bits that changed
    left = broadcast(distance.dtype.type(np.inf))
    before, beside = load(distance, there * LANES), load(distance, (there + 1) * LANES)
    for c in range(width):
        after = load(distance, (there + c + 2) * LANES)
        if not MANY_REGISTERS:  # kept, they would be spilled
            before = load(distance, (there + c) * LANES)
            beside = load(distance, (there + c + 1) * LANES)
        best = smaller(smaller(before, after), beside) if diagonal else beside
        old = load(distance, (here + c + 1) * LANES)
        # What comes from the left joins last: the next column waits for it.
        left = smaller(smaller(best, left) + load(costs, (row * width + c) * LANES), old)
        fell = fell | (float_bits(left) ^ float_bits(old))
        store(distance, (here + c + 1) * LANES, left)
        before, beside = beside, after
    return any_lane(fell != 0)


@kernel
def relax_leftwards(distance, costs, row, width):
    """Relax a row from the right."""
    here = (row + 1) * (width + 2)
    right = broadcast(distance.dtype.type(np.inf))
    for c in range(width - 1, -1, -1):
        old = load(distance, (here + c + 1) * LANES)
        right = smaller(right + load(costs, (row * width + c) * LANES), old)
        store(distance, (here + c + 1) * LANES, right)


@kernel
def relax(distance, costs, height, width, diagonal, dirty):
    """To the fixed point, from the sources.

    ``dirty[0]`` (``dirty[1]``) are rows to relax from above (below): at first, the sources' rows.
    """
    low, high = height, 0
    for row in range(height - 1, -1, -1):
        if dirty[0, row + 1]:
            relax_leftwards(distance, costs, row, width)
            dirty[0, row + 2] = dirty[1, row] = True
            low, high = row, max(high, row + 1)
    moving = True
    while moving or high - low < height:
        low, high = max(0, low - _JOINING), min(height, high + _JOINING)
        moving = False
        for step in (1, -1):
            side = 0 if step == 1 else 1
            for i in range(high - low):
                row = low + i if step == 1 else high - 1 - i
                if dirty[side, row + 1]:
                    dirty[side, row + 1] = False
                    if relax_rightwards(distance, costs, row, row - step, width, diagonal):
                        relax_leftwards(distance, costs, row, width)
                        moving = True
                        dirty[0, row + 2] = dirty[1, row] = True


@kernel
def start(p, at, d, least, costs, distance):
    """Clipped costs, and no distance known; whether a cost is zero, so that ties are to come."""
    stride = p.shape[1]
    floor, smallest = broadcast(p.dtype.type(least)), broadcast(p.dtype.type(np.inf))
    for i in range(d):
        x = load(p, i * stride + at)
        cost = select(x > floor, x, floor)
        store(costs, i * LANES, cost)
        smallest = smaller(smallest, cost)
    distance[...] = np.inf
    return any_lane(smallest == p.dtype.type(0.0))


# ------------------------------------------------------------------------------------------ paths


@jitable
def explains(d_u, w, d_v):
    """The lanes in which the way to ``v`` may come from neighbour ``u``, which is nearer."""
    return (d_u + w == d_v) & (d_u < d_v)


@jitable
def back_to(i, j, distance, places, width, w, d_v, found):
    """``found``, or where the neighbour (i, j) away explains ``v``'s distance from a smaller one:
    the step to it among cells and among distances, and its distance."""
    stride = i * (width + 2) + j
    d_u = own_column(distance, places, stride)
    on_way = explains(d_u, w, d_v)
    return (
        select(on_way, np.int32(i * width + j), found[0]),
        select(on_way, np.int32(stride), found[1]),
        select(on_way, d_u, found[2]),
    )


@kernel
def walk(distance, costs, width, diagonal, cells, places, y, at):
    """Mark every lane's way on from ``cells``, to where no smaller distance explains a cell's.

    ``places`` are those of the cells among distances.
    """
    d_v = own_column(distance, places, 0)
    moving = True
    while moving:
        for lane in range(LANES):
            y[cells[lane], at + lane] = 1
        w = own_column(costs, cells, 0)
        found = broadcast(np.int32(0)), broadcast(np.int32(0)), d_v
        # From the last neighbour to the first, which stays.
        if diagonal:
            found = back_to(1, 1, distance, places, width, w, d_v, found)
        found = back_to(1, 0, distance, places, width, w, d_v, found)
        if diagonal:
            found = back_to(1, -1, distance, places, width, w, d_v, found)
        found = back_to(0, 1, distance, places, width, w, d_v, found)
        found = back_to(0, -1, distance, places, width, w, d_v, found)
        if diagonal:
            found = back_to(-1, 1, distance, places, width, w, d_v, found)
        found = back_to(-1, 0, distance, places, width, w, d_v, found)
        if diagonal:
            found = back_to(-1, -1, distance, places, width, w, d_v, found)
        step, stride, d_v = found
        moving = any_lane(step != 0)
        store(cells, 0, load(cells, 0) + step)
        store(places, 0, load(places, 0) + stride)


@jitable
def explained(d_u, w, d_v, step, first):
    """``step`` in the lanes where neighbour ``u`` explains ``v``."""
    return select(explains(d_u, w, d_v), np.int32(step), first)


@kernel
def steps_back(distance, costs, height, width, diagonal, back):
    """``back[v]``, the step from ``v`` to the cell that the way to it comes from, or 0.

    There is none from the source, nor where only equal distances explain ``v``'s.
    """
    down = width + 2  # a row further, in ``distance``
    for row in range(height):
        for c in range(width):
            v, x = row * width + c, (row + 1) * down + c + 1
            d_v, w = load(distance, x * LANES), load(costs, v * LANES)
            step = broadcast(np.int32(0))
            # From the last neighbour to the first, which stays.
            if diagonal:
                step = explained(load(distance, (x + down + 1) * LANES), w, d_v, width + 1, step)
            step = explained(load(distance, (x + down) * LANES), w, d_v, width, step)
            if diagonal:
                step = explained(load(distance, (x + down - 1) * LANES), w, d_v, width - 1, step)
            step = explained(load(distance, (x + 1) * LANES), w, d_v, 1, step)
            step = explained(load(distance, (x - 1) * LANES), w, d_v, -1, step)
            if diagonal:
                step = explained(load(distance, (x - down + 1) * LANES), w, d_v, 1 - width, step)
            step = explained(load(distance, (x - down) * LANES), w, d_v, -width, step)
            if diagonal:
                step = explained(load(distance, (x - down - 1) * LANES), w, d_v, -1 - width, step)
            store(back, v * LANES, step)


@kernel
def walk_steps(back, cells, y, at):
    """As ``walk``, by steps that are known."""
    for lane in range(0, LANES, 4):  # side by side, since a step waits for the one before
        v0, v1, v2, v3 = cells[lane], cells[lane + 1], cells[lane + 2], cells[lane + 3]
        moving = True
        while moving:
            y[v0, at + lane] = y[v1, at + lane + 1] = 1
            y[v2, at + lane + 2] = y[v3, at + lane + 3] = 1
            step0, step1 = back[v0, lane], back[v1, lane + 1]
            step2, step3 = back[v2, lane + 2], back[v3, lane + 3]
            v0, v1, v2, v3 = v0 + step0, v1 + step1, v2 + step2, v3 + step3
            moving = (step0 | step1 | step2 | step3) != 0
        cells[lane], cells[lane + 1], cells[lane + 2], cells[lane + 3] = v0, v1, v2, v3


@kernel
def leave_tie(distance, costs, back, v, source, size, lane, scratch, y, column):
    """Mark the way from ``v``, through equal distances, to where a smaller one comes before.

    Breadth first, neighbours in row-major order: the first such cell to be reached ends the way
    that the tie rule wants. Returns it.
    """
    width, diagonal = size[1], size[2]
    queue, towards = scratch  # towards[u]: the cell that u leads to, -1 where not reached
    queue[0], towards[v] = v, v
    reached, first, found = 1, 0, -1
    while found < 0:
        x = queue[first]
        first += 1
        place = inner(x, width)
        d_x, w = distance[place, lane], costs[x, lane]
        for k in range(9):
            i, j = k // 3 - 1, k % 3 - 1
            if i * j != 0 and not diagonal:
                continue
            # Outside the grid distances are infinite, and explain nothing.
            u = x + i * width + j
            if distance[place + i * (width + 2) + j, lane] + w == d_x and towards[u] < 0:
                queue[reached], towards[u] = u, x
                reached += 1
                if back[u, lane] != 0 or u == source:
                    found = u
                    break
    u = found
    while u != v:
        y[u, column] = 1
        u = towards[u]
    for i in range(reached):
        towards[queue[i]] = -1
    return found


@kernel
def mark_paths(work, size, places, which, count, ties, y, at):
    """Mark the paths of lanes in ``y``; raises if one of ``count`` has none of finite cost."""
    distance, costs, back, _, (cells, halo), scratch = work
    for lane in range(LANES):
        if lane == 0 or which[lane] != which[lane - 1]:
            target = places[which[lane], 1]
            place = inner(target, size[1])
        cells[lane], halo[lane] = target, place
        if lane < count and not distance[place, lane] < np.inf:
            raise ValueError(
                "theta has an instance without a path of finite cost from source to target: "
                "walls (+inf) separate them, or its costs add up to more than the dtype can hold"
            )
    if not ties:
        walk(distance, costs, size[1], size[2], cells, halo, y, at)
        if have_arrived(cells, places, which, count):
            return
    steps_back(distance, costs, size[0], size[1], size[2], back)
    walk_steps(back, cells, y, at)
    while not have_arrived(cells, places, which, count):
        for lane in range(count):
            source = places[which[lane], 0]
            if cells[lane] != source:
                cells[lane] = leave_tie(
                    distance, costs, back, cells[lane], source, size, lane, scratch, y, at + lane
                )
        walk_steps(back, cells, y, at)


@jitable
def have_arrived(cells, places, which, count):
    """Whether lanes are at their sources."""
    arrived = True
    for lane in range(count):
        arrived &= cells[lane] == places[which[lane], 0]
    return arrived


# ------------------------------------------------------------------------------------ the oracle


@jitable
def prepare(theta, scale, d, kind):
    """Nothing depends on the row."""


@jitable
def solve(p, d, count, places, which, options, work, y):
    """Distances of a block of lanes, then their paths."""
    distance, costs, _, dirty, _, _ = work
    size = options[0], options[1], options[2] == 8
    height, width, diagonal = size
    least = bits_float(options[3])
    y[...] = 0
    for at in range(0, count, LANES):
        ties = start(p, at, d, least, costs, distance)
        for lane in range(LANES):
            if lane == 0 or which[lane] != which[lane - 1]:
                source = places[which[lane], 0]
                place = inner(source, width)
                dirty[0, source // width + 1] = True
            distance[place, lane] = costs[source, lane]
        relax(distance, costs, height, width, diagonal, dirty)
        mark_paths(work, size, places, which, min(LANES, count - at), ties, y, at)


@kernel
def run(few, begin, end, split, operation, call, memo, solutions, scores, counts, sums):
    """Tasks ``begin .. end - 1``; see ``fused.py``."""
    run_tasks(
        workspace, prepare, solve, note, recall, RECALL_READS_SCORES, few, begin, end, split,
        operation, call, memo, solutions, scores, counts, sums,
    )  # fmt: skip
