"""Ranks, ascending 1 .. d: of equal scores the lowest index gets the largest rank.

    rank_i = 1 + #{j < i : p_i > p_j} + #{j > i : p_i >= p_j}

**Counting**, the formula above, has no branch and moves no data: d^2 comparisons, a lane a sample.
**Sorting**, of more coordinates: a sorting network on words that pack a score's key and its
index, descending, lanes side by side; then a scatter of positions. All give the same ranks.

*Narrow* words have 32 bits. Their key is where a score lies between the lane's extremes, in up to
2^24 steps; scores of one step are neighbours afterwards, and settled by comparison. Where too many
share a step (one score is far from all others, say), and above 2^12 coordinates, *wide* words of 64
bits have the first 32 bits of a score for their key: all of a float32's. Where that leaves too much
to settle in float64, and above 2^20 coordinates, lanes are sorted one by one.

Measured on one Zen 3 core (no AVX-512), nanoseconds a coordinate without its noise:

    d                          10    32    64   100   200  1000  4000
    float32, counted          0.4   1.0   2.2   3.4   6.8    46
    float32, narrow words     1.7   1.5   1.5   1.6   1.9   2.6   4.0
    float32, wide words       2.1   2.1   2.5   3.3   4.0   6.1   9.3
    float64, counted          1.2   2.9   5.8   9.2    17    90
    float64, narrow words     2.0   1.7   1.7   1.9   2.1   3.0   4.3
    float64, lane by lane      11    11    12    20    43    68    87
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from ..bits import float_bits, fma, int32, int64, select, uint32
from ._jit import jitable, kernel
from ._piece import PIECE
from .fused import run_tasks
from .network import LAST_NARROW, LAST_WIDE, new_words, sort_words
from .simd import (
    LANES,
    MANY_REGISTERS,
    PART,
    any_lane,
    broadcast,
    broadcast_part,
    load,
    load_part,
    part_indices,
    store,
)

COUNTING_32, COUNTING_64 = 40, 16
"""Coordinates up to which ranks are counted, in float32 and float64."""
NS_PER_COORDINATE = 2.5
RECALL_READS_SCORES = False
_NARROW_INDICES, _WIDE_INDICES = 2**12, 2**20
"""Coordinates of which the index fits a narrow and a wide word."""
_KEY_BITS = 24
_ONE = np.int64(0x3FF0000000000000)  # bits of 1.0


def is_counted(like, d):
    """Whether ranks are counted, not sorted."""
    raise NotImplementedError("compiled code only")


@overload(is_counted, jit_options=PIECE)
def _(like, d):
    most = COUNTING_32 if like.dtype == types.float32 else COUNTING_64
    return lambda like, d: d <= most


def memo_words(problem, d, dtype):
    """A ranking has no short form."""
    return 0


@jitable
def workspace(theta, options, lanes):
    """Narrow and wide words, for sorting."""
    d = theta.shape[1]
    n = 0 if is_counted(theta, d) else d
    narrow = new_words(n if d <= _NARROW_INDICES else 0, LAST_NARROW)
    return narrow, new_words(n if d <= _WIDE_INDICES else 0, LAST_WIDE)


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


def counts_by_four(p):
    """Whether four coordinates are counted at a time; where registers hold no four and their ranks,
    float32 takes one."""
    raise NotImplementedError("compiled code only")


@overload(counts_by_four, jit_options=PIECE)
def _(p):
    by_four = MANY_REGISTERS or p.dtype == types.float64
    return lambda p: by_four


@kernel
def count_ranks(p, d, count, y):
    """Ranks by comparing all pairs, some coordinates at a time against each other one."""
    stride = p.shape[1]
    by_four = counts_by_four(p)
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
def extremes(p, d, at):
    """The least and the largest finite score of every lane of a part; 0 where there is none."""
    real, stride = p.dtype.type, p.shape[1]
    low, high = broadcast_part(real(np.inf)), broadcast_part(real(-np.inf))
    for i in range(d):
        x = load_part(p, i * stride + at)
        low = select((x < low) & (x > real(-np.inf)), x, low)
        high = select((x > high) & (x < real(np.inf)), x, high)
    some = low <= high
    return select(some, low, real(0.0)), select(some, high, real(0.0))


@jitable
def pack_narrow(p, d, at, low, high, shift, top, words):
    """Words that sort like (-x, i): steps below the largest, 1 .. top - 1, above an index.

    Rounding is monotone, so a larger score is never further down. Infinite ones are 0 and ``top``.
    """
    real, stride = p.dtype.type, p.shape[1]
    largest = real(np.finfo(np.float32).max)
    # The margin is for rounding; the limit, of either type, since infinity times 0 is no number.
    scale = real(top - 2) * real(1 - 2**-20) / (high - low)
    scale = select(scale < largest, scale, largest)
    for i in range(d):
        x = fma(high - load_part(p, i * stride + at), scale, real(1.0))
        x = select(x > real(0.0), x, real(0.0))
        x = select(x < real(top), x, real(top))
        store(words, i * PART, (int32(x) << shift) | np.int32(i))


@jitable
def settle(p, d, at, step, begin, end, most, words):
    """Order scores of equal keys; False, and unfinished, once exchanges and places where some lane
    has equal keys are more than ``most``.

    By insertion: what ``sort_words`` has left is ordered by index. Words outside
    ``begin .. end - 1`` are of infinite scores, which are equal if their keys are.
    """
    index, left, before = step - 1, most, load_part(words, 0)
    for k in range(1, d):
        word = load_part(words, k * PART)
        if any_lane(((word ^ before) < step) & (word >= begin) & (word < end)):
            for lane in range(PART):
                j = k
                while j > 0:
                    a, b = words[j - 1, lane], words[j, lane]
                    if (a ^ b) >= step or p[b & index, at + lane] <= p[a & index, at + lane]:
                        break
                    words[j - 1, lane], words[j, lane] = b, a
                    j -= 1
                left -= k - j
            left -= 1
            if left < 0:
                return False
        before = word
    return True


@jitable
def scatter(d, at, index, words, y):
    """The rank of the k-th largest is d - k."""
    flat, entries = y.reshape(y.size), words.reshape(words.size)
    number = words.dtype.type
    stride, lanes = number(y.shape[1]), part_indices(words) + number(at)
    for k in range(d):
        store(words, k * PART, (load_part(words, k * PART) & index) * stride + lanes)
    for k in range(d):
        for lane in range(PART):
            flat[entries[k * PART + lane]] = d - k


@kernel
def sort_narrow(p, d, at, words, y):
    """Ranks of a part by narrow words; False, and no ranks, where those do not serve."""
    if d > _NARROW_INDICES:
        return False
    low, high = extremes(p, d, at)
    if any_lane(high - low == p.dtype.type(np.inf)):
        return False
    shift = 1
    while 1 << shift < d:
        shift += 1
    step, top = np.int32(1 << shift), np.int32((1 << min(31 - shift, _KEY_BITS)) - 1)
    pack_narrow(p, d, at, low, high, np.int32(shift), top, words)
    sort_words(words, d, LAST_NARROW)
    most = d * PART // LANES  # of all lanes
    if not settle(p, d, at, step, step, top * step, most, words):
        return False
    scatter(d, at, step - 1, words, y)
    return True


def first_bits(x):
    """The first 32 bits of real lanes."""
    raise NotImplementedError("compiled code only")


@overload(first_bits, jit_options=PIECE)
def _(x):
    if x.dtype == types.float32:
        return lambda x: float_bits(x)
    return lambda x: int32(float_bits(x) >> np.int64(32))


@jitable
def packed_wide(x, i):
    """A word that sorts like (-x, i): x's first bits, made monotone, above 20 bits of index; those
    of a real in [1, 2), which sorts alike."""
    bits = first_bits(x + np.float32(0.0))  # one zero only
    key = uint32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))) ^ np.uint32(0x7FFFFFFF)
    return (int64(key) << np.int64(20)) | (_ONE | np.int64(i))


@kernel
def sort_wide(p, d, at, words, y):
    """Ranks of a part by wide words; False, and no ranks, where those do not serve."""
    if d > _WIDE_INDICES:
        return False
    stride, step = p.shape[1], np.int64(_WIDE_INDICES)
    for i in range(d):
        store(words, i * PART, packed_wide(load_part(p, i * stride + at), i))
    sort_words(words, d, LAST_WIDE)
    # Equal keys are equal scores in float32.
    if p.itemsize == 8 and not settle(p, d, at, step, _ONE, LAST_WIDE[0], d, words):
        return False
    scatter(d, at, step - 1, words, y)
    return True


@kernel
def sort_lanes(p, d, begin, end, y):
    """Lane by lane; reversed, as of equal scores the last comes first."""
    reverse = np.empty(d, p.dtype)
    for lane in range(begin, end):
        for i in range(d):
            reverse[i] = p[d - 1 - i, lane]
        order = np.argsort(reverse, kind="mergesort")
        for position in range(d):
            y[d - 1 - order[position], lane] = position + 1


@jitable
def sort_ranks(p, d, count, work, y):
    """Ranks by sorting, a part at a time."""
    narrow, wide = work
    serves = True  # of one part as of the next
    for at in range(0, count, PART):
        serves = serves and sort_narrow(p, d, at, narrow, y)
        if not (serves or sort_wide(p, d, at, wide, y)):
            sort_lanes(p, d, at, min(at + PART, count), y)


@kernel
def run(few, begin, end, split, operation, call, memo, solutions, scores, counts, sums):
    """Tasks ``begin .. end - 1``; see ``fused.py``."""
    run_tasks(
        workspace, prepare, solve, note, recall, RECALL_READS_SCORES, few, begin, end, split,
        operation, call, memo, solutions, scores, counts, sums,
    )  # fmt: skip
