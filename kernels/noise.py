"""The noise families: one uniform word to one noise value, and everything the estimators need of it.

For a family with CDF ``G``, density ``mu = exp(-nu)`` and score ``s = nu'`` (MATH: table of section 1):

    quantile    z = G^-1(u)           what a sample adds to a coordinate
    score       s(z)                  the weight of integration by parts, straight from the word
    race        E = -log(u)           Gumbel only: argmax(theta + eps G) = argmin(E exp(-theta / eps))

A word ``x`` in ``0 .. 2^32 - 1`` stands for the level ``u = (x + 1/2) 2^-32``:

* never 0, never 1, symmetric: the word ``~x`` is the level ``1 - u`` (antithetic draws);
* both tails keep full relative precision, since the formulas start from the *nearer* tail
  ``t = min(u, 1 - u)`` in [2^-33, 1/2]; normal noise reaches +-6.34, Gumbel noise -3.13 .. 22.87;
* monotone in the word up to the last bits of the result (see ``tests/test_noise.py``).

float64 noise appends a second word below the first: the same seed gives the same noise in both
precisions, up to float32's resolution; ``t`` is then in [2^-65, 1/2].

Every function below uses only the primitives of ``bits.py`` in one fixed order, so NumPy, Numba
and CUDA return the same bits. They are the definition for NumPy *and*, registered by
``kernels/cpu/_jit.py``, what Numba compiles; suffixes 32 and 64 name the precision. Polynomial
coefficients are near-minimax fits of this project, made by iteratively reweighted least squares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scipy.special import ndtr

from .bits import bits_float, float32, float64, float_bits, fma, int32, int64, select, sqrt, uint64

F32, F64, I32, I64 = np.float32, np.float64, np.int32, np.int64

NORMAL, GUMBEL, LOGISTIC = 0, 1, 2
"""Family codes, as the kernels take them."""

# ------------------------------------------------------------------------------ float32: log, exp

_LN2_32 = F32(0.6931471805599453)
_ONE_32, _TWO_32, _FOUR_32 = F32(1.0), F32(2.0), F32(4.0)
_MAGIC_32 = I32(0x3F3504F3)  # bits of sqrt(1/2): where the significand's range is cut

# log(1 + f) / f - 1 over f on [sqrt(1/2) - 1, sqrt(2) - 1]; relative error of the log 1.8e-7.
_LOG_0 = F32(-0.5000032186508179)
_LOG_1 = F32(0.3333471417427063)
_LOG_2 = F32(-0.2497122883796692)
_LOG_3 = F32(0.1990688294172287)
_LOG_4 = F32(-0.17243224382400513)
_LOG_5 = F32(0.16180501878261566)
_LOG_6 = F32(-0.10082381218671799)


def log1p_core32(f):
    """log(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1], with full relative precision at 0."""
    p = fma(_LOG_6, f, _LOG_5)
    p = fma(p, f, _LOG_4)
    p = fma(p, f, _LOG_3)
    p = fma(p, f, _LOG_2)
    p = fma(p, f, _LOG_1)
    p = fma(p, f, _LOG_0)
    return fma(p, f, _ONE_32) * f


def log1m32(x, one_minus_x):
    """log of ``x`` in (0, 1], given ``one_minus_x`` to full relative precision (it rules near 1)."""
    i = float_bits(x) - _MAGIC_32
    e = i >> I32(23)
    m = bits_float(int32(float_bits(x) - (e << I32(23))))
    f = select(e == I32(0), -one_minus_x, m - _ONE_32)
    return fma(float32(e), _LN2_32, log1p_core32(f))


def log32(x):
    """log of a positive, normal float32; relative error below 3e-7, exact sign at 1."""
    i = float_bits(x) - _MAGIC_32
    e = i >> I32(23)
    m = bits_float(int32(float_bits(x) - (e << I32(23))))
    return fma(float32(e), _LN2_32, log1p_core32(m - _ONE_32))


_LOG2E_32 = F32(1.4426950408889634)
_LN2_HIGH_32 = F32(0.693359375)  # 9 bits, so n * high is exact
_LN2_LOW_32 = F32(-2.12194440054690583e-4)
_EXP_LIMIT_32 = F32(88.0)


def exp32(x):
    """exp(x) for x >= 0; +inf above 88 (the weights of the exponential race need no more)."""
    x = select(x > _EXP_LIMIT_32, _EXP_LIMIT_32 + _ONE_32, x)
    n = int32(x * _LOG2E_32 + F32(0.5))
    k = float32(n)
    r = fma(k, -_LN2_LOW_32, fma(k, -_LN2_HIGH_32, x))
    p = fma(F32(1 / 5040), r, F32(1 / 720))
    p = fma(p, r, F32(1 / 120))
    p = fma(p, r, F32(1 / 24))
    p = fma(p, r, F32(1 / 6))
    p = fma(p, r, F32(1 / 2))
    p = fma(p, r, _ONE_32)
    p = fma(p, r, _ONE_32)
    scaled = p * bits_float(int32((n + I32(127)) << I32(23)))
    return select(x > _EXP_LIMIT_32, F32(np.inf), scaled)


# ---------------------------------------------------------------------------- float32: the families


def tail32(x):
    """The word's nearer tail ``t = min(u, 1 - u)`` and whether the word lies in the upper half."""
    side = int32(x) >> I32(31)
    near = int32(x) ^ side
    t = fma(float32(near), F32(2.0**-32), F32(2.0**-33))
    return t, side < I32(0)


def exponential32(x):
    """``E = -log(u)``, in [1.16e-10, 22.87]; relative error below 4e-7 for every word."""
    t, upper = tail32(x)
    one_minus_t = _ONE_32 - t
    return -log1m32(select(upper, one_minus_t, t), select(upper, t, one_minus_t))


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


def normal32(x):
    """The normal quantile: one rational function of ``-log(2 t)`` for the centre and both tails."""
    t, upper = tail32(x)
    y = -log32(t + t)
    a = fma(_NORMAL_A5, y, _NORMAL_A4)
    b = fma(_NORMAL_B5, y, _NORMAL_B4)
    a = fma(a, y, _NORMAL_A3)
    b = fma(b, y, _NORMAL_B3)
    a = fma(a, y, _NORMAL_A2)
    b = fma(b, y, _NORMAL_B2)
    a = fma(a, y, _NORMAL_A1)
    b = fma(b, y, _NORMAL_B1)
    a = fma(a, y, _NORMAL_A0)
    b = fma(b, y, _ONE_32)
    z = y * a / b
    return select(upper, z, -z)


def gumbel32(x):
    """The Gumbel quantile, ``-log(E)``."""
    return -log32(exponential32(x))


def gumbel_score32(x):
    """``1 - exp(-z) = 1 - E``: the second logarithm of the quantile is not needed."""
    return _ONE_32 - exponential32(x)


def logistic32(x):
    """The logistic quantile, ``log(u / (1 - u))``."""
    t, upper = tail32(x)
    z = log32((_ONE_32 - t) / t)
    return select(upper, z, -z)


def logistic_score32(x):
    """``tanh(z / 2) = 2 u - 1``: no logarithm at all."""
    t, upper = tail32(x)
    s = fma(-_TWO_32, t, _ONE_32)
    return select(upper, s, -s)


# ------------------------------------------------------------------------------ float64: log, exp

_LN2_64 = F64(0.6931471805599453)
_ONE_64, _TWO_64 = F64(1.0), F64(2.0)
_MAGIC_64 = I64(0x3FE6A09E667F3BCD)  # bits of sqrt(1/2)


def log1p_core64(f):
    """log(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1]: 2 artanh(f / (2 + f)), ten terms."""
    s = f / (f + _TWO_64)
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


def log1m64(x, one_minus_x):
    """log of ``x`` in (0, 1], given ``one_minus_x`` to full relative precision (it rules near 1)."""
    i = float_bits(x) - _MAGIC_64
    e = i >> I64(52)
    m = bits_float(float_bits(x) - (e << I64(52)))
    f = select(e == I64(0), -one_minus_x, m - _ONE_64)
    return fma(float64(e), _LN2_64, log1p_core64(f))


def log64(x):
    """log of a positive, normal float64; relative error below 6e-16."""
    i = float_bits(x) - _MAGIC_64
    e = i >> I64(52)
    m = bits_float(float_bits(x) - (e << I64(52)))
    return fma(float64(e), _LN2_64, log1p_core64(m - _ONE_64))


_LOG2E_64 = F64(1.4426950408889634)
_LN2_HIGH_64 = F64(0.6931471803691238)  # 33 bits, so n * high is exact
_LN2_LOW_64 = F64(1.9082149292705877e-10)
_EXP_LIMIT_64 = F64(700.0)


def exp64(x):
    """exp(x) for x >= 0; +inf above 700 (the weights of the exponential race need no more)."""
    x = select(x > _EXP_LIMIT_64, _EXP_LIMIT_64 + _ONE_64, x)
    n = int64(x * _LOG2E_64 + F64(0.5))
    k = float64(n)
    r = fma(k, -_LN2_LOW_64, fma(k, -_LN2_HIGH_64, x))
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
    p = fma(p, r, _ONE_64)
    p = fma(p, r, _ONE_64)
    scaled = p * bits_float((n + I64(1023)) << I64(52))
    return select(x > _EXP_LIMIT_64, F64(np.inf), scaled)


# ---------------------------------------------------------------------------- float64: the families


def tail64(high, low):
    """As ``tail32``, from the 64-bit word ``high 2^32 + low``; ``t`` is in [2^-65, 1/2]."""
    word = int64((uint64(high) << np.uint64(32)) | uint64(low))
    side = word >> I64(63)
    t = fma(float64(word ^ side), F64(2.0**-64), F64(2.0**-65))
    return t, side < I64(0)


def exponential64(high, low):
    """``E = -log(u)``, in [2.7e-20, 45.06]."""
    t, upper = tail64(high, low)
    one_minus_t = _ONE_64 - t
    return -log1m64(select(upper, one_minus_t, t), select(upper, t, one_minus_t))


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


def _degree7(c, x):
    p = fma(c[7], x, c[6])
    p = fma(p, x, c[5])
    p = fma(p, x, c[4])
    p = fma(p, x, c[3])
    p = fma(p, x, c[2])
    p = fma(p, x, c[1])
    return fma(p, x, c[0])


def normal64(high, low):
    """The normal quantile, by Wichura's algorithm AS 241; relative error about 1e-15."""
    t, upper = tail64(high, low)
    q = F64(0.5) - t
    s = fma(-q, q, F64(0.180625))
    centre = q * _degree7(_CENTRE_A, s) / _degree7(_CENTRE_B, s)
    r = sqrt(-log64(t))
    near = r - F64(1.6)
    tail = _degree7(_TAIL_A, near) / _degree7(_TAIL_B, near)
    deep = r - F64(5.0)
    far = _degree7(_FAR_A, deep) / _degree7(_FAR_B, deep)
    z = select(q <= F64(0.425), centre, select(r <= F64(5.0), tail, far))
    return select(upper, z, -z)


def gumbel64(high, low):
    """The Gumbel quantile, ``-log(E)``."""
    return -log64(exponential64(high, low))


def gumbel_score64(high, low):
    """``1 - E``."""
    return _ONE_64 - exponential64(high, low)


def logistic64(high, low):
    """The logistic quantile, ``log(u / (1 - u))``."""
    t, upper = tail64(high, low)
    z = log64((_ONE_64 - t) / t)
    return select(upper, z, -z)


def logistic_score64(high, low):
    """``tanh(z / 2) = 2 u - 1``."""
    t, upper = tail64(high, low)
    s = fma(-_TWO_64, t, _ONE_64)
    return select(upper, s, -s)


# --------------------------------------------------------------------- the families as mathematics


@dataclass(frozen=True)
class Family:
    """A noise family as functions of ``z`` in float64: what validation and exact methods use."""

    name: str
    code: int
    cdf: Callable
    log_density: Callable
    score: Callable
    score_derivative: Callable
    mean: float
    fisher_information: float
    """``E[s(Z)^2]`` of one coordinate."""


def _logistic_log_density(z):
    return -np.abs(z) - 2 * np.log1p(np.exp(-np.abs(z)))


FAMILIES = (
    Family(
        name="normal",
        code=NORMAL,
        cdf=ndtr,
        log_density=lambda z: -0.5 * z * z - 0.5 * np.log(2 * np.pi),
        score=lambda z: z,
        score_derivative=np.ones_like,
        mean=0.0,
        fisher_information=1.0,
    ),
    Family(
        name="gumbel",
        code=GUMBEL,
        cdf=lambda z: np.exp(-np.exp(-z)),
        log_density=lambda z: -z - np.exp(-z),
        score=lambda z: -np.expm1(-z),
        score_derivative=lambda z: np.exp(-z),
        mean=float(np.euler_gamma),
        fisher_information=1.0,
    ),
    Family(
        name="logistic",
        code=LOGISTIC,
        cdf=lambda z: 0.5 * (1 + np.tanh(0.5 * z)),
        log_density=_logistic_log_density,
        score=lambda z: np.tanh(0.5 * z),
        score_derivative=lambda z: 0.5 * (1 - np.tanh(0.5 * z) ** 2),
        mean=0.0,
        fisher_information=1 / 3,
    ),
)
"""Indexed by family code."""
