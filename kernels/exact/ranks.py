"""Exact expected ranks: over pairs in closed form, or by a trapezoid rule for many coordinates.

**Pairs** (``run_pairs``). With one temperature a row and ``H`` the CDF of the difference of two
noise variables (``laws.difference``), ``x_ij = (theta_i - theta_j) / eps``:

    y_i  = 1 + sum_{j != i} H(x_ij)
    z_i  = E[Z] (d + 1) / 2 + sum_{j != i} (K - x H)(x_ij) / 2
    J_ij = -H'(x_ij) / eps
    D^2 y [v, w]_i = sum_j H''(x_ij) (v_i - v_j) (w_i - w_j) / eps^2

where the sum of ``z`` (all that ``F = <theta, y> + eps sum z`` needs) is that of ``E[y_i Z_i]``,
and each is, if the noise is symmetric. O(d^2). A lane is a ``j``.

**Nodes** (``run_nodes``). ``y_i = 1 + int f_i (S - G_i) dt``, with ``S = sum_j G_j`` the expected
number of variables below ``t``. Every variable touches only the nodes near its location, where
``f`` is not yet 0 and ``G`` neither 0 nor 1: nodes come in blocks of 32, only blocks near some
location exist, and what lies wholly below a block is counted. So the work is O(d) after a sort, at
any spread of the scores. With ``D = sum_j f_j`` and ``D_v = sum_j v_j f_j``,

    z_i = E[Z] + int u_i f_i (S - G_i) dt
    PRODUCT  (J v)_i         = int f_i (v_i D - D_v) dt
    SCALE    d<v, y>/d eps_i = int u_i f_i (v_i D - D_v) dt
    SECOND   D^2 y [v, w]_i  = -int (w_i f'_i (v_i D - D_v) + f_i (v_i E - E_v)) dt,
             E = sum_j w_j f'_j, E_v = sum_j v_j w_j f'_j

The error of each comparison is within the tolerance, that of a rank at most d times as large.

Measured on one Zen 5 core, the time of a row's value over pairs, over that with nodes, d = 64, 128,
256, 1000 and 4000: 0.24, 0.39, 0.68, 2.6, 9.5 (normal noise, float32) and 0.47, 0.87, 1.6, 6.2, 24
(float64).
"""

from __future__ import annotations

import math

import numpy as np

from ..bits import float64, fma
from ..cpu._jit import jitable, kernel
from ..cpu.simd import LANES, broadcast, lane_indices, load, store, tree_sum
from ..cpu.sums import of_type
from .codes import JACOBIAN, MOMENTS, PRODUCT, SCALE, SECOND
from .laws import density, difference, score

# -------------------------------------------------------------------------------------- extremes


@jitable
def rank_extremes(theta, y, where):
    """Ranks of infinite scores, the lowest index the largest; finite ones go to ``where``.

    Returns how many are finite, and how many lie below them.
    """
    lowest, highest, n = 0, 0, 0
    for i in range(theta.size):
        lowest += theta[i] == -np.inf
    below = lowest
    for i in range(theta.size):
        if theta[i] == -np.inf:
            y[i] = lowest
            lowest -= 1
        elif theta[i] == np.inf:
            y[i] = theta.size - highest
            highest += 1
        else:
            where[n] = i
            n += 1
    return n, below


# ----------------------------------------------------------------------------------------- pairs


@jitable
def sum_of_pairs(operation, family, i, n, theta, inverse, v, w):
    """The sums over all j of coordinate i, itself included: of y, and of z where it is needed."""
    y, z = broadcast(0.0), broadcast(0.0)
    for at in range(0, n, LANES):
        h, slope, bend, rest = difference(family, (theta[i] - load(theta, at)) * inverse)
        if operation <= MOMENTS:
            y = y + float64(h)
            z = z + float64(rest)
        else:
            change = v[i] - load(v, at)
            if operation == PRODUCT:
                y = y + float64(slope * change)
            else:
                y = y + float64(bend * change * (w[i] - load(w, at)))
    return tree_sum(y), tree_sum(z)


@jitable
def jacobian_of_pairs(family, n, x, inverse, slopes, where, d, out):
    """``out[i, k] = J_ik`` for all i and k; ``slopes`` is scratch."""
    for j in range(n):
        for at in range(0, n, LANES):
            store(slopes, at, difference(family, (x[j] - load(x, at)) * inverse)[1] * inverse)
        i = where[j]
        for k in range(n):
            if k != j:
                out[i * d + where[k]] = -slopes[k]
                out[i * d + i] += slopes[k]


@kernel
def run_pairs(task_begin, task_end, operation, family, mean, theta, epsilon, vs, ws, out):
    """Rows ``task_begin .. task_end - 1``; ``mean`` is that of the noise. As ``argmax.run``."""
    d = theta.shape[1]
    size = (d + LANES - 1) // LANES * LANES
    x, v, w = np.empty(size, theta.dtype), np.zeros(size, theta.dtype), np.zeros(size, theta.dtype)
    where = np.empty(d, np.int64)
    for b in range(task_begin, task_end):
        out[b] = 0.0
        n, below = rank_extremes(theta[b], out[b, 0], where)
        if operation > MOMENTS:
            out[b] = 0.0
        inverse = theta.dtype.type(1.0) / epsilon[b, 0]
        x[:] = np.inf  # above everything: no weight
        for j in range(n):
            x[j] = theta[b, where[j]]
            v[j] = vs[min(b, vs.shape[0] - 1), where[j]]
            w[j] = ws[min(b, ws.shape[0] - 1), where[j]]
        if operation == JACOBIAN:
            jacobian_of_pairs(family, n, x, inverse, v, where, d, out[b, 0])
            continue
        for i in range(n):
            total, rest = sum_of_pairs(operation, family, i, n, x, inverse, v, w)
            if operation > MOMENTS:
                out[b, 0, where[i]] = total * inverse ** (2 if operation == SECOND else 1)
                continue
            out[b, 0, where[i]] = total + below + 0.5  # H(0) = 1/2 is among them
            if operation == MOMENTS:
                own = difference(family, broadcast(theta.dtype.type(0.0)))[3]
                rest -= np.float64(tree_sum(own)) / LANES
                out[b, 1, where[i]] = mean * (below + 0.5 * (n + 1)) + 0.5 * rest


# ----------------------------------------------------------------------------------------- nodes


@jitable
def cover(theta, epsilon, where, n, rule, x, a, order, slots):
    """Place blocks of nodes: a slot for every block near some location.

    ``x``, float64, and ``a`` receive locations and inverse scales in units of the smallest
    temperature. Coordinate j, of those in ``where``, needs the blocks of slots ``slots[0, j]`` to
    ``slots[1, j]`` - 1; ``slots[2, j]`` is the number of its first. Returns the unit and the
    number of slots.
    """
    step, low, high = rule[0], rule[1], rule[2]
    shared = epsilon.size == 1
    unit = np.inf
    for j in range(n):
        unit = min(unit, epsilon[0 if shared else where[j]])
    for j in range(n):
        i = where[j]
        scale = epsilon[0 if shared else i] / unit
        x[j], a[j] = np.float64(theta[i]) / unit, 1.0 / scale
        slots[2, j] = math.floor((x[j] + low * scale) / (step * LANES))
        slots[1, j] = math.floor((x[j] + high * scale) / (step * LANES)) + 1
    order[:n] = np.argsort(slots[2, :n])
    slot, end = 0, np.int64(-(2**62))  # of the run of blocks so far: its last slot, its end
    for k in range(n):
        j = order[k]
        first, stop = slots[2, j], slots[1, j]
        if first >= end:
            slot, end = slot + max(stop - first, 0), stop
        elif stop > end:
            slot, end = slot + stop - end, stop
        slots[0, j] = slot - (end - first)
        slots[1, j] = slot - (end - stop)
    return unit, slot


@jitable
def nodes_of(like, x, a, block, step):
    """``u`` at the nodes of a block; near a location float32 is as good as float64."""
    at = (block * LANES * step - x) * a
    return of_type(like, float64(lane_indices()) * (step * a) + at)


@jitable
def add_lanes(sums, slot, values):
    """``sums[slot] += values``, float64."""
    store(sums, slot * LANES, load(sums, slot * LANES) + float64(values))


@kernel
def run_nodes(task_begin, task_end, operation, family, mean, theta, epsilon, rule, vs, ws, out):
    """Rows ``task_begin .. task_end - 1``; ``rule`` is ``nodes.rule`` of a pair."""
    d = theta.shape[1]
    x, a = np.empty(d), np.empty(d)
    where, order, slots = np.empty(d, np.int64), np.empty(d, np.int64), np.empty((3, d), np.int64)
    step = rule[0]
    one = theta.dtype.type(1.0)
    for b in range(task_begin, task_end):
        v, w = vs[min(b, vs.shape[0] - 1)], ws[min(b, ws.shape[0] - 1)]
        out[b] = 0.0
        n, lowest = rank_extremes(theta[b], out[b, 0], where)
        if operation > MOMENTS:
            out[b] = 0.0
        unit, count = cover(theta[b], epsilon[b], where, n, rule, x, a, order, slots)
        first_sum, first_weighted = np.zeros((count, LANES)), np.zeros((count, LANES))
        second_sum, second_weighted = np.zeros((0, LANES)), np.zeros((0, LANES))
        if operation == SECOND:
            second_sum, second_weighted = np.zeros((count, LANES)), np.zeros((count, LANES))
        below = np.zeros(count + 1, np.int64)
        for j in range(n):
            below[slots[1, j]] += 1
            vj, wj, scale = v[where[j]], w[where[j]], one * a[j]
            for slot in range(slots[0, j], slots[1, j]):
                u = nodes_of(theta, x[j], a[j], slots[2, j] + slot - slots[0, j], step)
                f, _, g = density(family, u)
                if operation <= MOMENTS:
                    add_lanes(first_sum, slot, g)
                else:
                    add_lanes(first_sum, slot, f * scale)
                    add_lanes(first_weighted, slot, f * (scale * vj))
                if operation == SECOND:
                    slope = f * score(family, u, g)[0] * (-scale * scale * wj)
                    add_lanes(second_sum, slot, slope)
                    add_lanes(second_weighted, slot, slope * vj)
        for slot in range(count):
            below[slot + 1] += below[slot]
        for j in range(n):
            i = where[j]
            vj, wj, scale = v[i], w[i], one * a[j]
            total, moment = broadcast(0.0), broadcast(0.0)
            for slot in range(slots[0, j], slots[1, j]):
                u = nodes_of(theta, x[j], a[j], slots[2, j] + slot - slots[0, j], step)
                f, _, g = density(family, u)
                here = load(first_sum, slot * LANES)
                weight = float64(f * scale)
                if operation <= MOMENTS:
                    others = here - float64(g) + np.float64(below[slot] + lowest)
                    total = fma(weight, others, total)
                    moment = fma(weight * float64(u), others, moment)
                    continue
                move = here * np.float64(vj) - load(first_weighted, slot * LANES)
                if operation == PRODUCT:
                    total = fma(weight, move, total)
                elif operation == SCALE:
                    total = fma(weight * float64(u), move, total)
                else:
                    bend = load(second_sum, slot * LANES) * np.float64(vj)
                    bend = bend - load(second_weighted, slot * LANES)
                    slope = float64(f * score(family, u, g)[0] * (-scale * scale * wj))
                    total = total - fma(slope, move, weight * bend)
            if operation <= MOMENTS:
                out[b, 0, i] = 1.0 + step * tree_sum(total)
                if operation == MOMENTS:
                    out[b, 1, i] = mean + step * tree_sum(moment)
            else:
                power = 2 if operation == SECOND else 1
                out[b, 0, i] = step * tree_sum(total) * (1.0 / unit) ** power
