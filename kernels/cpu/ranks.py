"""Ranks, ascending 1 .. d: of equal scores the lowest index gets the largest rank.

    rank_i = 1 + #{j < i : p_i > p_j} + #{j > i : p_i >= p_j}

**Counting**, the formula above, has no branch and moves no data: d^2 comparisons, a lane a sample.
**Sorting**, above ``COUNTING_32`` coordinates: a bitonic network of packed words (score, ~index),
whose order is that of the formula, lanes side by side; then a scatter of positions. Two steps of
the network share one pass over memory. float64 words do not pack: above ``COUNTING_64``, and where
float32 has more than 2^20, lanes are sorted one by one. All give the same ranks.

Measured on one Zen 5 core, float32, nanoseconds a coordinate (without its noise) at d = 10, 32,
100, 200, 1000, 4000: counting 1.1, 0.7, 1.4, 2.7, 13, 54; sorting 2.3, 1.4, 1.2, 1.8, 2.5, 3.6.
On a Zen 3, without AVX-512, counting at d = 80, 100, 200: 2.1, 2.7, 6.6; sorting at these and at
1000, 4000: 2.3, 2.2, 2.6, 4.2, 6.7.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from ..bits import bits_float, float_bits, int64, select, uint32
from ._jit import jitable, kernel
from .fused import run_tasks
from .simd import (
    LANES,
    MANY_REGISTERS,
    PART,
    broadcast,
    lane_array,
    larger,
    load,
    load_part,
    smaller,
    store,
)

COUNTING_32, COUNTING_64 = 80, 2048
"""Coordinates up to which ranks are counted, in float32 and float64."""
NS_PER_COORDINATE = 2.5
RECALL_READS_SCORES = False
_PACKED = 2**20
"""Coordinates of which the index fits a packed word."""
_ONE = np.int64(0x3FF0000000000000)  # bits of 1.0
_LAST = np.int64(0x4000000000000000)  # of 2.0


def is_counted(like, d):
    """Whether ranks are counted, not sorted."""
    raise NotImplementedError("compiled code only")


@overload(is_counted, jit_options={"forceinline": True})
def _(like, d):
    if like.dtype == types.float32:
        return lambda like, d: d <= COUNTING_32
    return lambda like, d: d <= COUNTING_64


def memo_words(problem, d, dtype):
    """A ranking has no short form."""
    return 0


@jitable
def workspace(theta, options, lanes):
    """Packed words, for sorting."""
    d, rows = theta.shape[1], 1
    like = np.empty(0, np.int64)
    if is_counted(theta, d) or d > _PACKED:
        return lane_array(0, PART, like)
    while rows < d:
        rows *= 2
    return lane_array(rows, PART, like)


@jitable
def prepare(theta, scale, d, kind):
    """Nothing depends on the row."""


@jitable
def note(y, d, count, work, memo, group):
    """Solutions are not kept."""


@jitable
def recall(p, d, count, memo, group, work, y):
    """Solutions are not kept."""


@jitable
def solve(p, d, count, places, which, options, work, y):
    """Ranks of every lane."""
    if is_counted(p, d):
        count_ranks(p, d, count, y)
    else:
        sort_ranks(p, d, count, work, y)


# ------------------------------------------------------------------------------------- counting


@jitable
def one_more(condition, r):
    """``r + 1`` where the condition holds."""
    return select(condition, r + np.int32(1), r)


@kernel
def count_ranks(p, d, count, y):
    """Ranks by comparing all pairs, four coordinates at a time against each other one.

    Where registers hold no four and their ranks, float32 takes one at a time.
    """
    stride = p.shape[1]
    by_four = MANY_REGISTERS or p.itemsize == 8
    for at in range(0, count, LANES):
        i = 0
        while by_four and i + 4 <= d:
            x0, x1 = load(p, i * stride + at), load(p, (i + 1) * stride + at)
            x2, x3 = load(p, (i + 2) * stride + at), load(p, (i + 3) * stride + at)
            r0 = r1 = r2 = r3 = broadcast(np.int32(1))
            for j in range(i):
                x = load(p, j * stride + at)
                r0, r1 = one_more(x0 > x, r0), one_more(x1 > x, r1)
                r2, r3 = one_more(x2 > x, r2), one_more(x3 > x, r3)
            r0 = one_more(x0 >= x3, one_more(x0 >= x2, one_more(x0 >= x1, r0)))
            r1 = one_more(x1 >= x3, one_more(x1 >= x2, one_more(x1 > x0, r1)))
            r2 = one_more(x2 >= x3, one_more(x2 > x1, one_more(x2 > x0, r2)))
            r3 = one_more(x3 > x2, one_more(x3 > x1, one_more(x3 > x0, r3)))
            for j in range(i + 4, d):
                x = load(p, j * stride + at)
                r0, r1 = one_more(x0 >= x, r0), one_more(x1 >= x, r1)
                r2, r3 = one_more(x2 >= x, r2), one_more(x3 >= x, r3)
            store(y, i * stride + at, r0)
            store(y, (i + 1) * stride + at, r1)
            store(y, (i + 2) * stride + at, r2)
            store(y, (i + 3) * stride + at, r3)
            i += 4
        for k in range(i, d):
            x0 = load(p, k * stride + at)
            r0 = broadcast(np.int32(1))
            for j in range(k):
                r0 = one_more(x0 > load(p, j * stride + at), r0)
            for j in range(k + 1, d):
                r0 = one_more(x0 >= load(p, j * stride + at), r0)
            store(y, k * stride + at, r0)


# -------------------------------------------------------------------------------------- sorting


@jitable
def packed(x, i):
    """A word that sorts like (x, -i): x's bits made monotone above 20 bits of ~i; those of a real
    in [1, 2), which sorts alike."""
    bits = float_bits(x + np.float32(0.0))  # one zero only
    sign = bits >> np.int32(31)
    key = uint32(bits ^ (sign & np.int32(0x7FFFFFFF))) ^ np.uint32(0x80000000)
    return (int64(key) << np.int64(20)) | (_ONE | np.int64(_PACKED - 1 - i))


@jitable
def ordered(a, b):
    """The smaller and the larger of two words, lane by lane."""
    if MANY_REGISTERS:
        less = a < b
        return select(less, a, b), select(less, b, a)
    # AVX2 has a minimum and a maximum of reals, not of words.
    a, b = bits_float(a), bits_float(b)
    return float_bits(smaller(a, b)), float_bits(larger(a, b))


@jitable
def flip_pass(words, n, size):
    """First two steps of merging blocks of ``size``: mirror images, then halves of each half."""
    quarter = size // 4
    for base in range(0, n, size):
        for i in range(max(quarter, 1)):
            w, x = base + i, base + size - 1 - i
            if quarter == 0:
                if x < n:
                    a, b = ordered(load_part(words, w * PART), load_part(words, x * PART))
                    store(words, w * PART, a)
                    store(words, x * PART, b)
                continue
            w2, x2 = w + quarter, x - quarter
            if w2 >= n:
                break
            a, d = ordered(load_part(words, w * PART), load_part(words, x * PART))
            b, c = ordered(load_part(words, w2 * PART), load_part(words, x2 * PART))
            a, b = ordered(a, b)
            c, d = ordered(c, d)
            store(words, w * PART, a)
            store(words, w2 * PART, b)
            store(words, x2 * PART, c)
            store(words, x * PART, d)


@jitable
def clean_pass(words, first, n, distance):
    """Two half-cleaner steps, at ``distance`` and half of it, from ``first`` on."""
    half = distance // 2
    for base in range(first, n, 2 * distance):
        for i in range(base, min(base + half, n)):
            if i + half >= n:
                break
            j = i + distance
            a, b = load_part(words, i * PART), load_part(words, (i + half) * PART)
            c, d = load_part(words, j * PART), load_part(words, (j + half) * PART)
            a, c = ordered(a, c)
            b, d = ordered(b, d)
            a, b = ordered(a, b)
            c, d = ordered(c, d)
            store(words, i * PART, a)
            store(words, (i + half) * PART, b)
            store(words, j * PART, c)
            store(words, (j + half) * PART, d)


@jitable
def last_pass(words, first, n):
    """One half-cleaner step at distance 1."""
    for i in range(first, n - 1, 2):
        a, b = ordered(load_part(words, i * PART), load_part(words, (i + 1) * PART))
        store(words, i * PART, a)
        store(words, (i + 1) * PART, b)


@kernel
def sort_words(words, n):
    """Sort the first ``n`` words of every lane of a part; the rest are larger and stay."""
    size = 2
    while size < 2 * n:
        flip_pass(words, n, size)
        distance = size // 8
        while distance >= 2:
            clean_pass(words, 0, n, distance)
            distance //= 4
        if distance == 1:
            last_pass(words, 0, n)
        size *= 2


def sort_ranks(p, d, count, work, y):
    """Ranks by sorting."""
    raise NotImplementedError("compiled code only")


@kernel
def sort_packed(p, d, count, work, y):
    """float32: the lanes of a part by one network."""
    stride = p.shape[1]
    for at in range(0, count, PART):
        for i in range(d):
            store(work, i * PART, packed(load_part(p, i * stride + at), i))
        work[d:] = _LAST
        sort_words(work, d)
        for position in range(d):
            for lane in range(PART):
                i = _PACKED - 1 - (work[position, lane] & (_PACKED - 1))
                y[i, at + lane] = position + 1


@kernel
def sort_lanes(p, d, count, work, y):
    """Lane by lane: float64, or very many; reversed, as of equal scores the last comes first."""
    reverse = np.empty(d, p.dtype)
    for lane in range(count):
        for i in range(d):
            reverse[i] = p[d - 1 - i, lane]
        order = np.argsort(reverse, kind="mergesort")
        for position in range(d):
            y[d - 1 - order[position], lane] = position + 1


@overload(sort_ranks, jit_options={"forceinline": True})
def _(p, d, count, work, y):
    def sort_single(p, d, count, work, y):
        if d <= _PACKED:
            sort_packed(p, d, count, work, y)
        else:
            sort_lanes(p, d, count, work, y)

    def sort_double(p, d, count, work, y):
        sort_lanes(p, d, count, work, y)

    return sort_single if p.dtype == types.float32 else sort_double


@kernel
def run(few, begin, end, split, operation, call, memo, solutions, scores, counts, sums):
    """Tasks ``begin .. end - 1``; see ``fused.py``."""
    run_tasks(
        workspace, prepare, solve, note, recall, RECALL_READS_SCORES, few, begin, end, split,
        operation, call, memo, solutions, scores, counts, sums,
    )  # fmt: skip
