"""The noise formulas in float32: from one word ``x`` to the noise, its score, or the race's ``E``.

Polynomial coefficients are near-minimax fits of this project, by iteratively reweighted least
squares on Chebyshev nodes. See ``noise.py`` for the families and ``bits.py`` for the operations.
"""

from __future__ import annotations

import numpy as np

from .bits import bits_float, float32, float_bits, fma, int32, select

F32, I32 = np.float32, np.int32

_LN2 = F32(0.6931471805599453)
_ONE, _TWO, _FOUR = F32(1.0), F32(2.0), F32(4.0)
_FIRST_BIT = I32(-(2**31))
_MAGIC = I32(0x3F3504F3)  # bits of sqrt(1/2): where the significand's range is cut

# log(1 + f) / f - 1 over f on [sqrt(1/2) - 1, sqrt(2) - 1]; relative error of the log 1.8e-7.
LOG1P = tuple(map(F32, (
    -0.5000032186508179, 0.3333471417427063, -0.2497122883796692, 0.1990688294172287,
    -0.17243224382400513, 0.16180501878261566, -0.10082381218671799,
)))  # fmt: skip


def log1p_core(f):
    """log(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1], with full relative precision at 0."""
    p = fma(LOG1P[6], f, LOG1P[5])
    p = fma(p, f, LOG1P[4])
    p = fma(p, f, LOG1P[3])
    p = fma(p, f, LOG1P[2])
    p = fma(p, f, LOG1P[1])
    p = fma(p, f, LOG1P[0])
    return fma(p, f, _ONE) * f


def log1m(x, one_minus_x):
    """log of ``x`` in (0, 1], given ``1 - x`` to full relative precision (it rules near 1)."""
    i = float_bits(x) - _MAGIC
    e = i >> I32(23)
    m = bits_float(int32(float_bits(x) - (e << I32(23))))
    f = select(e == I32(0), -one_minus_x, m - _ONE)
    return fma(float32(e), _LN2, log1p_core(f))


def log(x):
    """log of a positive, normal float32; relative error below 3e-7, exact sign at 1."""
    i = float_bits(x) - _MAGIC
    e = i >> I32(23)
    m = bits_float(int32(float_bits(x) - (e << I32(23))))
    return fma(float32(e), _LN2, log1p_core(m - _ONE))


_LOG2E = F32(1.4426950408889634)
_LN2_HIGH = F32(0.693359375)  # 9 bits, so n * high is exact
_LN2_LOW = F32(-2.12194440054690583e-4)
_EXP_LIMIT = F32(88.0)


def exp(x):
    """exp(x) for x >= 0; +inf above 88 (the weights of the exponential race need no more)."""
    x = select(x > _EXP_LIMIT, _EXP_LIMIT + _ONE, x)
    n = int32(x * _LOG2E + F32(0.5))
    k = float32(n)
    r = fma(k, -_LN2_LOW, fma(k, -_LN2_HIGH, x))
    p = fma(F32(1 / 5040), r, F32(1 / 720))
    p = fma(p, r, F32(1 / 120))
    p = fma(p, r, F32(1 / 24))
    p = fma(p, r, F32(1 / 6))
    p = fma(p, r, F32(1 / 2))
    p = fma(p, r, _ONE)
    p = fma(p, r, _ONE)
    scaled = p * bits_float(int32((n + I32(127)) << I32(23)))
    return select(x > _EXP_LIMIT, F32(np.inf), scaled)


# ------------------------------------------------------------------------------------ the families


def folded(x):
    """The word, or in the upper half its complement: how near it is to its end."""
    return int32(x) ^ (int32(x) >> I32(31))


def tail(x):
    """The word's nearer tail ``t = min(u, 1 - u)`` and whether the word lies in the upper half."""
    t = fma(float32(folded(x)), F32(2.0**-32), F32(2.0**-33))
    return t, int32(x) < I32(0)


def exponential(x):
    """``E = -log(u)``, in [1.16e-10, 22.87]; relative error below 4e-7 for every word."""
    t, upper = tail(x)
    one_minus_t = _ONE - t
    return -log1m(select(upper, one_minus_t, t), select(upper, t, one_minus_t))


# |z| / x as a ratio A(x) / B(x) over x = -log(2 t) on [0, 22.2]; relative error 1e-7. All
# coefficients are positive: no cancellation, and no square root, the slow instruction here.
_NORMAL_A0 = F32(1.2533140182495117)
_NORMAL_A1 = F32(2.181500196456909)
_NORMAL_A2 = F32(1.0268837213516235)
_NORMAL_A3 = F32(0.13986900448799133)
_NORMAL_A4 = F32(0.004418878350406885)
_NORMAL_A5 = F32(1.4176664990372956e-05)
_NORMAL_B1 = F32(2.240576982498169)
_NORMAL_B2 = F32(1.511268138885498)
_NORMAL_B3 = F32(0.3409857153892517)
_NORMAL_B4 = F32(0.02210899069905281)
_NORMAL_B5 = F32(0.0002656603173818439)


def normal(x):
    """The normal quantile: one rational function of ``-log(2 t)`` for the centre and both tails.

    In the lower half it has the sign of ``log(2 t)``; in the upper the word's first bit flips that.
    """
    log_2t = log(fma(float32(folded(x)), F32(2.0**-31), F32(2.0**-32)))
    y = -log_2t
    a = fma(_NORMAL_A5, y, _NORMAL_A4)
    b = fma(_NORMAL_B5, y, _NORMAL_B4)
    a = fma(a, y, _NORMAL_A3)
    b = fma(b, y, _NORMAL_B3)
    a = fma(a, y, _NORMAL_A2)
    b = fma(b, y, _NORMAL_B2)
    a = fma(a, y, _NORMAL_A1)
    b = fma(b, y, _NORMAL_B1)
    a = fma(a, y, _NORMAL_A0)
    b = fma(b, y, _ONE)
    lower = log_2t * a / b
    return bits_float(int32(float_bits(lower) ^ (int32(x) & _FIRST_BIT)))


def gumbel(x):
    """The Gumbel quantile, ``-log(E)``."""
    return -log(exponential(x))


def gumbel_score(x):
    """``1 - exp(-z) = 1 - E``: the second logarithm of the quantile is not needed."""
    return _ONE - exponential(x)


def logistic(x):
    """The logistic quantile, ``log(u / (1 - u))``."""
    t, upper = tail(x)
    z = log((_ONE - t) / t)
    return select(upper, z, -z)


def logistic_score(x):
    """``tanh(z / 2) = 2 u - 1``: no logarithm at all."""
    t, upper = tail(x)
    s = fma(-_TWO, t, _ONE)
    return select(upper, s, -s)
