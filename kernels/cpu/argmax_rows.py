"""Perturbed argmax for a few samples of many rows: as ``argmax.py``, but a lane is a row.

With ``M`` samples a row, ``argmax.py`` fills ``M`` of its thirty-two lanes; training with one to
eight samples would waste most of them. Here thirty-two rows run side by side, sample after sample,
on a transposed block of scores. Results are the same bits: the noise is addressed by sample and
row, and the sums over at most eight samples follow the same tree.

**Mapping.** Lane = row, a task is a block of thirty-two rows. **Memory.** O(32 d) a thread.
**Operations.** Counts, maximum and VJP, which is what training calls.
"""

from __future__ import annotations

import numpy as np

from ..bits import fma, select
from ..codes import MAXIMUM, VJP
from ._jit import jitable, kernel
from .accumulate import expected
from .argmax import TILE, race_weight, winners
from .perturb import (
    coordinate,
    is_race,
    noise_words,
    quantile_at,
    refine_words,
    scores,
)
from .simd import LANES, broadcast, load, store

MAX_SAMPLES = 8
_BLOCK = 16  # coordinates transposed at a time


def fills_lanes(rows: int, num_samples: int) -> bool:
    """Whether lanes are better filled with rows: few samples, and fewer blocks of lanes."""
    return num_samples <= MAX_SAMPLES and -(-rows // LANES) * num_samples < rows


@jitable
def transpose_scores(theta, a):
    """Up to 32 rows as ``a[i, lane]``, padded with -inf."""
    a[...] = -np.inf
    for first in range(0, theta.shape[1], _BLOCK):  # a block at a time stays in the L1 cache
        for lane in range(theta.shape[0]):
            for i in range(first, min(first + _BLOCK, theta.shape[1])):
                a[i, lane] = theta[lane, i]


@jitable
def largest_in_lanes(d, a):
    """The largest score below +inf of each lane; -inf if there is none."""
    infinity = a.dtype.type(np.inf)
    largest = broadcast(-infinity)
    for i in range(d):
        x = coordinate(a, i)
        largest = select((x > largest) & (x < infinity), x, largest)
    return largest


@jitable
def prepare_lanes(d, epsilon, family, largest, a, bound):
    """Scores ``a`` become what decisions compare; ``bound`` is the largest of every tile."""
    zero, infinity = a.dtype.type(0.0), a.dtype.type(np.inf)
    if is_race(family):
        for i in range(d):
            x = coordinate(a, i)
            gap = (largest - x) / epsilon
            weight = race_weight(a, select(gap > 0, gap, zero))
            weight = select(x == infinity, zero, weight)
            store(a, i * LANES, -select(x == -infinity, infinity, weight))
    for t in range(bound.shape[0]):
        top = broadcast(-infinity)
        for i in range(4 * TILE * t, min(4 * TILE * (t + 1), a.shape[0])):
            x = coordinate(a, i)
            top = select(x > top, x, top)
        store(bound, t * LANES, top)


@jitable
def tree_of_eight(terms, first, samples):
    """The sum of ``terms[first + m]`` over ``m < samples``: the last three levels of the tree."""
    zero = broadcast(terms.dtype.type(0.0))
    for m in range(samples, MAX_SAMPLES):
        store(terms, (first + m) * LANES, zero)
    for distance in (4, 2, 1):
        for m in range(first, first + distance):
            store(terms, m * LANES, coordinate(terms, m) + coordinate(terms, m + distance))
    return coordinate(terms, first)


@jitable
def sum_scores(family, d, weights, samples, first_sample, lanes, key, squares, terms, result):
    """``result[slot, i, lane] = sum_m weights[m, lane] s_m``; slot 1 of the squared terms."""
    for q in range((d + 3) // 4):
        for m in range(samples):
            w = noise_words(q, first_sample + m, lanes, key)
            v = refine_words(weights, w, q, first_sample + m, lanes, key)
            s = scores(family, weights, w, v, d - 4 * q)
            c = coordinate(weights, m)
            for r in range(4):
                x = c * s[r]
                store(terms, (r * MAX_SAMPLES + m) * LANES, x)
                if squares:
                    store(terms, ((4 + r) * MAX_SAMPLES + m) * LANES, x * x)
        for r in range(min(4, d - 4 * q)):
            at = (4 * q + r) * LANES
            store(result, at, tree_of_eight(terms, r * MAX_SAMPLES, samples))
            if squares:
                total = tree_of_eight(terms, (4 + r) * MAX_SAMPLES, samples)
                store(result, d * LANES + at, total)


@jitable
def transpose_back(result, sums):
    """``sums[lane, slot, i] = result[slot, i, lane]``."""
    rows, slots, d = sums.shape
    for slot in range(slots):
        for first in range(0, d, _BLOCK):
            for lane in range(rows):
                for i in range(first, min(first + _BLOCK, d)):
                    sums[lane, slot, i] = result[slot, i, lane]


@kernel
def run(
    block_begin, block_end, operation, squares, theta, epsilons, family, key,
    num_samples, first_sample, row_ids, direction, mean, decided, counts, sums,
):  # fmt: skip
    """Blocks ``block_begin .. block_end - 1`` of 32 rows; arguments as in ``argmax.run``, but
    ``row_ids`` and ``epsilons`` are long enough to load whole blocks."""
    d = theta.shape[1]
    quads = (d + 3) // 4
    a = np.empty((4 * quads, LANES), theta.dtype)
    plan = a, np.arange(quads), np.empty(((quads + TILE - 1) // TILE, LANES), theta.dtype)
    won = np.empty((MAX_SAMPLES, LANES), np.int32)
    weights = np.zeros((MAX_SAMPLES, LANES), theta.dtype)
    terms = np.empty((8 * MAX_SAMPLES, LANES), theta.dtype)
    result = np.empty((sums.shape[1], d if operation == VJP else 0, LANES), theta.dtype)
    known = operation == VJP and decided.size > 0
    for block in range(block_begin, block_end):
        begin = block * LANES
        rows = min(LANES, theta.shape[0] - begin)
        lanes, epsilon = load(row_ids, begin), load(epsilons, begin)
        if known:
            won[:num_samples, :rows] = decided[begin : begin + rows].T
        else:
            transpose_scores(theta[begin : begin + rows], a)
            prepare_lanes(d, epsilon, family, largest_in_lanes(d, a), a, plan[2])
        for m in range(0 if known else num_samples):
            sample = np.uint64(first_sample + m)
            winner, _ = winners(plan, d, epsilon, family, sample, lanes, key)
            store(won, m * LANES, winner)
            if operation == MAXIMUM:
                z = quantile_at(family, theta, winner, sample, lanes, key)
                store(weights, m * LANES, z)
        for lane in range(rows):
            b = begin + lane
            if operation == VJP:
                centre = theta.dtype.type(expected(direction[b], mean[b]))
            for m in range(num_samples):
                i = won[m, lane]
                if operation == VJP:
                    weights[m, lane] = direction[b, i] - centre
                    continue
                if decided.size > 0:
                    decided[b, m] = i
                counts[b, i] += 1
                if operation == MAXIMUM:
                    x = np.float64(fma(epsilons[b], weights[m, lane], theta[b, i]))
                    sums[b, 0, 0] += x
                    sums[b, 1, 0] += x * x
        if operation == VJP:
            sum_scores(
                family, d, weights, num_samples, first_sample, lanes, key, squares, terms, result
            )  # fmt: skip
            transpose_back(result, sums[begin : begin + rows])
