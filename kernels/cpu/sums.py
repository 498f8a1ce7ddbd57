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
from .accumulate import add_quad
from .perturb import coordinate
from .simd import LANES, broadcast, lane_array, load, store, sum_integers, swap_neighbours, tree_sum


@jitable
def of_pair(paired, x):
    """The sum of a lane and its mate, or the lane itself."""
    return x + swap_neighbours(x) if paired else x


@jitable
def pulled(pull, x):
    """A weight that leaves out the pair's mate too; see above."""
    return fma(broadcast(pull), x + swap_neighbours(x), x)


def real(like, x):
    """Lanes in the precision of ``like``."""
    raise NotImplementedError("compiled code only")


@overload(real, jit_options={"forceinline": True})
def _(like, x):
    if like.dtype == types.float32:
        return lambda like, x: float32(x)
    return lambda like, x: float64(x)


@kernel
def clear_tail(values, count):
    """Solutions or scores of lanes at and after ``count``, which are no samples, become zero."""
    for i in range(values.shape[0]):
        for lane in range(count, (count + LANES - 1) // LANES * LANES):
            values[i, lane] = 0


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
            centred = real(weights, load(y, i * stride + at)) - coordinate(mean, i)
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
            x = real(b, load(y, row * y.shape[1] + at))
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
                x = real(b, load(y, row * y.shape[1] + at))
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
                store(row, at, real(row, load(y, i * stride + at)) if i < d else one)
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


@kernel
def add_maximum(y, d, p, count, paired, lanes):
    """``lanes[0, 0] += <y, p>`` and ``lanes[1, 0]`` of its square, in float64."""
    stride = y.shape[1]
    for at in range(0, count, LANES):
        value = broadcast(0.0)
        for i in range(d):
            chosen = float64(load(y, i * stride + at))
            total = fma(chosen, float64(load(p, i * stride + at)), value)
            value = select(chosen != 0.0, total, value)  # what is not chosen may be infinite
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
            x = real(p, load(y, i * stride + at))
            if multiplicative:
                x = select(x != p.dtype.type(0.0), x * load(p, i * stride + at), x)
            first = first + x
            second = fma(x, load(z, i * stride + at), second)
        store(lanes, i * LANES, first)
        store(lanes, (lanes.shape[1] + i) * LANES, second)


@kernel
def add_trees(lanes, strand):
    """Close a chunk: every accumulator's tree joins the strand, in float64."""
    for slot in range(strand.shape[0]):
        for i in range(strand.shape[1]):
            strand[slot, i] += np.float64(
                tree_sum(load(lanes, (slot * lanes.shape[1] + i) * LANES))
            )
