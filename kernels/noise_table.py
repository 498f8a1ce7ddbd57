"""A noise family that is data: its quantile and its score, tabulated.

    z = quantile(u)        s = score(z)        u = (x + 1/2) 2^-32, as everywhere (``noise.py``)

On each side of the median both are smooth functions of the nearer tail ``t = min(u, 1 - u)``, and
in a sixteenth of a binary octave of t they are polynomials, to rounding. The exponent of ``t`` and
the first four bits of its significand say which one, the other bits where in it:

    row, place = bits(t)                     place in [0, 1)
    z = c0 + place (c1 + place (c2 + ...))   c = table[row]

No logarithm, no code of a family's own: kernels are compiled once for all tabulated families, and
a table works wherever a kernel does. The polynomials are chains of fused multiply-adds, so NumPy,
Numba and CUDA return the same bits.

A table is (4 sides, coefficients): the rows of z in the lower and in the upper half of u, then
those of s. In float32 a side has 32 octaves and cubics, in float64 64 octaves and degree 7, and one
row more for ``t = 1/2``, to which the largest words round.
"""

from __future__ import annotations

import numpy as np

from . import noise32, noise64
from .bits import columns, float32, float64, float_bits, fma, int32, select

BITS = 4
"""Of the significand, that name a row: sixteen rows an octave."""
ROWS32, ROWS64 = (32 << BITS) + 1, (64 << BITS) + 1
"""Of one side of the table."""
DEGREE32, DEGREE64 = 3, 7

I32, I64 = np.int32, np.int64
SHIFT32, SHIFT64 = I32(23 - BITS), I64(52 - BITS)
FIRST32, FIRST64 = I32((127 - 33) << BITS), I64((1023 - 65) << BITS)
_PLACE32, _PLACE64 = I32((1 << 23 - BITS) - 1), I64((1 << 52 - BITS) - 1)
_UNIT32, _UNIT64 = np.float32(2.0 ** (BITS - 23)), np.float64(2.0 ** (BITS - 52))


def interval32(x):
    """Row and place of a word."""
    t, upper = noise32.tail(x)
    i = float_bits(t)
    row = (i >> SHIFT32) - FIRST32
    return select(upper, row + I32(ROWS32), row), float32(i & _PLACE32) * _UNIT32


def interval64(high, low):
    """Row and place of two words."""
    t, upper = noise64.tail(high, low)
    i = float_bits(t)
    row = int32((i >> SHIFT64) - FIRST64)
    return select(upper, row + I32(ROWS64), row), float64(i & _PLACE64) * _UNIT64


def polynomial32(table, row, place):
    """The cubic of that row."""
    c = columns(table, row)
    p = fma(c[3], place, c[2])
    p = fma(p, place, c[1])
    return fma(p, place, c[0])


def polynomial64(table, row, place):
    """The polynomial of degree 7 of that row."""
    return noise64.degree7(columns(table, row), place)


def quantile32(x, table):
    """``z`` of a word."""
    row, place = interval32(x)
    return polynomial32(table, row, place)


def score32(x, table):
    """``s(z)`` of a word."""
    row, place = interval32(x)
    return polynomial32(table, row + I32(2 * ROWS32), place)


def quantile64(high, low, table):
    """``z`` of two words."""
    row, place = interval64(high, low)
    return polynomial64(table, row, place)


def score64(high, low, table):
    """``s(z)`` of two words."""
    row, place = interval64(high, low)
    return polynomial64(table, row + I32(2 * ROWS64), place)
