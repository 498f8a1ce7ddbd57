"""float64 pieces of the noise laws: the exponential of either sign, and Mills' ratio.

As ``tails32.py``, to float64's rounding.
"""

from __future__ import annotations

import numpy as np

from ..bits import bits_float, float64, fma, int64, select
from .tails32 import polynomial

F64, I64 = np.float64, np.int64

_LOG2E = F64(1.4426950408889634)
_LN2_HIGH = F64(0.6931471803691238)  # 33 bits, so n * high is exact
_LN2_LOW = F64(1.9082149292705877e-10)
_ONE = F64(1.0)
_LIMIT = F64(700.0)

_EXP = tuple(map(F64, (
    1 / 6227020800, 1 / 479001600, 1 / 39916800, 1 / 3628800, 1 / 362880, 1 / 40320, 1 / 5040,
    1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0,
)))  # fmt: skip
_MILLS_P = tuple(map(F64, (
    1.3936394871259049439e-6, 0.000037436771052912171822, 0.00049246373044194398212,
    0.0041036657030653750894, 0.023690805988855890188, 0.097925505391455010742,
    0.28984126543335753037, 0.59476478579650708671, 0.77537465438985674361, 0.49999999999999997547,
)))  # fmt: skip
_MILLS_R = tuple(map(F64, (
    0.0, 3.4933361430813942913e-6, 0.000093840068830151608368, 0.0012379168472850211816,
    0.010380204539210232928, 0.060611481384792120802, 0.25556151369436273802,
    0.78347467810506339008, 1.7166788751588503959, 2.5634682751119532737, 2.3486338695825690541,
    1.0,
)))  # fmt: skip


def exp(x):
    """``exp(x)`` for ``|x| <= 700``, and the value at the nearer end beyond: 1e-304, 1e304."""
    x = select(x > _LIMIT, _LIMIT, x)
    x = select(x < -_LIMIT, -_LIMIT, x)
    n = int64(fma(x, _LOG2E, F64(1024.5))) - I64(1024)  # to nearest: positive before truncation
    k = float64(n)
    r = fma(k, -_LN2_LOW, fma(k, -_LN2_HIGH, x))
    return polynomial(_EXP, r) * bits_float((n + I64(1023)) << I64(52))


def mills(a):
    """Numerator and denominator of ``(1 - Phi(a)) exp(a^2 / 2)`` for a in [0, 40].

    Relative error 6e-17 before rounding. All coefficients are positive: nothing cancels.
    """
    return polynomial(_MILLS_P, a), polynomial(_MILLS_R, a)
