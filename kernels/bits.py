"""The primitives every noise formula is written in, in plain NumPy.

A formula that must give the same bits in NumPy, in Numba and in CUDA may use only operations whose
rounding IEEE 754 fixes: ``+ - * /``, ``sqrt``, conversions, bit casts and the fused multiply-add.
NumPy has no fused multiply-add, so it is emulated here exactly; ``kernels/cpu/_jit.py`` maps the
same names to single machine instructions, and the CUDA twins use ``__fmaf_rn`` and ``__fma_rn``.
"""

from __future__ import annotations

import numpy as np

_SPLIT = np.float64(2**27 + 1)  # Veltkamp's constant: halves a 53-bit significand


def fma(a, b, c):
    """``a * b + c`` with one rounding, exact to the bit, for float32 and float64.

    Rounding to odd (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008)
    makes the second rounding harmless: the inexact sum is nudged to an odd significand, which can
    never sit on a rounding boundary of the final format.
    """
    a, b, c = np.broadcast_arrays(a, b, c)
    if a.dtype == np.float32:
        product = a.astype(np.float64) * b  # exact: 24 + 24 bits fit in 53
        return _add_rounding_to_odd(product, c.astype(np.float64)).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        high = a * b
        low = _product_error(a, b, high)
        t_high, t_low = _two_sum(c, low)
        v_high, v_low = _two_sum(high, t_high)
        exact = v_high + _add_rounding_to_odd(t_low, v_low)
        return np.where(np.isfinite(exact), exact, a * b + c)


def select(condition, if_true, if_false):
    """``if_true`` where the condition holds, else ``if_false``; both are evaluated."""
    return np.where(condition, if_true, if_false)


def columns(table, row):
    """The columns of ``table[row]``, a row for each entry of ``row``."""
    return tuple(np.moveaxis(table[row], -1, 0))


def sqrt(x):
    """The correctly rounded square root."""
    return np.sqrt(x)


def float32(x):
    """``x`` as float32, to nearest."""
    return np.asarray(x).astype(np.float32)


def float64(x):
    """``x`` as float64."""
    return np.asarray(x).astype(np.float64)


def int32(x):
    """``x`` as int32: integers modulo 2^32, floats toward zero."""
    return np.asarray(x).astype(np.int32)


def int64(x):
    """``x`` as int64: integers modulo 2^64, floats toward zero."""
    return np.asarray(x).astype(np.int64)


def uint32(x):
    """``x`` as uint32: integers modulo 2^32, floats toward zero."""
    return np.asarray(x).astype(np.uint32)


def uint64(x):
    """``x`` as uint64."""
    return np.asarray(x).astype(np.uint64)


def float_bits(x):
    """The bit pattern of a float32 as int32, of a float64 as int64."""
    x = np.asarray(x)
    return x.view(np.int32 if x.dtype == np.float32 else np.int64)


def bits_float(i):
    """The float32 (float64) whose bit pattern is the given int32 (int64)."""
    i = np.asarray(i)
    return i.view(np.float32 if i.dtype == np.int32 else np.float64)


def _two_sum(a, b):
    """Knuth: ``s + e == a + b`` exactly, with ``s`` the rounded sum."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _product_error(a, b, product):
    """Dekker: the exact rounding error of ``a * b``."""
    a_high = _SPLIT * a - (_SPLIT * a - a)
    b_high = _SPLIT * b - (_SPLIT * b - b)
    a_low, b_low = a - a_high, b - b_high
    return a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


def _add_rounding_to_odd(a, b):
    """``a + b`` in float64, where inexact rounded to the neighbour with the odd last bit."""
    with np.errstate(over="ignore", invalid="ignore"):
        s, e = _two_sum(a, b)
    s, e = np.atleast_1d(s), np.atleast_1d(e)
    bits = s.view(np.int64)
    inexact_even = (e != 0) & np.isfinite(s) & np.isfinite(e) & (bits & 1 == 0)
    away_from_zero = (e > 0) == (s > 0)
    step = np.where(away_from_zero, 1, -1)
    odd = np.where(inexact_even, bits + step, bits).view(np.float64)
    return odd.reshape(np.broadcast_shapes(np.shape(a), np.shape(b)))
