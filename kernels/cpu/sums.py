"""Sums: what a block of solved samples adds, for solutions of any shape.

A block holds ``y``, (d, lanes) int32, and the scores ``s`` of its noise, (size, lanes): a lane is a
sample. Terms are added lane by lane into ``lanes``, whose trees (``simd.tree_sum``) join the
strand once a chunk is complete. Weights of lanes without a sample are zero.

With antithetic samples two neighbouring lanes are a pair: squares are of a pair's sum, so each is
counted twice, and the leave-one-out mean leaves out the pair. ``pull`` is ``1 / (M - 2)`` then,
which turns the weight ``a`` of a sample (already centred by the mean of all) into
``a + pull (a + mate)``, and 0 otherwise.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from ..bits import float32, float64, fma, int64, select
from ._jit import jitable, kernel
from ._piece import PIECE
from .accumulate import add_quad
from .perturb import coordinate
from .simd import (
    LANES,
    broadcast,
    lane_array,
    lane_indices,
    load,
    store,
    store_quad,
    sum_integers,
    swap_neighbours,
    tree_sum,
)


@jitable
def of_pair(paired, x):
    """The sum of a lane and its mate, or the lane itself."""
    return x + swap_neighbours(x) if paired else x


@jitable
def pulled(pull, x):
    """A weight that leaves out the pair's mate too; see above. (A neighbour that is no mate is of
    another row, and may be infinite.)"""
    return fma(broadcast(pull), x + swap_neighbours(x), x) if pull != 0 else x


def of_type(like, x):
    """Lanes in the type of ``like``."""
    raise NotImplementedError("compiled code only")


@overload(of_type, jit_options=PIECE)
def _(like, x):
    if x.dtype == like.dtype:
        return lambda like, x: x
    if like.dtype == types.float32:
        return lambda like, x: float32(x)
    if like.dtype == types.float64:
        return lambda like, x: float64(x)
    return None


@kernel
def clear_tail(values, count):
    """Solutions or scores of lanes at and after ``count``, which are no samples, become zero."""
    stride, at = values.shape[1], count // LANES * LANES
    if at == count:
        return
    is_sample = lane_indices() < np.uint64(count - at)
    zeros = broadcast(values.dtype.type(0))
    for i in range(values.shape[0]):
        x = load(values, i * stride + at)
        store(values, i * stride + at, select(is_sample, x, zeros))


@kernel
def add_counts(y, d, count, paired, counts):
    """``counts[0, i] += sum y_i`` and, where it has room, ``counts[1, i] += sum y_i^2``."""
    stride = y.shape[1]
    for i in range(d):
        total = broadcast(np.int32(0))
        for at in range(0, count, LANES):
            total = total + load(y, i * stride + at)
        counts[0, i] += sum_integers(int64(total))
        if counts.shape[0] > 1:
            squares = broadcast(np.int64(0))
            for at in range(0, count, LANES):
                x = int64(of_pair(paired, load(y, i * stride + at)))
                squares = squares + x * x
            counts[1, i] += sum_integers(squares)


@kernel
def project(y, d, count, direction, mean, pull, weights):
    """``weights[lane] = <direction, y - mean>``, coordinates in order by fused multiply-add."""
    stride = y.shape[1]
    for at in range(0, count, LANES):
        a = broadcast(weights.dtype.type(0.0))
        for i in range(d):
            centred = of_type(weights, load(y, i * stride + at)) - coordinate(mean, i)
            a = fma(coordinate(direction, i), centred, a)
        store(weights, at, pulled(pull, a))
    for lane in range(count, weights.size):
        weights[lane] = weights.dtype.type(0.0)


@kernel
def add_scores(weights, s, d, count, paired, lanes):
    """``lanes[0, i] += weights s_i``; where it has room, ``lanes[1, i]`` of the squared terms."""
    stride = s.shape[1]
    for i in range(d):
        total = load(lanes, i * LANES)
        for at in range(0, count, LANES):
            total = fma(load(weights, at), load(s, i * stride + at), total)
        store(lanes, i * LANES, total)
        if lanes.shape[0] > 1:
            j = (lanes.shape[1] + i) * LANES
            total = load(lanes, j)
            for at in range(0, count, LANES):
                x = of_pair(paired, load(weights, at) * load(s, i * stride + at))
                total = fma(x, x, total)
            store(lanes, j, total)


@kernel
def score_products(s, d, count, direction, products):
    """``products[lane] = <s, direction>``, coordinates in order by fused multiply-add."""
    stride = s.shape[1]
    for at in range(0, count, LANES):
        b = broadcast(products.dtype.type(0.0))
        for i in range(d):
            b = fma(direction[i], load(s, i * stride + at), b)
        store(products, at, b)
    for lane in range(count, products.size):
        products[lane] = products.dtype.type(0.0)


@jitable
def add_row(y, row, b, count, paired, pull, lanes, first):
    """Terms of solutions ``y[row]`` with the scalars ``b``: what JVP and JACOBIAN accumulate.

        first             sum y b', b' = b + pull (b + mate)
        first + slot      sum X B        X = y b' and B = b, each with its mate's if paired
        first + 2 slots   sum X^2

    Row -1 stands for y = 1 (and b' = b): the sums of b itself.
    """
    slot = lanes.shape[1] * LANES
    total = load(lanes, first)
    for at in range(0, count, LANES):
        c = load(b, at)
        if row >= 0:
            x = of_type(b, load(y, row * y.shape[1] + at))
            total = fma(x, pulled(pull, c), total)
        else:
            total = total + c
    store(lanes, first, total)
    if lanes.shape[0] > 1:
        cross, squares = load(lanes, first + slot), load(lanes, first + 2 * slot)
        for at in range(0, count, LANES):
            c = load(b, at)
            pair = of_pair(paired, c)
            x = pair
            if row >= 0:
                x = of_type(b, load(y, row * y.shape[1] + at))
                x = of_pair(paired, x * pulled(pull, c))
            cross = fma(x, pair, cross)
            squares = fma(x, x, squares)
        store(lanes, first + slot, cross)
        store(lanes, first + 2 * slot, squares)


@kernel
def add_products(y, d, products, count, paired, pull, lanes):
    """JVP: ``add_row`` of every coordinate, and of y = 1 last."""
    for i in range(d):
        add_row(y, i, products, count, paired, pull, lanes, i * LANES)
    add_row(y, -1, products, count, paired, pull, lanes, d * LANES)


@jitable
def add_four_trees(y, s, k, stride, count, sums):
    """``sums[k + r] += tree of y s_(k + r)`` for r < 4: a chunk of one row of the outer product."""
    t0 = t1 = t2 = t3 = broadcast(y.dtype.type(0.0))
    for at in range(0, count, LANES):
        x = load(y, at)
        t0 = fma(x, load(s, k * stride + at), t0)
        t1 = fma(x, load(s, (k + 1) * stride + at), t1)
        t2 = fma(x, load(s, (k + 2) * stride + at), t2)
        t3 = fma(x, load(s, (k + 3) * stride + at), t3)
    add_quad(sums, k // 4, (t0, t1, t2, t3))


@kernel
def add_outer(y, d, s, count, paired, pull, lanes, strand):
    """JACOBIAN of a whole chunk: ``strand[slot, i d + k]`` of ``y_i s_k``, and of y = 1 last."""
    stride = s.shape[1]
    plain = lanes.shape[0] == 1 and not paired
    row = lane_array(1, stride, s)[0]
    for i in range(d + 1):
        if plain:
            for at in range(0, count, LANES):
                one = broadcast(s.dtype.type(1.0))
                store(row, at, of_type(row, load(y, i * stride + at)) if i < d else one)
            for k in range(0, d, 4):
                add_four_trees(row, s, k, stride, count, strand[0, i * d : (i + 1) * d])
            continue
        lanes[...] = 0.0
        for k in range(d):
            b = s[k]
            add_row(y, i if i < d else -1, b, count, paired, pull, lanes, k * LANES)
        for slot in range(lanes.shape[0]):
            for k in range(d):
                tree = tree_sum(load(lanes, (slot * lanes.shape[1] + k) * LANES))
                strand[slot, i * d + k] += np.float64(tree)


@jitable
def values_of(y, d, p, at):
    """``<y, p>`` of lanes ``at ..`` in float64, coordinates in order."""
    stride = y.shape[1]
    value = broadcast(0.0)
    for i in range(d):
        chosen = float64(load(y, i * stride + at))
        total = fma(chosen, float64(load(p, i * stride + at)), value)
        value = select(chosen != 0.0, total, value)  # what is not chosen may be infinite
    return value


@kernel
def add_maximum(y, d, p, count, paired, lanes):
    """``lanes[0, 0] += <y, p>`` and ``lanes[1, 0]`` of its square, in float64."""
    for at in range(0, count, LANES):
        value = values_of(y, d, p, at)
        store(lanes, 0, load(lanes, 0) + value)
        pair = of_pair(paired, value)
        at_squares = lanes.shape[1] * LANES
        store(lanes, at_squares, fma(pair, pair, load(lanes, at_squares)))


@kernel
def add_moments(y, d, p, z, count, multiplicative, lanes):
    """``lanes[0, i] += y_i w_i`` and ``lanes[1, i] += y_i w_i z_i``, with ``w = p`` or 1."""
    stride = y.shape[1]
    for i in range(d):
        first = load(lanes, i * LANES)
        second = load(lanes, (lanes.shape[1] + i) * LANES)
        for at in range(0, count, LANES):
            x = of_type(p, load(y, i * stride + at))
            if multiplicative:
                x = select(x != p.dtype.type(0.0), x * load(p, i * stride + at), x)
            first = first + x
            second = fma(x, load(z, i * stride + at), second)
        store(lanes, i * LANES, first)
        store(lanes, (lanes.shape[1] + i) * LANES, second)


@kernel
def add_trees(lanes, strand):
    """Close a chunk: every accumulator's tree joins the strand, in float64."""
    slots, size = strand.shape
    for slot in range(slots):
        first = slot * lanes.shape[1]
        for q in range(size // 4):
            at = (first + 4 * q) * LANES
            four = (
                load(lanes, at), load(lanes, at + LANES), load(lanes, at + 2 * LANES),
                load(lanes, at + 3 * LANES),
            )  # fmt: skip
            add_quad(strand[slot], q, four)
        for i in range(size // 4 * 4, size):
            strand[slot, i] += np.float64(tree_sum(load(lanes, (first + i) * LANES)))


# ------------------------------------------------------------------------ lanes of several rows


@kernel
def to_rows(lanes, at, d, rows):
    """``rows[lane, i] = lanes[i, at + lane]``, whole quads of ``d`` coordinates."""
    stride = lanes.shape[1]
    for i in range(0, d, 4):
        first = i * stride + at
        store_quad(
            rows, i, of_type(rows, load(lanes, first)), of_type(rows, load(lanes, first + stride)),
            of_type(rows, load(lanes, first + 2 * stride)),
            of_type(rows, load(lanes, first + 3 * stride)),
        )  # fmt: skip


@kernel
def add_rows_of_solutions(y, d, count, paired, which, counts):
    """Row ``n`` of ``y`` is a sample of row ``b = which[n]``: ``counts[b, 0] += y``, and of
    ``y^2``."""
    for n in range(count):
        solution, mate = y[n], y[n ^ 1 if paired else n]
        total = counts[which[n], 0]
        for i in range(d):
            total[i] += np.int64(solution[i])
        if counts.shape[1] > 1:
            total = counts[which[n], 1]
            for i in range(d):
                x = np.int64(solution[i]) + np.int64(mate[i] if paired else 0)
                total[i] += x * x


@kernel
def add_rows_of_terms(weights, s, d, count, paired, which, sums):
    """Row ``n`` of ``s`` is of a sample of row ``b = which[n]``: ``sums[b, 0] += a s``, and of its
    square."""
    for n in range(count):
        a, scores, total = weights[n], s[n], sums[which[n], 0]
        for i in range(d):
            total[i] += np.float64(a * scores[i])
        if sums.shape[1] > 1:
            b, others, total = weights[n ^ 1], s[n ^ 1], sums[which[n], 1]
            for i in range(d):
                term = a * scores[i] + b * others[i] if paired else a * scores[i]
                total[i] += np.float64(term) * np.float64(term)


@kernel
def add_rows_of_values(y, d, p, count, paired, which, values, sums):
    """A lane is a sample of row ``b = which[lane]``: ``sums[b, 0] += <y, p>``, and its square."""
    x = values_of(y, d, p, 0)
    for slot in range(2):
        store(values, 0, of_pair(paired and slot == 1, x))
        for lane in range(count):
            x_lane = values[lane]
            sums[which[lane], slot, 0] += x_lane if slot == 0 else x_lane * x_lane
