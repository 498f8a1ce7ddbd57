"""A bitonic sorting network: each lane of an array of words is sorted by itself.

    words[0, lane] <= words[1, lane] <= ... <= words[n - 1, lane]

The comparisons are the same whatever the words are, so lanes go side by side, a vector of ``PART``
at a time. A pass over memory takes three steps of the network where it can. ``n`` need not be a
power of two: the array has the rows of the next one, and those beyond ``n`` hold a sentinel, which
stays where it is.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from ..bits import bits_float, float_bits, select
from ._jit import jitable, kernel
from ._piece import PIECE
from .simd import (
    MANY_REGISTERS,
    PART,
    broadcast_part,
    lane_array,
    larger,
    load_part,
    smaller,
    store,
)

LAST_NARROW = np.array([2**31 - 1], np.int32)
LAST_WIDE = np.array([0x4000000000000000], np.int64)
"""Sentinels: no word of 32, of 64 bits is larger. The latter are bits of reals in [1, 2]."""


def ordered(a, b):
    """The smaller and the larger of two words, lane by lane."""
    raise NotImplementedError("compiled code only")


@overload(ordered, jit_options=PIECE)
def _(a, b):
    def by_order(a, b):
        less = a < b
        return select(less, a, b), select(less, b, a)

    def as_reals(a, b):
        a, b = bits_float(a), bits_float(b)
        return float_bits(smaller(a, b)), float_bits(larger(a, b))

    # AVX2 has a minimum and a maximum of reals of 64 bits, not of integers.
    return as_reals if a.dtype == types.int64 and not MANY_REGISTERS else by_order


@jitable
def new_words(n, last):
    """Room for ``n`` words a lane and those beyond, of the type of the sentinel ``last``."""
    rows = 1
    while rows < n:
        rows *= 2
    return lane_array(rows, PART, last)


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
def three_steps(words, n, distance):
    """Half-cleaner steps at ``distance``, half and a quarter of it."""
    quarter = distance // 4
    step = quarter * PART
    for base in range(0, n, 2 * distance):
        for i in range(base, min(base + quarter, n)):
            at = i * PART
            a, b = load_part(words, at), load_part(words, at + step)
            c, d = load_part(words, at + 2 * step), load_part(words, at + 3 * step)
            e, f = load_part(words, at + 4 * step), load_part(words, at + 5 * step)
            g, h = load_part(words, at + 6 * step), load_part(words, at + 7 * step)
            a, e = ordered(a, e)
            b, f = ordered(b, f)
            c, g = ordered(c, g)
            d, h = ordered(d, h)
            a, c = ordered(a, c)
            b, d = ordered(b, d)
            e, g = ordered(e, g)
            f, h = ordered(f, h)
            a, b = ordered(a, b)
            c, d = ordered(c, d)
            e, f = ordered(e, f)
            g, h = ordered(g, h)
            store(words, at, a)
            store(words, at + step, b)
            store(words, at + 2 * step, c)
            store(words, at + 3 * step, d)
            store(words, at + 4 * step, e)
            store(words, at + 5 * step, f)
            store(words, at + 6 * step, g)
            store(words, at + 7 * step, h)


@jitable
def two_steps(words, n):
    """Half-cleaner steps at distances 2 and 1."""
    for at in range(0, n * PART, 4 * PART):
        a, b = load_part(words, at), load_part(words, at + PART)
        c, d = load_part(words, at + 2 * PART), load_part(words, at + 3 * PART)
        a, c = ordered(a, c)
        b, d = ordered(b, d)
        a, b = ordered(a, b)
        c, d = ordered(c, d)
        store(words, at, a)
        store(words, at + PART, b)
        store(words, at + 2 * PART, c)
        store(words, at + 3 * PART, d)


@jitable
def one_step(words, n):
    """The half-cleaner step at distance 1."""
    for at in range(0, n * PART, 2 * PART):
        a, b = ordered(load_part(words, at), load_part(words, at + PART))
        store(words, at, a)
        store(words, at + PART, b)


@kernel
def sort_words(words, n, last):
    """Sort the first ``n`` words of every lane of an array that ``new_words`` has made."""
    for k in range(n, words.shape[0]):
        store(words, k * PART, broadcast_part(last[0]))
    size = 2
    while size < 2 * n:
        flip_pass(words, n, size)
        distance = size // 8
        while distance >= 4:
            three_steps(words, n, distance)
            distance //= 8
        if distance == 2:
            two_steps(words, n)
        elif distance == 1:
            one_step(words, n)
        size *= 2
