"""The noise families: from one uniform word to everything the estimators need of a noise value.

For a family with CDF ``G``, density ``mu = exp(-nu)`` and score ``s = nu'``:

    quantile    z = G^-1(u)           what a sample adds to a coordinate
    score       s(z)                  the weight of integration by parts, straight from the word
    race        E = -log(u)           Gumbel only: argmax theta + eps G = argmin E exp(-theta / eps)

A word ``x`` in ``0 .. 2^32 - 1`` stands for the level ``u = (x + 1/2) 2^-32``:

* never 0, never 1, symmetric: the word ``~x`` is the level ``1 - u`` (antithetic draws);
* both tails keep full relative precision, since the formulas start from the *nearer* tail
  ``t = min(u, 1 - u)`` in [2^-33, 1/2]; normal noise reaches +-6.34, Gumbel noise -3.13 .. 22.87;
* monotone in the word up to the last bits of the result (see ``tests/test_noise.py``).

float64 noise appends a second word below the first: the same seed gives the same noise in both
precisions, up to float32's resolution; ``t`` is then in [2^-65, 1/2].

The formulas are in ``noise32.py`` and ``noise64.py``. They use only the primitives of ``bits.py``
in one fixed order, so NumPy, Numba and CUDA return the same bits. They are the definition for NumPy
*and*, registered by ``kernels/cpu/_jit.py``, what Numba compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri

NORMAL, GUMBEL, LOGISTIC, TABULATED = range(4)
"""Family codes, as the kernels take them; of the last, tables come along (``noise_table.py``)."""


@dataclass(frozen=True)
class Family:
    """A noise family as functions of ``z`` in float64: what validation and exact methods use."""

    name: str
    code: int
    cdf: Callable
    survival: Callable
    upper_quantile: Callable
    """The inverse of ``survival``."""
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
        survival=lambda z: ndtr(-z),
        upper_quantile=lambda p: -ndtri(p),
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
        survival=lambda z: -np.expm1(-np.exp(-z)),
        upper_quantile=lambda p: -np.log(-np.log1p(-p)),
        log_density=lambda z: -z - np.exp(-z),
        score=lambda z: -np.expm1(-z),
        score_derivative=lambda z: np.exp(-z),
        mean=float(np.euler_gamma),
        fisher_information=1.0,
    ),
    Family(
        name="logistic",
        code=LOGISTIC,
        cdf=expit,
        survival=lambda z: expit(-z),
        upper_quantile=lambda p: -logit(p),
        log_density=_logistic_log_density,
        score=lambda z: np.tanh(0.5 * z),
        score_derivative=lambda z: 0.5 * (1 - np.tanh(0.5 * z) ** 2),
        mean=0.0,
        fisher_information=1 / 3,
    ),
)
"""Indexed by family code."""


def law_of(family):
    """What is known of a family by its code; one that is a table knows it itself."""
    return FAMILIES[family] if isinstance(family, int) else family
