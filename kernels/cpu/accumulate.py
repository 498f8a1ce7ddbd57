"""Accumulate: what a chunk of solved samples adds to the sums of its row.

Derivative estimators are sums of scores weighted by what the solver decided. The scores of a
chunk are either kept from the decisions (``kept``, for few coordinates) or drawn again; both give
the same bits. Float sums follow the fixed tree described in ``argmax.py``.
"""

from __future__ import annotations

import numpy as np

from ..bits import fma
from ._jit import jitable
from .perturb import consecutive, noise_words, scores
from .simd import LANES, broadcast, count_lanes, load, store, tree_sum

CHUNK = 256
"""Samples in a chunk: part of the definition of every float sum."""
STRANDS = 16
"""Running sums of chunks in a row: likewise."""

VALUE, MAXIMUM, VJP, JVP, JACOBIAN = range(5)
"""What a launch accumulates beside the counts."""


@jitable
def sample_scores(family, like, live, q, first_sample, offset, row, key, kept):
    """The scores of a quad for samples ``first_sample + offset + (0 .. 31)``."""
    if kept.size > 0:
        at = 4 * q * CHUNK + offset
        return (
            load(kept, at),
            load(kept, at + CHUNK),
            load(kept, at + 2 * CHUNK),
            load(kept, at + 3 * CHUNK),
        )
    samples = consecutive(first_sample + offset)
    w = noise_words(q, samples, row, key)
    return scores(family, like, w, live, q, samples, row, key)


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
def weigh(family, live, weights, count, q, first_sample, row, key, kept, squares):
    """Lanes of ``sum_j weights_j s_j`` of a quad, and of the squared terms where asked for."""
    t0 = t1 = t2 = t3 = broadcast(weights.dtype.type(0.0))
    u0, u1, u2, u3 = t0, t1, t2, t3
    for j in range(0, count, LANES):
        c = load(weights, j)
        s = sample_scores(family, weights, live, q, first_sample, j, row, key, kept)
        t0, t1, t2, t3 = fma(c, s[0], t0), fma(c, s[1], t1), fma(c, s[2], t2), fma(c, s[3], t3)
        if squares:
            c0, c1, c2, c3 = c * s[0], c * s[1], c * s[2], c * s[3]
            u0, u1, u2, u3 = fma(c0, c0, u0), fma(c1, c1, u1), fma(c2, c2, u2), fma(c3, c3, u3)
    return (t0, t1, t2, t3), (u0, u1, u2, u3)


@jitable
def add_scores(family, d, weights, count, first_sample, row, key, kept, squares, sums):
    """``sums[0, i] += sum_j weights_j s_ji``; with ``squares`` also ``sums[1, i]``, squared."""
    for q in range((d + 3) // 4):
        # Two copies of the loop: the last quad's missing coordinates cost nothing.
        if d - 4 * q > 2:
            t, u = weigh(family, 4, weights, count, q, first_sample, row, key, kept, squares)
        else:
            t, u = weigh(family, 2, weights, count, q, first_sample, row, key, kept, squares)
        add_quad(sums[0], q, t)
        if squares:
            add_quad(sums[1], q, u)


@jitable
def add_quad(sums, q, lanes):
    """Add four trees of lanes to coordinates ``4 q .. 4 q + 3``; the padding is dropped."""
    i = 4 * q
    sums[i] += tree_sum(lanes[0])
    if i + 1 < sums.size:
        sums[i + 1] += tree_sum(lanes[1])
    if i + 2 < sums.size:
        sums[i + 2] += tree_sum(lanes[2])
    if i + 3 < sums.size:
        sums[i + 3] += tree_sum(lanes[3])


@jitable
def score_products(family, direction, count, first_sample, row, key, kept, products):
    """``products[j] = <s(z_j), direction>``, coordinates in order by fused multiply-add."""
    for j in range(0, count, LANES):
        p = broadcast(products.dtype.type(0.0))
        for q in range((direction.size + 3) // 4):
            live = direction.size - 4 * q
            s = sample_scores(family, products, 4, q, first_sample, j, row, key, kept)
            for r in range(4):
                if r < live:
                    p = fma(direction[4 * q + r], s[r], p)
        store(products, j, p)


@jitable
def add_outer(family, d, won, count, first_sample, row, key, kept, squares, buffer, sums):
    """``sums[0, i d + k] += sum_j [won_j = i] s_jk``; with ``squares`` also of squared scores."""
    for q in range((d + 3) // 4):
        for j in range(0, count, LANES):
            s = sample_scores(family, buffer, 4, q, first_sample, j, row, key, kept)
            for r in range(4):
                store(buffer, r * CHUNK + j, s[r])
        for r in range(min(4, d - 4 * q)):
            for j in range(count):
                x = np.float64(buffer[r * CHUNK + j])
                sums[0, won[j] * d + 4 * q + r] += x
                if squares:
                    sums[1, won[j] * d + 4 * q + r] += x * x


@jitable
def expected(direction, mean):
    """``<direction, mean>`` in float64, in order: the centre of the leave-one-out weights."""
    total = 0.0
    for i in range(direction.size):
        total += np.float64(direction[i]) * np.float64(mean[i])
    return total
