"""Bounds on ``P(z > t)``: which words cannot make a coordinate win.

The quantile is monotone in the word, so "noise beyond t" is "a word beyond some other". For codes
the bound is a formula; for tables (``noise_table.py``) a search in the table itself.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from .. import noise_table
from ..bits import bits_float, columns, float32, float64, int64, select, sqrt
from ..noise import NORMAL
from ..noise32 import exp
from ._jit import jitable
from ._piece import PIECE
from .simd import broadcast

_F32, _I32 = np.float32, np.int32
_SLACK = _F32(2.0**-20)  # above every rounding on the way


def exceedance(family, t):
    """``p >= P(z > t)``, and where it is of use: two vectors, of float32 and a mask."""
    raise NotImplementedError("compiled code only")


@jitable
def of_code(family, t):
    """By formulas, for ``t > 0``."""
    useful = t > _F32(0.0)
    t = select(useful, t, _F32(0.0))
    if family == NORMAL:
        # Pollak (1956): 1 - Phi(t) <= 2 phi(t) / (t + sqrt(t^2 + 8 / pi)).
        squared = t * t
        p = _F32(0.7978846) / (exp(_F32(0.5) * squared) * (t + sqrt(squared + _F32(2.5464))))
    else:
        p = _F32(1.0) / exp(t)  # 1 / (1 + e^t) < e^-t
    return p, useful


@overload(exceedance, jit_options=PIECE)
def _(family, t):
    if not isinstance(family, types.Array):
        return lambda family, t: of_code(family, t)
    return of_table32 if family.dtype == types.float32 else of_table64


def of_table32(family, t):
    """By the first row of the upper half that begins below t, and one more for rounding's sake."""
    row = first_row_below(family, t - below(t), noise_table.ROWS32) + _I32(1)
    p = bits_float((row + noise_table.FIRST32) << noise_table.SHIFT32)
    return p, (p < _F32(0.5)) & (t == t)


def of_table64(family, t):
    """Likewise."""
    row = first_row_below(family, float64(t - below(t)), noise_table.ROWS64) + _I32(1)
    p = float32(bits_float((int64(row) + noise_table.FIRST64) << noise_table.SHIFT64))
    return p, (p < _F32(0.5)) & (t == t)


@jitable
def below(t):
    """What is subtracted from t so that rounding cannot matter."""
    return select(t < _F32(0.0), -t, t) * _SLACK


@jitable
def first_row_below(table, t, rows):
    """In the upper half of the quantile's table, whose first entries fall; ``rows`` if none is."""
    low, high = broadcast(_I32(0)), broadcast(_I32(rows - 1))
    for _ in range(11):  # rows < 2^11
        middle = (low + high) >> _I32(1)
        above = columns(table, middle + _I32(rows))[0] > t
        low, high = select(above, middle + _I32(1), low), select(above, high, middle)
    return low
