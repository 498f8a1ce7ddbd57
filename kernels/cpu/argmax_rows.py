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
from ._jit import jitable, kernel
from .accumulate import MAXIMUM, VJP, expected
from .argmax import TILE, coordinate, decision_scores, largest_finite, winners
from .perturb import consecutive, noise_words, quantile_at, scores
from .simd import LANES, broadcast, store

MAX_SAMPLES = 8


@jitable
def transpose(theta, epsilon, family, row, a, bound):
    """Decision scores of up to 32 rows as ``a[i, lane]``, and the upper bound of every tile."""
    a[...] = -np.inf
    for lane in range(theta.shape[0]):
        decision_scores(theta[lane], largest_finite(theta[lane]), epsilon, family, row)
        for i in range(theta.shape[1]):
            a[i, lane] = row[i]
    for t in range(bound.shape[0]):
        top = broadcast(a.dtype.type(-np.inf))
        for i in range(4 * TILE * t, min(4 * TILE * (t + 1), a.shape[0])):
            x = coordinate(a, i)
            top = select(x > top, x, top)
        store(bound, t * LANES, top)


@jitable
def add_eight(terms, samples, rows, sums, i):
    """Add ``terms[m, lane]`` over the samples to ``sums[lane, i]``: the last levels of the tree."""
    zero = broadcast(terms.dtype.type(0.0))
    for m in range(samples, MAX_SAMPLES):
        store(terms, m * LANES, zero)
    for distance in (4, 2, 1):
        for m in range(distance):
            store(terms, m * LANES, coordinate(terms, m) + coordinate(terms, m + distance))
    for lane in range(rows):
        sums[lane, i] += terms[0, lane]


@jitable
def add_row_scores(
    family, d, weights, samples, first_sample, rows, lanes, key, terms, squares, sums
):
    """As ``accumulate.add_scores``, for the rows of a block: into ``sums[lane, slot, i]``."""
    for q in range((d + 3) // 4):
        for m in range(samples):
            w = noise_words(q, first_sample + m, lanes, key)
            s = scores(family, weights, w, d - 4 * q, q, first_sample + m, lanes, key)
            c = coordinate(weights, m)
            for r in range(4):
                store(terms, (r * MAX_SAMPLES + m) * LANES, c * s[r])
        for r in range(min(4, d - 4 * q)):
            term = terms[r * MAX_SAMPLES : (r + 1) * MAX_SAMPLES]
            if squares:
                square = terms[4 * MAX_SAMPLES :]
                for m in range(samples):
                    x = coordinate(term, m)
                    store(square, m * LANES, x * x)
                add_eight(square, samples, rows, sums[:, 1], 4 * q + r)
            add_eight(term, samples, rows, sums[:, 0], 4 * q + r)


@kernel
def run(
    block_begin, block_end, operation, squares, theta, epsilon, family, key,
    num_samples, first_sample, first_row, direction, mean, counts, sums,
):  # fmt: skip
    """Blocks ``block_begin .. block_end - 1`` of 32 rows; arguments as in ``argmax.run``."""
    d = theta.shape[1]
    quads = (d + 3) // 4
    row = np.empty(4 * quads, theta.dtype)
    a = np.empty((4 * quads, LANES), theta.dtype)
    plan = a, np.arange(quads), np.empty(((quads + TILE - 1) // TILE, LANES), theta.dtype)
    won = np.empty((MAX_SAMPLES, LANES), np.int32)
    weights = np.zeros((MAX_SAMPLES, LANES), theta.dtype)
    terms = np.empty((5 * MAX_SAMPLES, LANES), theta.dtype)
    kept = np.empty(0, theta.dtype)
    for block in range(block_begin, block_end):
        begin = block * LANES
        rows = min(LANES, theta.shape[0] - begin)
        block_theta = theta[begin : begin + rows]
        lanes = consecutive(first_row + begin)
        transpose(block_theta, epsilon, family, row, a, plan[2])
        for m in range(num_samples):
            sample = np.uint64(first_sample + m)
            winner = winners(plan, d, epsilon, family, sample, lanes, key, kept, 0)
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
                counts[b, i] += 1
                if operation == MAXIMUM:
                    x = np.float64(fma(epsilon, weights[m, lane], theta[b, i]))
                    sums[b, 0, 0] += x
                    sums[b, 1, 0] += x * x
        if operation == VJP:
            add_row_scores(
                family, d, weights, num_samples, first_sample, rows, lanes, key, terms, squares,
                sums[begin : begin + rows],
            )  # fmt: skip
