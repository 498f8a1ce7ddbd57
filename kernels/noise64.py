"""The noise formulas in float64: as ``noise32.py``, from the words ``high`` and ``low``."""

from __future__ import annotations

import numpy as np

from .bits import bits_float, float64, float_bits, fma, int64, select, sqrt, uint64

F64, I64 = np.float64, np.int64

_LN2 = F64(0.6931471805599453)
_ONE, _TWO = F64(1.0), F64(2.0)
_MAGIC = I64(0x3FE6A09E667F3BCD)  # bits of sqrt(1/2)


def log1p_core(f):
    """log(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1]: 2 artanh(f / (2 + f)), ten terms."""
    s = f / (f + _TWO)
    r = s * s
    p = fma(F64(2 / 21), r, F64(2 / 19))
    p = fma(p, r, F64(2 / 17))
    p = fma(p, r, F64(2 / 15))
    p = fma(p, r, F64(2 / 13))
    p = fma(p, r, F64(2 / 11))
    p = fma(p, r, F64(2 / 9))
    p = fma(p, r, F64(2 / 7))
    p = fma(p, r, F64(2 / 5))
    p = fma(p, r, F64(2 / 3))
    return fma(p, r * s, s + s)


def log1m(x, one_minus_x):
    """log of ``x`` in (0, 1], given ``1 - x`` to full relative precision (it rules near 1)."""
    i = float_bits(x) - _MAGIC
    e = i >> I64(52)
    m = bits_float(float_bits(x) - (e << I64(52)))
    f = select(e == I64(0), -one_minus_x, m - _ONE)
    return fma(float64(e), _LN2, log1p_core(f))


def log(x):
    """log of a positive, normal float64; relative error below 6e-16."""
    i = float_bits(x) - _MAGIC
    e = i >> I64(52)
    m = bits_float(float_bits(x) - (e << I64(52)))
    return fma(float64(e), _LN2, log1p_core(m - _ONE))


_LOG2E = F64(1.4426950408889634)
_LN2_HIGH = F64(0.6931471803691238)  # 33 bits, so n * high is exact
_LN2_LOW = F64(1.9082149292705877e-10)
_EXP_LIMIT = F64(700.0)


def exp(x):
    """exp(x) for x >= 0; +inf above 700 (the weights of the exponential race need no more)."""
    x = select(x > _EXP_LIMIT, _EXP_LIMIT + _ONE, x)
    n = int64(x * _LOG2E + F64(0.5))
    k = float64(n)
    r = fma(k, -_LN2_LOW, fma(k, -_LN2_HIGH, x))
    p = fma(F64(1 / 6227020800), r, F64(1 / 479001600))
    p = fma(p, r, F64(1 / 39916800))
    p = fma(p, r, F64(1 / 3628800))
    p = fma(p, r, F64(1 / 362880))
    p = fma(p, r, F64(1 / 40320))
    p = fma(p, r, F64(1 / 5040))
    p = fma(p, r, F64(1 / 720))
    p = fma(p, r, F64(1 / 120))
    p = fma(p, r, F64(1 / 24))
    p = fma(p, r, F64(1 / 6))
    p = fma(p, r, F64(1 / 2))
    p = fma(p, r, _ONE)
    p = fma(p, r, _ONE)
    scaled = p * bits_float((n + I64(1023)) << I64(52))
    return select(x > _EXP_LIMIT, F64(np.inf), scaled)


# ------------------------------------------------------------------------------------ the families


def tail(high, low):
    """As ``noise32.tail``, from the 64-bit word ``high 2^32 + low``; ``t`` is in [2^-65, 1/2]."""
    word = int64((uint64(high) << np.uint64(32)) | uint64(low))
    side = word >> I64(63)
    t = fma(float64(word ^ side), F64(2.0**-64), F64(2.0**-65))
    return t, side < I64(0)


def exponential(high, low):
    """``E = -log(u)``, in [2.7e-20, 45.06]."""
    t, upper = tail(high, low)
    one_minus_t = _ONE - t
    return -log1m(select(upper, one_minus_t, t), select(upper, t, one_minus_t))


# Wichura's PPND16 (Algorithm AS 241, Applied Statistics 37, 1988), lowest power first: rational
# functions of 0.180625 - q^2 for |q| <= 0.425, then of r = sqrt(-log t) below and above 5.
_CENTRE_A = tuple(map(F64, (
    3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
    1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
    3.3430575583588128105e4, 2.5090809287301226727e3,
)))  # fmt: skip
_CENTRE_B = tuple(map(F64, (
    1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
    2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4,
    5.2264952788528545610e3,
)))  # fmt: skip
_TAIL_A = tuple(map(F64, (
    1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
    3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
    2.27238449892691845833e-2, 7.74545014278341407640e-4,
)))  # fmt: skip
_TAIL_B = tuple(map(F64, (
    1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
    1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
    1.05075007164441684324e-9,
)))  # fmt: skip
_FAR_A = tuple(map(F64, (
    6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0,
    2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
    2.71155556874348757815e-5, 2.01033439929228813265e-7,
)))  # fmt: skip
_FAR_B = tuple(map(F64, (
    1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
    7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7,
    2.04426310338993978564e-15,
)))  # fmt: skip


def degree7(c, x):
    """``c0 + c1 x + ... + c7 x^7``."""
    p = fma(c[7], x, c[6])
    p = fma(p, x, c[5])
    p = fma(p, x, c[4])
    p = fma(p, x, c[3])
    p = fma(p, x, c[2])
    p = fma(p, x, c[1])
    return fma(p, x, c[0])


def normal(high, low):
    """The normal quantile, by Wichura's algorithm AS 241; relative error about 1e-15."""
    t, upper = tail(high, low)
    q = F64(0.5) - t
    s = fma(-q, q, F64(0.180625))
    centre = q * degree7(_CENTRE_A, s) / degree7(_CENTRE_B, s)
    r = sqrt(-log(t))
    near = r - F64(1.6)
    near_tail = degree7(_TAIL_A, near) / degree7(_TAIL_B, near)
    deep = r - F64(5.0)
    far_tail = degree7(_FAR_A, deep) / degree7(_FAR_B, deep)
    z = select(q <= F64(0.425), centre, select(r <= F64(5.0), near_tail, far_tail))
    return select(upper, z, -z)


def gumbel(high, low):
    """The Gumbel quantile, ``-log(E)``."""
    return -log(exponential(high, low))


def gumbel_score(high, low):
    """``1 - E``."""
    return _ONE - exponential(high, low)


def logistic(high, low):
    """The logistic quantile, ``log(u / (1 - u))``."""
    t, upper = tail(high, low)
    z = log((_ONE - t) / t)
    return select(upper, z, -z)


def logistic_score(high, low):
    """``tanh(z / 2) = 2 u - 1``."""
    t, upper = tail(high, low)
    s = fma(-_TWO, t, _ONE)
    return select(upper, s, -s)
