"""Accumulate: what a chunk of solved samples adds to the sums of its row.

For the argmax, whose solution is one index a sample. Derivative estimators are sums of scores
weighted by what was decided, drawn again here. Float sums follow the fixed tree described in
``argmax.py``.
"""

from __future__ import annotations

import numpy as np

from ..bits import fma
from ._jit import jitable, kernel
from .perturb import consecutive, noise_words, refine_words, scores
from .simd import LANES, broadcast, count_lanes, four_tree_sums, load

CHUNK = 256
"""Samples in a chunk: part of the definition of every float sum."""
STRANDS = 16
"""Running sums of chunks in a row: likewise."""


@jitable
def add_counts(won, count, counts):
    """``counts[i] += #{j : won_j = i}``, by comparing lanes where that is fewer operations."""
    if counts.size <= LANES:
        for j in range(count, (count + LANES - 1) // LANES * LANES):
            won[j] = -1
        for i in range(counts.size):
            total = 0
            for j in range(0, count, LANES):
                total += count_lanes(load(won, j) == np.int32(i))
            counts[i] += total
    else:
        for j in range(count):
            counts[won[j]] += 1


@jitable
def weigh(family, live, weights, count, q, first_sample, row, key, squares):
    """Lanes of ``sum_j weights_j s_j`` of a quad, and of the squared terms where asked for."""
    t0 = t1 = t2 = t3 = broadcast(weights.dtype.type(0.0))
    u0, u1, u2, u3 = t0, t1, t2, t3
    for j in range(0, count, LANES):
        c = load(weights, j)
        samples = consecutive(first_sample + j)
        w = noise_words(q, samples, row, key)
        s = scores(family, weights, w, refine_words(weights, w, q, samples, row, key), live)
        t0, t1, t2, t3 = fma(c, s[0], t0), fma(c, s[1], t1), fma(c, s[2], t2), fma(c, s[3], t3)
        if squares:
            c0, c1, c2, c3 = c * s[0], c * s[1], c * s[2], c * s[3]
            u0, u1, u2, u3 = fma(c0, c0, u0), fma(c1, c1, u1), fma(c2, c2, u2), fma(c3, c3, u3)
    return (t0, t1, t2, t3), (u0, u1, u2, u3)


@jitable
def add_scores(family, d, weights, count, first_sample, row, key, squares, sums):
    """``sums[0, i] += sum_j weights_j s_ji``; with ``squares`` also ``sums[1, i]``, squared."""
    for q in range((d + 3) // 4):
        # Two copies of the loop: the last quad's missing coordinates cost nothing.
        if d - 4 * q > 2:
            t, u = weigh(family, 4, weights, count, q, first_sample, row, key, squares)
        else:
            t, u = weigh(family, 2, weights, count, q, first_sample, row, key, squares)
        add_quad(sums[0], q, t)
        if squares:
            add_quad(sums[1], q, u)


@kernel
def add_drawn_scores(family, d, weights, count, first_sample, row, key, others, at, sums):
    """As ``add_scores``, with the scores of samples that follow at hand: lanes ``at ..`` of
    ``others``, (d, 32), which has no room where there are none."""
    for q in range((d + 3) // 4):
        if d - 4 * q > 2:
            t, _ = weigh(family, 4, weights, count, q, first_sample, row, key, False)
        else:
            t, _ = weigh(family, 2, weights, count, q, first_sample, row, key, False)
        if others.size > 0:
            c, i = load(weights, count), 4 * q * LANES + at
            t = (
                fma(c, load(others, i), t[0]),
                fma(c, load(others, i + LANES), t[1]),
                fma(c, load(others, i + 2 * LANES), t[2]),
                fma(c, load(others, i + 3 * LANES), t[3]),
            )
        add_quad(sums, q, t)


@jitable
def add_quad(sums, q, lanes):
    """Add four trees of lanes to coordinates ``4 q .. 4 q + 3``; the padding is dropped."""
    i = 4 * q
    total = four_tree_sums(lanes[0], lanes[1], lanes[2], lanes[3])
    sums[i] += total[0]
    if i + 1 < sums.size:
        sums[i + 1] += total[1]
    if i + 2 < sums.size:
        sums[i + 2] += total[2]
    if i + 3 < sums.size:
        sums[i + 3] += total[3]


@jitable
def expected(direction, mean):
    """``<direction, mean>`` in float64, in order: the centre of the leave-one-out weights."""
    total = 0.0
    for i in range(direction.size):
        total += np.float64(direction[i]) * np.float64(mean[i])
    return total
