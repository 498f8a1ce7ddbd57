"""The noise families as quadrature needs them, to full relative accuracy in both tails.

With CDF ``G``, survival ``Q = 1 - G`` and density ``f`` of one noise variable:

    hazard     r = f / G, the reverse hazard, and ``-log G``
    density    f, with Q and G
    slope      r' and f'
    bend       r'' and f''

Every function takes lanes (or NumPy arrays) of float32 or float64 and a family code, whose branches
are the same for all lanes. Nothing here overflows or cancels: normal tails are Mills' ratio times
``exp(-u^2 / 2)``, whose exponent is corrected for the rounding of ``u^2``.
"""

from __future__ import annotations

from math import factorial

import numpy as np
from numba import types
from numba.extending import overload

from .. import noise64
from ..bits import fma, select
from ..cpu._jit import jitable, register_formulas
from ..cpu._piece import PIECE
from ..noise import GUMBEL, NORMAL
from . import nodes, tails32, tails64

_SQRT_2, _SQRT_HALF = float(np.sqrt(2)), float(np.sqrt(0.5))
_SQRT_HALF_OVER_PI = float(1 / np.sqrt(2 * np.pi))

register_formulas(tails32)
register_formulas(tails64)
jitable(nodes.ceil_log2)


def exp(x):
    """``exp(x)``, clamped where the format ends."""
    return (tails32 if x.dtype == np.float32 else tails64).exp(x)


def mills(a):
    """Numerator and denominator of Mills' ratio over ``sqrt(2 pi)``, a >= 0."""
    return (tails32 if a.dtype == np.float32 else tails64).mills(a)


def log1m(x, one_minus_x):
    """``log x``, given ``1 - x`` to full relative precision."""
    return (tails32 if x.dtype == np.float32 else noise64).log1m(x, one_minus_x)


@overload(exp, jit_options=PIECE)
def _(x):
    return (lambda x: tails32.exp(x)) if x.dtype == types.float32 else lambda x: tails64.exp(x)


@overload(mills, jit_options=PIECE)
def _(a):
    return (lambda a: tails32.mills(a)) if a.dtype == types.float32 else lambda a: tails64.mills(a)


@overload(log1m, jit_options=PIECE)
def _(x, one_minus_x):
    if x.dtype == types.float32:
        return lambda x, one_minus_x: tails32.log1m(x, one_minus_x)
    return lambda x, one_minus_x: noise64.log1m(x, one_minus_x)


@jitable
def normal_parts(u):
    """``(upper, q, p, r)``: the side, ``exp(-u^2 / 2)``, and ``Q(|u|) = q p / r``."""
    upper = u > 0.0
    a = select(upper, u, -u)
    square = a * a
    rounding = fma(a, a, -square)
    q = exp(square * -0.5)
    q = fma(q * -0.5, rounding, q)
    p, r = mills(a)
    return upper, q, p, r


@jitable
def hazard(family, u):
    """``-log G(u)`` and the reverse hazard ``r(u)``."""
    if family == NORMAL:
        upper, q, p, r = normal_parts(u)
        tail = q * p
        d = select(upper, r - tail, p)
        inverse = 1.0 / (r * d)
        ratio = d * inverse  # 1 / r
        logarithm = log1m(d * ratio, tail * ratio)
        minus_log = select(upper, 0.0, u * u * 0.5) - logarithm
        return minus_log, select(upper, q, 1.0) * (_SQRT_HALF_OVER_PI * r) * (r * inverse)
    if family == GUMBEL:
        r = exp(-u)
        return r, r
    # logistic
    upper = u > 0.0
    z = exp(select(upper, -u, u))
    minus_log = select(upper, 0.0, -u) + log1m(1.0 + z, -z)
    return minus_log, select(upper, z, 1.0) / (1.0 + z)


@jitable
def hazard_alone(family, u):
    """``r(u)``."""
    if family == NORMAL:
        upper, q, p, r = normal_parts(u)
        return select(upper, q, 1.0) * (_SQRT_HALF_OVER_PI * r) / select(upper, r - q * p, p)
    if family == GUMBEL:
        return exp(-u)
    upper = u > 0.0
    z = exp(select(upper, -u, u))
    return select(upper, z, 1.0) / (1.0 + z)


@jitable
def hazard_slope(family, u, r):
    """``r'(u)``, given r."""
    if family == NORMAL:
        return -r * (r + u)
    if family == GUMBEL:
        return -r
    return r * (r - 1.0)


@jitable
def hazard_bend(family, u, r):
    """``r''(u)``, given r."""
    if family == NORMAL:
        return r * fma(r + u, fma(r, 2.0, u), -1.0)
    if family == GUMBEL:
        return r
    return r * (1.0 - r) * fma(r, -2.0, 1.0)


@jitable
def density(family, u):
    """``f(u)``, ``Q(u)`` and ``G(u)``."""
    if family == NORMAL:
        upper, q, p, r = normal_parts(u)
        near = q * p / r
        far = 1.0 - near
        return q * _SQRT_HALF_OVER_PI, select(upper, near, far), select(upper, far, near)
    if family == GUMBEL:
        e = exp(-u)
        e = select(e > 500.0, 500.0, e)  # f and G have long vanished
        g = exp(-e)
        return e * g, one_minus_exp(e, g), g
    upper = u > 0.0
    z = exp(select(upper, -u, u))
    far = 1.0 / (1.0 + z)
    near = z * far
    return near * far, select(upper, near, far), select(upper, far, near)


@jitable
def one_minus_exp(e, g):
    """``1 - exp(-e)`` for e >= 0, given ``g = exp(-e)``: a series where e is small."""
    series = e * (1.0 - e * (0.5 - e * (1 / 6 - e * (1 / 24 - e * (1 / 120 - e / 720)))))
    return select(e < 0.01, series, 1.0 - g)


@jitable
def score(family, u, g):
    """``s = -f' / f`` and ``s'``, given G."""
    if family == NORMAL:
        return u, 1.0 + 0.0 * u
    if family == GUMBEL:
        e = exp(-u)
        return 1.0 - e, e
    s = fma(g, 2.0, -1.0)
    return s, 0.5 - 0.5 * s * s


# ------------------------------------------------------------------ the difference of two variables

_FAR = 300.0  # differences beyond it decide for sure
_BERNOULLI = (
    1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798,
    -174611 / 330, 854513 / 138, -236364091 / 2730,
)  # fmt: skip
_SERIES = tuple(b / factorial(2 * i + 2) for i, b in enumerate(_BERNOULLI))[::-1]
"""Of ``x / (1 - exp(-x)) - 1 - x / 2`` in even powers, the highest first."""


@jitable
def even_series(x):
    """``c``, ``c' / x``, ``c''`` and ``c''' / x`` of the series ``c`` at ``|x| <= 1``."""
    square = x * x
    value = slope = second = third = 0.0 * x
    for i in range(len(_SERIES)):
        n = 2.0 * (len(_SERIES) - i)
        value = fma(value, square, _SERIES[i])
        slope = fma(slope, square, n * _SERIES[i])
        second = fma(second, square, n * (n - 1.0) * _SERIES[i])
        if n > 2.0:
            third = fma(third, square, n * (n - 1.0) * (n - 2.0) * _SERIES[i])
    return value * square, slope, second, third


@jitable
def difference(family, x):
    """``H(x) = P(Z_2 - Z_1 <= x)`` of two variables, ``H'``, ``H''``, and ``K - x H``.

    ``K = int H``, so that ``E max(x + Z_1, Z_2) = E Z + K(x)``. The difference is normal of
    variance 2, logistic for Gumbel noise, and has ``K = x / (1 - exp(-x))`` for logistic noise.
    """
    x = select(x > _FAR, _FAR, x)
    x = select(x < -_FAR, -_FAR, x)
    if family == NORMAL:
        u = x * _SQRT_HALF
        f, _, g = density(NORMAL, u)
        return g, f * _SQRT_HALF, u * f * -0.5, f * _SQRT_2
    upper = x > 0.0
    a = select(upper, x, -x)
    z = exp(-a)
    if family == GUMBEL:
        far = 1.0 / (1.0 + z)
        near = z * far
        slope = near * far
        bend = slope * fma(far, -2.0, 1.0)
        rest = fma(a, near, log1m(1.0 + z, -z))
        return select(upper, far, near), slope, select(upper, bend, -bend), rest
    close = a < 1.0
    m = 1.0 - z
    i = 1.0 / select(close, 1.0, m)
    ratio = z * i * i
    near = ratio * (a - m)
    slope = ratio * i * fma(a, 1.0 + z, -2.0 * m)
    bend = 3.0 * m * fma(z, 2.0, m) - a * fma(m, fma(z, 2.0, 1.0), 3.0 * z * (1.0 + z))
    bend = ratio * i * i * bend
    rest = a * (i - 1.0 + near)
    c, c1, c2, c3 = even_series(select(close, a, 0.0))
    near = select(close, 0.5 - c1 * a, near)
    slope = select(close, c2, slope)
    bend = select(close, c3 * a, bend)
    rest = select(close, 1.0 + c - c1 * a * a, rest)
    return select(upper, 1.0 - near, near), slope, select(upper, bend, -bend), rest
