"""float32 pieces of the noise laws: exponential of either sign, logarithm, Mills' ratio.

Polynomials are fits of this project, by reweighted least squares in 60 digits; see ``bits.py`` for
the operations. ``tails64.py`` is the same in float64.
"""

from __future__ import annotations

import numpy as np

from ..bits import bits_float, float32, float_bits, fma, int32, select
from ..noise32 import LOG1P

F32, I32 = np.float32, np.int32

_LOG2E = F32(1.4426950408889634)
_LN2 = F32(0.6931471805599453)
_LN2_HIGH = F32(0.693359375)  # 9 bits, so n * high is exact
_LN2_LOW = F32(-2.12194440054690583e-4)
_MAGIC = I32(0x3F3504F3)  # bits of sqrt(1/2): where the significand's range is cut
_ONE = F32(1.0)
_LIMIT = F32(87.0)

_EXP = tuple(map(F32, (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0)))
_LOG = (F32(0.0), *LOG1P[::-1])
_MILLS_P = tuple(map(F32, (
    0.0, 0.0041535859457861630, 0.040884446505765760, 0.18397975824717041, 0.43929862866297809,
    0.50000000299960184,
)))  # fmt: skip
_MILLS_R = tuple(map(F32, (
    0.010411384350411505, 0.10248822323031518, 0.47143628128652581, 1.2055938549669190,
    1.6764822493305778, 1.0,
)))  # fmt: skip


def polynomial(coefficients, x):
    """The polynomial with an even number of coefficients, the highest power first.

    Two at a time: a chain of dependent operations half as long as Horner's, whose latency is what
    lanes would wait for.
    """
    square = x * x
    p = fma(coefficients[0], x, coefficients[1])
    for i in range(2, len(coefficients), 2):
        p = fma(p, square, fma(coefficients[i], x, coefficients[i + 1]))
    return p


def exp(x):
    """``exp(x)`` for ``|x| <= 87``, and the value at the nearer end beyond: 1.6e-38, 6.1e37."""
    x = select(x > _LIMIT, _LIMIT, x)
    x = select(x < -_LIMIT, -_LIMIT, x)
    n = int32(fma(x, _LOG2E, F32(128.5))) - I32(128)  # to nearest: truncation of positive numbers
    k = float32(n)
    r = fma(k, -_LN2_LOW, fma(k, -_LN2_HIGH, x))
    return polynomial(_EXP, r) * bits_float(int32((n + I32(127)) << I32(23)))


def log1m(x, one_minus_x):
    """``log x`` of x > 0, given ``1 - x`` to full relative precision (it rules near 1)."""
    i = float_bits(x) - _MAGIC
    e = i >> I32(23)
    m = bits_float(int32(float_bits(x) - (e << I32(23))))
    f = select(e == I32(0), -one_minus_x, m - _ONE)
    return fma(float32(e), _LN2, fma(polynomial(_LOG, f), f * f, f))


def mills(a):
    """Numerator and denominator of ``(1 - Phi(a)) exp(a^2 / 2)`` for a in [0, 20].

    Relative error 7e-9 before rounding. All coefficients are positive: nothing cancels.
    """
    return polynomial(_MILLS_P, a), polynomial(_MILLS_R, a)
