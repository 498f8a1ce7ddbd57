"""Perturbed argmax on the CPU: sample, solve and accumulate in one pass, nothing materialised.

    y_m = onehot(argmax_i theta_i + eps z_mi),   z_mi = quantile(word(i, m, row)),   m < M

    counts    sum_m y_m                                              exact integers
    maximum   sum_m <y_m, theta + eps z_m>                           and of its square
    vjp       sum_m (<v, y_m> - c) s(z_m)                            and of its square

These are what training calls, for independent samples and one ``eps`` a row; ``fused.py`` does
everything else, on the same decisions.

**Mapping.** A lane is a sample: thirty-two samples run in the lanes of one ``simd.Vector`` while
the coordinates pass by, four at a time (one Philox block, a *quad*). A chunk is 256 samples. A
task is a row, or one strand of a row when there are fewer rows than threads can use.

**Cost.** About one Philox word a coordinate. The quantile is monotone in the word, so a quad whose
words all lie below what could still win is dropped by one integer comparison; the quads with the
largest scores go first, which makes that the common case. Derivatives draw the noise a second time
(a word is cheaper than a load) and touch every coordinate.

**Memory.** O(d) a task: a padded row, a visiting order, partial sums. Independent of M.

**Determinism.** Decisions are those of ``reference.py`` bit for bit and counts are integers. Float
sums follow a fixed tree: within a chunk, lane ``l`` adds samples ``l, l + 32, ...`` in order by
fused multiply-add and the lanes are then added pairwise (16, 8, 4, 2, 1 apart); chunk ``c`` adds
to strand ``c % 16`` in float64, in order; strands are added in order. Threads only choose who
computes which strand.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from .. import noise32, noise64
from ..bits import float32, fma, select, uint32
from ..codes import MAXIMUM, VJP
from ._jit import jitable, kernel
from .accumulate import CHUNK, STRANDS, add_counts, add_scores, expected
from .exceed import exceedance
from .perturb import (
    consecutive,
    coordinate,
    decision_noise,
    is_race,
    noise_words,
    quantile_at,
    refine_words,
)
from .simd import LANES, any_lane, broadcast, load, store

TILE = 8  # quads that share one threshold
_BUCKETS = 64  # classes of the visiting order
_F32 = np.float32
_NEVER = _F32(4294967040.0)  # the largest float32 below 2^32


# ------------------------------------------------------------------------------- rows and order


def race_weight(like, gap):
    """exp(gap) in the row's precision."""
    raise NotImplementedError("compiled code only")


@overload(race_weight)
def _(like, gap):
    if like.dtype == types.float32:
        return lambda like, gap: noise32.exp(gap)
    return lambda like, gap: noise64.exp(gap)


@jitable
def largest_finite(theta):
    """The largest score below +inf; -inf if there is none."""
    largest = theta.dtype.type(-np.inf)
    for i in range(theta.size):
        if theta[i] > largest and theta[i] < np.inf:
            largest = theta[i]
    return largest


@jitable
def race_weights(theta, epsilon, largest):
    """Scores become ``-exp((largest - theta) / eps)``: 0 for +inf, -inf stays.

    ``largest`` is the problem's largest finite score: of ``theta``, unless that is a shard of it.
    """
    for i in range(theta.size):
        if theta[i] == np.inf:
            theta[i] = -theta.dtype.type(0.0)
        elif theta[i] > -np.inf:
            theta[i] = -race_weight(theta, (largest - theta[i]) / epsilon)


@jitable
def prepare(theta, epsilon, family, largest, plan):
    """Fill ``a`` with what decisions compare, padded with "never wins", and plan the visit.

    Additive decisions maximise ``a_i + eps z_i`` with ``a = theta``. The exponential race maximises
    ``a_i E_i`` with ``a_i = -exp((largest - theta_i) / eps)``.
    """
    a, order, bound = plan
    a[:] = -np.inf
    a[: theta.size] = theta
    visit_order(a, largest_finite(theta), epsilon, order)
    if is_race(family):
        race_weights(a[: theta.size], epsilon, largest)
    for t in range(bound.size):
        top = theta.dtype.type(-np.inf)
        for j in range(t * TILE, min((t + 1) * TILE, order.size)):
            q = order[j]
            top = max(top, a[4 * q], a[4 * q + 1], a[4 * q + 2], a[4 * q + 3])
        bound[t] = top


@jitable
def bucket_of(a, q, largest, epsilon):
    """The class of quad ``q``: how far its largest score is from the row's, in steps of eps / 4."""
    gap = (largest - max(a[4 * q], a[4 * q + 1], a[4 * q + 2], a[4 * q + 3])) / epsilon
    if gap < 0:
        return 0
    return int(4 * gap) if gap < 0.25 * (_BUCKETS - 1) else _BUCKETS - 1


@jitable
def visit_order(a, largest, epsilon, order):
    """Quads by falling largest score, coarsely: a counting sort."""
    starts = np.zeros(_BUCKETS + 1, np.int64)
    for q in range(order.size):
        starts[bucket_of(a, q, largest, epsilon) + 1] += 1
    for k in range(_BUCKETS):
        starts[k + 1] += starts[k]
    for q in range(order.size):
        k = bucket_of(a, q, largest, epsilon)
        order[starts[k]] = q
        starts[k] += 1


# ------------------------------------------------------------------------------------- decide


@jitable
def hopeless_words(family, bound, epsilon, best):
    """Lane by lane, a word at or below which no coordinate with ``a <= bound`` reaches ``best``.

    With ``p`` at least the probability that noise exceeds what is needed, that is
    ``2^32 (1 - p)``, less a margin for every rounding on the way: a dropped coordinate would have
    been strictly below ``best``, so results never depend on this shortcut.
    """
    zero = _F32(0.0)
    if is_race(family):
        # a E > best needs E < best / a, and E = -log(1 - p) >= p.
        p = float32(best / bound)
        valid = p >= zero
    else:
        slack = select(best < zero, -best, best) * _F32(2.0**-20)
        p, valid = exceedance(family, float32((best - slack - bound) / epsilon))
    reach = fma(p, _F32(2.0**32 * 1.0001), _F32(2.0))
    reach = select(reach < _NEVER, reach, _NEVER)
    return select(valid, uint32(reach) ^ np.uint32(0xFFFFFFFF), np.uint32(0))


@jitable
def winners(plan, d, epsilon, family, samples, rows, key):
    """The argmax in every lane, as a vector of int32, and the value it was decided by.

    Lanes are samples of a row, or rows.
    """
    a, order, bound = plan
    best = broadcast(a.dtype.type(-np.inf))
    winner = broadcast(np.int32(0))
    hopeless = broadcast(np.uint32(0))
    for tile in range(bound.shape[0]):
        if tile > 0:
            hopeless = hopeless_words(family, coordinate(bound, tile), epsilon, best)
        for j in range(tile * TILE, min((tile + 1) * TILE, order.size)):
            q = order[j]
            w = noise_words(q, samples, rows, key)
            hit = (w[0] > hopeless) | (w[1] > hopeless) | (w[2] > hopeless) | (w[3] > hopeless)
            if any_lane(hit):
                v = refine_words(a, w, q, samples, rows, key)
                r = decision_noise(family, a, w, v, d - 4 * q)
                value, index = best_of_quad(family, r, a, 4 * q, epsilon)
                better = (value > best) | ((value == best) & (index < winner))
                best = select(better, value, best)
                winner = select(better, index, winner)
    return winner, best


@jitable
def best_of_quad(family, r, a, i, epsilon):
    """The largest perturbed score of coordinates ``i .. i + 3`` and its index, lowest on a tie."""
    a0, a1 = coordinate(a, i), coordinate(a, i + 1)
    a2, a3 = coordinate(a, i + 2), coordinate(a, i + 3)
    if is_race(family):
        v0, v1, v2, v3 = r[0] * a0, r[1] * a1, r[2] * a2, r[3] * a3
    else:
        v0, v1 = fma(r[0], epsilon, a0), fma(r[1], epsilon, a1)
        v2, v3 = fma(r[2], epsilon, a2), fma(r[3], epsilon, a3)
    i0, i2 = broadcast(np.int32(i)), broadcast(np.int32(i + 2))
    low, high = v1 > v0, v3 > v2
    va, ia = select(low, v1, v0), select(low, i0 + np.int32(1), i0)
    vb, ib = select(high, v3, v2), select(high, i2 + np.int32(1), i2)
    final = vb > va
    return select(final, vb, va), select(final, ib, ia)


@jitable
def perturbed_values(theta, epsilon, family, won, count, first_sample, row, key, values):
    """``values[j]``, the score of sample j's winner with its noise: ``max_i theta_i + eps z_i``."""
    for j in range(0, count, LANES):
        store(
            values,
            j,
            quantile_at(family, theta, load(won, j), consecutive(first_sample + j), row, key),
        )
    for j in range(count):
        values[j] = fma(epsilon, values[j], theta[won[j]])


# ---------------------------------------------------------------------------------- the launch


@kernel
def run(
    task_begin, task_end, parts, operation, squares, theta, epsilons, family, key,
    num_samples, first_sample, row_ids, direction, mean, decided, counts, sums,
):  # fmt: skip
    """Tasks ``task_begin .. task_end - 1``: a row each (``parts`` = 1) or a strand of one (16).

    ``epsilons`` and ``row_ids`` have an entry a row. ``counts`` (tasks, d) and ``sums``
    (tasks, ...) receive integers and float64 totals. Where ``decided`` (rows, num_samples) has
    room, VALUE and MAXIMUM write the winners there and VJP reads them.
    """
    d = theta.shape[1]
    quads = (d + 3) // 4
    padded = np.empty(4 * quads, theta.dtype)
    plan = padded, np.empty(quads, np.int64), np.empty((quads + TILE - 1) // TILE, theta.dtype)
    won = np.empty(CHUNK, np.int32)
    weights = np.empty(CHUNK, theta.dtype)
    strand = np.empty(sums.shape[1:], np.float64)
    known = operation == VJP and decided.size > 0
    centre = theta.dtype.type(0.0)
    for task in range(task_begin, task_end):
        b, part = divmod(task, parts)
        row, epsilon = row_ids[b], epsilons[b]
        if not known:
            prepare(theta[b], epsilon, family, largest_finite(theta[b]), plan)
        if operation == VJP:
            centre = theta.dtype.type(expected(direction[b], mean[b]))
        for first_chunk in range(part, STRANDS, parts):
            if first_chunk * CHUNK >= num_samples:
                break
            strand[...] = 0.0
            for m in range(first_chunk * CHUNK, num_samples, STRANDS * CHUNK):
                sample, n = first_sample + m, min(CHUNK, num_samples - m)
                if known:
                    won[:n] = decided[b, m : m + n]
                else:
                    for j in range(0, n, LANES):
                        lanes = consecutive(sample + j)
                        winner, _ = winners(plan, d, epsilon, family, lanes, row, key)
                        store(won, j, winner)
                if operation != VJP and decided.size > 0:
                    decided[b, m : m + n] = won[:n]
                if operation != VJP:
                    add_counts(won, n, counts[task])
                if operation == MAXIMUM:
                    perturbed_values(theta[b], epsilon, family, won, n, sample, row, key, weights)
                    for j in range(n):
                        x = np.float64(weights[j])
                        strand[0, 0] += x
                        strand[1, 0] += x * x
                elif operation == VJP:
                    weights[:] = 0.0
                    for j in range(n):
                        weights[j] = direction[b, won[j]] - centre
                    add_scores(family, d, weights, n, sample, row, key, squares, strand)
            sums[task] += strand
